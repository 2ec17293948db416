//! A file on this machine: opened, looked into, read to its end.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow::ipc::reader::{FileReader, StreamReader};
use esker_format::{Error, Kind, Result, Token};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::avro;
use super::detect::{Format, HEAD_BYTES};
use super::infer::{Inference, Overrides, infer};
use super::sample::{SAMPLE_ROWS, Sample};
use super::{columns, lines};
use crate::batch::{Batcher, Cut};

/// Rows that are decoded at once, at 8,192 dimensions some 64 MiB of floats.
const READ_ROWS: usize = 2_048;
/// Share of the memory that a batch of an Arrow file may take as it is read.
const IPC_SHARE: u64 = 2;
/// Bytes at each end of the file that go into its fingerprint.
const FINGERPRINT_BYTES: u64 = 1 << 20;

/// What a file holds.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Inspected {
    /// Its format.
    pub format: Format,
    /// What its columns are, and why.
    pub inference: Inference,
    /// Its size.
    pub bytes: u64,
    /// Its rows, where the format says so.
    pub rows: Option<u64>,
}

/// Looks at the beginning of a file. Reads from disk: call it where blocking is allowed.
///
/// # Errors
/// NotFound when there is no such file; Invalid, with a hint, when it cannot be imported as it is.
pub fn inspect(path: &Path, overrides: &Overrides) -> Result<Inspected> {
    inspect_within(path, overrides, u64::MAX)
}

/// As [`inspect`], refusing what cannot be imported with `memory` bytes: see [`Plan::with_memory`](super::Plan::with_memory).
///
/// # Errors
/// As [`inspect`].
pub fn inspect_within(path: &Path, overrides: &Overrides, memory: u64) -> Result<Inspected> {
    let (format, bytes) = format(path)?;
    let mut rows = None;
    let inference = match format {
        Format::Ndjson => infer(&Sample::of_lines(&lines::sample(BufReader::new(open(path)?))?), overrides)?,
        Format::Avro => inspect_avro(path, overrides)?,
        Format::Parquet | Format::ArrowFile | Format::ArrowStream => {
            let mut batches = Batches::open(path, format, &[], SAMPLE_ROWS, memory)?;
            rows = batches.rows;
            infer(&Sample::of_batch(&batches.first()?)?, overrides)?
        }
    };
    Ok(Inspected { format, inference, bytes, rows })
}

fn inspect_avro(path: &Path, overrides: &Overrides) -> Result<Inference> {
    let mut file = avro::File::open(BufReader::new(open(path)?))?;
    match file.normaliser() {
        Some(normaliser) => file.inspect(&normaliser, overrides),
        None => {
            let batch = file.next_batch()?.ok_or_else(empty)?;
            infer(&Sample::of_batch(&batch)?, overrides)
        }
    }
}

fn empty() -> Error {
    Error::invalid("file", "the file has no rows")
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|e| {
        let kind = if e.kind() == io::ErrorKind::NotFound { Kind::NotFound } else { Kind::Invalid };
        Error::new(kind, format!("cannot open {}: {e}", path.display())).with_source(e)
    })
}

/// An error of reading the file itself.
pub(crate) fn unreadable(e: io::Error, what: &str, number: u64) -> Error {
    Error::new(Kind::Invalid, format!("the file cannot be read at {what} {number}: {e}")).with_source(e)
}

/// Format and size.
fn format(path: &Path) -> Result<(Format, u64)> {
    let mut file = open(path)?;
    let wrong = |e: io::Error| {
        Error::new(Kind::Invalid, format!("cannot read {}: {e}", path.display())).with_source(e)
    };
    let size = file.metadata().map_err(wrong)?.len();
    let mut head = Vec::with_capacity(HEAD_BYTES);
    file.by_ref().take(HEAD_BYTES as u64).read_to_end(&mut head).map_err(wrong)?;
    let format = Format::detect(path, &head)?;
    // The reader of streams allocates what the first length says.
    let length = head.get(4..8).map_or(u32::MAX, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    if format == Format::ArrowStream && u64::from(length) > size {
        return Err(Error::invalid("file", format!("{} is a damaged {format}", path.display())));
    }
    Ok((format, size))
}

/// Identifies the file's content (by its size and both ends) under what is made of it: equal for a file that was
/// copied or renamed. It names the batches of an import, so that running it again skips what is there.
///
/// # Errors
/// Invalid when the file cannot be read.
pub(crate) fn fingerprint(path: &Path, made_of_it: &impl serde::Serialize) -> Result<Token> {
    let mut file = open(path)?;
    let mut read = || -> io::Result<Vec<u8>> {
        let size = file.metadata()?.len();
        let mut bytes = size.to_le_bytes().to_vec();
        file.by_ref().take(FINGERPRINT_BYTES).read_to_end(&mut bytes)?;
        file.seek(SeekFrom::Start(size.saturating_sub(FINGERPRINT_BYTES)))?;
        file.by_ref().take(FINGERPRINT_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let mut bytes = read().map_err(|e| unreadable(e, "byte", 0))?;
    serde_json::to_writer(&mut bytes, made_of_it)
        .map_err(|e| Error::internal("a fingerprint cannot be written as JSON").with_source(e))?;
    Ok(Token::of_key(&bytes))
}

/// Reads the whole file and encodes its rows, giving each cut to `emit`. `read` counts the bytes consumed.
///
/// # Errors
/// Invalid, naming `records[i]` in the field.
pub(crate) fn encode(
    path: &Path,
    format: Format,
    inference: &Inference,
    batcher: &mut Batcher,
    memory: u64,
    read: &Arc<AtomicU64>,
    emit: &mut dyn FnMut(Cut) -> Result<()>,
) -> Result<()> {
    let counted = |file| BufReader::with_capacity(1 << 18, Counted { file, read: read.clone() });
    match format {
        Format::Ndjson => lines::encode(counted(open(path)?), inference, batcher, emit)?,
        Format::Avro => {
            let mut file = avro::File::open(counted(open(path)?))?;
            match file.normaliser() {
                Some(normaliser) => file.encode(&normaliser, batcher, &|_| 0, emit)?,
                None => {
                    while let Some(batch) = file.next_batch()? {
                        columns::encode(&batch, inference, batcher, emit)?;
                    }
                }
            }
        }
        Format::Parquet | Format::ArrowFile | Format::ArrowStream => {
            let batches = Batches::open(path, format, &inference.skipped, READ_ROWS, memory)?;
            let (size, total) = (open(path)?.metadata().map_or(0, |m| m.len()), batches.rows);
            for batch in batches {
                let batch = batch?;
                // Converting it takes as much again.
                for first in (0..batch.num_rows()).step_by(READ_ROWS) {
                    let rows = batch.slice(first, READ_ROWS.min(batch.num_rows() - first));
                    columns::encode(&rows, inference, batcher, emit)?;
                }
                if let Some(total) = total.filter(|t| *t > 0) {
                    let share = batcher.next_row() as f64 / total as f64;
                    read.store((size as f64 * share) as u64, Ordering::Relaxed);
                }
            }
        }
    }
    batcher.cut()?.map_or(Ok(()), emit)
}

/// A file that counts what is read of it.
struct Counted {
    file: File,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(to)?;
        self.read.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// A file of which no more than `most` bytes are read at once. A batch of an Arrow file is one read, however large.
struct Bounded {
    file: File,
    most: u64,
}

/// Why [`Bounded`] refuses a read.
#[derive(Debug)]
struct TooLarge {
    bytes: usize,
    most: u64,
}

impl std::fmt::Display for TooLarge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "it has a batch of {} bytes, which is read whole, and {} are allowed",
            self.bytes, self.most
        )
    }
}

impl std::error::Error for TooLarge {}

impl Read for Bounded {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        match to.len() as u64 > self.most {
            true => Err(io::Error::other(TooLarge { bytes: to.len(), most: self.most })),
            false => self.file.read(to),
        }
    }
}

impl Seek for Bounded {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

/// The error of a read that was refused, if that is what it is.
fn too_large(e: &ArrowError) -> Option<Error> {
    let ArrowError::IoError(_, e) = e else { return None };
    let refused = e.get_ref()?.downcast_ref::<TooLarge>()?;
    Some(Error::invalid("file", refused.to_string()).with_hint(
        "allow more memory, or write the file with smaller batches, or as Parquet, which is read in pieces",
    ))
}

/// The batches of a columnar file.
struct Batches {
    inner: Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>>>,
    /// Rows of the file, where the format says so.
    rows: Option<u64>,
    format: Format,
}

impl Batches {
    fn open(path: &Path, format: Format, skipped: &[String], rows: usize, memory: u64) -> Result<Self> {
        let wrong = |e: &dyn std::fmt::Display| {
            Error::invalid("file", format!("{} cannot be read as {format}: {e}", path.display()))
        };
        let file = open(path)?;
        if format == Format::Parquet {
            let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| wrong(&e))?;
            let total = u64::try_from(builder.metadata().file_metadata().num_rows()).ok();
            let fields = builder.schema().fields().iter().enumerate();
            let roots = fields.filter(|(_, f)| !skipped.contains(f.name())).map(|(at, _)| at);
            let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
            let reader =
                builder.with_projection(mask).with_batch_size(rows).build().map_err(|e| wrong(&e))?;
            return Ok(Batches { inner: Box::new(reader), rows: total, format });
        }
        let most = (memory / IPC_SHARE).max(1 << 18);
        let file = BufReader::with_capacity(1 << 18, Bounded { file, most });
        let inner: Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>>> = match format {
            Format::ArrowFile => Box::new(FileReader::try_new(file, None).map_err(|e| wrong(&e))?),
            _ => Box::new(StreamReader::try_new(file, None).map_err(|e| wrong(&e))?),
        };
        Ok(Batches { inner, rows: None, format })
    }

    /// The first batch that has rows.
    fn first(&mut self) -> Result<RecordBatch> {
        self.find(|b| b.as_ref().map_or(true, |b| b.num_rows() > 0)).ok_or_else(empty)?
    }
}

impl Iterator for Batches {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let wrong = |e| {
            too_large(&e)
                .unwrap_or_else(|| Error::invalid("file", format!("the {} cannot be read: {e}", self.format)))
        };
        Some(self.inner.next()?.map_err(wrong))
    }
}
