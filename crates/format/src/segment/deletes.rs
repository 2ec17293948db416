//! The deletion bitmap of a segment: which of its rows no longer count.
//!
//! `[envelope][directory][slices …]`; the envelope covers the directory: `set bits u64 · slices u32`, then per slice
//! `first ordinal u32 · offset u64 · length u32 · crc32c u32`, offsets from the start of the object. A slice holds the
//! set bits from its first ordinal to the next slice's, as a Roaring bitmap in the portable format, and starts where
//! a leaf does, so that a query over a few leaves of a large segment can read a part.

use std::ops::Range;

use bytes::Bytes;
use roaring::RoaringBitmap;

use super::wire::{Put, Take, check, slice};
use crate::envelope::{self, Envelope, Kind};
use crate::error::{Error, Result};

/// A slice ends with the leaf that brings it to this many rows.
const SLICE_ROWS: u32 = 65_536;
/// Bytes of a slice in the directory.
const ENTRY: usize = 20;

/// The directory of a deletion bitmap object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deletes {
    object: String,
    count: u64,
    slices: Vec<Slice>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Slice {
    first: u32,
    range: Range<u64>,
    crc: u32,
}

/// The object for the set bits of `bitmap`. `leaf_starts` are the first ordinals of the segment's leaves, and its number
/// of rows at the end.
pub fn encode(bitmap: &RoaringBitmap, leaf_starts: &[u32]) -> Result<Bytes> {
    let rows = leaf_starts.last().copied().unwrap_or(0);
    if bitmap.max().is_some_and(|max| max >= rows) {
        return Err(Error::internal("a deletion bitmap marks a row that the segment does not have"));
    }
    let mut firsts = vec![0];
    for start in leaf_starts {
        if *start < rows && start - firsts[firsts.len() - 1] >= SLICE_ROWS {
            firsts.push(*start);
        }
    }
    let mut at = (envelope::LENGTH + 12 + firsts.len() * ENTRY) as u64;
    let (mut directory, mut body) = (Vec::new(), Vec::new());
    directory.put_u64(bitmap.len());
    directory.put_u32(firsts.len() as u32);
    for (i, first) in firsts.iter().enumerate() {
        let end = firsts.get(i + 1).copied().unwrap_or(rows);
        let mut bits: RoaringBitmap = bitmap.range(*first..end).collect();
        bits.optimize();
        let start = body.len();
        bits.serialize_into(&mut body)
            .map_err(|e| Error::internal("a bitmap cannot be written").with_source(e))?;
        let bytes = &body[start..];
        directory.put_u32(*first);
        directory.put_u64(at);
        directory.put_u32(bytes.len() as u32);
        directory.put_u32(crc32c::crc32c(bytes));
        at += bytes.len() as u64;
    }
    let mut out = envelope::seal(Kind::Deletes, 0, &directory);
    out.extend_from_slice(&body);
    Ok(out.into())
}

/// Every set bit of a whole object.
pub fn decode_all(object: &str, bytes: &Bytes) -> Result<RoaringBitmap> {
    let deletes = Deletes::parse(object, bytes)?;
    let mut out = RoaringBitmap::new();
    for i in 0..deletes.slices() {
        let Some(part) = slice(bytes, deletes.slice_range(i)) else {
            return Err(Error::corrupt(object, format!("it ends before slice {i} does")));
        };
        out |= deletes.decode_slice(i, part)?;
    }
    let end = deletes.slices.last().map_or(0, |s| s.range.end);
    if end != bytes.len() as u64 || out.len() != deletes.count {
        return Err(Error::corrupt(object, format!("it has {} set bits, not {}", out.len(), deletes.count)));
    }
    Ok(out)
}

impl Deletes {
    /// Reads the directory from the start of an object.
    pub fn parse(object: &str, bytes: &Bytes) -> Result<Deletes> {
        let envelope = Envelope::decode(object, bytes)?;
        if envelope.kind != Kind::Deletes {
            return Err(Error::corrupt(
                object,
                format!("it is a {:?}, not a deletion bitmap", envelope.kind),
            ));
        }
        let payload = envelope.payload(object, bytes)?;
        let mut t = Take::new(object, "directory", &payload);
        let (count, slices) = (t.u64()?, t.u32()? as usize);
        let mut at = (envelope::LENGTH + payload.len()) as u64;
        let slices = t.many(slices, ENTRY, |t| {
            let (first, start, length, crc) = (t.u32()?, t.u64()?, t.u32()?, t.u32()?);
            if start != at {
                return Err(t.corrupt("the slices do not follow each other"));
            }
            at += u64::from(length);
            Ok(Slice { first, range: start..at, crc })
        })?;
        t.end()?;
        if slices.first().is_none_or(|s| s.first != 0) || !slices.is_sorted_by(|a, b| a.first < b.first) {
            return Err(t.corrupt("the slices do not ascend from row 0"));
        }
        Ok(Deletes { object: object.to_owned(), count, slices })
    }

    /// Set bits of the whole object.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Number of slices.
    pub fn slices(&self) -> usize {
        self.slices.len()
    }

    /// The slice that has the bit of `ordinal`.
    pub fn slice_of(&self, ordinal: u32) -> usize {
        self.slices.partition_point(|s| s.first <= ordinal) - 1
    }

    /// Bytes of a slice; empty when there is no such slice.
    pub fn slice_range(&self, i: usize) -> Range<u64> {
        self.slices.get(i).map_or(0..0, |s| s.range.clone())
    }

    /// The set bits of a slice, as ordinals of the segment.
    pub fn decode_slice(&self, i: usize, bytes: &[u8]) -> Result<RoaringBitmap> {
        let Some(s) = self.slices.get(i) else {
            return Err(Error::internal(format!("{} has no slice {i}", self.object)));
        };
        check(&self.object, format_args!("slice {i}"), bytes, s.crc)?;
        let bits = RoaringBitmap::deserialize_from(bytes)
            .map_err(|e| Error::corrupt(&self.object, format!("slice {i} is no bitmap")).with_source(e))?;
        let end = self.slices.get(i + 1).map_or(u32::MAX, |n| n.first);
        if bits.min().is_some_and(|b| b < s.first) || bits.max().is_some_and(|b| b >= end) {
            return Err(Error::corrupt(&self.object, format!("slice {i} has bits of other rows")));
        }
        Ok(bits)
    }
}

#[cfg(test)]
mod tests;
