use arrow::compute::concat_batches;
use esker_format::schema::{Metric as Kind, VectorType};
use esker_index::{group_bytes, padded};

use super::super::{BuiltSegment, Target, build_merged, build_segment};
use super::*;
use crate::Copies;
use crate::fixture::{self, clustered, collection, entry, upserts};
use arrow::array::{BooleanArray, RecordBatch};

fn options(threads: usize) -> BuildOptions {
    BuildOptions { seed: 7, threads, copies: Copies::default() }
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
    fn merge(
        &self,
        moved: &[u32],
        before: Vec<Vec<f32>>,
        after: Vec<Vec<f32>>,
        threads: usize,
    ) -> BuiltSegment {
        let keeps = BooleanArray::from_iter((0..self.built.rows() as u32).map(|o| Some(moved.contains(&o))));
        let own = arrow::compute::filter_record_batch(&self.rows, &keeps).unwrap();
        let first = before.len();
        let [before, after] =
            [(5, before), (6, after)].map(|(seq, v)| entry(&self.settings, seq, &upserts(v)).rows.clone());
        let base = Base { header: &self.header, codes: self.built.codes.clone(), moved, first };
        let (collection, schema) = (collection(), fixture::schema());
        let target = Target { collection: &collection, settings: &self.settings, schema: &schema };
        let clock = esker_store::seams::SystemClock::default();
        let rows = vec![before, own, after];
        build_merged(rows, Some(base), target, options(threads), &clock, &|_, _| {}).unwrap().unwrap()
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
        assert_eq!(is.padded as usize, padded(d));
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
fn an_input_carries_a_merge_with_half_its_rows() {
    assert!(Base::carries(50, 100) && Base::carries(1, 1));
    assert!(!Base::carries(49, 100) && !Base::carries(0, 0));
}
