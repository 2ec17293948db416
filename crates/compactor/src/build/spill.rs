//! Rows that wait in scratch files until they are built, with a sample of their vectors in memory.

use std::sync::Arc;

use arrow::array::{Array, RecordBatch, UInt32Array};
use arrow::buffer::Buffer;
use arrow::compute::take_record_batch;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::StreamWriter;
use esker_format::schema::Settings;
use esker_format::segment::rows::VECTOR_COLUMN;
use esker_format::{Error, Result};
use esker_index::SplitMix;

use super::order::floats;
use crate::scratch::{Scratch, ScratchFile, broken, range};

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
#[derive(Debug, Clone, Copy)]
struct Block {
    at: u64,
    length: usize,
    rows: usize,
}

/// Batches in a file.
pub(super) struct Blocks {
    file: Arc<dyn ScratchFile>,
    blocks: Vec<Block>,
}

impl Blocks {
    pub(super) fn new(scratch: &dyn Scratch) -> Result<Self> {
        Ok(Blocks { file: scratch.file().map_err(broken)?, blocks: Vec::new() })
    }

    /// An empty list of batches in the same file.
    pub(super) fn beside(&self) -> Self {
        Blocks { file: Arc::clone(&self.file), blocks: Vec::new() }
    }

    pub(super) fn push(&mut self, batch: &RecordBatch) -> Result<()> {
        let bytes = to_bytes(batch)?;
        let at = self.file.append(&bytes).map_err(broken)?;
        self.blocks.push(Block { at, length: bytes.len(), rows: batch.num_rows() });
        Ok(())
    }

    /// The batches, one at a time.
    pub(super) fn read(&self) -> impl Iterator<Item = Result<RecordBatch>> + '_ {
        self.blocks.iter().map(|block| self.batch(block))
    }

    /// The batches, one at a time, each for the last time: its space is given back.
    pub(super) fn into_batches(mut self) -> impl Iterator<Item = Result<RecordBatch>> {
        std::mem::take(&mut self.blocks).into_iter().map(move |block| {
            let batch = self.batch(&block);
            self.file.discard(block.at, block.length as u64);
            batch
        })
    }

    fn batch(&self, block: &Block) -> Result<RecordBatch> {
        let bytes = range(&*self.file, block.at, block.length).map_err(broken)?;
        from_bytes(Buffer::from(bytes), block.rows)
    }
}

/// Rows as they are kept aside.
pub(super) fn to_bytes(batch: &RecordBatch) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut write = || -> Result<(), ArrowError> {
        let mut writer = StreamWriter::try_new(&mut bytes, &batch.schema())?;
        writer.write(batch)?;
        writer.finish()
    };
    write().map_err(|e| Error::internal("rows cannot be kept aside").with_source(e))?;
    Ok(bytes)
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
    pub(crate) fn new(settings: &Settings, memory: u64, seed: u64, scratch: &dyn Scratch) -> Result<Self> {
        Ok(Spill {
            settings: settings.clone(),
            memory,
            blocks: Blocks::new(scratch)?,
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
            self.blocks.push(&part)?;
        }
        Ok(())
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

    /// The rows, a block at a time, for the last time: see [`Blocks::into_batches`].
    pub(super) fn into_batches(self) -> impl Iterator<Item = Result<RecordBatch>> {
        self.blocks.into_batches()
    }
}

/// Rows in parts, all in one file.
pub(super) struct Parts {
    file: Blocks,
    parts: Vec<Blocks>,
}

impl Parts {
    pub(super) fn new(scratch: &dyn Scratch) -> Result<Self> {
        Ok(Parts { file: Blocks::new(scratch)?, parts: Vec::new() })
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
        while self.parts.len() < most {
            self.parts.push(self.file.beside());
        }
        let parts = rows.into_iter().zip(&mut self.parts).enumerate();
        for (part, (rows, out)) in parts.filter(|(_, (rows, _))| !rows.is_empty()) {
            let taken = take_record_batch(batch, &UInt32Array::from(rows));
            let taken = taken.map_err(|e| Error::internal("rows cannot be parted").with_source(e))?;
            heard(part, bytes_of(&taken));
            out.push(&taken)?;
        }
        Ok(())
    }

    /// The rows of each part.
    pub(super) fn finish(self) -> Vec<Blocks> {
        self.parts
    }
}
