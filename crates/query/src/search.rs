//! A search: what is asked, what comes back, and the operators in between, one per file.
//!
//! [`estimate`] scans the codes that were read and keeps the candidates whose exact vectors are worth reading; [`probe`]
//! does both by turns on segments that are held in memory, whose leaves [`rank`] puts in order.

pub(crate) mod estimate;
pub(crate) mod probe;
mod rank;
mod request;

use esker_format::segment::index::Calibration;
use esker_index::{CodeQuery, Exact, Metric, Run};

pub use request::{Consistency, Explain, Hit, Search, SearchReply, SegmentExplain};
pub(crate) use request::{check_columns, check_reply, check_vector};

use crate::segment::{Mask, Rows, Segment};

/// Standard errors of doubt about an estimate (INDEX §2).
pub(crate) const SLACK: f32 = 1.9;

/// Where a row is: segment of the manifest and ordinal; or [`TAIL`], entry and row.
pub(crate) type Place = (u32, u64);
/// In place of a segment's number.
pub(crate) const TAIL: u32 = u32::MAX;

/// A query vector, prepared.
#[derive(Clone)]
pub(crate) struct Asked {
    pub metric: Metric,
    pub vector: Vec<f32>,
    pub exact: Exact,
}

impl std::fmt::Debug for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Asked({}, {} dimensions)", self.metric, self.vector.len())
    }
}

impl Asked {
    pub fn new(metric: Metric, vector: &[f32]) -> Self {
        Asked { metric, vector: vector.to_vec(), exact: Exact::new(metric, vector) }
    }
}

/// A query vector against one segment.
pub(crate) struct Posed<'a> {
    pub segment: &'a Segment,
    pub codes: CodeQuery,
    /// Score of each leaf, higher is better.
    pub scores: Vec<f32>,
}

impl<'a> Posed<'a> {
    pub fn new(asked: &Asked, segment: &'a Segment) -> Self {
        let leaves = &segment.leaves;
        let scores = leaves.centroids.scores(asked.metric, &asked.vector);
        Posed { codes: leaves.pose(asked, &scores, None), scores, segment }
    }

    /// The scan of a leaf's postings, copies of rows of other leaves among them.
    pub fn run(&self, leaf: u32) -> Run {
        let end = self.segment.header.posting_starts()[leaf as usize + 1];
        Run { end: end as usize, ..own_run(self.segment, &self.codes, leaf, self.scores[leaf as usize]) }
    }
}

/// The scan of the own rows of a leaf with a score.
fn own_run(segment: &Segment, codes: &CodeQuery, leaf: u32, score: f32) -> Run {
    let (leaf, header) = (leaf as usize, &segment.header);
    let (first, rows) = (header.posting_starts()[leaf] as usize, header.leaf_starts());
    let term = codes.term(score, segment.leaves.centroids.norm(leaf));
    Run { first, end: first + (rows[leaf + 1] - rows[leaf]) as usize, term }
}

/// Up to this many rows that count, all of their codes are looked at when they are in memory (INDEX §3) …
pub(crate) const SCANNED_ROWS: u64 = 64 << 10;
/// … if no more than one row in so many counts: then most groups of 32 codes have none and are passed over, while probing by
/// the limits looks at fewer codes where more count …
const SCANNED_SHARE: u64 = 32;
/// … and if the groups that are left are as much as a search reads in a millisecond: one row in a hundred, here and there, is
/// in every fourth group of a large segment.
const SCANNED_BYTES: u64 = 8 << 20;

/// Whether the codes of all `matching` of `rows` rows are looked at, when they are in memory.
pub(crate) fn is_narrow<'a>(
    matching: u64,
    rows: u64,
    held: impl Iterator<Item = (&'a Segment, &'a Mask)>,
) -> bool {
    matching.saturating_mul(SCANNED_SHARE) <= rows && is_little(matching, held)
}

/// Whether few rows count, and their codes are few bytes.
fn is_little<'a>(matching: u64, held: impl Iterator<Item = (&'a Segment, &'a Mask)>) -> bool {
    matching <= SCANNED_ROWS
        && held.map(|(segment, mask)| mask.code_bytes(segment)).sum::<u64>() <= SCANNED_BYTES
}

/// Surroundings are thin where less than this part of what could be expected counts …
const THIN: f64 = 0.75;
/// … and chance does not explain it: counts vary such that their square roots have a standard deviation of half that of one
/// row's counting, however many they are, and this is four times that.
const CHANCE: f64 = 2.0;
/// Leaves that are looked at, at the least, to tell whether a query's surroundings are thinned out; of few rows that count
/// there are more to look at, until so many could be expected.
const NEIGHBOURHOOD: usize = 4;
const EXPECTED: f64 = 32.0;
/// Leaves to look at, at the most.
pub(crate) const SURROUNDINGS: usize = 64;

/// Whether fewer rows of the best leaves count than of all, in proportion: they were deleted, overwritten, or do not
/// pass. The limits were learnt from rows with all of their neighbours; of a query without these they promise nothing.
/// `share` is the part of all rows that counts, `best` up to [`SURROUNDINGS`] leaves, best first.
pub(crate) fn is_thin<'a>(share: f64, best: impl Iterator<Item = (&'a Segment, &'a Rows, u32)>) -> bool {
    let (mut expected, mut counting) = (0.0, 0.0);
    for (seen, (segment, rows, leaf)) in best.enumerate() {
        if seen >= NEIGHBOURHOOD && expected >= EXPECTED {
            break;
        }
        let own = segment.header.leaf(leaf).ordinals;
        expected += share * own.len() as f64;
        counting += match rows {
            Rows::All => own.len() as f64,
            Rows::Only(only) => only.range_cardinality(own) as f64,
        };
    }
    is_fewer(counting, expected, share)
}

/// Whether so many rows are clearly fewer than expected where a row counts with probability `share`.
fn is_fewer(counting: f64, expected: f64, share: f64) -> bool {
    counting < THIN * expected && counting.sqrt() < expected.sqrt() - CHANCE * (1.0 - share).max(0.0).sqrt()
}

/// The margin to probe by where most neighbours are gone: every leaf whose centroid is nearer than the k-th row or, by
/// the measure of δ, not much further.
pub(crate) fn thin_margin(limits: &Calibration) -> f32 {
    limits.b.max(0.0) + limits.delta
}

/// The limits of a segment that meet a recall; no limit above the highest recall that it was calibrated for.
pub(crate) fn calibration(segment: &Segment, min_recall: f32) -> Calibration {
    limits(segment.header.calibration(), min_recall)
}

/// The first of the limits that meet a recall; none where no recall that high was calibrated for.
pub(crate) fn limits(calibrated: &[Calibration], min_recall: f32) -> Calibration {
    let found = calibrated.iter().find(|c| c.min_recall >= min_recall - 1e-6);
    found.copied().unwrap_or(Calibration {
        min_recall,
        b: f32::INFINITY,
        delta: f32::INFINITY,
        rerank: calibrated.iter().map(|c| c.rerank).max().unwrap_or(0),
    })
}

/// Whether nothing may be missed: every row that counts is measured.
pub(crate) fn is_exact(min_recall: f32) -> bool {
    min_recall >= 1.0
}

/// The recall that [`calibration`] was measured for: the highest that there is where more is asked for.
pub(crate) fn calibrated_recall(segment: &Segment, min_recall: f32) -> f32 {
    let mut known = segment.header.calibration().iter().map(|c| c.min_recall);
    known.clone().find(|r| *r >= min_recall - 1e-6).or(known.next_back()).unwrap_or(1.0)
}

#[cfg(test)]
mod tests {
    use super::is_fewer;

    #[test]
    fn what_chance_explains_is_not_thin() {
        // One row in a hundred of four leaves.
        assert!(!is_fewer(7.0, 12.4, 0.01));
        assert!(is_fewer(1.0, 12.4, 0.01));
        assert!(!is_fewer(20.0, 32.0, 0.01));
        assert!(is_fewer(12.0, 32.0, 0.01));
        // Where nearly all count, that a third does not is no chance.
        assert!(is_fewer(40.0, 60.0, 0.999));
        assert!(!is_fewer(50.0, 60.0, 0.999));
        assert!(!is_fewer(0.0, 0.0, 0.0));
        assert!(!is_fewer(3.0, 4.0, 1.0));
    }
}
