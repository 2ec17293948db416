//! How far a query must probe, and how many rows it must rerank, to meet a recall: measured on rows of the segment that
//! are asked as queries (INDEX §2).

use esker_format::Result;
use esker_format::segment::index::Calibration;
use esker_index::{Bound, CodeQuery, Codes, Exact, Metric, RECALLS, Rotation, Run, SplitMix, TopK};

use super::BuildOptions;
use super::codes::Coded;
use super::vectors::Vectors;
use crate::parallel::{self, Task};

/// True neighbours per query.
const K: usize = 10;
/// Most rows asked …
const MOST_QUERIES: usize = 500;
/// … and least, however large the segment.
const LEAST_QUERIES: usize = 128;
/// Values compared over all queries in between: about half a second of one core.
const VALUES: usize = 8_000_000_000;
/// Queries asked as one task.
const BLOCK: usize = 16;
/// Rows compared with the queries of a block in turn have at most this many values: half of a small first-level cache.
const TILE_VALUES: usize = 6144;
/// Fewest rows to rerank: 2k for k = 10.
const LEAST_RERANK: u32 = 20;
/// Steps in which limits are raised from their own quantile to the sample's greatest value.
const STEPS: usize = 1000;

/// What a query needs to find one of its true neighbours.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Need {
    /// b: the score of the 10th neighbour − the score of this one's leaf.
    margin: f32,
    /// δ: the best score of a leaf − the score of this one's leaf.
    reach: f32,
    /// Its place by estimate, from 1; rows of equal estimate, which are as good as always equal, share one.
    rank: u32,
}

/// Limits for the four recalls. Without a second row there is nothing to measure and they are unlimited. Each of
/// `scans` threads has an estimate of every row at once.
pub(super) fn calibrate(
    vectors: &dyn Vectors,
    coded: &Coded,
    leaf_starts: &[u32],
    metric: Metric,
    options: BuildOptions,
    scans: usize,
) -> Result<[Calibration; 4]> {
    let rows = vectors.rows();
    let sample =
        Sample { coded, leaf_starts, metric, rotation: Rotation::new(coded.seed, coded.dimension()), rows };
    let queries = sample.queries(options.seed);
    let queries =
        queries.into_iter().map(|o| Query::new(o, vectors.row(o)?, metric)).collect::<Result<Vec<_>>>()?;
    let mut blocks = Vec::with_capacity(queries.len().div_ceil(BLOCK));
    let mut queries = queries.into_iter().peekable();
    while queries.peek().is_some() {
        blocks.push(queries.by_ref().take(BLOCK).collect::<Vec<_>>());
    }
    vectors.each(&mut |first, vectors| {
        sample.nearest(first, vectors, &mut blocks, options.threads);
        Ok(())
    })?;
    let mut found: Vec<Vec<Need>> = vec![Vec::new(); blocks.len()];
    let tasks = blocks.into_iter().zip(&mut found);
    let sample = &sample;
    let tasks = tasks.map(|(block, out)| {
        Box::new(move || *out = block.into_iter().flat_map(|query| sample.needs_of(query)).collect())
            as Task<'_>
    });
    parallel::run(options.threads.min(scans), tasks.collect());
    let needs = found.concat();
    Ok(RECALLS.map(|min_recall| limits(&needs, min_recall)))
}

struct Sample<'a> {
    coded: &'a Coded,
    leaf_starts: &'a [u32],
    metric: Metric,
    rotation: Rotation,
    rows: usize,
}

/// A row that is asked, and its true neighbours so far.
struct Query {
    ordinal: usize,
    vector: Vec<f32>,
    exact: Exact,
    best: TopK<u32>,
}

impl Query {
    fn new(ordinal: usize, vector: Vec<f32>, metric: Metric) -> Result<Self> {
        // A product and a multiplication replace three products under cosine.
        let exact = match metric {
            Metric::Cosine => {
                let inverse = inverse_norm(&vector);
                Exact::new(Metric::Dot, &vector.iter().map(|x| x * inverse).collect::<Vec<f32>>())
            }
            Metric::L2 | Metric::Dot => Exact::new(metric, &vector),
        };
        Ok(Query { ordinal, vector, exact, best: TopK::new(K) })
    }
}

impl Sample<'_> {
    fn d(&self) -> usize {
        self.coded.dimension()
    }

    /// Ordinals of the rows that are asked: one from each of equal stretches.
    fn queries(&self, seed: u64) -> Vec<usize> {
        let rows = self.rows;
        let affordable = (VALUES / (rows * self.d()).max(1)).clamp(LEAST_QUERIES, MOST_QUERIES);
        let count = affordable.min(rows);
        let mut random = SplitMix::new(seed);
        (0..count)
            .map(|i| {
                let (from, to) = (i * rows / count, (i + 1) * rows / count);
                from + random.below(to - from)
            })
            .collect()
    }

    /// Compares the queries with rows from ordinal `first` on; a query is no neighbour of itself.
    fn nearest(&self, first: usize, vectors: &[f32], blocks: &mut [Vec<Query>], threads: usize) {
        let d = self.d();
        // 1/‖row‖ under cosine, else nothing.
        let inverse: Vec<f32> = match self.metric {
            Metric::Cosine => vectors.chunks_exact(d).map(inverse_norm).collect(),
            Metric::L2 | Metric::Dot => Vec::new(),
        };
        let (rows, tile, inverse) = (vectors.len() / d, (TILE_VALUES / d).max(1), &inverse);
        let compare = move |block: &mut [Query]| {
            for start in (0..rows).step_by(tile) {
                let end = (start + tile).min(rows);
                for query in &mut *block {
                    let mut worst = query.best.worst();
                    for row in start..end {
                        let distance = query.exact.f32(&vectors[row * d..][..d]);
                        let distance = inverse.get(row).map_or(distance, |inverse| 1.0 + distance * inverse);
                        if distance <= worst && first + row != query.ordinal {
                            query.best.push(distance, (first + row) as u32);
                            worst = query.best.worst();
                        }
                    }
                }
            }
        };
        let tasks = blocks.iter_mut().map(|block| Box::new(move || compare(block)) as Task<'_>);
        parallel::run(threads, tasks.collect());
    }

    fn needs_of(&self, query: Query) -> Vec<Need> {
        let Query { ordinal, vector, best, .. } = query;
        let nearest = best.into_sorted();
        let Some((tenth, _)) = nearest.last() else { return Vec::new() };
        let tenth = self.metric.score(*tenth);
        let scores = self.coded.centroids.scores(self.metric, &vector);
        let best_leaf = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut estimates = self.estimates(&vector, &scores);
        estimates[ordinal] = f32::INFINITY;
        let need = |(_, row): &(f32, u32)| {
            let leaf = self.leaf_starts.partition_point(|start| start <= row) - 1;
            let mine = estimates[*row as usize];
            let rank = 1 + estimates.iter().filter(|e| **e < mine).count() as u32;
            Need { margin: tenth - scores[leaf], reach: best_leaf - scores[leaf], rank }
        };
        nearest.iter().map(need).collect()
    }

    /// The estimate of every row, by ordinal.
    fn estimates(&self, query: &[f32], scores: &[f32]) -> Vec<f32> {
        let Coded { centroids, groups, scale, .. } = self.coded;
        let asked = CodeQuery::new(self.metric, self.d(), &self.rotation, *scale, query);
        let runs: Vec<Run> = (0..centroids.leaves())
            .map(|leaf| Run {
                first: self.leaf_starts[leaf] as usize,
                end: self.leaf_starts[leaf + 1] as usize,
                term: asked.term(scores[leaf], centroids.norm(leaf)),
            })
            .collect();
        let mut estimates = vec![f32::INFINITY; self.rows];
        let codes = Codes { groups, first_group: 0 };
        asked.scan(codes, &runs, |_| u32::MAX, Bound::NONE, &mut |posting, estimate, _| {
            estimates[posting] = estimate;
            f32::INFINITY
        });
        estimates
    }
}

fn inverse_norm(row: &[f32]) -> f32 {
    let square: f32 = row.iter().map(|x| x * x).sum();
    if square > 0.0 { square.sqrt().recip() } else { 0.0 }
}

/// The limits that a share `r` of the neighbours meet all at once: each is its own r-quantile first, then all are raised
/// together until that holds.
fn limits(needs: &[Need], r: f32) -> Calibration {
    let sorted = |value: fn(&Need) -> f32| {
        let mut values: Vec<f32> = needs.iter().map(value).collect();
        values.sort_unstable_by(f32::total_cmp);
        values
    };
    let (margins, reaches, ranks) = (sorted(|n| n.margin), sorted(|n| n.reach), sorted(|n| n.rank as f32));
    let wanted = (f64::from(r) * needs.len() as f64).ceil() as usize;
    let mut calibration =
        Calibration { min_recall: r, b: f32::INFINITY, delta: f32::INFINITY, rerank: LEAST_RERANK };
    for step in 0..=STEPS {
        let share = r + (1.0 - r) * step as f32 / STEPS as f32;
        calibration.b = quantile(&margins, share);
        calibration.delta = quantile(&reaches, share);
        // Without a sample: as many as any query may need at the least.
        let rank = quantile(&ranks, share);
        calibration.rerank = if rank.is_finite() { (rank as u32).max(LEAST_RERANK) } else { LEAST_RERANK };
        let reranked = |n: &&Need| n.rank <= calibration.rerank;
        let warm = needs.iter().filter(reranked).filter(|n| n.margin <= calibration.b).count();
        let cold = needs.iter().filter(reranked).filter(|n| n.reach <= calibration.delta).count();
        if warm.min(cold) >= wanted {
            break;
        }
    }
    calibration
}

/// The least value that at least a share r of the sorted values does not exceed; infinite without values.
fn quantile(sorted: &[f32], r: f32) -> f32 {
    let rank = (f64::from(r) * sorted.len() as f64 - 1e-6).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(f32::INFINITY)
}
