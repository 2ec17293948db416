use std::ops::Bound::{self, Excluded, Included, Unbounded};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int64Type, TimestampMillisecondType};
use bytes::Bytes;
use proptest::prelude::*;
use roaring::RoaringBitmap;

use super::*;
use crate::schema::{Column as SchemaColumn, ColumnType, Schema, VectorType};
use crate::segment::fixture::{build, rows, schema, settings, write_rows};

/// Predicates of every kind over the fixture's columns.
pub(crate) fn predicates() -> Vec<Predicate> {
    let text = |s: &str| Literal::String(s.to_owned());
    let range = |column: &str, low, high| Predicate::Range { column: column.to_owned(), low, high };
    vec![
        Predicate::Eq("flag".into(), Literal::Bool(true)),
        Predicate::Eq("flag".into(), Literal::Bool(false)),
        Predicate::Eq("topic".into(), text("topic 0")),
        Predicate::Eq("topic".into(), text("no such topic")),
        Predicate::In("topic".into(), vec![text("topic 1"), text("topic 2"), text("topic 8")]),
        Predicate::Contains("tags".into(), "tag7".into()),
        Predicate::Eq("year".into(), Literal::Int(1950)),
        Predicate::Eq("year".into(), Literal::Float(1950.5)),
        Predicate::In("year".into(), vec![Literal::Int(1901), Literal::Float(1902.0), Literal::Int(3)]),
        range("year", Included(Literal::Int(1910)), Excluded(Literal::Int(1990))),
        range("year", Excluded(Literal::Float(1949.5)), Unbounded),
        range("rating", Included(Literal::Float(0.25)), Included(Literal::Float(1.5))),
        range("rating", Unbounded, Excluded(Literal::Int(3))),
        range("_timestamp", Included(Literal::Int(1_699_999_500_000)), Unbounded),
        range("_expires_at", Unbounded, Included(Literal::Int(1_700_000_004_000))),
        Predicate::Eq("_version".into(), Literal::Int(1)),
        Predicate::IsNull("year".into()),
        Predicate::IsNull("text".into()),
        Predicate::IsNull("tags".into()),
        Predicate::IsNull("_expires_at".into()),
        Predicate::Eq("added later".into(), text("x")),
        Predicate::IsNull("added later".into()),
    ]
}

/// A number of either type, for exact comparison.
#[derive(Clone, Copy, Debug)]
enum Number {
    Int(i64),
    Float(f64),
}

/// Compares numbers by value. An int has 64 bits and a float 53: compare as floats first, then what they round to.
fn cmp(a: Number, b: Number) -> Option<std::cmp::Ordering> {
    use Number::*;
    match (a, b) {
        (Int(a), Int(b)) => Some(a.cmp(&b)),
        (Float(a), Float(b)) => a.partial_cmp(&b),
        (Float(a), Int(b)) => cmp(Int(b), Float(a)).map(std::cmp::Ordering::reverse),
        (Int(a), Float(b)) => {
            if b.is_infinite() || b.abs() > 1e19 {
                return (a as f64).partial_cmp(&b);
            }
            let whole = b.floor();
            Some(i128::from(a).cmp(&(whole as i128)).then(if whole < b {
                std::cmp::Ordering::Less
            } else {
                std::cmp::Ordering::Equal
            }))
        }
    }
}

fn number(l: &Literal) -> Number {
    match l {
        Literal::Int(i) => Number::Int(*i),
        Literal::Float(f) => Number::Float(*f),
        _ => panic!("not a number"),
    }
}

fn in_bounds(v: Number, low: &Bound<Literal>, high: &Bound<Literal>) -> bool {
    let low = match low {
        Unbounded => true,
        Included(l) => cmp(v, number(l)).is_some_and(|o| o.is_ge()),
        Excluded(l) => cmp(v, number(l)).is_some_and(|o| o.is_gt()),
    };
    let high = match high {
        Unbounded => true,
        Included(l) => cmp(v, number(l)).is_some_and(|o| o.is_le()),
        Excluded(l) => cmp(v, number(l)).is_some_and(|o| o.is_lt()),
    };
    low && high
}

/// Rows that satisfy a predicate, one by one.
fn brute(batch: &RecordBatch, predicate: &Predicate) -> RoaringBitmap {
    let Some(array) = batch.column_by_name(predicate.column()) else {
        let all = matches!(predicate, Predicate::IsNull(_));
        return (0..if all { batch.num_rows() as u32 } else { 0 }).collect();
    };
    let number = |i: usize| {
        if let Some(a) = array.as_primitive_opt::<Int64Type>() {
            return Number::Int(a.value(i));
        }
        match array.as_primitive_opt::<TimestampMillisecondType>() {
            Some(a) => Number::Int(a.value(i)),
            None => Number::Float(array.as_primitive::<Float64Type>().value(i)),
        }
    };
    let equal = |i: usize, l: &Literal| match l {
        Literal::Bool(b) => array.as_boolean().value(i) == *b,
        Literal::String(s) => array.as_string::<i32>().value(i) == s,
        n => cmp(number(i), self::number(n)).is_some_and(|o| o.is_eq()),
    };
    let holds = |i: usize| match predicate {
        Predicate::IsNull(_) => array.is_null(i),
        _ if array.is_null(i) => false,
        Predicate::Eq(_, l) => equal(i, l),
        Predicate::In(_, ls) => ls.iter().any(|l| equal(i, l)),
        Predicate::Range { low, high, .. } => in_bounds(number(i), low, high),
        Predicate::Contains(_, s) => {
            array.as_list::<i32>().value(i).as_string::<i32>().iter().any(|v| v == Some(s))
        }
    };
    (0..batch.num_rows()).filter(|i| holds(*i)).map(|i| i as u32).collect()
}

/// Attributes of a batch with the fixture's columns, and what reads them.
struct Indexed {
    directory: Directory,
    section: Vec<u8>,
}

impl Indexed {
    fn new(batch: &RecordBatch, schema: &Schema) -> Self {
        let settings = settings(1, VectorType::F32);
        let mut file = Vec::new();
        let mut writer = crate::segment::rows::RowsWriter::new(&mut file, &settings, schema).unwrap();
        writer.write(batch).unwrap();
        let layout = writer.finish().unwrap();
        let mut builder = AttributesBuilder::new(&settings, schema, 77);
        for at in (0..batch.num_rows()).step_by(1000) {
            builder.push_batch(&batch.slice(at, 1000.min(batch.num_rows() - at))).unwrap();
        }
        let built = builder.finish(&layout).unwrap();
        assert!(built.directory.len() <= 64 << 10);
        let range = 0..built.section.len() as u64;
        let directory =
            Directory::decode("i", &built.directory, range, schema, batch.num_rows() as u32).unwrap();
        Indexed { directory, section: built.section }
    }

    fn read(&self, range: &std::ops::Range<u64>) -> Bytes {
        Bytes::copy_from_slice(&self.section[range.start as usize..range.end as usize])
    }

    /// Rows and bytes read.
    fn ask(&self, predicate: &Predicate) -> Option<(RoaringBitmap, usize)> {
        let plan = self.directory.plan(predicate)?;
        let bytes: Vec<Bytes> = plan.ranges.iter().map(|r| self.read(r)).collect();
        Some((plan.evaluate(&bytes).unwrap(), bytes.iter().map(Bytes::len).sum()))
    }
}

#[test]
fn answers_are_exact() {
    for n in [1, 40, 3000, 70_000] {
        let batch = rows(n, &settings(1, VectorType::F32), n as u64);
        let indexed = Indexed::new(&batch, &schema());
        for predicate in predicates() {
            let (found, bytes) = indexed.ask(&predicate).unwrap();
            assert_eq!(found, brute(&batch, &predicate), "{predicate:?} of {n}");
            assert!(bytes < (20 << 10) + n * 2, "{predicate:?} of {n} reads {bytes} bytes");
        }
    }
}

#[test]
fn what_cannot_be_known_is_left_to_the_column() {
    let indexed = Indexed::new(&rows(100, &settings(1, VectorType::F32), 1), &schema());
    let text = |s: &str| Literal::String(s.to_owned());
    for predicate in [
        Predicate::Eq("text".into(), text("long")),
        Predicate::Eq("topic".into(), Literal::Int(1)),
        Predicate::Eq("year".into(), text("1950")),
        Predicate::Eq("tags".into(), text("tag1")),
        Predicate::Eq("flag".into(), text("\u{1}")),
        Predicate::Eq("year".into(), Literal::Float(f64::NAN)),
        Predicate::Contains("topic".into(), "topic 1".into()),
        Predicate::Range { column: "topic".into(), low: Unbounded, high: Included(text("x")) },
    ] {
        assert!(indexed.ask(&predicate).is_none(), "{predicate:?}");
    }
}

#[test]
fn chunks_lead_to_the_columns_of_the_rows_file() {
    let settings = settings(8, VectorType::F32);
    let built = build(300, false);
    let h = built.header();
    for (i, column) in schema().columns.iter().enumerate() {
        let chunks = h.attributes().column(&column.name).unwrap().chunks();
        let want = built.layout.checks.chunk(2 + i, 0).unwrap();
        assert_eq!((chunks.len(), chunks[0].range.clone()), (1, want.range()));
        chunks[0].check("r", &built.rows[want.offset as usize..want.range().end as usize]).unwrap();
    }
    assert!(h.attributes().column("nothing").is_none());
    assert_eq!(
        h.attributes().column("year").unwrap().compressed(),
        built.layout.checks.chunk(3, 0).unwrap().length
    );
    let _ = write_rows(&built.batch, &settings, 300);
}

/// A batch of one more metadata column with given values, in the place of `year`.
fn with_column(n: usize, kind: ColumnType, array: arrow::array::ArrayRef) -> (RecordBatch, Schema) {
    let settings = settings(1, VectorType::F32);
    let batch = rows(n, &settings, 1);
    let schema = Schema { columns: vec![SchemaColumn { name: "x".to_owned(), kind, wide: false }] };
    let mut columns = batch.columns().to_vec();
    columns.splice(2..8, [array]);
    (RecordBatch::try_new(crate::schema::arrow_schema(&settings, &schema), columns).unwrap(), schema)
}

/// Numbers around the places where types and bins meet.
fn ints() -> impl Strategy<Value = i64> {
    let edges = [
        i64::MIN,
        i64::MIN + 1,
        -(1 << 53) - 1,
        -(1 << 53),
        -1,
        0,
        1,
        1 << 53,
        (1 << 53) + 1,
        i64::MAX - 1,
        i64::MAX,
    ];
    prop_oneof![2 => prop::sample::select(edges.to_vec()), 3 => -20..20i64, 1 => any::<i64>()]
}

fn floats() -> impl Strategy<Value = f64> {
    let edges = [
        f64::NEG_INFINITY,
        f64::MIN,
        -9.3e18,
        -9_223_372_036_854_775_808.0,
        -0.5,
        -0.0,
        0.0,
        f64::MIN_POSITIVE,
        0.5,
        9_007_199_254_740_992.0,
        9_223_372_036_854_775_807.0,
        1e19,
        f64::MAX,
        f64::INFINITY,
    ];
    prop_oneof![2 => prop::sample::select(edges.to_vec()), 2 => (-20..20i64).prop_map(|i| i as f64 / 2.0), 1 => -1e18..1e18f64]
}

fn literals() -> impl Strategy<Value = Literal> {
    prop_oneof![ints().prop_map(Literal::Int), floats().prop_map(Literal::Float)]
}

fn bounds() -> impl Strategy<Value = Bound<Literal>> {
    prop_oneof![1 => Just(Unbounded), 3 => literals().prop_map(Included), 3 => literals().prop_map(Excluded)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn numbers_compare_by_value(
        ints in prop::collection::vec(prop::option::weighted(0.9, ints()), 1..40),
        floats in prop::collection::vec(prop::option::weighted(0.9, floats()), 1..40),
        literals in prop::collection::vec(literals(), 1..4),
        (low, high) in (bounds(), bounds()),
    ) {
        let float_array = std::sync::Arc::new(floats.iter().copied().collect::<arrow::array::Float64Array>());
        let int_array = std::sync::Arc::new(ints.iter().copied().collect::<arrow::array::Int64Array>());
        for (batch, schema) in [
            with_column(ints.len(), ColumnType::Int, int_array),
            with_column(floats.len(), ColumnType::Float, float_array),
        ] {
            let indexed = Indexed::new(&batch, &schema);
            for predicate in [
                Predicate::Range { column: "x".into(), low: low.clone(), high: high.clone() },
                Predicate::Eq("x".into(), literals[0].clone()),
                Predicate::In("x".into(), literals.clone()),
                Predicate::IsNull("x".into()),
            ] {
                let found = indexed.ask(&predicate).unwrap().0;
                prop_assert_eq!(found, brute(&batch, &predicate), "{:?}", predicate);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]
    #[test]
    fn ranges_over_many_bins_are_exact(
        distinct in 1..40_000i64, skew in 1..5u32, nulls in 0..3u64, seed in any::<u64>(),
        ranges in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 12),
    ) {
        let mut r = crate::segment::fixture::Numbers(seed);
        let n = 60_000;
        let value = |r: &mut crate::segment::fixture::Numbers| {
            let unit = (r.next() >> 11) as f64 / (1u64 << 53) as f64;
            (r.below(8) >= nulls).then_some((unit.powi(skew as i32) * distinct as f64) as i64)
        };
        let array: arrow::array::Int64Array = (0..n).map(|_| value(&mut r)).collect();
        let (batch, schema) = with_column(n, ColumnType::Int, std::sync::Arc::new(array));
        let indexed = Indexed::new(&batch, &schema);
        for (a, b) in ranges {
            let (a, b) = (a.index(distinct as usize + 2) as i64 - 1, b.index(distinct as usize + 2) as i64 - 1);
            let predicate = Predicate::Range {
                column: "x".into(), low: Included(Literal::Int(a.min(b))), high: Excluded(Literal::Int(a.max(b))),
            };
            let (found, bytes) = indexed.ask(&predicate).unwrap();
            prop_assert_eq!(found, brute(&batch, &predicate));
            prop_assert!(bytes < 64 << 10, "{bytes} bytes for {predicate:?}");
        }
    }
}

#[test]
fn columns_that_do_not_fit_the_header_are_loaded() {
    let n = 20_000;
    let settings = settings(1, VectorType::F32);
    let base = rows(n, &settings, 1);
    let count = 120;
    let columns: Vec<SchemaColumn> = (0..count)
        .map(|i| SchemaColumn { name: format!("c{i}"), kind: ColumnType::Float, wide: false })
        .collect();
    let schema = Schema { columns };
    let mut arrays = base.columns().to_vec();
    let rating = arrays[4].clone();
    arrays.splice(2..8, std::iter::repeat_n(rating, count));
    let batch = RecordBatch::try_new(crate::schema::arrow_schema(&settings, &schema), arrays).unwrap();
    let mut indexed = Indexed::new(&batch, &schema);
    let cold: Vec<String> =
        (0..count).map(|i| format!("c{i}")).filter(|c| indexed.directory.cold(c).is_some()).collect();
    assert!((1..count).contains(&cold.len()), "{} cold", cold.len());
    let predicate = Predicate::Range {
        column: cold[0].clone(),
        low: Included(Literal::Float(0.0)),
        high: Excluded(Literal::Float(2.0)),
    };
    assert!(indexed.directory.plan(&predicate).is_none());
    let bytes = indexed.read(&indexed.directory.cold(&cold[0]).unwrap());
    let mut bad = bytes.to_vec();
    bad[3] ^= 4;
    assert!(indexed.directory.load(&cold[0], &bad).is_err());
    indexed.directory.load(&cold[0], &bytes).unwrap();
    assert!(indexed.directory.cold(&cold[0]).is_none());
    assert_eq!(indexed.ask(&predicate).unwrap().0, brute(&batch, &predicate));
}

#[test]
fn damaged_ranges_are_refused() {
    let indexed = Indexed::new(&rows(3000, &settings(1, VectorType::F32), 1), &schema());
    for predicate in predicates() {
        let plan = indexed.directory.plan(&predicate).unwrap();
        let bytes: Vec<Bytes> = plan.ranges.iter().map(|r| indexed.read(r)).collect();
        for i in 0..bytes.len() {
            for at in [0, bytes[i].len() / 2, bytes[i].len() - 1] {
                let mut bad = bytes.clone();
                let mut one = bad[i].to_vec();
                one[at] ^= 16;
                bad[i] = one.into();
                assert!(plan.evaluate(&bad).is_err());
            }
            let mut short = bytes.clone();
            short[i] = short[i].slice(1..);
            assert!(plan.evaluate(&short).is_err());
        }
    }
}

#[test]
fn column_by_column_the_bytes_are_the_same() {
    let settings = settings(3, VectorType::F32);
    let batch = rows(3000, &settings, 4);
    let (_, layout) = write_rows(&batch, &settings, 1000);
    let mut builder = AttributesBuilder::new(&settings, &schema(), 9);
    builder.push_batch(&batch).unwrap();
    let whole = builder.finish(&layout).unwrap();

    let mut writer = ColumnsWriter::new(&schema(), 9, &layout);
    let mut section = Vec::new();
    while let Some(column) = writer.next_column() {
        let parts = [(0, 700), (700, 2300)].map(|(at, n)| Ok(batch.column(column).slice(at, n)));
        section.extend(writer.column(parts.into_iter()).unwrap());
    }
    let rest = writer.finish();
    section.extend(rest.section);
    assert_eq!((rest.directory, section), (whole.directory, whole.section));

    let mut writer = ColumnsWriter::new(&schema(), 9, &layout);
    let column = batch.column(writer.next_column().unwrap()).slice(0, 2999);
    assert!(writer.column([Ok(column)].into_iter()).is_err());
}
