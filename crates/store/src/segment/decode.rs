//! Bytes of a rows file to columns. Everything was checked before it comes here.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, FixedSizeListArray, Float16Array, Float32Array, RecordBatch, new_null_array,
};
use arrow::buffer::{MutableBuffer, ScalarBuffer};
use arrow::compute::{cast, concat_batches, filter_record_batch};
use arrow::datatypes::{DataType, Schema as ArrowSchema, SchemaRef};
use bytes::{Buf, Bytes};
use esker_format::schema::{Schema, Settings, VectorType, arrow_schema};
use esker_format::segment::index::Header;
use esker_format::segment::rows::VECTOR_COLUMN;
use esker_format::{Error, Result};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::ParquetMetaDataReader;
use parquet::file::reader::{ChunkReader, Length};

/// Which columns of the file become which of the wanted.
pub(super) struct Plan {
    /// The wanted columns.
    schema: SchemaRef,
    /// For each its column in the file, if it has one.
    stored: Vec<Option<usize>>,
}

impl Plan {
    /// `columns` are positions in `arrow_schema(settings, wanted)`; `own` is the file's schema, which `wanted` extends.
    pub(super) fn new(settings: &Settings, own: &Schema, wanted: &Schema, columns: &[usize]) -> Result<Self> {
        let all = arrow_schema(settings, wanted);
        let schema = all
            .project(columns)
            .map_err(|e| Error::internal("a column is wanted that no row has").with_source(e))?;
        let metadata = VECTOR_COLUMN + 1..VECTOR_COLUMN + 1 + wanted.columns.len();
        let added = wanted.columns.len() - own.columns.len();
        let stored = columns.iter().map(|column| match *column {
            c if metadata.contains(&c) => (c - metadata.start < own.columns.len()).then_some(c),
            c if c >= metadata.end => Some(c - added),
            c => Some(c),
        });
        Ok(Plan { stored: stored.collect(), schema: Arc::new(schema) })
    }

    /// Columns of the file that are read.
    pub(super) fn stored(&self) -> impl Iterator<Item = usize> + '_ {
        self.stored.iter().copied().flatten()
    }
}

/// The file's metadata from its footer.
pub(super) fn metadata(key: &str, footer: &Bytes) -> Result<ArrowReaderMetadata> {
    let failed = |e| Error::corrupt(key, "its footer cannot be read").with_source(e);
    // … metadata, its length, "PAR1"
    let end = footer.len().saturating_sub(8);
    let length = footer[end..].iter().take(4).rev().fold(0usize, |n, b| n << 8 | usize::from(*b));
    let Some(thrift) = end.checked_sub(length).map(|start| &footer[start..end]) else {
        return Err(Error::corrupt(key, "its footer is longer than what was kept of it"));
    };
    let metadata = ParquetMetaDataReader::decode_metadata(thrift).map_err(failed)?;
    ArrowReaderMetadata::try_new(Arc::new(metadata), ArrowReaderOptions::new()).map_err(failed)
}

/// Vector pages of a row group.
pub(super) struct Vectors<'a> {
    pub(super) header: &'a Header,
    /// Whole pages, in order: which, and their bytes.
    pub(super) pieces: Vec<(Range<u32>, &'a Bytes)>,
}

/// The wanted columns of a row group. `chunks` are its other column chunks by their offset in the file.
pub(super) fn group(
    key: &str,
    metadata: &ArrowReaderMetadata,
    group: usize,
    plan: &Plan,
    chunks: Vec<(u64, Bytes)>,
    vectors: &Vectors<'_>,
) -> Result<RecordBatch> {
    let rows = vectors.header.rows().group_rows(group).len();
    let others: Vec<usize> = plan.stored().filter(|c| *c != VECTOR_COLUMN).collect();
    let read =
        if others.is_empty() { None } else { Some(parquet(key, metadata, group, rows, &others, chunks)?) };
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(plan.stored.len());
    for (stored, field) in plan.stored.iter().zip(plan.schema.fields()) {
        let column = match (stored, &read) {
            (Some(VECTOR_COLUMN), _) => vectors.column(field.data_type(), rows)?,
            (Some(c), Some((order, batch))) => {
                let at = order.iter().position(|o| o == c).unwrap_or_default();
                // Only a column of numbers that are exact as floats widens.
                cast(batch.column(at), field.data_type()).map_err(|e| unfit(key, e))?
            }
            _ => new_null_array(field.data_type(), rows),
        };
        columns.push(column);
    }
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(&plan.schema), columns, &options).map_err(|e| unfit(key, e))
}

/// Reads columns of a row group with the stock reader: the batch and which file columns it has, in its order.
fn parquet(
    key: &str,
    metadata: &ArrowReaderMetadata,
    group: usize,
    rows: usize,
    columns: &[usize],
    chunks: Vec<(u64, Bytes)>,
) -> Result<(Vec<usize>, RecordBatch)> {
    let failed =
        |e: ParquetError| Error::corrupt(key, format!("row group {group} cannot be read")).with_source(e);
    let mask = ProjectionMask::roots(metadata.parquet_schema(), columns.iter().copied());
    let reader =
        ParquetRecordBatchReaderBuilder::new_with_metadata(Chunks(Arc::new(chunks)), metadata.clone())
            .with_row_groups(vec![group])
            .with_projection(mask)
            .with_batch_size(rows.max(1))
            .build()
            .map_err(failed)?;
    let batches = reader.collect::<Result<Vec<_>, _>>().map_err(|e| unfit(key, e))?;
    let mut order = columns.to_vec();
    order.sort_unstable();
    order.dedup();
    let schema = batches.first().map_or_else(|| Arc::new(ArrowSchema::empty()), RecordBatch::schema);
    let batch = concat_batches(&schema, &batches).map_err(|e| unfit(key, e))?;
    if batch.num_rows() != rows || batch.num_columns() != order.len() {
        return Err(Error::corrupt(key, format!("row group {group} does not have {rows} rows")));
    }
    Ok((order, batch))
}

impl Vectors<'_> {
    /// The column of the group's vectors, copied once from the pages.
    fn column(&self, data_type: &DataType, rows: usize) -> Result<ArrayRef> {
        let (address, settings) = (self.header.rows(), self.header.settings());
        let mut values = MutableBuffer::with_capacity(rows * settings.stride());
        for (pages, bytes) in &self.pieces {
            let start = address.page_range(pages.start).start;
            for page in pages.clone() {
                let first = address.vector_range(page * esker_format::segment::PAGE_ROWS).start;
                let (from, to) = (first - start, address.page_range(page).end - start);
                values.extend_from_slice(bytes.get(from as usize..to as usize).unwrap_or_default());
            }
        }
        let count = rows * settings.dimension as usize;
        if values.len() != rows * settings.stride() {
            return Err(Error::corrupt(
                self.header.object(),
                "vector pages do not hold the rows they should",
            ));
        }
        let values: ArrayRef = match settings.vector_type {
            VectorType::F32 => Arc::new(Float32Array::new(ScalarBuffer::new(values.into(), 0, count), None)),
            VectorType::F16 => Arc::new(Float16Array::new(ScalarBuffer::new(values.into(), 0, count), None)),
        };
        let DataType::FixedSizeList(item, dimension) = data_type else {
            return Err(Error::internal("the vector column is not a fixed-size list"));
        };
        let list = FixedSizeListArray::try_new(Arc::clone(item), *dimension, values, None)
            .map_err(|e| unfit(self.header.object(), e))?;
        Ok(Arc::new(list))
    }
}

/// The rows with these ordinals of a batch whose first row is `first`.
pub(super) fn select(batch: RecordBatch, first: u32, ordinals: &[u32]) -> Result<RecordBatch> {
    if ordinals.len() == batch.num_rows() {
        return Ok(batch);
    }
    let mut keep = vec![false; batch.num_rows()];
    ordinals.iter().for_each(|ordinal| keep[(ordinal - first) as usize] = true);
    filter_record_batch(&batch, &BooleanArray::from(keep))
        .map_err(|e| Error::internal("rows cannot be filtered").with_source(e))
}

/// Column chunks as a file that has nothing else.
#[derive(Clone)]
struct Chunks(Arc<Vec<(u64, Bytes)>>);

impl Chunks {
    fn from(&self, start: u64) -> ParquetResult<Bytes> {
        let chunk = self.0.iter().find(|(at, bytes)| (*at..*at + bytes.len() as u64).contains(&start));
        let (at, bytes) = chunk.ok_or_else(|| ParquetError::EOF(format!("nothing was read at {start}")))?;
        Ok(bytes.slice((start - at) as usize..))
    }
}

impl Length for Chunks {
    fn len(&self) -> u64 {
        self.0.iter().map(|(at, bytes)| at + bytes.len() as u64).max().unwrap_or(0)
    }
}

impl ChunkReader for Chunks {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        Ok(self.from(start)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        let bytes = self.from(start)?;
        if bytes.len() < length {
            return Err(ParquetError::EOF(format!("{length} bytes at {start} were not read")));
        }
        Ok(bytes.slice(..length))
    }
}

fn unfit(key: &str, e: arrow::error::ArrowError) -> Error {
    Error::corrupt(key, "its columns are not those of its schema").with_source(e)
}
