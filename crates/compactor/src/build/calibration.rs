//! How far a query must probe, and how many rows it must rerank, to meet a recall: measured on rows of the segment that
//! are asked as queries (INDEX §2).

use std::ops::Range;

use esker_format::Result;
use esker_format::segment::index::{Calibration, ORDINALS_BYTES};
use esker_index::{Bound, CodeQuery, Codes, Metric, Neighbours, RECALLS, Run, Seconds, SplitMix};

use super::BuildOptions;
use super::codes::{Coded, leaf_of};
use super::vectors::Vectors;
use crate::parallel::{self, Task};

/// True neighbours per query.
const K: usize = 10;
/// Most rows asked …
const MOST_QUERIES: usize = 2000;
/// … and least, however large the segment.
const LEAST_QUERIES: usize = 200;
/// Values compared over all queries in between: five seconds of one core at 100 GFLOP/s.
const VALUES: usize = 250_000_000_000;
/// Queries asked as one task.
const BLOCK: usize = 16;
/// Fewest rows to rerank: 2k for k = 10.
const LEAST_RERANK: u32 = 20;
/// Steps in which limits are raised from their own quantile to the sample's greatest value.
const STEPS: usize = 1000;

/// What a query needs to find one of its true neighbours.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Need {
    /// b: the score of the 10th neighbour − the score of this one's leaf.
    pub(super) margin: f32,
    /// δ: the best score of a leaf − the score of this one's leaf, or of that of its copy.
    pub(super) reach: f32,
    /// Its place by estimate, from 1; rows of equal estimate, which are as good as always equal, share one.
    pub(super) rank: u32,
}

/// Rows that are asked, and their true neighbours.
pub(super) struct Truth {
    metric: Metric,
    asked: Vec<u32>,
    queries: Vec<f32>,
    neighbours: Neighbours,
}

impl Truth {
    /// Compares rows of the segment with all of them.
    pub(super) fn find(vectors: &dyn Vectors, coded: &Coded, options: BuildOptions) -> Result<Truth> {
        let (rows, d, metric) = (vectors.rows(), coded.dimension(), coded.metric());
        let asked = asked(rows, d, options.seed);
        let mut queries = Vec::with_capacity(asked.len() * d);
        for ordinal in &asked {
            queries.extend(vectors.row(*ordinal as usize)?);
        }
        let mut neighbours = Neighbours::new(metric, d, &queries);
        vectors.each(&mut |first, vectors| {
            neighbours.offer(first as u32, vectors, options.threads);
            Ok(())
        })?;
        Ok(Truth { metric, asked, queries, neighbours })
    }

    /// Limits for the four recalls. Without a second row there is nothing to measure and they are unlimited.
    pub(super) fn calibrate(
        &self,
        coded: &Coded,
        leaf_starts: &[u32],
        options: BuildOptions,
    ) -> [Calibration; 4] {
        let needs = self.needs(coded, leaf_starts, 0..self.asked.len(), options);
        RECALLS.map(|min_recall| limits(&needs, min_recall))
    }

    /// What was found before: the rows that are asked, their vectors, and their neighbours.
    pub(super) fn of(metric: Metric, asked: Vec<u32>, queries: Vec<f32>, neighbours: Neighbours) -> Truth {
        Truth { metric, asked, queries, neighbours }
    }

    /// What some of the rows that are asked need.
    pub(super) fn needs(
        &self,
        coded: &Coded,
        leaf_starts: &[u32],
        queries: Range<usize>,
        options: BuildOptions,
    ) -> Vec<Need> {
        let sample = Sample { coded, leaf_starts, metric: self.metric };
        self.each(queries, options.threads, |own, query, nearest| sample.needs_of(own, query, nearest))
    }

    /// How many leaves must be probed for a share of the neighbours, if rows are in their own leaf only, and if each is in a
    /// `second` one, too.
    pub(super) fn leaves(
        &self,
        coded: &Coded,
        leaf_starts: &[u32],
        second: &[u32],
        share: f64,
        threads: usize,
    ) -> (u32, u32) {
        let places = self.each(0..self.asked.len(), threads, |_, query, nearest| {
            let scores = coded.centroids.scores(self.metric, query);
            let place = |leaf: usize| scores.iter().filter(|score| **score > scores[leaf]).count() as u32 + 1;
            let of = |(_, row): &(f32, u32)| {
                let once = place(leaf_of(leaf_starts, *row as usize));
                let second = second.get(*row as usize).filter(|leaf| **leaf != Seconds::NONE);
                (once, second.map_or(once, |leaf| once.min(place(*leaf as usize))))
            };
            nearest.iter().map(of).collect()
        });
        let needed = |mut places: Vec<u32>| {
            places.sort_unstable();
            let rank = (share * places.len() as f64).ceil() as usize;
            places.get(rank.saturating_sub(1)).copied().unwrap_or(0)
        };
        (needed(places.iter().map(|p| p.0).collect()), needed(places.iter().map(|p| p.1).collect()))
    }

    /// How many rows are asked.
    pub(super) fn count(&self) -> usize {
        self.asked.len()
    }

    /// A row that is asked, and the ordinals of its neighbours.
    pub(super) fn sample(&self, query: usize) -> (&[f32], Vec<u32>) {
        let d = self.queries.len() / self.asked.len().max(1);
        let nearest = self.neighbours.nearest(query, self.asked[query], K);
        (&self.queries[query * d..][..d], nearest.into_iter().map(|(_, row)| row).collect())
    }

    /// What `of` says of some of the rows that are asked, with the vector of each and its neighbours and their scores.
    fn each<T: Send + Clone>(
        &self,
        queries: Range<usize>,
        threads: usize,
        of: impl Fn(u32, &[f32], &[(f32, u32)]) -> Vec<T> + Sync,
    ) -> Vec<T> {
        let d = self.queries.len() / self.asked.len().max(1);
        let mut found: Vec<Vec<T>> = vec![Vec::new(); queries.len().div_ceil(BLOCK)];
        let (of, start, end) = (&of, queries.start, queries.end);
        let tasks = found.iter_mut().enumerate().map(|(block, out)| {
            Box::new(move || {
                let first = start + block * BLOCK;
                for query in first..end.min(first + BLOCK) {
                    let own = self.asked[query];
                    let nearest = self.neighbours.nearest(query, own, K);
                    out.extend(of(own, &self.queries[query * d..][..d], &nearest));
                }
            }) as Task<'_>
        });
        parallel::run(threads, tasks.collect());
        found.concat()
    }
}

/// Ordinals of the rows that are asked: one from each of equal stretches.
pub(super) fn asked(rows: usize, d: usize, seed: u64) -> Vec<u32> {
    let affordable = (VALUES / (rows * d).max(1)).clamp(LEAST_QUERIES, MOST_QUERIES);
    let count = affordable.min(rows);
    let mut random = SplitMix::new(seed);
    (0..count)
        .map(|i| {
            let (from, to) = (i * rows / count, (i + 1) * rows / count);
            (from + random.below(to - from)) as u32
        })
        .collect()
}

struct Sample<'a> {
    coded: &'a Coded,
    leaf_starts: &'a [u32],
    metric: Metric,
}

impl Sample<'_> {
    /// What the row `own` needs to find each of its `nearest`, given with their scores.
    fn needs_of(&self, own: u32, query: &[f32], nearest: &[(f32, u32)]) -> Vec<Need> {
        let Some((tenth, _)) = nearest.last() else { return Vec::new() };
        let centroids = &self.coded.centroids;
        let scores = centroids.scores(self.metric, query);
        let best_leaf = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let asked = self.coded.encoder().query(query);
        let runs: Vec<Run> = (0..centroids.leaves())
            .map(|leaf| {
                let (first, term) = (self.first(leaf), asked.term(scores[leaf], centroids.norm(leaf)));
                let rows = (self.leaf_starts[leaf + 1] - self.leaf_starts[leaf]) as usize;
                Run { first, end: first + rows, term }
            })
            .collect();
        let leaf_of = |row: u32| leaf_of(self.leaf_starts, row as usize);
        let estimates: Vec<f32> =
            nearest.iter().map(|(_, row)| self.estimate(&asked, *row, runs[leaf_of(*row)])).collect();
        let ranks = self.ranks(&asked, &runs, own, &estimates);
        let need = |((_, row), rank): (&(f32, u32), u32)| {
            let score = scores[leaf_of(*row)];
            // Warm searches look at rows in their own leaves, cold ones at copies, too.
            let copy = self.coded.postings.as_ref().and_then(|postings| postings.second(*row));
            let nearer = copy.map_or(score, |leaf| score.max(scores[leaf]));
            Need { margin: tenth - score, reach: best_leaf - nearer, rank }
        };
        nearest.iter().zip(ranks).map(need).collect()
    }

    /// The first posting of a leaf.
    fn first(&self, leaf: usize) -> usize {
        self.coded.postings.as_ref().map_or(self.leaf_starts, |p| &p.starts)[leaf] as usize
    }

    /// The posting of a row in its own leaf.
    fn posting(&self, row: u32) -> usize {
        let leaf = leaf_of(self.leaf_starts, row as usize);
        self.first(leaf) + (row - self.leaf_starts[leaf]) as usize
    }

    /// The estimate of one row of a leaf's run.
    fn estimate(&self, asked: &CodeQuery, row: u32, run: Run) -> f32 {
        let mut found = f32::INFINITY;
        let posting = self.posting(row);
        let only = Run { first: posting, end: posting + 1, ..run };
        asked.scan(self.codes(), &[only], |_| u32::MAX, Bound::NONE, &mut |_, estimate, _| {
            found = estimate;
            f32::INFINITY
        });
        found
    }

    /// One more than the rows but `own` whose estimate is below each of `estimates`.
    fn ranks(&self, asked: &CodeQuery, runs: &[Run], own: u32, estimates: &[f32]) -> Vec<u32> {
        let last = estimates.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let own = self.posting(own);
        let mut ranks = vec![1; estimates.len()];
        let bound = Bound { threshold: last, slack: 0.0 };
        asked.scan(self.codes(), runs, |_| u32::MAX, bound, &mut |posting, estimate, _| {
            if posting != own {
                let behind = ranks.iter_mut().zip(estimates).filter(|(_, mine)| estimate < **mine);
                behind.for_each(|(rank, _)| *rank += 1);
            }
            last
        });
        ranks
    }

    fn codes(&self) -> Codes<'_> {
        let beside = self.coded.postings.as_ref().map_or(0, |_| ORDINALS_BYTES as usize);
        Codes { groups: &self.coded.groups, first_group: 0, beside }
    }
}

/// The limits that a share `r` of the neighbours meet.
///
/// Of those that must be probed, b, it is a standard error of the sample more: as if a query found all of its neighbours or
/// none, which is the worst, so that what searches pass over by their estimates is in it, too. Leaves read without looking
/// at codes and rows reranked, δ and R, must do for the same neighbours: each is its own r-quantile first, then both
/// are raised together until that holds.
pub(super) fn limits(needs: &[Need], r: f32) -> Calibration {
    let sorted = |value: fn(&Need) -> f32| {
        let mut values: Vec<f32> = needs.iter().map(value).collect();
        values.sort_unstable_by(f32::total_cmp);
        values
    };
    let (margins, reaches, ranks) = (sorted(|n| n.margin), sorted(|n| n.reach), sorted(|n| n.rank as f32));
    let wanted = (f64::from(r) * needs.len() as f64).ceil() as usize;
    let error = (r * (1.0 - r) * K as f32 / needs.len().max(1) as f32).sqrt();
    let b = quantile(&margins, (r + error).min(1.0));
    let mut calibration = Calibration { min_recall: r, b, delta: f32::INFINITY, rerank: LEAST_RERANK };
    for step in 0..=STEPS {
        let share = r + (1.0 - r) * step as f32 / STEPS as f32;
        calibration.delta = quantile(&reaches, share);
        // Without a sample: as many as any query may need at the least.
        let rank = quantile(&ranks, share);
        calibration.rerank = if rank.is_finite() { (rank as u32).max(LEAST_RERANK) } else { LEAST_RERANK };
        let reranked = |n: &&Need| n.rank <= calibration.rerank;
        if needs.iter().filter(reranked).filter(|n| n.reach <= calibration.delta).count() >= wanted {
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

#[cfg(test)]
mod tests;
