//! Which codes to read before their rows were seen, and which after: the best leaves that few requests and a budget of
//! bytes bring. What lies in between is read too where that saves a request, and scanned like the rest.

use std::ops::Range;

use crate::ranges::{GAP, Thrift};
use crate::search::{Asked, calibration};
use crate::segment::Segment;

/// What the codes of probed leaves may cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    /// Requests.
    pub requests: usize,
    /// Bytes, those between the leaves too.
    pub bytes: u64,
}

/// Before any row was seen (INDEX §2).
const FIRST: Budget = Budget { requests: 24, bytes: 3 << 20 };
/// Beside one segment each further one adds so many requests, since leaves that are near each other lie in several files, and
/// takes off so many bytes, since it has a header of its own.
const FURTHER: Budget = Budget { requests: 4, bytes: 128 << 10 };
/// At least this many leaves are read whatever they cost.
const LEAST_LEAVES: usize = 8;
/// Segments with at most this share of the codes that are read whole anyway are read whole beside larger ones: each is
/// one request of 256 KiB at most.
const SMALL_SHARE: u64 = 16;
/// Vectors of a request that add to its budget.
const MOST_VECTORS: usize = 8;

/// The leaves of each segment to read before any row was seen, ascending: those whose score is within δ of the best, best
/// first as far as the budget goes. `whole_codes` bytes of codes are few.
pub(crate) fn first_leaves(
    segments: &[&Segment],
    asked: &[Asked],
    min_recall: f32,
    whole_codes: u64,
) -> Vec<Vec<u32>> {
    let small: Vec<bool> = segments.iter().map(|s| s.code_bytes() <= whole_codes / SMALL_SHARE).collect();
    let further = segments.len().saturating_sub(1);
    let requests = FIRST.requests + FURTHER.requests * further - small.iter().filter(|s| **s).count();
    let bytes = FIRST.bytes.saturating_sub(FURTHER.bytes * further as u64).max(FIRST.bytes / 2);
    let budget = Budget { requests, bytes };
    let mut wanted: Vec<Vec<u32>> = vec![Vec::new(); segments.len()];
    for asked in asked {
        let mut order: Vec<(f32, f32, usize, u32)> = Vec::new();
        for (i, segment) in segments.iter().enumerate().filter(|(i, _)| !small[*i]) {
            let reach = calibration(segment, min_recall).delta;
            let scores = segment.leaves.centroids.scores(asked.metric, &asked.vector);
            order.extend(scores.into_iter().zip(0u32..).map(|(score, leaf)| (score, reach, i, leaf)));
        }
        order.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then((a.2, a.3).cmp(&(b.2, b.3))));
        let best = order.first().map_or(0.0, |first| first.0);
        let mut taken = 0;
        order.retain(|(score, reach, _, _)| {
            taken += 1;
            taken <= LEAST_LEAVES || *score >= best - reach
        });
        let order: Vec<(usize, u32)> = order.into_iter().map(|(_, _, i, leaf)| (i, leaf)).collect();
        for (all, own) in wanted.iter_mut().zip(affordable(segments, &order, LEAST_LEAVES, budget)) {
            all.extend(own);
        }
    }
    if asked.len() > 1 {
        let many = asked.len().min(MOST_VECTORS);
        let thrift = Thrift { requests: many * budget.requests, waste: many as u64 * budget.bytes };
        wanted = together(segments, wanted, thrift).0;
    }
    for (leaves, segment) in wanted.iter_mut().zip(segments).zip(small).filter(|(_, s)| *s).map(|(x, _)| x) {
        *leaves = (0..segment.header.leaf_count()).collect();
    }
    wanted
}

/// As many of the best leaves as the budget allows, at least `least`, and those in between: per segment, ascending. `order`
/// has the position of the segment and the number of each leaf, best first.
pub(crate) fn affordable(
    segments: &[&Segment],
    order: &[(usize, u32)],
    least: usize,
    budget: Budget,
) -> Vec<Vec<u32>> {
    let thrift = Thrift { requests: budget.requests, waste: u64::MAX };
    let best = |count: usize| {
        let mut leaves = vec![Vec::new(); segments.len()];
        order[..count].iter().for_each(|(i, leaf)| leaves[*i].push(*leaf));
        together(segments, leaves, thrift)
    };
    // The most leaves that cost no more than the budget: more of them never cost less.
    let (mut low, mut high) = (least.min(order.len()), order.len());
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        match best(middle).1 <= budget.bytes {
            true => low = middle,
            false => high = middle - 1,
        }
    }
    best(low).0
}

/// Leaves with those between them that come along, per segment; and the bytes of their codes.
fn together(segments: &[&Segment], mut leaves: Vec<Vec<u32>>, thrift: Thrift) -> (Vec<Vec<u32>>, u64) {
    let codes = |segment: &Segment, leaf: u32| segment.header.codes_range(segment.header.leaf_groups(leaf));
    let mut ranges: Vec<Vec<Range<u64>>> = Vec::with_capacity(segments.len());
    for (segment, own) in segments.iter().zip(&mut leaves) {
        own.sort_unstable();
        own.dedup();
        ranges.push(own.iter().map(|leaf| codes(segment, *leaf)).collect());
    }
    let gap = thrift.gap(ranges.iter().map(Vec::as_slice)).max(GAP);
    let (mut filled, mut bytes) = (Vec::with_capacity(segments.len()), 0);
    for (own, ranges) in leaves.iter().zip(&ranges) {
        let mut all: Vec<u32> = Vec::with_capacity(own.len());
        let mut end = None;
        for (leaf, range) in own.iter().zip(ranges) {
            let near = end.filter(|end| range.start <= end + gap);
            all.extend(all.last().filter(|_| near.is_some()).map_or(*leaf, |last| last + 1)..=*leaf);
            bytes += range.end - near.unwrap_or(range.start).min(range.end);
            end = Some(range.end.max(end.unwrap_or(0)));
        }
        filled.push(all);
    }
    (filled, bytes)
}
