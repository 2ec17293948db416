//! Blocks to Arrow: one pass, the vectors copied as they lie.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, FixedSizeListArray, Float16Array, Float32Array, Int32Array, Int64Array, RecordBatch,
    StringBuilder, TimestampMillisecondArray,
};
use arrow::datatypes::DataType;
use half::f16;
use half::slice::HalfFloatSliceExt;

use super::columns::{Columns, fits, too_long};
use super::cursor::Cursor;
use super::walk::{self, Fault, Fields, Item, Visit};
use crate::error::{Error, Kind, Result};
use crate::id::Seq;
use crate::record::Op;
use crate::schema::{Schema, Settings, VectorType, arrow_schema, vector_type};

/// What the container of a block knows about it.
#[derive(Debug, Clone, Copy)]
pub struct BlockContext {
    /// What the block's batch does.
    pub op: Op,
    /// When the batch arrived: fills in times that are 0.
    pub arrived_ms: i64,
    /// Seq of the entry.
    pub seq: Seq,
    /// Row of the block's first record within the entry, tombstones counted.
    pub first_row: u32,
    /// Records in the block.
    pub rows: u64,
}

/// A deleted id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tombstone {
    /// The record deleted.
    pub id: String,
    /// Seq of the delete's entry.
    pub seq: Seq,
    /// Its row within the entry.
    pub row: u32,
}

/// Decoded blocks.
#[derive(Debug, Clone)]
pub struct Decoded {
    /// Upserts in log order, of [`arrow_schema`].
    pub rows: RecordBatch,
    /// Deletes in log order.
    pub tombstones: Vec<Tombstone>,
}

/// Collects blocks of one collection, in log order.
#[derive(Debug)]
pub struct RowsBuilder {
    settings: Settings,
    schema: Schema,
    ids: StringBuilder,
    vectors: Vectors,
    metadata: Columns,
    timestamp: Vec<i64>,
    created_at: Vec<i64>,
    updated_at: Vec<i64>,
    expires_at: Vec<Option<i64>>,
    version: Vec<i64>,
    seq: Vec<i64>,
    row: Vec<i32>,
    tombstones: Vec<Tombstone>,
}

#[derive(Debug)]
enum Vectors {
    F32(Vec<f32>),
    F16(Vec<f16>),
}

impl RowsBuilder {
    /// A builder without rows.
    pub fn new(settings: &Settings, schema: &Schema) -> Self {
        RowsBuilder {
            settings: settings.clone(),
            schema: schema.clone(),
            ids: StringBuilder::new(),
            vectors: match settings.vector_type {
                VectorType::F32 => Vectors::F32(Vec::new()),
                VectorType::F16 => Vectors::F16(Vec::new()),
            },
            metadata: Columns::new(schema),
            timestamp: Vec::new(),
            created_at: Vec::new(),
            updated_at: Vec::new(),
            expires_at: Vec::new(),
            version: Vec::new(),
            seq: Vec::new(),
            row: Vec::new(),
            tombstones: Vec::new(),
        }
    }

    /// Rows so far, without tombstones.
    pub fn len(&self) -> usize {
        self.row.len()
    }

    /// Whether there are neither rows nor tombstones.
    pub fn is_empty(&self) -> bool {
        self.row.is_empty() && self.tombstones.is_empty()
    }

    /// Appends the records of one block. After an error the builder is of no more use.
    ///
    /// # Errors
    /// Corrupt when the bytes are not the announced records. Conflict with "the schema is stale" when a key was
    /// added or widened after the schema was read: read the manifest and start again.
    pub fn append_block(&mut self, block: &[u8], context: &BlockContext) -> Result<()> {
        let announced =
            i32::try_from(context.rows).ok().and_then(|n| n.checked_add_unsigned(context.first_row));
        if announced.is_none() || i64::try_from(context.seq).is_err() {
            return Err(Error::new(Kind::Corrupt, "more rows or entries than a log can have"));
        }
        self.reserve(block.len(), context);
        let mut cursor = Cursor::new(block);
        for i in 0..context.rows {
            let row = context.first_row + i as u32;
            self.append_record(&mut cursor, context, row)
                .map_err(|e| e.context(format_args!("records[{row}]")))?;
        }
        if !cursor.is_empty() {
            let message = format!("{} bytes follow the last of {} records", cursor.rest.len(), context.rows);
            return Err(Error::new(Kind::Corrupt, message));
        }
        Ok(())
    }

    /// The rows as one batch, and the tombstones.
    pub fn finish(self) -> Result<Decoded> {
        let internal = |e: arrow::error::ArrowError| {
            Error::internal("decoded rows do not fit their schema").with_source(e)
        };
        let rows = self.row.len();
        let mut ids = self.ids;
        let mut columns: Vec<ArrayRef> = vec![Arc::new(ids.finish()), vectors(self.vectors, &self.settings)?];
        columns.extend(self.metadata.finish(rows)?);
        for times in [self.timestamp, self.created_at, self.updated_at] {
            columns.push(Arc::new(TimestampMillisecondArray::from(times).with_timezone("UTC")));
        }
        columns.push(Arc::new(TimestampMillisecondArray::from(self.expires_at).with_timezone("UTC")));
        columns.push(Arc::new(Int64Array::from(self.version)));
        columns.push(Arc::new(Int64Array::from(self.seq)));
        columns.push(Arc::new(Int32Array::from(self.row)));
        let schema = arrow_schema(&self.settings, &self.schema);
        let rows = RecordBatch::try_new(schema, columns).map_err(internal)?;
        Ok(Decoded { rows, tombstones: self.tombstones })
    }

    /// Grows the fixed-size columns once per block, by no more than its bytes can hold.
    fn reserve(&mut self, bytes: usize, context: &BlockContext) {
        if context.op == Op::Delete {
            return;
        }
        let dimension = self.settings.dimension as usize;
        let rows = (bytes / (4 * dimension)).min(context.rows as usize);
        match &mut self.vectors {
            Vectors::F32(v) => v.reserve(rows * dimension),
            Vectors::F16(v) => v.reserve(rows * dimension),
        }
    }

    fn append_record(&mut self, cursor: &mut Cursor<'_>, context: &BlockContext, row: u32) -> Result<()> {
        self.metadata.next_row();
        let mut append = Append { builder: self, failed: None, elements: 0 };
        let parsed = walk::record(cursor, &mut append);
        let (failed, elements) = (append.failed, append.elements);
        let fields = match (failed, parsed) {
            (Some(e), _) => return Err(e),
            (None, Err(fault)) => {
                let text = fault.text();
                return Err(Error::new(Kind::Corrupt, format!("{}: {}", text.field, text.message)));
            }
            (None, Ok(fields)) => fields,
        };
        if context.op == Op::Upsert {
            return self.append_row(&fields, elements, context, row);
        }
        if elements > 0 {
            return Err(Error::new(Kind::Corrupt, "a delete has a vector"));
        }
        self.tombstones.push(Tombstone { id: fields.id.to_owned(), seq: context.seq, row });
        Ok(())
    }

    fn append_row(
        &mut self,
        fields: &Fields<'_>,
        elements: usize,
        context: &BlockContext,
        row: u32,
    ) -> Result<()> {
        if elements != self.settings.dimension as usize {
            let message =
                format!("vector: {elements} dimensions, the collection has {}", self.settings.dimension);
            return Err(Error::new(Kind::Corrupt, message));
        }
        if !fits(&self.ids, fields.id.len()) {
            return Err(too_long());
        }
        let or_arrival = |t: i64| if t == 0 { context.arrived_ms } else { t };
        self.ids.append_value(fields.id);
        self.timestamp.push(or_arrival(fields.timestamp));
        self.created_at.push(or_arrival(fields.created_at));
        self.updated_at.push(context.arrived_ms);
        self.expires_at.push(fields.expires_at);
        self.version.push(fields.version);
        self.seq.push(context.seq as i64);
        self.row.push(row as i32);
        Ok(())
    }
}

/// Copies the parts of one record into the builder.
struct Append<'b> {
    builder: &'b mut RowsBuilder,
    /// The error behind a fault that is not about the bytes alone.
    failed: Option<Error>,
    elements: usize,
}

impl<'a> Visit<'a> for Append<'_> {
    fn floats(&mut self, bytes: &'a [u8]) -> Result<(), Fault> {
        self.elements += bytes.len() / 4;
        if self.elements > self.builder.settings.dimension as usize {
            return Err(Fault::new("vector", "more dimensions than the collection has"));
        }
        let floats = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        match &mut self.builder.vectors {
            Vectors::F32(v) => v.extend(floats),
            Vectors::F16(v) => {
                let wide: Vec<f32> = floats.collect();
                let start = v.len();
                v.resize(start + wide.len(), f16::ZERO);
                v[start..].convert_from_f32_slice(&wide);
            }
        }
        Ok(())
    }

    fn entry(&mut self, key: &'a str, value: Item<'a>) -> Result<(), Fault> {
        let row = self.builder.row.len();
        self.builder.metadata.set(row, key, value).map_err(|e| {
            self.failed = Some(e);
            Fault::of_key(key, "")
        })
    }
}

fn vectors(vectors: Vectors, settings: &Settings) -> Result<ArrayRef> {
    let values: ArrayRef = match vectors {
        Vectors::F32(v) => Arc::new(Float32Array::from(v)),
        Vectors::F16(v) => Arc::new(Float16Array::from(v)),
    };
    let DataType::FixedSizeList(item, dimension) = vector_type(settings) else {
        return Err(Error::internal("the vector column is not a fixed-size list"));
    };
    let list = FixedSizeListArray::try_new(item, dimension, values, None)
        .map_err(|e| Error::internal("vectors do not fill their column").with_source(e))?;
    Ok(Arc::new(list))
}

#[cfg(test)]
mod tests;
