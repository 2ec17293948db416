//! Rows that wait in scratch files until they are built, with a sample of their vectors in memory.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray, PrimitiveArray, RecordBatch, UInt32Array};
use arrow::buffer::Buffer;
use arrow::compute::take;
use arrow::datatypes::{ArrowPrimitiveType, DataType, Float16Type, Float32Type};
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::StreamWriter;
use esker_format::schema::Settings;
use esker_format::segment::rows::VECTOR_COLUMN;
use esker_format::{Error, Result};
use esker_index::SplitMix;

use super::order::floats;
use crate::parallel::{self, Task};
use crate::scratch::{Scratch, ScratchFile, broken};

/// Rows that are written, read and worked on at once take this share of the memory …
const BLOCK_SHARE: u64 = 32;
/// … and at least and at most this many bytes.
const BLOCK_BYTES: (u64, u64) = (1 << 20, 32 << 20);
/// Most rows of a block.
const BLOCK_ROWS: usize = 16_384;
/// The sample takes at most this share of the memory …
const SAMPLE_SHARE: u64 = 4;
/// … and has at least and at most this many rows.
const SAMPLE_ROWS: (u64, u64) = (1024, 1 << 17);

/// Files that rows are written to at once.
const FILES: usize = 2;

/// Rows of a block, of so many bytes each.
pub(super) fn block_rows(row_bytes: usize, memory: u64) -> usize {
    let bytes = (memory / BLOCK_SHARE).clamp(BLOCK_BYTES.0, BLOCK_BYTES.1) as usize;
    (bytes / row_bytes.max(1)).clamp(1, BLOCK_ROWS)
}

/// Bytes that rows take while they are built: their vectors as f32, and what the other columns hold.
pub(crate) fn bytes_of(batch: &RecordBatch) -> u64 {
    let (mut others, mut values) = (0, 0);
    for (number, column) in batch.columns().iter().enumerate() {
        match column.data_type() {
            DataType::FixedSizeList(_, d) if number == VECTOR_COLUMN => values = *d as u64,
            _ => {
                let held = column.to_data().get_slice_memory_size();
                others += held.unwrap_or_else(|_| column.get_array_memory_size()) as u64;
            }
        }
    }
    batch.num_rows() as u64 * 4 * values + others
}

/// A batch in a file.
struct Block {
    file: Arc<dyn ScratchFile>,
    at: u64,
    length: usize,
    rows: usize,
}

impl Block {
    fn read(&self) -> Result<RecordBatch> {
        let bytes = self.file.range(self.at, self.length).map_err(broken)?;
        from_bytes(Buffer::from(bytes), self.rows)
    }
}

/// A file that batches are written to, and the memory that they are put together in.
struct Out {
    file: Arc<dyn ScratchFile>,
    bytes: Vec<u8>,
}

impl Out {
    fn new(scratch: &dyn Scratch) -> Result<Out> {
        Ok(Out::to(scratch.file().map_err(broken)?))
    }

    fn to(file: Arc<dyn ScratchFile>) -> Out {
        Out { file, bytes: Vec::new() }
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<Block> {
        self.bytes.clear();
        write(batch, &mut self.bytes)?;
        let at = self.file.append(&self.bytes).map_err(broken)?;
        Ok(Block { file: Arc::clone(&self.file), at, length: self.bytes.len(), rows: batch.num_rows() })
    }
}

/// Batches in files.
#[derive(Default)]
pub(super) struct Blocks(Vec<Block>);

impl Blocks {
    /// The batches, one at a time.
    pub(super) fn read(&self) -> impl Iterator<Item = Result<RecordBatch>> + '_ {
        self.0.iter().map(Block::read)
    }

    /// All batches at once, for the last time: their space is given back.
    pub(super) fn into_all(self, threads: usize) -> Result<Vec<RecordBatch>> {
        let mut read: Vec<Option<Result<RecordBatch>>> = Vec::new();
        read.resize_with(self.0.len(), || None);
        let tasks = self.0.into_iter().zip(&mut read).map(|(block, read)| {
            let task = move || {
                *read = Some(block.read());
                block.file.discard(block.at, block.length as u64);
            };
            Box::new(task) as Task<'_>
        });
        parallel::run(threads, tasks.collect());
        read.into_iter().flatten().collect()
    }

    /// The batches, one at a time, each for the last time: what is written to its file next is written over it.
    fn into_batches(self) -> impl Iterator<Item = Result<RecordBatch>> {
        self.0.into_iter().map(|block| {
            let batch = block.read();
            block.file.reuse(block.at, block.length as u64);
            batch
        })
    }
}

/// Rows as they are kept aside.
pub(super) fn to_bytes(batch: &RecordBatch) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    write(batch, &mut bytes)?;
    Ok(bytes)
}

fn write(batch: &RecordBatch, out: &mut Vec<u8>) -> Result<()> {
    let write = || -> Result<(), ArrowError> {
        let mut writer = StreamWriter::try_new(out, &batch.schema())?;
        writer.write(batch)?;
        writer.finish()
    };
    write().map_err(|e| Error::internal("rows cannot be kept aside").with_source(e))
}

/// So many rows that were kept aside. The columns stay where they were read to.
pub(super) fn from_bytes(mut bytes: Buffer, rows: usize) -> Result<RecordBatch> {
    let wrong = |e: ArrowError| Error::internal("rows that were kept aside do not read back").with_source(e);
    let batch = StreamDecoder::new().decode(&mut bytes).map_err(wrong)?;
    let batch = batch.ok_or_else(|| Error::internal("rows that were kept aside are gone"))?;
    match batch.num_rows() == rows {
        true => Ok(batch),
        false => Err(Error::internal("other rows were kept aside than read back")),
    }
}

/// Most rows of a sample for training.
pub(super) fn sample_rows(settings: &Settings, memory: u64) -> u64 {
    let rows = memory / SAMPLE_SHARE / (4 * u64::from(settings.dimension.max(1)));
    rows.clamp(SAMPLE_ROWS.0, SAMPLE_ROWS.1)
}

/// Rows in the order of their numbers, and a sample of their vectors.
pub(crate) struct Spill {
    settings: Settings,
    memory: u64,
    threads: usize,
    files: [Out; FILES],
    blocks: Blocks,
    rows: u64,
    /// See [`bytes_of`].
    bytes: u64,
    sample: Vec<f32>,
    /// The row that each vector of the sample is of.
    sampled: Vec<u32>,
    sample_rows: u64,
    random: SplitMix,
}

impl Spill {
    /// No rows yet. The sample takes a quarter of `memory`.
    pub(crate) fn new(
        settings: &Settings,
        memory: u64,
        seed: u64,
        threads: usize,
        scratch: &dyn Scratch,
    ) -> Result<Self> {
        Ok(Spill {
            settings: settings.clone(),
            memory,
            threads,
            files: [Out::new(scratch)?, Out::new(scratch)?],
            blocks: Blocks::default(),
            rows: 0,
            bytes: 0,
            sample: Vec::new(),
            sampled: Vec::new(),
            sample_rows: sample_rows(settings, memory),
            random: SplitMix::new(seed),
        })
    }

    /// Adds rows. The sample depends on the order of all rows, not on how they are cut into batches.
    pub(crate) fn push(&mut self, batch: &RecordBatch) -> Result<()> {
        let bytes = bytes_of(batch);
        self.bytes += bytes;
        let step = block_rows((bytes / batch.num_rows().max(1) as u64) as usize, self.memory);
        for start in (0..batch.num_rows()).step_by(step) {
            let part = batch.slice(start, step.min(batch.num_rows() - start));
            self.draw(&floats(&part, &self.settings)?);
            self.write(&part)?;
        }
        Ok(())
    }

    /// Writes rows to all files at once: a new page costs a processor more than what is copied to it.
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let share = batch.num_rows().div_ceil(FILES).max(1);
        let shares = (0..batch.num_rows()).step_by(share);
        let shares = shares.map(|start| batch.slice(start, share.min(batch.num_rows() - start)));
        let mut written: Vec<Result<Block>> = Vec::new();
        written.resize_with(shares.len(), || Err(Error::internal("rows were not kept aside")));
        let tasks = shares.zip(&mut self.files).zip(&mut written);
        let tasks =
            tasks.map(|((rows, file), block)| Box::new(move || *block = file.write(&rows)) as Task<'_>);
        parallel::run(self.threads, tasks.collect());
        written.into_iter().try_for_each(|block| block.map(|block| self.blocks.0.push(block)))
    }

    /// Reservoir sampling.
    fn draw(&mut self, vectors: &[f32]) {
        let d = self.settings.dimension as usize;
        if self.sample.is_empty() {
            // Moved as it grows, it would be there twice.
            self.sample.reserve_exact(self.sample_rows as usize * d);
        }
        for row in vectors.chunks_exact(d) {
            let number = self.rows as u32;
            self.rows += 1;
            if self.rows <= self.sample_rows {
                self.sample.extend_from_slice(row);
                self.sampled.push(number);
                continue;
            }
            let slot = self.random.below(self.rows as usize);
            if (slot as u64) < self.sample_rows {
                self.sample[slot * d..][..d].copy_from_slice(row);
                self.sampled[slot] = number;
            }
        }
    }

    /// Number of rows.
    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// Bytes that a row takes while it is built, on average.
    pub(super) fn row_bytes(&self) -> u64 {
        (self.bytes / self.rows.max(1)).max(1)
    }

    /// The sample: n·d values, and the number of each row.
    pub(super) fn sample(&self) -> (&[f32], &[u32]) {
        (&self.sample, &self.sampled)
    }

    /// Takes the sample: n·d values.
    pub(super) fn take_sample(&mut self) -> Vec<f32> {
        std::mem::take(&mut self.sample)
    }

    /// The rows, a block at a time.
    pub(super) fn read(&self) -> impl Iterator<Item = Result<RecordBatch>> + '_ {
        self.blocks.read()
    }

    /// The rows, a block at a time, for the last time, and parts that are written over those that were read.
    pub(super) fn into_batches(self) -> (impl Iterator<Item = Result<RecordBatch>>, Parts) {
        let files = self.files.map(|out| Out::to(out.file));
        (self.blocks.into_batches(), Parts { files: files.into(), turn: 0, parts: Vec::new() })
    }
}

/// Rows in parts.
pub(super) struct Parts {
    /// Batches go to one after the other, as they come from those of a [`Spill`].
    files: Vec<Out>,
    turn: usize,
    parts: Vec<Blocks>,
}

impl Parts {
    /// Parts in a file of their own.
    pub(super) fn new(scratch: &dyn Scratch) -> Result<Self> {
        Ok(Parts { files: vec![Out::new(scratch)?], turn: 0, parts: Vec::new() })
    }

    /// Adds rows of which one says to which part each goes. `heard` hears what they take in each part.
    pub(super) fn push(
        &mut self,
        batch: &RecordBatch,
        part_of: &[u32],
        mut heard: impl FnMut(usize, u64),
    ) -> Result<()> {
        let most = part_of.iter().max().map_or(0, |part| *part as usize + 1);
        let mut rows: Vec<Vec<u32>> = vec![Vec::new(); most];
        for (row, part) in (0u32..).zip(part_of) {
            rows[*part as usize].push(row);
        }
        if self.parts.len() < most {
            self.parts.resize_with(most, Blocks::default);
        }
        let count = self.files.len();
        let file = &mut self.files[self.turn % count];
        self.turn += 1;
        let parts = rows.into_iter().zip(&mut self.parts).enumerate();
        for (part, (rows, out)) in parts.filter(|(_, (rows, _))| !rows.is_empty()) {
            let taken = gather(batch, &UInt32Array::from(rows));
            let taken = taken.map_err(|e| Error::internal("rows cannot be parted").with_source(e))?;
            heard(part, bytes_of(&taken));
            out.0.push(file.write(&taken)?);
        }
        Ok(())
    }

    /// The rows of each part.
    pub(super) fn finish(self) -> Vec<Blocks> {
        self.parts
    }
}

/// Some rows of a batch. Each vector is copied as a whole, where Arrow's own kernel takes value after value.
fn gather(batch: &RecordBatch, rows: &UInt32Array) -> Result<RecordBatch, ArrowError> {
    let column = |(number, column): (usize, &ArrayRef)| match column.data_type() {
        DataType::FixedSizeList(item, _) if number == VECTOR_COLUMN && column.null_count() == 0 => {
            match item.data_type() {
                DataType::Float32 => vectors::<Float32Type>(column.as_fixed_size_list(), rows),
                DataType::Float16 => vectors::<Float16Type>(column.as_fixed_size_list(), rows),
                _ => take(column, rows, None),
            }
        }
        _ => take(column, rows, None),
    };
    let columns = batch.columns().iter().enumerate().map(column).collect::<Result<_, _>>()?;
    RecordBatch::try_new(batch.schema(), columns)
}

fn vectors<T: ArrowPrimitiveType>(
    list: &FixedSizeListArray,
    rows: &UInt32Array,
) -> Result<ArrayRef, ArrowError> {
    let DataType::FixedSizeList(item, dimension) = list.data_type() else { return take(list, rows, None) };
    let (d, values) = (*dimension as usize, list.values().as_primitive::<T>().values());
    let mut out = Vec::with_capacity(rows.len() * d);
    rows.values().iter().for_each(|row| out.extend_from_slice(&values[*row as usize * d..][..d]));
    let values = PrimitiveArray::<T>::new(out.into(), None);
    Ok(Arc::new(FixedSizeListArray::try_new(Arc::clone(item), *dimension, Arc::new(values), None)?))
}
