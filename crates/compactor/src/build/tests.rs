use std::collections::BTreeSet;

use arrow::compute::concat_batches;
use esker_format::schema::{Metric as Kind, VectorType};
use esker_format::segment::index::Header;
use esker_format::segment::payload::decode_block;
use esker_index::{Bound, Centroids, Codes, Encoder, Exact, Run, TopK, check16, unpack_group};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::*;
use crate::fixture::{self, Write, clustered, collection, entry, upserts};
use crate::scratch::MemoryScratch;

const SEED: u64 = 7;

fn clock() -> esker_store::seams::SystemClock {
    esker_store::seams::SystemClock::default()
}

fn build(batches: Vec<RecordBatch>, settings: &Settings, threads: usize) -> Option<BuiltSegment> {
    let (collection, schema) = (collection(), fixture::schema());
    let target = Target { collection: &collection, settings, schema: &schema };
    build_segment(
        batches,
        target,
        BuildOptions { seed: SEED, threads, copies: Choice::default(), basis: Choice::default() },
        &clock(),
        &|_, _| {},
    )
    .unwrap()
}

fn rows(settings: &Settings, vectors: Vec<Vec<f32>>) -> RecordBatch {
    entry(settings, 3, &upserts(vectors)).rows.clone()
}

/// A written segment, opened.
pub(super) struct Opened {
    pub(super) header: Header,
    built: BuiltSegment,
    settings: Settings,
}

impl Opened {
    pub(super) fn new(built: BuiltSegment, settings: &Settings) -> Self {
        let header = Header::parse("test.index", built.index_file.clone()).unwrap();
        assert_eq!(header.bytes().len() as u64, built.summary.header_len);
        assert_eq!(built.index_file.len() as u64, built.summary.size);
        Opened { header, built, settings: settings.clone() }
    }

    fn part(&self, range: std::ops::Range<u64>) -> &[u8] {
        &self.built.index_file[range.start as usize..range.end as usize]
    }

    fn vector(&self, ordinal: u32) -> &[u8] {
        let range = self.header.rows().vector_range(ordinal);
        &self.built.rows_file[range.start as usize..range.end as usize]
    }

    /// The best `k` of the `rerank` rows with the best estimates, by the written bytes alone.
    fn search(&self, query: &[f32], k: usize, rerank: usize) -> Vec<(f32, u32)> {
        let (facts, d) = (self.header.facts(), self.settings.dimension as usize);
        let metric = metric(&self.settings);
        let centroids =
            Centroids::decode(facts.centroid_bits, facts.leaves as usize, d, &self.header.centroids())
                .unwrap();
        let basis = self.header.basis();
        let encoder = Encoder::stored(metric, d, facts.rotation_seed, facts.scale, basis.as_deref()).unwrap();
        let asked = encoder.query(query);
        let scores = centroids.scores(metric, query);
        let runs: Vec<Run> = (0..facts.leaves)
            .map(|leaf| {
                let postings = self.header.leaf(leaf).postings;
                let term = asked.term(scores[leaf as usize], centroids.norm(leaf as usize));
                Run { first: postings.start as usize, end: postings.end as usize, term }
            })
            .collect();
        let mut candidates = TopK::new(rerank);
        let codes = Codes { groups: &self.built.codes, first_group: 0, beside: 0 };
        asked.scan(codes, &runs, |_| u32::MAX, Bound::NONE, &mut |posting, estimate, _| {
            candidates.push(estimate, posting as u32);
            f32::INFINITY
        });
        let exact = Exact::new(metric, query);
        let mut best = TopK::new(k);
        for (_, ordinal) in candidates.into_sorted() {
            best.push(exact.row_bytes(self.settings.vector_type.width(), self.vector(ordinal)), ordinal);
        }
        best.into_sorted()
    }

    /// The true best `k`, over every written row.
    fn brute_force(&self, query: &[f32], k: usize) -> Vec<(f32, u32)> {
        let exact = Exact::new(metric(&self.settings), query);
        let mut best = TopK::new(k);
        for ordinal in 0..self.header.facts().rows {
            best.push(exact.row_bytes(self.settings.vector_type.width(), self.vector(ordinal)), ordinal);
        }
        best.into_sorted()
    }

    /// Everything that says something about a row says the same.
    pub(super) fn check(&self, input: &[RecordBatch]) {
        let all = concat_batches(&input[0].schema(), input).unwrap();
        let versions: Vec<_> = versions(&all).unwrap().collect();
        let n = versions.len() as u32;
        assert_eq!(self.header.facts().rows, n);
        assert_eq!(self.built.order.iter().collect::<BTreeSet<_>>().len(), n as usize);
        assert_eq!(self.built.hash, versions.iter().map(|v| v.hash()).sum());

        let reader = ParquetRecordBatchReaderBuilder::try_new(self.built.rows_file.clone()).unwrap();
        let read: Vec<_> = reader.build().unwrap().map(Result::unwrap).collect();
        let read = concat_batches(&read[0].schema(), &read).unwrap();
        let indices: arrow::array::UInt32Array = self.built.order.clone().into();
        let expected = arrow::compute::take_record_batch(&all, &indices).unwrap();
        assert_eq!(read.columns(), expected.columns());

        let idmap = self.header.section(esker_format::segment::index::Section::IdMap).unwrap();
        let idmap = self.header.idmap_entries(self.part(idmap)).unwrap();
        assert_eq!(idmap.len(), n as usize);
        for (hash, ordinal) in idmap {
            let version = versions[self.built.order[ordinal as usize] as usize];
            assert_eq!(hash, collection().hash_id(version.id));
        }
        let stride = self.settings.stride();
        for (ordinal, row) in (0..n).zip(&self.built.order) {
            let stored = order::stored_bytes(&all, &self.settings);
            assert_eq!(self.vector(ordinal), &stored[*row as usize * stride..][..stride]);
        }
        self.check_leaves();
        let schema = std::sync::Arc::new(fixture::schema());
        for block in 0..n.div_ceil(32) {
            let bytes = self.part(self.header.payload_block_range(block).unwrap());
            let rows = decode_block("test.index", block, bytes, &schema).unwrap();
            for i in 0..rows.len() {
                let version = versions[self.built.order[block as usize * 32 + i] as usize];
                assert_eq!(rows.id(i), version.id);
                assert_eq!(rows.seq_row(i), (version.seq as i64, version.row as i32));
            }
        }
    }

    fn check_leaves(&self) {
        let h = &self.header;
        for leaf in 0..h.leaf_count() {
            let own = h.leaf(leaf);
            assert!(!own.ordinals.is_empty());
            h.check_leaf_codes(leaf, self.part(h.codes_range(h.leaf_groups(leaf)))).unwrap();
            h.check_leaf_idplane(leaf, self.part(h.idplane_range(own.postings))).unwrap();
        }
        let codes = self.part(h.codes_range(0..h.facts().postings.div_ceil(32)));
        assert_eq!(codes, &self.built.codes[..]);
        for (group, bytes) in (0u32..).zip(codes.chunks_exact(h.facts().group_bytes as usize)) {
            for (lane, code) in (0u32..).zip(unpack_group(bytes, self.settings.dimension as usize)) {
                match group * 32 + lane {
                    ordinal if ordinal < h.facts().rows => {
                        assert_eq!(code.check, check16(self.vector(ordinal)))
                    }
                    _ => assert!(code.is_absent()),
                }
            }
        }
    }
}

pub(super) fn recall(opened: &Opened, queries: &[Vec<f32>], k: usize, rerank: usize) -> f64 {
    let mut found = 0;
    for query in queries {
        let truth = opened.brute_force(query, k);
        let worst = truth.last().unwrap().0;
        found += opened.search(query, k, rerank).iter().filter(|(d, _)| *d <= worst).count();
    }
    found as f64 / (k * queries.len()) as f64
}

#[test]
fn what_is_written_finds_the_true_neighbours() {
    for (metric, vector_type) in
        [(Kind::Cosine, VectorType::F32), (Kind::L2, VectorType::F16), (Kind::Dot, VectorType::F32)]
    {
        let settings = fixture::settings(48, metric, vector_type);
        let mut vectors = clustered(3040, 48, 1);
        let queries = vectors.split_off(3000);
        let batch = rows(&settings, vectors);
        let opened = Opened::new(build(vec![batch.clone()], &settings, 2).unwrap(), &settings);
        opened.check(&[batch]);
        let calibration = opened.header.calibration();
        assert!(calibration.is_sorted_by(|a, b| a.b <= b.b && a.delta <= b.delta && a.rerank <= b.rerank));
        let recall = recall(&opened, &queries, 10, calibration[2].rerank as usize);
        assert!(recall >= 0.98, "{metric} {vector_type}: {recall} with {}", calibration[2].rerank);
    }
}

#[test]
fn equal_input_gives_equal_bytes_on_any_number_of_threads() {
    let settings = fixture::settings(9, Kind::Cosine, VectorType::F32);
    let vectors = clustered(8400, 9, 2);
    let batch = rows(&settings, vectors);
    let one = build(vec![batch.clone()], &settings, 1).unwrap();
    let three = build(vec![batch.clone()], &settings, 3).unwrap();
    assert!(three.rows_file == one.rows_file && three.index_file == one.index_file);
    // Nor does it matter how the rows are cut into batches.
    let parts = vec![batch.slice(0, 1), batch.slice(1, 5000), batch.slice(5001, 3399)];
    let cut = build(parts, &settings, 2).unwrap();
    assert!(cut.rows_file == one.rows_file && cut.index_file == one.index_file);
}

#[test]
fn small_and_degenerate_inputs_become_segments() {
    let identical = |n: usize, d: usize| vec![vec![0.5; d]; n];
    let line = |n: usize| (0..n).map(|i| vec![i as f32 + 1.0]).collect::<Vec<_>>();
    for metric in [Kind::Cosine, Kind::L2, Kind::Dot] {
        for (d, vectors) in [
            (3, clustered(1, 3, 4)),
            (3, clustered(2, 3, 4)),
            (3, clustered(31, 3, 4)),
            (3, clustered(33, 3, 4)),
            (5, identical(700, 5)),
            (1, line(300)),
        ] {
            let settings = fixture::settings(d, metric, VectorType::F32);
            let query = vectors[0].clone();
            let n = vectors.len();
            let batch = rows(&settings, vectors);
            let opened = Opened::new(build(vec![batch.clone()], &settings, 2).unwrap(), &settings);
            opened.check(&[batch]);
            let best = opened.search(&query, 1, n.min(50))[0].0;
            let truth = opened.brute_force(&query, 1)[0].0;
            assert!((best - truth).abs() < 1e-5, "{metric} d={d} n={n}: {best}, {truth}");
        }
    }
}

#[test]
fn no_rows_make_no_segment() {
    let settings = fixture::settings(4, Kind::L2, VectorType::F32);
    let nothing = entry(&settings, 1, &[Write::Delete { id: "a".into() }]).rows.clone();
    assert!(build(vec![], &settings, 2).is_none());
    assert!(build(vec![nothing.clone()], &settings, 2).is_none());
    let batch = rows(&settings, clustered(5, 4, 6));
    assert_eq!(build(vec![nothing.clone(), batch, nothing], &settings, 2).unwrap().rows(), 5);
}

#[test]
fn rows_of_another_schema_are_refused() {
    let settings = fixture::settings(4, Kind::L2, VectorType::F32);
    let batch = rows(&settings, clustered(5, 4, 6));
    let (collection, schema) = (collection(), Schema::default());
    let target = Target { collection: &collection, settings: &settings, schema: &schema };
    let options =
        BuildOptions { seed: SEED, threads: 1, copies: Choice::default(), basis: Choice::default() };
    let refused = build_segment(vec![batch], target, options, &clock(), &|_, _| {});
    assert_eq!(refused.unwrap_err().kind(), esker_format::Kind::Internal);
}

/// The same rows, built in scratch files.
fn build_large(batches: &[RecordBatch], settings: &Settings, memory: u64, threads: usize) -> BuiltSegment {
    let options = BuildOptions { seed: SEED, threads, copies: Choice::default(), basis: Choice::default() };
    build_in_scratch(batches, None, settings, memory, options)
}

/// The same, around a base if there is one.
pub(super) fn build_in_scratch(
    batches: &[RecordBatch],
    base: Option<Base<'_>>,
    settings: &Settings,
    memory: u64,
    options: BuildOptions,
) -> BuiltSegment {
    let (collection, schema, clock, scratch) = (collection(), fixture::schema(), clock(), MemoryScratch);
    let target = Target { collection: &collection, settings, schema: &schema };
    let mut spill = Spill::new(settings, memory, SEED, options.threads, &scratch).unwrap();
    batches.iter().for_each(|batch| spill.push(batch).unwrap());
    let watch = StopWatch::new(&clock);
    let large = Large { target, options, memory, scratch: &scratch, watch };
    let made = large.build(spill, base, &|_, _| {}, &mut |_| {}).unwrap().unwrap();
    let read = |blob: &Blob| match blob {
        Blob::Memory(bytes) => bytes.clone(),
        Blob::Scratch(file) => file.range(0, file.length() as usize).unwrap().into(),
        Blob::Placed(_) => panic!("nothing was sent"),
    };
    assert_eq!(made.header.len() as u64, made.summary.header_len);
    let index_file = read(&made.index_file);
    let header = Header::parse("test.index", index_file.clone()).unwrap();
    let codes = header.section(esker_format::segment::index::Section::Codes).unwrap();
    let codes = index_file.slice(codes.start as usize..codes.end as usize);
    assert!(made.codes.is_none_or(|made| made == codes));
    BuiltSegment {
        rows_file: read(&made.rows_file),
        index_file,
        summary: made.summary,
        codes,
        order: made.order,
        leaf_starts: made.leaf_starts,
        seqs: made.seqs,
        hash: made.hash,
        copied: made.copied,
    }
}

#[test]
fn out_of_memory_the_same_rows_are_found_as_well() {
    for (metric, vector_type) in [(Kind::Cosine, VectorType::F32), (Kind::L2, VectorType::F16)] {
        let settings = fixture::settings(32, metric, vector_type);
        let mut vectors = clustered(20_060, 32, 1);
        let queries = vectors.split_off(20_000);
        let batch = rows(&settings, vectors);
        // Some 2.5 MB of vectors in 512 kB: a sample of 1,024 rows, 256 rows a bucket.
        let large = build_large(std::slice::from_ref(&batch), &settings, 512 << 10, 2);
        let small = build(vec![batch.clone()], &settings, 2).unwrap();
        assert_eq!((large.rows(), large.hash, large.seqs), (small.rows(), small.hash, small.seqs));
        let (large, small) = (Opened::new(large, &settings), Opened::new(small, &settings));
        large.check(&[batch]);
        let leaves = |o: &Opened| o.header.leaf_count() as f64;
        assert!((0.5..2.0).contains(&(leaves(&large) / leaves(&small))), "{} leaves", leaves(&large));
        let rerank = small.header.calibration()[2].rerank as usize;
        let [own, other] = [&large, &small].map(|o| recall(o, &queries, 10, rerank));
        assert!(own >= other - 0.01, "{metric}: {own} out of memory, {other} in memory");
        // Rows to read for the same recall stay about the same.
        let [own, other] = [&large, &small].map(|o| probed(o, &queries));
        assert!(own <= other * 1.5, "{metric}: {own} rows out of memory, {other} in memory");
    }
}

/// Mean share of the rows in the leaves that a search of recall 0.98 probes.
pub(super) fn probed(opened: &Opened, queries: &[Vec<f32>]) -> f64 {
    let (facts, d) = (opened.header.facts(), opened.settings.dimension as usize);
    let metric = metric(&opened.settings);
    let bytes = opened.header.centroids();
    let centroids = Centroids::decode(facts.centroid_bits, facts.leaves as usize, d, &bytes).unwrap();
    let delta = opened.header.calibration()[2].delta;
    let rows = |query: &Vec<f32>| {
        let scores = centroids.scores(metric, query);
        let best = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let near = (0..facts.leaves).filter(|leaf| scores[*leaf as usize] >= best - delta);
        near.map(|leaf| opened.header.leaf(leaf).ordinals.len()).sum::<usize>() as f64
    };
    queries.iter().map(rows).sum::<f64>() / (queries.len() * facts.rows as usize) as f64
}

#[test]
fn out_of_memory_equal_input_gives_equal_bytes() {
    let settings = fixture::settings(9, Kind::Dot, VectorType::F32);
    let batch = rows(&settings, clustered(5000, 9, 2));
    let one = build_large(std::slice::from_ref(&batch), &settings, 64 << 10, 1);
    let parts = [batch.slice(0, 1), batch.slice(1, 3000), batch.slice(3001, 1999)];
    let three = build_large(&parts, &settings, 64 << 10, 3);
    assert!(three.rows_file == one.rows_file && three.index_file == one.index_file);
}

/// Two kinds of rows in turn, far from each other: leaves are improved by some of the rows, of both kinds.
#[test]
fn leaves_of_kinds_that_come_in_turn_are_improved_alike() {
    let settings = fixture::settings(4, Kind::L2, VectorType::F32);
    let mut vectors = clustered(60_000, 4, 3);
    vectors.iter_mut().step_by(2).for_each(|vector| vector[0] += 100.0);
    let batch = rows(&settings, vectors);
    // 256 leaves are trained, and of their rows every second is drawn.
    let large = build_large(std::slice::from_ref(&batch), &settings, 64 << 10, 2);
    let again = build_large(std::slice::from_ref(&batch), &settings, 64 << 10, 1);
    assert!(large.rows_file == again.rows_file && large.index_file == again.index_file);
    let opened = Opened::new(large, &settings);
    let leaves = (0..opened.header.leaf_count()).map(|leaf| opened.header.leaf(leaf).ordinals);
    let mut kinds = [0; 3];
    for rows in leaves {
        let far =
            rows.clone().filter(|row| f32::from_le_bytes(*opened.vector(*row).first_chunk().unwrap()) > 50.0);
        let far = far.count();
        kinds[if far == 0 {
            0
        } else if far == rows.len() {
            1
        } else {
            2
        }] += 1;
    }
    let [one, other, both] = kinds;
    assert!(both == 0 && (0.8..1.25).contains(&(f64::from(one) / f64::from(other))), "{kinds:?}");
}

#[test]
fn out_of_memory_degenerate_inputs_become_segments() {
    for metric in [Kind::Cosine, Kind::L2] {
        for vectors in
            [clustered(1, 3, 4), clustered(33, 3, 4), vec![vec![0.5; 3]; 1700], vec![vec![0.0; 3]; 300]]
        {
            if metric == Kind::Cosine && vectors[0] == [0.0; 3] {
                continue;
            }
            let settings = fixture::settings(3, metric, VectorType::F32);
            let batch = rows(&settings, vectors);
            let opened = Opened::new(build_large(std::slice::from_ref(&batch), &settings, 1, 2), &settings);
            opened.check(&[batch]);
        }
    }
}
