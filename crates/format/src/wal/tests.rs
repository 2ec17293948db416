use std::fs;
use std::path::PathBuf;

use arrow::array::AsArray;
use arrow::datatypes::Int32Type;

use super::*;
use crate::avro::samples::{avro_schema, block, collection, l2, record, tree};
use crate::avro::{Decoded, encode_tombstone};
use crate::envelope::COMBINED;
use crate::record::Record;
use crate::schema::{Column, ColumnType, Schema};

const SEQ_1: &str = "c/docs-1/wal/18446744073709551614.avro";

pub(super) fn upsert(token: u128, ids: &[&str]) -> PendingBatch {
    let records: Vec<Record> = ids.iter().map(|id| record(id, &[1.5, -2.0])).collect();
    let blocks = records.chunks(2).map(|r| Block { rows: r.len() as u64, data: block(r).into() }).collect();
    let (token, op) = (Token(token), Op::Upsert);
    PendingBatch { token, given: true, content: Some(Content(7)), op, arrived_ms: 1_750_000_000_000, blocks }
}

fn delete(token: u128, ids: &[&str]) -> PendingBatch {
    let mut data = Vec::new();
    ids.iter().for_each(|id| encode_tombstone(&mut data, id));
    let blocks = vec![Block { rows: ids.len() as u64, data: data.into() }];
    let (token, op) = (Token(token), Op::Delete);
    PendingBatch { token, given: false, content: None, op, arrived_ms: 1_750_000_000_001, blocks }
}

pub(super) fn batches() -> Vec<PendingBatch> {
    vec![upsert(1, &["a", "b", "c"]), delete(2, &["d", "a"]), upsert(3, &["e"])]
}

fn inline(seq: Seq, batches: &[PendingBatch]) -> Vec<u8> {
    encode(&EntryParts { collection: &collection(), seq, batches, body: None }).unwrap()
}

/// A body and the entry that refers to it.
fn with_body(seq: Seq, batches: &[PendingBatch]) -> (Bytes, Vec<u8>) {
    let body = Bytes::from(encode_body(&collection(), batches));
    let reference = BodyRef::new(seq + 2, Token(9), &body);
    let entry =
        encode(&EntryParts { collection: &collection(), seq, batches, body: Some(reference) }).unwrap();
    (body, entry)
}

fn rows(entry: &Entry, body: Option<Bytes>) -> Result<Decoded> {
    use ColumnType::*;
    let columns =
        [("free", Boolean), ("ratio", Float), ("section", String), ("size", Int), ("tags", Strings)];
    let schema = Schema {
        columns: columns.map(|(name, kind)| Column { name: name.into(), kind, wide: false }).into(),
    };
    let mut builder = RowsBuilder::new(&l2(2), &schema);
    decode_rows(entry, body, &mut builder)?;
    builder.finish()
}

fn check_decoded(decoded: &Decoded) {
    let ids: Vec<_> = decoded.rows.column(0).as_string::<i32>().iter().flatten().collect();
    assert_eq!(ids, ["a", "b", "c", "e"]);
    let rows = decoded.rows.column_by_name("_row").unwrap().as_primitive::<Int32Type>();
    assert_eq!(rows.values()[..], [0, 1, 2, 5]);
    let tombstones: Vec<_> = decoded.tombstones.iter().map(|t| (t.id.as_str(), t.row)).collect();
    assert_eq!(tombstones, [("d", 3), ("a", 4)]);
}

#[test]
fn an_inline_entry_comes_back() {
    let batches = batches();
    let entry = decode(SEQ_1, inline(1, &batches).into()).unwrap();
    assert_eq!((entry.collection.clone(), entry.seq, entry.features, entry.rows()), (collection(), 1, 0, 6));
    assert_eq!(
        entry.batches.iter().map(|b| (b.token.0, b.rows, b.blocks)).collect::<Vec<_>>(),
        [(1, 3, 2), (2, 2, 1), (3, 1, 1)]
    );
    assert_eq!(
        entry.blocks,
        batches.iter().flat_map(|b| b.blocks.clone()).collect::<Vec<_>>(),
        "bytes as they came"
    );
    assert_eq!((entry.body_key(), &entry.ids), (None, &None));
    let hash = SetHash::of("d", 1, 3) + SetHash::of("a", 1, 4);
    assert_eq!(entry.batches[1].hash, hash);
    check_decoded(&rows(&entry, None).unwrap());
    verify_hashes(&entry, None).unwrap();
}

#[test]
fn an_entry_with_a_body_comes_back() {
    let (body, bytes) = with_body(1, &batches());
    let length = bytes.len();
    let entry = decode(SEQ_1, bytes.into()).unwrap();
    assert_eq!(
        entry.body_key().unwrap(),
        format!("c/docs-1/body/{}-{:032x}.avro", crate::keys::descending(3), 9)
    );
    assert_eq!(entry.ids.clone().unwrap(), ["a", "b", "c", "d", "a", "e"].map(|id| collection().hash_id(id)));
    assert_eq!(entry.bytes, (length + body.len()) as u64);
    check_decoded(&rows(&entry, Some(body.clone())).unwrap());
    verify_hashes(&entry, Some(body.clone())).unwrap();
    assert_eq!(rows(&entry, None).unwrap_err().kind(), Kind::Internal);
    let other = Bytes::from(encode_body(&collection(), &batches()[..2]));
    assert_eq!(rows(&entry, Some(other)).unwrap_err().kind(), Kind::Corrupt);
    for bit in 0..body.len() * 8 {
        let mut bad = body.to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(decode_body(&entry, &bad.into()).unwrap_err().kind(), Kind::Corrupt);
    }
}

#[test]
fn another_slot_changes_the_header_alone() {
    let batches = batches();
    let (one, two) = (decode(SEQ_1, inline(1, &batches).into()).unwrap(), inline(2, &batches));
    let two = decode(&Keys::new(&collection()).wal(2), two.into()).unwrap();
    assert_eq!(one.blocks, two.blocks);
    assert_ne!(one.batches[0].hash, two.batches[0].hash);
}

#[test]
fn stock_readers_see_the_records() {
    let bytes = inline(1, &[upsert(1, &["a", "b"])]);
    let schema = avro_schema();
    let reader = apache_avro::Reader::builder(&bytes[..]).reader_schema(&schema).build().unwrap();
    assert_eq!(reader.user_metadata()[SEQ], b"1");
    let values: Vec<_> = reader.map(|v| v.unwrap()).collect();
    assert_eq!(values, ["a", "b"].map(|id| tree(&record(id, &[1.5, -2.0]))));
}

#[test]
fn every_flipped_bit_and_every_cut_is_corrupt() {
    for good in [inline(1, &[delete(1, &["a"])]), with_body(1, &batches()).1] {
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let error = decode(SEQ_1, bad.into()).unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt, "bit {bit}: {error}");
        }
        for end in 0..good.len() {
            assert_eq!(decode(SEQ_1, good[..end].to_vec().into()).unwrap_err().kind(), Kind::Corrupt);
        }
    }
}

#[test]
fn a_block_that_is_not_what_it_announces_is_not_logged() {
    let mut batch = upsert(1, &["a"]);
    batch.blocks[0].rows = 2;
    let parts = EntryParts { collection: &collection(), seq: 1, batches: &[batch], body: None };
    assert_eq!(encode(&parts).unwrap_err().to_string(), "a block of 1 records announces 2");
}

/// An entry whose metadata `change` has altered, with a marker that is right again.
fn altered(change: impl FnOnce(&mut BTreeMap<String, Vec<u8>>)) -> Vec<u8> {
    let bytes = Bytes::from(inline(1, &[delete(1, &["a"])]));
    let mut container = container::read_own(SEQ_1, &bytes).unwrap();
    change(&mut container.meta);
    let blocks: Vec<_> = container.blocks.iter().map(|b| (b.rows, &b.data[..])).collect();
    container::write(&container.meta, &blocks)
}

fn set(key: &str, value: &str) -> Vec<u8> {
    altered(|meta| drop(meta.insert(key.to_owned(), value.as_bytes().to_vec())))
}

#[test]
fn headers_that_contradict_are_refused() {
    for (bytes, message) in [
        (set(SEQ, "2"), "it is entry 2 of collection docs-1"),
        (set(COLLECTION, "docs-2"), "it is entry 1 of collection docs-2"),
        (set(SEQ, "x"), "esker.seq is not a number"),
        (set(BATCHES, "[]"), "more blocks than its batches"),
        (set(BATCHES, "[{}]"), "esker.batches: missing field"),
        (set(IDS, "12345678"), "esker.ids does not fit"),
        (set(FEATURES, "none"), "esker.features is not a hex number"),
        (altered(|meta| drop(meta.remove(COLLECTION))), "it lacks esker.collection"),
    ] {
        let error = decode(SEQ_1, bytes.into()).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        assert!(error.to_string().contains(message) && error.to_string().contains(SEQ_1), "{error}");
    }
}

#[test]
fn newer_formats_are_refused_by_name() {
    let combined = format!("{COMBINED:016x}");
    for (bytes, message) in [
        (set(FEATURES, &combined), "requires the feature combined, which this build lacks"),
        (set(FEATURES, "8000000000000000"), "requires the feature 0x8000000000000000"),
        (set(FORMAT, "2"), "has format version 2"),
    ] {
        let error = decode(SEQ_1, bytes.into()).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(
            error.to_string().contains(message) && error.hint().unwrap().contains("this build"),
            "{error}"
        );
    }
}

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/wal").join(name)
}

/// The golden files under `golden/wal`, made anew.
fn goldens() -> Vec<(&'static str, Vec<u8>)> {
    let (body, entry) = with_body(1, &batches());
    let mut bad_sync = inline(1, &[upsert(1, &["a"])]);
    if let Some(last) = bad_sync.last_mut() {
        *last ^= 1;
    }
    vec![
        ("upsert.avro", inline(1, &[upsert(1, &["a", "b", "c"])])),
        ("delete.avro", inline(1, &[delete(2, &["a", "d"])])),
        ("body.avro", body.to_vec()),
        ("entry-with-body.avro", entry),
        ("invalid/unknown-flag.avro", set(FEATURES, "8000000000000000")),
        ("invalid/combined.avro", set(FEATURES, &format!("{COMBINED:016x}"))),
        ("invalid/bad-sync.avro", bad_sync),
        ("invalid/wrong-seq.avro", inline(2, &[upsert(1, &["a"])])),
    ]
}

#[test]
#[allow(clippy::disallowed_methods, reason = "golden files are rewritten when a person asks for it")]
fn golden_files_are_current() {
    for (name, bytes) in goldens() {
        let path = golden(name);
        if std::env::var("ESKER_REGENERATE").is_ok() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &bytes).unwrap();
        }
        assert!(fs::read(&path).unwrap() == bytes, "{name} differs: a change of the format?");
    }
}

#[test]
#[allow(clippy::disallowed_methods, reason = "reads golden files")]
fn golden_files_are_read_or_refused() {
    let read = |name: &str| decode(SEQ_1, fs::read(golden(name)).unwrap().into());
    assert_eq!(rows(&read("upsert.avro").unwrap(), None).unwrap().rows.num_rows(), 3);
    assert_eq!(rows(&read("delete.avro").unwrap(), None).unwrap().tombstones.len(), 2);
    let body = Bytes::from(fs::read(golden("body.avro")).unwrap());
    check_decoded(&rows(&read("entry-with-body.avro").unwrap(), Some(body)).unwrap());
    for (name, kind) in [
        ("invalid/unknown-flag.avro", Kind::Invalid),
        ("invalid/combined.avro", Kind::Invalid),
        ("invalid/bad-sync.avro", Kind::Corrupt),
        ("invalid/wrong-seq.avro", Kind::Corrupt),
    ] {
        assert_eq!(read(name).unwrap_err().kind(), kind, "{name}");
    }
}
