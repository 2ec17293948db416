//! The search of segments that are held in memory: batches of leaves in order of their score, of each batch the rows whose
//! estimates leave a chance measured in place.

use esker_format::segment::index::Calibration;
use esker_index::{Bound, CodeQuery, Run, TopK, prefetch};

use super::rank::{Ranked, Ranking};
use super::{Asked, Place, SLACK, SURROUNDINGS, is_little, is_thin, own_run, thin_margin};
use crate::segment::{Codes, Mask, Rows, Segment};

/// Leaves scanned before the first look at whether more are needed.
const FIRST_LEAVES: usize = 4;
/// Leaves scanned between two looks.
const NEXT_LEAVES: usize = 16;
/// Where most neighbours are gone, a probe goes up to so many times the margin that a cold search allows itself: the farther the
/// nearest are that are left, the farther they may lie from the best of their leaves, and the limits do not know how far …
const FARTHER: f32 = 3.0;
/// … but the leaves that were scanned do: after so many rows that count, leaf after leaf, none of which came among the nearest, it
/// goes no farther than the limits. For a recall above [`QUIET_RECALL`] they are more, as many times as less may be missed.
const QUIET_ROWS: f32 = 8192.0;
const QUIET_RECALL: f32 = 0.98;
/// Rows whose vectors are on their way from memory while one is measured.
const AHEAD: usize = 4;
/// Up to this many rows are measured without looking at their codes.
pub(crate) const FEW: u64 = 32;

/// A held segment and the rows of it that count.
pub(crate) struct Held<'a> {
    pub segment: &'a Segment,
    pub codes: &'a Codes,
    pub mask: &'a Mask,
    pub rows: &'a Rows,
    /// How far to probe; nothing to look at every code.
    pub limits: Option<Calibration>,
}

/// What a probe did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Effort {
    pub leaves: u64,
    pub codes: u64,
    pub reranked: u64,
    /// Whether leaves were passed over by limits as they were learnt: the query has the neighbours that these suppose.
    pub limited: bool,
}

/// Adds the nearest rows of `held` to `best`, which may have rows of the tail already. Up to `few` rows are measured without
/// looking at their codes.
pub(crate) fn probe(asked: &Asked, held: &[Held<'_>], few: u64, best: &mut TopK<Place>) -> Effort {
    let mut effort = Effort::default();
    let matching: u64 = held.iter().map(|h| h.rows.count(h.segment.row_count())).sum();
    if matching <= few {
        for (number, h) in (0u32..).zip(held) {
            for ordinal in h.rows.within(0..h.segment.row_count()) {
                effort.reranked += 1;
                best.push(distance(asked, h.segment, ordinal), (number, u64::from(ordinal)));
            }
        }
        return effort;
    }
    let mut ranking = Ranking::new(asked, held.iter().map(|h| &*h.segment.leaves));
    let mut lot = ranking.next(|_, _| true).to_vec();
    let total: u64 = held.iter().map(|h| u64::from(h.segment.row_count())).sum();
    let near = lot.iter().take(SURROUNDINGS).map(|(_, number, leaf)| {
        let h = &held[*number as usize];
        (h.segment, h.rows, *leaf)
    });
    let thin = is_thin(matching as f64 / total as f64, near);
    effort.limited = !thin && held.iter().all(|h| h.limits.is_some());
    let all = thin && is_little(matching, held.iter().map(|h| (h.segment, h.mask)));
    let wanted = held.iter().filter_map(|h| h.limits).fold(QUIET_RECALL, |most, l| most.max(l.min_recall));
    let enough = (QUIET_ROWS * (1.0 - QUIET_RECALL) / (1.0 - wanted)) as u64;
    let margin = |number: u32, wide: bool| match &held[number as usize].limits {
        None => f32::INFINITY,
        Some(_) if all => f32::INFINITY,
        Some(limits) if wide => FARTHER * thin_margin(limits),
        Some(limits) if thin => limits.b.max(0.0),
        Some(limits) => limits.b,
    };
    let mut scan = Scan { asked, found: Vec::new(), quiet: 0 };
    let mut batch: Vec<Ranked> = Vec::with_capacity(NEXT_LEAVES);
    let mut runs: Vec<Run> = Vec::with_capacity(NEXT_LEAVES);
    let mut step = FIRST_LEAVES;
    while !lot.is_empty() {
        let mut at = 0;
        while at < lot.len() {
            let kth = asked.metric.score(best.worst());
            // What was left out while it was narrow stays so, even if it becomes wide again.
            let wide = thin && scan.quiet < enough;
            let widest =
                (0..held.len() as u32).map(|number| margin(number, wide)).fold(f32::NEG_INFINITY, f32::max);
            if lot[at].0 + widest < kth {
                break;
            }
            let end = (at + step).min(lot.len());
            batch.clear();
            batch.extend(
                lot[at..end].iter().filter(|(score, number, _)| score + margin(*number, wide) >= kth),
            );
            batch.sort_unstable_by_key(|(_, number, leaf)| (*number, *leaf));
            for same in batch.chunk_by(|a, b| a.1 == b.1) {
                let number = same[0].1;
                runs.clear();
                // What others have copied into a leaf costs time and finds little where every leaf is at hand.
                let (h, codes) = (&held[number as usize], ranking.codes(number));
                runs.extend(same.iter().map(|(score, _, leaf)| own_run(h.segment, codes, *leaf, *score)));
                effort.leaves += runs.len() as u64;
                effort.codes += runs.iter().map(|r| (r.end - r.first) as u64).sum::<u64>();
                effort.reranked += scan.runs(number, h, codes, &runs, best);
            }
            (at, step) = (end, NEXT_LEAVES);
        }
        let kth = asked.metric.score(best.worst());
        let wide = thin && scan.quiet < enough;
        lot.clear();
        lot.extend(ranking.next(|most, number| most + margin(number, wide) >= kth));
    }
    effort
}

/// The scan of leaves, a batch at a time.
struct Scan<'a> {
    asked: &'a Asked,
    /// Rows of the batch that have a chance.
    found: Vec<Chance>,
    /// Rows that count since one last came among the nearest.
    quiet: u64,
}

/// A row that may be among the nearest: estimate, its error, ordinal.
type Chance = (f32, f32, u32);

impl Scan<'_> {
    /// Scans runs of one segment and measures the rows that have a chance, those with the least estimates first; returns
    /// how many were measured.
    fn runs(
        &mut self,
        number: u32,
        h: &Held<'_>,
        codes: &CodeQuery,
        runs: &[Run],
        best: &mut TopK<Place>,
    ) -> u64 {
        let metric = self.asked.metric;
        let threshold = metric.rankable(best.worst());
        // While there are fewer than k rows, the estimates themselves tell what is far. The
        // least of many estimates are too small: more than k are waited for.
        let patience = if threshold < f32::INFINITY { 0 } else { 2 * best.k() };
        let mut nearest = TopK::new(patience);
        let found = &mut self.found;
        found.clear();
        let rows =
            h.codes.scan(codes, runs, h.mask, Bound { threshold, slack: SLACK }, |posting, estimate, err| {
                if let Some(ordinal) = h.segment.ordinal(posting, h.codes) {
                    found.push((estimate, err, ordinal));
                    if patience > 0 && err.is_finite() {
                        nearest.push(estimate, ordinal);
                    }
                }
                if patience > 0 { nearest.worst() } else { threshold }
            });
        self.quiet += rows;
        found.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.2.cmp(&b.2)));
        self.measure(number, h, best)
    }

    /// Measures the rows that were found; returns how many.
    fn measure(&mut self, number: u32, h: &Held<'_>, best: &mut TopK<Place>) -> u64 {
        let metric = self.asked.metric;
        let has_chance = |(estimate, err, _): &Chance, best: &TopK<Place>| {
            err.is_infinite() || estimate - SLACK * err < metric.rankable(best.worst())
        };
        let mut measured = 0;
        for (at, chance) in self.found.iter().enumerate() {
            if let Some(next) = self.found.get(at + AHEAD).filter(|next| has_chance(next, best)) {
                h.segment.held_vector(next.2).into_iter().for_each(prefetch);
            }
            if !has_chance(chance, best) {
                continue;
            }
            measured += 1;
            if best.push(distance(self.asked, h.segment, chance.2), (number, u64::from(chance.2))) {
                self.quiet = 0;
            }
        }
        measured
    }
}

/// Exact distance of a held row; NaN, which no list takes, if it is not held.
#[inline]
fn distance(asked: &Asked, segment: &Segment, ordinal: u32) -> f32 {
    match segment.held_vector(ordinal) {
        Some(bytes) => asked.exact.row_bytes(segment.width(), bytes),
        None => f32::NAN,
    }
}
