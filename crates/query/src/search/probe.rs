//! The search of segments that are held in memory: leaves in order of their score, each row whose estimate leaves a
//! chance measured at once, in place.

use std::collections::HashSet;

use esker_format::segment::index::Calibration;
use esker_index::{Bound, Run, TopK};

use super::{Asked, NEIGHBOURHOOD, Place, Posed, SCANNED_ROWS, SLACK, is_thin, thin_margin};
use crate::segment::{Codes, Mask, Rows, Segment};

/// Leaves scanned before the first look at whether more are needed.
const FIRST_LEAVES: usize = 4;
/// Leaves scanned between two looks.
const NEXT_LEAVES: usize = 16;
/// Leaves put in order at a time.
const ORDERED: usize = 64;
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
    let posed: Vec<Posed<'_>> = held.iter().map(|h| Posed::new(asked, h.segment)).collect();
    let mut order: Vec<(f32, u32, u32)> = Vec::with_capacity(posed.iter().map(|p| p.scores.len()).sum());
    for (number, p) in (0u32..).zip(&posed) {
        order.extend((0u32..).zip(&p.scores).map(|(leaf, score)| (*score, number, leaf)));
    }
    let (mut at, mut step) = (0, FIRST_LEAVES);
    let mut ordered = put_in_order(&mut order, 0);
    let near = order[..ordered.min(NEIGHBOURHOOD)].iter();
    let total: u64 = held.iter().map(|h| u64::from(h.segment.row_count())).sum();
    let thin = is_thin(
        matching as f64 / total as f64,
        near.map(|(_, number, leaf)| {
            let h = &held[*number as usize];
            (h.segment, h.rows, *leaf)
        }),
    );
    let margin = |number: u32| match &held[number as usize].limits {
        None => f32::INFINITY,
        Some(_) if thin && matching <= SCANNED_ROWS => f32::INFINITY,
        Some(limits) if thin => thin_margin(limits),
        Some(limits) => limits.b,
    };
    let widest = (0..held.len() as u32).map(margin).fold(f32::NEG_INFINITY, f32::max);
    let mut batch: Vec<(u32, u32)> = Vec::with_capacity(NEXT_LEAVES);
    let mut runs: Vec<Run> = Vec::with_capacity(NEXT_LEAVES);
    // Rows met in a leaf already, where leaves hold copies.
    let mut seen = HashSet::new();
    while at < order.len() {
        if at == ordered {
            ordered = put_in_order(&mut order, ordered);
        }
        let kth = asked.metric.score(best.worst());
        if order[at].0 + widest < kth {
            break;
        }
        let end = (at + step).min(ordered);
        batch.clear();
        let wanted = order[at..end].iter().filter(|(score, number, _)| score + margin(*number) >= kth);
        batch.extend(wanted.map(|(_, number, leaf)| (*number, *leaf)));
        batch.sort_unstable();
        for same in batch.chunk_by(|a, b| a.0 == b.0) {
            let number = same[0].0;
            let (h, p) = (&held[number as usize], &posed[number as usize]);
            runs.clear();
            runs.extend(same.iter().map(|(_, leaf)| p.run(*leaf)));
            effort.leaves += runs.len() as u64;
            effort.codes += runs.iter().map(|r| (r.end - r.first) as u64).sum::<u64>();
            effort.reranked += scan(asked, number, h, p, &runs, &mut seen, best);
        }
        (at, step) = (end, NEXT_LEAVES);
    }
    effort
}

/// Scans runs of one segment; returns how many rows were measured.
fn scan(
    asked: &Asked,
    number: u32,
    h: &Held<'_>,
    p: &Posed<'_>,
    runs: &[Run],
    seen: &mut HashSet<Place>,
    best: &mut TopK<Place>,
) -> u64 {
    let metric = asked.metric;
    let (mut reranked, spilled) = (0, h.segment.spilled());
    let bound = Bound { threshold: metric.rankable(best.worst()), slack: SLACK };
    h.codes.scan(&p.codes, runs, h.mask, bound, |posting, _, _| {
        if let Some(ordinal) = h.segment.ordinal(posting, h.codes) {
            reranked += 1;
            let distance = distance(asked, h.segment, ordinal);
            let place = (number, u64::from(ordinal));
            if !spilled || seen.insert(place) {
                best.push(distance, place);
            }
        }
        metric.rankable(best.worst())
    });
    reranked
}

/// Exact distance of a held row; NaN, which no list takes, if it is not held.
#[inline]
fn distance(asked: &Asked, segment: &Segment, ordinal: u32) -> f32 {
    match segment.held_vector(ordinal) {
        Some(bytes) => asked.exact.row_bytes(segment.width(), bytes),
        None => f32::NAN,
    }
}

/// Puts the next best leaves in order; returns how many are in order now.
fn put_in_order(order: &mut [(f32, u32, u32)], ordered: usize) -> usize {
    let better =
        |a: &(f32, u32, u32), b: &(f32, u32, u32)| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2)));
    let rest = &mut order[ordered..];
    // Few queries look at more leaves than a few times the first lot.
    let next = if ordered == 0 { ORDERED } else { ordered * 3 }.min(rest.len());
    if next < rest.len() {
        rest.select_nth_unstable_by(next, better);
    }
    rest[..next].sort_unstable_by(better);
    ordered + next
}
