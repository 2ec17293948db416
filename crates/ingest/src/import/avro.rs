//! Avro object container files, a block at a time. Files whose schema resolves to the record of WIRE §1 are taken as
//! records, byte for byte where possible; of any other schema the fields are columns, read through arrow-avro.

use std::io::{BufRead, Cursor, Read};

use arrow::array::RecordBatch;
use arrow_avro::reader::ReaderBuilder;
use bytes::Bytes;
use esker_format::avro::container::{self, Block, Codec, MAGIC};
use esker_format::avro::foreign::{self, Normaliser};
use esker_format::avro::{Rules, validate};
use esker_format::record::{Op, Record};
use esker_format::schema::{Column, Metric, Schema, Settings, VectorType};
use esker_format::{CollectionId, Error, Name, Result};

use super::infer::{Inference, Overrides, infer_records};
use super::sample::{SAMPLE_ROWS, is_unit};
use crate::batch::{Batcher, Cut};
use spans::spans;

pub(crate) mod spans;

/// Largest header, and largest block as it is in the file and uncompressed.
const PART_BYTES: usize = 64 << 20;
/// Bytes of blocks that are decoded at once as columns.
const COLUMN_BYTES: usize = 4 << 20;

/// A file whose header has been read.
pub(crate) struct File<R> {
    reader: R,
    header: Bytes,
    schema_json: String,
    codec: Codec,
}

impl<R: BufRead> File<R> {
    /// Reads the header.
    pub(crate) fn open(mut reader: R) -> Result<Self> {
        let header = Bytes::from(header(&mut reader)?);
        let container = container::read(&header)?;
        foreign::check_schema(&container.schema_json)?;
        Ok(File { reader, header, schema_json: container.schema_json, codec: container.codec })
    }

    /// Brings blocks into our schema, if the writer schema is that of records.
    pub(crate) fn normaliser(&self) -> Option<Normaliser> {
        Normaliser::new(&self.schema_json).ok()
    }

    /// The next block, uncompressed.
    fn next(&mut self) -> Result<Option<Block>> {
        if self.reader.fill_buf().map_err(|e| super::file::unreadable(e, "block", 0))?.is_empty() {
            return Ok(None);
        }
        let mut part = Part { reader: &mut self.reader, bytes: Vec::new() };
        let rows = part.length("a block has a negative number of records")?;
        let size = part.length("a block has a negative size")?;
        let start = part.bytes.len();
        part.take(size)?;
        let end = part.bytes.len();
        part.take(16)?;
        let bytes = Bytes::from(part.bytes);
        if bytes[end..] != self.header[self.header.len() - 16..] {
            return Err(damaged("a block is not followed by the file's sync marker"));
        }
        let data = self.codec.decompress(&Block { rows: 0, data: bytes.slice(start..end) }, PART_BYTES)?;
        Ok(Some(Block { rows: rows as u64, data }))
    }

    /// The rows of the next blocks as columns.
    pub(crate) fn next_batch(&mut self) -> Result<Option<RecordBatch>> {
        let mut file = MAGIC.to_vec();
        put_long(&mut file, 2);
        for (key, value) in
            [(container::SCHEMA_KEY, self.schema_json.as_str()), (container::CODEC_KEY, "null")]
        {
            put_bytes(&mut file, key.as_bytes());
            put_bytes(&mut file, value.as_bytes());
        }
        put_long(&mut file, 0);
        let marker = [0u8; 16];
        file.extend_from_slice(&marker);
        let (mut data, mut rows) = (Vec::new(), 0u64);
        while data.len() < COLUMN_BYTES
            && let Some(block) = self.next()?
        {
            rows = rows.saturating_add(block.rows);
            data.extend_from_slice(&block.data);
        }
        if rows == 0 && data.is_empty() {
            return Ok(None);
        }
        // A row of columns has a vector, which takes a byte at least.
        let size = usize::try_from(rows).ok().filter(|rows| *rows > 0 && *rows <= data.len());
        let size = size.ok_or_else(|| damaged("a block has another number of records than it announces"))?;
        // Said to have a record more than a batch takes: arrow-avro 59 never returns where bytes follow the last record of
        // a block; so it asks for the next one instead, and there must be none.
        put_long(&mut file, size as i64 + 1);
        put_bytes(&mut file, &data);
        file.extend_from_slice(&marker);
        let wrong = |e: arrow::error::ArrowError| {
            Error::invalid("file", format!("the Avro file cannot be read: {e}"))
        };
        // A decoder for each group of blocks: it also miscounts unions after its first batch.
        let mut reader =
            ReaderBuilder::new().with_batch_size(size).build(Cursor::new(file)).map_err(wrong)?;
        let batch = reader.next().transpose().map_err(wrong)?;
        match reader.next() {
            None => Ok(batch),
            Some(_) => Err(damaged("a block has another number of records than it announces")),
        }
    }

    /// The records of a file that must be of records. `begin` is asked before each block, with the number of the record that
    /// comes next, how many of the block's to pass over.
    ///
    /// # Errors
    /// Invalid, naming the field, when its schema is another.
    pub(crate) fn records(
        self,
        batcher: &mut Batcher,
        begin: &dyn Fn(u64) -> u64,
        emit: &mut dyn FnMut(Cut) -> Result<()>,
    ) -> Result<()> {
        let normaliser = Normaliser::new(&self.schema_json)?;
        self.encode(&normaliser, batcher, begin, emit)
    }

    /// The records of a file whose schema is that of records.
    pub(crate) fn encode(
        mut self,
        normaliser: &Normaliser,
        batcher: &mut Batcher,
        begin: &dyn Fn(u64) -> u64,
        emit: &mut dyn FnMut(Cut) -> Result<()>,
    ) -> Result<()> {
        loop {
            let pass = begin(batcher.next_row());
            let Some(block) = self.next()? else { break };
            let first = batcher.next_row() - pass;
            let block = normaliser.block(&block, first)?;
            if pass == 0 && batcher.fits(&block) {
                batcher.block(block)?.map_or(Ok(()), &mut *emit)?;
                continue;
            }
            let mut rows = 0;
            for span in spans(&block.data) {
                let span = span.map_err(|m| Error::invalid(format!("records[{}]", first + rows), m))?;
                if rows >= pass {
                    batcher.encoded(span.bytes)?.map_or(Ok(()), &mut *emit)?;
                }
                rows += 1;
            }
            if rows != block.rows {
                return Err(damaged("a block has another number of records than it announces"));
            }
        }
        Ok(())
    }

    /// What a file of records holds, by its first block.
    pub(crate) fn inspect(mut self, normaliser: &Normaliser, overrides: &Overrides) -> Result<Inference> {
        let empty = || Error::invalid("file", "the file has no records");
        let block = self.next()?.filter(|b| b.rows > 0).ok_or_else(empty)?;
        let block = normaliser.block(&block, 0)?;
        let (mut first, mut unit, mut bytes, mut rows) = (None, true, 0, 0);
        for span in spans(&block.data).take(SAMPLE_ROWS) {
            let span = span.map_err(|m| Error::invalid(format!("records[{rows}]"), m))?;
            unit &= is_unit(&span.vector);
            bytes += span.bytes.len();
            rows += 1;
            first.get_or_insert(Record {
                collection_id: span.collection_id.to_owned(),
                vector: span.vector,
                ..Record::default()
            });
        }
        let first = first.ok_or_else(empty)?;
        let columns = columns(&first, &block.data[..bytes], rows)?;
        infer_records(&first, unit, columns, overrides)
    }
}

/// The metadata columns of some records.
fn columns(first: &Record, block: &[u8], rows: u64) -> Result<Vec<Column>> {
    let given = &first.collection_id;
    let collection =
        match given.parse::<CollectionId>().or_else(|_| Ok(CollectionId::new(Name::new(given)?, 1))) {
            Ok(collection) => collection,
            Err(_) if given.is_empty() => CollectionId::new(Name::new("import")?, 1),
            Err(e) => return Err(e),
        };
    let dimension = u32::try_from(first.vector.len()).unwrap_or(u32::MAX);
    // The weakest settings: what the collection really demands is checked when it is known.
    let settings = Settings { dimension, metric: Metric::L2, vector_type: VectorType::F32 };
    settings.check().map_err(|e| Error::invalid("records[0].vector", e.to_string()))?;
    let rules = Rules { collection: &collection, op: Op::Upsert, settings: &settings };
    let summary = validate(block, Some(rows), &rules)?;
    let schema = Schema::default().admit(summary.keys.iter().map(|(k, seen)| (k.as_str(), seen)))?;
    Ok(schema.unwrap_or_default().columns)
}

fn damaged(what: &str) -> Error {
    Error::invalid("file", format!("the Avro file is damaged: {what}"))
}

/// Magic, metadata and sync marker, as they are in the file.
fn header(reader: &mut impl BufRead) -> Result<Vec<u8>> {
    let mut part = Part { reader, bytes: Vec::new() };
    part.take(MAGIC.len())?;
    loop {
        let mut entries = part.long()?;
        if entries == 0 {
            break;
        }
        if entries < 0 {
            part.long()?;
            entries = entries.saturating_neg();
        }
        for _ in 0..entries {
            for _ in ["key", "value"] {
                let length = part.length("a length is negative")?;
                part.take(length)?;
            }
        }
    }
    part.take(16)?;
    Ok(part.bytes)
}

/// A part of the file, with every byte that was read of it.
struct Part<'r, R> {
    reader: &'r mut R,
    bytes: Vec<u8>,
}

impl<R: BufRead> Part<'_, R> {
    /// Reads exactly `n` bytes. What a damaged length costs is bounded by what the file has.
    fn take(&mut self, n: usize) -> Result<()> {
        if self.bytes.len().saturating_add(n) > PART_BYTES + 64 {
            return Err(damaged("a header or block has more than 64 MiB"));
        }
        let read = self.reader.by_ref().take(n as u64).read_to_end(&mut self.bytes);
        match read.map_err(|e| super::file::unreadable(e, "byte", 0))? {
            read if read == n => Ok(()),
            _ => Err(damaged("it ends too early")),
        }
    }

    fn long(&mut self) -> Result<i64> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            self.take(1)?;
            let byte = self.bytes.last().copied().unwrap_or_default();
            n |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((n >> 1) as i64 ^ -((n & 1) as i64));
            }
        }
        Err(damaged("a whole number is longer than 64 bits"))
    }

    fn length(&mut self, negative: &str) -> Result<usize> {
        usize::try_from(self.long()?).map_err(|_| damaged(negative))
    }
}

fn put_long(out: &mut Vec<u8>, v: i64) {
    let mut n = ((v << 1) ^ (v >> 63)) as u64;
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn put_bytes(out: &mut Vec<u8>, v: &[u8]) {
    put_long(out, v.len() as i64);
    out.extend_from_slice(v);
}
