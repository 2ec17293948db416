//! The clustering of a merge: the leaves of the input that holds most rows stand where they still fit, so that the codes
//! of their rows can be copied (INDEX §4).
//!
//! Source: SPFresh, arXiv 2410.14452 (split, merge, and which rows to look at again after a split).

use super::bisect::bisect;
use super::panels::{Best, Panels};
use super::{Build, CHUNK, Clustering, Finder, Rows, SPLIT_ABOVE, all, group, parallel};
use crate::Metric;
use crate::centroids::{Centroids, Origin};
use crate::sums::dot;

/// A leaf gets a new centroid when that comes nearer to the mean of its rows by more than this share of its radius.
const DRIFT: f64 = 0.125;
/// Leaves do not fit when the mean square distance of new rows exceeds the older rows' by this factor …
const DISTORTION: f64 = 1.15;
/// … or more than one in so many of the older rows would have to be encoded again.
const ENCODED: usize = 2;
/// Leaves around a new centroid whose rows are compared with it.
const NEIGHBOURS: usize = 64;
/// Leaves worked on as one task.
const LEAVES: usize = 8;

/// The leaves of a segment that exists.
#[derive(Clone, Copy, Debug)]
pub struct Standing<'a> {
    /// Number of leaves.
    pub leaves: usize,
    /// Bits per element of the stored centroids.
    pub bits: u8,
    /// The centroids as stored.
    pub centroids: &'a [u8],
    /// The rms distance of rows to their centroids when the leaves were made.
    pub scale: f32,
    /// Leaf of each row; [`Standing::NEW`] of a row that the segment does not have.
    pub leaf_of: &'a [u32],
}

impl Standing<'_> {
    /// No leaf.
    pub const NEW: u32 = u32::MAX;
}

/// A clustering with leaves that stand.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapted {
    /// The leaves; the centroid of one that stands is as stored.
    pub clustering: Clustering,
    /// Per leaf the standing one whose centroid it has.
    pub origin: Vec<Option<u32>>,
}

impl Adapted {
    /// Whether a row is in the leaf in which it was before, and that stands: its code is as good as ever.
    pub fn stands(&self, standing: &Standing<'_>, row: usize) -> bool {
        let own = self.origin[self.clustering.assignment[row] as usize];
        own.is_some_and(|own| own == standing.leaf_of[row])
    }
}

/// Clusters `data` (n·d finite values, one row after another; n < 2^32) around leaves that stand. New rows go to the
/// nearest; leaves below a quarter of the target are dissolved, those above twice the target split; a leaf whose mean
/// moved gets a new centroid; rows around new centroids go to them where these are nearer. `None` where a new clustering
/// is better: new rows are far from all leaves, or most rows would change theirs.
///
/// The result depends on the data, the leaves, target and seed, not on `threads`.
///
/// # Errors
/// Says what is wrong with stored centroids or leaf numbers that do not fit.
pub fn adapt(
    data: &[f32],
    d: usize,
    metric: Metric,
    standing: Standing<'_>,
    target: usize,
    seed: u64,
    threads: usize,
) -> Result<Option<Adapted>, String> {
    let rows = Rows::new(data, d.max(1), metric, threads);
    if standing.leaf_of.len() != rows.len() {
        return Err(format!("leaves of {} rows for {}", standing.leaf_of.len(), rows.len()));
    }
    if standing.leaf_of.iter().any(|leaf| *leaf != Standing::NEW && *leaf as usize >= standing.leaves) {
        return Err("a row of a leaf that does not exist".to_owned());
    }
    let centroids = Centroids::decode(standing.bits, standing.leaves, rows.d, standing.centroids)?;
    if rows.len() == 0 || standing.leaves == 0 {
        return Ok(None);
    }
    let mut adapting = Adapting {
        build: Build { rows: &rows, target: target.max(1), seed, threads },
        standing,
        own: standing.leaf_of.to_vec(),
        centroids: centroids.all_dequantised(),
        origin: (0..standing.leaves as u32).map(Some).collect(),
    };
    adapting.place();
    adapting.build.dissolve(&mut adapting.own, &adapting.centroids);
    adapting.drift()?;
    adapting.split(SPLIT_ABOVE);
    if !adapting.fits() {
        return Ok(None);
    }
    adapting.recheck();
    adapting.centre();
    // What a leaf took from its neighbours is corrected as in a new clustering.
    adapting.split(SPLIT_ABOVE + 1);
    Ok((adapting.fits() && adapting.is_near()).then(|| adapting.order()))
}

struct Adapting<'a> {
    build: Build<'a>,
    standing: Standing<'a>,
    /// Leaf of each row.
    own: Vec<u32>,
    centroids: Vec<f32>,
    /// Per leaf the standing one whose centroid it has.
    origin: Vec<Option<u32>>,
}

impl Adapting<'_> {
    fn d(&self) -> usize {
        self.build.rows.d
    }

    /// Puts every new row into the nearest leaf.
    fn place(&mut self) {
        let new: Vec<u32> = all(self.own.len());
        let new: Vec<u32> = new.into_iter().filter(|row| self.own[*row as usize] == Standing::NEW).collect();
        if new.is_empty() {
            return;
        }
        let Build { rows, seed, threads, .. } = self.build;
        let finder = Finder::new(&self.centroids, rows.d, seed, threads);
        for (row, leaf) in new.iter().zip(finder.assign(rows, &new, threads)) {
            self.own[*row as usize] = leaf;
        }
    }

    /// The squared distance of each row to the centroid of its leaf.
    fn squares(&self) -> Vec<f64> {
        let (rows, d) = (self.build.rows, self.d());
        let mut out = vec![0f64; self.own.len()];
        parallel::for_chunks(self.build.threads, &mut out, CHUNK, |chunk, out| {
            let mut residual = vec![0f32; d];
            for (row, out) in ((chunk * CHUNK) as u32..).zip(out) {
                let (inverse, leaf) = (rows.inverse(row), self.own[row as usize] as usize);
                let pairs = rows.row(row).iter().zip(&self.centroids[leaf * d..][..d]);
                residual.iter_mut().zip(pairs).for_each(|(r, (x, c))| *r = x * inverse - c);
                *out = dot(&residual, &residual);
            }
        });
        out
    }

    /// The mean of each leaf's rows; zero of one without rows.
    fn means(&self) -> Vec<f32> {
        let mut means = self.build.means(&all(self.own.len()), &self.own);
        means.resize(self.centroids.len(), 0.0);
        means
    }

    fn counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.origin.len()];
        self.own.iter().for_each(|leaf| counts[*leaf as usize] += 1);
        counts
    }

    /// Gives leaves new centroids whose mean moved. What counts is what a new centroid would gain *as stored*.
    fn drift(&mut self) -> Result<(), String> {
        let d = self.d();
        let (means, counts) = (self.means(), self.counts());
        let origins: Vec<Origin<'_>> = means.chunks_exact(d).map(Origin::Mean).collect();
        let Standing { bits, centroids, .. } = self.standing;
        let stored = Centroids::extend(bits, d, centroids, &origins)?;
        let stored = Centroids::decode(bits, origins.len(), d, &stored)?.all_dequantised();
        let mut spread = vec![0f64; counts.len()];
        self.squares().iter().zip(&self.own).for_each(|(square, leaf)| spread[*leaf as usize] += square);
        for (leaf, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let at = leaf * d..(leaf + 1) * d;
            let moved = square(&means[at.clone()], &self.centroids[at.clone()]);
            let radius = spread[leaf] / *count as f64 - moved;
            if moved - square(&means[at.clone()], &stored[at.clone()]) > DRIFT * DRIFT * radius {
                self.origin[leaf] = None;
                self.centroids[at.clone()].copy_from_slice(&means[at]);
            }
        }
        Ok(())
    }

    /// Centres the leaves that have new centroids.
    fn centre(&mut self) {
        let d = self.d();
        let (means, counts) = (self.means(), self.counts());
        for leaf in (0..counts.len()).filter(|leaf| self.origin[*leaf].is_none() && counts[*leaf] > 0) {
            self.centroids[leaf * d..][..d].copy_from_slice(&means[leaf * d..][..d]);
        }
    }

    /// Splits leaves of over `above` times the target; those without rows go.
    fn split(&mut self, above: usize) {
        let Build { rows, target, seed, threads } = self.build;
        let d = rows.d;
        let (mut grouped, ends) = group(&all(self.own.len()), &self.own, self.origin.len());
        let (mut centroids, mut origin) = (Vec::with_capacity(self.centroids.len()), Vec::new());
        let mut rest = grouped.as_mut_slice();
        let mut start = 0;
        for (leaf, end) in ends.into_iter().enumerate() {
            let (members, tail) = std::mem::take(&mut rest).split_at_mut(end - start);
            (rest, start) = (tail, end);
            if members.is_empty() {
                continue;
            }
            if members.len() <= above * target {
                members.iter().for_each(|row| self.own[*row as usize] = origin.len() as u32);
                centroids.extend_from_slice(&self.centroids[leaf * d..][..d]);
                origin.push(self.origin[leaf]);
                continue;
            }
            let (parts, mut from) = (((members.len() + target / 2) / target).max(2), 0);
            for to in bisect(rows, members, parts, seed, threads) {
                let part = &members[from..to];
                part.iter().for_each(|row| self.own[*row as usize] = origin.len() as u32);
                centroids.resize(centroids.len() + d, 0.0);
                let at = centroids.len() - d;
                rows.mean(part, &mut centroids[at..]);
                origin.push(None);
                from = to;
            }
        }
        (self.centroids, self.origin) = (centroids, origin);
    }

    /// Compares the rows of leaves with new centroids with the leaves around them, and the rows of these with the new
    /// centroids. (SPFresh's two conditions say which rows can move at all: of a split leaf those that were nearer to
    /// the old centroid than to the new ones, of its neighbours those that are nearer to a new one than to the old.)
    fn recheck(&mut self) {
        let Build { rows, threads, .. } = self.build;
        let points = Rows::plain(&self.centroids, rows.d);
        let mut others: Vec<Vec<u32>> = vec![Vec::new(); self.origin.len()];
        for (new, near) in self.neighbours(&points) {
            for leaf in near.leaves().filter(|leaf| *leaf != new) {
                others[new as usize].push(leaf);
                others[leaf as usize].push(new);
            }
        }
        let (grouped, ends) = group(&all(self.own.len()), &self.own, self.origin.len());
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let mut visits: Vec<Visit<'_>> = starts
            .zip(&ends)
            .zip(others)
            .enumerate()
            .filter(|(_, (_, others))| !others.is_empty())
            .map(|(leaf, ((start, end), others))| Visit::new(leaf as u32, &grouped[start..*end], others))
            .collect();
        parallel::for_chunks(threads, &mut visits, LEAVES, |_, visits| {
            visits.iter_mut().for_each(|visit| visit.choose(rows, &points));
        });
        for visit in &visits {
            visit.rows.iter().zip(&visit.chosen).for_each(|(row, leaf)| self.own[*row as usize] = *leaf);
        }
    }

    /// The leaves nearest to each that has a new centroid.
    fn neighbours(&self, points: &Rows<'_>) -> Vec<(u32, Best<NEIGHBOURS>)> {
        let new: Vec<u32> = all(self.origin.len());
        let new: Vec<u32> = new.into_iter().filter(|leaf| self.origin[*leaf as usize].is_none()).collect();
        let mut near = vec![Best::NONE; new.len()];
        let panels = Panels::new(self.centroids.chunks_exact(self.d()), self.d());
        parallel::for_chunks(self.build.threads, &mut near, CHUNK, |chunk, out| {
            panels.nearest(points, &new[chunk * CHUNK..][..out.len()], out);
        });
        new.into_iter().zip(near).collect()
    }

    /// Whether enough older rows are where they were.
    fn fits(&self) -> bool {
        let older = self.standing.leaf_of.iter().filter(|leaf| **leaf != Standing::NEW).count();
        let stands =
            |(own, was): &(&u32, &u32)| self.origin[**own as usize].is_some_and(|leaf| leaf == **was);
        let stand = self.own.iter().zip(self.standing.leaf_of).filter(stands).count();
        (older - stand) * ENCODED <= older
    }

    /// Whether new rows are about as near to their leaves as the others were when the leaves were made.
    fn is_near(&self) -> bool {
        let squares = self.squares();
        let new = squares.iter().zip(self.standing.leaf_of).filter(|(_, leaf)| **leaf == Standing::NEW);
        let (total, count) = new.fold((0.0, 0), |(total, count), (square, _)| (total + square, count + 1));
        total <= DISTORTION * f64::from(self.standing.scale).powi(2) * f64::from(count)
    }

    /// Numbers leaves by bisection of their centroids. Rows of a leaf that only lost some keep their order, those of
    /// others are ordered by bisection.
    fn order(self) -> Adapted {
        let Build { rows, seed, threads, .. } = self.build;
        let (d, leaves) = (rows.d, self.origin.len());
        let mut tree_order = all(leaves);
        bisect(&Rows::plain(&self.centroids, d), &mut tree_order, leaves, seed, threads);
        let mut number = vec![0u32; leaves];
        tree_order.iter().enumerate().for_each(|(new, old)| number[*old as usize] = new as u32);
        let assignment: Vec<u32> = self.own.iter().map(|leaf| number[*leaf as usize]).collect();
        let origin: Vec<_> = tree_order.iter().map(|leaf| self.origin[*leaf as usize]).collect();
        let centroids =
            tree_order.iter().flat_map(|old| &self.centroids[*old as usize * d..][..d]).copied().collect();
        let (mut order, ends) = group(&all(assignment.len()), &assignment, leaves);
        let mut changed = Vec::new();
        let mut rest = order.as_mut_slice();
        let mut start = 0;
        for (end, origin) in ends.into_iter().zip(&origin) {
            let (leaf, tail) = std::mem::take(&mut rest).split_at_mut(end - start);
            (rest, start) = (tail, end);
            let was = |row: &u32| Some(self.standing.leaf_of[*row as usize]) == *origin;
            if !leaf.iter().all(was) {
                changed.push(leaf);
            }
        }
        parallel::for_chunks(threads, &mut changed, LEAVES, |_, leaves| {
            for leaf in leaves {
                let count = leaf.len();
                bisect(rows, leaf, count, seed, 1);
            }
        });
        Adapted { clustering: Clustering { leaves, centroids, assignment, order }, origin }
    }
}

/// The rows of a leaf, and the leaves they may go to.
struct Visit<'a> {
    rows: &'a [u32],
    /// Their own leaf first: it keeps a row that is as near to another.
    leaves: Vec<u32>,
    /// The nearest of these, per row.
    chosen: Vec<u32>,
}

impl<'a> Visit<'a> {
    fn new(leaf: u32, rows: &'a [u32], mut others: Vec<u32>) -> Self {
        others.sort_unstable();
        others.dedup();
        others.insert(0, leaf);
        Visit { rows, leaves: others, chosen: Vec::new() }
    }

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

#[cfg(test)]
mod tests;
