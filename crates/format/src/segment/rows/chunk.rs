//! Decodes one column chunk without the file's footer, which the search path never reads: the pages describe
//! themselves, and the rest of what a Parquet reader wants to know about the chunk is fixed by this format.

use std::sync::Arc;

use arrow::array::{ArrayRef, new_empty_array};
use arrow::compute::concat;
use arrow::datatypes::{Field, FieldRef, Schema};
use bytes::Bytes;
use parquet::arrow::ArrowSchemaConverter;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::Result as ParquetResult;
use parquet::file::metadata::{ColumnChunkMetaData, FileMetaData, ParquetMetaData, RowGroupMetaData};

use crate::error::{Error, Result};

/// The values of a column other than the vectors in one row group of `rows` rows. `bytes` are the whole chunk, already
/// checked; `field` is the column in the segment's own `arrow_schema`.
pub fn decode_chunk(object: &str, field: &Field, rows: usize, bytes: Bytes) -> Result<ArrayRef> {
    let failed = |e: Box<dyn std::error::Error + Send + Sync>| {
        Error::corrupt(object, format!("column `{}` cannot be decoded", field.name())).with_source(e)
    };
    // parquet panics where levels and values of a page contradict each other.
    let read = std::panic::catch_unwind(|| read(field, rows, bytes));
    let out = match read {
        Ok(read) => read.map_err(|e| failed(e.into()))?,
        Err(_) => return Err(failed("its pages contradict themselves".into())),
    };
    if out.len() != rows {
        return Err(failed(format!("it has {} values, not {rows}", out.len()).into()));
    }
    Ok(out)
}

fn read(field: &Field, rows: usize, bytes: Bytes) -> ParquetResult<ArrayRef> {
    let mut parts = vec![new_empty_array(field.data_type())];
    for batch in reader(Arc::new(field.clone()), rows, bytes)? {
        parts.push(Arc::clone(batch?.column(0)));
    }
    let parts: Vec<_> = parts.iter().map(AsRef::as_ref).collect();
    Ok(concat(&parts)?)
}

type Reader = parquet::arrow::arrow_reader::ParquetRecordBatchReader;

/// A reader of a file that has one column and one row group, of which `bytes` are everything but the footer.
fn reader(field: FieldRef, rows: usize, bytes: Bytes) -> ParquetResult<Reader> {
    let schema = Arc::new(Schema::new(vec![field]));
    let parquet_schema = Arc::new(ArrowSchemaConverter::new().convert(&schema)?);
    let length = bytes.len() as i64;
    let chunk = ColumnChunkMetaData::builder(parquet_schema.column(0))
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_encodings(vec![Encoding::PLAIN, Encoding::RLE, Encoding::RLE_DICTIONARY])
        .set_num_values(rows as i64)
        .set_total_compressed_size(length)
        .set_total_uncompressed_size(length)
        .set_data_page_offset(0)
        .build()?;
    let group = RowGroupMetaData::builder(Arc::clone(&parquet_schema))
        .set_num_rows(rows as i64)
        .set_total_byte_size(length)
        .set_column_metadata(vec![chunk])
        .build()?;
    let file = FileMetaData::new(1, rows as i64, None, None, parquet_schema, None);
    let metadata = Arc::new(ParquetMetaData::new(file, vec![group]));
    let metadata = ArrowReaderMetadata::try_new(metadata, ArrowReaderOptions::new().with_schema(schema))?;
    ParquetRecordBatchReaderBuilder::new_with_metadata(bytes, metadata).with_batch_size(rows.max(1)).build()
}
