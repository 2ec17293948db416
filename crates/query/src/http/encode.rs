//! Bodies of replies.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, UInt32Array};
use arrow::datatypes::{DataType, Field, Schema as ArrowSchema, SchemaRef};
use arrow::ipc::writer::StreamWriter;
use arrow::json::writer::{LineDelimited, WriterBuilder};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use axum::response::Response;
use esker_format::avro::container;
use esker_format::record::Record;
use esker_format::schema::Schema;
use esker_format::{Error, Result};
use esker_proto::rest::{self, Encoding};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;

use super::Cost;
use crate::service::batch_of;

/// What records may be encoded as.
pub(super) const RECORDS: [Encoding; 4] = [Encoding::Json, Encoding::Ndjson, Encoding::Avro, Encoding::Arrow];

/// One JSON document a line.
pub(super) fn lines<T: Serialize>(items: impl Iterator<Item = T>) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for item in items {
        serde_json::to_writer(&mut out, &item)
            .map_err(|e| Error::internal("a row cannot be written as JSON").with_source(e))?;
        out.push(b'\n');
    }
    Ok(out)
}

/// Records in an encoding other than JSON.
pub(super) fn records(
    encoding: Encoding,
    records: &[Record],
    schema: &Schema,
    include: Option<&[String]>,
) -> Result<Response> {
    let body = match encoding {
        Encoding::Arrow => {
            let batch = batch_of(records, schema, include)?;
            arrow(&batch.schema(), &[batch])?
        }
        Encoding::Avro => avro(records),
        _ => lines(records.iter())?,
    };
    Ok(rest::answer(encoding, body))
}

/// An Avro object container file.
fn avro(records: &[Record]) -> Vec<u8> {
    let mut block = Vec::new();
    records.iter().for_each(|r| r.encode_result(&mut block));
    match records.len() as u64 {
        0 => container::write(&Default::default(), &[]),
        n => container::write(&Default::default(), &[(n, &block)]),
    }
}

/// An Arrow IPC stream.
pub(super) fn arrow(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<Vec<u8>> {
    let mut writer = StreamWriter::try_new(Vec::new(), schema).map_err(wrong)?;
    batches.iter().try_for_each(|b| writer.write(b)).map_err(wrong)?;
    writer.into_inner().map_err(wrong)
}

/// Hits of several vectors as an Arrow stream, with the number of the vector in a column `query`.
pub(super) fn numbered(
    records: &[Record],
    schema: &Schema,
    include: Option<&[String]>,
    queries: Vec<u32>,
) -> Result<Response> {
    let batch = batch_of(records, schema, include)?;
    let mut fields: Vec<_> = batch.schema().fields().iter().cloned().collect();
    fields.insert(0, Arc::new(Field::new("query", DataType::UInt32, false)));
    let mut columns = batch.columns().to_vec();
    columns.insert(0, Arc::new(UInt32Array::from(queries)));
    let batch = RecordBatch::try_new(Arc::new(ArrowSchema::new(fields)), columns).map_err(wrong)?;
    Ok(rest::answer(Encoding::Arrow, arrow(&batch.schema(), &[batch])?))
}

fn wrong(e: arrow::error::ArrowError) -> Error {
    Error::internal("the rows cannot be written").with_source(e)
}

/// Rows of a query, written as they come.
pub(crate) enum Rows {
    /// Whether a row was written.
    Json(bool),
    Ndjson,
    /// Columns that are lists are texts; whether the line of names was written.
    Csv(SchemaRef, bool),
    Arrow(Box<StreamWriter<Vec<u8>>>),
}

impl Rows {
    pub fn new(encoding: Encoding, schema: &SchemaRef) -> Result<Self> {
        Ok(match encoding {
            Encoding::Arrow => {
                Rows::Arrow(Box::new(StreamWriter::try_new(Vec::new(), schema).map_err(wrong)?))
            }
            Encoding::Csv => Rows::Csv(schema.clone(), false),
            Encoding::Ndjson => Rows::Ndjson,
            _ => Rows::Json(false),
        })
    }

    /// The body. `end`: what the query cost, once it is over.
    pub fn stream(
        self,
        batches: BoxStream<'static, Result<RecordBatch>>,
        end: impl FnOnce() -> (Cost, f64) + Send + 'static,
    ) -> BoxStream<'static, Result<Vec<u8>>> {
        let state = Some((self, batches, end));
        let pieces = stream::try_unfold(state, |state| async move {
            let Some((mut writer, mut batches, end)) = state else { return Ok(None) };
            Ok::<_, Error>(match batches.try_next().await? {
                Some(batch) => Some((writer.write(&batch)?, Some((writer, batches, end)))),
                None => Some((writer.finish(end())?, None)),
            })
        });
        // An empty piece would end a chunked body.
        pieces.try_filter(|piece| std::future::ready(!piece.is_empty())).boxed()
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<Vec<u8>> {
        Ok(match self {
            Rows::Arrow(writer) => {
                writer.write(batch).map_err(wrong)?;
                std::mem::take(writer.get_mut())
            }
            Rows::Csv(_, begun) => csv(batch, !std::mem::replace(begun, true))?,
            Rows::Ndjson => json_lines(batch)?,
            Rows::Json(begun) => {
                let mut out = Vec::new();
                for line in json_lines(batch)?.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
                    out.extend_from_slice(if std::mem::replace(begun, true) { b"," } else { b"{\"rows\":[" });
                    out.extend_from_slice(line);
                }
                out
            }
        })
    }

    fn finish(self, (io, took_ms): (Cost, f64)) -> Result<Vec<u8>> {
        Ok(match self {
            Rows::Arrow(writer) => writer.into_inner().map_err(wrong)?,
            Rows::Csv(schema, false) => csv(&RecordBatch::new_empty(schema), true)?,
            Rows::Csv(_, true) | Rows::Ndjson => Vec::new(),
            Rows::Json(begun) => {
                let io =
                    serde_json::to_string(&io).map_err(|e| Error::internal("io as JSON").with_source(e))?;
                let start = if begun { "" } else { "{\"rows\":[" };
                format!("{start}],\"io\":{io},\"took_ms\":{took_ms}}}").into_bytes()
            }
        })
    }
}

fn json_lines(batch: &RecordBatch) -> Result<Vec<u8>> {
    let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(Vec::new());
    writer.write(batch).map_err(wrong)?;
    writer.finish().map_err(wrong)?;
    Ok(writer.into_inner())
}

/// Lines of comma-separated values; `header`: a line of names first. Lists are texts.
pub fn csv(batch: &RecordBatch, header: bool) -> Result<Vec<u8>> {
    let (mut fields, mut columns) = (Vec::new(), Vec::new());
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        let flat = match column.data_type().is_nested() {
            true => texts(column)?,
            false => column.clone(),
        };
        fields.push(Field::new(field.name(), flat.data_type().clone(), true));
        columns.push(flat);
    }
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let schema = Arc::new(ArrowSchema::new(fields));
    let flat = RecordBatch::try_new_with_options(schema, columns, &options).map_err(wrong)?;
    let mut writer = arrow::csv::WriterBuilder::new().with_header(header).build(Vec::new());
    writer.write(&flat).map_err(wrong)?;
    Ok(writer.into_inner())
}

/// `[0.5, 1]`.
fn texts(column: &ArrayRef) -> Result<ArrayRef> {
    let options = FormatOptions::default();
    let shown = ArrayFormatter::try_new(column, &options).map_err(wrong)?;
    let texts = (0..column.len()).map(|row| column.is_valid(row).then(|| shown.value(row).to_string()));
    Ok(Arc::new(texts.collect::<StringArray>()))
}
