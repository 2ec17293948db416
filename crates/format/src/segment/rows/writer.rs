//! Writes `rows.parquet`: the stock Parquet writer for every column but the vectors, whose pages are spliced in.

mod append;

use std::io::Write;
use std::mem;
use std::sync::{Arc, Mutex};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::buffer::Buffer;
use arrow::datatypes::{Float16Type, Float32Type, SchemaRef};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{WriterProperties, WriterVersion};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::ColumnPath;

use super::page::prefix;
use super::splice::{Pages, Sink, Watch, watching};
use super::{ChunkRef, PAGE_ROWS, RowsAddress, RowsChecks, RowsLayout, VECTOR_COLUMN, row_group_rows};
use crate::error::{Error, Result};
use crate::schema::{Schema, Settings, VectorType, arrow_schema};

/// Writes rows in ordinal order. Holds the vectors of one row group by reference to the batches given, and the
/// other columns of one row group encoded.
pub struct RowsWriter<W: Write + Send> {
    file: SerializedFileWriter<Sink<W>>,
    factory: ArrowRowGroupWriterFactory,
    watch: Arc<Mutex<Watch>>,
    settings: Settings,
    schema: SchemaRef,
    group: Group,
    address: RowsAddress,
    checks: RowsChecks,
    witness: Vec<u32>,
    first_page: u32,
}

/// The row group being filled.
#[derive(Default)]
struct Group {
    rows: u32,
    /// One per column; none for the vectors.
    columns: Vec<Option<ArrowColumnWriter>>,
    /// Vectors as they lie in the batches, whole rows each.
    vectors: Vec<Buffer>,
}

impl<W: Write + Send> RowsWriter<W> {
    /// A writer of rows with `arrow_schema(settings, schema)` to `sink`.
    pub fn new(sink: W, settings: &Settings, schema: &Schema) -> Result<Self> {
        RowsWriter::from_page(sink, settings, schema, 0)
    }

    /// A writer of a row group that is appended to a longer file later, where its first page is number `first_page`.
    pub fn from_page(sink: W, settings: &Settings, schema: &Schema, first_page: u32) -> Result<Self> {
        settings.check()?;
        let arrow = arrow_schema(settings, schema);
        let watch = Arc::new(Mutex::new(Watch::default()));
        let sink = Sink { inner: sink, watch: Arc::clone(&watch) };
        let writer = ArrowWriter::try_new(sink, Arc::clone(&arrow), Some(properties())).map_err(failed)?;
        let (file, factory) = writer.into_serialized_writer().map_err(failed)?;
        let (stride, width) = (settings.stride() as u32, settings.vector_type.width() as u32);
        let address = RowsAddress {
            rows: 0,
            stride,
            row_group_rows: row_group_rows(stride),
            base: Vec::new(),
            page_header: prefix(PAGE_ROWS, settings.dimension, width).len() as u32,
            short_page_headers: Vec::new(),
            file_size: 0,
        };
        Ok(RowsWriter {
            file,
            factory,
            watch,
            settings: settings.clone(),
            schema: arrow,
            group: Group::default(),
            address,
            checks: RowsChecks::default(),
            witness: Vec::new(),
            first_page,
        })
    }

    /// Adds rows; batches may have any size.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.schema().fields() != self.schema.fields() {
            return Err(Error::internal("a batch of rows does not have the segment's schema"));
        }
        let mut at = 0;
        while at < batch.num_rows() {
            let room = (self.address.row_group_rows - self.group.rows) as usize;
            let take = room.min(batch.num_rows() - at);
            self.add(&batch.slice(at, take))?;
            at += take;
            if self.group.rows == self.address.row_group_rows {
                self.close_group()?;
            }
        }
        Ok(())
    }

    /// Writes the footer. The sink then holds the whole file, flushed to it but not further.
    pub fn finish(mut self) -> Result<RowsLayout> {
        if self.group.rows > 0 {
            self.close_group()?;
        }
        self.file.flush().map_err(|e| Error::internal("writing rows failed").with_source(e))?;
        let data_end = self.file.bytes_written() as u64;
        watching(&self.watch).keep_from = Some(data_end);
        self.file.finish().map_err(failed)?;
        self.address.file_size = self.file.bytes_written() as u64;
        let footer = Bytes::from(mem::take(&mut watching(&self.watch).kept));
        if data_end + footer.len() as u64 != self.address.file_size {
            return Err(Error::internal("the footer did not reach the sink whole"));
        }
        let RowsWriter { address, checks, witness, first_page, .. } = self;
        Ok(RowsLayout { address, checks, footer, witness, first_page })
    }

    /// Adds rows that fit the row group.
    fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        if self.group.columns.is_empty() {
            let writers = self.factory.create_column_writers(self.address.base.len()).map_err(failed)?;
            self.group.columns = writers.into_iter().map(Some).collect();
            self.group.columns[VECTOR_COLUMN] = None;
        }
        for (i, (writer, array)) in self.group.columns.iter_mut().zip(batch.columns()).enumerate() {
            let Some(writer) = writer else { continue };
            for leaf in compute_leaves(self.schema.field(i), array).map_err(failed)? {
                writer.write(&leaf).map_err(failed)?;
            }
        }
        self.group.vectors.push(vector_bytes(batch.column(VECTOR_COLUMN), &self.settings)?);
        self.group.rows += batch.num_rows() as u32;
        Ok(())
    }

    fn close_group(&mut self) -> Result<()> {
        let group = mem::take(&mut self.group);
        let number = u16::try_from(self.address.base.len())
            .map_err(|_| Error::internal("a segment has too many row groups"))?;
        self.address.rows += u64::from(group.rows);
        if self.address.rows > u64::from(u32::MAX) {
            return Err(Error::internal("a segment has more than 2^32 rows"));
        }
        let first = self.first_page + self.witness.len() as u32;
        let pages = Pages::new(first, group.rows, &group.vectors, &self.settings);
        self.checks.page_crcs.extend(&pages.crcs);
        self.witness.extend(&pages.witness);
        self.address.short_page_headers.push(pages.last_header);
        let descriptor = self.file.schema_descr().column(VECTOR_COLUMN);

        let mut at = self.file.bytes_written() as u64;
        let mut out = self.file.next_row_group().map_err(failed)?;
        for (column, writer) in group.columns.into_iter().enumerate() {
            let Some(writer) = writer else {
                self.address.base.push(at);
                at += pages.bytes.length;
                let close = pages.close(descriptor.clone()).map_err(failed)?;
                out.append_column(&pages.bytes, close).map_err(failed)?;
                continue;
            };
            let chunk = writer.close().map_err(failed)?;
            let length = chunk.close().metadata.compressed_size() as u64;
            watching(&self.watch).watched.push_back((at..at + length, 0));
            self.checks.chunks.push(ChunkRef {
                column: column as u16,
                group: number,
                offset: at,
                length,
                crc: 0,
            });
            at += length;
            chunk.append_to_row_group(&mut out).map_err(failed)?;
        }
        out.close().map_err(failed)?;
        self.take_crcs(at)
    }

    /// Fills in the checksums of the chunks just written.
    fn take_crcs(&mut self, end: u64) -> Result<()> {
        self.file.flush().map_err(|e| Error::internal("writing rows failed").with_source(e))?;
        let mut watch = watching(&self.watch);
        if watch.at != end {
            return Err(Error::internal("a column chunk is not as long as its writer said"));
        }
        let first = self.checks.chunks.len() - watch.watched.len();
        for (chunk, (_, crc)) in self.checks.chunks[first..].iter_mut().zip(watch.watched.drain(..)) {
            chunk.crc = crc;
        }
        Ok(())
    }
}

/// Settings of every column but the vectors, whose own follow from how their pages are written.
fn properties() -> WriterProperties {
    let level = ZstdLevel::try_new(3).unwrap_or_default();
    WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_created_by("esker version 1".to_owned())
        .set_key_value_metadata(Some(vec![KeyValue::new("esker.format".to_owned(), "1".to_owned())]))
        .set_compression(Compression::ZSTD(level))
        // Ids are unique: a dictionary would only store them a second way.
        .set_column_dictionary_enabled(ColumnPath::from("id"), false)
        .build()
}

/// The values of a vector column, one vector after the other. Shares the array's memory.
fn vector_bytes(array: &ArrayRef, settings: &Settings) -> Result<Buffer> {
    let list = array.as_fixed_size_list();
    let values = list.values();
    if list.null_count() > 0 || values.null_count() > 0 {
        return Err(Error::internal("a vector to be written is null"));
    }
    let bytes = match settings.vector_type {
        VectorType::F32 => values.as_primitive::<Float32Type>().values().inner().clone(),
        VectorType::F16 => values.as_primitive::<Float16Type>().values().inner().clone(),
    };
    if bytes.len() != list.len() * settings.stride() {
        return Err(Error::internal("a vector to be written has another size"));
    }
    Ok(bytes)
}

fn failed(e: ParquetError) -> Error {
    Error::internal("writing rows failed").with_source(e)
}
