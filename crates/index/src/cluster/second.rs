//! The leaf that a copy of a row goes to: near, and on another side of the row than its own, so that a query which misses
//! the one is likely to probe the other.
//!
//! Source: SOAR, arXiv 2404.00774.

use super::panels::{Best, Panels};
use super::{Finder, Rows, all, parallel};
use crate::Metric;
use crate::codes::inverse_norm;
use crate::sums::dot;

/// Leaves around a row's own that it is compared with, its own among them …
const AROUND: usize = 128;
/// … and the nearest of them, among which the second one is chosen.
const NEAR: usize = 16;
/// λ: how much of the second residual that lies along the first counts again.
const ALONG: f64 = 1.0;

/// Finds second leaves. One copy of the centroids.
pub struct Seconds {
    d: usize,
    metric: Metric,
    centroids: Vec<f32>,
    /// Of each leaf those around it.
    around: Vec<Best<AROUND>>,
}

impl Seconds {
    /// No leaf: of a row where there is one leaf only.
    pub const NONE: u32 = u32::MAX;

    /// Leaves with these centroids (leaves·d values), as they are stored.
    pub fn new(centroids: Vec<f32>, d: usize, metric: Metric, seed: u64, threads: usize) -> Seconds {
        let finder = Finder::new(&centroids, d, seed, threads);
        let points = Rows::plain(&centroids, d);
        let around = finder.near(&points, &all(points.len()), threads);
        Seconds { d, metric, centroids, around }
    }

    /// The second leaf of each of some rows (n·d values), given its own: best where rows of a leaf follow each other. The
    /// result does not depend on `threads`.
    pub fn of(&self, rows: &[f32], own: &[u32], threads: usize) -> Vec<u32> {
        let mut second = vec![Self::NONE; own.len().min(rows.len() / self.d)];
        let (mut rest, mut first, mut leaves) = (second.as_mut_slice(), 0, Vec::new());
        for same in own[..rest.len()].chunk_by(|a, b| a == b) {
            let (out, behind) = rest.split_at_mut(same.len());
            leaves.push((same[0], &rows[first * self.d..], out));
            (rest, first) = (behind, first + same.len());
        }
        parallel::for_chunks(threads, &mut leaves, 1, |_, leaf| {
            for (own, rows, out) in leaf {
                self.of_leaf(*own, rows, out);
            }
        });
        second
    }

    /// The second leaves of the first rows of `rows`, all of one leaf. Everything is seen from its centroid.
    fn of_leaf(&self, own: u32, rows: &[f32], out: &mut [u32]) {
        let d = self.d;
        let others: Vec<u32> = self.around[own as usize].leaves().filter(|leaf| *leaf != own).collect();
        let centre = self.centroid(own);
        let mut around = Vec::with_capacity(others.len() * d);
        for leaf in &others {
            around.extend(self.centroid(*leaf).iter().zip(centre).map(|(c, own)| c - own));
        }
        let mut residuals = Vec::with_capacity(out.len() * d);
        for row in rows.chunks_exact(d).take(out.len()) {
            let inverse = inverse_norm(self.metric, row);
            residuals.extend(row.iter().zip(centre).map(|(x, own)| x * inverse - own));
        }
        let mut near = vec![Best::<NEAR>::NONE; out.len()];
        Panels::around(vec![0.0; d], around.chunks_exact(d)).nearest(
            &Rows::plain(&residuals, d),
            &all(out.len()),
            &mut near,
        );
        let halves: Vec<f64> = around.chunks_exact(d).map(|c| dot(c, c) / 2.0).collect();
        for ((residual, near), out) in residuals.chunks_exact(d).zip(&near).zip(out) {
            let square = dot(residual, residual);
            // ‖r − c‖² + λ⟨r − c, r⟩²/‖r‖², of which the search gives ⟨r, c⟩ − ½‖c‖².
            let loss = |value: f32, at: u32| {
                let parallel = square - f64::from(value) - halves[at as usize];
                let again = if square > 0.0 { parallel * parallel / square } else { 0.0 };
                square - 2.0 * f64::from(value) + ALONG * again
            };
            let losses = near.entries().map(|(value, at)| (loss(value, at), others[at as usize]));
            *out = losses.min_by(|a, b| a.0.total_cmp(&b.0)).map_or(Self::NONE, |(_, leaf)| leaf);
        }
    }

    fn centroid(&self, leaf: u32) -> &[f32] {
        &self.centroids[leaf as usize * self.d..][..self.d]
    }
}

#[cfg(test)]
mod tests;
