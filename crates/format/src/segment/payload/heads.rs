//! Rows without their metadata, kept for every row of a segment: what a search answers with when it is asked for no
//! metadata.

use std::ops::Range;

use super::read::{decompress, skip_values};
use super::{Head, head, row_count};
use crate::error::Result;
use crate::segment::wire::Take;

/// The heads of the rows of consecutive blocks, from the first: the bytes that blocks have of them.
#[derive(Debug, Clone, Default)]
pub struct RowHeads {
    bytes: Vec<u8>,
    /// Where each begins, less than 4 GiB.
    starts: Vec<u32>,
}

/// A row without its metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowHead<'a> {
    /// The id.
    pub id: &'a str,
    /// Event time, creation and last write, in milliseconds.
    pub times: [i64; 3],
    /// After this instant the row is invisible.
    pub expires_at: Option<i64>,
    /// The client's own version.
    pub version: i64,
}

impl RowHeads {
    /// Adds the rows of block number `block` of `object`, the one after those that were added. Nothing is added, and the
    /// answer is false, if the heads would take more than `most` bytes.
    ///
    /// # Errors
    /// `Corrupt`, naming the object.
    pub fn push_block(&mut self, object: &str, block: u32, bytes: &[u8], most: u64) -> Result<bool> {
        let raw = decompress(object, block, bytes)?;
        let mut t = Take::new(object, "payload block", &raw);
        let rows = row_count(&mut t, block)?;
        let mut found: Vec<Range<usize>> = Vec::with_capacity(rows as usize);
        for _ in 0..rows {
            let start = t.at();
            head(&mut t)?;
            found.push(start..t.at());
            skip_values(&mut t)?;
        }
        t.end()?;
        let more: usize = found.iter().map(|r| r.len() + size_of::<u32>()).sum();
        if self.bytes() + more as u64 > most.min(u64::from(u32::MAX)) {
            return Ok(false);
        }
        for range in found {
            self.starts.push(self.bytes.len() as u32);
            self.bytes.extend_from_slice(&raw[range]);
        }
        Ok(true)
    }

    /// Lets go of room for rows that did not come.
    pub fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
        self.starts.shrink_to_fit();
    }

    /// A row by its ordinal, if it was added.
    pub fn get(&self, ordinal: u32) -> Option<RowHead<'_>> {
        let start = *self.starts.get(ordinal as usize)? as usize;
        let rest = self.bytes.get(start..)?;
        // Read before, when it was added.
        let Head { id, times, expires_at, version } = head(&mut Take::new("", "row", rest)).ok()?;
        Some(RowHead { id: std::str::from_utf8(rest.get(id)?).ok()?, times, expires_at, version })
    }

    /// Bytes that it takes in memory.
    pub fn bytes(&self) -> u64 {
        (self.bytes.len() + size_of_val(self.starts.as_slice())) as u64
    }
}
