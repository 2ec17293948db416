//! The query's side of the codes: look-up tables, per-leaf terms and the scan.

use crate::codes::{ERR, sane_scale};
use crate::fastscan::{Estimates, Kernel, LaneTerms, MOST, Tables, kernel};
use crate::{GROUP, Metric, Rotation, group_bytes, lanes, padded};

/// Whole groups of codes, and which group of the segment the first of them is.
#[derive(Clone, Copy, Debug)]
pub struct Codes<'a> {
    /// A multiple of [`group_bytes`] and `beside` long; a trailing part of a group is not scanned.
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
/// standard errors: 98 % of rows lie within ±1.9·err of their estimate.
#[derive(Clone, Debug)]
pub struct CodeQuery {
    metric: Metric,
    group_bytes: usize,
    norm: f32,
    tables: Tables,
    kernel: Kernel,
}

impl CodeQuery {
    /// Prepares `query` (d finite values, normalised here under cosine) with the segment's rotation and rms scale.
    pub fn new(metric: Metric, d: usize, rotation: &Rotation, scale: f32, query: &[f32]) -> Self {
        let inverse = crate::codes::inverse_norm(metric, query);
        let unit_query: Vec<f32> = query.iter().map(|x| x * inverse).collect();
        let norm = crate::sums::norm(&unit_query) as f32;
        let mut rotated = vec![0.0; rotation.padded()];
        rotation.apply(&unit_query, &mut rotated);
        rotated.resize(padded(d), 0.0);
        Self {
            metric,
            group_bytes: group_bytes(d),
            norm,
            tables: tables(&rotated, sane_scale(scale)),
            kernel: kernel(),
        }
    }

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
    /// (saturated) comes with estimate −∞ and err ∞.
    pub fn scan(
        &self,
        codes: Codes<'_>,
        runs: &[Run],
        mask: impl Fn(usize) -> u32,
        bound: Bound,
        emit: &mut impl FnMut(usize, f32, f32) -> f32,
    ) {
        let Bound { mut threshold, slack } = bound;
        let slack = slack.max(f32::MIN_POSITIVE); // 0·∞ would hide saturated rows
        let stride = self.group_bytes + codes.beside;
        let end = codes.first_group + codes.groups.len() / stride;
        let mut lane_terms = Lanes::new();
        let mut out = Estimates { estimate: [0.0; GROUP], err: [0.0; GROUP] };
        let mut group = codes.first_group;
        let mut next = 0;
        while let Some(run) = runs.get(next) {
            group = group.max(run.first / GROUP);
            if group >= end {
                return;
            }
            let (own, consumed) = lane_terms.gather(group, &runs[next..], next);
            next += consumed;
            if own == 0 {
                continue; // empty runs, or runs before these codes: the group may still have others
            }
            let live = own & mask(group);
            if live != 0 {
                let at = (group - codes.first_group) * stride;
                let bytes = &codes.groups[at..at + self.group_bytes];
                let passed =
                    (self.kernel)(bytes, &self.tables, &lane_terms.terms, slack, threshold, &mut out);
                emit_lanes(group, live & passed, &out, slack, &mut threshold, emit);
            }
            group += 1;
        }
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

    /// Fills the lanes of `group` from the runs that touch it; returns those lanes and how many runs end here. `number`
    /// is the number of the first of `runs`.
    #[inline]
    fn gather(&mut self, group: usize, runs: &[Run], number: usize) -> (u32, usize) {
        let (mut all, mut consumed) = (0u32, 0);
        let limit = (group + 1) * GROUP;
        while let Some(run) = runs.get(consumed) {
            if run.first >= limit {
                break;
            }
            let own = lanes(run.first, run.end, group);
            if own != 0 && self.filled != number + consumed {
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
fn tables(rotated: &[f32], scale: f32) -> Tables {
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
    let dims = rotated.len() as f32;
    Tables {
        entries,
        step,
        bias: bias as f32,
        noise: ERR as f32 * step * (count as f32 / 12.0).sqrt(),
        add_unit: scale * scale,
        unit: scale / dims.sqrt(),
    }
}

fn reach(four: &[f32]) -> f32 {
    four.iter().map(|x| x.abs()).sum()
}

#[cfg(test)]
mod tests;
