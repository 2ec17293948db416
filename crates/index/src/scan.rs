//! The query's side of the codes: look-up tables, per-leaf terms and the scan.

use crate::codes::{Axes, ERR};
use crate::fastscan::{BLOCK, Estimates, Kernel, LaneTerms, MOST, Tables, kernel};
use crate::sums::dot;
use crate::{Encoder, GROUP, Metric, lanes, residual};

/// Whole groups of codes, and which group of the segment the first of them is.
#[derive(Clone, Copy, Debug)]
pub struct Codes<'a> {
    /// A multiple of [`Encoder::group_bytes`] and `beside` long; a trailing part of a group is not scanned.
    pub groups: &'a [u8],
    /// Group number of the first: ⌊posting / 32⌋.
    pub first_group: usize,
    /// Bytes behind each group that are not of its codes.
    pub beside: usize,
}

/// A leaf's part of an estimate, from [`CodeQuery::term`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LeafTerm {
    /// Rankable distance of the centroid.
    pub add: f32,
    /// Multiplier of f_add: how much of the centroid is subtracted from the query, 1 under l2.
    pub scale: f32,
    /// Norm of what remains of the query: multiplier of f_err.
    pub err: f32,
}

/// Consecutive postings of one leaf.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// First posting in the segment.
    pub first: usize,
    /// One past the last.
    pub end: usize,
    /// The leaf's term for this query.
    pub term: LeafTerm,
}

/// Which lanes a scan emits: those with `estimate − slack·err < threshold`.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// Starts here (infinity: everything); each emit returns the next.
    pub threshold: f32,
    /// How many times err is allowed for: 1.9 keeps 98 % of rows inside, 99 % on the side that matters.
    pub slack: f32,
}

impl Bound {
    /// Emits every lane that is not masked.
    pub const NONE: Bound = Bound { threshold: f32::INFINITY, slack: 1.9 };
}

/// A query prepared for scanning the codes of one segment: one set of tables whatever the leaf.
///
/// Estimates are *rankable* distances ([`Metric::rankable`]): those of [`Exact`](crate::Exact) for cosine and dot, the
/// squared distance for l2; [`Metric::estimate_to_distance`] converts back. `err` is 1.25
/// standard errors: 98 % of rows lie within ±1.9·err of their estimate; with a learned basis, if the query lies about
/// centroids as rows do or was prepared by [`Encoder::query_near`].
#[derive(Clone, Debug)]
pub struct CodeQuery {
    metric: Metric,
    group_bytes: usize,
    norm: f32,
    /// What errors are multiplied with.
    doubt: f32,
    tables: Tables,
    kernel: Kernel,
}

impl Encoder {
    /// Prepares `query` (d finite values, normalised here under cosine) for the codes that this makes.
    pub fn query(&self, query: &[f32]) -> CodeQuery {
        let inverse = crate::codes::inverse_norm(self.metric, query);
        let unit_query: Vec<f32> = query.iter().map(|x| x * inverse).collect();
        let norm = crate::sums::norm(&unit_query) as f32;
        let coordinates = self.project(&unit_query);
        let (unit, add_unit) = (self.unit() as f32, self.scale * self.scale);
        let tables = match &self.axes {
            Axes::Random(_) => tables(&coordinates, unit, add_unit),
            Axes::Learned(basis) => stepped_tables(&basis.sums(&coordinates), unit, add_unit),
        };
        CodeQuery {
            metric: self.metric,
            group_bytes: self.group_bytes(),
            norm,
            doubt: 1.0,
            tables,
            kernel: kernel(),
        }
    }

    /// The same, of a query whose nearest centroid is known: errors of a learned basis depend on how the query lies from it.
    pub fn query_near(&self, query: &[f32], centroid: &[f32]) -> CodeQuery {
        let mut asked = self.query(query);
        if let Some(basis) = self.basis() {
            let mut rest = vec![0.0; query.len()];
            residual(self.metric, query, centroid, &mut rest);
            if self.metric != Metric::L2 {
                // As in `term`: what is left when as much of the centroid is taken off as there is in the query.
                let square = dot(centroid, centroid);
                let over = if square > 0.0 { (dot(&rest, centroid) / square) as f32 } else { 0.0 };
                rest.iter_mut().zip(centroid).for_each(|(r, c)| *r -= over * c);
            }
            let surprise = basis.surprise(&basis.project(&rest), dot(&rest, &rest));
            asked.doubt = surprise.clamp(1.0, MOST_DOUBT) as f32;
        }
        asked
    }
}

/// Errors are taken for at most so many times what they are for rows; never for less.
const MOST_DOUBT: f64 = 10.0;

impl CodeQuery {
    /// The term of a leaf from its score ([`Centroids::scores`](crate::Centroids::scores)) and the norm of its
    /// centroid.
    ///
    /// Under cosine and dot the estimate of ⟨q, r⟩ is taken as β⟨c, r⟩ plus that of ⟨q − βc, r⟩, whose error grows with
    /// ‖q − βc‖: β = ⟨q, c⟩/‖c‖² makes it least.
    pub fn term(&self, score: f32, centroid_norm: f32) -> LeafTerm {
        let mut term = match self.metric {
            Metric::L2 => LeafTerm { add: score * score, scale: 1.0, err: -score },
            Metric::Cosine => self.projected(1.0, score * centroid_norm, centroid_norm),
            Metric::Dot => self.projected(0.0, score, centroid_norm),
        };
        term.err *= self.doubt;
        // Never so small that its product with a saturated row's infinite f_err is not infinite.
        term.err = term.err.max(2.0 * f32::MIN_POSITIVE / self.tables.unit);
        term
    }

    fn projected(&self, offset: f32, product: f32, centroid_norm: f32) -> LeafTerm {
        // A centroid this short against the residuals carries nothing, and f_add nothing that f16 can tell from 0.
        let short = self.tables.add_unit.sqrt() * 1e-4;
        if centroid_norm <= short {
            return LeafTerm { add: offset - product, scale: 0.0, err: self.norm };
        }
        let along = (product / centroid_norm).clamp(-self.norm, self.norm);
        let err = (self.norm * self.norm - along * along).max(0.0).sqrt();
        LeafTerm { add: offset - product, scale: along / centroid_norm, err }
    }

    /// Scans the postings of `runs` (ascending, disjoint) that lie in `codes`. `mask` gives the lanes of a group that
    /// live and pass the filter; a group whose mask is 0 is not read. `emit(posting, estimate, err)` is called in order of
    /// posting for each lane within the bound and returns the threshold from there on. A row that was not encodable
    /// (saturated) comes with estimate −∞ and err ∞. Returns how many lanes of the runs live and pass.
    pub fn scan(
        &self,
        codes: Codes<'_>,
        runs: &[Run],
        mask: impl Fn(usize) -> u32,
        bound: Bound,
        emit: &mut impl FnMut(usize, f32, f32) -> f32,
    ) -> u64 {
        let Bound { mut threshold, slack } = bound;
        let slack = slack.max(f32::MIN_POSITIVE); // 0·∞ would hide saturated rows
        let stride = self.group_bytes + codes.beside;
        let end = codes.first_group + codes.groups.len() / stride;
        let mut lane_terms = Lanes::new();
        let mut out = Estimates { estimate: [0.0; GROUP], err: [0.0; GROUP] };
        let mut group = codes.first_group;
        let (mut next, mut counted) = (0, 0);
        while let Some(run) = runs.get(next) {
            group = group.max(run.first / GROUP);
            if group >= end {
                break;
            }
            let counting = mask(group);
            let (own, consumed) = lane_terms.gather(group, counting, &runs[next..], next);
            next += consumed;
            if own == 0 {
                continue; // empty runs, or runs before these codes: the group may still have others
            }
            let live = own & counting;
            counted += u64::from(live.count_ones());
            if live != 0 {
                let at = (group - codes.first_group) * stride;
                let bytes = &codes.groups[at..at + self.group_bytes];
                let passed =
                    (self.kernel)(bytes, &self.tables, &lane_terms.terms, slack, threshold, &mut out);
                emit_lanes(group, live & passed, &out, slack, &mut threshold, emit);
            }
            group += 1;
        }
        counted
    }

    /// Appends `estimate − slack·err` of every lane of whole groups of one leaf: −∞ where a code says nothing, NaN behind
    /// the last.
    pub(crate) fn floors(&self, groups: &[u8], term: LeafTerm, slack: f32, out: &mut Vec<f32>) {
        let mut terms = Lanes::new().terms;
        fill(&mut terms, u32::MAX, &term);
        let mut found = Estimates { estimate: [0.0; GROUP], err: [0.0; GROUP] };
        let slack = slack.max(f32::MIN_POSITIVE); // 0·∞ would hide saturated rows
        for group in groups.chunks_exact(self.group_bytes) {
            (self.kernel)(group, &self.tables, &terms, slack, f32::INFINITY, &mut found);
            out.extend(found.estimate.iter().zip(&found.err).map(|(estimate, err)| estimate - slack * err));
        }
    }
}

/// Calls `emit` for each lane still below the threshold, which each call moves.
#[inline]
fn emit_lanes(
    group: usize,
    mut passed: u32,
    out: &Estimates,
    slack: f32,
    threshold: &mut f32,
    emit: &mut impl FnMut(usize, f32, f32) -> f32,
) {
    while passed != 0 {
        let lane = passed.trailing_zeros() as usize;
        passed &= passed - 1;
        let (mut estimate, err) = (out.estimate[lane], out.err[lane]);
        if err.is_infinite() {
            estimate = f32::NEG_INFINITY;
        } else if estimate - slack * err >= *threshold {
            continue;
        }
        *threshold = emit(group * GROUP + lane, estimate, err);
    }
}

/// The leaf terms of the group at hand, refilled only where the leaf changes.
struct Lanes {
    terms: LaneTerms,
    /// The run whose term is in all lanes.
    filled: usize,
}

impl Lanes {
    fn new() -> Self {
        let zero = [0.0; GROUP];
        Self { terms: LaneTerms { add: zero, scale: zero, err: zero }, filled: usize::MAX }
    }

    /// Fills the lanes of `group` from the runs that touch it, but of those none of whose lanes is `counting`; returns the lanes
    /// of all of them and how many runs end here. `number` is the number of the first of `runs`.
    #[inline]
    fn gather(&mut self, group: usize, counting: u32, runs: &[Run], number: usize) -> (u32, usize) {
        let (mut all, mut consumed) = (0u32, 0);
        let limit = (group + 1) * GROUP;
        while let Some(run) = runs.get(consumed) {
            if run.first >= limit {
                break;
            }
            let own = lanes(run.first, run.end, group);
            if own & counting != 0 && self.filled != number + consumed {
                fill(&mut self.terms, own, &run.term);
                self.filled = if own == u32::MAX { number + consumed } else { usize::MAX };
            }
            all |= own;
            if run.end > limit {
                break;
            }
            consumed += 1;
        }
        (all, consumed)
    }
}

fn fill(terms: &mut LaneTerms, own: u32, term: &LeafTerm) {
    if own == u32::MAX {
        (terms.add, terms.scale, terms.err) = ([term.add; GROUP], [term.scale; GROUP], [term.err; GROUP]);
        return;
    }
    let low = own.trailing_zeros() as usize;
    for lane in low..low + own.count_ones() as usize {
        (terms.add[lane], terms.scale[lane], terms.err[lane]) = (term.add, term.scale, term.err);
    }
}

/// Least sums that are told apart.
const LEAST: f32 = 1e-37;
/// From here to twice this, floats are the integers.
const INTEGERS: f32 = 8_388_608.0;

/// Quantises the sixteen signed sums of each four rotated coordinates to six bits, with one step for all tables.
fn tables(rotated: &[f32], unit: f32, add_unit: f32) -> Tables {
    let widest = rotated.chunks_exact(4).map(reach).fold(0.0, f32::max);
    // Never so small that its inverse overflows.
    let step = 2.0 * widest.max(LEAST) / f32::from(MOST);
    let count = rotated.len() / 4;
    let inverse = 1.0 / step;
    let mut entries = vec![0u8; 16 * count];
    let mut bias = 0f64;
    for (four, table) in rotated.chunks_exact(4).zip(entries.chunks_exact_mut(16)) {
        // A sum less the least one: each coordinate adds |x| ± x, by its bit.
        let part = |at: usize| [four[at].abs() - four[at], four[at].abs() + four[at]];
        let [a, b, c, d] = [part(0), part(1), part(2), part(3)];
        let low: [f32; 4] = std::array::from_fn(|bits| a[bits & 1] + b[bits >> 1]);
        let high: [f32; 4] = std::array::from_fn(|bits| c[bits & 1] + d[bits >> 1]);
        let mut lost = [0f32; 4];
        for (entries, high) in table.chunks_exact_mut(4).zip(high) {
            let exact = low.map(|low| (low + high) * inverse);
            // Rounded by adding 2^23: the integer then is the low bits of the float. At most 63.
            let shifted = exact.map(|exact| exact + INTEGERS);
            for lane in 0..4 {
                entries[lane] = shifted[lane].to_bits() as u8;
                lost[lane] += exact[lane] - (shifted[lane] - INTEGERS);
            }
        }
        // The mean rounding error goes into the bias: sums stay unbiased over random signs.
        bias += f64::from(lost.iter().sum::<f32>() * step / 16.0 - reach(four));
    }
    let noise = ERR as f32 * step * (count as f32 / 12.0).sqrt();
    Tables { entries, shifts: Vec::new(), step, bias: bias as f32, noise, add_unit, unit }
}

/// Tables of a learned basis: the ranges of the first are many times those of the last. Each block of eight tables has the step
/// of the next times a power of two, and what was summed is multiplied so before the next is added.
fn stepped_tables(sums: &[[f32; 16]], unit: f32, add_unit: f32) -> Tables {
    let range = |sums: &[f32; 16]| {
        let low = sums.iter().copied().fold(f32::INFINITY, f32::min);
        (low, sums.iter().copied().fold(f32::NEG_INFINITY, f32::max) - low)
    };
    // What each block needs at least, no less than those after it.
    let mut needed: Vec<f32> = sums
        .chunks(BLOCK)
        .map(|block| block.iter().map(|sums| range(sums).1).fold(2.0 * LEAST, f32::max) / f32::from(MOST))
        .collect();
    (1..needed.len()).rev().for_each(|at| needed[at - 1] = needed[at - 1].max(needed[at]));
    let exponents = |step: f32| -> Vec<u32> {
        needed.iter().map(|needed| (needed / step).log2().ceil().max(0.0) as u32).collect()
    };
    let greatest =
        |exponents: &[u32]| exponents.iter().map(|e| (BLOCK as u64 * u64::from(MOST)) << e).sum::<u64>();
    // A block of 2^8 times the last's step would not fit alone.
    let greatest_needed = needed.first().copied().unwrap_or(LEAST);
    let mut step = needed.last().copied().unwrap_or(LEAST).max(greatest_needed / 128.0);
    while greatest(&exponents(step)) > u64::from(u16::MAX) {
        step *= 1.125;
    }
    let exponents = exponents(step);
    let last = exponents.last().copied().unwrap_or(0);
    let mut entries = Vec::with_capacity(16 * sums.len());
    let (mut bias, mut noise) = (0f64, 0f64);
    for (block, exponent) in sums.chunks(BLOCK).zip(&exponents) {
        let step = step * (1u32 << exponent) as f32;
        let inverse = 1.0 / step;
        for sums in block {
            let low = range(sums).0;
            let mut lost = 0f32;
            for sum in sums {
                let exact = ((sum - low) * inverse).min(f32::from(MOST));
                let entry = exact.round();
                lost += exact - entry;
                entries.push(entry as u8);
            }
            // The mean rounding error goes into the bias: sums stay unbiased over random codes.
            bias += f64::from(low + lost * step / 16.0);
            noise += f64::from(step).powi(2) / 12.0;
        }
    }
    let shifts = exponents.windows(2).zip(1..).filter(|(pair, _)| pair[0] > pair[1]);
    let shifts = shifts.map(|(pair, block)| (16 * BLOCK * block, pair[0] - pair[1])).collect();
    let noise = ERR as f32 * noise.sqrt() as f32;
    Tables { entries, shifts, step: step * (1u32 << last) as f32, bias: bias as f32, noise, add_unit, unit }
}

fn reach(four: &[f32]) -> f32 {
    four.iter().map(|x| x.abs()).sum()
}

#[cfg(test)]
mod tests;
