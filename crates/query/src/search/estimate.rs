//! Candidates by estimate, for segments of which only the codes are here.

use std::collections::HashSet;

use esker_index::{Bound, Metric, Run, TopK};
use roaring::RoaringBitmap;

use super::{Posed, SLACK};
use crate::segment::{Codes, Mask};

/// A row that may be among the nearest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Candidate {
    /// Rankable distance, estimated; −∞ where the code says nothing.
    pub estimate: f32,
    /// One standard error of it.
    pub err: f32,
    /// Segment of the manifest.
    pub segment: u32,
    /// Row.
    pub ordinal: u32,
    /// Check of its stored vector.
    pub check: u16,
    /// The tail may have overwritten it: its id has the hash of one that the tail touched.
    pub suspect: bool,
}

/// Collects candidates over all leaves that are scanned, of all segments.
pub(crate) struct Estimates {
    metric: Metric,
    /// Rows wanted: k and as many more as may turn out to be overwritten.
    k: usize,
    /// The best estimates of rows that are not suspect.
    best: TopK<(u32, u32)>,
    found: Vec<Candidate>,
    /// Rows met in a leaf already, where leaves hold copies.
    seen: HashSet<(u32, u32)>,
    /// Codes scanned.
    pub scanned: u64,
}

impl Estimates {
    /// For the `k` nearest.
    pub fn new(metric: Metric, k: usize) -> Self {
        Estimates { metric, k, best: TopK::new(2 * k), found: Vec::new(), seen: HashSet::new(), scanned: 0 }
    }

    /// Scans leaves (ascending) whose codes are here. `mask` has the rows that pass and live, `suspects` those that the
    /// tail may have overwritten.
    pub fn scan(
        &mut self,
        number: u32,
        posed: &Posed<'_>,
        codes: &Codes,
        leaves: &[u32],
        mask: &Mask,
        suspects: &RoaringBitmap,
    ) {
        let runs: Vec<Run> = leaves.iter().map(|leaf| posed.run(*leaf)).collect();
        self.scanned += runs.iter().map(|r| (r.end - r.first) as u64).sum::<u64>();
        let (segment, spilled) = (posed.segment, posed.segment.spilled());
        let bound = Bound { threshold: self.best.worst(), slack: SLACK };
        codes.scan(&posed.codes, &runs, mask, bound, |posting, estimate, err| {
            let Some(ordinal) = segment.ordinal(posting, codes) else { return self.best.worst() };
            if spilled && !self.seen.insert((number, ordinal)) {
                return self.best.worst();
            }
            let suspect = suspects.contains(ordinal);
            // Every code that was scanned has its check beside it.
            let check = codes.check(posting).unwrap_or_default();
            self.found.push(Candidate { estimate, err, segment: number, ordinal, check, suspect });
            if !suspect && err.is_finite() {
                self.best.push(estimate, (number, ordinal));
            }
            self.best.worst()
        });
    }

    /// Score of the k-th estimate; −∞ while there are fewer.
    pub fn kth_score(&mut self) -> f32 {
        self.sort();
        match self.kth() {
            Some(estimate) => self.metric.score(self.metric.estimate_to_distance(estimate)),
            None => f32::NEG_INFINITY,
        }
    }

    fn sort(&mut self) {
        self.found.sort_unstable_by(|a, b| {
            a.estimate.total_cmp(&b.estimate).then((a.segment, a.ordinal).cmp(&(b.segment, b.ordinal)))
        });
    }

    /// The k-th estimate of rows that are sure to count.
    fn kth(&self) -> Option<f32> {
        self.found
            .iter()
            .filter(|c| !c.suspect && c.err.is_finite())
            .nth(self.k.checked_sub(1)?)
            .map(|c| c.estimate)
    }

    /// The candidates to rerank, best first: as many as have a chance to be below the k-th, within `least..=most`. Rows
    /// without an estimate are all among them, suspects as far as they would be if they counted.
    pub fn cut(mut self, least: usize, most: usize) -> Vec<Candidate> {
        self.sort();
        let kth = self.kth().unwrap_or(f32::INFINITY);
        let sure = |c: &&Candidate| !c.suspect && c.err.is_finite();
        let near = self.found.iter().filter(sure).filter(|c| c.estimate - SLACK * c.err < kth).count();
        let count = near.clamp(least, most.max(least));
        let last = self
            .found
            .iter()
            .filter(sure)
            .nth(count.saturating_sub(1))
            .map(|c| (c.estimate, c.segment, c.ordinal));
        match last {
            None => self.found,
            Some(last) => {
                let within = |c: &Candidate| {
                    c.estimate < last.0
                        || (c.estimate == last.0 && (c.segment, c.ordinal) <= (last.1, last.2))
                };
                self.found.retain(|c| within(c) || !c.err.is_finite());
                self.found
            }
        }
    }
}
