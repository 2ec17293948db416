//! Candidates by estimate, for segments of which only the codes are here.

use std::collections::HashSet;

use esker_index::{Bound, Metric, Run, TopK};
use roaring::RoaringBitmap;

use super::{Posed, SLACK};
use crate::segment::{Codes, Mask};

/// Steps in which the k-th distance is closed in on: to a thousandth of an error.
const HALVINGS: usize = 16;

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
    /// How likely it is one of the k nearest; of those that are to be reranked.
    pub chance: f64,
    /// Check of its stored vector.
    pub check: u16,
    /// The tail may have overwritten it: its id has the hash of one that the tail touched.
    pub suspect: bool,
    /// What was scanned is a copy in another leaf than its own.
    copied: bool,
}

/// Collects candidates over all leaves that are scanned, of all segments.
pub(crate) struct Estimates {
    metric: Metric,
    /// Rows wanted: k and as many more as may turn out to be overwritten.
    k: usize,
    /// The best estimates of rows that are not suspect.
    best: TopK<(u32, u32)>,
    found: Vec<Candidate>,
    /// Leaves scanned so far, of segments whose leaves have copies.
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
    /// tail may have overwritten. A row counts once: by its own leaf if that was scanned, by its copy otherwise. (By the better of
    /// both, twice as many of the far ones would come near by chance.)
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
        if spilled {
            self.seen.extend(leaves.iter().map(|leaf| (number, *leaf)));
            let by_copy = |c: &Candidate| c.copied && c.segment == number;
            let seen = &self.seen;
            self.found
                .retain(|c| !by_copy(c) || !seen.contains(&(number, segment.header.leaf_of(c.ordinal))));
        }
        let bound = Bound { threshold: self.best.worst(), slack: SLACK };
        codes.scan(&posed.codes, &runs, mask, bound, |posting, estimate, err| {
            let Some(ordinal) = segment.ordinal(posting, codes) else { return self.best.worst() };
            let copied = spilled && segment.own_posting(ordinal) != posting;
            if copied && self.seen.contains(&(number, segment.header.leaf_of(ordinal))) {
                return self.best.worst();
            }
            let suspect = suspects.contains(ordinal);
            // Every code that was scanned has its check beside it.
            let check = codes.check(posting).unwrap_or_default();
            self.found.push(Candidate {
                estimate,
                err,
                segment: number,
                ordinal,
                chance: 1.0,
                check,
                suspect,
                copied,
            });
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

    /// The candidates to rerank: the fewest that are expected to have the share `share` of the k nearest of all rows that
    /// were scanned, within `least..=most`. Rows without an estimate are all among them, suspects as far as they would be
    /// if they counted: these last, each kind the likeliest first, since where not all can be read the last are left out.
    /// `k` are wanted in the end.
    pub fn cut(self, k: usize, share: f64, least: usize, most: usize) -> Vec<Candidate> {
        let mut candidates = self.likely(share, least, most);
        candidates.sort_by_key(|c| c.suspect);
        weigh(&mut candidates, k);
        candidates
    }

    fn likely(mut self, share: f64, least: usize, most: usize) -> Vec<Candidate> {
        self.sort();
        let sure = |c: &&Candidate| !c.suspect && c.err.is_finite();
        // What is below the reach of these has no chance to speak of.
        let Some(reach) = self.found.iter().filter(sure).nth(2 * self.k).map(|c| c.estimate) else {
            return self.found;
        };
        let near: Vec<Candidate> =
            self.found.iter().filter(sure).filter(|c| c.estimate - SLACK * c.err <= reach).copied().collect();
        let bound = kth_of(&near, self.k);
        let mut chances: Vec<f64> = near.iter().map(|c| chance(c, bound)).collect();
        chances.sort_unstable_by(|a, b| b.total_cmp(a));
        let wanted = share * chances.iter().sum::<f64>();
        let mut sum = 0.0;
        let few = chances.iter().take_while(|chance| {
            let more = sum < wanted;
            sum += **chance;
            more
        });
        let count = few.count().clamp(least, most.max(least)).min(chances.len());
        let Some(last) = count.checked_sub(1).map(|i| chances[i]) else { return self.found };
        // Without an estimate there is every chance.
        let chance = |c: &Candidate| if c.err.is_finite() { chance(c, bound) } else { 1.0 };
        self.found.retain(|c| chance(c) >= last);
        self.found.sort_by(|a, b| chance(b).total_cmp(&chance(a)));
        // Any number of rows may be as likely as the last.
        let mut room = most.max(least);
        self.found.retain(|c| {
            let takes = usize::from(sure(&c));
            let keeps = room >= takes;
            room -= if keeps { takes } else { 0 };
            keeps
        });
        self.found
    }
}

/// Says of candidates how likely each is one of the `k` nearest. Suspects hardly are: the tail has an id of the same hash.
fn weigh(candidates: &mut [Candidate], k: usize) {
    let sure: Vec<Candidate> =
        candidates.iter().filter(|c| !c.suspect && c.err.is_finite()).copied().collect();
    let bound = if sure.len() > k { kth_of(&sure, k) } else { f32::INFINITY };
    for c in candidates.iter_mut() {
        c.chance = match (c.suspect, c.err.is_finite()) {
            (true, _) => 0.0,
            (false, true) => chance(c, bound),
            (false, false) => 1.0,
        };
    }
}

/// The estimate that as many rows are expected to be below as are wanted.
fn kth_of(near: &[Candidate], k: usize) -> f32 {
    let reach = |c: &Candidate| SLACK * c.err;
    let mut low = near.iter().map(|c| c.estimate - reach(c)).fold(f32::INFINITY, f32::min);
    let mut high = near.iter().map(|c| c.estimate + reach(c)).fold(f32::NEG_INFINITY, f32::max);
    for _ in 0..HALVINGS {
        let middle = low + (high - low) / 2.0;
        match near.iter().map(|c| chance(c, middle)).sum::<f64>() < k as f64 {
            true => low = middle,
            false => high = middle,
        }
    }
    high
}

/// How likely a row is below `bound`: its estimate is normally distributed about the truth. An `err` is 1.25 standard
/// errors.
fn chance(c: &Candidate, bound: f32) -> f64 {
    let z = 1.25 * f64::from(bound - c.estimate) / f64::from(c.err.max(f32::MIN_POSITIVE));
    // The normal distribution to 2·10⁻⁴.
    1.0 / (1.0 + (-1.5976 * z - 0.07056 * z * z * z).exp())
}

#[cfg(test)]
mod tests;
