//! A small segment for tests: rows with every column type, codes that are random bytes.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, FixedSizeListArray, Float16Array, Float32Array, Float64Array, Int32Array,
    Int64Array, ListBuilder, RecordBatch, StringArray, StringBuilder, TimestampMillisecondArray,
};
use arrow::datatypes::{DataType, Field};
use bytes::Bytes;

use super::attributes::{Attributes, AttributesBuilder};
use super::index::{Calibration, Header, IndexParts, IndexSummary, IndexWriter, ORDINALS_BYTES, Spill};
use super::payload::{Payload, PayloadWriter};
use super::rows::{RowsLayout, RowsWriter};
use crate::schema::{Column, ColumnType, Metric, Schema, Settings, VectorType, arrow_schema};

/// SplitMix64: the same numbers for ever, as golden files need.
pub(crate) struct Numbers(pub u64);

impl Numbers {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

pub(crate) fn settings(dimension: u32, vector_type: VectorType) -> Settings {
    Settings { dimension, metric: Metric::Cosine, vector_type }
}

pub(crate) fn schema() -> Schema {
    use ColumnType::*;
    let column = |name: &str, kind| Column { name: name.to_owned(), kind, wide: false };
    Schema {
        columns: vec![
            column("flag", Boolean),
            column("year", Int),
            column("rating", Float),
            column("topic", String),
            column("tags", Strings),
            column("text", String),
        ],
    }
}

/// Rows in ordinal order with `arrow_schema(settings, schema())`.
pub(crate) fn rows(n: usize, settings: &Settings, seed: u64) -> RecordBatch {
    let mut r = Numbers(seed);
    let mut some = |n: usize, nulls: u64| -> Vec<Option<u64>> {
        (0..n).map(|_| Some(r.next()).filter(|v| v >> 32 & 15 >= nulls)).collect()
    };
    let elements = n * settings.dimension as usize;
    let floats: Vec<f32> =
        some(elements, 0).iter().flatten().map(|v| (v % 2001) as f32 / 1000.0 - 1.0).collect();
    let items: ArrayRef = match settings.vector_type {
        VectorType::F32 => Arc::new(Float32Array::from(floats)),
        VectorType::F16 => {
            Arc::new(Float16Array::from_iter_values(floats.iter().map(|f| half::f16::from_f32(*f))))
        }
    };
    let item = Field::new("item", items.data_type().clone(), false);
    let vectors = FixedSizeListArray::new(Arc::new(item), settings.dimension as i32, items, None);
    let mut tags =
        ListBuilder::new(StringBuilder::new()).with_field(Field::new("item", DataType::Utf8, false));
    for v in some(n, 2) {
        let Some(v) = v else {
            tags.append(false);
            continue;
        };
        (0..v % 4).for_each(|i| tags.values().append_value(format!("tag{}", (v >> 8 >> (8 * i)) % 40)));
        tags.append(true);
    }
    let year = some(n, 3).into_iter().map(|v| v.map(|v| 1900 + (v % 127) as i64));
    let rating = some(n, 1).into_iter().map(|v| v.map(|v| (v % 5003) as f64 / 1000.0 - 1.0));
    let topic = some(n, 4).into_iter().map(|v| v.map(|v| format!("topic {}", (v % 300) * (v % 7) % 211)));
    let text = some(n, 0)
        .into_iter()
        .map(|v| v.map(|v| format!("{v:064} is a text of more than some hundred bytes, {v:064}")));
    let time = |times: Vec<Option<i64>>| {
        Arc::new(TimestampMillisecondArray::from(times).with_timezone("UTC")) as ArrayRef
    };
    let stamp = 1_700_000_000_000;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values((0..n).map(|i| format!("id-{i}")))),
        Arc::new(vectors),
        Arc::new(some(n, 1).into_iter().map(|v| v.map(|v| v % 3 == 0)).collect::<BooleanArray>()),
        Arc::new(year.collect::<Int64Array>()),
        Arc::new(rating.collect::<Float64Array>()),
        Arc::new(topic.collect::<StringArray>()),
        Arc::new(tags.finish()),
        Arc::new(text.collect::<StringArray>()),
        time(some(n, 0).into_iter().map(|v| v.map(|v| stamp - (v % 1_000_000) as i64)).collect()),
        time(vec![Some(stamp); n]),
        time(vec![Some(stamp + 5); n]),
        time(some(n, 12).into_iter().map(|v| v.map(|v| stamp + (v % 9000) as i64)).collect()),
        Arc::new(Int64Array::from(vec![1; n])),
        Arc::new(Int64Array::from_iter_values((0..n).map(|i| 1 + i as i64 / 100))),
        Arc::new(Int32Array::from_iter_values((0..n).map(|i| i as i32 % 100))),
    ];
    RecordBatch::try_new(arrow_schema(settings, &schema()), columns).unwrap()
}

/// A rows file and what its writer says, from batches of `step` rows.
pub(crate) fn write_rows(batch: &RecordBatch, settings: &Settings, step: usize) -> (Bytes, RowsLayout) {
    let mut file = Vec::new();
    let mut writer = RowsWriter::new(&mut file, settings, &schema()).unwrap();
    for at in (0..batch.num_rows()).step_by(step) {
        writer.write(&batch.slice(at, step.min(batch.num_rows() - at))).unwrap();
    }
    let layout = writer.finish().unwrap();
    (file.into(), layout)
}

/// A whole segment.
pub(crate) struct Built {
    pub batch: RecordBatch,
    pub rows: Bytes,
    pub layout: RowsLayout,
    pub payload: Payload,
    pub attributes: Attributes,
    pub hashes: Vec<u64>,
    pub leaf_starts: Vec<u32>,
    pub postings: Option<(Vec<u32>, Vec<u32>)>,
    pub codes: Vec<u8>,
    pub index: Bytes,
    pub summary: IndexSummary,
}

pub(crate) const GROUP_BYTES: u32 = 320;

/// Builds a segment of `n` rows in leaves of uneven sizes, the third of them empty. With `spill`, each leaf has two copies
/// of the row 7 further on.
pub(crate) fn build(n: usize, spill: bool) -> Built {
    let settings = settings(8, VectorType::F32);
    let batch = rows(n, &settings, 3);
    let (file, layout) = write_rows(&batch, &settings, 100);
    let mut payload = PayloadWriter::new(&settings, &schema()).unwrap();
    payload.push_batch(&batch).unwrap();
    let payload = payload.finish().unwrap();
    let mut attributes = AttributesBuilder::new(&settings, &schema(), 11);
    attributes.push_batch(&batch).unwrap();
    let attributes = attributes.finish(&layout).unwrap();

    let mut r = Numbers(5);
    let hashes: Vec<u64> = (0..n).map(|_| r.next()).collect();
    let mut leaf_starts = vec![0, n.min(20) as u32, n.min(20) as u32];
    while leaf_starts[leaf_starts.len() - 1] < n as u32 {
        leaf_starts.push((leaf_starts[leaf_starts.len() - 1] + 30 + r.below(60) as u32).min(n as u32));
    }
    let postings = spill.then(|| {
        let starts = (0u32..).zip(&leaf_starts).map(|(l, s)| s + 2 * l).collect::<Vec<_>>();
        let copies = leaf_starts[..leaf_starts.len() - 1].iter().flat_map(|s| [(s + 7) % n as u32; 2]);
        (starts, copies.collect::<Vec<u32>>())
    });
    let mut idplane = hashes.clone();
    if let Some((_, copies)) = &postings {
        for (l, pair) in copies.chunks(2).enumerate().rev() {
            let end = leaf_starts[l + 1] as usize;
            idplane.splice(end..end, pair.iter().map(|o| hashes[*o as usize]));
        }
    }
    let groups = idplane.len().div_ceil(32);
    let group_bytes = GROUP_BYTES + if spill { ORDINALS_BYTES } else { 0 };
    let mut codes: Vec<u8> = (0..groups * group_bytes as usize).map(|_| r.next() as u8).collect();
    if let Some((starts, copies)) = &postings {
        for (l, pair) in copies.chunks(2).enumerate() {
            for (copy, ordinal) in pair.iter().enumerate() {
                let posting = starts[l + 1] as usize - 2 + copy;
                let at = posting / 32 * group_bytes as usize + (GROUP_BYTES as usize) + posting % 32 * 4;
                codes[at..at + 4].copy_from_slice(&ordinal.to_le_bytes());
            }
        }
    }
    let parts = IndexParts {
        settings: &settings,
        schema: &schema(),
        rows: &layout,
        seqs: (1, 1 + n as u64 / 100),
        code_bits: 64,
        rotation_seed: 42,
        scale: 0.125,
        basis: None,
        calibration: [0.9, 0.95, 0.98, 0.99].map(|min_recall| Calibration {
            min_recall,
            b: 0.1,
            delta: 0.2,
            rerank: 50,
        }),
        leaf_starts: &leaf_starts,
        centroid_bits: 8,
        centroids: &codes[..64.min(codes.len())],
        group_bytes,
        codes: &codes,
        idplane: &idplane,
        spill: postings.as_ref().map(|(starts, ordinals)| Spill { starts, ordinals }),
        payload: &payload,
        attributes: &attributes,
        payload_spool: None,
        attributes_spool: None,
    };
    let mut index = Vec::new();
    let summary = IndexWriter::new(parts).unwrap().write(&mut index).unwrap();
    Built {
        batch,
        rows: file,
        layout,
        payload,
        attributes,
        hashes,
        leaf_starts,
        postings,
        codes,
        index: index.into(),
        summary,
    }
}

impl Built {
    pub(crate) fn header(&self) -> Header {
        Header::parse("i", self.index.slice(..self.summary.header_len as usize)).unwrap()
    }

    pub(crate) fn read(&self, range: std::ops::Range<u64>) -> Bytes {
        self.index.slice(range.start as usize..range.end as usize)
    }
}
