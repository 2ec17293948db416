//! What goes around the Parquet writer: vector pages that are spliced in without a copy, and a sink that checksums
//! what passes.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::buffer::Buffer;
use bytes::Bytes;
use parquet::basic::{Compression, Encoding, PageType};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{ColumnChunkMetaData, OffsetIndexBuilder, PageEncodingStats};
use parquet::file::reader::{ChunkReader, Length};
use parquet::schema::types::ColumnDescPtr;

use super::page::prefix;
use super::{PAGE_ROWS, witness_row};
use crate::schema::Settings;

/// The vector pages of one row group.
pub(super) struct Pages {
    /// CRC32C of each page.
    pub(super) crcs: Vec<u32>,
    /// CRC32C of one row of each page.
    pub(super) witness: Vec<u32>,
    /// Header and level bytes of the last page.
    pub(super) last_header: u32,
    /// All pages, one after the other.
    pub(super) bytes: Pieces,
    sizes: Vec<(u32, u64)>,
    dimension: u64,
}

impl Pages {
    /// Cuts `rows` vectors, which lie in `vectors` whole rows each, into pages, the first of which has number `first`.
    pub(super) fn new(first: u32, rows: u32, vectors: &[Buffer], settings: &Settings) -> Self {
        let stride = settings.stride();
        let width = settings.vector_type.width() as u32;
        let full = Buffer::from_vec(prefix(PAGE_ROWS, settings.dimension, width));
        let mut out = Pages {
            crcs: Vec::new(),
            witness: Vec::new(),
            last_header: full.len() as u32,
            bytes: Pieces::default(),
            sizes: Vec::new(),
            dimension: u64::from(settings.dimension),
        };
        let mut source = Cutter { vectors, at: 0 };
        let mut pieces = Vec::new();
        for start in (0..rows).step_by(PAGE_ROWS as usize) {
            let count = PAGE_ROWS.min(rows - start);
            let head = match count {
                PAGE_ROWS => full.clone(),
                _ => Buffer::from_vec(prefix(count, settings.dimension, width)),
            };
            out.last_header = head.len() as u32;
            let begun = pieces.len();
            pieces.push(head);
            source.cut(count as usize * stride, &mut pieces);
            let page = &pieces[begun..];
            out.crcs.push(page.iter().fold(0, |crc, piece| crc32c::crc32c_append(crc, piece)));
            let row = witness_row(first + out.witness.len() as u32, count) as usize;
            out.witness.push(row_crc(&page[1..], row * stride, stride));
            out.sizes.push((count, page.iter().map(|p| p.len() as u64).sum()));
        }
        let length = out.sizes.iter().map(|(_, size)| size).sum();
        out.bytes = Pieces { pieces: pieces.into(), length };
        out
    }

    /// What the Parquet writer is told about the column chunk, offsets counted from its start.
    pub(super) fn close(&self, column: ColumnDescPtr) -> ParquetResult<ColumnCloseResult> {
        let rows: u64 = self.sizes.iter().map(|(rows, _)| u64::from(*rows)).sum();
        let length = self.bytes.length as i64;
        let metadata = ColumnChunkMetaData::builder(column)
            .set_compression(Compression::UNCOMPRESSED)
            .set_encodings(vec![Encoding::PLAIN, Encoding::RLE])
            .set_num_values((rows * self.dimension) as i64)
            .set_total_compressed_size(length)
            .set_total_uncompressed_size(length)
            .set_data_page_offset(0)
            .set_page_encoding_stats(vec![PageEncodingStats {
                page_type: PageType::DATA_PAGE,
                encoding: Encoding::PLAIN,
                count: self.sizes.len() as i32,
            }])
            .build()?;
        let mut index = OffsetIndexBuilder::new();
        let mut at = 0;
        for (rows, size) in &self.sizes {
            index.append_row_count(i64::from(*rows));
            index.append_offset_and_size(at, *size as i32);
            at += *size as i64;
        }
        Ok(ColumnCloseResult {
            bytes_written: self.bytes.length,
            rows_written: rows,
            metadata,
            bloom_filter: None,
            column_index: None,
            offset_index: Some(index.build()),
        })
    }
}

/// Checksum of `stride` bytes at `at` of pieces that hold whole rows.
fn row_crc(pieces: &[Buffer], mut at: usize, stride: usize) -> u32 {
    for piece in pieces {
        if let Some(row) = piece.get(at..at + stride) {
            return crc32c::crc32c(row);
        }
        at -= piece.len();
    }
    0
}

/// Takes bytes off the front of buffers.
struct Cutter<'a> {
    vectors: &'a [Buffer],
    at: usize,
}

impl Cutter<'_> {
    fn cut(&mut self, mut bytes: usize, out: &mut Vec<Buffer>) {
        while bytes > 0 {
            let Some((first, rest)) = self.vectors.split_first() else { return };
            let take = bytes.min(first.len() - self.at);
            if take > 0 {
                out.push(first.slice_with_length(self.at, take));
            }
            self.at += take;
            bytes -= take;
            if self.at == first.len() {
                (self.vectors, self.at) = (rest, 0);
            }
        }
    }
}

/// Buffers read as if they were one.
#[derive(Clone, Default)]
pub(super) struct Pieces {
    pieces: Arc<[Buffer]>,
    /// Bytes of all.
    pub(super) length: u64,
}

/// A position in [`Pieces`].
pub(super) struct PieceReader {
    pieces: Arc<[Buffer]>,
    piece: usize,
    at: usize,
}

impl Read for PieceReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while let Some(piece) = self.pieces.get(self.piece) {
            let n = out.len().min(piece.len() - self.at);
            if n > 0 || out.is_empty() {
                out[..n].copy_from_slice(&piece[self.at..self.at + n]);
                self.at += n;
                return Ok(n);
            }
            (self.piece, self.at) = (self.piece + 1, 0);
        }
        Ok(0)
    }
}

impl Length for Pieces {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for Pieces {
    type T = PieceReader;

    fn get_read(&self, start: u64) -> ParquetResult<PieceReader> {
        let (mut piece, mut at) = (0, start as usize);
        while let Some(p) = self.pieces.get(piece).filter(|p| p.len() <= at) {
            at -= p.len();
            piece += 1;
        }
        Ok(PieceReader { pieces: Arc::clone(&self.pieces), piece, at })
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        let mut out = Vec::new();
        self.get_read(start)?.take(length as u64).read_to_end(&mut out)?;
        if out.len() < length {
            return Err(ParquetError::EOF("the pieces end early".to_owned()));
        }
        Ok(out.into())
    }
}

/// What the sink notes about the bytes that pass.
#[derive(Default)]
pub(super) struct Watch {
    /// Bytes passed.
    pub(super) at: u64,
    /// Ascending ranges with the CRC32C of what has passed of them.
    pub(super) watched: VecDeque<(Range<u64>, u32)>,
    /// From here on bytes are kept.
    pub(super) keep_from: Option<u64>,
    /// The bytes kept.
    pub(super) kept: Vec<u8>,
}

impl Watch {
    fn pass(&mut self, bytes: &[u8]) {
        let (start, end) = (self.at, self.at + bytes.len() as u64);
        let part = |range: &Range<u64>| {
            let (from, to) = (range.start.clamp(start, end), range.end.clamp(start, end));
            &bytes[(from - start) as usize..(to - start) as usize]
        };
        for (range, crc) in &mut self.watched {
            *crc = crc32c::crc32c_append(*crc, part(range));
        }
        if let Some(from) = self.keep_from {
            self.kept.extend_from_slice(part(&(from..u64::MAX)));
        }
        self.at = end;
    }
}

/// Locks a watch. Nothing panics while it is held, so a poisoned lock is as good.
pub(super) fn watching(watch: &Mutex<Watch>) -> MutexGuard<'_, Watch> {
    watch.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The caller's sink, watched.
pub(super) struct Sink<W> {
    pub(super) inner: W,
    pub(super) watch: Arc<Mutex<Watch>>,
}

impl<W: Write> Write for Sink<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        watching(&self.watch).pass(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
