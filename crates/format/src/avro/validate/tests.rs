use super::*;
use crate::avro::container::Block;
use crate::avro::cursor::{put_bytes, put_long};
use crate::avro::samples::{block, collection, l2, record, settings};
use crate::avro::{encode_tombstone, ids};
use crate::record::{Record, Value};
use crate::schema::{Column, Metric, Schema};

fn check(records: &[Record], settings: &Settings) -> Result<Summary> {
    let collection = collection();
    let rules = Rules { collection: &collection, op: Op::Upsert, settings };
    validate(&block(records), Some(records.len() as u64), &rules)
}

fn with(key: &str, value: Value) -> Record {
    Record {
        id: "a".into(),
        vector: vec![1.0, 2.0],
        metadata: [(key.into(), value)].into(),
        ..Record::default()
    }
}

/// A one-record block of dimension 2 whose metadata map is `metadata` and whose tail is `tail`.
fn raw(id: &[u8], vector: &[u8], metadata: &[u8], tail: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(&mut out, id);
    put_bytes(&mut out, b"");
    for part in [vector, metadata, tail] {
        out.extend_from_slice(part);
    }
    out
}

const VECTOR: &[u8] = &[4, 0, 0, 128, 63, 0, 0, 128, 63, 0];
/// Three times, no expiry, version 1, no result fields.
const TAIL: &[u8] = &[0, 0, 0, 0, 2, 0, 0, 0];

#[test]
fn a_valid_batch_is_summarised() {
    let records = [record("a", &[1.0, 2.0]), record("b", &[0.0, -1.0])];
    let summary = check(&records, &l2(2)).unwrap();
    assert_eq!(summary.rows, 2);
    assert_eq!(summary.ids, ["a", "b"].map(|id| collection().hash_id(id)));
    let kinds: Vec<_> = summary.keys.iter().map(|(k, o)| (k.as_str(), o.kind)).collect();
    use ColumnType::*;
    assert_eq!(
        kinds,
        [("free", Boolean), ("ratio", Float), ("section", String), ("size", Int), ("tags", Strings)]
    );
    let bytes = block(&records);
    assert_eq!(ids(&bytes).map(|id| id.unwrap()).collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn ints_and_floats_of_one_key_are_floats() {
    let big = (1 << 53) + 1;
    let records = [with("n", Value::Int(1)), with("n", Value::Float(0.5)), with("n", Value::Int(big))];
    let seen = &check(&records, &l2(2)).unwrap().keys["n"];
    assert_eq!(*seen, Observed { kind: ColumnType::Float, row: 1, inexact: Some((2, big)) });
    let error = Schema::default().admit([("n", seen)]).unwrap_err();
    assert_eq!(error.field(), Some("records[2].metadata.n"));
    let floats = Schema { columns: vec![Column { name: "n".into(), kind: ColumnType::Float, wide: false }] };
    let fits = &check(&records[..2], &l2(2)).unwrap().keys["n"];
    assert_eq!(floats.admit([("n", fits)]).unwrap(), None);
}

#[test]
fn bad_records_are_refused_by_field() {
    let settings2 = l2(2);
    let ok = || record("a", &[1.0, 2.0]);
    let long = "x".repeat(257);
    for (bad, field, message) in [
        (Record { vector: vec![1.0], ..ok() }, "vector", "1 dimensions, the collection has 2"),
        (Record { vector: vec![], ..ok() }, "vector", "0 dimensions, the collection has 2"),
        (Record { vector: vec![1.0, f32::NAN], ..ok() }, "vector", "not finite"),
        (Record { vector: vec![f32::NEG_INFINITY, 0.0], ..ok() }, "vector", "not finite"),
        (Record { id: String::new(), ..ok() }, "id", "1 to 256 bytes, this one 0"),
        (Record { id: long, ..ok() }, "id", "1 to 256 bytes, this one 257"),
        (
            Record { collection_id: "other".into(), ..ok() },
            "collection_id",
            "for `other`, the request for `docs`",
        ),
        (Record { collection_id: "docs-2".into(), ..ok() }, "collection_id", "for `docs-2`"),
        (with("_seq", Value::Int(1)), "metadata._seq", "reserved"),
        (with("vector", Value::Null), "metadata.vector", "reserved"),
        (with("", Value::Int(1)), "metadata.", "1 to 256 bytes"),
        (with("x", Value::Float(f64::INFINITY)), "metadata.x", "not finite"),
    ] {
        let error = check(&[ok(), bad], &settings2).unwrap_err();
        assert_eq!(
            (error.kind(), error.field()),
            (crate::Kind::Invalid, Some(&*format!("records[1].{field}")))
        );
        assert!(error.to_string().contains(message), "{error}");
    }
    let error =
        check(&[with("m", Value::Int(1)), with("m", Value::String("x".into()))], &settings2).unwrap_err();
    assert_eq!(error.field(), Some("records[1].metadata.m"));
    assert_eq!(error.to_string(), "string here and int in records[0]");
}

#[test]
fn vectors_must_suit_metric_and_element_type() {
    use Metric::{Cosine, Dot};
    use VectorType::{F16, F32};
    for (vector, metric, kind, message) in [
        ([0.0, -0.0], Cosine, F32, Some("zero vector")),
        ([0.0, 0.0], Dot, F32, None),
        ([1e-30, 0.0], Cosine, F32, Some("normalise")),
        ([3e38, 0.0], Cosine, F32, Some("overflow")),
        ([3e38, 0.0], Dot, F32, Some("overflow")),
        ([1e17, 0.0], Dot, F32, None),
        ([2e-8, 0.0], Cosine, F16, Some("zero vector")),
        ([65519.0, 0.0], Dot, F16, None),
        ([65520.0, 0.0], Dot, F16, Some("f16")),
    ] {
        let result = check(
            &[Record { id: "a".into(), vector: vector.to_vec(), ..Record::default() }],
            &settings(2, metric, kind),
        );
        match message {
            None => drop(result.unwrap()),
            Some(m) => assert!(result.unwrap_err().to_string().contains(m), "{vector:?}"),
        }
    }
}

#[test]
fn bad_bytes_are_refused_by_field() {
    let (settings, collection) = (l2(2), collection());
    let rules = Rules { collection: &collection, op: Op::Upsert, settings: &settings };
    let twice: Vec<u8> = [&[4u8][..], b"\x02k\x06\x02", b"\x02k\x06\x04", &[0]].concat();
    for (bytes, field, message) in [
        (raw(b"\xff", VECTOR, &[0], TAIL), "id", "not UTF-8"),
        (raw(b"a", VECTOR, b"\x02\x02k\x10\x00\x00", TAIL), "metadata.k", "nested"),
        (raw(b"a", VECTOR, b"\x02\x02k\x01\x00", TAIL), "metadata.k", "nested"),
        (raw(b"a", VECTOR, b"\x02\x02k\x02\x02", TAIL), "metadata.k", "neither 0 nor 1"),
        (raw(b"a", VECTOR, b"\x02\x02\xff\x00\x00", TAIL), "metadata", "not UTF-8"),
        (raw(b"a", VECTOR, &twice, TAIL), "metadata.k", "twice"),
        (raw(b"a", VECTOR, &[0], &[0, 0, 0, 0, 2, 2, 2, 0, 0]), "rank", "null in writes"),
        (raw(b"a", VECTOR, &[0], &[0, 0, 0, 0, 2, 0, 2, 0, 0, 0, 0, 0]), "score", "null in writes"),
        (raw(b"a", VECTOR, &[0], &[0, 0, 0, 0, 2, 0, 0, 2, 0, 0, 0, 0]), "distance", "null in writes"),
        (raw(b"a", VECTOR, &[0], &[0, 0, 0, 4, 2, 0, 0, 0]), "expires_at", "union branch"),
        (raw(b"a", &[4, 0, 0], &[], &[]), "vector", "ends within"),
        (
            raw(b"a", &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 3], &[], &[]),
            "vector",
            "64 bits",
        ),
    ] {
        let error = validate(&bytes, None, &rules).unwrap_err();
        assert_eq!(error.field(), Some(&*format!("records[0].{field}")), "{error}");
        assert!(error.to_string().contains(message), "{error}");
    }
    let one = raw(b"a", VECTOR, &[0], TAIL);
    assert!(validate(&one, None, &rules).is_ok());
    let trailing = [&one[..], b"\x00"].concat();
    assert_eq!(
        validate(&trailing, Some(1), &rules).unwrap_err().to_string(),
        "1 bytes follow the last record"
    );
    let error = validate(&one, Some(2), &rules).unwrap_err();
    assert_eq!(error.to_string(), "2 records are announced and 1 are there");
}

#[test]
fn blocks_of_avro_arrays_and_maps_may_be_many_and_negative() {
    let (settings, collection) = (l2(2), collection());
    let rules = Rules { collection: &collection, op: Op::Upsert, settings: &settings };
    // One float in a block of count 1, one in a block of count -1 with its size; likewise two map entries.
    let vector = [2, 0, 0, 128, 63, 1, 8, 0, 0, 0, 64, 0];
    let metadata = [&[2][..], b"\x02k\x06\x02", &[1, 8], b"\x02l\x06\x04", &[0]].concat();
    let summary = validate(&raw(b"a", &vector, &metadata, TAIL), Some(1), &rules).unwrap();
    assert_eq!(summary.keys.keys().collect::<Vec<_>>(), ["k", "l"]);
}

#[test]
fn content_is_that_of_the_records_in_any_encoding() {
    let (settings, collection) = (l2(2), collection());
    let rules = Rules { collection: &collection, op: Op::Upsert, settings: &settings };
    let content = |bytes: &[u8]| validate(bytes, None, &rules).unwrap().content;
    // As above, with the keys in the other order and another one that is null, against one block of each.
    let vector = [2, 0, 0, 128, 63, 1, 8, 0, 0, 0, 64, 0];
    let metadata = [&[2][..], b"\x02l\x06\x04", &[3, 14], b"\x02k\x06\x02\x02n\x00", &[0]].concat();
    let ours = Record {
        id: "a".into(),
        vector: vec![1.0, 2.0],
        metadata: [("k".into(), Value::Int(1)), ("l".into(), Value::Int(2))].into(),
        ..Record::default()
    };
    let tail = [0, 0, 0, 0, 2, 0, 0, 0];
    assert_eq!(content(&raw(b"a", &vector, &metadata, &tail)), content(&block(std::slice::from_ref(&ours))));
    let named = Record { collection_id: "docs".into(), updated_at: 5, ..ours.clone() };
    assert_eq!(
        content(&block(&[named])),
        content(&block(std::slice::from_ref(&ours))),
        "said by the request"
    );
    let others = [
        Record { id: "b".into(), ..ours.clone() },
        Record { vector: vec![1.0, 2.5], ..ours.clone() },
        Record {
            metadata: [("k".into(), Value::Int(1)), ("l".into(), Value::Int(3))].into(),
            ..ours.clone()
        },
        Record {
            metadata: [("k".into(), Value::Int(2)), ("l".into(), Value::Int(1))].into(),
            ..ours.clone()
        },
        Record { timestamp: 1, ..ours.clone() },
        Record { created_at: 1, ..ours.clone() },
        Record { expires_at: Some(0), ..ours.clone() },
        Record { version: 2, ..ours.clone() },
    ];
    let mut all: Vec<_> = others.iter().map(|r| content(&block(std::slice::from_ref(r)))).collect();
    all.push(content(&block(std::slice::from_ref(&ours))));
    all.push(content(&block(&[ours.clone(), others[0].clone()])));
    all.push(content(&block(&[others[0].clone(), ours])));
    let distinct: std::collections::HashSet<_> = all.iter().collect();
    assert_eq!(distinct.len(), all.len(), "{all:?}");
}

#[test]
fn times_are_those_of_the_calendar() {
    let ends = [*TIMES_MS.start(), *TIMES_MS.end()];
    let good = |at| Record { timestamp: at, created_at: at, expires_at: Some(at), ..with("k", Value::Null) };
    assert!(check(&ends.map(good), &l2(2)).is_ok());
    for at in [ends[0] - 1, ends[1] + 1, i64::MIN, i64::MAX] {
        let bad = [
            ("timestamp", Record { timestamp: at, ..good(0) }),
            ("created_at", Record { created_at: at, ..good(0) }),
            ("expires_at", Record { expires_at: Some(at), ..good(0) }),
        ];
        for (field, record) in bad {
            let error = check(&[good(0), record], &l2(2)).unwrap_err();
            assert_eq!(error.field(), Some(&*format!("records[1].{field}")));
            assert!(error.to_string().contains("to 9999-12-31"), "{error}");
        }
    }
}

#[test]
fn deletes_carry_ids_alone() {
    let (settings, collection) = (l2(2), collection());
    let rules = Rules { collection: &collection, op: Op::Delete, settings: &settings };
    let mut tombstone = Vec::new();
    encode_tombstone(&mut tombstone, "gone");
    assert_eq!(validate(&tombstone, Some(1), &rules).unwrap().ids, [collection.hash_id("gone")]);
    let error = validate(&block(&[record("a", &[1.0, 2.0])]), None, &rules).unwrap_err();
    assert_eq!(error.field(), Some("records[0].vector"));
    let error = validate(&block(&[record("a", &[])]), None, &rules).unwrap_err();
    assert_eq!(error.field(), Some("records[0].metadata"));
}

#[test]
fn limits_are_those_of_the_table() {
    let (settings, collection) = (l2(2), collection());
    let rules = Rules { collection: &collection, op: Op::Delete, settings: &settings };
    let mut many = Vec::new();
    (0..=limits::BATCH_ROWS).for_each(|_| encode_tombstone(&mut many, "a"));
    let error = validate(&many, None, &rules).unwrap_err();
    assert_eq!(error.to_string(), "the batch has more than 10000 records, which is the limit");
    let mut large = Vec::new();
    put_long(&mut large, (limits::BATCH_BYTES + 1) as i64);
    large.resize(limits::BATCH_BYTES + 1, b'a');
    let error = validate(&large, None, &rules).unwrap_err();
    assert!(error.to_string().contains("the limit is 16777216"), "{error}");
}

#[test]
fn rows_are_counted_over_the_blocks_of_a_batch() {
    let (settings, collection) = (l2(2), collection());
    let rules = Rules { collection: &collection, op: Op::Upsert, settings: &settings };
    let good = Block { rows: 1, data: block(&[record("a", &[1.0, 2.0])]).into() };
    let bad = Block { rows: 1, data: block(&[record("b", &[1.0])]).into() };
    let mut validator = Validator::new(&rules);
    validator.block(&good.data, Some(good.rows)).unwrap();
    assert_eq!(validator.block(&bad.data, Some(1)).unwrap_err().field(), Some("records[1].vector"));
}
