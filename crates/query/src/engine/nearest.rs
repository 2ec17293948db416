//! The nearest rows to one vector: candidates by their codes, then exact vectors and payload in one wave; or, on
//! segments held in memory, both at once.

use std::sync::Arc;

use esker_format::Result;
use esker_format::segment::index::Calibration;
use esker_index::TopK;
use esker_store::Meter;
use roaring::RoaringBitmap;

use super::Reader;
use super::leaves::{Budget, affordable};
use super::load::Part;
use super::missed::{falloff, missed};
use super::rerank::Wanted;
use crate::search::estimate::Estimates;
use crate::search::probe::{FEW, Held, probe};
use crate::search::{
    Asked, Place, Posed, SCANNED_ROWS, SURROUNDINGS, calibration, is_narrow, is_thin, thin_margin,
};
use crate::segment::{Codes, Mask, Payload, Rows, Segment, Vectors, Want};

pub(crate) use super::scene::Scene;
pub(crate) use crate::tail::nearest::{place, tail_row};

/// Where most neighbours are gone, at most so many rows per hit are reranked …
const THIN_RERANK: usize = 20;
/// … and this many are for few hits.
const THIN_LEAST: usize = 200;
/// One further round of codes …
const ROUND: Budget = Budget { requests: 64, bytes: 8 << 20 };
/// … and of each vector, if there are several.
const ROUND_OF_MANY: Budget = Budget { requests: 40, bytes: 4 << 20 };
/// A leaf with e times as many rows that pass is worth as much as one whose score is higher by this share of the margin
/// that e times fewer neighbours lie beyond. A share of one would be right if leaves were as many at each margin.
const CROWD: f32 = 1.0 / 3.0;
/// Share of what a search may miss that may be missed by choosing candidates by their codes; the rest is the probing's.
const RERANK_LOSS: f64 = 0.25;
/// Further rounds, unless there are still fewer rows than wanted: each is a wave.
const FURTHER_ROUNDS: u32 = 1;

/// What a search found, nearest first, and what was read of the rows.
#[derive(Default)]
pub(crate) struct Found {
    pub rows: Vec<(f32, Place)>,
    pub read: Vec<(Vectors, Payload)>,
    pub rule: &'static str,
    pub leaves: u64,
    pub codes: u64,
    pub reranked: u64,
    pub rounds: u32,
    /// The share of the nearest rows to expect where no codes were read though the recall asks for them.
    pub missed: f64,
    /// The share of them to expect among candidates that were not measured, as that would take too many requests.
    pub left_out: f64,
    /// Rows of the tail that were measured.
    pub tail_rows: u64,
}

impl Reader {
    /// The nearest rows of a scene to a vector.
    pub(crate) async fn nearest(&self, meter: &Meter, scene: &Scene<'_>, asked: &Asked) -> Result<Found> {
        let matching = scene.matching();
        if matching > 0 && scene.is_held() {
            return self.in_memory(meter, scene, asked).await;
        }
        let mut best = TopK::new(scene.k);
        let tail = scene.add_tail(asked, false, &mut best);
        if matching == 0 {
            let rows = best.into_sorted();
            return Ok(Found {
                rows,
                rule: "tail",
                codes: tail.codes,
                tail_rows: tail.rows,
                ..Found::default()
            });
        }
        if scene.is_exact() && matching > FEW {
            let found = self.exhaustive(meter, scene, asked, best).await?;
            return Ok(Found { codes: tail.codes, tail_rows: tail.rows, ..found });
        }
        let (mut candidates, mut found) = if matching <= FEW {
            let all = scene.rows.iter().zip(&scene.loaded.parts);
            let candidates = all.map(|(rows, p)| rows.within(0..p.segment.row_count())).collect();
            (Wanted::Rows(candidates), Found { rule: "rows", ..Found::default() })
        } else {
            self.by_codes(meter, scene, asked, matching).await?
        };
        let (read, left_out) = self.read_rows(meter, scene, &mut candidates).await?;
        (found.read, found.left_out) = (read, left_out / scene.k.max(1) as f64);
        found.rows = self.measure(scene, asked, best, &found.read, &candidates).into_sorted();
        (found.tail_rows, found.codes) = (tail.rows, found.codes + tail.codes);
        found.reranked = candidates.count(scene.loaded.parts.len());
        Ok(found)
    }

    async fn in_memory(&self, meter: &Meter, scene: &Scene<'_>, asked: &Asked) -> Result<Found> {
        let parts = &scene.loaded.parts;
        let codes: Vec<Arc<Codes>> =
            parts.iter().map(|p| p.segment.held_codes().cloned().unwrap_or_default()).collect();
        let rows = parts.iter().map(|p| u64::from(p.segment.row_count())).sum();
        let masked = parts.iter().map(|p| &*p.segment).zip(scene.masks.iter());
        let narrow = scene.loaded.filter.is_some() && is_narrow(scene.matching(), rows, masked);
        let held: Vec<Held<'_>> = (parts.iter().zip(&codes))
            .zip(scene.masks.iter().zip(scene.rows.iter()))
            .map(|((part, codes), (mask, rows))| {
                let limits = (!narrow).then(|| calibration(&part.segment, scene.min_recall));
                Held { segment: &part.segment, codes, mask, rows, limits }
            })
            .collect();
        let mut best = TopK::new(scene.k);
        let few = if scene.is_exact() { u64::MAX } else { FEW };
        let effort = probe(asked, &held, few, &mut best);
        // Last: the nearer the k-th row is by then, the fewer rows of the tail are measured.
        let tail = scene.add_tail(asked, effort.limited, &mut best);
        let rows = best.into_sorted();
        let reads = (0u32..).zip(parts).map(|(number, part)| {
            let wanted = scene.payload || !part.segment.has_heads();
            let own = rows.iter().filter(move |(_, p)| wanted && p.0 == number).map(|(_, p)| p.1 as u32);
            let (own, meter): (Vec<u32>, Meter) = (own.collect(), meter.fork());
            async move {
                let payload =
                    part.segment.read_payload(self.client(), &meter, &scene.view.schema, own).await?;
                Ok::<_, esker_format::Error>((Vectors::default(), payload))
            }
        });
        let read = futures::future::try_join_all(reads).await?;
        let (leaves, codes, reranked) = (effort.leaves, effort.codes + tail.codes, effort.reranked);
        Ok(Found {
            rows,
            read,
            rule: "memory",
            leaves,
            codes,
            reranked,
            tail_rows: tail.rows,
            ..Found::default()
        })
    }

    /// Candidates from the codes that were read, and from further rounds of them as far as a filter or too few rows make
    /// that necessary.
    async fn by_codes(
        &self,
        meter: &Meter,
        scene: &Scene<'_>,
        asked: &Asked,
        matching: u64,
    ) -> Result<(Wanted, Found)> {
        let (parts, filtered) = (&scene.loaded.parts, scene.loaded.filter.is_some());
        let doubtful = scene.doubtful();
        let mut estimates = Estimates::new(asked.metric, scene.k + doubtful);
        let posed: Vec<Posed<'_>> = parts.iter().map(|p| Posed::new(asked, &p.segment)).collect();
        let limits: Vec<Calibration> =
            parts.iter().map(|p| calibration(&p.segment, scene.min_recall)).collect();
        let mut found =
            Found { rule: if scene.loaded.whole { "codes" } else { "probe" }, ..Found::default() };
        let mut left: Vec<Vec<bool>> =
            parts.iter().map(|p| vec![true; p.segment.header.leaf_count() as usize]).collect();
        let mut thin = false;
        let mut round: Vec<Arc<Codes>> = parts.iter().map(|p| p.codes.clone()).collect();
        loop {
            let suspects = self.suspects(meter, scene, &round, found.rounds).await?;
            let masks = masks(parts, &scene.rows, &round);
            for (i, (posed, codes)) in posed.iter().zip(&round).enumerate() {
                let leaves: Vec<u32> =
                    codes.leaves().iter().copied().filter(|l| left[i][*l as usize]).collect();
                leaves.iter().for_each(|l| left[i][*l as usize] = false);
                found.leaves += leaves.len() as u64;
                estimates.scan(i as u32, posed, codes, &leaves, &masks[i], &suspects[i]);
            }
            let kth = estimates.kth_score();
            if found.rounds == 0 {
                thin = is_thin_around(scene, &posed, &suspects);
            }
            // Without a filter δ decides, unless there are too few rows.
            let margin = |i: usize| match (thin, filtered) {
                (true, _) => thin_margin(&limits[i]),
                (false, true) => limits[i].b,
                (false, false) => f32::NEG_INFINITY,
            };
            let enough = kth > f32::NEG_INFINITY;
            if enough && found.rounds == FURTHER_ROUNDS {
                break;
            }
            let bound = |i: usize| if enough { kth - margin(i) } else { kth };
            let next = further(scene, &posed, &left, bound, if enough { 0 } else { 2 * scene.k + doubtful });
            if next.iter().all(Vec::is_empty) {
                break;
            }
            found.rounds += 1;
            let reads = parts.iter().zip(&next).map(|(part, leaves)| {
                let (meter, sizes_meter) = (meter.fork(), meter.fork());
                async move {
                    if leaves.is_empty() {
                        return Ok(Arc::default());
                    }
                    let (segment, client) = (&part.segment, self.client());
                    let codes = segment.read_codes(client, &meter, Want::Leaves(leaves));
                    let sizes = segment.read_payload_sizes(client, &sizes_meter, leaves);
                    Ok::<_, esker_format::Error>(futures::try_join!(codes, sizes)?.0)
                }
            });
            round = futures::future::try_join_all(reads).await?;
        }
        found.codes = estimates.scanned;
        found.missed = left_out(scene, &posed, &left, estimates.kth_score(), !filtered && !thin);
        let narrow = filtered && (scene.loaded.whole || matching <= SCANNED_ROWS);
        let (least, most) = if narrow {
            // INDEX §3 takes all 100; what is far below the k-th estimate need not be read.
            let rows = (2 * scene.k).max(100);
            (2 * scene.k, if thin { rows.max(THIN_RERANK * scene.k) } else { rows })
        } else if thin {
            (2 * scene.k, (THIN_RERANK * scene.k).max(THIN_LEAST))
        } else {
            let calibrated = limits.iter().map(|l| l.rerank as usize).max().unwrap_or(0);
            (2 * scene.k, (5 * scene.k).max(50).max(calibrated * scene.k.div_ceil(10)))
        };
        let share = 1.0 - RERANK_LOSS * f64::from(1.0 - scene.min_recall);
        let (least, most) = (least + doubtful, most + doubtful);
        Ok((Wanted::Candidates(estimates.cut(scene.k, share, least, most), least), found))
    }

    /// Per segment the rows of a round whose ids may have been touched by a tail of many ids.
    async fn suspects(
        &self,
        meter: &Meter,
        scene: &Scene<'_>,
        round: &[Arc<Codes>],
        rounds: u32,
    ) -> Result<Vec<RoaringBitmap>> {
        if !scene.by_hash() {
            return Ok(vec![RoaringBitmap::new(); round.len()]);
        }
        let reads = scene.loaded.parts.iter().zip(round).map(|(part, codes)| {
            let meter = meter.fork();
            async move {
                let segment = &part.segment;
                let plane = match &part.idplane {
                    Some(plane) if rounds == 0 => plane.clone(),
                    _ => Arc::new(
                        segment.read_idplane(self.client(), &meter, Want::Leaves(codes.leaves())).await?,
                    ),
                };
                Ok(segment.suspects(&plane, codes, |hash| scene.view.tail.may_touch(hash)))
            }
        });
        futures::future::try_join_all(reads).await
    }
}

/// See [`is_thin`]; rows that the tail may have overwritten do not count either.
fn is_thin_around(scene: &Scene<'_>, posed: &[Posed<'_>], suspects: &[RoaringBitmap]) -> bool {
    let mut best: Vec<(f32, usize, u32)> = Vec::new();
    for (i, p) in posed.iter().enumerate() {
        best.extend((0u32..).zip(&p.scores).map(|(leaf, score)| (*score, i, leaf)));
    }
    best.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    best.truncate(SURROUNDINGS);
    let count = |i: usize| scene.rows[i].clone().without(posed[i].segment.row_count(), &suspects[i]);
    let rows: Vec<Rows> = (0..posed.len()).map(count).collect();
    let total: u64 = posed.iter().map(|p| u64::from(p.segment.row_count())).sum();
    let matching: u64 = rows.iter().zip(posed).map(|(r, p)| r.count(p.segment.row_count())).sum();
    is_thin(
        matching as f64 / total as f64,
        best.iter().map(|(_, i, leaf)| (posed[*i].segment, &rows[*i], *leaf)),
    )
}

fn masks(parts: &[Part], rows: &[Rows], codes: &[Arc<Codes>]) -> Vec<Mask> {
    let all = parts.iter().zip(rows).zip(codes);
    all.map(|((part, rows), codes)| Mask::new(&part.segment, rows, codes)).collect()
}

/// The share of the nearest rows to expect in leaves that are `left`, of all segments, whose k-th row has the score `kth`.
/// Leaves were chosen by their distance from the best one, without a filter, where `plain`.
fn left_out(scene: &Scene<'_>, posed: &[Posed<'_>], left: &[Vec<bool>], kth: f32, plain: bool) -> f64 {
    if kth == f32::NEG_INFINITY {
        return 0.0;
    }
    let total: u64 = posed.iter().map(|p| u64::from(p.segment.row_count())).sum();
    let best = posed.iter().flat_map(|p| &p.scores).copied().fold(f32::NEG_INFINITY, f32::max);
    let of_segment = |i: usize| {
        let p = &posed[i];
        // With copies, a row is also found by another leaf than its own: δ knows of it, b does not. Of what passes a filter δ
        // knows nothing.
        let by_copies = plain && p.segment.spilled();
        let from = if by_copies { best } else { kth };
        let margin = |c: &Calibration| Calibration { b: if by_copies { c.delta } else { c.b }, ..*c };
        let limits: Vec<Calibration> = p.segment.header.calibration().iter().map(margin).collect();
        let leaf =
            |(leaf, score): (u32, &f32)| (from - score, !left[i][leaf as usize], scene.rows_in_leaf(i, leaf));
        missed(&limits, (0u32..).zip(&p.scores).map(leaf).collect()) * f64::from(p.segment.row_count())
    };
    (0..posed.len()).map(of_segment).sum::<f64>() / total.max(1) as f64
}

/// Leaves to read next: not scanned, with rows that count, and a score of at least `bound` of their segment; those first
/// where most neighbours are to be expected, as far as a round goes, though not before there are `least` such rows in them.
fn further(
    scene: &Scene<'_>,
    posed: &[Posed<'_>],
    left: &[Vec<bool>],
    bound: impl Fn(usize) -> f32,
    least: usize,
) -> Vec<Vec<u32>> {
    let mut order: Vec<(f32, usize, u32, u64)> = Vec::new();
    for (i, p) in posed.iter().enumerate() {
        let (bound, falloff) = (bound(i), falloff(p.segment.header.calibration()));
        let wanted =
            (0u32..).zip(&p.scores).filter(|(leaf, score)| left[i][*leaf as usize] && **score >= bound);
        order.extend(wanted.filter_map(|(leaf, score)| {
            let count = scene.rows_in_leaf(i, leaf);
            (count > 0).then(|| (crowded(*score, falloff, count), i, leaf, count))
        }));
    }
    order.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let (mut best, mut rows, mut needed) = (Vec::with_capacity(order.len()), 0, 0);
    for (_, i, leaf, count) in order {
        best.push((i, leaf));
        needed += usize::from(rows < least as u64);
        rows += count;
    }
    let segments: Vec<&Segment> = posed.iter().map(|p| p.segment).collect();
    let budget = if scene.loaded.asked.len() > 1 { ROUND_OF_MANY } else { ROUND };
    affordable(&segments, &best, needed, budget)
}

/// A leaf's score, and what it is worth more for the rows in it.
fn crowded(score: f32, falloff: f32, rows: u64) -> f32 {
    score + CROWD * falloff * (rows as f32).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_with_more_rows_that_pass_are_as_if_nearer() {
        assert!(crowded(0.5, 0.3, 1) == 0.5 && crowded(0.5, 0.3, 20) > crowded(0.5, 0.3, 10));
        // A third of the margin for e times the rows: no more than that.
        assert!((0.82..0.84).contains(&crowded(0.5, 0.3, 27)));
        assert_eq!(crowded(0.5, 0.0, 1_000), 0.5);
    }
}
