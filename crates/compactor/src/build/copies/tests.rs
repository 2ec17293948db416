use std::collections::BTreeSet;

use arrow::array::RecordBatch;
use bytes::Bytes;
use esker_format::schema::{Metric as Kind, Settings, VectorType};
use esker_format::segment::index::Header;
use esker_index::{Centroids, Encoder, Exact, SplitMix, TopK, check16, group_bytes, unpack_row};

use super::*;
use crate::build::merge::{Base, BaseCodes};
use crate::build::tests::build_in_scratch;
use crate::build::{BuiltSegment, Target, build_merged, build_segment, metric};
use crate::fixture::{self, collection, entry, upserts};
use crate::scratch::{MemoryScratch, Scratch};

const D: usize = 40;
const K: usize = 10;

/// Rows whose neighbours are spread over many leaves: a falling spectrum without clusters.
fn spread(rows: usize, seed: u64) -> Vec<Vec<f32>> {
    let mut random = SplitMix::new(seed);
    let scale: Vec<f32> = (0..D).map(|i| (1.0 + i as f32).powf(-0.4)).collect();
    (0..rows).map(|_| scale.iter().map(|s| s * random.normal()).collect()).collect()
}

fn settings(metric: Kind, vector_type: VectorType) -> Settings {
    fixture::settings(D as u32, metric, vector_type)
}

fn batch(settings: &Settings, vectors: Vec<Vec<f32>>) -> RecordBatch {
    entry(settings, 3, &upserts(vectors)).rows.clone()
}

fn options(copies: Choice, threads: usize) -> BuildOptions {
    BuildOptions { seed: 7, threads, copies, basis: Choice::default() }
}

fn clock() -> esker_store::seams::SystemClock {
    esker_store::seams::SystemClock::default()
}

fn build(rows: &RecordBatch, settings: &Settings, options: BuildOptions) -> BuiltSegment {
    let (collection, schema) = (collection(), fixture::schema());
    let target = Target { collection: &collection, settings, schema: &schema };
    build_segment(vec![rows.clone()], target, options, &clock(), &|_, _| {}).unwrap().unwrap()
}

/// Its files, and the header of the index.
struct Files {
    settings: Settings,
    header: Header,
    index: Bytes,
    rows: Bytes,
    centroids: Centroids,
}

impl Files {
    fn new(index: Bytes, rows: Bytes, settings: &Settings) -> Files {
        let header = Header::parse("test.index", index.clone()).unwrap();
        let facts = header.facts();
        let centroids =
            Centroids::decode(facts.centroid_bits, facts.leaves as usize, D, &header.centroids()).unwrap();
        Files { settings: settings.clone(), header, index, rows, centroids }
    }

    fn of(built: &BuiltSegment, settings: &Settings) -> Files {
        Files::new(built.index_file.clone(), built.rows_file.clone(), settings)
    }

    fn part(&self, range: std::ops::Range<u64>) -> &[u8] {
        &self.index[range.start as usize..range.end as usize]
    }

    fn stored(&self, ordinal: u32) -> &[u8] {
        let range = self.header.rows().vector_range(ordinal);
        &self.rows[range.start as usize..range.end as usize]
    }

    fn vector(&self, ordinal: u32) -> Vec<f32> {
        let stored = self.stored(ordinal);
        match self.settings.vector_type {
            VectorType::F32 => {
                stored.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
            }
            VectorType::F16 => {
                let bits = stored.chunks_exact(2).map(|b| u16::from_le_bytes(b.try_into().unwrap()));
                bits.map(|bits| half::f16::from_bits(bits).to_f32()).collect()
            }
        }
    }

    /// The rows of a leaf's postings.
    fn rows_of(&self, leaf: u32) -> Vec<u32> {
        let codes = self.part(self.header.codes_range(self.header.leaf_groups(leaf)));
        self.header.check_leaf_codes(leaf, codes).unwrap();
        let copies = self.header.leaf_copies(leaf, codes).unwrap();
        self.header.leaf(leaf).ordinals.chain(copies).collect()
    }

    fn code(&self, posting: u32) -> RowCode {
        let group = self.header.codes_range(posting / 32..posting / 32 + 1);
        unpack_row(&self.part(group)[..group_bytes(D)], D, (posting % 32) as usize).unwrap()
    }

    /// Every row is in its leaf and in one other, and each posting is what its row and that leaf make it.
    fn check(&self) {
        let (h, facts) = (&self.header, *self.header.facts());
        assert!(h.is_spilled() && facts.postings == 2 * facts.rows);
        let basis = h.basis();
        let stored = (facts.rotation_seed, facts.scale, basis.as_deref());
        let encoder = Encoder::stored(metric(&self.settings), D, stored.0, stored.1, stored.2).unwrap();
        let mut seen = vec![0; facts.rows as usize];
        let mut hashes = vec![None; facts.rows as usize];
        for leaf in 0..facts.leaves {
            let mut centroid = vec![0.0; D];
            self.centroids.dequantised(leaf as usize, &mut centroid);
            let mut encoder = encoder.leaf(&centroid);
            let own = h.leaf(leaf);
            let ids = h.leaf_hashes(leaf, self.part(h.idplane_range(own.postings.clone()))).unwrap();
            for ((posting, ordinal), id) in own.postings.clone().zip(self.rows_of(leaf)).zip(ids) {
                seen[ordinal as usize] += 1;
                assert_eq!(*hashes[ordinal as usize].get_or_insert(id), id);
                let is_copy = posting - own.postings.start >= own.ordinals.len() as u32;
                assert_eq!(is_copy, h.leaf_of(ordinal) != leaf, "a row has its copy elsewhere");
                let mut code = RowCode::default();
                encoder.encode(&self.vector(ordinal), &mut code);
                code.check = check16(self.stored(ordinal));
                assert!(self.code(posting) == code, "posting {posting} of row {ordinal}");
            }
        }
        assert!(seen.iter().all(|count| *count == 2));
        for posting in facts.postings..facts.postings.next_multiple_of(32) {
            assert!(self.code(posting).is_absent());
        }
    }

    /// Share of the nearest rows that are in as many of the best leaves.
    fn found(&self, queries: &[Vec<f32>], leaves: usize) -> f64 {
        let metric = metric(&self.settings);
        let mut found = 0;
        for query in queries {
            let exact = Exact::new(metric, query);
            let mut best = TopK::new(K);
            for ordinal in 0..self.header.facts().rows {
                best.push(exact.f32(&self.vector(ordinal)), ordinal);
            }
            let scores = self.centroids.scores(metric, query);
            let mut order: Vec<u32> = (0..self.header.leaf_count()).collect();
            order.sort_by(|a, b| scores[*b as usize].total_cmp(&scores[*a as usize]));
            let read: BTreeSet<u32> = order[..leaves].iter().flat_map(|leaf| self.rows_of(*leaf)).collect();
            found += best.into_sorted().iter().filter(|(_, ordinal)| read.contains(ordinal)).count();
        }
        found as f64 / (K * queries.len()) as f64
    }
}

#[test]
fn every_row_has_a_copy_in_another_leaf() {
    for (metric, vector_type) in
        [(Kind::Cosine, VectorType::F32), (Kind::L2, VectorType::F16), (Kind::Dot, VectorType::F32)]
    {
        let settings = settings(metric, vector_type);
        let rows = batch(&settings, spread(3011, 1));
        let built = build(&rows, &settings, options(Choice::Always, 2));
        Files::of(&built, &settings).check();
        // Own rows have the codes that they have without.
        let plain = build(&rows, &settings, options(Choice::Never, 2));
        assert!(plain.rows_file == built.rows_file);
        let (with, plain) = (Files::of(&built, &settings), Files::of(&plain, &settings));
        assert!(!plain.header.is_spilled());
        for leaf in 0..plain.header.leaf_count() {
            let shift = with.header.leaf(leaf).postings.start - plain.header.leaf(leaf).postings.start;
            for ordinal in plain.header.leaf(leaf).ordinals {
                assert!(plain.code(ordinal) == with.code(ordinal + shift));
            }
        }
    }
}

#[test]
fn as_many_leaves_have_more_of_the_neighbours() {
    let settings = settings(Kind::L2, VectorType::F32);
    let mut vectors = spread(9060, 2);
    let queries = vectors.split_off(9000);
    let rows = batch(&settings, vectors);
    let [plain, with] = [Choice::Never, Choice::Always]
        .map(|copies| Files::of(&build(&rows, &settings, options(copies, 2)), &settings));
    for leaves in [8, 16, 32] {
        let [plain, with] = [&plain, &with].map(|files| files.found(&queries, leaves));
        assert!(1.0 - with < 0.75 * (1.0 - plain), "{leaves} leaves: {plain} without copies, {with} with");
    }
    // So the same limit of what is missed is nearer.
    for (with, plain) in with.header.calibration().iter().zip(plain.header.calibration()) {
        assert!(
            with.delta < 0.9 * plain.delta && (with.b - plain.b).abs() < 0.02 * plain.b,
            "{with:?}, {plain:?}"
        );
    }
}

#[test]
fn small_segments_have_none() {
    let settings = settings(Kind::L2, VectorType::F32);
    let rows = batch(&settings, spread(2000, 3));
    let built = build(&rows, &settings, options(Choice::WhereWorth, 2));
    assert!(!Files::of(&built, &settings).header.is_spilled());
    assert!(built.index_file == build(&rows, &settings, options(Choice::Never, 2)).index_file);
    // Nor has one leaf another.
    let rows = batch(&settings, spread(20, 3));
    let built = build(&rows, &settings, options(Choice::Always, 2));
    assert!(!Files::of(&built, &settings).header.is_spilled());
}

fn build_large(rows: &RecordBatch, settings: &Settings, threads: usize) -> Files {
    let (rows, options) = (std::slice::from_ref(rows), options(Choice::Always, threads));
    Files::of(&build_in_scratch(rows, None, settings, 512 << 10, options), settings)
}

#[test]
fn out_of_memory_and_on_any_number_of_threads() {
    let settings = settings(Kind::Cosine, VectorType::F32);
    let rows = batch(&settings, spread(8300, 4));
    let large = build_large(&rows, &settings, 2);
    large.check();
    assert!(large.index == build_large(&rows, &settings, 3).index);
    let one = build(&rows, &settings, options(Choice::Always, 1));
    assert!(one.index_file == build(&rows, &settings, options(Choice::Always, 3)).index_file);
}

#[test]
fn a_merge_gives_rows_copies_around_the_leaves_that_stand() {
    let settings = settings(Kind::L2, VectorType::F32);
    let rows = batch(&settings, spread(3000, 5));
    let built = build(&rows, &settings, options(Choice::Always, 2));
    let old = Files::of(&built, &settings);
    let header = std::sync::Arc::new(old.header.clone());
    let order = arrow::array::UInt32Array::from(built.order.clone());
    let moved: Vec<u32> = (0..3000).collect();
    let own = arrow::compute::take_record_batch(&rows, &order).unwrap();
    let after = entry(&settings, 6, &upserts(spread(200, 6))).rows.clone();
    for copies in [Choice::Always, Choice::Never] {
        let codes = old.part(old.header.section(esker_format::segment::index::Section::Codes).unwrap());
        let base = Base {
            header: &header,
            codes: BaseCodes::Memory(codes.to_vec().into()),
            moved: &moved,
            first: 0,
        };
        let (collection, schema) = (collection(), fixture::schema());
        let target = Target { collection: &collection, settings: &settings, schema: &schema };
        let inputs = vec![own.clone(), after.clone()];
        let file = MemoryScratch.file().unwrap();
        file.append(codes).unwrap();
        let aside = Base { codes: BaseCodes::Scratch(file), ..base.clone() };
        let large = build_in_scratch(&inputs, Some(aside), &settings, 512 << 10, options(copies, 2));
        let merged = build_merged(inputs, Some(base), target, options(copies, 2), &clock(), &|_, _| {});
        for merged in [merged.unwrap().unwrap(), large] {
            assert!(merged.copied > 2000, "{} codes copied", merged.copied);
            let files = Files::of(&merged, &settings);
            assert_eq!(files.header.facts().rotation_seed, old.header.facts().rotation_seed);
            match copies {
                Choice::Always => files.check(),
                _ => assert!(!files.header.is_spilled()),
            }
        }
    }
}

/// A scan of whole posting lists emits each row twice, with estimates of the same distance.
#[test]
fn scans_step_over_the_ordinals() {
    let settings = settings(Kind::L2, VectorType::F32);
    let rows = batch(&settings, spread(1500, 7));
    let files = Files::of(&build(&rows, &settings, options(Choice::Always, 2)), &settings);
    let facts = *files.header.facts();
    let query = &spread(1, 8)[0];
    let asked = Encoder::new(metric(&settings), D, facts.rotation_seed, facts.scale).query(query);
    let scores = files.centroids.scores(metric(&settings), query);
    let runs: Vec<esker_index::Run> = (0..facts.leaves)
        .map(|leaf| {
            let postings = files.header.leaf(leaf).postings;
            let term = asked.term(scores[leaf as usize], files.centroids.norm(leaf as usize));
            esker_index::Run { first: postings.start as usize, end: postings.end as usize, term }
        })
        .collect();
    let of_posting: Vec<u32> = (0..facts.leaves).flat_map(|leaf| files.rows_of(leaf)).collect();
    let groups = files.part(files.header.section(esker_format::segment::index::Section::Codes).unwrap());
    let beside = (facts.group_bytes - files.header.bare_group_bytes()) as usize;
    let codes = esker_index::Codes { groups, first_group: 0, beside };
    let exact = Exact::new(metric(&settings), query);
    let (mut emitted, mut within) = (0, 0);
    asked.scan(codes, &runs, |_| u32::MAX, esker_index::Bound::NONE, &mut |posting, estimate, err| {
        let truth = exact.f32(&files.vector(of_posting[posting])).powi(2);
        emitted += 1;
        within += usize::from((estimate - truth).abs() <= 2.5 * err);
        f32::INFINITY
    });
    assert_eq!(emitted, 3000);
    assert!(within > 2900, "{within} estimates of 3,000 within 2.5 errors");
}
