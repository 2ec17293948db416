//! The true neighbours of some queries among rows that come in blocks, as matrix products.

use super::panels::{Best, Fast, Packed, Panels, relative};
use super::{Rows, all, parallel};
use crate::Metric;
use crate::codes::inverse_norm;
use crate::sums::dot;

/// Most neighbours of a query, one of which may be the query itself.
const MOST: usize = 11;
/// Rows packed as one task: whole panels.
const PACKED: usize = 1024;
/// Queries compared as one task: few enough to keep every thread busy.
const QUERIES: usize = 60;

/// The 11 nearest rows of each query so far.
pub struct Neighbours {
    metric: Metric,
    /// Under l2 the mean of the queries, from which everything is seen.
    origin: Vec<f32>,
    /// Normalised under cosine.
    queries: Packed<Fast>,
    /// ‖q‖² of each query.
    squares: Vec<f64>,
    best: Vec<Best<MOST>>,
}

impl Neighbours {
    /// Rows that are kept of each query.
    pub const MOST: usize = MOST;

    /// Queries of d values each.
    pub fn new(metric: Metric, d: usize, queries: &[f32]) -> Self {
        let queries = Rows::new(queries, d, metric, 1);
        let ids = all(queries.len());
        let mut origin = vec![0.0; d];
        if metric == Metric::L2 {
            queries.mean(&ids, &mut origin);
        }
        let mut vector = Vec::with_capacity(d);
        let squares = ids.iter().map(|id| {
            relative(queries.row(*id), queries.inverse(*id), &origin, &mut vector);
            dot(&vector, &vector)
        });
        let squares = squares.collect();
        let packed = Packed::of(&queries, &ids, &origin);
        Neighbours { metric, origin, queries: packed, squares, best: vec![Best::NONE; ids.len()] }
    }

    /// Compares all queries with rows (n·d values), whose numbers start at `first`; rows come in order of number. The
    /// result depends neither on `threads` nor on how rows are cut into blocks.
    pub fn offer(&mut self, first: u32, rows: &[f32], threads: usize) {
        let (d, metric) = (self.origin.len(), self.metric);
        let mut packed: Vec<Option<Panels>> = Vec::new();
        packed.resize_with((rows.len() / d).div_ceil(PACKED), || None);
        parallel::for_chunks(threads, &mut packed, 1, |part, out| {
            let part_rows = rows[part * PACKED * d..].chunks_exact(d).take(PACKED);
            let points = part_rows.map(|row| (row, inverse_norm(metric, row)));
            let panels = Panels::of(self.origin.clone(), points, metric == Metric::L2);
            out[0] = Some(panels.numbered(first + (part * PACKED) as u32));
        });
        let ids = all(self.best.len());
        parallel::for_chunks(threads, &mut self.best, QUERIES, |chunk, best| {
            let ids = &ids[chunk * QUERIES..][..best.len()];
            packed.iter().flatten().for_each(|panels| panels.compare(&self.queries, ids, best));
        });
    }

    /// What was found so far: of each query [`Neighbours::MOST`] rows with their values, best first; −∞ where there are fewer.
    pub fn found(&self) -> impl Iterator<Item = (f32, u32)> + '_ {
        self.best.iter().flat_map(|best| (0..MOST).map(|rank| (best.value(rank), best.leaf(rank))))
    }

    /// Adds what was found among other rows, whose numbers are greater: what [`Neighbours::found`] gave. The result is as if
    /// all of them had been offered here.
    pub fn add(&mut self, found: &[(f32, u32)]) {
        for (best, found) in self.best.iter_mut().zip(found.chunks_exact(MOST)) {
            let found = found.iter().filter(|(value, _)| *value > f32::NEG_INFINITY);
            found.for_each(|(value, row)| best.offer(&[*value], *row as usize));
        }
    }

    /// Of each query its up to `k` (at most 10) nearest rows but the one numbered `own`, best first, with their scores
    /// (cosine: cos, l2: −distance, dot: the product).
    pub fn nearest(&self, query: usize, own: u32, k: usize) -> Vec<(f32, u32)> {
        let score = |value: f32| match self.metric {
            Metric::L2 => -((self.squares[query] - 2.0 * f64::from(value)).max(0.0).sqrt() as f32),
            Metric::Cosine | Metric::Dot => value,
        };
        let best = self.best[query].entries().filter(|(_, row)| *row != own);
        best.take(k.min(MOST - 1)).map(|(value, row)| (score(value), row)).collect()
    }
}
