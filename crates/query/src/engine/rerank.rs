//! Exact vectors and payload of the rows that are worth it, and their distances: the last wave of a cold search.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use esker_format::Result;
use esker_index::TopK;
use esker_store::Meter;

use super::Reader;
use super::load::Part;
use super::scene::Scene;
use crate::ranges::{Shape, Thrift};
use crate::search::estimate::Candidate;
use crate::search::{Asked, Place};
use crate::segment::{Payload, Vectors};

/// What the last wave may cost.
#[derive(Clone, Copy)]
struct Budget {
    /// With few requests, as far as that wastes little …
    few: Thrift,
    /// … of candidates that would take more requests than this the least likely are left out …
    requests: usize,
    /// … if few of the nearest are expected among them: else so much is wasted …
    rather: Thrift,
    /// … and up to so many requests are made.
    most: usize,
}

/// After codes were read whole …
const AFTER_ALL: Budget = Budget {
    few: Thrift { requests: 48, waste: 1 << 20 },
    requests: 64,
    rather: Thrift { requests: 64, waste: 4 << 20 },
    most: 96,
};
/// … after leaves were probed, which took 24 requests and 3 MiB already …
const AFTER_PROBING: Budget = Budget { few: Thrift { requests: 32, waste: 2 << 20 }, ..AFTER_ALL };
/// … and where most candidates are by codes of a learned basis: with better estimates few of the nearest are left out.
const WITH_BASIS: Budget =
    Budget { requests: 37, rather: Thrift { requests: 37, waste: 2 << 20 }, most: 45, ..AFTER_PROBING };
/// Each segment beside the first takes so many bytes off that waste: it has a header of its own.
const LESS_WASTE: u64 = 192 << 10;
/// More recall than this, and none are left out.
const FRUGAL: f32 = 0.98 + 1e-6;

/// The rows to measure.
pub(crate) enum Wanted {
    /// Per segment.
    Rows(Vec<Vec<u32>>),
    /// By their codes: the likeliest first, of which at least so many.
    Candidates(Vec<Candidate>, usize),
}

impl Wanted {
    fn ordinals(&self, number: u32) -> Vec<u32> {
        match self {
            Wanted::Rows(rows) => rows[number as usize].clone(),
            Wanted::Candidates(all, _) => {
                all.iter().filter(|c| c.segment == number).map(|c| c.ordinal).collect()
            }
        }
    }

    /// How many, in `parts` segments.
    pub fn count(&self, parts: usize) -> u64 {
        (0..parts as u32).map(|number| self.ordinals(number).len() as u64).sum()
    }
}

/// Where payload blocks of a segment lie.
type Places = Vec<(u32, Range<u64>)>;

impl Reader {
    /// Exact vectors and payload of the rows to measure: one wave. Leaves out candidates that cost too many requests, and says how
    /// many of the nearest are expected among these.
    pub(super) async fn read_rows(
        &self,
        meter: &Meter,
        scene: &Scene<'_>,
        wanted: &mut Wanted,
    ) -> Result<(Vec<(Vectors, Payload)>, f64)> {
        let (parts, client) = (&scene.loaded.parts, self.client());
        let places = (0u32..).zip(parts).map(|(number, part)| {
            let (meter, ordinals) = (meter.fork(), wanted.ordinals(number));
            async move { part.segment.payload_places(client, &meter, ordinals).await }
        });
        let places: Vec<Places> = futures::future::try_join_all(places).await?;
        let further = parts.len().saturating_sub(1) as u64;
        let has_basis = |c: &&Candidate| parts[c.segment as usize].segment.leaves.encoder.basis().is_some();
        let by_basis = match &*wanted {
            Wanted::Rows(_) => false,
            Wanted::Candidates(all, _) => 2 * all.iter().filter(has_basis).count() > all.len(),
        };
        let mut budget = match (scene.loaded.whole, by_basis) {
            (true, _) => AFTER_ALL,
            (false, false) => AFTER_PROBING,
            (false, true) => WITH_BASIS,
        };
        if !scene.loaded.whole {
            budget.few.waste = budget.few.waste.saturating_sub(LESS_WASTE * further);
        }
        let mut left_out = 0.0;
        let gap = match wanted {
            Wanted::Rows(_) => budget.few.gap([]),
            Wanted::Candidates(all, least) => {
                let mut thrift = budget.few;
                if scene.min_recall <= FRUGAL {
                    let loss = f64::from(1.0 - scene.min_recall) * scene.k as f64;
                    let kept;
                    (kept, thrift) = affordable(parts, all, *least, &places, budget, loss);
                    left_out = all.drain(kept..).map(|c| c.chance).sum();
                }
                thrift.gap(lists(parts, all, &places).iter().map(Vec::as_slice))
            }
        };
        let shape = Shape::Gap(gap);
        let reads = (0u32..).zip(parts).zip(&places).map(|((number, part), places)| {
            let (vectors_meter, payload_meter) = (meter.fork(), meter.fork());
            let (segment, wanted) = (&part.segment, &*wanted);
            async move {
                let ordinals = wanted.ordinals(number);
                let blocks: HashSet<u32> =
                    ordinals.iter().map(|o| segment.header.payload_block_of(*o)).collect();
                let places: Places = places.iter().filter(|(b, _)| blocks.contains(b)).cloned().collect();
                let payload =
                    segment.read_payload_at(client, &payload_meter, &scene.view.schema, &places, shape);
                let vectors = async {
                    match wanted {
                        Wanted::Rows(_) => {
                            segment.read_vectors_alone(client, &vectors_meter, &ordinals).await
                        }
                        Wanted::Candidates(all, _) => {
                            let own = all.iter().filter(|c| c.segment == number);
                            let own: Vec<(u32, u16)> = own.map(|c| (c.ordinal, c.check)).collect();
                            segment.read_vectors(client, &vectors_meter, &own, shape).await
                        }
                    }
                };
                futures::try_join!(vectors, payload)
            }
        });
        Ok((futures::future::try_join_all(reads).await?, left_out))
    }

    /// Adds the rows that were read to the tail's, without those whose id the tail touched.
    pub(super) fn measure(
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

/// How many of the candidates, the likeliest first, are read, at least `least`, and how: with few requests, or if more than
/// `loss` of the nearest are expected among those left out then, with more.
fn affordable(
    parts: &[Part],
    all: &[Candidate],
    least: usize,
    places: &[Places],
    budget: Budget,
    loss: f64,
) -> (usize, Thrift) {
    let most = |least: usize, high: usize, thrift: Thrift, requests: usize| {
        let (mut low, mut high) = (least.min(high), high);
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            let lists = lists(parts, &all[..middle], places);
            match thrift.requests(lists.iter().map(Vec::as_slice)) <= requests {
                true => low = middle,
                false => high = middle - 1,
            }
        }
        low
    };
    let few = most(least, all.len(), budget.few, budget.requests);
    let mut lost = 0.0;
    let unlikely = all[few..].iter().rev().take_while(|c| {
        lost += c.chance;
        lost <= loss
    });
    let wanted = all.len() - unlikely.count();
    if wanted <= few {
        return (few, budget.few);
    }
    (most(few, wanted, budget.rather, budget.most), budget.rather)
}

/// The ranges of candidates' vectors and payload blocks, a list per file.
fn lists(parts: &[Part], candidates: &[Candidate], places: &[Places]) -> Vec<Vec<Range<u64>>> {
    let (mut vectors, mut payload) = (vec![Vec::new(); parts.len()], vec![Vec::new(); parts.len()]);
    let blocks: Vec<HashMap<u32, &Range<u64>>> =
        places.iter().map(|all| all.iter().map(|(block, range)| (*block, range)).collect()).collect();
    // What is held costs no request.
    for c in candidates.iter().filter(|c| !parts[c.segment as usize].segment.is_held()) {
        let (i, header) = (c.segment as usize, &parts[c.segment as usize].segment.header);
        vectors[i].push(header.rows().vector_range(c.ordinal));
        payload[i].extend(blocks[i].get(&header.payload_block_of(c.ordinal)).copied().cloned());
    }
    vectors.extend(payload);
    vectors
}
