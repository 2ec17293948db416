//! Records for tests, and the same records as apache-avro's trees.

use std::collections::HashMap;

use apache_avro::Schema as Avro;
use apache_avro::types::Value as Tree;
use proptest::prelude::*;

use crate::CollectionId;
use crate::record::{Record, SCHEMA, TIMES_MS, Value};
use crate::schema::{Metric, Settings, VectorType};

pub fn collection() -> CollectionId {
    "docs-1".parse().unwrap()
}

pub fn settings(dimension: u32, metric: Metric, vector_type: VectorType) -> Settings {
    Settings { dimension, metric, vector_type }
}

pub fn l2(dimension: u32) -> Settings {
    settings(dimension, Metric::L2, VectorType::F32)
}

pub fn avro_schema() -> Avro {
    Avro::parse_str(SCHEMA).unwrap()
}

/// A record with some of everything.
pub fn record(id: &str, vector: &[f32]) -> Record {
    let metadata = [
        ("section", Value::String("python".into())),
        ("size", Value::Int(12)),
        ("ratio", Value::Float(0.5)),
        ("free", Value::Bool(true)),
        ("tags", Value::Strings(vec!["a".into(), "é".into()])),
        ("nothing", Value::Null),
    ];
    Record {
        id: id.into(),
        vector: vector.into(),
        metadata: metadata.into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
        timestamp: 1_700_000_000_000,
        expires_at: Some(1_800_000_000_000),
        version: 3,
        ..Record::default()
    }
}

pub fn block(records: &[Record]) -> Vec<u8> {
    let mut out = Vec::new();
    records.iter().for_each(|r| r.encode(&mut out));
    out
}

/// Records of `dimension` whose metadata keys `b i f s l` each keep one type; `f` mixes ints and floats.
pub fn records(dimension: usize) -> impl Strategy<Value = Vec<Record>> {
    let exact = -(1i64 << 53)..=1i64 << 53;
    let value = (
        proptest::option::of(any::<bool>().prop_map(Value::Bool)),
        proptest::option::of(exact.clone().prop_map(Value::Int)),
        proptest::option::of(prop_oneof![
            (-1e300..1e300).prop_map(Value::Float),
            exact.prop_map(Value::Int),
            Just(Value::Null)
        ]),
        proptest::option::of("[a-zé€]{0,6}".prop_map(Value::String)),
        proptest::option::of(proptest::collection::vec("[a-c]{0,3}", 0..3).prop_map(Value::Strings)),
    );
    let metadata = value.prop_map(|(b, i, f, s, l)| {
        let all = [("b", b), ("i", i), ("f", f), ("s", s), ("l", l)];
        all.into_iter().filter_map(|(k, v)| Some((k.to_owned(), v?))).collect()
    });
    let time = prop_oneof![Just(0), TIMES_MS];
    let record = (
        "[a-z0-9é]{1,20}",
        prop_oneof![Just(""), Just("docs"), Just("docs-1")],
        proptest::collection::vec(-1e6f32..1e6, dimension),
        metadata,
        (time.clone(), time.clone(), proptest::option::of(time), any::<i64>()),
    )
        .prop_map(
            |(id, collection_id, vector, metadata, (timestamp, created_at, expires_at, version))| Record {
                id,
                collection_id: collection_id.to_owned(),
                vector,
                metadata,
                timestamp,
                created_at,
                updated_at: 7,
                expires_at,
                version,
                ..Record::default()
            },
        );
    proptest::collection::vec(record, 1..12)
}

/// The tree that apache-avro has for a record.
pub fn tree(r: &Record) -> Tree {
    let union = |branch, value| Tree::Union(branch, Box::new(value));
    let value = |v: &Value| match v {
        Value::Null => union(0, Tree::Null),
        Value::Bool(v) => union(1, Tree::Boolean(*v)),
        Value::Int(v) => union(3, Tree::Long(*v)),
        Value::Float(v) => union(5, Tree::Double(*v)),
        Value::String(v) => union(6, Tree::String(v.clone())),
        Value::Strings(v) => union(7, Tree::Array(v.iter().cloned().map(Tree::String).collect())),
    };
    let null = || union(0, Tree::Null);
    let metadata: HashMap<_, _> = r.metadata.iter().map(|(k, v)| (k.clone(), value(v))).collect();
    let fields = [
        ("id", Tree::String(r.id.clone())),
        ("collection_id", Tree::String(r.collection_id.clone())),
        ("vector", Tree::Array(r.vector.iter().map(|v| Tree::Float(*v)).collect())),
        ("metadata", Tree::Map(metadata)),
        ("timestamp", Tree::Long(r.timestamp)),
        ("created_at", Tree::Long(r.created_at)),
        ("updated_at", Tree::Long(r.updated_at)),
        ("expires_at", r.expires_at.map_or_else(null, |v| union(1, Tree::Long(v)))),
        ("version", Tree::Long(r.version)),
        ("rank", r.rank.map_or_else(null, |v| union(1, Tree::Int(v)))),
        ("score", r.score.map_or_else(null, |v| union(1, Tree::Float(v)))),
        ("distance", r.distance.map_or_else(null, |v| union(1, Tree::Float(v)))),
    ];
    Tree::Record(fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
}
