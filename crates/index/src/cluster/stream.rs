//! The clustering of more rows than memory holds: leaves are trained on a sample, improved by one pass over the rows,
//! and the rows of neighbouring leaves are put in order together.

use super::bisect::bisect;
use super::{
    Build, Clustering, Finder, MERGE_BELOW, Rows, SPLIT_ABOVE, TRAIN_ROUNDS, all, parallel, training_rows,
};
use crate::Metric;
use crate::codes::inverse_norm;

/// The training of leaves on a sample of rows, a round at a time: what [`Leaves::train`] does in one go.
#[derive(Debug, Clone, PartialEq)]
pub struct Training {
    /// leaves·d values: centroids so far.
    pub centroids: Vec<f32>,
    /// Rounds that made them.
    pub rounds: usize,
}

impl Training {
    /// At most `leaves` of the rows of the sample (n·d values), before the first round.
    pub fn new(sample: &[f32], d: usize, metric: Metric, leaves: usize, seed: u64, threads: usize) -> Self {
        let rows = Rows::new(sample, d.max(1), metric, threads);
        let build = Build { rows: &rows, target: 1, seed, threads };
        let leaves = leaves.clamp(1, rows.len().max(1));
        let ids = build.sample(training_rows(rows.len(), leaves));
        Training { centroids: build.drawn(&ids, leaves.min(ids.len())), rounds: 0 }
    }

    /// Whether another round is to follow.
    pub fn goes_on(&self) -> bool {
        self.rounds < TRAIN_ROUNDS
    }

    /// One round over the same sample: true while another is to follow.
    pub fn round(&mut self, sample: &[f32], d: usize, metric: Metric, seed: u64, threads: usize) -> bool {
        if self.goes_on() {
            let rows = Rows::new(sample, d.max(1), metric, threads);
            let build = Build { rows: &rows, target: 1, seed, threads };
            let leaves = self.centroids.len() / rows.d;
            let ids = build.sample(training_rows(rows.len(), leaves));
            build.round(&ids, &mut self.centroids);
            self.rounds += 1;
        }
        self.goes_on()
    }
}

/// Trained leaves, in tree order once refined. Two copies of the centroids.
pub struct Leaves {
    d: usize,
    metric: Metric,
    centroids: Vec<f32>,
    /// Rows that the mean of each is of, once refined.
    counts: Vec<u64>,
    finder: Finder,
}

impl Leaves {
    /// At most `leaves` leaves of a sample of rows (n·d values). The result does not depend on `threads`.
    pub fn train(
        sample: &[f32],
        d: usize,
        metric: Metric,
        leaves: usize,
        seed: u64,
        threads: usize,
    ) -> Leaves {
        let mut training = Training::new(sample, d, metric, leaves, seed, threads);
        while training.round(sample, d, metric, seed, threads) {}
        Leaves::from_parts(training.centroids, Vec::new(), d, metric, seed, threads)
    }

    /// Leaves with these centroids, and how many rows each may expect, or nothing: what [`Leaves::centroids`] and
    /// [`Leaves::expected`] gave.
    pub fn from_parts(
        centroids: Vec<f32>,
        counts: Vec<u64>,
        d: usize,
        metric: Metric,
        seed: u64,
        threads: usize,
    ) -> Leaves {
        Leaves { counts, ..Leaves::of(centroids, d.max(1), metric, seed, threads) }
    }

    fn of(centroids: Vec<f32>, d: usize, metric: Metric, seed: u64, threads: usize) -> Leaves {
        let finder = Finder::new(&centroids, d, seed, threads);
        Leaves { d, metric, centroids, counts: Vec::new(), finder }
    }

    /// Number of leaves.
    pub fn count(&self) -> usize {
        self.centroids.len() / self.d
    }

    /// leaves·d values.
    pub fn centroids(&self) -> &[f32] {
        &self.centroids
    }

    /// How many rows each leaf may expect, once refined; nothing before.
    pub fn expected(&self) -> &[u64] {
        &self.counts
    }

    /// The nearest leaf of each of some rows (n·d values).
    pub fn assign(&self, rows: &[f32], threads: usize) -> Vec<u32> {
        let rows = Rows::new(rows, self.d, self.metric, threads);
        self.finder.assign(&rows, &all(rows.len()), threads)
    }

    /// The leaves around the means of the rows assigned to them, without those that have less than a quarter of
    /// `target` rows, neighbours beside each other.
    pub fn refined(self, moments: &Moments, target: usize, seed: u64, threads: usize) -> Leaves {
        let d = self.d;
        let most = moments.counts.iter().max().copied().unwrap_or(0);
        // However few the rows are, one leaf stays.
        let least = (target.div_ceil(MERGE_BELOW) as u64).min(most);
        let (mut means, mut counts) = (Vec::new(), Vec::new());
        for (count, sums) in moments.counts.iter().zip(moments.sums.chunks_exact(d)) {
            if *count >= least.max(1) {
                means.extend(sums.iter().map(|sum| (sum / *count as f64) as f32));
                counts.push(*count);
            }
        }
        if means.is_empty() {
            return self;
        }
        let leaves = means.len() / d;
        let mut order = all(leaves);
        bisect(&Rows::plain(&means, d), &mut order, leaves, seed, threads);
        let centroids = order.iter().flat_map(|leaf| &means[*leaf as usize * d..][..d]).copied().collect();
        let counts = order.iter().map(|leaf| counts[*leaf as usize]).collect();
        Leaves { counts, ..Leaves::of(centroids, d, self.metric, seed, threads) }
    }
}

/// Sums of the rows of each leaf: 8 bytes a coordinate.
pub struct Moments {
    metric: Metric,
    d: usize,
    sums: Vec<f64>,
    counts: Vec<u64>,
}

impl Moments {
    /// No rows yet.
    pub fn new(leaves: &Leaves) -> Moments {
        Moments::of(leaves.count(), leaves.d, leaves.metric)
    }

    pub(super) fn of(leaves: usize, d: usize, metric: Metric) -> Moments {
        Moments { metric, d, sums: vec![0.0; leaves * d], counts: vec![0; leaves] }
    }

    /// The mean of each leaf's rows; zero of one without rows.
    pub(super) fn means(&self) -> Vec<f32> {
        let mean = |(count, sums): (&u64, &[f64])| -> Vec<f32> {
            sums.iter().map(|sum| (sum / (*count).max(1) as f64) as f32).collect()
        };
        self.counts.iter().zip(self.sums.chunks_exact(self.d)).flat_map(mean).collect()
    }

    /// The sums (leaves·d values) and the number of rows of each leaf.
    pub fn parts(&self) -> (&[f64], &[u64]) {
        (&self.sums, &self.counts)
    }

    /// What [`Moments::parts`] gave; none if that is not of these leaves.
    pub fn from_parts(leaves: &Leaves, sums: Vec<f64>, counts: Vec<u64>) -> Option<Moments> {
        let of = Moments::new(leaves);
        let fits = (sums.len(), counts.len()) == (of.sums.len(), of.counts.len());
        fits.then_some(Moments { sums, counts, ..of })
    }

    /// Adds rows (n·d values) and the leaf of each. The result does not depend on `threads`.
    pub fn add(&mut self, rows: &[f32], assignment: &[u32], threads: usize) {
        let (d, metric) = (self.d, self.metric);
        assignment.iter().for_each(|leaf| self.counts[*leaf as usize] += 1);
        // Each task has its own leaves, and takes their rows in order.
        let own = self.counts.len().div_ceil(4 * threads.max(1)).max(1);
        parallel::for_chunks(threads, &mut self.sums, own * d, |chunk, sums| {
            let first = chunk * own;
            for (row, leaf) in rows.chunks_exact(d).zip(assignment) {
                let Some(at) = (*leaf as usize).checked_sub(first).filter(|at| *at < own) else { continue };
                let inverse = inverse_norm(metric, row);
                let sums = &mut sums[at * d..][..d];
                sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(x * inverse));
            }
        });
    }
}

/// Puts rows (n·d values) in their final order, given the leaf of each: leaves of over three times the target are split,
/// those without rows left out; the others keep their order, and inside them rows are ordered by bisection.
pub fn arrange(
    rows: &[f32],
    d: usize,
    metric: Metric,
    mut assignment: Vec<u32>,
    target: usize,
    seed: u64,
    threads: usize,
) -> Clustering {
    let rows = Rows::new(rows, d.max(1), metric, threads);
    let build = Build { rows: &rows, target: target.max(1), seed, threads };
    build.split(&mut assignment, SPLIT_ABOVE + 1);
    let centroids = build.means(&all(assignment.len()), &assignment);
    let leaves = centroids.len() / rows.d;
    let order = build.order_inside(&assignment, leaves, |_, _| false);
    Clustering { leaves, centroids, assignment, order }
}
