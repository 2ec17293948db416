//! `rows.parquet` as other readers see it: its footer says what the index says, and together they explain every byte.

use std::ops::Range;

use esker_format::schema::arrow_schema;
use esker_format::segment::rows::VECTOR_COLUMN;
use parquet::arrow::parquet_to_arrow_schema;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};

use super::super::source::{Stop, broken};
use super::Subject;

/// First and last bytes of a Parquet file.
const MAGIC: &[u8] = b"PAR1";

impl Subject<'_, '_> {
    pub(super) async fn check_parquet(&self) -> Result<(), Stop> {
        let key = &self.rows_key;
        let size = self.segment.rows_size;
        let Some(end) = size.checked_sub(self.footer.len() as u64) else {
            return broken(key, "INV-3", "its footer is longer than the file");
        };
        if self.source.range(key, 0..MAGIC.len() as u64).await? != MAGIC {
            return broken(key, "INV-3", "it does not start as a Parquet file does");
        }
        if self.source.range(key, end..size).await? != self.footer {
            return broken(key, "INV-3", "its footer is not the one that the index has");
        }
        self.check_coverage(end)?;
        let mut reader = ParquetMetaDataReader::new()
            .with_column_index_policy(PageIndexPolicy::Skip)
            .with_offset_index_policy(PageIndexPolicy::Required);
        let parsed = reader.try_parse_sized(&self.footer, size).and_then(|()| reader.finish());
        match parsed {
            Ok(metadata) => self.check_metadata(&metadata),
            Err(e) => broken(key, "INV-3", format!("its footer cannot be read: {e}")),
        }
    }

    fn pages_of(&self, group: usize) -> Range<u32> {
        let rows = self.header.rows().group_rows(group);
        rows.start / esker_format::segment::PAGE_ROWS..rows.end.div_ceil(esker_format::segment::PAGE_ROWS)
    }

    /// Magic, chunks, vector pages and footer follow each other without a gap.
    fn check_coverage(&self, end: u64) -> Result<(), Stop> {
        let address = self.header.rows();
        let mut ranges: Vec<Range<u64>> = (0..address.pages()).map(|page| address.page_range(page)).collect();
        ranges.extend(self.checks.chunks.iter().map(|c| c.range()));
        ranges.sort_by_key(|r| (r.start, r.end));
        let mut at = MAGIC.len() as u64;
        for range in ranges {
            if range.start != at {
                return broken(&self.rows_key, "format", format!("nothing explains its bytes from {at} on"));
            }
            at = range.end;
        }
        if self.checks.page_crcs.len() != address.pages() as usize || at != end {
            return broken(&self.rows_key, "format", format!("nothing explains its bytes from {at} on"));
        }
        Ok(())
    }

    fn check_metadata(&self, metadata: &ParquetMetaData) -> Result<(), Stop> {
        let key = &self.rows_key;
        let file = metadata.file_metadata();
        let schema = arrow_schema(self.header.settings(), self.header.schema());
        match parquet_to_arrow_schema(file.schema_descr(), file.key_value_metadata()) {
            Ok(stored) if stored.fields() == schema.fields() => {}
            Ok(_) => return broken(key, "INV-3", "its columns are not those of the index"),
            Err(e) => return broken(key, "INV-3", format!("its schema cannot be read: {e}")),
        }
        let groups = self.header.rows().base.len();
        if metadata.num_row_groups() != groups || file.num_rows() != self.segment.rows as i64 {
            return broken(key, "INV-3", "its footer has another number of rows or row groups");
        }
        (0..groups).try_for_each(|group| self.check_group(metadata, group))
    }

    /// Chunks and vector pages of a row group are where the index has them.
    fn check_group(&self, metadata: &ParquetMetaData, group: usize) -> Result<(), Stop> {
        let (key, address) = (&self.rows_key, self.header.rows());
        let row_group = metadata.row_group(group);
        let rows = address.group_rows(group);
        if row_group.num_rows() != rows.len() as i64 {
            return broken(key, "INV-3", format!("row group {group} has {} rows", row_group.num_rows()));
        }
        for (column, chunk) in row_group.columns().iter().enumerate() {
            let (start, length) = chunk.byte_range();
            let want = match column {
                VECTOR_COLUMN => {
                    let pages = self.pages_of(group);
                    Some(address.base[group]..address.page_range(pages.end.saturating_sub(1)).end)
                }
                _ => self.checks.chunk(column, group).map(|c| c.range()),
            };
            if want != Some(start..start.saturating_add(length)) {
                let message = format!("column {column} of row group {group} is not where the index has it");
                return broken(key, "INV-3", message);
            }
        }
        let index = metadata.offset_index().and_then(|all| all.get(group)?.get(VECTOR_COLUMN));
        let locations = index.map(|i| i.page_locations().as_slice()).unwrap_or_default();
        let pages = self.pages_of(group);
        let same = locations.len() == pages.len()
            && locations.iter().zip(pages).all(|(found, page)| {
                let want = address.page_range(page);
                let first = page * esker_format::segment::PAGE_ROWS - rows.start;
                found.offset as u64 == want.start
                    && found.compressed_page_size as u64 == want.end - want.start
                    && found.first_row_index == i64::from(first)
            });
        match same {
            true => Ok(()),
            false => {
                broken(key, "INV-3", format!("the page index of row group {group} has other vector pages"))
            }
        }
    }
}
