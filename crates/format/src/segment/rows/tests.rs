use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{Float16Type, Float32Type};
use parquet::arrow::arrow_reader::{
    ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection, RowSelector,
};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataReader};

use super::*;
use crate::error::Kind;
use crate::schema::{Settings, VectorType};
use crate::segment::fixture::{rows, settings, write_rows};

/// Bytes of the vectors of a batch.
fn vectors(batch: &RecordBatch, settings: &Settings) -> Vec<u8> {
    let values = batch.column(VECTOR_COLUMN).as_fixed_size_list().values();
    match settings.vector_type {
        VectorType::F32 => values.as_primitive::<Float32Type>().values().inner().to_vec(),
        VectorType::F16 => values.as_primitive::<Float16Type>().values().inner().to_vec(),
    }
}

fn read_all(file: Bytes) -> RecordBatch {
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let schema = builder.schema().clone();
    let batches: Vec<RecordBatch> =
        builder.with_batch_size(1000).build().unwrap().map(Result::unwrap).collect();
    concat_batches(&schema, &batches).unwrap()
}

/// Equal columns; the file's schema has metadata that the batch's has not.
fn same(a: &RecordBatch, b: &RecordBatch) {
    assert_eq!(a.schema().fields(), b.schema().fields());
    for (i, field) in a.schema().fields().iter().enumerate() {
        assert!(a.column(i) == b.column(i), "column {}", field.name());
    }
}

fn check_file(n: usize, settings: &Settings, step: usize) {
    let batch = rows(n, settings, n as u64);
    let (file, layout) = write_rows(&batch, settings, step);
    let bytes = vectors(&batch, settings);
    for (i, want) in bytes.chunks(settings.stride()).enumerate() {
        let range = layout.vector_range(i as u32);
        assert_eq!(&file[range.start as usize..range.end as usize], want, "row {i} of {n}");
    }
    assert_eq!(layout.vector_range(n as u32), 0..0);
    assert_eq!(layout.page_range(layout.address.pages()), 0..0);
    verify_layout("r", &file, &layout).unwrap();
    for page in 0..layout.address.pages() {
        let range = layout.page_range(page);
        layout.checks.check_page("r", page, &file[range.start as usize..range.end as usize]).unwrap();
    }
    assert_eq!(layout.checks.page_crcs.len(), n.div_ceil(256));
    for chunk in &layout.checks.chunks {
        let range = chunk.range();
        let bytes = file.slice(range.start as usize..range.end as usize);
        chunk.check("r", &bytes).unwrap();
        let (group, column) = (layout.address.group_rows(chunk.group.into()), chunk.column.into());
        let decoded = decode_chunk("r", batch.schema().field(column), group.len(), bytes).unwrap();
        assert!(decoded == batch.column(column).slice(group.start as usize, group.len()), "column {column}");
    }
    assert_eq!(&file[file.len() - layout.footer.len()..], &layout.footer[..]);
    let read = read_all(file);
    same(&read, &batch);
}

#[test]
fn every_row_is_where_arithmetic_says_and_the_stock_reader_agrees() {
    for vector_type in [VectorType::F32, VectorType::F16] {
        for dimension in [1, 3, 384] {
            for n in [1, 255, 256, 257, 1000] {
                check_file(n, &settings(dimension, vector_type), 300);
            }
        }
    }
}

#[test]
fn row_groups_end_at_65536_rows() {
    for n in [65_535, 65_536, 65_537] {
        check_file(n, &settings(3, VectorType::F32), 7_000);
    }
    check_file(65_537, &settings(1, VectorType::F16), 70_000);
}

#[test]
fn wide_vectors_make_smaller_row_groups() {
    assert_eq!(row_group_rows(4), 65_536);
    assert_eq!(row_group_rows(128 * 4), 65_536);
    assert_eq!(row_group_rows(384 * 4), 21_760);
    assert_eq!(row_group_rows(768 * 4), 10_752);
    assert_eq!(row_group_rows(8192 * 4), 1_024);
}

#[test]
fn batches_of_any_size_make_the_same_file() {
    let settings = settings(3, VectorType::F32);
    let batch = rows(1000, &settings, 9);
    let (once, layout) = write_rows(&batch, &settings, 1000);
    for step in [1, 7, 256, 999] {
        let (file, other) = write_rows(&batch, &settings, step);
        assert_eq!(layout.address.base.len(), other.address.base.len());
        let vectors = |file: &Bytes, l: &RowsLayout| {
            let (from, to) = (l.page_range(0).start as usize, l.page_range(3).end as usize);
            file.slice(from..to)
        };
        assert_eq!(vectors(&once, &layout), vectors(&file, &other));
        same(&read_all(file), &batch);
    }
}

/// A file of zeros of any length.
struct Zeros;

impl parquet::file::reader::Length for Zeros {
    fn len(&self) -> u64 {
        u64::MAX
    }
}

impl ChunkReader for Zeros {
    type T = std::io::Repeat;

    fn get_read(&self, _: u64) -> parquet::errors::Result<Self::T> {
        Ok(std::io::repeat(0))
    }

    fn get_bytes(&self, _: u64, length: usize) -> parquet::errors::Result<Bytes> {
        Ok(vec![0; length].into())
    }
}

#[test]
fn row_groups_written_apart_join_to_the_same_file() {
    let schema = crate::segment::fixture::schema();
    for (n, vector_type) in [(2500, VectorType::F32), (2048, VectorType::F32), (2100, VectorType::F16)] {
        // 1,024 rows a row group of the first two, 2,048 of the last.
        let settings = settings(8192, vector_type);
        let batch = rows(n, &settings, 5);
        let in_group = row_group_rows(settings.stride() as u32) as usize;
        let mut whole = Vec::new();
        let mut once = RowsWriter::new(&mut whole, &settings, &schema).unwrap();
        let mut joined = Vec::new();
        let mut writer = RowsWriter::new(&mut joined, &settings, &schema).unwrap();
        let mut zeros = RowsWriter::new(std::io::sink(), &settings, &schema).unwrap();
        for first in (0..n).step_by(in_group) {
            let part = batch.slice(first, in_group.min(n - first));
            once.write(&part).unwrap();
            let mut file = Vec::new();
            let page = first as u32 / PAGE_ROWS;
            let mut piece = RowsWriter::from_page(&mut file, &settings, &schema, page).unwrap();
            piece.write(&part).unwrap();
            let layout = piece.finish().unwrap();
            verify_layout("piece", &Bytes::from(file.clone()), &layout).unwrap();
            assert_eq!(RowsLayout::decode("piece", &layout.encode()).unwrap(), layout);
            writer.append(&layout, &Bytes::from(file)).unwrap();
            zeros.append(&layout, &Zeros).unwrap();
        }
        let layout = once.finish().unwrap();
        assert!(writer.finish().unwrap() == layout);
        assert!(zeros.finish().unwrap() == layout);
        assert!(whole == joined, "{n} rows");
    }
}

#[test]
fn a_row_group_that_cannot_follow_is_refused() {
    let (settings, schema) = (settings(3, VectorType::F32), crate::segment::fixture::schema());
    let (file, layout) = write_rows(&rows(300, &settings, 2), &settings, 300);
    let mut writer = RowsWriter::new(Vec::new(), &settings, &schema).unwrap();
    writer.append(&layout, &file).unwrap();
    assert_eq!(writer.append(&layout, &file).unwrap_err().kind(), Kind::Internal);
    let bytes = layout.encode();
    for end in 0..bytes.len() {
        assert_eq!(RowsLayout::decode("l", &bytes[..end]).unwrap_err().kind(), Kind::Corrupt);
    }
}

#[test]
fn no_rows_make_a_readable_file() {
    let settings = settings(3, VectorType::F32);
    let (file, layout) = write_rows(&rows(0, &settings, 1), &settings, 1);
    verify_layout("r", &file, &layout).unwrap();
    assert_eq!(read_all(file).num_rows(), 0);
}

#[test]
fn the_footer_opens_the_file_and_its_offset_index_leads_to_the_pages() {
    let settings = settings(384, VectorType::F32);
    let batch = rows(1000, &settings, 2);
    let (file, layout) = write_rows(&batch, &settings, 1000);
    let mut reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Required);
    reader.try_parse_sized(&layout.footer, file.len() as u64).unwrap();
    let metadata = reader.finish().unwrap();
    let pages = metadata.offset_index().unwrap()[0][VECTOR_COLUMN].page_locations();
    for (page, at) in (0..).zip(pages) {
        let range = layout.page_range(page);
        let found = at.offset as u64..at.offset as u64 + at.compressed_page_size as u64;
        assert_eq!((found, at.first_row_index), (range, i64::from(page) * 256));
    }
    // Rows picked by the offset index.
    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required);
    let picked = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options)
        .unwrap()
        .with_row_selection(RowSelection::from(vec![RowSelector::skip(700), RowSelector::select(3)]))
        .build()
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    same(&picked, &batch.slice(700, 3));
}

#[test]
fn a_file_that_is_not_what_was_written_is_not_published() {
    let settings = settings(3, VectorType::F32);
    let (file, layout) = write_rows(&rows(600, &settings, 2), &settings, 600);
    for page in 0..3 {
        let mut bad = file.to_vec();
        let range = layout.page_range(page);
        // One row of the page is read back: a shift of all of them must show.
        bad[range.start as usize..range.end as usize].rotate_left(1);
        let error = verify_layout("r", &Bytes::from(bad), &layout).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
    }
    let error = verify_layout("r", &file.slice(1..), &layout).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("r is corrupt: it has {} bytes where {} were written", file.len() - 1, file.len())
    );
    let mut bad = file.to_vec();
    let at = bad.len() - 20;
    bad[at] ^= 1;
    assert!(verify_layout("r", &Bytes::from(bad), &layout).is_err());
}

#[test]
fn other_rows_are_refused() {
    let (a, b) = (settings(3, VectorType::F32), settings(4, VectorType::F32));
    let mut writer = RowsWriter::new(Vec::new(), &a, &crate::segment::fixture::schema()).unwrap();
    assert_eq!(writer.write(&rows(1, &b, 1)).unwrap_err().kind(), Kind::Internal);
}

#[test]
fn checks_survive_their_encoding() {
    let settings = settings(3, VectorType::F32);
    let (_, layout) = write_rows(&rows(600, &settings, 2), &settings, 600);
    assert_eq!(RowsChecks::decode("i", &layout.checks.encode()).unwrap(), layout.checks);
    assert!(layout.checks.chunk(0, 0).is_some() && layout.checks.chunk(VECTOR_COLUMN, 0).is_none());
}

#[test]
fn a_chunk_of_another_length_is_refused() {
    let settings = settings(3, VectorType::F32);
    let batch = rows(600, &settings, 2);
    let (file, layout) = write_rows(&batch, &settings, 600);
    let range = layout.checks.chunk(3, 0).unwrap().range();
    let bytes = file.slice(range.start as usize..range.end as usize);
    let schema = batch.schema();
    assert!(decode_chunk("r", schema.field(3), 600, bytes.clone()).is_ok());
    assert!(decode_chunk("r", schema.field(3), 601, bytes.clone()).is_err());
    assert!(decode_chunk("r", schema.field(3), 600, bytes.slice(..9)).is_err());
}
