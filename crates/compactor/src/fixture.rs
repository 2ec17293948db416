//! Rows for tests, made the way they come: encoded as a client does, decoded as the log is.

use std::sync::Arc;

use esker_format::avro::{BlockContext, Decoded, RowsBuilder, encode_record, encode_tombstone};
use esker_format::record::{Op, RecordRef, ValueRef};
use esker_format::schema::{Column, ColumnType, Metric, Schema, Settings, VectorType};
use esker_format::{CollectionId, Name, Seq};
use esker_index::SplitMix;

/// When test batches arrive.
pub(crate) const NOW: i64 = 1_767_225_600_000;

pub(crate) fn collection() -> CollectionId {
    CollectionId::new(Name::new("books").unwrap(), 1)
}

pub(crate) fn settings(dimension: u32, metric: Metric, vector_type: VectorType) -> Settings {
    Settings { dimension, metric, vector_type }
}

/// Columns `text`, `tags` and `number`.
pub(crate) fn schema() -> Schema {
    let column = |name: &str, kind| Column { name: name.to_owned(), kind, wide: false };
    Schema {
        columns: vec![
            column("text", ColumnType::String),
            column("tags", ColumnType::Strings),
            column("number", ColumnType::Int),
        ],
    }
}

/// A write of a test.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Write {
    Upsert { id: String, vector: Vec<f32>, expires_at: Option<i64> },
    Delete { id: String },
}

/// An entry of the log with these writes, decoded.
pub(crate) fn entry(settings: &Settings, seq: Seq, writes: &[Write]) -> Arc<Decoded> {
    let mut rows = RowsBuilder::new(settings, &schema());
    for (row, write) in (0u32..).zip(writes) {
        let mut block = Vec::new();
        let op = put(&mut block, write);
        let context = BlockContext { op, arrived_ms: NOW, seq, first_row: row, rows: 1 };
        rows.append_block(&block, &context).unwrap();
    }
    Arc::new(rows.finish().unwrap())
}

/// Appends a write as a client encodes it. Every third row has no text, every second no tags.
pub(crate) fn put(block: &mut Vec<u8>, write: &Write) -> Op {
    match write {
        Write::Delete { id } => {
            encode_tombstone(block, id);
            Op::Delete
        }
        Write::Upsert { id, vector, expires_at } => {
            let number = id.bytes().map(i64::from).sum::<i64>();
            let (text, tags) = (format!("the text of {id}"), ["a".to_owned(), format!("tag {}", number % 7)]);
            let mut metadata = vec![("number", ValueRef::Int(number))];
            if number % 3 != 0 {
                metadata.push(("text", ValueRef::String(&text)));
            }
            if number % 2 != 0 {
                metadata.push(("tags", ValueRef::Strings(&tags)));
            }
            let record = RecordRef {
                id,
                vector,
                metadata: &metadata,
                expires_at: *expires_at,
                ..RecordRef::default()
            };
            encode_record(block, &record);
            Op::Upsert
        }
    }
}

/// `rows` vectors of `d` values around as many centres as their square root.
pub(crate) fn clustered(rows: usize, d: usize, seed: u64) -> Vec<Vec<f32>> {
    let mut random = SplitMix::new(seed);
    let mut normal = |scale: f32| -> Vec<f32> { (0..d).map(|_| scale * random.normal()).collect() };
    let centres: Vec<Vec<f32>> = (0..rows.isqrt().max(1)).map(|_| normal(1.0)).collect();
    (0..rows)
        .map(|row| {
            let centre = &centres[row % centres.len()];
            normal(0.5).iter().zip(centre).map(|(noise, c)| noise + c).collect()
        })
        .collect()
}

/// Upserts of `record-{n}` with these vectors.
pub(crate) fn upserts(vectors: Vec<Vec<f32>>) -> Vec<Write> {
    let upsert = |(n, vector)| Write::Upsert { id: format!("record-{n}"), vector, expires_at: None };
    vectors.into_iter().enumerate().map(upsert).collect()
}
