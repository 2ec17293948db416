//! The oracle: every row of the collection, and what a search must find among them.

use std::collections::{BTreeMap, BTreeSet};

use esker_format::record::{Record, Value};
use esker_format::schema::{Metric, Settings, VectorType};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

pub const TEXTS: [&str; 7] = ["a", "b", "ab", "b'c", "", "ß", "Ab"];
pub const TAGS: [&str; 5] = ["red", "green", "blue", "", "a b"];

/// A row as it was written, its vector as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Row(pub Record);

/// All rows that were not deleted, expired ones included, and the columns seen so far.
#[derive(Debug, Clone, Default)]
pub struct Model {
    pub rows: BTreeMap<String, Row>,
    pub columns: BTreeSet<String>,
    /// `weight` starts with whole numbers and widens with the first other one.
    pub widened: bool,
}

impl Row {
    /// A column's value; nothing if it is missing.
    pub fn get(&self, column: &str) -> Option<Value> {
        match column {
            "id" => Some(Value::String(self.0.id.clone())),
            "_version" => Some(Value::Int(self.0.version)),
            key => self.0.metadata.get(key).filter(|v| **v != Value::Null).cloned(),
        }
    }

    pub fn expired(&self, now_ms: i64) -> bool {
        self.0.expires_at.is_some_and(|at| at < now_ms)
    }
}

impl Model {
    pub fn upsert(&mut self, records: &[Record], settings: &Settings) {
        for record in records {
            let mut record = record.clone();
            record.metadata.retain(|_, v| *v != Value::Null);
            self.columns.extend(record.metadata.keys().cloned());
            self.widened |= matches!(record.metadata.get("weight"), Some(Value::Float(_)));
            if settings.vector_type == VectorType::F16 {
                record.vector.iter_mut().for_each(|x| *x = half::f16::from_f32(*x).to_f32());
            }
            self.rows.insert(record.id.clone(), Row(record));
        }
    }

    pub fn delete(&mut self, ids: &[String]) {
        ids.iter().for_each(|id| drop(self.rows.remove(id)));
    }

    /// Rows that a read sees.
    pub fn live(&self, now_ms: i64) -> impl Iterator<Item = &Row> {
        self.rows.values().filter(move |r| !r.expired(now_ms))
    }

    /// Its metadata as a read answers it: no nulls, and floats in a column that widened.
    pub fn metadata(&self, row: &Row) -> BTreeMap<String, Value> {
        let shown = |key: &String, value: &Value| match value {
            Value::Int(v) if key == "weight" && self.widened => Value::Float(*v as f64),
            other => other.clone(),
        };
        row.0.metadata.iter().map(|(k, v)| (k.clone(), shown(k, v))).collect()
    }
}

/// The distance, and the size of the terms it is made of: what its rounding errors are relative to.
pub fn distance(metric: Metric, a: &[f32], b: &[f32]) -> (f64, f64) {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let lengths = dot(a, a).sqrt() * dot(b, b).sqrt();
    match metric {
        Metric::Cosine => (1.0 - dot(a, b) / lengths, 1.0),
        Metric::Dot => (-dot(a, b), lengths),
        Metric::L2 => {
            let squares = a.iter().zip(b).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2));
            (squares.sum::<f64>().sqrt(), dot(a, a).sqrt() + dot(b, b).sqrt())
        }
    }
}

/// From a coarse grid, so that some are equal and many equally far, or anywhere.
pub fn vector(rng: &mut StdRng, settings: &Settings) -> Vec<f32> {
    let coarse = rng.random_bool(0.4);
    let element = |rng: &mut StdRng| match coarse {
        true => rng.random_range(-2i32..=2) as f32,
        false => rng.random_range(-1.0f32..1.0),
    };
    let mut vector: Vec<f32> = (0..settings.dimension).map(|_| element(rng)).collect();
    if vector.iter().all(|x| x.abs() < 1e-3) {
        vector[0] = 1.0;
    }
    vector
}

/// A record with an id of `r0` to `r{ids}`; each key is there, null or missing.
pub fn record(rng: &mut StdRng, settings: &Settings, ids: usize, now_ms: i64) -> Record {
    let mut metadata = BTreeMap::new();
    let mut put = |rng: &mut StdRng, key: &str, value: Value| match rng.random_range(0..10) {
        0 => drop(metadata.insert(key.to_owned(), Value::Null)),
        1 | 2 => {}
        _ => drop(metadata.insert(key.to_owned(), value)),
    };
    let text = (*TEXTS.choose(rng).unwrap()).to_owned();
    put(rng, "section", Value::String(text));
    let number = rng.random_range(-3..9);
    put(rng, "number", Value::Int(number));
    let weight = match rng.random_range(0..200) {
        0 => Value::Float(-0.0),
        1..4 => Value::Float(f64::from(rng.random_range(-6..12)) / 2.0),
        _ => Value::Int(rng.random_range(-3..9)),
    };
    put(rng, "weight", weight);
    let flag = rng.random();
    put(rng, "flag", Value::Bool(flag));
    let tags = TAGS.iter().filter(|_| rng.random_bool(0.3)).map(|t| (*t).to_owned()).collect();
    put(rng, "tags", Value::Strings(tags));
    // Half a minute off the whole minutes that pass: the time that a test takes decides nothing.
    let expires_at = rng.random_bool(0.2).then(|| now_ms + rng.random_range(-2..20) * 60_000 + 30_000);
    Record {
        id: format!("r{}", rng.random_range(0..ids)),
        vector: vector(rng, settings),
        metadata,
        timestamp: rng.random_range(0..3) * 1000,
        created_at: rng.random_range(0..3) * 1000,
        expires_at,
        version: rng.random_range(-3..9),
        ..Record::default()
    }
}
