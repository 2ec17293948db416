use std::collections::BTreeMap;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{
    Float16Type, Float32Type, Float64Type, Int32Type, Int64Type, TimestampMillisecondType,
};
use proptest::prelude::*;

use super::*;
use crate::avro::samples::{avro_schema, block, collection, l2, record, records, settings, tree};
use crate::avro::{Rules, encode_tombstone, validate};
use crate::record::{Record, Value};
use crate::schema::{Column, ColumnType, Metric};

const ARRIVED: i64 = 1_750_000_000_000;

fn context(op: Op, rows: usize) -> BlockContext {
    BlockContext { op, arrived_ms: ARRIVED, seq: 9, first_row: 3, rows: rows as u64 }
}

fn schema(columns: &[(&str, ColumnType)]) -> Schema {
    let column = |&(name, kind): &(&str, ColumnType)| Column { name: name.into(), kind, wide: false };
    Schema { columns: columns.iter().map(column).collect() }
}

fn decode(bytes: &[u8], rows: usize, settings: &Settings, schema: &Schema) -> Result<Decoded> {
    let mut builder = RowsBuilder::new(settings, schema);
    builder.append_block(bytes, &context(Op::Upsert, rows))?;
    builder.finish()
}

/// The value of a metadata column, read from Arrow.
fn value(column: &ArrayRef, row: usize) -> Value {
    if column.is_null(row) {
        return Value::Null;
    }
    match column.data_type() {
        DataType::Boolean => Value::Bool(column.as_boolean().value(row)),
        DataType::Int64 => Value::Int(column.as_primitive::<Int64Type>().value(row)),
        DataType::Float64 => Value::Float(column.as_primitive::<Float64Type>().value(row)),
        DataType::Utf8 => Value::String(column.as_string::<i32>().value(row).into()),
        _ => {
            let list = column.as_list::<i32>().value(row);
            Value::Strings(list.as_string::<i32>().iter().map(|s| s.unwrap().to_owned()).collect())
        }
    }
}

/// The records that a decoded batch stands for.
fn to_records(rows: &RecordBatch, schema: &Schema) -> Vec<Record> {
    let time =
        |name: &str| rows.column_by_name(name).unwrap().as_primitive::<TimestampMillisecondType>().clone();
    let (ids, vectors) = (rows.column(0).as_string::<i32>(), rows.column(1).as_fixed_size_list());
    (0..rows.num_rows())
        .map(|i| Record {
            id: ids.value(i).into(),
            vector: vectors.value(i).as_primitive::<Float32Type>().values().to_vec(),
            metadata: schema
                .columns
                .iter()
                .map(|c| (c.name.clone(), value(rows.column_by_name(&c.name).unwrap(), i)))
                .filter(|(_, v)| *v != Value::Null)
                .collect(),
            timestamp: time("_timestamp").value(i),
            created_at: time("_created_at").value(i),
            updated_at: time("_updated_at").value(i),
            expires_at: Some(time("_expires_at")).filter(|t| t.is_valid(i)).map(|t| t.value(i)),
            version: rows.column_by_name("_version").unwrap().as_primitive::<Int64Type>().value(i),
            ..Record::default()
        })
        .collect()
}

/// A record as it is once it has arrived.
fn arrived(r: &Record, schema: &Schema) -> Record {
    let or_arrival = |t| if t == 0 { ARRIVED } else { t };
    let mut metadata: BTreeMap<_, _> = r.metadata.clone();
    metadata.retain(|_, v| *v != Value::Null);
    for (key, v) in &mut metadata {
        if let (Some(ColumnType::Float), Value::Int(n)) = (schema.get(key).map(|c| c.kind), &*v) {
            *v = Value::Float(*n as f64);
        }
    }
    Record {
        collection_id: String::new(),
        metadata,
        timestamp: or_arrival(r.timestamp),
        created_at: or_arrival(r.created_at),
        updated_at: ARRIVED,
        ..r.clone()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_is_encoded_is_valid_and_decodes_to_the_same(batch in records(3)) {
        let (bytes, settings, collection) = (block(&batch), l2(3), collection());
        let rules = Rules { collection: &collection, op: Op::Upsert, settings: &settings };
        let summary = validate(&bytes, Some(batch.len() as u64), &rules).unwrap();
        prop_assert_eq!(summary.rows as usize, batch.len());
        let schema = Schema::default();
        let schema = schema.admit(summary.keys.iter().map(|(k, o)| (k.as_str(), o))).unwrap().unwrap_or(schema);
        let decoded = decode(&bytes, batch.len(), &settings, &schema).unwrap();
        let expected: Vec<_> = batch.iter().map(|r| arrived(r, &schema)).collect();
        prop_assert_eq!(to_records(&decoded.rows, &schema), expected);
        let rows = decoded.rows.column_by_name("_row").unwrap().as_primitive::<Int32Type>();
        prop_assert!(rows.values().iter().copied().eq(3..3 + batch.len() as i32));
    }

    #[test]
    fn apache_avro_reads_what_we_write(batch in records(3)) {
        let (bytes, schema) = (block(&batch), avro_schema());
        let reader = apache_avro::reader::datum::GenericDatumReader::builder(&schema).build().unwrap();
        let mut rest = &bytes[..];
        for r in &batch {
            prop_assert_eq!(reader.read_value(&mut rest).unwrap(), tree(r));
        }
        prop_assert!(rest.is_empty());
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), rows in 0u64..5) {
        let (settings, collection) = (l2(2), collection());
        for op in [Op::Upsert, Op::Delete] {
            let _ = validate(&bytes, None, &Rules { collection: &collection, op, settings: &settings });
            let mut builder = RowsBuilder::new(&settings, &Schema::default());
            if builder.append_block(&bytes, &BlockContext { rows, ..context(op, 0) }).is_ok() {
                builder.finish().unwrap();
            }
        }
    }

    #[test]
    fn no_mutation_panics(batch in records(2), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let (mut bytes, settings, collection) = (block(&batch), l2(2), collection());
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let rules = Rules { collection: &collection, op: Op::Upsert, settings: &settings };
        let valid = validate(&bytes, Some(batch.len() as u64), &rules);
        let schema = Schema::default();
        let admitted = valid.and_then(|s| {
            let wider = schema.admit(s.keys.iter().map(|(k, o)| (k.as_str(), o)))?;
            Ok(wider.unwrap_or_else(|| schema.clone()))
        });
        match admitted {
            // Whatever is admitted can be decoded.
            Ok(schema) => drop(decode(&bytes, batch.len(), &settings, &schema).unwrap()),
            Err(_) => drop(decode(&bytes, batch.len(), &settings, &schema)),
        }
        let _ = decode(&bytes[..at], batch.len(), &settings, &schema);
    }
}

#[test]
fn arrow_avro_decodes_the_same_vectors() {
    let batch: Vec<_> = (0..10).map(|i| record(&format!("id{i}"), &[i as f32, 0.25])).collect();
    let bytes = block(&batch);
    let file = crate::avro::container::write(&BTreeMap::new(), &[(10, &bytes)]);
    let mut reader = arrow_avro::reader::ReaderBuilder::new().with_batch_size(64).build(&file[..]).unwrap();
    let theirs = reader.next().unwrap().unwrap();
    let columns: Vec<_> =
        batch[0].metadata.iter().filter(|(_, v)| **v != Value::Null).map(|(k, _)| k.as_str()).collect();
    let kinds =
        [ColumnType::Boolean, ColumnType::Float, ColumnType::String, ColumnType::Int, ColumnType::Strings];
    let schema = schema(&columns.into_iter().zip(kinds).collect::<Vec<_>>());
    let ours = decode(&bytes, 10, &l2(2), &schema).unwrap().rows;
    assert_eq!(ours.column(0).as_string::<i32>(), theirs.column_by_name("id").unwrap().as_string::<i32>());
    let vectors = theirs.column_by_name("vector").unwrap().as_list::<i32>().values().clone();
    assert_eq!(
        ours.column(1).as_fixed_size_list().values().as_primitive::<Float32Type>(),
        vectors.as_primitive::<Float32Type>()
    );
    let versions = theirs.column_by_name("version").unwrap();
    assert_eq!(ours.column_by_name("_version").unwrap(), versions);
}

#[test]
fn half_precision_rounds_to_nearest() {
    let schema = Schema::default();
    let vectors: Vec<f32> = (0..40).map(|i| (i as f32 * 0.731).sin() * 100.0).collect();
    let bytes = block(&[Record { id: "a".into(), vector: vectors.clone(), ..Record::default() }]);
    let rows = decode(&bytes, 1, &settings(40, Metric::L2, VectorType::F16), &schema).unwrap().rows;
    let values = rows.column(1).as_fixed_size_list().values().clone();
    let expected: Vec<f16> = vectors.iter().map(|v| f16::from_f32(*v)).collect();
    assert_eq!(values.as_primitive::<Float16Type>().values()[..], expected);
}

#[test]
fn deletes_become_tombstones_and_count_as_rows() {
    let mut deletes = Vec::new();
    ["x", "y"].iter().for_each(|id| encode_tombstone(&mut deletes, id));
    let upserts = block(&[Record { id: "z".into(), vector: vec![1.0], ..Record::default() }]);
    let mut builder = RowsBuilder::new(&l2(1), &Schema::default());
    assert!(builder.is_empty());
    builder.append_block(&deletes, &context(Op::Delete, 2)).unwrap();
    builder.append_block(&upserts, &BlockContext { first_row: 5, ..context(Op::Upsert, 1) }).unwrap();
    assert_eq!((builder.len(), builder.is_empty()), (1, false));
    let decoded = builder.finish().unwrap();
    let tombstones = [("x", 3), ("y", 4)].map(|(id, row)| Tombstone { id: id.into(), seq: 9, row });
    assert_eq!(decoded.tombstones, tombstones);
    assert_eq!(decoded.rows.column_by_name("_row").unwrap().as_primitive::<Int32Type>().values()[..], [5]);
    assert_eq!(decoded.rows.column_by_name("_seq").unwrap().as_primitive::<Int64Type>().values()[..], [9]);
}

#[test]
fn a_stale_schema_is_told_apart_from_damage() {
    let with = |v| Record {
        id: "a".into(),
        vector: vec![1.0],
        metadata: [("k".to_owned(), v)].into(),
        ..Record::default()
    };
    let error = |v, columns: &[_]| decode(&block(&[with(v)]), 1, &l2(1), &schema(columns)).unwrap_err();
    let unknown = error(Value::Int(1), &[]);
    assert_eq!(unknown.kind(), Kind::Conflict);
    assert!(unknown.to_string().contains("the schema is stale"), "{unknown}");
    assert_eq!(error(Value::Float(0.5), &[("k", ColumnType::Int)]).kind(), Kind::Conflict);
    assert_eq!(error(Value::Bool(true), &[("k", ColumnType::Int)]).kind(), Kind::Corrupt);
    // A key without a value needs no column.
    decode(&block(&[with(Value::Null)]), 1, &l2(1), &Schema::default()).unwrap();
}

#[test]
fn announced_rows_are_those_there() {
    let bytes = block(&[record("a", &[1.0])]);
    for (rows, dimension) in [(0, 1), (2, 1), (1, 2)] {
        let error = decode(&bytes, rows, &l2(dimension), &Schema::default()).unwrap_err();
        assert!(matches!(error.kind(), Kind::Corrupt | Kind::Conflict), "{error}");
    }
    let error = decode(&[], usize::MAX, &l2(1), &Schema::default()).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
}
