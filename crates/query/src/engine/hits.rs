//! From places of rows to what a caller sees of them.

use std::collections::{BTreeMap, HashSet};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int64Type, TimestampMillisecondType};
use esker_format::record::{Record, Value};
use esker_format::schema::{ColumnType, Schema};
use esker_format::segment::payload::{PayloadRows, RowHead};
use esker_format::{Error, Result};

use super::load::Loaded;
use super::nearest::{Found, tail_row};
use super::see::View;
use crate::search::{Hit, TAIL};
use crate::tail::{TailRow, column};

/// Which parts of a row are wanted.
pub(crate) struct Include<'a> {
    columns: Option<HashSet<&'a str>>,
    pub vector: bool,
}

impl<'a> Include<'a> {
    pub fn new(columns: Option<&'a [String]>, vector: bool) -> Self {
        Include { columns: columns.map(|c| c.iter().map(String::as_str).collect()), vector }
    }

    /// Whether no metadata is wanted.
    pub fn is_bare(&self) -> bool {
        self.columns.as_ref().is_some_and(HashSet::is_empty)
    }

    fn has(&self, column: &str) -> bool {
        self.columns.as_ref().is_none_or(|c| c.contains(column))
    }
}

/// The rows of a search as hits, ranked.
pub(crate) fn hits(view: &View, loaded: &Loaded, found: &Found, include: &Include<'_>) -> Result<Vec<Hit>> {
    let metric = view.manifest.settings.metric;
    let mut hits = Vec::with_capacity(found.rows.len());
    for (rank, (distance, (segment, at))) in (1u32..).zip(&found.rows) {
        let record = match *segment {
            TAIL => tail_record(view, tail_row(*at), include)?,
            number => {
                let (part, (vectors, payload)) =
                    (&loaded.parts[number as usize], &found.read[number as usize]);
                let ordinal = *at as u32;
                let mut record = match part.segment.head(ordinal).filter(|_| include.is_bare()) {
                    Some(head) => head_record(&head),
                    None => {
                        let found = payload.row(ordinal);
                        let (rows, row) = found.ok_or_else(|| Error::internal("a hit without payload"))?;
                        payload_record(&view.schema, rows, row, include)
                    }
                };
                if include.vector {
                    let bytes = vectors.get(ordinal).or_else(|| part.segment.held_vector(ordinal));
                    let bytes = bytes.ok_or_else(|| Error::internal("a hit without vector"))?;
                    record.vector = part.segment.floats(bytes);
                }
                record
            }
        };
        hits.push(Hit {
            id: record.id,
            distance: *distance,
            score: metric.score(*distance),
            rank,
            metadata: record.metadata,
            vector: include.vector.then_some(record.vector),
            timestamp: record.timestamp,
            created_at: record.created_at,
            updated_at: record.updated_at,
            expires_at: record.expires_at,
            version: record.version,
        });
    }
    Ok(hits)
}

/// A row without its metadata and its vector.
fn head_record(head: &RowHead<'_>) -> Record {
    let [timestamp, created_at, updated_at] = head.times;
    Record {
        id: head.id.to_owned(),
        timestamp,
        created_at,
        updated_at,
        expires_at: head.expires_at,
        version: head.version,
        ..Record::default()
    }
}

/// A row of a payload block, without its vector.
pub(crate) fn payload_record(
    schema: &Schema,
    rows: &PayloadRows,
    row: usize,
    include: &Include<'_>,
) -> Record {
    let [timestamp, created_at, updated_at] = rows.times(row);
    let wanted = rows.values(row).filter(|(c, _)| include.has(&schema.columns[*c].name));
    Record {
        id: rows.id(row).to_owned(),
        metadata: wanted.map(|(c, value)| (schema.columns[c].name.clone(), value.to_value())).collect(),
        timestamp,
        created_at,
        updated_at,
        expires_at: rows.expires_at(row),
        version: rows.version(row),
        ..Record::default()
    }
}

/// A row of the tail, with its vector if that is wanted.
pub(crate) fn tail_record(view: &View, at: TailRow, include: &Include<'_>) -> Result<Record> {
    let (batch, row) = (view.tail.batch(at.0), at.1 as usize);
    let time = |name: &str| {
        let times = column(batch, name)?.as_primitive::<TimestampMillisecondType>();
        Ok::<_, Error>(times.is_valid(row).then(|| times.value(row)))
    };
    let mut metadata = BTreeMap::new();
    for c in view.schema.columns.iter().filter(|c| include.has(&c.name)) {
        if let Some(value) = value_at(batch, &c.name, c.kind, row) {
            metadata.insert(c.name.clone(), value);
        }
    }
    Ok(Record {
        id: column(batch, "id")?.as_string::<i32>().value(row).to_owned(),
        vector: if include.vector { view.tail.vector(at) } else { Vec::new() },
        metadata,
        timestamp: time("_timestamp")?.unwrap_or_default(),
        created_at: time("_created_at")?.unwrap_or_default(),
        updated_at: time("_updated_at")?.unwrap_or_default(),
        expires_at: time("_expires_at")?,
        version: column(batch, "_version")?.as_primitive::<Int64Type>().value(row),
        ..Record::default()
    })
}

/// A metadata value of a decoded row; nothing if it is null.
pub(crate) fn value_at(batch: &RecordBatch, name: &str, kind: ColumnType, row: usize) -> Option<Value> {
    let column = batch.column_by_name(name)?;
    if column.is_null(row) {
        return None;
    }
    Some(match kind {
        ColumnType::Boolean => Value::Bool(column.as_boolean().value(row)),
        ColumnType::Int => Value::Int(column.as_primitive::<Int64Type>().value(row)),
        ColumnType::Float => Value::Float(column.as_primitive::<Float64Type>().value(row)),
        ColumnType::String => Value::String(column.as_string::<i32>().value(row).to_owned()),
        ColumnType::Strings => {
            let list = column.as_list::<i32>().value(row);
            let texts = list.as_string::<i32>();
            Value::Strings((0..texts.len()).map(|i| texts.value(i).to_owned()).collect())
        }
    })
}
