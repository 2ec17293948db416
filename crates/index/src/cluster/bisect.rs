//! Balanced bisection: a partition and an order in one.

use diskann_vector::distance::{Distance, DistanceProvider, Metric as Kernel};

use super::{Rows, parallel};
use crate::seed::SplitMix;

/// Rows on which a cut is learnt.
const SAMPLE: usize = 256;
/// 2-means rounds per cut …
const ROUNDS: usize = 4;
/// … and for cuts inside a leaf, which only order it.
const SMALL_ROUNDS: usize = 2;
/// Rows of a cut inside a leaf.
const SMALL: usize = 64;
/// The smaller side of a cut has at least this share: 1 in 4.
const BALANCE: usize = 4;

/// A node: some rows, to be cut into so many parts.
struct Node<'a> {
    ids: &'a mut [u32],
    parts: usize,
    /// Where the node starts in the whole, which also seeds it: the same whatever thread works on it.
    start: usize,
}

/// Reorders `ids` so that near rows come together, cut into `parts` consecutive parts of similar size (at most one part
/// per row; none for no rows); returns their ends. Each cut is that of 2-means on a sample, moved where it would leave
/// less than a quarter on one side; rows that cannot be told apart are cut by number.
pub(super) fn bisect(
    rows: &Rows<'_>,
    ids: &mut [u32],
    parts: usize,
    seed: u64,
    threads: usize,
) -> Vec<usize> {
    if ids.is_empty() {
        return Vec::new();
    }
    let parts = parts.clamp(1, ids.len());
    let mut ends = Vec::with_capacity(parts);
    let mut nodes = vec![Node { ids, parts, start: 0 }];
    // Level by level until there is work for every thread, …
    while threads > 1 && !nodes.is_empty() && nodes.len() < 16 * threads {
        let mut cuts: Vec<(Node<'_>, Cut)> = nodes.into_iter().map(|node| (node, Cut::default())).collect();
        parallel::for_chunks(threads, &mut cuts, 1, |_, cuts| {
            let mut cutter = Cutter::new(rows);
            cuts.iter_mut().for_each(|(node, cut)| *cut = cutter.cut(node, seed));
        });
        nodes = Vec::with_capacity(2 * cuts.len());
        cuts.into_iter().for_each(|(node, cut)| node.divide(cut, &mut nodes, &mut ends));
    }
    // … then each subtree by itself.
    let mut subtrees: Vec<(Vec<Node<'_>>, Vec<usize>)> =
        nodes.into_iter().map(|node| (vec![node], Vec::new())).collect();
    parallel::for_chunks(threads, &mut subtrees, 1, |_, subtrees| {
        let mut cutter = Cutter::new(rows);
        for (stack, ends) in subtrees {
            while let Some(mut node) = stack.pop() {
                let cut = cutter.cut(&mut node, seed);
                node.divide(cut, stack, ends);
            }
        }
    });
    subtrees.into_iter().for_each(|(_, found)| ends.extend(found));
    ends.sort_unstable();
    ends
}

/// How many rows and how many parts go left.
#[derive(Clone, Copy, Default)]
struct Cut {
    rows: usize,
    parts: usize,
}

impl<'a> Node<'a> {
    /// Pushes the two sides, or the end of a node that is a single part.
    fn divide(self, cut: Cut, nodes: &mut Vec<Node<'a>>, ends: &mut Vec<usize>) {
        if self.parts <= 1 {
            ends.push(self.start + self.ids.len());
            return;
        }
        let (low, high) = self.ids.split_at_mut(cut.rows);
        nodes.push(Node { ids: low, parts: cut.parts, start: self.start });
        nodes.push(Node { ids: high, parts: self.parts - cut.parts, start: self.start + cut.rows });
    }
}

/// Buffers for cutting one node after another.
struct Cutter<'a> {
    rows: &'a Rows<'a>,
    dot: Distance<f32, f32>,
    sample: Vec<u32>,
    projected: Vec<(f32, u32)>,
    means: [Vec<f32>; 2],
    sums: [Vec<f32>; 2],
    direction: Vec<f32>,
}

impl<'a> Cutter<'a> {
    fn new(rows: &'a Rows<'a>) -> Self {
        let zero = vec![0.0; rows.d];
        let dot = <f32 as DistanceProvider<f32>>::distance_comparer(Kernel::InnerProduct, Some(rows.d));
        Self {
            rows,
            dot,
            sample: Vec::new(),
            projected: Vec::new(),
            means: [zero.clone(), zero.clone()],
            sums: [zero.clone(), zero.clone()],
            direction: zero,
        }
    }

    /// Partitions the node's rows, if they are more than one part.
    fn cut(&mut self, node: &mut Node<'_>, seed: u64) -> Cut {
        let (n, parts) = (node.ids.len(), node.parts);
        if parts <= 1 {
            return Cut::default();
        }
        if n == 2 {
            return Cut { rows: 1, parts: 1 };
        }
        let mut random = SplitMix::new(seed ^ (node.start as u64) << 32 ^ n as u64);
        self.sample.clear();
        if n <= SAMPLE {
            self.sample.extend_from_slice(node.ids);
        } else {
            let stretch = |i: usize| i * n / SAMPLE;
            self.sample.extend(
                (0..SAMPLE).map(|i| node.ids[stretch(i) + random.below(stretch(i + 1) - stretch(i))]),
            );
        }
        let middle = self.two_means(&mut random);

        self.projected.clear();
        for &id in node.ids.iter() {
            self.projected.push((self.project(id), id));
        }
        let natural = self.projected.iter().filter(|(at, _)| *at < middle).count();
        // Parts follow rows, each side gets at least one part and a part never lacks a row.
        let left_rows = natural.clamp(n.div_ceil(BALANCE), n - n.div_ceil(BALANCE));
        let left_parts = ((left_rows * parts + n / 2) / n).clamp(1, parts - 1);
        let left = left_rows.clamp(left_parts, n - (parts - left_parts));
        self.projected.select_nth_unstable_by(left, |a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        node.ids.iter_mut().zip(&self.projected).for_each(|(id, projected)| *id = projected.1);
        Cut { rows: left, parts: left_parts }
    }

    /// 2-means on the sample, from two far rows; leaves the direction between the means and returns the projection of
    /// the point halfway between them.
    fn two_means(&mut self, random: &mut SplitMix) -> f32 {
        let any = self.sample[random.below(self.sample.len())];
        let one = self.farthest(any);
        let other = self.farthest(one);
        self.copy_to_mean(0, one);
        self.copy_to_mean(1, other);
        let mut middle = self.aim();
        for _ in 0..if self.sample.len() <= SMALL { SMALL_ROUNDS } else { ROUNDS } {
            let mut counts = [0usize; 2];
            self.sums.iter_mut().for_each(|sum| sum.fill(0.0));
            for &id in &self.sample {
                let side = usize::from(self.project(id) >= middle);
                counts[side] += 1;
                let inverse = self.rows.inverse(id);
                self.sums[side].iter_mut().zip(self.rows.row(id)).for_each(|(sum, x)| *sum += x * inverse);
            }
            if counts.contains(&0) {
                break;
            }
            for ((mean, sum), count) in self.means.iter_mut().zip(&self.sums).zip(counts) {
                mean.iter_mut().zip(sum).for_each(|(mean, sum)| *mean = sum / count as f32);
            }
            middle = self.aim();
        }
        middle
    }

    fn farthest(&self, from: u32) -> u32 {
        let (row, inverse) = (self.rows.row(from), self.rows.inverse(from));
        let mut far = (f32::NEG_INFINITY, from);
        for &id in &self.sample {
            let other = self.rows.row(id);
            let scale = self.rows.inverse(id);
            // ‖x‖² − 2⟨x, from⟩: the distance up to a constant. `dot` comes back negated.
            let square = match self.rows.inverse.is_empty() {
                true => -self.dot.call(other, other),
                false => f32::from(u8::from(scale > 0.0)),
            };
            let distance = square + 2.0 * self.dot.call(other, row) * scale * inverse;
            if distance > far.0 {
                far = (distance, id);
            }
        }
        far.1
    }

    fn copy_to_mean(&mut self, side: usize, id: u32) {
        let inverse = self.rows.inverse(id);
        self.means[side].iter_mut().zip(self.rows.row(id)).for_each(|(mean, x)| *mean = x * inverse);
    }

    fn aim(&mut self) -> f32 {
        let [low, high] = &self.means;
        let mut middle = 0f64;
        for ((direction, low), high) in self.direction.iter_mut().zip(low).zip(high) {
            *direction = high - low;
            middle += f64::from(*direction) * f64::from(high + low) * 0.5;
        }
        middle as f32
    }

    fn project(&self, id: u32) -> f32 {
        -self.dot.call(self.rows.row(id), &self.direction) * self.rows.inverse(id)
    }
}
