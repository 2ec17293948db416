//! Ids, times and versions of all rows of a segment that is held, for answers without metadata.

use std::ops::Range;

use esker_format::Result;
use esker_format::segment::BLOCK_ROWS;
use esker_format::segment::payload::{RowHead, RowHeads};

use super::Segment;
use crate::ranges::Pieces;

/// Most bytes of a row's head, on average; segments with longer ids go without.
const HEAD_BYTES: u64 = 64;
/// Blocks that are decoded before others get a turn.
const TURN: usize = 128;

impl Segment {
    /// Most bytes that [`Segment::hold_heads`] keeps.
    pub fn most_head_bytes(&self) -> u64 {
        HEAD_BYTES * u64::from(self.row_count())
    }

    /// Decodes the heads of all rows from the index file, which is held.
    pub async fn hold_heads(&self) -> Result<()> {
        let Some(held) = self.index.held().filter(|_| self.heads.get().is_none()) else { return Ok(()) };
        let (most, mut heads) = (self.most_head_bytes(), RowHeads::default());
        for turn in self.all_blocks(held)?.chunks(TURN) {
            for (block, range) in turn {
                if !heads.push_block(self.index.key(), *block, &held.bytes(range)?, most)? {
                    return Ok(());
                }
            }
            tokio::task::yield_now().await;
        }
        heads.shrink();
        // Only the first are kept: they are the same.
        let _ = self.heads.set(heads);
        Ok(())
    }

    /// The head of a row, if heads are held.
    pub fn head(&self, ordinal: u32) -> Option<RowHead<'_>> {
        self.heads.get()?.get(ordinal)
    }

    /// Whether heads are held.
    pub fn has_heads(&self) -> bool {
        self.heads.get().is_some()
    }

    /// Bytes of the heads that are held.
    pub fn head_bytes(&self) -> u64 {
        self.heads.get().map_or(0, RowHeads::bytes)
    }

    /// Where all payload blocks lie, in order.
    fn all_blocks(&self, held: &Pieces) -> Result<Vec<(u32, Range<u64>)>> {
        let mut blocks: Vec<(u32, Range<u64>)> = Vec::new();
        for leaf in 0..self.header.leaf_count() {
            let sizes = held.bytes(&self.header.payload_sizes_range(leaf))?;
            let next = blocks.last().map_or(0, |(block, _)| block + 1);
            blocks.extend(self.header.leaf_payload_blocks(leaf, &sizes)?.into_iter().filter(|b| b.0 >= next));
        }
        match blocks.len() as u32 == self.row_count().div_ceil(BLOCK_ROWS) {
            true => Ok(blocks),
            false => Err(self.corrupt("payload blocks are missing")),
        }
    }
}
