//! The leaf that a copy of a row goes to: near, and on another side of the row than its own, so that a query which misses
//! the one is likely to probe the other.
//!
//! Source: SOAR, arXiv 2404.00774.

use super::panels::Best;
use super::{CHUNK, Finder, Rows, all, parallel};
use crate::Metric;
use crate::sums::dot;

/// Nearest leaves among which the second one is chosen.
const NEAR: usize = 16;
/// λ: how much of the second residual that lies along the first counts again.
const ALONG: f64 = 1.0;

/// Finds second leaves. Two copies of the centroids.
pub struct Seconds {
    d: usize,
    metric: Metric,
    centroids: Vec<f32>,
    finder: Finder,
}

impl Seconds {
    /// No leaf: of a row where there is one leaf only.
    pub const NONE: u32 = u32::MAX;

    /// Leaves with these centroids (leaves·d values), as they are stored.
    pub fn new(centroids: Vec<f32>, d: usize, metric: Metric, seed: u64, threads: usize) -> Seconds {
        let finder = Finder::new(&centroids, d, seed, threads);
        Seconds { d, metric, centroids, finder }
    }

    /// The second leaf of each of some rows (n·d values), given its own. The result does not depend on `threads`.
    pub fn of(&self, rows: &[f32], own: &[u32], threads: usize) -> Vec<u32> {
        let rows = Rows::new(rows, self.d, self.metric, threads);
        let ids = all(rows.len().min(own.len()));
        let near: Vec<Best<NEAR>> = self.finder.near(&rows, &ids, threads);
        let mut second = vec![Self::NONE; ids.len()];
        parallel::for_chunks(threads, &mut second, CHUNK, |chunk, out| {
            let (mut row, mut residual) = (vec![0f32; self.d], vec![0f32; self.d]);
            for (id, out) in ((chunk * CHUNK) as u32..).zip(out) {
                let inverse = rows.inverse(id);
                row.iter_mut().zip(rows.row(id)).for_each(|(x, stored)| *x = stored * inverse);
                let own = own[id as usize];
                let pairs = row.iter().zip(self.centroid(own));
                residual.iter_mut().zip(pairs).for_each(|(r, (x, c))| *r = x - c);
                *out = self.choose(&row, &residual, own, &near[id as usize]);
            }
        });
        second
    }

    fn centroid(&self, leaf: u32) -> &[f32] {
        &self.centroids[leaf as usize * self.d..][..self.d]
    }

    /// Of the leaves near a row the one of the least loss: ‖x − c‖² + λ⟨x − c, r⟩²/‖r‖², where r is the residual to its own.
    fn choose(&self, row: &[f32], residual: &[f32], own: u32, near: &Best<NEAR>) -> u32 {
        let (square, length, along) = (dot(row, row), dot(residual, residual), dot(row, residual));
        let loss = |value: f32, leaf: u32| {
            let parallel = along - dot(self.centroid(leaf), residual);
            let again = if length > 0.0 { parallel * parallel / length } else { 0.0 };
            square - 2.0 * f64::from(value) + ALONG * again
        };
        let others = near.entries().filter(|(_, leaf)| *leaf != own);
        let best = others.map(|(value, leaf)| (loss(value, leaf), leaf)).min_by(|a, b| a.0.total_cmp(&b.0));
        best.map_or(Self::NONE, |(_, leaf)| leaf)
    }
}

#[cfg(test)]
mod tests;
