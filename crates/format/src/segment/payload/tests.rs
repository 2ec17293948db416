use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{Float64Type, Int64Type};
use proptest::prelude::*;

use super::*;
use crate::error::Kind;
use crate::record::Value;
use crate::schema::{Column, ColumnType, Schema, VectorType};
use crate::segment::fixture::{rows, schema, settings};

fn write(batch: &RecordBatch, step: usize) -> Payload {
    let mut writer = PayloadWriter::new(&settings(3, VectorType::F32), &schema()).unwrap();
    for at in (0..batch.num_rows()).step_by(step) {
        writer.push_batch(&batch.slice(at, step.min(batch.num_rows() - at))).unwrap();
    }
    writer.finish().unwrap()
}

fn blocks(payload: &Payload) -> Vec<&[u8]> {
    let mut at = 0;
    let cut = |size: &u32| {
        at += *size as usize;
        &payload.blocks[at - *size as usize..at]
    };
    payload.sizes.iter().map(cut).collect()
}

fn without_vector(batch: &RecordBatch) -> RecordBatch {
    let columns: Vec<usize> = (0..batch.num_columns()).filter(|i| *i != 1).collect();
    batch.project(&columns).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn rows_come_back(n in 0..200usize, step in 1..100usize, seed in any::<u64>()) {
        let batch = rows(n, &settings(3, VectorType::F32), seed);
        let payload = write(&batch, step);
        prop_assert_eq!(payload.sizes.len(), n.div_ceil(32));
        let schema = Arc::new(schema());
        let mut read = vec![PayloadBatch::new(&schema).finish().unwrap()];
        for (number, block) in (0..).zip(blocks(&payload)) {
            let rows = decode_block("i", number, block, &schema).unwrap();
            read.push(rows.to_batch(&(0..rows.len()).collect::<Vec<_>>()).unwrap());
        }
        prop_assert_eq!(concat_batches(&payload_schema(&schema), &read).unwrap(), without_vector(&batch));
    }
}

#[test]
fn heads_are_those_of_the_rows() {
    let batch = rows(75, &settings(3, VectorType::F32), 9);
    let payload = write(&batch, 75);
    let (mut heads, schema) = (RowHeads::default(), Arc::new(schema()));
    for (number, block) in (0..).zip(blocks(&payload)) {
        assert!(heads.push_block("i", number, block, 1 << 20).unwrap());
        let rows = decode_block("i", number, block, &schema).unwrap();
        for i in 0..rows.len() {
            let head = heads.get(number * 32 + i as u32).unwrap();
            let expected = RowHead {
                id: rows.id(i),
                times: rows.times(i),
                expires_at: rows.expires_at(i),
                version: rows.version(i),
            };
            assert_eq!(head, expected);
        }
    }
    assert!(heads.get(75).is_none() && heads.bytes() < 75 * 64);
    let full = heads.bytes();
    assert!(!heads.push_block("i", 2, blocks(&payload)[2], full).unwrap(), "no room");
    assert_eq!(heads.bytes(), full);
    let e = heads.push_block("i", 1, blocks(&payload)[2], 1 << 20).unwrap_err();
    assert_eq!((e.kind(), heads.bytes()), (Kind::Corrupt, full));
    let cut = &blocks(&payload)[0][..20];
    assert_eq!(heads.push_block("i", 0, cut, 1 << 20).unwrap_err().kind(), Kind::Corrupt);
    // The decoder is none the worse for it.
    assert!(heads.push_block("i", 0, blocks(&payload)[0], 1 << 20).unwrap());
}

#[test]
fn rows_are_seen_one_by_one() {
    let batch = rows(40, &settings(3, VectorType::F32), 4);
    let payload = write(&batch, 40);
    let rows = decode_block("i", 1, blocks(&payload)[1], &Arc::new(schema())).unwrap();
    assert_eq!((rows.len(), rows.id(3), rows.seq_row(3), rows.version(3)), (8, "id-35", (1, 35), 1));
    let years = batch.column_by_name("year").unwrap().as_primitive::<Int64Type>();
    for i in 0..8 {
        let metadata = rows.metadata(i);
        let year = years.iter().nth(32 + i).unwrap();
        assert_eq!(metadata.get("year"), year.map(Value::Int).as_ref());
        assert!(metadata.values().all(|v| *v != Value::Null));
        assert_eq!(rows.value(i, 1).map(|v| v.to_value()), year.map(Value::Int));
    }
    let picked = rows.to_batch(&[5, 2]).unwrap();
    assert_eq!(picked.column(0).as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["id-37", "id-34"]);
}

#[test]
fn an_older_segment_is_read_with_the_newer_schema() {
    let batch = rows(40, &settings(3, VectorType::F32), 4);
    let payload = write(&batch, 40);
    let mut newer = schema();
    newer.columns[1].kind = ColumnType::Float;
    newer.columns.push(Column { name: "added".to_owned(), kind: ColumnType::String, wide: false });
    let rows = decode_block("i", 0, blocks(&payload)[0], &Arc::new(newer)).unwrap();
    let read = rows.to_batch(&(0..32).collect::<Vec<_>>()).unwrap();
    assert_eq!(read.column_by_name("added").unwrap().null_count(), 32);
    let ints = batch.column_by_name("year").unwrap().as_primitive::<Int64Type>();
    let floats = read.column_by_name("year").unwrap().as_primitive::<Float64Type>();
    assert!(ints.iter().zip(floats).all(|(a, b)| a.map(|a| a as f64) == b));

    let stale = Schema { columns: schema().columns[..3].to_vec() };
    let error = decode_block("i", 0, blocks(&payload)[0], &Arc::new(stale)).unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
}

#[test]
fn damaged_or_misplaced_blocks_are_refused() {
    let payload = write(&rows(40, &settings(3, VectorType::F32), 4), 40);
    let (schema, all) = (Arc::new(schema()), blocks(&payload));
    assert_eq!(decode_block("i", 0, all[1], &schema).unwrap_err().kind(), Kind::Corrupt);
    let truth = decode_block("i", 1, all[1], &schema).unwrap().to_batch(&[0, 7]).unwrap();
    for bit in 0..all[1].len() * 8 {
        let mut bad = all[1].to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        // zstd's frame header has a bit that means nothing.
        if let Ok(rows) = decode_block("i", 1, &bad, &schema) {
            assert_eq!(rows.to_batch(&[0, 7]).unwrap(), truth, "bit {bit}");
        }
    }
    for length in 0..all[1].len() {
        assert!(decode_block("i", 1, &all[1][..length], &schema).is_err());
    }
}

proptest! {
    #[test]
    fn forged_blocks_never_panic(raw in prop::collection::vec(any::<u8>(), 0..80)) {
        let mut block = vec![0, 0, 0, 0, 1];
        block.extend(raw);
        let frame = zstd::bulk::compress(&block, 1).unwrap();
        let _ = decode_block("i", 0, &frame, &Arc::new(schema()));
    }
}
