//! The clustering of a merge: the leaves of the input that holds most rows stand where they still fit, so that the codes
//! of their rows can be copied (INDEX §4).
//!
//! Source: SPFresh, arXiv 2410.14452 (split, merge, and which rows to look at again after a split).

mod rules;
mod streamed;

use super::bisect::bisect;
use super::{Build, Clustering, Finder, Rows, SPLIT_ABOVE, all, group};
use crate::Metric;
use crate::centroids::Centroids;

pub use streamed::{Plan, Survey};

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

    /// The centroids, once everything is seen to fit.
    fn centroids_of(&self, rows: usize, d: usize) -> Result<Vec<f32>, String> {
        if self.leaf_of.len() != rows {
            return Err(format!("leaves of {} rows for {rows}", self.leaf_of.len()));
        }
        if self.leaf_of.iter().any(|leaf| *leaf != Standing::NEW && *leaf as usize >= self.leaves) {
            return Err("a row of a leaf that does not exist".to_owned());
        }
        Ok(Centroids::decode(self.bits, self.leaves, d, self.centroids)?.all_dequantised())
    }
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
    let centroids = standing.centroids_of(rows.len(), rows.d)?;
    if rows.len() == 0 || standing.leaves == 0 {
        return Ok(None);
    }
    let mut adapting = Adapting {
        build: Build { rows: &rows, target: target.max(1), seed, threads },
        standing,
        own: standing.leaf_of.to_vec(),
        centroids,
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
        let Build { rows, seed, threads, .. } = self.build;
        if self.own.contains(&Standing::NEW) {
            place(&Finder::new(&self.centroids, rows.d, seed, threads), rows, &mut self.own, threads);
        }
    }

    /// The squared distance of some rows to the centroids of their leaves.
    fn squares(&self, ids: &[u32]) -> Vec<f64> {
        rules::squares(self.build.rows, ids, &self.own, &self.centroids, self.build.threads)
    }

    /// The mean of each leaf's rows; zero of one without rows.
    fn means(&self) -> Vec<f32> {
        let mut means = self.build.means(&all(self.own.len()), &self.own);
        means.resize(self.centroids.len(), 0.0);
        means
    }

    fn counts(&self) -> Vec<u64> {
        let mut counts = vec![0; self.origin.len()];
        self.own.iter().for_each(|leaf| counts[*leaf as usize] += 1);
        counts
    }

    /// Gives leaves new centroids whose mean moved.
    fn drift(&mut self) -> Result<(), String> {
        let d = self.d();
        let (means, counts) = (self.means(), self.counts());
        let mut spread = vec![0f64; counts.len()];
        let squares = self.squares(&all(self.own.len()));
        squares.iter().zip(&self.own).for_each(|(square, leaf)| spread[*leaf as usize] += square);
        let moved = rules::moved(&self.standing, d, &self.centroids, &means, &counts, &spread)?;
        for leaf in (0..counts.len()).filter(|leaf| moved[*leaf]) {
            let at = leaf * d..(leaf + 1) * d;
            self.origin[leaf] = None;
            self.centroids[at.clone()].copy_from_slice(&means[at]);
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
            let (parts, mut from) = (rules::parts(members.len(), target), 0);
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
    /// centroids.
    fn recheck(&mut self) {
        let Build { rows, threads, .. } = self.build;
        let around = rules::around(&self.centroids, rows.d, &self.origin, threads);
        let ids = all(self.own.len());
        rules::recheck(rows, &ids, &around, &self.centroids, &mut self.own, threads);
    }

    /// Whether enough older rows are where they were.
    fn fits(&self) -> bool {
        let older = self.standing.leaf_of.iter().filter(|leaf| **leaf != Standing::NEW).count();
        let stands =
            |(own, was): &(&u32, &u32)| self.origin[**own as usize].is_some_and(|leaf| leaf == **was);
        let stand = self.own.iter().zip(self.standing.leaf_of).filter(stands).count();
        rules::are_few(self.leaves(), self.own.len(), self.build.target)
            && rules::fits(older as u64, stand as u64)
    }

    /// Leaves that have rows.
    fn leaves(&self) -> usize {
        let mut seen = vec![false; self.origin.len()];
        self.own.iter().for_each(|leaf| seen[*leaf as usize] = true);
        seen.iter().filter(|seen| **seen).count()
    }

    /// Whether new rows are near enough.
    fn is_near(&self) -> bool {
        let new = rows_where(self.standing.leaf_of, |leaf| leaf == Standing::NEW);
        rules::is_near(self.squares(&new).iter().sum(), new.len() as u64, self.standing.scale)
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
        let was = |row: &u32| self.standing.leaf_of[*row as usize];
        let order = self.build.order_inside(&assignment, leaves, stay(&origin, was));
        Adapted { clustering: Clustering { leaves, centroids, assignment, order }, origin }
    }
}

/// Rows by what their leaves are.
fn rows_where(leaf_of: &[u32], is: impl Fn(u32) -> bool) -> Vec<u32> {
    (0u32..).zip(leaf_of).filter(|(_, leaf)| is(**leaf)).map(|(row, _)| row).collect()
}

/// Puts rows that have no leaf into the nearest.
fn place(finder: &Finder, rows: &Rows<'_>, own: &mut [u32], threads: usize) {
    let new = rows_where(own, |leaf| leaf == Standing::NEW);
    for (row, leaf) in new.iter().zip(finder.assign(rows, &new, threads)) {
        own[*row as usize] = leaf;
    }
}

/// Whether the rows of a leaf are all from the one that it was: they keep their order.
fn stay<'a>(
    origin: &'a [Option<u32>],
    was: impl Fn(&u32) -> u32 + 'a,
) -> impl Fn(usize, &[u32]) -> bool + 'a {
    move |leaf, rows| rows.iter().all(|row| Some(was(row)) == origin[leaf])
}

#[cfg(test)]
mod tests;
