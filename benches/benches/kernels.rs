//! The kernels behind one search and one build, on one core unless said otherwise.
//!
//! `cargo bench -p esker-benches`

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use esker_index::*;
use std::hint::black_box;

const D: usize = 384;

fn mixture(n: usize) -> Vec<f32> {
    let mut random = SplitMix::new(1);
    let centres: Vec<f32> = (0..100 * D).map(|_| random.normal()).collect();
    let mut rows = Vec::with_capacity(n * D);
    for _ in 0..n {
        let centre = random.below(100) * D;
        rows.extend((0..D).map(|j| centres[centre + j] + 0.8 * random.normal()));
    }
    rows
}

fn exact(c: &mut Criterion) {
    let rows = mixture(512);
    let half: Vec<u8> = rows.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect();
    let exact = Exact::new(Metric::Cosine, &rows[..D]);
    let mut group = c.benchmark_group("exact 384-d");
    group.throughput(Throughput::Elements(512));
    group.bench_function("f32", |b| b.iter(|| rows.chunks_exact(D).map(|row| exact.f32(row)).sum::<f32>()));
    group.bench_function("f16", |b| {
        b.iter(|| half.chunks_exact(2 * D).map(|row| exact.row_bytes(2, row)).sum::<f32>())
    });
    group.bench_function("check16", |b| {
        b.iter(|| half.chunks_exact(2 * D).fold(0, |all, row| all ^ check16(black_box(row))))
    });
    group.finish();
}

fn rotation(c: &mut Criterion) {
    let row = mixture(1);
    let rotation = Rotation::new(1, D);
    let mut out = vec![0.0; rotation.padded()];
    c.bench_function("rotation 384-d", |b| b.iter(|| rotation.apply(black_box(&row), &mut out)));
}

fn fastscan(c: &mut Criterion) {
    let rows = 4096;
    let data = mixture(rows);
    let centroid = vec![0.0; D];
    let scale = residual_scale(Metric::Cosine, D, &data, |_| &centroid);
    let encoder = Encoder::new(Metric::Cosine, D, 7, scale);
    let mut leaf = encoder.leaf(&centroid);
    let mut groups = Vec::new();
    for group in data.chunks_exact(32 * D) {
        let codes: Vec<RowCode> = group
            .chunks_exact(D)
            .map(|row| {
                let mut code = RowCode::default();
                leaf.encode(row, &mut code);
                code
            })
            .collect();
        pack_group(&codes, D, &mut groups);
    }
    let query = encoder.query(&data[..D]);
    // Leaves of 64 that straddle groups, as on disk.
    let runs: Vec<Run> = (0..rows / 64)
        .map(|leaf| Run {
            first: (64 * leaf).saturating_sub(9),
            end: 64 * leaf + 55,
            term: query.term(0.3, 0.7),
        })
        .collect();
    let codes = Codes { groups: &groups, first_group: 0, beside: 0 };
    let mut group = c.benchmark_group("fastscan 384-d, 4096 rows");
    group.throughput(Throughput::Elements(rows as u64));
    group.bench_function("estimates", |b| {
        let bound = Bound { threshold: -1.0, slack: 1.9 };
        b.iter(|| query.scan(codes, &runs, |_| u32::MAX, bound, &mut |_, _, _| -1.0));
    });
    group.bench_function("best 50", |b| {
        b.iter(|| {
            let mut best = Shortlist::new(50);
            let bound = Bound { slack: 0.0, ..Bound::NONE };
            query.scan(codes, &runs, |_| u32::MAX, bound, &mut |posting, estimate, _| {
                best.push(estimate, posting)
            });
            best.limit()
        });
    });
    group.finish();
    c.bench_function("code query 384-d", |b| b.iter(|| encoder.query(black_box(&data[..D]))));
}

fn centroids(c: &mut Criterion) {
    let means = mixture(937);
    let bytes = Centroids::encode(8, 937, D, &means);
    let Ok(centroids) = Centroids::decode(8, 937, D, &bytes) else { return };
    c.bench_function("scores of 937 leaves 384-d", |b| {
        b.iter(|| centroids.scores(Metric::Cosine, black_box(&means[..D])))
    });
}

/// Rows to their leaves: compared with all of 512, of 3,906 with those under the nearest parents.
fn assign(c: &mut Criterion) {
    let rows = mixture(4096);
    let mut group = c.benchmark_group("assign 384-d");
    group.throughput(Throughput::Elements(4096));
    group.sample_size(20);
    for count in [512, 3906] {
        let leaves = Leaves::from_parts(mixture(count), Vec::new(), D, Metric::Cosine, 1, 1);
        group.bench_function(format!("{count} leaves"), |b| b.iter(|| leaves.assign(black_box(&rows), 1)));
    }
    group.finish();
}

fn build(c: &mut Criterion) {
    let data = mixture(20_000);
    let mut group = c.benchmark_group("build 20k 384-d");
    group.sample_size(10);
    for threads in [1, 2] {
        group.bench_function(format!("cluster, {threads} threads"), |b| {
            b.iter(|| cluster(&data, D, Metric::Cosine, 64, 1, threads, &|_| {}))
        });
    }
    let centroid = vec![0.0; D];
    let encoder = Encoder::new(Metric::Cosine, D, 7, 1.0);
    group.bench_function("encode", |b| {
        b.iter(|| {
            let mut leaf = encoder.leaf(&centroid);
            let mut code = RowCode::default();
            data.chunks_exact(D).for_each(|row| leaf.encode(row, &mut code));
            code
        })
    });
    group.finish();
}

criterion_group!(kernels, exact, rotation, fastscan, centroids, assign, build);
criterion_main!(kernels);
