//! Row groups that were written before, each as a file of its own, joined as if they had been written at once.

use std::io::Write;
use std::ops::Range;

use bytes::Bytes;
use parquet::column::writer::ColumnCloseResult;
use parquet::file::metadata::{
    ColumnChunkMetaData, PageIndexPolicy, ParquetMetaData, ParquetMetaDataOptions, ParquetMetaDataReader,
};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::reader::ChunkReader;
use parquet::file::statistics::Statistics;

use super::super::{ChunkRef, PAGE_ROWS, RowsAddress, RowsChecks, RowsLayout};
use super::{RowsWriter, failed};
use crate::error::{Error, Result};
use crate::segment::wire::{Put, Take};

/// Bytes before the first row group of a file.
const MAGIC: u64 = 4;

impl<W: Write + Send> RowsWriter<W> {
    /// Appends a row group that [`RowsWriter::from_page`] wrote as a file of its own, the group's first page being the
    /// next here: the file becomes what it were if its rows had been written to this writer. `bytes` is asked for the
    /// group's bytes alone; what gives zeros in their place gives the same layout.
    ///
    /// # Errors
    /// Internal if the group cannot follow: it is not the only one of its file, or those before are not full.
    pub fn append(&mut self, piece: &RowsLayout, bytes: &impl ChunkReader) -> Result<()> {
        let pages = self.address.rows.div_ceil(u64::from(PAGE_ROWS));
        let full = self.address.rows.is_multiple_of(u64::from(self.address.row_group_rows));
        let (one, mine) = (&piece.address, &self.address);
        let fits = (one.stride, one.page_header, one.base.len()) == (mine.stride, mine.page_header, 1);
        if self.group.rows > 0 || !full || !fits || u64::from(piece.first_page) != pages {
            return Err(Error::internal("a row group cannot follow those before it"));
        }
        let metadata = metadata(piece)?;
        let (from, number) = (self.file.bytes_written() as u64, self.address.base.len() as u16);
        let moved = |at: u64| at - MAGIC + from;
        let mut out = self.file.next_row_group().map_err(failed)?;
        for (column, chunk) in metadata.row_group(0).columns().iter().enumerate() {
            let index = metadata.column_index().map(|i| i[0][column].clone());
            let close = ColumnCloseResult {
                bytes_written: chunk.compressed_size() as u64,
                rows_written: piece.address.rows,
                metadata: as_written(chunk)?,
                bloom_filter: None,
                column_index: index.filter(|i| !matches!(i, ColumnIndexMetaData::NONE)),
                offset_index: metadata.offset_index().map(|i| i[0][column].clone()),
            };
            out.append_column(bytes, close).map_err(failed)?;
        }
        out.close().map_err(failed)?;
        // The sink's watch knows how far the file is.
        self.file.flush().map_err(|e| Error::internal("writing rows failed").with_source(e))?;
        self.address.rows += piece.address.rows;
        self.address.base.push(moved(piece.address.base[0]));
        self.address.short_page_headers.extend(&piece.address.short_page_headers);
        self.checks.page_crcs.extend(&piece.checks.page_crcs);
        let chunks = piece.checks.chunks.iter();
        self.checks.chunks.extend(chunks.map(|c| ChunkRef { group: number, offset: moved(c.offset), ..*c }));
        self.witness.extend(&piece.witness);
        Ok(())
    }
}

/// A column chunk as the writer of the file described it. Readers drop one thing: that least and greatest value of signed
/// types are there twice, for old readers.
fn as_written(chunk: &ColumnChunkMetaData) -> Result<ColumnChunkMetaData> {
    let Some(statistics) = chunk.statistics().filter(|_| chunk.column_descr().sort_order().is_signed())
    else {
        return Ok(chunk.clone());
    };
    let twice = match statistics.clone() {
        Statistics::Boolean(s) => Statistics::Boolean(s.with_backwards_compatible_min_max(true)),
        Statistics::Int32(s) => Statistics::Int32(s.with_backwards_compatible_min_max(true)),
        Statistics::Int64(s) => Statistics::Int64(s.with_backwards_compatible_min_max(true)),
        Statistics::Double(s) => Statistics::Double(s.with_backwards_compatible_min_max(true)),
        other => other,
    };
    chunk.clone().into_builder().set_statistics(twice).build().map_err(failed)
}

/// What the end of a file says, nothing left out.
fn metadata(piece: &RowsLayout) -> Result<ParquetMetaData> {
    let options = ParquetMetaDataOptions::new().with_encoding_stats_as_mask(false);
    let mut reader = ParquetMetaDataReader::new()
        .with_page_index_policy(PageIndexPolicy::Optional)
        .with_metadata_options(Some(options));
    reader.try_parse_sized(&piece.footer, piece.address.file_size).map_err(failed)?;
    let metadata = reader.finish().map_err(failed)?;
    match metadata.num_row_groups() {
        1 => Ok(metadata),
        groups => Err(Error::internal(format!("a file of one row group has {groups}"))),
    }
}

impl RowsLayout {
    /// Where the row groups lie in the file: all of it but the magic before them and the footer.
    pub fn groups_range(&self) -> Range<u64> {
        MAGIC..self.address.file_size - self.footer.len() as u64
    }

    /// The layout as bytes, for who writes a file in pieces.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_u32(self.first_page);
        self.address.encode(&mut out);
        for part in [&self.checks.encode(), &self.footer[..]] {
            out.put_u64(part.len() as u64);
            out.put(part);
        }
        self.witness.iter().for_each(|crc| out.put_u32(*crc));
        out
    }

    /// What [`RowsLayout::encode`] wrote.
    ///
    /// # Errors
    /// Corrupt, naming `object`, when it is something else.
    pub fn decode(object: &str, bytes: &[u8]) -> Result<Self> {
        let mut t = Take::new(object, "layout", bytes);
        let first_page = t.u32()?;
        let address = RowsAddress::decode(&mut t)?;
        let length = t.u64()? as usize;
        let checks = RowsChecks::decode(object, t.bytes(length)?)?;
        let length = t.u64()? as usize;
        let footer = Bytes::copy_from_slice(t.bytes(length)?);
        let witness = t.many(address.pages() as usize, 4, Take::u32)?;
        t.end()?;
        let sound =
            checks.page_crcs.len() == witness.len() && footer.len() as u64 + MAGIC <= address.file_size;
        match sound {
            true => Ok(RowsLayout { address, checks, footer, witness, first_page }),
            false => Err(t.corrupt("its parts contradict each other")),
        }
    }
}
