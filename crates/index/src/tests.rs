//! End to end on seeded mixtures: cluster, encode, scan, rerank.

use crate::*;

/// n rows around `centres` Gaussian centres, shifted by `offset` in every coordinate.
pub(crate) fn mixture(seed: u64, n: usize, d: usize, centres: usize, offset: f32) -> Vec<f32> {
    let mut random = SplitMix::new(seed);
    let means: Vec<f32> = (0..centres * d).map(|_| random.normal()).collect();
    let mut rows = Vec::with_capacity(n * d);
    for _ in 0..n {
        let centre = random.below(centres);
        rows.extend((0..d).map(|j| offset + means[centre * d + j] + 0.7 * random.normal()));
    }
    rows
}

/// n rows of a Gaussian the variance of whose direction i is as i^-a, in directions of no axis, shifted by `offset`.
pub(crate) fn power_law(seed: u64, n: usize, d: usize, a: f32, offset: f32) -> Vec<f32> {
    let mut random = SplitMix::new(seed);
    let rotation = Rotation::new(77, d);
    let mut rows = Vec::with_capacity(n * d);
    for _ in 0..n {
        let row: Vec<f32> = (0..d).map(|j| random.normal() * ((j + 1) as f32).powf(-a / 2.0)).collect();
        let mut turned = vec![0.0; rotation.padded()];
        rotation.apply(&row, &mut turned);
        rows.extend(turned[..d].iter().map(|x| x + offset));
    }
    rows
}

/// A small segment in memory, as compaction would write it.
pub(crate) struct Segment {
    pub metric: Metric,
    pub d: usize,
    pub rows: Vec<f32>,
    pub starts: Vec<usize>,
    pub centroids: Centroids,
    pub encoder: Encoder,
    pub groups: Vec<u8>,
}

impl Segment {
    pub fn build(metric: Metric, d: usize, data: &[f32], target: usize, bits: u8) -> Self {
        Self::with(metric, d, data, target, bits, |_, scale| Encoder::new(metric, d, 11, scale))
    }

    /// With codes of a learned basis.
    pub fn learned(metric: Metric, d: usize, data: &[f32], target: usize, code_bits: usize) -> Self {
        Self::with(metric, d, data, target, 8, |residuals, scale| {
            let mut covariance = Covariance::new(d);
            residuals.chunks(700 * d).for_each(|some| covariance.add(some));
            let basis = Basis::learn(covariance, code_bits, 3).unwrap();
            assert_eq!(basis.bits(), code_bits);
            Encoder::learned(metric, basis.into(), scale)
        })
    }

    fn with(
        metric: Metric,
        d: usize,
        data: &[f32],
        target: usize,
        bits: u8,
        encoder: impl Fn(&[f32], f32) -> Encoder,
    ) -> Self {
        let clustering = cluster(data, d, metric, target, 5, 2, &|_| {});
        let leaves = clustering.leaves;
        let bytes = Centroids::encode(bits, leaves, d, &clustering.centroids);
        let centroids = Centroids::decode(bits, leaves, d, &bytes).unwrap();
        let means = centroids.all_dequantised();
        let leaf_of = |row: usize| &means[clustering.assignment[row] as usize * d..][..d];
        let scale = residual_scale(metric, d, data, leaf_of);
        let mut residuals = vec![0.0; data.len()];
        for (row, (values, out)) in data.chunks_exact(d).zip(residuals.chunks_exact_mut(d)).enumerate() {
            residual(metric, values, leaf_of(row), out);
        }
        let encoder = encoder(&residuals, scale);
        let mut rows = Vec::new();
        let mut starts = vec![0; leaves + 1];
        let mut codes = Vec::new();
        for &row in &clustering.order {
            let row = row as usize;
            rows.extend_from_slice(&data[row * d..][..d]);
            starts[clustering.assignment[row] as usize + 1] += 1;
            let mut code = RowCode::default();
            encoder.encode(&data[row * d..][..d], leaf_of(row), &mut code);
            codes.push(code);
        }
        (0..leaves).for_each(|leaf| starts[leaf + 1] += starts[leaf]);
        let mut groups = Vec::new();
        codes.chunks(GROUP).for_each(|group| pack_group(group, encoder.bits(), &mut groups));
        Self { metric, d, rows, starts, centroids, encoder, groups }
    }

    pub fn row(&self, posting: usize) -> &[f32] {
        &self.rows[posting * self.d..][..self.d]
    }

    pub fn query(&self, query: &[f32]) -> CodeQuery {
        let scores = self.centroids.scores(self.metric, query);
        let best = (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b])).unwrap_or(0);
        let mut centroid = vec![0.0; self.d];
        self.centroids.dequantised(best, &mut centroid);
        self.encoder.query_near(query, &centroid)
    }

    /// The best `probes` leaves, in order of posting.
    pub fn runs(&self, coded: &CodeQuery, query: &[f32], probes: usize) -> Vec<Run> {
        let scores = self.centroids.scores(self.metric, query);
        let mut best = TopK::new(probes);
        scores.iter().enumerate().for_each(|(leaf, score)| {
            best.push(-score, leaf);
        });
        let mut leaves: Vec<usize> = best.into_sorted().into_iter().map(|(_, leaf)| leaf).collect();
        leaves.sort_unstable();
        let run = |leaf: usize| Run {
            first: self.starts[leaf],
            end: self.starts[leaf + 1],
            term: coded.term(scores[leaf], self.centroids.norm(leaf)),
        };
        leaves.into_iter().map(run).collect()
    }

    pub fn codes(&self) -> Codes<'_> {
        Codes { groups: &self.groups, first_group: 0, beside: 0 }
    }

    /// Scan, keep `rerank` by estimate, rerank exactly: the k nearest postings.
    pub fn search(&self, query: &[f32], k: usize, probes: usize, rerank: usize) -> Vec<usize> {
        let coded = self.query(query);
        let mut candidates = TopK::new(rerank);
        let bound = Bound { threshold: f32::INFINITY, slack: 0.0 };
        coded.scan(
            self.codes(),
            &self.runs(&coded, query, probes),
            |_| u32::MAX,
            bound,
            &mut |posting, estimate, _| {
                candidates.push(estimate, posting);
                candidates.worst()
            },
        );
        let exact = Exact::new(self.metric, query);
        let mut best = TopK::new(k);
        for (_, posting) in candidates.into_sorted() {
            best.push(exact.f32(self.row(posting)), posting);
        }
        best.into_sorted().into_iter().map(|(_, posting)| posting).collect()
    }

    pub fn truth(&self, query: &[f32], k: usize) -> Vec<usize> {
        let exact = Exact::new(self.metric, query);
        let mut best = TopK::new(k);
        self.rows.chunks_exact(self.d).enumerate().for_each(|(posting, row)| {
            best.push(exact.f32(row), posting);
        });
        best.into_sorted().into_iter().map(|(_, posting)| posting).collect()
    }
}

fn recall(segment: &Segment, queries: &[f32], probes: usize, rerank: usize) -> f64 {
    let (mut found, mut wanted) = (0, 0);
    for query in queries.chunks_exact(segment.d) {
        let truth = segment.truth(query, 10);
        let hits = segment.search(query, 10, probes, rerank);
        found += hits.iter().filter(|hit| truth.contains(hit)).count();
        wanted += truth.len();
    }
    found as f64 / wanted as f64
}

#[test]
fn recall_of_all_codes_and_of_probing() {
    let d = 96;
    let all = mixture(1, 6_060, d, 40, 0.0);
    let (data, queries) = all.split_at(6_000 * d);
    for metric in [Metric::Cosine, Metric::L2, Metric::Dot] {
        let segment = Segment::build(metric, d, data, 64, 8);
        let leaves = segment.centroids.leaves();
        let full = recall(&segment, queries, leaves, 50);
        assert!(full >= 0.98, "{metric}: all codes, 50 reranked: {full}");
        let probed = recall(&segment, queries, leaves / 3, 50);
        assert!(probed >= 0.93, "{metric}: a third of the leaves: {probed}");
    }
}

#[test]
fn recall_survives_coarse_centroids_and_an_offset() {
    let d = 64;
    let all = mixture(2, 3_040, d, 20, 25.0);
    let (data, queries) = all.split_at(3_000 * d);
    for bits in [8, 4, 1] {
        let segment = Segment::build(Metric::L2, d, data, 64, bits);
        let full = recall(&segment, queries, segment.centroids.leaves(), 100);
        assert!(full >= 0.95, "{bits} bits: {full}");
    }
}
