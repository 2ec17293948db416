//! `rows.parquet`: an ordinary Parquet file whose `vector` column is laid out so that the bytes of a row's vector are
//! arithmetic on its ordinal (INDEX §1). Every vector page but the last of a row group holds [`PAGE_ROWS`] rows behind
//! the same number of header and level bytes.

mod chunk;
mod page;
mod splice;
mod writer;

use std::ops::Range;

use bytes::Bytes;
use parquet::file::reader::ChunkReader;

use super::PAGE_ROWS;
use super::wire::{Put, Take, check};
use crate::error::{Error, Result};
pub use chunk::decode_chunk;
pub use writer::RowsWriter;

/// Position of the vector column among the file's columns.
pub const VECTOR_COLUMN: usize = 1;
/// Greatest number of rows of a row group.
const GROUP_ROWS: u32 = 65_536;
/// Greatest number of vector bytes of a row group: who writes or reads one holds it whole.
const GROUP_BYTES: u64 = 32 << 20;

/// Rows of every row group but the last: the largest multiple of [`PAGE_ROWS`] up to 65,536 whose vectors fit 32 MiB.
/// `stride` is the size of a vector in bytes.
pub fn row_group_rows(stride: u32) -> u32 {
    let fit = GROUP_BYTES / u64::from(stride.max(1)) / u64::from(PAGE_ROWS) * u64::from(PAGE_ROWS);
    fit.clamp(u64::from(PAGE_ROWS), u64::from(GROUP_ROWS)) as u32
}

/// Where each vector lies in the file. Part of the index header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowsAddress {
    /// Rows of the file.
    pub rows: u64,
    /// Bytes of one vector.
    pub stride: u32,
    /// Rows of every row group but the last.
    pub row_group_rows: u32,
    /// Offset of the first vector page of each row group.
    pub base: Vec<u64>,
    /// Bytes of header and levels in front of the vectors of a full page (h).
    pub page_header: u32,
    /// The same for the last page of each row group (h′; differs from h when that page is short).
    pub short_page_headers: Vec<u32>,
    /// Bytes of the file.
    pub file_size: u64,
}

impl RowsAddress {
    /// Number of vector pages.
    pub fn pages(&self) -> u32 {
        self.rows.div_ceil(u64::from(PAGE_ROWS)) as u32
    }

    /// Bytes of the vector of row `ordinal`; empty when there is no such row.
    pub fn vector_range(&self, ordinal: u32) -> Range<u64> {
        if u64::from(ordinal) >= self.rows {
            return 0..0;
        }
        let (start, header, _) = self.page(ordinal / PAGE_ROWS);
        let start = start + header + u64::from(ordinal % PAGE_ROWS) * u64::from(self.stride);
        start..start + u64::from(self.stride)
    }

    /// Bytes of a whole vector page: header, levels and the vectors of rows `page * 256` and up. Empty when there is
    /// no such page.
    pub fn page_range(&self, page: u32) -> Range<u64> {
        if page >= self.pages() {
            return 0..0;
        }
        let (start, header, rows) = self.page(page);
        start..start + header + rows * u64::from(self.stride)
    }

    /// Start, header bytes and rows of a page that exists.
    fn page(&self, page: u32) -> (u64, u64, u64) {
        let in_group = self.row_group_rows / PAGE_ROWS;
        let (group, index) = ((page / in_group) as usize, u64::from(page % in_group));
        let full = u64::from(self.page_header) + u64::from(PAGE_ROWS) * u64::from(self.stride);
        let rows = (self.rows - u64::from(page) * u64::from(PAGE_ROWS)).min(u64::from(PAGE_ROWS));
        let last = index + 1 == u64::from(in_group) || page + 1 == self.pages();
        let header = if last { self.short_page_headers[group] } else { self.page_header };
        (self.base[group] + index * full, u64::from(header), rows)
    }

    /// Rows of row group `group`.
    pub fn group_rows(&self, group: usize) -> Range<u32> {
        let start = (group as u64 * u64::from(self.row_group_rows)).min(self.rows);
        start as u32..(start + u64::from(self.row_group_rows)).min(self.rows) as u32
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.rows);
        out.put_u32(self.stride);
        out.put_u32(self.row_group_rows);
        out.put_u32(self.page_header);
        out.put_u64(self.file_size);
        out.put_u32(self.base.len() as u32);
        self.base.iter().for_each(|b| out.put_u64(*b));
        self.short_page_headers.iter().for_each(|h| out.put_u32(*h));
    }

    pub(super) fn decode(t: &mut Take<'_>) -> Result<Self> {
        let (rows, stride, row_group_rows) = (t.u64()?, t.u32()?, t.u32()?);
        let (page_header, file_size, groups) = (t.u32()?, t.u64()?, t.u32()? as usize);
        let base = t.many(groups, 8, Take::u64)?;
        let short_page_headers = t.many(groups, 4, Take::u32)?;
        let sound = rows <= u64::from(u32::MAX)
            && (1..=1 << 20).contains(&stride)
            && page_header < 1 << 24
            && short_page_headers.iter().all(|h| *h < 1 << 24)
            && row_group_rows > 0
            && row_group_rows % PAGE_ROWS == 0
            && groups as u64 == rows.div_ceil(u64::from(row_group_rows))
            && base.iter().all(|b| *b < file_size)
            && file_size < 1 << 48;
        if !sound {
            return Err(t.corrupt("the addresses contradict each other"));
        }
        Ok(RowsAddress { rows, stride, row_group_rows, base, page_header, short_page_headers, file_size })
    }
}

/// A column chunk of the file other than the vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkRef {
    /// Position of the column in the file's schema.
    pub column: u16,
    /// Row group.
    pub group: u16,
    /// Offset in the file.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// CRC32C of them.
    pub crc: u32,
}

impl ChunkRef {
    /// Where the chunk lies in the file.
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.length
    }

    /// Refuses bytes that are not what was written.
    pub fn check(&self, object: &str, bytes: &[u8]) -> Result<()> {
        check(object, format_args!("column {} of row group {}", self.column, self.group), bytes, self.crc)
    }
}

/// Checksums of everything in the file that can be read in one piece. Cold section of the index.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RowsChecks {
    /// CRC32C of each vector page, header included.
    pub page_crcs: Vec<u32>,
    /// Every column chunk but the vectors', by row group, then column.
    pub chunks: Vec<ChunkRef>,
}

impl RowsChecks {
    /// Refuses the bytes of a whole vector page that are not what was written.
    pub fn check_page(&self, object: &str, page: u32, bytes: &[u8]) -> Result<()> {
        match self.page_crcs.get(page as usize) {
            Some(crc) => check(object, format_args!("vector page {page}"), bytes, *crc),
            None => Err(Error::internal(format!("{object} has no vector page {page}"))),
        }
    }

    /// The chunk of a column in a row group.
    pub fn chunk(&self, column: usize, group: usize) -> Option<&ChunkRef> {
        self.chunks.iter().find(|c| usize::from(c.column) == column && usize::from(c.group) == group)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + self.page_crcs.len() * 4 + self.chunks.len() * 24);
        out.put_u32(self.page_crcs.len() as u32);
        out.put_u32(self.chunks.len() as u32);
        self.page_crcs.iter().for_each(|c| out.put_u32(*c));
        for c in &self.chunks {
            out.put_u16(c.column);
            out.put_u16(c.group);
            out.put_u64(c.offset);
            out.put_u64(c.length);
            out.put_u32(c.crc);
        }
        out
    }

    pub(super) fn decode(object: &str, bytes: &[u8]) -> Result<Self> {
        let mut t = Take::new(object, "page checks", bytes);
        let (pages, chunks) = (t.u32()? as usize, t.u32()? as usize);
        let page_crcs = t.many(pages, 4, Take::u32)?;
        let chunks = t.many(chunks, 24, |t| {
            let (column, group, offset, length, crc) = (t.u16()?, t.u16()?, t.u64()?, t.u64()?, t.u32()?);
            if offset.checked_add(length).is_none() {
                return Err(t.corrupt("a column chunk has no end"));
            }
            Ok(ChunkRef { column, group, offset, length, crc })
        })?;
        t.end()?;
        Ok(RowsChecks { page_crcs, chunks })
    }
}

/// What the index stores about a rows file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowsLayout {
    /// Where the vectors are.
    pub address: RowsAddress,
    /// Checksums of pages and chunks.
    pub checks: RowsChecks,
    /// The end of the file from the page indexes on: what a Parquet reader needs to open it.
    pub footer: Bytes,
    /// CRC32C of one row per page, which [`verify_layout`] reads back.
    witness: Vec<u32>,
    /// Number of the first page: of a row group that becomes part of a longer file, not 0.
    first_page: u32,
}

impl RowsLayout {
    /// See [`RowsAddress::vector_range`].
    pub fn vector_range(&self, ordinal: u32) -> Range<u64> {
        self.address.vector_range(ordinal)
    }

    /// See [`RowsAddress::page_range`].
    pub fn page_range(&self, page: u32) -> Range<u64> {
        self.address.page_range(page)
    }
}

/// The row of page `page` that is read back: another place in each page.
fn witness_row(page: u32, rows_in_page: u32) -> u32 {
    page.wrapping_mul(101) % rows_in_page.max(1)
}

/// Reads one row of every page back from a finished file, and its footer, and refuses to let it be published when an
/// address does not lead to what was written.
pub fn verify_layout(object: &str, reader: &impl ChunkReader, layout: &RowsLayout) -> Result<()> {
    let address = &layout.address;
    let read = |range: Range<u64>| {
        reader
            .get_bytes(range.start, (range.end - range.start) as usize)
            .map_err(|e| Error::corrupt(object, "it cannot be read back").with_source(e))
    };
    if reader.len() != address.file_size {
        let message = format!("it has {} bytes where {} were written", reader.len(), address.file_size);
        return Err(Error::corrupt(object, message));
    }
    for (page, crc) in (0u32..).zip(&layout.witness) {
        let first = page * PAGE_ROWS;
        let rows = (address.rows - u64::from(first)).min(u64::from(PAGE_ROWS)) as u32;
        let ordinal = first + witness_row(layout.first_page + page, rows);
        check(object, format_args!("row {ordinal}"), &read(address.vector_range(ordinal))?, *crc)?;
    }
    let footer = read(address.file_size - layout.footer.len() as u64..address.file_size)?;
    check(object, "the footer", &footer, crc32c::crc32c(&layout.footer))
}

#[cfg(test)]
mod tests;
