//! The nearest rows of a tail: short ones measured row by row, long ones where their codes leave a chance.

use std::sync::Arc;

use esker_index::{Bound, TopK};
use roaring::RoaringBitmap;

use super::codes::{self, Batch, TailCodes};
use super::{Tail, TailRow};
use crate::search::{Asked, Place, TAIL};
use crate::segment::Segment;

/// Up to this many rows are measured without looking at codes, and shorter tails get none.
pub(crate) const EXACT_ROWS: u64 = 2_000;
/// Codes are due when this part of a chunk's rows have none, and made of so many at a time under many leaves.
const QUARTER: u32 = 4;
/// Standard errors of doubt about an estimate: more than the segments', whose limits were calibrated with theirs.
const SLACK: f32 = 2.2;

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Measured {
    pub rows: u64,
    pub codes: u64,
}

/// The place of a row of the tail.
pub(crate) fn place((entry, row): TailRow) -> Place {
    (TAIL, u64::from(entry) << 32 | u64::from(row))
}

/// The row of the tail at a place.
pub(crate) fn tail_row(place: u64) -> TailRow {
    ((place >> 32) as u32, place as u32)
}

impl Tail {
    /// Adds the nearest of the rows with the numbers `passing` to `best`, which may have others already: the fewer rows
    /// are measured. Leaves of their codes are passed over by the limits for `min_recall`, none without it.
    pub fn nearest(
        &self,
        passing: &RoaringBitmap,
        codes: Option<&TailCodes>,
        asked: &Asked,
        min_recall: Option<f32>,
        best: &mut TopK<Place>,
    ) -> Measured {
        let covered = codes.filter(|_| passing.len() > EXACT_ROWS).and_then(|c| Some((c, c.covered()?)));
        let Some((codes, (first, end))) = covered else {
            return Measured { rows: self.measure(passing, 0..self.total(), asked, best), codes: 0 };
        };
        let (first, end) = (self.floor(first), self.floor(end));
        let mut rows = self.measure(passing, 0..first, asked, best);
        rows += self.measure(passing, end..self.total(), asked, best);
        let metric = asked.metric;
        let bound = Bound { threshold: metric.rankable(best.worst()), slack: SLACK };
        let scanned = codes.scan(asked, min_recall, bound, |at| {
            if let Some((number, row)) = self.number(at)
                && passing.contains(number)
            {
                rows += 1;
                best.push(self.distance(row, &asked.exact), place(row));
            }
            metric.rankable(best.worst())
        });
        Measured { rows, codes: scanned }
    }

    fn measure(
        &self,
        passing: &RoaringBitmap,
        numbers: std::ops::Range<u32>,
        asked: &Asked,
        best: &mut TopK<Place>,
    ) -> u64 {
        let mut rows = 0;
        let first = self.entries.partition_point(|e| e.numbers().end <= numbers.start);
        for (number, entry) in (first as u32..).zip(&self.entries[first..]) {
            let own = entry.numbers();
            if own.start >= numbers.end {
                break;
            }
            for n in passing.range(own.start.max(numbers.start)..own.end.min(numbers.end)) {
                let row = (number, n - entry.first);
                best.push(self.distance(row, &asked.exact), place(row));
                rows += 1;
            }
        }
        rows
    }

    /// Whether there are so many rows without a code that the next chunk is due: a quarter of one.
    pub fn wants_codes(&self, codes: Option<&TailCodes>) -> bool {
        let Some(dimension) = self.dimension().filter(|_| self.live.len() > EXACT_ROWS) else { return false };
        let missing = self.total() - self.floor_of(codes);
        missing * QUARTER >= codes::chunk_rows(dimension) as u32
    }

    /// The codes with one chunk more, if there is room for so many bytes; the first under the leaves of a segment.
    pub fn more_codes(
        &self,
        metric: esker_index::Metric,
        anchor: Option<&Arc<Segment>>,
        codes: Option<&TailCodes>,
        room: impl FnOnce(u64) -> bool,
    ) -> Option<TailCodes> {
        let dimension = self.dimension()?;
        // What was folded goes: between it and this tail there may be rows without codes, which an older tail has, too.
        let codes = codes.map(|c| c.above(self.watermark));
        let first = self.floor_of(codes.as_ref());
        // To find the leaf of a row among thousands takes as long as to encode it several times.
        let rows = codes::chunk_rows(dimension) as u32 / if anchor.is_some() { QUARTER } else { 1 };
        let end = self.total().min(first + rows);
        if !room(codes::code_bytes(dimension, (end - first) as usize)) {
            return None;
        }
        let (rows, end, vectors) = self.gather(first..end);
        let batch = Batch { rows: &rows, end, vectors: &vectors };
        let codes = match (codes, anchor) {
            (Some(codes), _) => codes,
            (None, Some(segment)) => TailCodes::under(segment)?,
            (None, None) => TailCodes::learn(metric, dimension, &batch)?,
        };
        Some(codes.with(&batch))
    }

    /// The number of the first row that has no code and none after it.
    fn floor_of(&self, codes: Option<&TailCodes>) -> u32 {
        codes.and_then(|c| c.covered()).map_or(0, |(_, end)| self.floor(end))
    }
}
