//! Seeded, balanced k-means, and the order it gives the rows of a segment.

mod adapt;
mod bisect;
mod neighbours;
mod panels;
mod parallel;
mod second;
mod stream;

pub use adapt::{Adapted, Plan, Standing, Survey, adapt};
pub use neighbours::Neighbours;
pub use second::Seconds;
pub use stream::{Leaves, Moments, Training, arrange};

use bisect::bisect;
use panels::{Best, Packed, Panels};

use crate::Metric;
use crate::codes::inverse_norm;
use crate::seed::SplitMix;

/// Up to this many leaves every row is compared with every leaf.
const FLAT_LEAVES: usize = 1024;
/// Leaves under one parent when there are more.
const PARENT_LEAVES: usize = 32;
/// Parents whose leaves a row is compared with.
const NEAREST_PARENTS: usize = 8;
/// Training rows per leaf when there are more rows than leaves need to settle.
const TRAIN_PER_LEAF: usize = 64;
/// Segments up to this many rows are trained on all of them.
const TRAIN_ALL: usize = 1 << 17;
/// Assignments on the training rows, each followed by new means.
const TRAIN_ROUNDS: usize = 8;
/// Assignments of all rows after training ("refine twice").
const REFINE_ROUNDS: usize = 2;
/// A leaf is split above this multiple of the target …
const SPLIT_ABOVE: usize = 2;
/// … and dissolved below the target divided by this.
const MERGE_BELOW: usize = 4;
/// Rows of a leaf that are not put in order further: a search that reads one of their vectors reads over the others.
const BESIDE: usize = 8;
/// Sets the draw of first leaves apart from that of training rows.
const DRAW: u64 = 0x1EAF;
/// Rows assigned as one task.
const CHUNK: usize = 960;
/// Rows that go through a tree of leaves together, parent by parent: enough to fill the tiles at each, and few enough to stay in
/// the third-level cache.
const TOGETHER: usize = 5120;
/// Of these, rows compared with all parents as one task.
const WITH_PARENTS: usize = 480;

/// Leaves and the order of rows. Leaf numbers are in tree order, and `order` is grouped by leaf: 0, 1, 2, …
#[derive(Clone, Debug, PartialEq)]
pub struct Clustering {
    /// Number of leaves; none is empty unless there are no rows.
    pub leaves: usize,
    /// leaves·d values: the mean of each leaf's rows (under cosine, of its normalised rows).
    pub centroids: Vec<f32>,
    /// Leaf of each row.
    pub assignment: Vec<u32>,
    /// Rows in their final order: by leaf, inside a leaf by bisection into some eight rows.
    pub order: Vec<u32>,
}

/// Rows a leaf aims at, by the number of rows in the segment.
pub fn leaf_target(rows: u64) -> usize {
    match rows {
        0..128_000 => 64,
        128_000..4_000_000 => 256,
        _ => 1024,
    }
}

/// What [`cluster()`] reports in all through `progress`: rows times passes.
pub fn cluster_work(rows: usize, target: usize) -> u64 {
    let train = training_rows(rows, leaf_count(rows, target));
    (train * (1 + TRAIN_ROUNDS) + rows * (REFINE_ROUNDS + 1)) as u64
}

/// Clusters `data` (n·d finite values, one row after another; n < 2^32) into about n/target leaves of at most 4·target rows.
///
/// Rows drawn evenly are the first leaves; k-means then moves rows between leaves, comparing each row with all leaves up to
/// 1,024, else with those under its 8 nearest parents; leaves above twice the target are split, those below a quarter
/// dissolved. Bisection of the leaves gives the tree order. Under cosine rows are normalised as they are read, without a copy.
///
/// The result depends on the data, target and seed, not on `threads`. `progress` hears the work done since its last
/// call ([`cluster_work`] in all). A trailing part of a row is ignored.
pub fn cluster(
    data: &[f32],
    d: usize,
    metric: Metric,
    target: usize,
    seed: u64,
    threads: usize,
    progress: &dyn Fn(u64),
) -> Clustering {
    let rows = Rows::new(data, d.max(1), metric, threads);
    let (n, target) = (rows.len(), target.max(1));
    if n == 0 {
        return Clustering { leaves: 0, centroids: Vec::new(), assignment: Vec::new(), order: Vec::new() };
    }
    let leaves = leaf_count(n, target);
    let build = Build { rows: &rows, target, seed, threads };
    let mut centroids = build.train(leaves, progress);
    let mut assignment = Vec::new();
    for round in 0..REFINE_ROUNDS {
        assignment = build.assign(&all(n), &centroids);
        // The second time only what a split leaf's neighbours took back is corrected.
        build.balance(&mut assignment, &centroids, SPLIT_ABOVE + round);
        centroids = build.means(&all(n), &assignment);
        progress(n as u64);
    }
    let clustering = build.order(assignment, centroids);
    progress(n as u64);
    clustering
}

fn leaf_count(rows: usize, target: usize) -> usize {
    rows.div_ceil(target.max(1)).max(1)
}

fn training_rows(rows: usize, leaves: usize) -> usize {
    if rows <= TRAIN_ALL { rows } else { rows.min((TRAIN_PER_LEAF * leaves).max(TRAIN_ALL)) }
}

/// Whether a leaf of so many rows is dissolved.
fn is_small(rows: usize, target: usize) -> bool {
    rows * MERGE_BELOW < target
}

/// `count` of n places, one from each of as many equal stretches.
fn draw(n: usize, count: usize, seed: u64) -> impl Iterator<Item = usize> {
    let mut random = SplitMix::new(seed);
    (0..count).map(move |i| {
        let (from, to) = (i * n / count, (i + 1) * n / count);
        from + random.below(to - from)
    })
}

fn all(n: usize) -> Vec<u32> {
    (0..n as u32).collect()
}

/// Borrowed rows and what each is multiplied with as it is read.
pub(crate) struct Rows<'a> {
    data: &'a [f32],
    d: usize,
    /// 1/‖row‖ per row under cosine, empty otherwise.
    inverse: Vec<f32>,
}

impl<'a> Rows<'a> {
    fn new(data: &'a [f32], d: usize, metric: Metric, threads: usize) -> Self {
        let mut inverse = Vec::new();
        if metric == Metric::Cosine {
            inverse.resize(data.len() / d, 0.0);
            parallel::for_chunks(threads, &mut inverse, CHUNK, |chunk, out| {
                for (row, out) in data[chunk * CHUNK * d..].chunks_exact(d).zip(out) {
                    *out = inverse_norm(metric, row);
                }
            });
        }
        Self { data, d, inverse }
    }

    /// Points that are read as they are.
    fn plain(data: &'a [f32], d: usize) -> Self {
        Self { data, d, inverse: Vec::new() }
    }

    fn len(&self) -> usize {
        self.data.len() / self.d
    }

    fn row(&self, id: u32) -> &'a [f32] {
        let at = id as usize * self.d;
        &self.data[at..at + self.d]
    }

    fn inverse(&self, id: u32) -> f32 {
        self.inverse.get(id as usize).copied().unwrap_or(1.0)
    }

    /// The mean of some rows, in their order: blocks of 256 in f32, then f64.
    fn mean(&self, ids: &[u32], out: &mut [f32]) {
        let mut total = vec![0f64; self.d];
        for block in ids.chunks(256) {
            out.fill(0.0);
            for &id in block {
                let inverse = self.inverse(id);
                out.iter_mut().zip(self.row(id)).for_each(|(sum, x)| *sum += x * inverse);
            }
            total.iter_mut().zip(&*out).for_each(|(total, sum)| *total += f64::from(*sum));
        }
        let count = ids.len().max(1) as f64;
        out.iter_mut().zip(total).for_each(|(mean, total)| *mean = (total / count) as f32);
    }
}

struct Build<'a> {
    rows: &'a Rows<'a>,
    target: usize,
    seed: u64,
    threads: usize,
}

impl Build<'_> {
    /// First centroids: k-means rounds on the training rows, from some of these. Leaves that start as parts of a
    /// bisection settle where queries probe a tenth to a fifth more of them (deb63k).
    fn train(&self, leaves: usize, progress: &dyn Fn(u64)) -> Vec<f32> {
        let ids = self.sample(training_rows(self.rows.len(), leaves));
        let mut centroids = self.drawn(&ids, leaves.min(ids.len()));
        progress(ids.len() as u64);
        for _ in 0..TRAIN_ROUNDS {
            self.round(&ids, &mut centroids);
            progress(ids.len() as u64);
        }
        centroids
    }

    /// Moves each centroid to the mean of the rows of `ids` that it is the nearest to.
    fn round(&self, ids: &[u32], centroids: &mut [f32]) {
        let assignment = self.assign(ids, centroids);
        let means = self.means(ids, &assignment);
        // An empty leaf keeps its old centroid: later rounds may fill it, and balancing drops it.
        let mut filled = vec![false; centroids.len() / self.rows.d];
        assignment.iter().for_each(|leaf| filled[*leaf as usize] = true);
        for (leaf, mean) in means.chunks_exact(self.rows.d).enumerate() {
            if filled[leaf] {
                centroids[leaf * self.rows.d..][..self.rows.d].copy_from_slice(mean);
            }
        }
    }

    /// `count` rows, one drawn from each of as many equal stretches.
    fn sample(&self, count: usize) -> Vec<u32> {
        let n = self.rows.len();
        if count >= n {
            return all(n);
        }
        draw(n, count, self.seed).map(|row| row as u32).collect()
    }

    /// Copies of `count` of the rows, as they are compared.
    fn drawn(&self, ids: &[u32], count: usize) -> Vec<f32> {
        let mut out = Vec::with_capacity(count * self.rows.d);
        for at in draw(ids.len(), count, self.seed ^ DRAW) {
            let inverse = self.rows.inverse(ids[at]);
            out.extend(self.rows.row(ids[at]).iter().map(|x| x * inverse));
        }
        out
    }

    /// The nearest centroid of each of `ids`.
    fn assign(&self, ids: &[u32], centroids: &[f32]) -> Vec<u32> {
        Finder::new(centroids, self.rows.d, self.seed, self.threads).assign(self.rows, ids, self.threads)
    }

    /// Means per leaf of `ids` (zero for an empty one).
    fn means(&self, ids: &[u32], assignment: &[u32]) -> Vec<f32> {
        let leaves = assignment.iter().max().map_or(0, |leaf| *leaf as usize + 1);
        let (grouped, ends) = group(ids, assignment, leaves);
        self.part_means(&grouped, &ends)
    }

    /// Means of consecutive parts of `ids`, given by their ends.
    fn part_means(&self, ids: &[u32], ends: &[usize]) -> Vec<f32> {
        let d = self.rows.d;
        let mut means = vec![0.0; ends.len() * d];
        parallel::for_chunks(self.threads, &mut means, 8 * d, |chunk, out| {
            for (index, out) in out.chunks_exact_mut(d).enumerate() {
                let part = 8 * chunk + index;
                let start = if part == 0 { 0 } else { ends[part - 1] };
                self.rows.mean(&ids[start..ends[part]], out);
            }
        });
        means
    }

    /// Dissolves leaves below a quarter of the target, splits those above `above` times the target and numbers the rest
    /// densely, keeping their order.
    fn balance(&self, assignment: &mut [u32], centroids: &[f32], above: usize) {
        self.dissolve(assignment, centroids);
        self.split(assignment, above);
    }

    /// Splits leaves above `above` times the target and numbers all that have rows densely, keeping their order. Of each
    /// leaf then the one that it was, if it is the whole of that.
    fn split(&self, assignment: &mut [u32], above: usize) -> Vec<Option<u32>> {
        let mut whole = Vec::new();
        let leaves = assignment.iter().max().map_or(0, |leaf| *leaf as usize + 1);
        let (mut grouped, ends) = group(&all(assignment.len()), assignment, leaves);
        let mut rest = grouped.as_mut_slice();
        let mut start = 0;
        for (number, &end) in (0u32..).zip(&ends) {
            let (leaf, tail) = std::mem::take(&mut rest).split_at_mut(end - start);
            (rest, start) = (tail, end);
            if leaf.is_empty() {
                continue;
            }
            let parts = if leaf.len() > above * self.target { leaf.len().div_ceil(self.target) } else { 1 };
            let mut from = 0;
            for to in bisect(self.rows, leaf, parts, self.seed, self.threads) {
                leaf[from..to].iter().for_each(|row| assignment[*row as usize] = whole.len() as u32);
                whole.push((parts == 1).then_some(number));
                from = to;
            }
        }
        whole
    }

    /// Moves the rows of leaves below a quarter of the target to the nearest of the others.
    fn dissolve(&self, assignment: &mut [u32], centroids: &[f32]) {
        let d = self.rows.d;
        let mut counts = vec![0usize; centroids.len() / d];
        assignment.iter().for_each(|leaf| counts[*leaf as usize] += 1);
        let keeps = |leaf: usize| !is_small(counts[leaf], self.target);
        let kept: Vec<u32> = (0..counts.len()).filter(|leaf| keeps(*leaf)).map(|leaf| leaf as u32).collect();
        let moved: Vec<u32> = (0..assignment.len())
            .filter(|row| !keeps(assignment[*row] as usize))
            .map(|row| row as u32)
            .collect();
        if kept.is_empty() || moved.is_empty() {
            return;
        }
        let means: Vec<f32> =
            kept.iter().flat_map(|leaf| &centroids[*leaf as usize * d..][..d]).copied().collect();
        for (row, nearest) in moved.iter().zip(self.assign(&moved, &means)) {
            assignment[*row as usize] = kept[nearest as usize];
        }
    }

    /// Numbers leaves by bisection of their centroids and orders the rows inside each by bisection.
    fn order(&self, mut assignment: Vec<u32>, centroids: Vec<f32>) -> Clustering {
        let d = self.rows.d;
        let leaves = centroids.len() / d;
        let mut tree_order = all(leaves);
        bisect(&Rows::plain(&centroids, d), &mut tree_order, leaves, self.seed, self.threads);
        let mut number = vec![0u32; leaves];
        tree_order.iter().enumerate().for_each(|(new, old)| number[*old as usize] = new as u32);
        assignment.iter_mut().for_each(|leaf| *leaf = number[*leaf as usize]);
        let order = self.order_inside(&assignment, leaves, |_, _| false);
        let centroids =
            tree_order.iter().flat_map(|old| &centroids[*old as usize * d..][..d]).copied().collect();
        Clustering { leaves, centroids, assignment, order }
    }

    /// Rows by leaf, those of each ordered by bisection into some eight unless they `stay` as they are.
    fn order_inside(
        &self,
        assignment: &[u32],
        leaves: usize,
        stay: impl Fn(usize, &[u32]) -> bool,
    ) -> Vec<u32> {
        let (mut order, ends) = group(&all(assignment.len()), assignment, leaves);
        let mut parts = Vec::with_capacity(leaves);
        let mut rest = order.as_mut_slice();
        let mut start = 0;
        for (number, end) in ends.into_iter().enumerate() {
            let (leaf, tail) = std::mem::take(&mut rest).split_at_mut(end - start);
            (rest, start) = (tail, end);
            if !stay(number, leaf) {
                parts.push(leaf);
            }
        }
        parallel::for_chunks(self.threads, &mut parts, 4, |_, leaves| {
            for leaf in leaves {
                let parts = leaf.len().div_ceil(BESIDE);
                bisect(self.rows, leaf, parts, self.seed, 1);
            }
        });
        order
    }
}

/// Sorts `ids` by their leaf, keeping their order inside it; returns them and where each leaf ends.
fn group(ids: &[u32], assignment: &[u32], leaves: usize) -> (Vec<u32>, Vec<usize>) {
    let mut ends = vec![0usize; leaves];
    assignment.iter().for_each(|leaf| ends[*leaf as usize] += 1);
    let mut total = 0;
    for end in &mut ends {
        (*end, total) = (total, total + *end); // for now: where the leaf starts
    }
    let mut grouped = vec![0u32; ids.len()];
    for (id, leaf) in ids.iter().zip(assignment) {
        let slot = &mut ends[*leaf as usize];
        grouped[*slot] = *id;
        *slot += 1;
    }
    (grouped, ends)
}

/// Finds the nearest of some centroids.
enum Finder {
    Flat(Panels),
    Tree(Tree),
}

impl Finder {
    fn new(centroids: &[f32], d: usize, seed: u64, threads: usize) -> Self {
        if centroids.len() / d <= FLAT_LEAVES {
            return Finder::Flat(Panels::new(centroids.chunks_exact(d), d));
        }
        Finder::Tree(Tree::new(centroids, d, seed, threads))
    }

    /// The nearest centroid of each of `ids`.
    fn assign(&self, rows: &Rows<'_>, ids: &[u32], threads: usize) -> Vec<u32> {
        self.near::<1>(rows, ids, threads).iter().map(|best| best.leaf(0)).collect()
    }

    /// The K nearest centroids of each of `ids`, of those that it is compared with.
    fn near<const K: usize>(&self, rows: &Rows<'_>, ids: &[u32], threads: usize) -> Vec<Best<K>> {
        let mut best = vec![Best::NONE; ids.len()];
        match self {
            Finder::Flat(panels) => parallel::for_chunks(threads, &mut best, CHUNK, |chunk, best| {
                panels.nearest(rows, &ids[chunk * CHUNK..][..best.len()], best);
            }),
            Finder::Tree(tree) => {
                let together = ids.len().div_ceil(ids.len().div_ceil(TOGETHER).max(1)).max(1);
                for (ids, best) in ids.chunks(together).zip(best.chunks_mut(together)) {
                    tree.near(rows, ids, best, threads);
                }
            }
        }
        best
    }
}

/// Two levels over many centroids: parents of about 32 leaves each.
struct Tree {
    parents: Panels,
    /// Per parent its leaves' panels and their numbers.
    leaves: Vec<(Panels, Vec<u32>)>,
}

impl Tree {
    fn new(centroids: &[f32], d: usize, seed: u64, threads: usize) -> Self {
        let points = Rows::plain(centroids, d);
        let mut order = all(points.len());
        let ends = bisect(&points, &mut order, points.len().div_ceil(PARENT_LEAVES), seed, threads);
        let mut means = vec![0.0; ends.len() * d];
        let mut members = Vec::with_capacity(ends.len());
        let mut start = 0;
        for (end, mean) in ends.into_iter().zip(means.chunks_exact_mut(d)) {
            let mut own = order[start..end].to_vec();
            own.sort_unstable(); // ties go to the lower leaf
            points.mean(&own, mean);
            members.push(own);
            start = end;
        }
        let parents = Panels::new(means.chunks_exact(d), d);
        let leaves = members.into_iter().map(|members| {
            let centroids = members.iter().map(|leaf| points.row(*leaf));
            (Panels::around(parents.origin().to_vec(), centroids), members)
        });
        Self { leaves: leaves.collect(), parents }
    }

    /// Of each of `ids` the K best leaves, of those of the parents nearest to it.
    fn near<const K: usize>(&self, rows: &Rows<'_>, ids: &[u32], out: &mut [Best<K>], threads: usize) {
        let packed = Packed::of_many(rows, ids, self.parents.origin(), threads);
        let places = all(ids.len());
        let mut parents = vec![Best::<NEAREST_PARENTS>::NONE; ids.len()];
        parallel::for_chunks(threads, &mut parents, WITH_PARENTS, |chunk, parents| {
            self.parents.compare(&packed, &places[chunk * WITH_PARENTS..][..parents.len()], parents);
        });
        // By parent, so that the rows that meet at one fill its tiles.
        let mut visits: Vec<(Vec<u32>, Vec<Best<K>>)> = vec![Default::default(); self.leaves.len()];
        for (place, best) in (0u32..).zip(&parents) {
            best.leaves().for_each(|parent| visits[parent as usize].0.push(place));
        }
        parallel::for_chunks(threads, &mut visits, 1, |parent, visit| {
            let [(places, best)] = visit else { return };
            best.resize(places.len(), Best::NONE);
            self.leaves[parent].0.compare(&packed, places, best);
        });
        for ((_, members), (places, best)) in self.leaves.iter().zip(&visits) {
            for (place, best) in places.iter().zip(best) {
                let found = best.entries().map(|(value, leaf)| (value, members[leaf as usize]));
                found.for_each(|(value, leaf)| out[*place as usize].offer(&[value], leaf as usize));
            }
        }
    }
}

#[cfg(test)]
mod tests;
