//! [`super::adapt`] for rows that come in blocks: one pass over them says what becomes of the leaves, another puts each row
//! into its leaf. Leaves that are split get their first centroids from a sample; what they look like in the end is seen
//! where their rows are together.

use super::super::bisect::bisect;
use super::super::stream::Moments;
use super::super::{Build, Clustering, Finder, Rows, SPLIT_ABOVE, all, group, is_small};
use super::{Adapted, Standing, place, rows_where, rules, stay};
use crate::Metric;

/// What stays the same over all blocks.
#[derive(Clone, Copy)]
struct Frame<'a> {
    standing: Standing<'a>,
    d: usize,
    metric: Metric,
    target: usize,
    seed: u64,
    threads: usize,
}

impl Frame<'_> {
    /// The leaf that a row was in.
    fn was(&self, row: usize) -> u32 {
        self.standing.leaf_of.get(row).copied().unwrap_or(Standing::NEW)
    }
}

/// The first pass: sums of the rows in the leaves that stand, new ones in the nearest.
pub struct Survey<'a> {
    frame: Frame<'a>,
    centroids: Vec<f32>,
    finder: Finder,
    moments: Moments,
    /// Summed squared distances to the centroid, by leaf.
    spread: Vec<f64>,
    /// Rows that come next.
    next: usize,
}

/// Leaves that fit the rows better, and the second pass.
pub struct Plan<'a> {
    frame: Frame<'a>,
    /// In tree order.
    centroids: Vec<f32>,
    origin: Vec<Option<u32>>,
    /// Rows of each leaf, about.
    expected: Vec<u64>,
    /// By how much the squared distances of rows exceed those to the mean that a leaf will have.
    excess: Vec<f64>,
    /// The leaf that each standing one is; [`Standing::NEW`] of one that goes.
    number: Vec<u32>,
    around: Vec<Vec<u32>>,
    finder: Finder,
    next: usize,
    /// Rows that the segment has, and those of them that stand.
    older: (u64, u64),
    /// New rows, and the sum of their squared distances.
    new: (u64, f64),
}

/// A leaf of a plan.
struct Leaf {
    centroid: Vec<f32>,
    origin: Option<u32>,
    expected: u64,
    excess: f64,
}

impl<'a> Survey<'a> {
    /// Leaves of `standing`, whose `leaf_of` is that of all rows to come, in their order.
    ///
    /// # Errors
    /// As [`super::adapt`].
    pub fn new(
        standing: Standing<'a>,
        d: usize,
        metric: Metric,
        target: usize,
        seed: u64,
        threads: usize,
    ) -> Result<Self, String> {
        let (d, target) = (d.max(1), target.max(1));
        let centroids = standing.centroids_of(standing.leaf_of.len(), d)?;
        Ok(Survey {
            frame: Frame { standing, d, metric, target, seed, threads },
            finder: Finder::new(&centroids, d, seed, threads),
            moments: Moments::of(standing.leaves, d, metric),
            spread: vec![0.0; standing.leaves],
            centroids,
            next: 0,
        })
    }

    /// Adds the next rows (n·d values).
    pub fn add(&mut self, block: &[f32]) {
        let Frame { d, metric, threads, .. } = self.frame;
        let rows = Rows::new(block, d, metric, threads);
        if self.spread.is_empty() {
            self.next += rows.len();
            return;
        }
        let was = (self.next..self.next + rows.len()).map(|row| self.frame.was(row));
        let mut own: Vec<u32> = was.collect();
        place(&self.finder, &rows, &mut own, threads);
        let squares = rules::squares(&rows, &all(rows.len()), &own, &self.centroids, threads);
        squares.iter().zip(&own).for_each(|(square, leaf)| self.spread[*leaf as usize] += square);
        self.moments.add(block, &own, threads);
        self.next += rows.len();
    }

    /// What becomes of the leaves, given the vectors and numbers of some of the rows. `None` where a new clustering is
    /// better.
    ///
    /// # Errors
    /// Says so when there were fewer or more rows than leaves of rows.
    pub fn plan(self, sample: &[f32], numbers: &[u32]) -> Result<Option<Plan<'a>>, String> {
        let frame = self.frame;
        let Frame { standing, d, seed, threads, .. } = frame;
        if self.next != standing.leaf_of.len() {
            return Err(format!("leaves of {} rows for {}", standing.leaf_of.len(), self.next));
        }
        if standing.leaf_of.is_empty() || standing.leaves == 0 {
            return Ok(None);
        }
        let leaves = self.leaves(sample, numbers)?;
        drop(self);
        let mut older = vec![0u64; standing.leaves];
        let olds = standing.leaf_of.iter().filter(|leaf| **leaf != Standing::NEW);
        olds.for_each(|leaf| older[*leaf as usize] += 1);
        let stand = leaves.iter().filter_map(|leaf| leaf.origin).map(|leaf| older[leaf as usize]).sum();
        let few = rules::are_few(leaves.len(), standing.leaf_of.len(), frame.target);
        if !few || !rules::fits(older.iter().sum(), stand) {
            return Ok(None);
        }
        let mut order = all(leaves.len());
        {
            let points: Vec<f32> = leaves.iter().flat_map(|leaf| &leaf.centroid).copied().collect();
            bisect(&Rows::plain(&points, d), &mut order, leaves.len(), seed, threads);
        }
        let sorted = || order.iter().map(|leaf| &leaves[*leaf as usize]);
        let centroids: Vec<f32> = sorted().flat_map(|leaf| &leaf.centroid).copied().collect();
        let origin: Vec<Option<u32>> = sorted().map(|leaf| leaf.origin).collect();
        let mut number = vec![Standing::NEW; standing.leaves];
        for (leaf, origin) in (0u32..).zip(&origin) {
            origin.iter().for_each(|was| number[*was as usize] = leaf);
        }
        Ok(Some(Plan {
            frame,
            expected: sorted().map(|leaf| leaf.expected).collect(),
            excess: sorted().map(|leaf| leaf.excess).collect(),
            number,
            around: rules::around(&centroids, d, &origin, threads),
            finder: Finder::new(&centroids, d, seed, threads),
            centroids,
            origin,
            next: 0,
            older: (0, 0),
            new: (0, 0.0),
        }))
    }

    /// Leaves without the small ones; those that moved have new centroids, those that are too large are split.
    fn leaves(&self, sample: &[f32], numbers: &[u32]) -> Result<Vec<Leaf>, String> {
        let Frame { standing, d, metric, target, seed, threads } = self.frame;
        let (means, counts) = (self.moments.means(), self.moments.parts().1);
        let moved = rules::moved(&standing, d, &self.centroids, &means, counts, &self.spread)?;
        let keeps = |leaf: &usize| !is_small(counts[*leaf] as usize, target);
        // However few the rows are, a leaf stays.
        let all_small = !(0..counts.len()).any(|leaf| keeps(&leaf));
        let rows = Rows::new(sample, d, metric, threads);
        let mut own: Vec<u32> = numbers.iter().map(|row| self.frame.was(*row as usize)).collect();
        place(&self.finder, &rows, &mut own, threads);
        let (mut grouped, ends) = group(&all(own.len()), &own, counts.len());
        let mut out = Vec::with_capacity(counts.len());
        for leaf in (0..counts.len()).filter(|leaf| keeps(leaf) || all_small && counts[*leaf] > 0) {
            let start = if leaf == 0 { 0 } else { ends[leaf - 1] };
            let (members, count) = (&mut grouped[start..ends[leaf]], counts[leaf]);
            let parts = rules::parts(count as usize, target).min(members.len());
            if count as usize <= SPLIT_ABOVE * target || parts < 2 {
                let (centroids, origin) =
                    if moved[leaf] { (&means, None) } else { (&self.centroids, Some(leaf as u32)) };
                let centroid = centroids[leaf * d..][..d].to_vec();
                out.push(Leaf { centroid, origin, expected: count, excess: 1.0 });
                continue;
            }
            let ends = bisect(&rows, members, parts, seed, threads);
            let (mut from, mut sampled) = (0, vec![0.0; d]);
            rows.mean(members, &mut sampled);
            for to in ends {
                let part = &members[from..to];
                let mut centroid = vec![0.0; d];
                rows.mean(part, &mut centroid);
                // The mean of all rows is known: by how much the sample's misses it, its parts' do, too.
                let pairs = means[leaf * d..].iter().zip(&sampled);
                centroid.iter_mut().zip(pairs).for_each(|(c, (mean, sampled))| *c += mean - sampled);
                let share = part.len() as f64 / members.len() as f64;
                let expected = (count as f64 * share) as u64;
                // Rows are that much further from the mean of a few others than from their own.
                let excess = 1.0 + (1.0 - share) / part.len() as f64;
                out.push(Leaf { centroid, origin: None, expected, excess });
                from = to;
            }
        }
        Ok(out)
    }
}

impl Plan<'_> {
    /// Number of leaves; some may get no rows, and some may be split yet.
    pub fn count(&self) -> usize {
        self.origin.len()
    }

    /// How many rows each may expect.
    pub fn expected(&self) -> &[u64] {
        &self.expected
    }

    /// The leaf of each of the next rows (n·d values). Rows whose leaf stands stay in it, unless they are nearer to a new
    /// centroid near by.
    pub fn assign(&mut self, block: &[f32]) -> Vec<u32> {
        let Frame { d, metric, threads, .. } = self.frame;
        let rows = Rows::new(block, d, metric, threads);
        let was: Vec<u32> = (self.next..self.next + rows.len()).map(|row| self.frame.was(row)).collect();
        let number = |leaf: &u32| self.number.get(*leaf as usize).copied().unwrap_or(Standing::NEW);
        let mut own: Vec<u32> = was.iter().map(number).collect();
        let stood = rows_where(&own, |leaf| leaf != Standing::NEW);
        place(&self.finder, &rows, &mut own, threads);
        rules::recheck(&rows, &stood, &self.around, &self.centroids, &mut own, threads);
        let new = rows_where(&was, |leaf| leaf == Standing::NEW);
        let squares = rules::squares(&rows, &new, &own, &self.centroids, threads);
        for (row, square) in new.iter().zip(squares) {
            self.new.1 += square / self.excess[own[*row as usize] as usize];
        }
        let stand = own.iter().zip(&was).filter(|(own, was)| self.origin[**own as usize] == Some(**was));
        self.older.1 += stand.count() as u64;
        self.older.0 += (rows.len() - new.len()) as u64;
        self.new.0 += new.len() as u64;
        self.next += rows.len();
        own
    }

    /// Whether the leaves are good enough for the rows that were assigned: else a new clustering is better.
    pub fn holds(&self) -> bool {
        rules::fits(self.older.0, self.older.1)
            && rules::is_near(self.new.1, self.new.0, self.frame.standing.scale)
    }

    /// Puts rows (n·d values), given the number of each and its leaf, from `first` on, in their final order: leaves of over
    /// three times the target are split, those without rows left out, those that do not stand centred.
    pub fn arrange(&self, block: &[f32], numbers: &[u32], first: u32, mut leaves: Vec<u32>) -> Adapted {
        let Frame { d, metric, target, seed, threads, .. } = self.frame;
        let rows = Rows::new(block, d, metric, threads);
        let build = Build { rows: &rows, target, seed, threads };
        let whole = build.split(&mut leaves, SPLIT_ABOVE + 1);
        let origin: Vec<Option<u32>> =
            whole.iter().map(|leaf| self.origin[(first + (*leaf)?) as usize]).collect();
        let mut centroids = build.means(&all(leaves.len()), &leaves);
        for (leaf, was) in whole.iter().enumerate().filter(|(leaf, _)| origin[*leaf].is_some()) {
            let stored = (first + was.unwrap_or(0)) as usize * d;
            centroids[leaf * d..][..d].copy_from_slice(&self.centroids[stored..][..d]);
        }
        let was = |row: &u32| self.frame.was(numbers[*row as usize] as usize);
        let order = build.order_inside(&leaves, origin.len(), stay(&origin, was));
        let clustering = Clustering { leaves: origin.len(), centroids, assignment: leaves, order };
        Adapted { clustering, origin }
    }
}
