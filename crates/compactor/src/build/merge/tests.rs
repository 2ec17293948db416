use arrow::compute::concat_batches;
use esker_format::schema::{Metric as Kind, VectorType};
use esker_index::{SplitMix, group_bytes, padded};

use super::super::tests::{Opened, build_in_scratch, probed, recall};
use super::super::{BuiltSegment, Target, build_merged, build_segment};
use super::*;
use crate::Choice;
use crate::fixture::{self, clustered, collection, entry, upserts};
use crate::scratch::{MemoryScratch, Scratch};
use arrow::array::{BooleanArray, RecordBatch};

fn options(threads: usize) -> BuildOptions {
    BuildOptions { seed: 7, threads, copies: Choice::default(), basis: Choice::default() }
}

/// Rows that were built once.
struct Old {
    settings: Settings,
    header: Arc<Header>,
    built: BuiltSegment,
    /// By ordinal.
    rows: RecordBatch,
}

impl Old {
    fn new(settings: Settings, vectors: Vec<Vec<f32>>) -> Self {
        let rows = entry(&settings, 3, &upserts(vectors)).rows.clone();
        let (collection, schema) = (collection(), fixture::schema());
        let target = Target { collection: &collection, settings: &settings, schema: &schema };
        let clock = esker_store::seams::SystemClock::default();
        let built = build_segment(vec![rows.clone()], target, options(2), &clock, &|_, _| {});
        let built = built.unwrap().unwrap();
        assert_eq!(built.copied, 0);
        let order = arrow::array::UInt32Array::from(built.order.clone());
        let rows = arrow::compute::take_record_batch(&rows, &order).unwrap();
        let header = Arc::new(Header::parse("old.index", built.index_file.clone()).unwrap());
        Old { settings, header, built, rows }
    }

    /// The ordinals that move, beside rows of another input before them and of the tail behind.
    fn inputs(&self, moved: &[u32], before: Vec<Vec<f32>>, after: Vec<Vec<f32>>) -> Vec<RecordBatch> {
        let keeps = BooleanArray::from_iter((0..self.built.rows() as u32).map(|o| Some(moved.contains(&o))));
        let own = arrow::compute::filter_record_batch(&self.rows, &keeps).unwrap();
        let [before, after] =
            [(5, before), (6, after)].map(|(seq, v)| entry(&self.settings, seq, &upserts(v)).rows.clone());
        vec![before, own, after]
    }

    fn merge(
        &self,
        moved: &[u32],
        before: Vec<Vec<f32>>,
        after: Vec<Vec<f32>>,
        threads: usize,
    ) -> BuiltSegment {
        let first = before.len();
        let codes = BaseCodes::Memory(self.built.codes.clone());
        let base = Base { header: &self.header, codes, moved, first };
        let (collection, schema) = (collection(), fixture::schema());
        let target = Target { collection: &collection, settings: &self.settings, schema: &schema };
        let clock = esker_store::seams::SystemClock::default();
        let rows = self.inputs(moved, before, after);
        build_merged(rows, Some(base), target, options(threads), &clock, &|_, _| {}).unwrap().unwrap()
    }

    /// The same out of memory, the base's codes in a file.
    fn merge_in_scratch(
        &self,
        moved: &[u32],
        before: Vec<Vec<f32>>,
        after: Vec<Vec<f32>>,
        options: BuildOptions,
    ) -> BuiltSegment {
        let first = before.len();
        let file = MemoryScratch.file().unwrap();
        file.append(&self.built.codes).unwrap();
        let base = Base { header: &self.header, codes: BaseCodes::Scratch(file), moved, first };
        let rows = self.inputs(moved, before, after);
        build_in_scratch(&rows, Some(base), &self.settings, 512 << 10, options)
    }

    /// The code of an ordinal, as it is stored.
    fn code(&self, built: &BuiltSegment, ordinal: u32) -> RowCode {
        let (d, ordinal) = (self.settings.dimension as usize, ordinal as usize);
        let group = &built.codes[ordinal / GROUP * group_bytes(d)..][..group_bytes(d)];
        unpack_row(group, d, ordinal % GROUP).unwrap()
    }

    /// How many of the rows that moved have exactly the code that they had.
    fn same(&self, new: &BuiltSegment, moved: &[u32], first: usize) -> u64 {
        let own = first..first + moved.len();
        let rows = (0u32..).zip(&new.order).filter(|(_, input)| own.contains(&(**input as usize)));
        let same = |(ordinal, input): &(u32, &u32)| {
            self.code(new, *ordinal) == self.code(&self.built, moved[**input as usize - first])
        };
        rows.filter(same).count() as u64
    }
}

#[test]
fn a_merge_with_few_new_rows_copies_the_codes_of_the_others() {
    for (metric, vector_type, d) in [
        (Kind::Cosine, VectorType::F32, 24),
        (Kind::L2, VectorType::F16, 64),
        (Kind::Dot, VectorType::F32, 7),
    ] {
        let mut vectors = clustered(2800, d, 1);
        let mut before = vectors.split_off(2500);
        let after = before.split_off(100);
        let old = Old::new(fixture::settings(d as u32, metric, vector_type), vectors);
        let moved: Vec<u32> = (0..2500).filter(|ordinal| ordinal % 11 != 5).collect();
        let new = old.merge(&moved, before.clone(), after.clone(), 2);
        let (rows, encoded) = (moved.len() as u64 + 300, new.rows() - new.copied);
        assert_eq!(new.rows(), rows);
        assert!(encoded >= 300 && encoded <= rows / 4, "{metric}: {encoded} of {rows} encoded");
        // Every copied code is what it was; of those that were made again few are.
        let same = old.same(&new, &moved, 100);
        assert!((new.copied..new.copied + 20).contains(&same), "{metric}: {same} for {}", new.copied);
        let header = Header::parse("new.index", new.index_file.clone()).unwrap();
        let (was, is) = (old.header.facts(), header.facts());
        assert_eq!(
            (is.scale, is.rotation_seed, is.centroid_bits),
            (was.scale, was.rotation_seed, was.centroid_bits)
        );
        assert_eq!(is.code_bits as usize, padded(d));
        let again = old.merge(&moved, before, after, 3);
        assert!(again.index_file == new.index_file && again.rows_file == new.rows_file);
    }
}

#[test]
fn rows_alone_keep_all_that_fits() {
    let old = Old::new(fixture::settings(16, Kind::L2, VectorType::F32), clustered(3000, 16, 2));
    // A third is dead, here and there.
    let moved: Vec<u32> = (0..3000).filter(|ordinal| ordinal % 3 != 1).collect();
    let new = old.merge(&moved, Vec::new(), Vec::new(), 2);
    assert!(new.copied * 5 >= new.rows() * 4, "{} of {} copied", new.copied, new.rows());
    assert_eq!(new.rows(), 2000);
}

#[test]
fn rows_that_do_not_fit_are_clustered_anew() {
    let old = Old::new(fixture::settings(16, Kind::L2, VectorType::F32), clustered(2000, 16, 3));
    let moved: Vec<u32> = (0..2000).collect();
    let far: Vec<Vec<f32>> =
        clustered(1000, 16, 4).into_iter().map(|v| v.iter().map(|x| 8.0 * x).collect()).collect();
    let new = old.merge(&moved, Vec::new(), far.clone(), 2);
    assert_eq!(new.copied, 0);
    let after = entry(&old.settings, 6, &upserts(far)).rows.clone();
    let all = concat_batches(&after.schema(), [&old.rows, &after]).unwrap();
    let (collection, schema) = (collection(), fixture::schema());
    let target = Target { collection: &collection, settings: &old.settings, schema: &schema };
    let clock = esker_store::seams::SystemClock::default();
    let anew = build_segment(vec![all], target, options(2), &clock, &|_, _| {}).unwrap().unwrap();
    assert!(anew.index_file == new.index_file && anew.rows_file == new.rows_file);
}

#[test]
fn an_input_carries_a_merge_with_three_fifths_of_its_rows() {
    assert!(Base::carries(60, 100) && Base::carries(1, 1));
    assert!(!Base::carries(59, 100) && !Base::carries(0, 0));
}

#[test]
fn out_of_memory_codes_are_copied_and_recall_is_that_of_a_new_clustering() {
    for (metric, vector_type, d) in [
        (Kind::Cosine, VectorType::F32, 32),
        (Kind::L2, VectorType::F16, 24),
        (Kind::Dot, VectorType::F32, 32),
    ] {
        let mut vectors = clustered(10_660, d, 1);
        let queries = vectors.split_off(10_600);
        let mut before = vectors.split_off(8000);
        let after = before.split_off(600);
        let old = Old::new(fixture::settings(d as u32, metric, vector_type), vectors);
        // A part is dead, here and there.
        let moved: Vec<u32> = (0..8000).filter(|ordinal| ordinal % 11 != 5).collect();
        let merge = |threads| old.merge_in_scratch(&moved, before.clone(), after.clone(), options(threads));
        let new = merge(2);
        let (rows, encoded) = (moved.len() as u64 + 2600, new.rows() - new.copied);
        assert_eq!(new.rows(), rows);
        assert!(new.copied * 5 >= moved.len() as u64 * 3, "{metric}: {encoded} of {rows} encoded");
        // Every copied code is what it was; of those that were made again few are.
        let same = old.same(&new, &moved, 600);
        assert!((new.copied..new.copied + 50).contains(&same), "{metric}: {same} for {}", new.copied);
        for threads in [1, 3] {
            let again = merge(threads);
            assert!(again.index_file == new.index_file && again.rows_file == new.rows_file);
        }
        let inputs = old.inputs(&moved, before.clone(), after.clone());
        let anew = build_in_scratch(&inputs, None, &old.settings, 512 << 10, options(2));
        assert_eq!((anew.rows(), anew.hash, anew.seqs), (new.rows(), new.hash, new.seqs));
        let [new, anew] = [new, anew].map(|built| Opened::new(built, &old.settings));
        new.check(&inputs);
        let (was, is) = (old.header.facts(), new.header.facts());
        assert_eq!((is.scale, is.rotation_seed), (was.scale, was.rotation_seed));
        let rerank = anew.header.calibration()[2].rerank as usize;
        let [own, other] = [&new, &anew].map(|o| recall(o, &queries, 10, rerank));
        assert!(own >= other - 0.01, "{metric}: {own} around the base, {other} anew");
        let [own, other] = [&new, &anew].map(|o| probed(o, &queries));
        assert!(own <= other * 1.1, "{metric}: {own} rows around the base, {other} anew");
    }
}

/// Rows of a falling spectrum around a point, without clusters.
fn spread(rows: usize, shift: f32, random: &mut SplitMix) -> Vec<Vec<f32>> {
    let scale: Vec<f32> = (0..30).map(|i| (1.0 + i as f32).powf(-0.4)).collect();
    (0..rows).map(|_| scale.iter().map(|s| s * (shift + random.normal())).collect()).collect()
}

#[test]
fn out_of_memory_leaves_are_split_where_rows_are_many() {
    let random = &mut SplitMix::new(9);
    for (metric, rows, shift) in [(Kind::L2, 4500, 0.0), (Kind::Cosine, 2500, 0.5)] {
        let vectors = spread(7500, 0.0, random);
        let after = spread(rows, shift, random);
        let mut queries = spread(50, 0.0, random);
        queries.extend(spread(50, shift, random));
        let old = Old::new(fixture::settings(30, metric, VectorType::F32), vectors);
        let moved: Vec<u32> = (0..7500).collect();
        let new = old.merge_in_scratch(&moved, Vec::new(), after.clone(), options(2));
        let memory = old.merge(&moved, Vec::new(), after.clone(), 2);
        // As in memory some rows are in new leaves.
        assert!((3750..7300).contains(&new.copied), "{} of 7,500 copied", new.copied);
        assert!(new.copied.abs_diff(memory.copied) < 300, "{}, {} in memory", new.copied, memory.copied);
        assert!((new.copied..new.copied + 50).contains(&old.same(&new, &moved, 0)));
        let inputs = old.inputs(&moved, Vec::new(), after);
        let anew = build_in_scratch(&inputs, None, &old.settings, 512 << 10, options(2));
        let [new, anew] = [new, anew].map(|built| Opened::new(built, &old.settings));
        new.check(&inputs);
        let limit = |o: &Opened| o.header.calibration()[2].rerank as usize;
        let [own, other] = [&new, &anew].map(|o| recall(o, &queries, 10, limit(o)));
        assert!(own >= other - 0.01, "{metric}: {own} around the base, {other} anew");
        let [own, other] = [&new, &anew].map(|o| probed(o, &queries));
        assert!(own <= other * 1.1, "{metric}: {own} rows around the base, {other} anew");
    }
}

#[test]
fn a_base_with_centroids_of_other_bits_is_not_kept() {
    let old = Old::new(fixture::settings(9, Kind::L2, VectorType::F32), clustered(300, 9, 6));
    let codes = BaseCodes::Memory(old.built.codes.clone());
    let base = Base { header: &old.header, codes, moved: &[1, 2], first: 0 };
    let kept = |leaves: usize| {
        let (centroids, origin, starts) = (vec![0.5; 9 * leaves], vec![None; leaves], vec![0; leaves + 1]);
        let leaves = Leaves { centroids: &centroids, origin: &origin, starts: &starts };
        base.kept(&leaves, &[1, 0], 9).unwrap().is_some()
    };
    // 8 bits up to 2^20 values.
    assert!(kept(1 << 10) && !kept(1 << 17));
    assert!(base.leaf_of(1).is_err());
    assert_eq!(base.leaf_of(3).unwrap(), [old.header.leaf_of(1), old.header.leaf_of(2), Standing::NEW]);
}

#[test]
fn out_of_memory_rows_that_do_not_fit_are_clustered_anew() {
    let old = Old::new(fixture::settings(16, Kind::L2, VectorType::F32), clustered(2000, 16, 3));
    let moved: Vec<u32> = (0..2000).collect();
    let far: Vec<Vec<f32>> =
        clustered(1000, 16, 4).into_iter().map(|v| v.iter().map(|x| 8.0 * x).collect()).collect();
    let new = old.merge_in_scratch(&moved, Vec::new(), far.clone(), options(2));
    assert_eq!(new.copied, 0);
    let inputs = old.inputs(&moved, Vec::new(), far);
    let anew = build_in_scratch(&inputs, None, &old.settings, 512 << 10, options(2));
    assert!(anew.index_file == new.index_file && anew.rows_file == new.rows_file);
}

#[test]
fn groups_are_read_where_they_are_needed() {
    let old = Old::new(fixture::settings(9, Kind::L2, VectorType::F32), clustered(1000, 9, 6));
    let file = MemoryScratch.file().unwrap();
    file.append(&old.built.codes).unwrap();
    let from: Vec<u32> = [999, 3, 40, Moved::NONE, 41, 500, 700].to_vec();
    let facts = old.header.facts();
    let group_bytes = (facts.group_bytes as usize, old.header.bare_group_bytes() as usize);
    let moved = |codes| Moved {
        bits: 9,
        group_bytes,
        codes,
        window: Vec::new(),
        runs: Vec::new(),
        from: from.clone(),
    };
    let memory = moved(BaseCodes::Memory(old.built.codes.clone()));
    let mut scratch = moved(BaseCodes::Scratch(file));
    for ordinals in [0..7, 2..4, 5..7] {
        scratch.fetch(ordinals.clone()).unwrap();
        for ordinal in ordinals {
            assert!(memory.get(ordinal) == scratch.get(ordinal));
            assert_eq!(memory.get(ordinal).is_none(), ordinal == 3);
        }
    }
    // What was not asked for is not there.
    assert!(scratch.get(0).is_none() && scratch.get(7).is_none());
}
