//! What decides which leaves stand and which rows stay, the same for rows in memory and for rows that come in blocks.

use super::super::panels::{Best, Panels};
use super::super::{CHUNK, Rows, all, group, parallel};
use super::Standing;
use crate::centroids::{Centroids, Origin};
use crate::sums::dot;

/// A leaf gets a new centroid when that comes nearer to the mean of its rows by more than this share of its radius.
const DRIFT: f64 = 0.125;
/// Leaves do not fit when the mean square distance of new rows exceeds the older rows' by this factor …
const DISTORTION: f64 = 1.15;
/// … or more than one in so many of the older rows would have to be encoded again.
const ENCODED: u64 = 2;
/// Leaves more than that are no matter.
const SPARE: usize = 16;
/// Leaves around a new centroid whose rows are compared with it.
const NEIGHBOURS: usize = 64;
/// Leaves worked on as one task.
const LEAVES: usize = 8;

/// Whether enough of the older rows stand.
pub(super) fn fits(older: u64, stand: u64) -> bool {
    (older - stand) * ENCODED <= older
}

/// Whether rows have about as many leaves as a new clustering would give them: many rows died, or the target is another
/// since there are more, where they have far more.
pub(super) fn are_few(leaves: usize, rows: usize, target: usize) -> bool {
    2 * leaves <= 3 * rows.div_ceil(target.max(1)) + SPARE
}

/// Whether `count` new rows, whose squared distances to their leaves add up to `total`, are about as near as the others
/// were when the leaves were made.
pub(super) fn is_near(total: f64, count: u64, scale: f32) -> bool {
    total <= DISTORTION * f64::from(scale).powi(2) * count as f64
}

/// Parts of a leaf of so many rows that is split.
pub(super) fn parts(rows: usize, target: usize) -> usize {
    ((rows + target / 2) / target).max(2)
}

/// Which leaves get the mean of their rows as a new centroid. What counts is what it would gain *as stored*. `spread` are
/// the summed squared distances of rows to the centroids that there are.
pub(super) fn moved(
    standing: &Standing<'_>,
    d: usize,
    centroids: &[f32],
    means: &[f32],
    counts: &[u64],
    spread: &[f64],
) -> Result<Vec<bool>, String> {
    let origins: Vec<Origin<'_>> = means.chunks_exact(d).map(Origin::Mean).collect();
    let stored = Centroids::extend(standing.bits, d, standing.centroids, &origins)?;
    let stored = Centroids::decode(standing.bits, origins.len(), d, &stored)?.all_dequantised();
    let moves = |leaf: usize| {
        let (at, count) = (leaf * d..(leaf + 1) * d, counts[leaf]);
        let moved = square(&means[at.clone()], &centroids[at.clone()]);
        let radius = spread[leaf] / count as f64 - moved;
        count > 0 && moved - square(&means[at.clone()], &stored[at]) > DRIFT * DRIFT * radius
    };
    Ok((0..counts.len()).map(moves).collect())
}

/// The squared distances of rows to the centroids of their leaves, which are by row.
pub(super) fn squares(
    rows: &Rows<'_>,
    ids: &[u32],
    leaf_of: &[u32],
    centroids: &[f32],
    threads: usize,
) -> Vec<f64> {
    let d = rows.d;
    let mut out = vec![0f64; ids.len()];
    parallel::for_chunks(threads, &mut out, CHUNK, |chunk, out| {
        let mut residual = vec![0f32; d];
        for (row, out) in ids[chunk * CHUNK..].iter().zip(out) {
            let (inverse, leaf) = (rows.inverse(*row), leaf_of[*row as usize] as usize);
            let pairs = rows.row(*row).iter().zip(&centroids[leaf * d..][..d]);
            residual.iter_mut().zip(pairs).for_each(|(r, (x, c))| *r = x * inverse - c);
            *out = dot(&residual, &residual);
        }
    });
    out
}

/// Of each leaf those that its rows are compared with, itself first, as it keeps a row that is as near to another: of one
/// with a new centroid the leaves around that, of others the new centroids that they are around. Nothing where rows stay.
pub(super) fn around(centroids: &[f32], d: usize, origin: &[Option<u32>], threads: usize) -> Vec<Vec<u32>> {
    let points = Rows::plain(centroids, d);
    let new: Vec<u32> = all(origin.len());
    let new: Vec<u32> = new.into_iter().filter(|leaf| origin[*leaf as usize].is_none()).collect();
    let mut near = vec![Best::<NEIGHBOURS>::NONE; new.len()];
    let panels = Panels::new(centroids.chunks_exact(d), d);
    parallel::for_chunks(threads, &mut near, CHUNK, |chunk, out| {
        panels.nearest(&points, &new[chunk * CHUNK..][..out.len()], out);
    });
    let mut around: Vec<Vec<u32>> = vec![Vec::new(); origin.len()];
    for (new, near) in new.into_iter().zip(near) {
        for leaf in near.leaves().filter(|leaf| *leaf != new) {
            around[new as usize].push(leaf);
            around[leaf as usize].push(new);
        }
    }
    for (leaf, others) in (0u32..).zip(&mut around).filter(|(_, others)| !others.is_empty()) {
        others.sort_unstable();
        others.dedup();
        others.insert(0, leaf);
    }
    around
}

/// Moves rows to the nearest of the leaves around their own (`own`, by row). (SPFresh's two conditions say which rows can
/// move at all: of a split leaf those that were nearer to the old centroid than to the new ones, of its neighbours those
/// that are nearer to a new one than to the old.)
pub(super) fn recheck(
    rows: &Rows<'_>,
    ids: &[u32],
    around: &[Vec<u32>],
    centroids: &[f32],
    own: &mut [u32],
    threads: usize,
) {
    let leaf_of: Vec<u32> = ids.iter().map(|row| own[*row as usize]).collect();
    let (grouped, ends) = group(ids, &leaf_of, around.len());
    let starts = std::iter::once(0).chain(ends.iter().copied());
    let mut visits: Vec<Visit<'_>> = starts
        .zip(&ends)
        .zip(around)
        .filter(|((start, end), leaves)| start < end && !leaves.is_empty())
        .map(|((start, end), leaves)| Visit { rows: &grouped[start..*end], leaves, chosen: Vec::new() })
        .collect();
    let points = Rows::plain(centroids, rows.d);
    parallel::for_chunks(threads, &mut visits, LEAVES, |_, visits| {
        visits.iter_mut().for_each(|visit| visit.choose(rows, &points));
    });
    for visit in &visits {
        visit.rows.iter().zip(&visit.chosen).for_each(|(row, leaf)| own[*row as usize] = *leaf);
    }
}

/// The rows of a leaf, and the leaves they may go to.
struct Visit<'a> {
    rows: &'a [u32],
    leaves: &'a [u32],
    /// The nearest of these, per row.
    chosen: Vec<u32>,
}

impl Visit<'_> {
    fn choose(&mut self, rows: &Rows<'_>, centroids: &Rows<'_>) {
        let panels = Panels::new(self.leaves.iter().map(|leaf| centroids.row(*leaf)), rows.d);
        let mut best = vec![Best::<1>::NONE; self.rows.len()];
        panels.nearest(rows, self.rows, &mut best);
        self.chosen = best.iter().map(|best| self.leaves[best.leaf(0) as usize]).collect();
    }
}

/// ‖a − b‖².
fn square(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum()
}
