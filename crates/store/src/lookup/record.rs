//! A found version as a whole record, for writes that keep most of it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{
    ArrowPrimitiveType, Float16Type, Float32Type, Float64Type, Int64Type, TimestampMillisecondType,
};
use bytes::Bytes;
use esker_format::record::{Record, Value};
use esker_format::schema::{ColumnType, Schema, TRAILING, VectorType};
use esker_format::segment::PAGE_ROWS;
use esker_format::segment::index::Section;
use esker_format::{Error, Result};

use super::{Found, Place, checked};
use crate::cache::Piece;
use crate::collection::Collection;
use crate::meter::Meter;
use crate::snapshot::Snapshot;

type Half = <Float16Type as ArrowPrimitiveType>::Native;

impl Found {
    /// The record without its vector. `schema` is the one of the snapshot that it was found in.
    ///
    /// # Errors
    /// `Internal` if it is not.
    pub fn record(&self, schema: &Schema) -> Result<Record> {
        let (id, metadata, [timestamp, created_at, updated_at]) = match &self.place {
            Place::Tail(decoded, row) => {
                let (rows, row) = (&decoded.rows, *row);
                let times = [time(rows, 0, row)?, time(rows, 1, row)?, time(rows, 2, row)?];
                (rows.column(0).as_string::<i32>().value(row), metadata(rows, row, schema)?, times)
            }
            Place::Segment { block, row, .. } => (block.id(*row), block.metadata(*row), block.times(*row)),
        };
        Ok(Record {
            id: id.to_owned(),
            metadata,
            timestamp,
            created_at,
            updated_at,
            expires_at: self.expires_at,
            version: self.version,
            ..Record::default()
        })
    }
}

impl Collection {
    /// The vectors of found records, in their order, as the collection stores them. Costs 2 waves for those in segments:
    /// checksums, then pages.
    ///
    /// # Errors
    /// `NotFound` if an object of the snapshot was collected.
    pub async fn vectors(
        &self,
        meter: &Meter,
        snapshot: &Snapshot,
        found: &[&Found],
    ) -> Result<Vec<Vec<f32>>> {
        let mut wanted: BTreeMap<usize, BTreeSet<u32>> = BTreeMap::new();
        for one in found {
            if let Place::Segment { segment, ordinal, .. } = &one.place {
                wanted.entry(*segment).or_default().insert(*ordinal);
            }
        }
        let reads = wanted.into_iter().map(|(segment, ordinals)| {
            let meter = meter.fork();
            async move {
                let vectors = self.segment_vectors(&meter, snapshot, segment, &ordinals).await?;
                Ok::<_, Error>(ordinals.into_iter().zip(vectors).map(move |(o, v)| ((segment, o), v)))
            }
        });
        let stored: BTreeMap<(usize, u32), Vec<f32>> =
            futures::future::try_join_all(reads).await?.into_iter().flatten().collect();
        let one = |found: &&Found| match &found.place {
            Place::Tail(decoded, row) => tail_vector(&decoded.rows, *row),
            Place::Segment { segment, ordinal, .. } => stored
                .get(&(*segment, *ordinal))
                .cloned()
                .ok_or_else(|| Error::internal("a vector was not read")),
        };
        found.iter().map(one).collect()
    }

    async fn segment_vectors(
        &self,
        meter: &Meter,
        snapshot: &Snapshot,
        number: usize,
        ordinals: &BTreeSet<u32>,
    ) -> Result<Vec<Vec<f32>>> {
        let segment =
            snapshot.manifest.segments.get(number).ok_or_else(|| Error::internal("no such segment"))?;
        let (index, rows) = (self.keys().index(segment.made), self.keys().rows(segment.made));
        let part = snapshot.parts.get(number).and_then(Option::as_ref);
        let header = self.open_header(meter, &index, segment, part).await?;
        let section = header.section(Section::Checks).unwrap_or(0..0);
        let checks = checked(self.client(), meter, &[Piece::of(index.as_str(), section)], |bytes| {
            let bytes = bytes.first().cloned().unwrap_or_default();
            header.check_section(Section::Checks, &bytes)?;
            header.checks(&bytes)
        })
        .await?;
        let pages: BTreeSet<u32> = ordinals.iter().map(|o| o / PAGE_ROWS).collect();
        let ranges: Vec<Range<u64>> = pages.iter().map(|p| header.rows().page_range(*p)).collect();
        let pieces: Vec<Piece> = ranges.iter().map(|r| Piece::of(rows.as_str(), r.clone())).collect();
        checked(self.client(), meter, &pieces, |read: &[Bytes]| {
            for (page, bytes) in pages.iter().zip(read) {
                checks.check_page(&rows, *page, bytes)?;
            }
            let one = |ordinal: &u32| {
                let range = header.rows().vector_range(*ordinal);
                let at = ranges.iter().position(|r| r.start <= range.start && range.end <= r.end);
                let bytes = at.and_then(|at| {
                    let start = ranges[at].start;
                    read[at].get((range.start - start) as usize..(range.end - start) as usize)
                });
                let bytes = bytes.ok_or_else(|| Error::corrupt(&rows, format!("it has no row {ordinal}")))?;
                Ok(floats(header.settings().vector_type, bytes))
            };
            ordinals.iter().map(one).collect()
        })
        .await
    }
}

fn floats(kind: VectorType, bytes: &[u8]) -> Vec<f32> {
    match kind {
        VectorType::F32 => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        VectorType::F16 => {
            bytes.as_chunks::<2>().0.iter().map(|b| Half::from_le_bytes(*b).to_f32()).collect()
        }
    }
}

fn tail_vector(rows: &RecordBatch, row: usize) -> Result<Vec<f32>> {
    let values = rows.column(1).as_fixed_size_list().value(row);
    if let Some(values) = values.as_primitive_opt::<Float32Type>() {
        return Ok(values.values().to_vec());
    }
    let halves = values.as_primitive_opt::<Float16Type>().ok_or_else(unfit)?;
    Ok(halves.values().iter().map(|v| v.to_f32()).collect())
}

/// One of the first three of the trailing columns.
fn time(rows: &RecordBatch, which: usize, row: usize) -> Result<i64> {
    let at = rows.num_columns().checked_sub(TRAILING.len()).ok_or_else(unfit)?;
    let times = rows.column(at + which).as_primitive_opt::<TimestampMillisecondType>().ok_or_else(unfit)?;
    Ok(times.value(row))
}

fn metadata(rows: &RecordBatch, row: usize, schema: &Schema) -> Result<BTreeMap<String, Value>> {
    if rows.num_columns() != 2 + schema.columns.len() + TRAILING.len() {
        return Err(unfit());
    }
    let columns = schema.columns.iter().zip(&rows.columns()[2..]).filter(|(_, values)| values.is_valid(row));
    let value = |kind: ColumnType, values: &dyn Array| {
        Some(match kind {
            ColumnType::Boolean => Value::Bool(values.as_boolean_opt()?.value(row)),
            ColumnType::Int => Value::Int(values.as_primitive_opt::<Int64Type>()?.value(row)),
            ColumnType::Float => Value::Float(values.as_primitive_opt::<Float64Type>()?.value(row)),
            ColumnType::String => Value::String(values.as_string_opt::<i32>()?.value(row).to_owned()),
            ColumnType::Strings => {
                let texts = values.as_list_opt::<i32>()?.value(row);
                let texts = texts.as_string_opt::<i32>()?;
                Value::Strings(texts.iter().flatten().map(str::to_owned).collect())
            }
        })
    };
    columns
        .map(|(column, values)| {
            Ok((column.name.clone(), value(column.kind, values.as_ref()).ok_or_else(unfit)?))
        })
        .collect()
}

fn unfit() -> Error {
    Error::internal("decoded rows do not fit their schema")
}
