use apache_avro::Writer;

use super::*;
use crate::avro::container;
use crate::avro::samples::{avro_schema, block, record, tree};

const LIMIT: usize = 1 << 20;

/// A container of apache-avro's with one record.
fn written(schema: &Avro, value: Tree) -> Container {
    let mut writer = Writer::new(schema, Vec::new()).unwrap();
    writer.append_value(value).unwrap();
    container::read(&Bytes::from(writer.into_inner().unwrap())).unwrap()
}

fn tree_of(fields: Vec<(&str, Tree)>) -> Tree {
    Tree::Record(fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
}

/// A writer schema whose fields are `fields`.
fn schema(fields: &str) -> Avro {
    let json = format!(r#"{{"type": "record", "name": "Row", "fields": [{fields}]}}"#);
    Avro::parse_str(&json).unwrap()
}

const BASE: &str = r#"{"name": "id", "type": "string"}, {"name": "collection_id", "type": "string"},
    {"name": "timestamp", "type": "long"}, {"name": "created_at", "type": "int"}, {"name": "updated_at", "type": "long"}"#;

fn base() -> Vec<(&'static str, Tree)> {
    vec![
        ("id", Tree::String("a".into())),
        ("collection_id", Tree::String(String::new())),
        ("timestamp", Tree::Long(5)),
        ("created_at", Tree::Int(6)),
        ("updated_at", Tree::Long(7)),
    ]
}

#[test]
fn blocks_of_our_schema_are_kept_byte_for_byte() {
    let container = written(&avro_schema(), tree(&record("a", &[1.0])));
    assert_ne!(container.schema_json, SCHEMA, "apache-avro writes the schema in its own words");
    assert!(Normaliser::new(&container.schema_json).unwrap().keeps_bytes());
    let blocks = normalise(&container, LIMIT).unwrap();
    assert_eq!(blocks, container.blocks);
    assert_eq!(blocks[0].data.as_ptr(), container.blocks[0].data.as_ptr());
}

#[test]
fn another_schema_is_resolved_by_the_rules() {
    // Fields in another order, promoted, dropped, absent with a default, and times of a known unit.
    let schema = schema(&format!(
        r#"{BASE}, {{"name": "extra", "type": ["null", {{"type": "array", "items": "string"}}]}},
        {{"name": "expires_at", "type": {{"type": "long", "logicalType": "timestamp-micros"}}}},
        {{"name": "metadata", "type": {{"type": "map", "values": ["double", "int", "null", "string", "bytes"]}}}},
        {{"name": "vector", "type": {{"type": "array", "items": "int"}}}}"#
    ));
    let union = |i, v| Tree::Union(i, Box::new(v));
    let entries = [
        ("d", union(0, Tree::Double(0.1))),
        ("i", union(1, Tree::Int(3))),
        ("n", union(2, Tree::Null)),
        ("s", union(3, Tree::String("t".into()))),
    ];
    let mut fields = base();
    fields.extend([
        ("extra", union(1, Tree::Array(vec![Tree::String("x".into())]))),
        ("expires_at", Tree::TimestampMicros(8_001)),
        ("metadata", Tree::Map(entries.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())),
        ("vector", Tree::Array(vec![Tree::Int(1), Tree::Int(-2)])),
    ]);
    let blocks = normalise(&written(&schema, tree_of(fields)), LIMIT).unwrap();
    let expected = Record {
        id: "a".into(),
        vector: vec![1.0, -2.0],
        metadata: [
            ("d".to_owned(), Value::Float(0.1)),
            ("i".to_owned(), Value::Int(3)),
            ("n".to_owned(), Value::Null),
            ("s".to_owned(), Value::String("t".into())),
        ]
        .into(),
        timestamp: 5,
        created_at: 6,
        updated_at: 7,
        expires_at: Some(8),
        ..Record::default()
    };
    assert_eq!(blocks, [Block { rows: 1, data: block(&[expected]).into() }]);
}

#[test]
fn what_cannot_be_resolved_is_refused_by_field() {
    let vector = r#"{"name": "vector", "type": {"type": "array", "items": "double"}}"#;
    let metadata = r#"{"name": "metadata", "type": {"type": "map", "values": "string"}}"#;
    for (fields, field, message) in [
        (format!("{BASE}, {metadata}"), "vector", "lacks this field"),
        (
            format!("{BASE}, {metadata}, {vector}"),
            "vector",
            "array of double cannot be read as array of float",
        ),
        (
            format!(
                r#"{BASE}, {}, {{"name": "metadata", "type": {{"type": "map", "values": {{"type": "map", "values": "int"}}}}}}"#,
                vector.replace("double", "float")
            ),
            "metadata",
            "map of map of int cannot be read",
        ),
        (metadata.to_owned(), "id", "lacks this field"),
    ] {
        let json = format!(r#"{{"type": "record", "name": "Row", "fields": [{fields}]}}"#);
        let error = Normaliser::new(&json).unwrap_err();
        assert_eq!(error.field(), Some(field));
        assert!(error.to_string().contains(message), "{error}");
    }
    assert!(Normaliser::new(r#""string""#).unwrap_err().to_string().contains("not the schema of a record"));
    assert!(Normaliser::new("{").is_err());
}

#[test]
fn values_that_no_branch_of_ours_takes_are_refused_by_key() {
    let schema = schema(&format!(
        r#"{BASE}, {{"name": "vector", "type": {{"type": "array", "items": "float"}}}}, {{"name": "metadata", "type": {{"type": "map", "values": ["int", {{"type": "map", "values": "int"}}]}}}},
        {{"name": "rank", "type": "int"}}"#
    ));
    let nested = Tree::Union(1, Box::new(Tree::Map([("x".to_owned(), Tree::Int(1))].into())));
    let row = |metadata: HashMap<String, Tree>| {
        let mut fields = base();
        fields.extend([
            ("vector", Tree::Array(vec![Tree::Float(1.0)])),
            ("metadata", Tree::Map(metadata)),
            ("rank", Tree::Int(1)),
        ]);
        normalise(&written(&schema, tree_of(fields)), LIMIT).unwrap_err()
    };
    assert_eq!(row([("k".to_owned(), nested)].into()).field(), Some("records[0].metadata.k"));
    assert_eq!(row(HashMap::new()).field(), Some("records[0].rank"));
}

#[test]
fn a_cut_record_is_not_taken_for_nulls() {
    let schema = schema(&format!(
        r#"{BASE}, {{"name": "vector", "type": {{"type": "array", "items": "float"}}}},
        {{"name": "metadata", "type": {{"type": "map", "values": "string"}}}}, {{"name": "expires_at", "type": ["null", "long"]}}"#
    ));
    let mut fields = base();
    fields.extend([
        ("vector", Tree::Array(vec![Tree::Float(1.0)])),
        ("metadata", Tree::Map(HashMap::new())),
        ("expires_at", Tree::Union(1, Box::new(Tree::Long(9)))),
    ]);
    let mut container = written(&schema, tree_of(fields));
    normalise(&container, LIMIT).unwrap();
    let whole = container.blocks[0].data.clone();
    for end in 0..whole.len() {
        container.blocks[0].data = whole.slice(..end);
        assert!(normalise(&container, LIMIT).is_err(), "{end}");
    }
    container.blocks[0].data = [&whole[..], b"x"].concat().into();
    assert!(normalise(&container, LIMIT).unwrap_err().to_string().contains("follow the last record"));
    assert!(normalise(&container, whole.len()).unwrap_err().to_string().contains("which is the limit"));
}

#[test]
fn schemas_that_cost_more_than_their_bytes_are_refused() {
    let record = |fields: String| format!(r#"{{"type": "record", "name": "Row", "fields": [{fields}]}}"#);
    let mut doubling = r#"{"name": "f0", "type": {"type": "record", "name": "T0", "fields": []}}"#.to_owned();
    for i in 1..40 {
        let before = i - 1;
        doubling += &format!(
            r#", {{"name": "f{i}", "type": {{"type": "record", "name": "T{i}", "fields":
            [{{"name": "a", "type": "T{before}"}}, {{"name": "b", "type": "T{before}"}}]}}}}"#
        );
    }
    let deep = (0..40).fold(r#""int""#.to_owned(), |t, _| format!(r#"{{"type": "array", "items": {t}}}"#));
    for (fields, message) in [
        (r#"{"name": "next", "type": ["null", "Row"]}"#.to_owned(), "recursive"),
        (r#"{"name": "x", "type": {"type": "array", "items": "null"}}"#.to_owned(), "take no bytes"),
        (doubling, "more types"),
        (format!(r#"{{"name": "x", "type": {deep}}}"#), "nested too deeply"),
    ] {
        let error = Normaliser::new(&record(fields)).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
    }
}

/// What is announced is allocated, so it must be there.
#[test]
fn lengths_and_counts_that_the_bytes_cannot_hold_are_refused() {
    let extra = |kind: &str| {
        let rest = r#"{"name": "vector", "type": {"type": "array", "items": "int"}},
            {"name": "metadata", "type": {"type": "map", "values": "int"}}"#;
        schema(&format!(r#"{{"name": "extra", "type": {kind}}}, {BASE}, {rest}"#))
    };
    let refused = |writer: &Avro, data: &[u8]| {
        let json = serde_json::to_string(writer).unwrap();
        let block = Block { rows: 1, data: Bytes::copy_from_slice(data) };
        let e = Normaliser::new(&json).unwrap().block(&block, 0).unwrap_err();
        assert_eq!(e.field(), Some("records[0]"), "{e}");
        e.to_string()
    };
    // 2^21 items or bytes.
    let many = [0x80, 0x80, 0x80, 0x02, 0];
    let array = r#"{"type": "array", "items": "int"}"#;
    assert!(refused(&extra(array), &many).contains("more items are announced than bytes are left"));
    let map = r#"{"type": "map", "values": "int"}"#;
    assert!(refused(&extra(map), &many).contains("more items are announced than bytes are left"));
    assert!(refused(&extra(r#""string""#), &many).contains("the data ends within this field"));
    // A thousand nulls for each byte.
    let nulls: Vec<String> = (0..1000).map(|i| format!(r#"{{"name": "n{i}", "type": "null"}}"#)).collect();
    let items = format!(
        r#"{{"type": "array", "items": {{"type": "record", "name": "Many", "fields": [{}, {{"name": "x", "type": "int"}}]}}}}"#,
        nulls.join(",")
    );
    let data = [&[0x80, 0x02][..], &[0; 200]].concat();
    assert!(refused(&extra(&items), &data).contains("makes much of few bytes"));
}
