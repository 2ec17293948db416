//! Rows of several payload blocks as one record batch.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, Float64Builder, Int32Builder, Int64Builder, ListBuilder, RecordBatch,
    StringBuilder, TimestampMillisecondBuilder,
};
use arrow::datatypes::{DataType, Field, Schema as ArrowSchema, SchemaRef};

use super::read::{PayloadRows, ValueAt};
use crate::error::{Error, Result};
use crate::schema::{ColumnType, Metric, Schema, Settings, VectorType, arrow_schema};

/// The schema of a collection's rows without the vector.
pub fn payload_schema(schema: &Schema) -> SchemaRef {
    // The settings only decide about the vector.
    let settings = Settings { dimension: 1, metric: Metric::L2, vector_type: VectorType::F32 };
    let mut fields = arrow_schema(&settings, schema).fields().to_vec();
    fields.remove(1);
    Arc::new(ArrowSchema::new(fields))
}

/// Collects rows of blocks that were decoded with one schema.
pub struct PayloadBatch {
    schema: SchemaRef,
    id: StringBuilder,
    metadata: Vec<Builder>,
    times: [TimestampMillisecondBuilder; 4],
    version: Int64Builder,
    seq: Int64Builder,
    row: Int32Builder,
}

enum Builder {
    Boolean(BooleanBuilder),
    Int(Int64Builder),
    Float(Float64Builder),
    String(StringBuilder),
    Strings(ListBuilder<StringBuilder>),
}

impl PayloadBatch {
    /// An empty batch of rows with `schema`.
    pub fn new(schema: &Schema) -> Self {
        let time = || TimestampMillisecondBuilder::new().with_timezone("UTC");
        PayloadBatch {
            schema: payload_schema(schema),
            id: StringBuilder::new(),
            metadata: schema.columns.iter().map(|c| Builder::new(c.kind)).collect(),
            times: [time(), time(), time(), time()],
            version: Int64Builder::new(),
            seq: Int64Builder::new(),
            row: Int32Builder::new(),
        }
    }

    /// Appends row `i` of a block.
    pub fn push(&mut self, rows: &PayloadRows, i: usize) {
        self.id.append_value(rows.id(i));
        for (column, builder) in self.metadata.iter_mut().enumerate() {
            builder.push(rows.value(i, column));
        }
        for (builder, time) in self.times.iter_mut().zip(rows.times(i)) {
            builder.append_value(time);
        }
        self.times[3].append_option(rows.expires_at(i));
        self.version.append_value(rows.version(i));
        let (seq, row) = rows.seq_row(i);
        self.seq.append_value(seq);
        self.row.append_value(row);
    }

    /// The batch.
    pub fn finish(mut self) -> Result<RecordBatch> {
        let mut columns: Vec<ArrayRef> = vec![Arc::new(self.id.finish())];
        columns.extend(self.metadata.iter_mut().map(Builder::finish));
        columns.extend(self.times.iter_mut().map(|t| Arc::new(t.finish()) as ArrayRef));
        columns.push(Arc::new(self.version.finish()));
        columns.push(Arc::new(self.seq.finish()));
        columns.push(Arc::new(self.row.finish()));
        RecordBatch::try_new(self.schema, columns)
            .map_err(|e| Error::internal("payload rows are no batch").with_source(e))
    }
}

impl Builder {
    fn new(kind: ColumnType) -> Self {
        match kind {
            ColumnType::Boolean => Builder::Boolean(BooleanBuilder::new()),
            ColumnType::Int => Builder::Int(Int64Builder::new()),
            ColumnType::Float => Builder::Float(Float64Builder::new()),
            ColumnType::String => Builder::String(StringBuilder::new()),
            ColumnType::Strings => {
                let item = Field::new("item", DataType::Utf8, false);
                Builder::Strings(ListBuilder::new(StringBuilder::new()).with_field(item))
            }
        }
    }

    /// Appends a value of the column's type; anything else is null, and cannot be: decoding checks types.
    fn push(&mut self, value: Option<ValueAt<'_>>) {
        match (self, value) {
            (Builder::Boolean(b), Some(ValueAt::Bool(v))) => b.append_value(v),
            (Builder::Int(b), Some(ValueAt::Int(v))) => b.append_value(v),
            (Builder::Float(b), Some(ValueAt::Float(v))) => b.append_value(v),
            (Builder::String(b), Some(ValueAt::String(v))) => b.append_value(v),
            (Builder::Strings(b), Some(ValueAt::Strings(v))) => {
                v.iter().for_each(|s| b.values().append_value(s));
                b.append(true);
            }
            (Builder::Boolean(b), _) => b.append_null(),
            (Builder::Int(b), _) => b.append_null(),
            (Builder::Float(b), _) => b.append_null(),
            (Builder::String(b), _) => b.append_null(),
            (Builder::Strings(b), _) => b.append(false),
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Builder::Boolean(b) => Arc::new(b.finish()),
            Builder::Int(b) => Arc::new(b.finish()),
            Builder::Float(b) => Arc::new(b.finish()),
            Builder::String(b) => Arc::new(b.finish()),
            Builder::Strings(b) => Arc::new(b.finish()),
        }
    }
}
