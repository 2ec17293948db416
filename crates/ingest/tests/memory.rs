//! What an import reads at once does not depend on how the file is cut. In a process of its own, whose allocations are counted.

use std::alloc::System;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::ipc::writer::{FileWriter, StreamWriter};
use async_trait::async_trait;
use cap::Cap;
use esker_format::avro::Summary;
use esker_format::wal::PendingBatch;
use esker_format::{Kind, Result};
use esker_ingest::import::{Overrides, Plan, Report, inspect, inspect_within, run};
use esker_ingest::{Appended, BatchSink};
use esker_store::seams::SimulatedClock;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::data_type::{ByteArray, ByteArrayType, FloatType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

/// 51 MB of vectors in one row group.
const ROWS: usize = 200_000;
const D: usize = 64;
/// Rows written at once.
const PIECE: usize = 1000;
const MEMORY: u64 = 16 << 20;
/// A page of each column, 2,048 rows as they are converted, and batches on their way.
const MOST: usize = 8 << 20;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// Lets go of every batch.
struct Nowhere;

#[async_trait]
impl BatchSink for Nowhere {
    async fn append(&self, _: PendingBatch, _: &Summary) -> Result<Appended> {
        Ok(Appended { position: 1, duplicate: false })
    }

    async fn maybe_compact(&self) -> Result<bool> {
        Ok(false)
    }
}

/// One row group, written page by page: the writer of Arrow batches would hold it.
fn write(path: &Path) {
    let schema = "message m {
        required binary id (UTF8);
        required group vector (LIST) { repeated group list { required float element; } }
    }";
    let properties = WriterProperties::builder().set_dictionary_enabled(false).build();
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut file =
        SerializedFileWriter::new(File::create(path).unwrap(), schema, Arc::new(properties)).unwrap();
    let mut group = file.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    for first in (0..ROWS).step_by(PIECE) {
        let ids: Vec<ByteArray> =
            (first..first + PIECE).map(|i| format!("r{i}").into_bytes().into()).collect();
        column.typed::<ByteArrayType>().write_batch(&ids, None, None).unwrap();
    }
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let defined = vec![1; PIECE * D];
    let repeated: Vec<i16> = (0..PIECE * D).map(|i| i16::from(i % D > 0)).collect();
    for first in (0..ROWS).step_by(PIECE) {
        let value = |i: usize| ((((first * D + i) as u32).wrapping_mul(2_654_435_761) >> 8) + 1) as f32;
        let values: Vec<f32> = (0..PIECE * D).map(value).collect();
        column.typed::<FloatType>().write_batch(&values, Some(&defined), Some(&repeated)).unwrap();
    }
    column.close().unwrap();
    group.close().unwrap();
    file.close().unwrap();
}

fn import(path: &Path, memory: u64) -> Result<Report> {
    let inspected = inspect(path, &Overrides::default())?;
    let settings = inspected.inference.settings();
    let plan = Plan::new(path, inspected, "notes-1".parse().unwrap(), settings)?;
    let plan = plan.with_limits(4096, 1 << 20).with_memory(memory);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async { run(plan, &Nowhere, &SimulatedClock::new(1000), &|_| {}).await })
}

/// One test: the peak is that of the process.
#[test]
fn a_row_group_is_read_in_pieces_and_a_batch_that_cannot_be_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rows.parquet");
    write(&path);
    assert!(std::fs::metadata(&path).unwrap().len() > (ROWS * D * 4) as u64);
    let before = ALLOCATOR.allocated();
    let report = import(&path, MEMORY).unwrap();
    let grown = ALLOCATOR.max_allocated() - before;
    assert_eq!(report.rows, ROWS as u64);
    assert!(grown < MOST, "the peak grew by {} MiB from {} MiB", grown >> 20, before >> 20);
    refuses_large_batches(&path, directory.path());
}

fn refuses_large_batches(parquet: &Path, directory: &Path) {
    let rows = ParquetRecordBatchReaderBuilder::try_new(File::open(parquet).unwrap()).unwrap();
    // 2.6 MB of vectors.
    let batch = rows.with_batch_size(10_000).build().unwrap().next().unwrap().unwrap();
    let [file, stream] = ["rows.arrow", "rows.arrows"].map(|name| directory.join(name));
    let mut writer = FileWriter::try_new(File::create(&file).unwrap(), &batch.schema()).unwrap();
    writer.write(&batch).and_then(|()| writer.finish()).unwrap();
    let mut writer = StreamWriter::try_new(File::create(&stream).unwrap(), &batch.schema()).unwrap();
    writer.write(&batch).and_then(|()| writer.finish()).unwrap();
    for path in [file, stream] {
        assert_eq!(import(&path, 8 << 20).unwrap().rows, 10_000);
        let inspected = inspect_within(&path, &Overrides::default(), 2 << 20);
        for e in [import(&path, 2 << 20).unwrap_err(), inspected.unwrap_err()] {
            assert!(e.kind() == Kind::Invalid && e.to_string().contains("1048576 are allowed"), "{e}");
            assert!(e.hint().unwrap().contains("smaller batches"), "{e:?}");
        }
    }
}
