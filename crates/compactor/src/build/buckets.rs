//! Rows parted by neighbourhood, each part small enough to be put in order in memory.

use arrow::array::RecordBatch;
use esker_format::Result;
use esker_index::leaf_target;

use super::large::{BUCKET_SHARE, Large};
use super::order::floats;
use super::spill::{Blocks, Parts};
use crate::parallel;

/// Which rows go together: buckets of neighbouring leaves.
struct Buckets {
    /// Most rows of a bucket …
    capacity: usize,
    /// … and the bytes that it is full with.
    most_bytes: u64,
    /// Bucket that takes the next row of each leaf.
    of_leaf: Vec<u32>,
    /// First leaf of each bucket.
    first_leaf: Vec<u32>,
    /// Number of rows of each.
    rows: Vec<usize>,
    /// Bytes that these take.
    bytes: Vec<u64>,
}

impl Buckets {
    /// Buckets that are three quarters full if the leaves get the rows that they expect.
    fn new(leaves: usize, expected: &[u64], capacity: usize, most_bytes: u64) -> Self {
        let (mut of_leaf, mut first_leaf, mut room) = (Vec::with_capacity(leaves), Vec::new(), 0);
        for leaf in 0..leaves {
            let expected = expected.get(leaf).map_or(0, |rows| *rows as usize);
            if first_leaf.is_empty() || expected > room {
                first_leaf.push(leaf as u32);
                room = capacity - capacity / 4;
            }
            of_leaf.push(first_leaf.len() as u32 - 1);
            room = room.saturating_sub(expected);
        }
        let (rows, bytes) = (vec![0; first_leaf.len()], vec![0; first_leaf.len()]);
        Buckets { capacity, most_bytes, of_leaf, first_leaf, rows, bytes }
    }

    /// The bucket of the next row of a leaf. Behind a full bucket another is opened for its leaves.
    fn place(&mut self, leaf: u32) -> u32 {
        let full = self.of_leaf[leaf as usize];
        if self.rows[full as usize] == self.capacity || self.bytes[full as usize] >= self.most_bytes {
            let first = self.first_leaf[full as usize];
            let more = self.rows.len() as u32;
            self.first_leaf.push(first);
            self.rows.push(0);
            self.bytes.push(0);
            let same = self.of_leaf[first as usize..].iter_mut().take_while(|bucket| **bucket == full);
            same.for_each(|bucket| *bucket = more);
        }
        let bucket = self.of_leaf[leaf as usize];
        self.rows[bucket as usize] += 1;
        bucket
    }

    /// The buckets in the order of their leaves, which their rows are written in.
    fn in_order(&self) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.rows.len() as u32).collect();
        order.sort_by_key(|bucket| self.first_leaf[*bucket as usize]);
        order
    }

    /// Numbers of the rows of each bucket, ascending, given the bucket of each.
    fn inputs(&self, of_row: &[u32]) -> Vec<Vec<u32>> {
        let mut inputs: Vec<Vec<u32>> = self.rows.iter().map(|rows| Vec::with_capacity(*rows)).collect();
        for (row, bucket) in (0u32..).zip(of_row) {
            inputs[*bucket as usize].push(row);
        }
        inputs
    }
}

/// The rows of a bucket, not yet in order.
pub(super) struct Part {
    /// Their numbers, ascending.
    pub(super) inputs: Vec<u32>,
    /// The bucket's first leaf, and the leaves of the rows from it on.
    pub(super) first: u32,
    pub(super) leaves: Vec<u32>,
    pub(super) blocks: Blocks,
}

impl Large<'_> {
    /// Finds the leaf of every row and writes rows of neighbouring leaves beside each other, to `parts`. `size` is how many rows
    /// come, and the bytes of one; `leaves` is their number and how many rows each may expect.
    pub(super) fn part(
        &self,
        size: (u64, u64),
        batches: impl Iterator<Item = Result<RecordBatch>> + Send,
        mut parts: Parts,
        leaves: (usize, &[u64]),
        mut find: impl FnMut(&[f32]) -> Vec<u32> + Send,
    ) -> Result<Vec<Part>> {
        let (settings, (rows, row_bytes)) = (self.target.settings, size);
        let capacity = ((self.memory / BUCKET_SHARE / row_bytes) as usize).max(leaf_target(rows));
        // Rows are not all as large as they are on average, and large ones may be neighbours.
        let most_bytes = capacity as u64 * row_bytes;
        let mut buckets = Buckets::new(leaves.0, leaves.1, capacity, most_bytes);
        let (mut assignment, mut of_row) =
            (Vec::with_capacity(rows as usize), Vec::with_capacity(rows as usize));
        let batches = batches.map(|batch| {
            let batch = batch?;
            let found = find(&floats(&batch, settings)?);
            Ok((batch, found))
        });
        parallel::ahead(self.options.threads, batches, |(batch, found)| {
            let first = of_row.len();
            of_row.extend(found.iter().map(|leaf| buckets.place(*leaf)));
            assignment.extend(found);
            parts.push(&batch, &of_row[first..], |bucket, bytes| buckets.bytes[bucket] += bytes)
        })?;
        let mut inputs = buckets.inputs(&of_row);
        let mut blocks: Vec<Option<Blocks>> = parts.finish().into_iter().map(Some).collect();
        let in_order = buckets.in_order().into_iter().filter_map(|bucket| {
            let inputs = std::mem::take(&mut inputs[bucket as usize]);
            let first = buckets.first_leaf[bucket as usize];
            let leaves = inputs.iter().map(|input| assignment[*input as usize] - first).collect();
            let blocks = blocks.get_mut(bucket as usize)?.take()?;
            (!inputs.is_empty()).then_some(Part { inputs, first, leaves, blocks })
        });
        Ok(in_order.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_full_by_its_rows_or_by_what_they_take() {
        let mut buckets = Buckets::new(3, &[20, 20, 60], 80, 1000);
        assert_eq!(buckets.of_leaf, [0, 0, 1]);
        assert_eq!((buckets.place(0), buckets.place(1)), (0, 0));
        buckets.bytes[0] += 1000;
        // Another for the same leaves, before that of the next ones.
        assert_eq!((buckets.place(1), buckets.place(0), buckets.place(2)), (2, 2, 1));
        assert_eq!(buckets.in_order(), [0, 2, 1]);
        (1..80).for_each(|_| assert_eq!(buckets.place(2), 1));
        assert_eq!(buckets.place(2), 3);
    }
}
