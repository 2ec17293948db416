use std::sync::Arc;

use arrow::array::RecordBatch;
use esker_format::schema::{Metric as Kind, Settings, VectorType};
use esker_format::segment::index::{Header, Section};

use crate::build::merge::{Base, BaseCodes};
use crate::build::tests::{Opened, build_in_scratch, recall};
use crate::build::{BuildOptions, BuiltSegment, Choice, Target, build_merged};
use crate::fixture::{self, collection, entry, upserts};
use esker_index::SplitMix;

const D: usize = 160;

/// Rows without clusters, the variance of whose direction i is as i^-a.
fn rows(settings: &Settings, count: usize, a: f32, seed: u64) -> RecordBatch {
    let mut random = SplitMix::new(seed);
    let scale: Vec<f32> = (0..D).map(|i| (1.0 + i as f32).powf(-a / 2.0)).collect();
    let vectors = (0..count).map(|_| scale.iter().map(|s| s * random.normal()).collect()).collect();
    entry(settings, 3, &upserts(vectors)).rows.clone()
}

fn settings(metric: Kind) -> Settings {
    fixture::settings(D as u32, metric, VectorType::F32)
}

fn options(basis: Choice, threads: usize) -> BuildOptions {
    BuildOptions { seed: 7, threads, copies: Choice::Never, basis }
}

fn build(
    inputs: Vec<RecordBatch>,
    base: Option<Base<'_>>,
    settings: &Settings,
    options: BuildOptions,
) -> BuiltSegment {
    let (collection, schema) = (collection(), fixture::schema());
    let target = Target { collection: &collection, settings, schema: &schema };
    let clock = esker_store::seams::SystemClock::default();
    build_merged(inputs, base, target, options, &clock, &|_, _| {}).unwrap().unwrap()
}

fn header(built: &BuiltSegment) -> Header {
    Header::parse("test.index", built.index_file.clone()).unwrap()
}

#[test]
fn fewer_bits_along_a_basis_find_more() {
    for metric in [Kind::Cosine, Kind::L2, Kind::Dot] {
        let settings = settings(metric);
        let batch = rows(&settings, 4000, 1.2, 1);
        let queries: Vec<Vec<f32>> = {
            let of = rows(&settings, 30, 1.2, 2);
            crate::build::floats_of_batch(&of, &settings)
                .unwrap()
                .chunks_exact(D)
                .map(<[f32]>::to_vec)
                .collect()
        };
        let found = [Choice::Never, Choice::Always].map(|basis| {
            let opened =
                Opened::new(build(vec![batch.clone()], None, &settings, options(basis, 2)), &settings);
            opened.check(std::slice::from_ref(&batch));
            let facts = *opened.header.facts();
            let expected =
                if basis == Choice::Always { (128, 32 * 128 / 8 + 256) } else { (192, 32 * 192 / 8 + 256) };
            assert_eq!((facts.code_bits, facts.group_bytes), expected);
            assert_eq!(opened.header.basis().is_some(), basis == Choice::Always);
            recall(&opened, &queries, 10, 15)
        });
        assert!(found[1] > found[0] + 0.01, "{metric}: {found:?} of the neighbours among 15 rows");
    }
}

#[test]
fn out_of_memory_and_on_any_number_of_threads() {
    let settings = settings(Kind::Cosine);
    let batch = rows(&settings, 3000, 1.2, 3);
    let one = build(vec![batch.clone()], None, &settings, options(Choice::Always, 1));
    let three = build(vec![batch.clone()], None, &settings, options(Choice::Always, 3));
    assert!(one.index_file == three.index_file);
    let [large, again] = [1, 3].map(|threads| {
        let batch = std::slice::from_ref(&batch);
        build_in_scratch(batch, None, &settings, 512 << 10, options(Choice::Always, threads))
    });
    assert!(large.index_file == again.index_file);
    assert!(header(&large).basis().is_some());
    Opened::new(large, &settings).check(&[batch]);
}

#[test]
fn there_is_none_where_it_says_no_more() {
    // Few rows are not asked.
    let settings = settings(Kind::Cosine);
    let few = rows(&settings, 2000, 1.2, 4);
    let plain = build(vec![few.clone()], None, &settings, options(Choice::Never, 2));
    assert!(build(vec![few], None, &settings, options(Choice::WhereWorth, 2)).index_file == plain.index_file);
    // Of more, those that vary the same in all directions have none.
    for (a, worth) in [(0.0, false), (1.4, true)] {
        let many = rows(&settings, 8000, a, 5);
        let built = build(vec![many], None, &settings, options(Choice::WhereWorth, 2));
        assert_eq!(header(&built).basis().is_some(), worth, "variances as i^-{a}");
    }
}

#[test]
fn a_merge_keeps_the_basis_of_its_base() {
    let settings = settings(Kind::L2);
    let batch = rows(&settings, 3000, 1.2, 6);
    let built = build(vec![batch.clone()], None, &settings, options(Choice::Always, 2));
    let old = Arc::new(header(&built));
    let order = arrow::array::UInt32Array::from(built.order.clone());
    let own = arrow::compute::take_record_batch(&batch, &order).unwrap();
    let new = rows(&settings, 200, 1.2, 7);
    let moved: Vec<u32> = (0..3000).collect();
    let section = old.section(Section::Codes).unwrap();
    let codes = BaseCodes::Memory(built.index_file.slice(section.start as usize..section.end as usize));
    let base = Base { header: &old, codes, moved: &moved, first: 0 };
    let inputs = vec![own, new];
    let large =
        build_in_scratch(&inputs, Some(base.clone()), &settings, 512 << 10, options(Choice::Never, 2));
    for merged in [build(inputs.clone(), Some(base), &settings, options(Choice::Never, 2)), large] {
        assert!(merged.copied > 2000, "{} codes copied", merged.copied);
        let is = header(&merged);
        assert_eq!((is.basis(), is.facts().code_bits), (old.basis(), old.facts().code_bits));
        Opened::new(merged, &settings).check(&inputs);
    }
}
