//! The nearest rows to one vector: candidates by their codes, then exact vectors and payload in one wave; or, on
//! segments held in memory, both at once.

use std::sync::Arc;

use esker_format::Result;
use esker_format::segment::index::Calibration;
use esker_index::TopK;
use esker_store::Meter;
use roaring::RoaringBitmap;

use super::Reader;
use super::load::{FEW_IDS, Loaded, Part};
use super::see::View;
use crate::search::estimate::{Candidate, Estimates};
use crate::search::probe::{FEW, Held, probe};
use crate::search::{
    Asked, NEIGHBOURHOOD, Place, Posed, SCANNED_ROWS, TAIL, calibration, is_thin, thin_margin,
};
use crate::segment::{Codes, Mask, Payload, Rows, Vectors, Want};
use crate::tail::TailRow;

/// Where most neighbours are gone, at most so many rows per hit are reranked …
const THIN_RERANK: usize = 20;
/// … and this many are for few hits.
const THIN_LEAST: usize = 200;
/// Most bytes of codes in one further round.
const ROUND_BYTES: u64 = 4 << 20;

/// What the searches of one request share.
pub(crate) struct Scene<'a> {
    pub view: &'a View,
    pub loaded: &'a Loaded,
    /// Per segment, the rows that count; those that the tail superseded are gone if `resolved`.
    pub rows: Vec<Rows>,
    /// Whether what the tail superseded is known exactly.
    pub resolved: bool,
    /// Newest rows of the tail that pass.
    pub tail: Vec<TailRow>,
    pub k: usize,
    pub min_recall: f32,
}

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
}

impl Scene<'_> {
    /// Rows of segments that count, before the tail's ids are compared.
    pub fn matching(&self) -> u64 {
        let count = |(rows, part): (&Rows, &Part)| rows.count(part.segment.row_count());
        self.rows.iter().zip(&self.loaded.parts).map(count).sum()
    }

    /// How many candidates may turn out to be overwritten.
    fn doubtful(&self) -> usize {
        let ids = self.view.tail.ids();
        if self.resolved || ids > FEW_IDS { 0 } else { ids }
    }

    /// Whether rows that the tail may have overwritten are told apart by the hash of their id.
    fn by_hash(&self) -> bool {
        !self.resolved && self.view.tail.ids() > FEW_IDS
    }

    /// The tail's rows by exact distance.
    fn tail_rows(&self, asked: &Asked) -> Result<TopK<Place>> {
        let mut best = TopK::new(self.k);
        for row in &self.tail {
            best.push(self.view.tail.distance(*row, &asked.exact)?, place(*row));
        }
        Ok(best)
    }
}

/// The place of a row of the tail.
pub(crate) fn place((entry, row): TailRow) -> Place {
    (TAIL, u64::from(entry) << 32 | u64::from(row))
}

/// The row of the tail at a place.
pub(crate) fn tail_row(place: u64) -> TailRow {
    ((place >> 32) as u32, place as u32)
}

impl Reader {
    /// The nearest rows of a scene to a vector.
    pub(crate) async fn nearest(&self, meter: &Meter, scene: &Scene<'_>, asked: &Asked) -> Result<Found> {
        let best = scene.tail_rows(asked)?;
        let matching = scene.matching();
        if matching == 0 {
            return Ok(Found { rows: best.into_sorted(), rule: "tail", ..Found::default() });
        }
        if scene.resolved && scene.loaded.parts.iter().all(|p| p.segment.is_held()) {
            return self.in_memory(meter, scene, asked, best).await;
        }
        let (candidates, mut found) = if matching <= FEW {
            let all = scene.rows.iter().zip(&scene.loaded.parts);
            let candidates = all.map(|(rows, p)| rows.within(0..p.segment.row_count())).collect();
            (Wanted::Rows(candidates), Found { rule: "rows", ..Found::default() })
        } else {
            let (candidates, found) = self.by_codes(meter, scene, asked, matching).await?;
            (Wanted::Candidates(candidates), found)
        };
        found.read = self.read_rows(meter, scene, &candidates).await?;
        found.rows = self.measure(scene, asked, best, &found.read, &candidates).into_sorted();
        found.reranked = candidates.count(scene.loaded.parts.len());
        Ok(found)
    }

    async fn in_memory(
        &self,
        meter: &Meter,
        scene: &Scene<'_>,
        asked: &Asked,
        mut best: TopK<Place>,
    ) -> Result<Found> {
        let parts = &scene.loaded.parts;
        let codes: Vec<Arc<Codes>> =
            parts.iter().map(|p| p.segment.held_codes().cloned().unwrap_or_default()).collect();
        let masks = masks(parts, &scene.rows, &codes);
        let narrow = scene.loaded.filter.is_some() && scene.matching() <= SCANNED_ROWS;
        let held: Vec<Held<'_>> = (parts.iter().zip(&codes))
            .zip(masks.iter().zip(&scene.rows))
            .map(|((part, codes), (mask, rows))| {
                let limits = (!narrow).then(|| calibration(&part.segment, scene.min_recall));
                Held { segment: &part.segment, codes, mask, rows, limits }
            })
            .collect();
        let effort = probe(asked, &held, &mut best);
        let rows = best.into_sorted();
        let reads = (0u32..).zip(parts).map(|(number, part)| {
            let own = rows.iter().filter(move |(_, p)| p.0 == number).map(|(_, p)| p.1 as u32);
            let (own, meter): (Vec<u32>, Meter) = (own.collect(), meter.fork());
            async move {
                let payload =
                    part.segment.read_payload(self.client(), &meter, &scene.view.schema, own).await?;
                Ok::<_, esker_format::Error>((Vectors::default(), payload))
            }
        });
        let read = futures::future::try_join_all(reads).await?;
        let (leaves, codes, reranked) = (effort.leaves, effort.codes, effort.reranked);
        Ok(Found { rows, read, rule: "memory", leaves, codes, reranked, rounds: 0 })
    }

    /// Candidates from the codes that were read, and from further rounds of them as far as a filter or too few rows make
    /// that necessary.
    async fn by_codes(
        &self,
        meter: &Meter,
        scene: &Scene<'_>,
        asked: &Asked,
        matching: u64,
    ) -> Result<(Vec<Candidate>, Found)> {
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
            let next =
                further(
                    scene,
                    &posed,
                    &left,
                    |i| if kth == f32::NEG_INFINITY { kth } else { kth - margin(i) },
                );
            if next.iter().all(Vec::is_empty) {
                break;
            }
            found.rounds += 1;
            let reads = parts.iter().zip(&next).map(|(part, leaves)| {
                let meter = meter.fork();
                async move {
                    if leaves.is_empty() {
                        return Ok(Arc::default());
                    }
                    part.segment.read_codes(self.client(), &meter, Want::Leaves(leaves)).await
                }
            });
            round = futures::future::try_join_all(reads).await?;
        }
        found.codes = estimates.scanned;
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
        Ok((estimates.cut(least + doubtful, most + doubtful), found))
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

    /// Exact vectors and payload of the rows to measure: one wave.
    async fn read_rows(
        &self,
        meter: &Meter,
        scene: &Scene<'_>,
        wanted: &Wanted,
    ) -> Result<Vec<(Vectors, Payload)>> {
        let reads = (0u32..).zip(&scene.loaded.parts).map(|(number, part)| {
            let (vectors_meter, payload_meter) = (meter.fork(), meter.fork());
            async move {
                let (segment, client) = (&part.segment, self.client());
                let ordinals = wanted.ordinals(number);
                let payload = segment.read_payload(
                    client,
                    &payload_meter,
                    &scene.view.schema,
                    ordinals.iter().copied(),
                );
                let vectors = async {
                    match wanted {
                        Wanted::Rows(_) => {
                            segment.read_vectors_alone(client, &vectors_meter, &ordinals).await
                        }
                        Wanted::Candidates(all) => {
                            let own =
                                all.iter().filter(|c| c.segment == number).map(|c| (c.ordinal, c.check));
                            segment.read_vectors(client, &vectors_meter, &own.collect::<Vec<_>>()).await
                        }
                    }
                };
                futures::try_join!(vectors, payload)
            }
        });
        futures::future::try_join_all(reads).await
    }

    /// Adds the rows that were read to the tail's, without those whose id the tail touched.
    fn measure(
        &self,
        scene: &Scene<'_>,
        asked: &Asked,
        mut best: TopK<Place>,
        read: &[(Vectors, Payload)],
        wanted: &Wanted,
    ) -> TopK<Place> {
        for ((number, part), (vectors, payload)) in (0u32..).zip(&scene.loaded.parts).zip(read) {
            for ordinal in wanted.ordinals(number) {
                let (Some(bytes), Some(id)) = (vectors.get(ordinal), payload.id(ordinal)) else { continue };
                if scene.resolved || !scene.view.tail.touches(id) {
                    let distance = asked.exact.row_bytes(part.segment.width(), bytes);
                    best.push(distance, (number, u64::from(ordinal)));
                }
            }
        }
        best
    }
}

/// The rows to measure.
enum Wanted {
    /// Per segment.
    Rows(Vec<Vec<u32>>),
    Candidates(Vec<Candidate>),
}

impl Wanted {
    fn ordinals(&self, number: u32) -> Vec<u32> {
        match self {
            Wanted::Rows(rows) => rows[number as usize].clone(),
            Wanted::Candidates(all) => {
                all.iter().filter(|c| c.segment == number).map(|c| c.ordinal).collect()
            }
        }
    }

    fn count(&self, parts: usize) -> u64 {
        (0..parts as u32).map(|number| self.ordinals(number).len() as u64).sum()
    }
}

/// See [`is_thin`]; rows that the tail may have overwritten do not count either.
fn is_thin_around(scene: &Scene<'_>, posed: &[Posed<'_>], suspects: &[RoaringBitmap]) -> bool {
    let mut best: Vec<(f32, usize, u32)> = Vec::new();
    for (i, p) in posed.iter().enumerate() {
        best.extend((0u32..).zip(&p.scores).map(|(leaf, score)| (*score, i, leaf)));
    }
    best.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    best.truncate(NEIGHBOURHOOD);
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

/// Leaves to read next: not scanned, with rows that count, and a score of at least `bound` of their segment; best first
/// as far as a round goes.
fn further(
    scene: &Scene<'_>,
    posed: &[Posed<'_>],
    left: &[Vec<bool>],
    bound: impl Fn(usize) -> f32,
) -> Vec<Vec<u32>> {
    let mut order: Vec<(f32, usize, u32)> = Vec::new();
    for (i, p) in posed.iter().enumerate() {
        let bound = bound(i);
        let wanted =
            (0u32..).zip(&p.scores).filter(|(leaf, score)| left[i][*leaf as usize] && **score >= bound);
        order.extend(wanted.map(|(leaf, score)| (*score, i, leaf)));
    }
    order.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let (mut next, mut bytes) = (vec![Vec::new(); posed.len()], 0);
    for (_, i, leaf) in order {
        let header = &posed[i].segment.header;
        let counts = match &scene.rows[i] {
            Rows::All => true,
            Rows::Only(only) => {
                let own = header.leaf(leaf).ordinals;
                posed[i].segment.spilled() || only.range(own).next().is_some()
            }
        };
        if counts {
            bytes += header.leaf_groups(leaf).len() as u64 * u64::from(header.facts().group_bytes);
            next[i].push(leaf);
            if bytes > ROUND_BYTES {
                break;
            }
        }
    }
    next.iter_mut().for_each(|leaves: &mut Vec<u32>| leaves.sort_unstable());
    next
}
