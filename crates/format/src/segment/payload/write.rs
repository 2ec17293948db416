//! Writes payload blocks from record batches.

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int32Array, Int64Array, ListArray, PrimitiveArray,
    RecordBatch, StringArray,
};
use arrow::datatypes::{Float64Type, Int32Type, Int64Type, TimestampMillisecondType};
use zstd::bulk::Compressor;

use super::{FALSE, FLOAT, INT, Payload, STRING, STRINGS, TRUE};
use crate::error::{Error, Result};
use crate::schema::{ColumnType, Schema, Settings, TRAILING, arrow_schema};
use crate::segment::BLOCK_ROWS;
use crate::segment::wire::Put;

/// Compression level of the blocks: 4 % smaller than level 3 on package descriptions, and 9 gains nothing more.
const LEVEL: i32 = 6;

/// Builds a segment's payload from rows in ordinal order.
pub struct PayloadWriter {
    arrow: arrow::datatypes::SchemaRef,
    schema: Schema,
    compressor: Compressor<'static>,
    payload: Payload,
    /// Blocks before the first of these.
    before: u32,
    /// The block being filled: its rows, and how many.
    block: Vec<u8>,
    rows: u32,
}

impl PayloadWriter {
    /// A writer of rows with `arrow_schema(settings, schema)`.
    pub fn new(settings: &Settings, schema: &Schema) -> Result<Self> {
        let failed = |e| Error::internal("zstd could not be set up").with_source(e);
        let mut compressor = Compressor::new(LEVEL).map_err(failed)?;
        compressor.include_checksum(true).map_err(failed)?;
        Ok(PayloadWriter {
            arrow: arrow_schema(settings, schema),
            schema: schema.clone(),
            compressor,
            payload: Payload::default(),
            before: 0,
            block: Vec::new(),
            rows: 0,
        })
    }

    /// A writer of the rows from the ordinal `first` on, which starts a block: blocks of a longer payload.
    pub fn from_row(settings: &Settings, schema: &Schema, first: u32) -> Result<Self> {
        if !first.is_multiple_of(BLOCK_ROWS) {
            return Err(Error::internal(format!("row {first} starts no payload block")));
        }
        Ok(PayloadWriter { before: first / BLOCK_ROWS, ..PayloadWriter::new(settings, schema)? })
    }

    /// Adds rows; batches may have any size.
    pub fn push_batch(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.schema().fields() != self.arrow.fields() {
            return Err(Error::internal("a batch of rows does not have the segment's schema"));
        }
        let columns = Columns::new(batch, &self.schema);
        for row in 0..batch.num_rows() {
            columns.put(row, &mut self.block);
            self.rows += 1;
            if self.rows == BLOCK_ROWS {
                self.close_block()?;
            }
        }
        Ok(())
    }

    /// Takes the blocks made so far, for who keeps them elsewhere: they follow one another.
    pub fn take_blocks(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.payload.blocks)
    }

    /// The blocks that were not taken, and the sizes of all.
    pub fn finish(mut self) -> Result<Payload> {
        if self.rows > 0 {
            self.close_block()?;
        }
        Ok(self.payload)
    }

    fn close_block(&mut self) -> Result<()> {
        let mut raw = Vec::with_capacity(self.block.len() + 5);
        raw.put_u32((self.before + self.payload.sizes.len() as u32) * BLOCK_ROWS);
        raw.put_varint(u64::from(self.rows));
        raw.put(&self.block);
        let failed = |e| Error::internal("a payload block cannot be compressed").with_source(e);
        let frame = self.compressor.compress(&raw).map_err(failed)?;
        let size =
            u32::try_from(frame.len()).map_err(|_| Error::internal("a payload block exceeds 4 GiB"))?;
        self.payload.blocks.put(&frame);
        self.payload.sizes.push(size);
        self.block.clear();
        self.rows = 0;
        Ok(())
    }
}

/// A batch's columns by their types.
struct Columns<'a> {
    id: &'a StringArray,
    metadata: Vec<Metadata<'a>>,
    times: [&'a PrimitiveArray<TimestampMillisecondType>; 4],
    version: &'a Int64Array,
    seq: &'a Int64Array,
    row: &'a Int32Array,
}

enum Metadata<'a> {
    Boolean(&'a BooleanArray),
    Int(&'a Int64Array),
    Float(&'a Float64Array),
    String(&'a StringArray),
    Strings(&'a ListArray),
}

impl<'a> Columns<'a> {
    /// The batch has the schema's types: checked by the caller.
    fn new(batch: &'a RecordBatch, schema: &Schema) -> Self {
        let metadata = schema.columns.iter().zip(&batch.columns()[2..]);
        let trailing = &batch.columns()[batch.num_columns() - TRAILING.len()..];
        let time = |i: usize| trailing[i].as_primitive::<TimestampMillisecondType>();
        Columns {
            id: batch.column(0).as_string(),
            metadata: metadata.map(|(c, array)| Metadata::new(c.kind, array)).collect(),
            times: [time(0), time(1), time(2), time(3)],
            version: trailing[4].as_primitive::<Int64Type>(),
            seq: trailing[5].as_primitive::<Int64Type>(),
            row: trailing[6].as_primitive::<Int32Type>(),
        }
    }

    fn put(&self, i: usize, out: &mut Vec<u8>) {
        out.put_bytes(self.id.value(i).as_bytes());
        let [timestamp, created, updated] = [0, 1, 2].map(|t| self.times[t].value(i));
        out.put_signed(timestamp);
        out.put_signed(created.wrapping_sub(timestamp));
        out.put_signed(updated.wrapping_sub(created));
        if self.times[3].is_null(i) {
            out.put(&[0]);
        } else {
            out.put(&[1]);
            out.put_signed(self.times[3].value(i).wrapping_sub(updated));
        }
        out.put_signed(self.version.value(i));
        out.put_signed(self.seq.value(i));
        out.put_signed(i64::from(self.row.value(i)));
        let values = || self.metadata.iter().enumerate().filter(|(_, m)| !m.is_null(i));
        out.put_varint(values().count() as u64);
        for (column, value) in values() {
            out.put_varint(column as u64);
            value.put(i, out);
        }
    }
}

impl<'a> Metadata<'a> {
    fn new(kind: ColumnType, array: &'a ArrayRef) -> Self {
        match kind {
            ColumnType::Boolean => Metadata::Boolean(array.as_boolean()),
            ColumnType::Int => Metadata::Int(array.as_primitive::<Int64Type>()),
            ColumnType::Float => Metadata::Float(array.as_primitive::<Float64Type>()),
            ColumnType::String => Metadata::String(array.as_string()),
            ColumnType::Strings => Metadata::Strings(array.as_list()),
        }
    }

    fn is_null(&self, i: usize) -> bool {
        match self {
            Metadata::Boolean(a) => a.is_null(i),
            Metadata::Int(a) => a.is_null(i),
            Metadata::Float(a) => a.is_null(i),
            Metadata::String(a) => a.is_null(i),
            Metadata::Strings(a) => a.is_null(i),
        }
    }

    fn put(&self, i: usize, out: &mut Vec<u8>) {
        match self {
            Metadata::Boolean(a) => out.put(&[if a.value(i) { TRUE } else { FALSE }]),
            Metadata::Int(a) => {
                out.put(&[INT]);
                out.put_signed(a.value(i));
            }
            Metadata::Float(a) => {
                out.put(&[FLOAT]);
                out.put(&a.value(i).to_le_bytes());
            }
            Metadata::String(a) => {
                out.put(&[STRING]);
                out.put_bytes(a.value(i).as_bytes());
            }
            Metadata::Strings(a) => {
                let items = a.value(i);
                let items = items.as_string::<i32>();
                out.put(&[STRINGS]);
                out.put_varint(items.len() as u64);
                (0..items.len()).for_each(|j| out.put_bytes(items.value(j).as_bytes()));
            }
        }
    }
}
