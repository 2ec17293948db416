//! `head`: an advisory copy of a committed manifest with what opens its segments, so that one GET starts a cold
//! query. Late or lost, it makes queries slower, never wrong.
//!
//! Envelope, then `u32` length of a JSON table, the table, and the pieces it points into.

use std::ops::Range;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::envelope;
use crate::error::{Error, Result};
use crate::keys::Made;
use crate::manifest::{Manifest, from_json, to_json};

/// Codes of a segment ride in `head` while all codes together are at most this many bytes.
pub const CODES_BYTES: u64 = 1 << 20;
/// Deletion bitmaps ride in `head` while one is at most this many bytes.
pub const DELETES_BYTES: u64 = 16 << 10;

/// A decoded head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The manifest it copies.
    pub manifest: Manifest,
    /// What opens each segment.
    pub parts: Vec<Part>,
}

/// What `head` carries of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Which segment.
    pub made: Made,
    /// The first `header_size` bytes of its index file.
    pub header: Bytes,
    /// Its codes section, when small.
    pub codes: Option<Bytes>,
    /// Its deletion bitmap object, when small.
    pub deletes: Option<Bytes>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    manifest: Manifest,
    parts: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    made: Made,
    header: Range<usize>,
    codes: Option<Range<usize>>,
    deletes: Option<Range<usize>>,
}

impl Head {
    /// The object's bytes.
    pub fn encode(&self) -> Result<Bytes> {
        let mut pieces = Vec::new();
        let mut put = |bytes: &Bytes| {
            let start = pieces.len();
            pieces.extend_from_slice(bytes);
            start..pieces.len()
        };
        let parts = self.parts.iter().map(|p| Entry {
            made: p.made,
            header: put(&p.header),
            codes: p.codes.as_ref().map(&mut put),
            deletes: p.deletes.as_ref().map(&mut put),
        });
        let parts = parts.collect();
        let table = to_json(&Table { manifest: self.manifest.clone(), parts })?;
        let mut payload = Vec::with_capacity(4 + table.len() + pieces.len());
        payload.extend_from_slice(&(table.len() as u32).to_le_bytes());
        payload.extend_from_slice(&table);
        payload.extend_from_slice(&pieces);
        Ok(envelope::seal(envelope::Kind::Head, 0, &payload).into())
    }

    /// Reads and checks what [`Head::encode`] wrote; pieces share the object's memory.
    pub fn decode(key: &str, bytes: &Bytes) -> Result<Head> {
        let payload = envelope::open(key, envelope::Kind::Head, bytes)?;
        let cut = |range: Range<usize>| {
            if range.start > range.end || range.end > payload.len() {
                return Err(Error::corrupt(key, "a piece lies outside the object"));
            }
            Ok(payload.slice(range))
        };
        let length = cut(0..4)?.iter().rev().fold(0usize, |a, b| a << 8 | usize::from(*b));
        let start = 4 + length;
        let table: Table = from_json(key, &cut(4..start)?)?;
        table.manifest.check(key)?;
        let piece = |r: Range<usize>| cut(r.start.saturating_add(start)..r.end.saturating_add(start));
        let parts = table.parts.into_iter().map(|e| {
            Ok(Part {
                made: e.made,
                header: piece(e.header)?,
                codes: e.codes.map(piece).transpose()?,
                deletes: e.deletes.map(piece).transpose()?,
            })
        });
        Ok(Head { parts: parts.collect::<Result<_>>()?, manifest: table.manifest })
    }
}

#[cfg(test)]
mod tests;
