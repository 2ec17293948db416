//! Whole columns of a segment, decoded from `rows.parquet` chunk by chunk, each chunk checked.

use std::io::Read;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, FixedSizeListArray, RecordBatch, RecordBatchOptions};
use arrow::buffer::{Buffer, ScalarBuffer};
use arrow::compute::concat_batches;
use arrow::datatypes::DataType;
use bytes::{Buf, Bytes};
use esker_format::schema::{arrow_schema, vector_type};
use esker_format::segment::PAGE_ROWS;
use esker_format::segment::index::Section;
use esker_format::segment::rows::{RowsChecks, VECTOR_COLUMN};
use esker_format::{Error, Result};
use esker_store::{Client, Meter};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use super::Segment;
use crate::ranges::{Pieces, Shape, Thrift};

/// Requests for chunks of columns of a row group.
const CHUNKS: Thrift = Thrift { requests: 16, waste: 1 << 20 };

/// Checks the i-th of some chunks.
type Check<'a> = Box<dyn Fn(usize, &[u8]) -> Result<()> + Send + Sync + 'a>;

impl Segment {
    /// Number of row groups.
    pub fn row_groups(&self) -> usize {
        self.header.rows().base.len()
    }

    /// Checksums of pages and chunks.
    pub async fn read_checks(&self, client: &Client, meter: &Meter) -> Result<RowsChecks> {
        let range = self.header.section(Section::Checks).unwrap_or(0..0);
        let take = |pieces: &Pieces| self.header.checks(&pieces.bytes(&range)?);
        self.index.read(client, meter, std::slice::from_ref(&range), Shape::AsGiven, take).await
    }

    /// The rows of a row group in ordinal order with those of `names` that the segment has, in its own types. The
    /// vector is not among them. One wave if `names` are indexed columns, else two.
    pub async fn read_columns(
        &self,
        client: &Client,
        meter: &Meter,
        group: usize,
        names: &[&str],
    ) -> Result<RecordBatch> {
        let rows = self.header.rows().group_rows(group);
        let own = arrow_schema(self.header.settings(), self.header.schema());
        let positions: Vec<usize> =
            names.iter().filter_map(|n| own.index_of(n).ok()).filter(|p| *p != VECTOR_COLUMN).collect();
        if positions.is_empty() {
            let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
            let empty = RecordBatch::try_new_with_options(
                Arc::new(arrow::datatypes::Schema::empty()),
                vec![],
                &options,
            );
            return empty.map_err(|e| Error::internal("a batch without columns").with_source(e));
        }
        let (footer_meter, chunks_meter) = (meter.fork(), meter.fork());
        let (footer, chunks) = futures::try_join!(
            self.read_footer(client, &footer_meter),
            self.read_chunks(client, &chunks_meter, group, &positions)
        )?;
        let file_size = self.header.rows().file_size;
        let mut parts = chunks;
        parts.push((file_size - footer.len() as u64..file_size, footer));
        parts.sort_unstable_by_key(|(r, _)| r.start);
        decode(Sparse { length: file_size, pieces: Pieces::of(parts) }, group, &positions, rows.len())
            .map_err(|e| Error::corrupt(self.rows.key(), e.to_string()).with_source(e))
    }

    async fn read_footer(&self, client: &Client, meter: &Meter) -> Result<Bytes> {
        let range = self.header.section(Section::Footer).unwrap_or(0..0);
        let take = |pieces: &Pieces| {
            let bytes = pieces.bytes(&range)?;
            self.header.check_section(Section::Footer, &bytes)?;
            Ok(bytes)
        };
        self.index.read(client, meter, std::slice::from_ref(&range), Shape::AsGiven, take).await
    }

    /// Checked chunks of columns, by their position in the file.
    async fn read_chunks(
        &self,
        client: &Client,
        meter: &Meter,
        group: usize,
        positions: &[usize],
    ) -> Result<Vec<(Range<u64>, Bytes)>> {
        let own = arrow_schema(self.header.settings(), self.header.schema());
        // The attribute directory says where indexed columns lie; of others only the checks do.
        let known = positions.iter().map(|p| {
            let chunks = self.header.attributes().column(own.field(*p).name())?.chunks();
            chunks.get(group).cloned()
        });
        let (ranges, check): (Vec<Range<u64>>, Check<'_>) = match known.collect::<Option<Vec<_>>>() {
            Some(chunks) => {
                let ranges = chunks.iter().map(|c| c.range.clone()).collect();
                (ranges, Box::new(move |i, bytes| chunks[i].check(self.rows.key(), bytes)))
            }
            None => {
                let checks = self.read_checks(client, meter).await?;
                let find = |p: &usize| {
                    let chunk = checks.chunk(*p, group).copied();
                    chunk.ok_or_else(|| self.corrupt(format_args!("column {p} has no checksum")))
                };
                let chunks = positions.iter().map(find).collect::<Result<Vec<_>>>()?;
                let ranges = chunks.iter().map(|c| c.range()).collect();
                (ranges, Box::new(move |i, bytes| chunks[i].check(self.rows.key(), bytes)))
            }
        };
        let take = |pieces: &Pieces| {
            let mut out = Vec::with_capacity(ranges.len());
            for (i, range) in ranges.iter().enumerate() {
                let bytes = pieces.bytes(range)?;
                check(i, &bytes)?;
                out.push((range.clone(), bytes));
            }
            Ok(out)
        };
        self.rows.read(client, meter, &ranges, Shape::Few(CHUNKS), take).await
    }

    /// The vectors of a row group as an array of the stored type, every page checked.
    pub async fn read_vector_column(&self, client: &Client, meter: &Meter, group: usize) -> Result<ArrayRef> {
        let address = self.header.rows();
        let rows = address.group_rows(group);
        let checks = self.read_checks(client, meter).await?;
        let pages = rows.start / PAGE_ROWS..rows.end.div_ceil(PAGE_ROWS);
        let whole =
            address.page_range(pages.start).start..address.page_range(pages.end.saturating_sub(1)).end;
        let take = |pieces: &Pieces| {
            let mut out = Vec::with_capacity(rows.len() * address.stride as usize);
            for page in pages.clone() {
                let range = address.page_range(page);
                let bytes = pieces.bytes(&range)?;
                checks.check_page(self.rows.key(), page, &bytes)?;
                let first = address.vector_range(page * PAGE_ROWS).start;
                out.extend_from_slice(&bytes[(first - range.start) as usize..]);
            }
            Ok(out)
        };
        let bytes = self.rows.read(client, meter, std::slice::from_ref(&whole), Shape::AsGiven, take).await?;
        self.vector_array(bytes)
    }

    /// Stored vectors, one after the other, as an array.
    pub fn vector_array(&self, bytes: Vec<u8>) -> Result<ArrayRef> {
        vector_array(self.header.settings(), bytes)
    }
}

/// Vectors in their stored form, one after the other, as an array.
pub(crate) fn vector_array(settings: &esker_format::schema::Settings, bytes: Vec<u8>) -> Result<ArrayRef> {
    let values = bytes.len() / settings.vector_type.width();
    let item_type = match settings.vector_type {
        esker_format::schema::VectorType::F32 => DataType::Float32,
        esker_format::schema::VectorType::F16 => DataType::Float16,
    };
    let failed = |e| Error::internal("vectors do not fill their column").with_source(e);
    let items: ArrayRef = match item_type {
        DataType::Float32 => {
            let floats: Vec<f32> =
                bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            Arc::new(arrow::array::Float32Array::new(ScalarBuffer::from(floats), None))
        }
        _ => {
            let buffer = ScalarBuffer::new(Buffer::from_vec(halves(&bytes)), 0, values);
            Arc::new(arrow::array::Float16Array::new(buffer, None))
        }
    };
    let DataType::FixedSizeList(item, dimension) = vector_type(settings) else {
        return Err(Error::internal("the vector column is not a fixed-size list"));
    };
    Ok(Arc::new(FixedSizeListArray::try_new(item, dimension, items, None).map_err(failed)?))
}

fn halves(bytes: &[u8]) -> Vec<half::f16> {
    bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]])).collect()
}

fn decode(
    file: Sparse,
    group: usize,
    positions: &[usize],
    rows: usize,
) -> std::result::Result<RecordBatch, ParquetError> {
    let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new())?;
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata);
    let mask = ProjectionMask::roots(builder.parquet_schema(), positions.iter().copied());
    let reader =
        builder.with_projection(mask).with_row_groups(vec![group]).with_batch_size(rows.max(1)).build()?;
    let schema = arrow::array::RecordBatchReader::schema(&reader);
    let batches = reader.collect::<std::result::Result<Vec<_>, _>>()?;
    let batch = concat_batches(&schema, &batches)?;
    if batch.num_rows() != rows {
        return Err(ParquetError::General(format!(
            "row group {group} has {} rows, not {rows}",
            batch.num_rows()
        )));
    }
    Ok(batch)
}

/// A file of which only some parts are here.
#[derive(Clone)]
struct Sparse {
    length: u64,
    pieces: Pieces,
}

impl Length for Sparse {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for Sparse {
    type T = Box<dyn Read + Send>;

    fn get_read(&self, start: u64) -> std::result::Result<Self::T, ParquetError> {
        let at = self.pieces.runs().iter().find(|(r, _)| r.contains(&start));
        let Some((run, bytes)) = at else {
            return Err(ParquetError::General(format!("byte {start} was not read")));
        };
        Ok(Box::new(bytes.slice((start - run.start) as usize..).reader()))
    }

    fn get_bytes(&self, start: u64, length: usize) -> std::result::Result<Bytes, ParquetError> {
        let range = start..start.saturating_add(length as u64);
        self.pieces.bytes(&range).map_err(|_| ParquetError::General(format!("bytes {range:?} were not read")))
    }
}
