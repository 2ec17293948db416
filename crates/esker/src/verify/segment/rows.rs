//! Rows of a segment, a row group at a time: columns decoded, versions hashed, payload rows compared.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{Int32Type, Int64Type};
use bytes::Bytes;
use esker_format::schema::arrow_schema;
use esker_format::segment::BLOCK_ROWS;
use esker_format::segment::index::Section;
use esker_format::segment::payload::decode_block;
use esker_format::segment::rows::{VECTOR_COLUMN, decode_chunk};
use esker_format::{Seq, SetHash};

use super::super::source::{At, Stop, broken};
use super::{Subject, View};

/// Payload sizes on a page that is not in the header, and its bytes with the checksum.
const SIZES: (u32, u64) = (1023, 4096);

impl Subject<'_, '_> {
    /// Adds up the live rows of each view; the hash of each row's id by ordinal.
    pub(super) async fn check_rows(&self, views: &mut [View], live: &mut Vec<u64>) -> Result<Vec<u64>, Stop> {
        let mut hashes: Vec<u64> = Vec::with_capacity(self.segment.rows as usize);
        let mut seqs: (Seq, Seq) = (Seq::MAX, 0);
        let mut payload = 0;
        for group in 0..self.header.rows().base.len() {
            let rows = self.header.rows().group_rows(group);
            let columns = self.columns(group).await?;
            self.add(&columns, rows.start, views, live, &mut hashes, &mut seqs)?;
            let checked = self.check_payload(rows.clone(), &columns, &mut payload).await;
            self.source.settle(checked)?;
            self.advance(0, u64::from(rows.end));
        }
        let section = self.header.section(Section::Payload).unwrap_or(0..0);
        if payload != section.end - section.start {
            self.source.found(&self.index_key, "format", "its payload has bytes of no block");
        }
        if seqs != self.segment.seqs {
            let message =
                format!("its rows are of entries {} to {}, not {:?}", seqs.0, seqs.1, self.segment.seqs);
            return broken(&self.rows_key, "INV-5", message);
        }
        Ok(hashes)
    }

    /// Every column of a row group but the vectors, in order.
    async fn columns(&self, group: usize) -> Result<Vec<ArrayRef>, Stop> {
        let schema = arrow_schema(self.header.settings(), self.header.schema());
        let columns = (0..schema.fields().len()).filter(|c| *c != VECTOR_COLUMN);
        let chunks: Option<Vec<_>> = columns.map(|c| Some((c, *self.checks.chunk(c, group)?))).collect();
        let Some(chunks) = chunks else {
            return broken(&self.index_key, "INV-3", format!("it has no checks of row group {group}"));
        };
        let ranges = chunks.iter().map(|(_, chunk)| chunk.range()).collect();
        let rows = self.header.rows().group_rows(group).len();
        let mut out = Vec::with_capacity(chunks.len());
        for ((column, chunk), bytes) in chunks.iter().zip(self.source.ranges(&self.rows_key, ranges).await?) {
            chunk.check(&self.rows_key, &bytes).at(&self.rows_key, "INV-3")?;
            let decoded = decode_chunk(&self.rows_key, schema.field(*column), rows, bytes);
            out.push(decoded.at(&self.rows_key, "INV-3")?);
        }
        Ok(out)
    }

    /// Hashes the rows of a row group.
    fn add(
        &self,
        columns: &[ArrayRef],
        first: u32,
        views: &mut [View],
        live: &mut Vec<u64>,
        hashes: &mut Vec<u64>,
        seqs: &mut (Seq, Seq),
    ) -> Result<(), Stop> {
        let n = columns.len();
        let ids = columns[0].as_string::<i32>();
        let (entries, numbers) =
            (columns[n - 2].as_primitive::<Int64Type>(), columns[n - 1].as_primitive::<Int32Type>());
        if [ids.null_count(), entries.null_count(), numbers.null_count()] != [0; 3] {
            return broken(&self.rows_key, "INV-3", "an id, _seq or _row is null");
        }
        for i in 0..ids.len() {
            let (ordinal, seq) = (first + i as u32, entries.value(i) as Seq);
            let hash = self.source.id.hash_id(ids.value(i));
            let version = SetHash::of(ids.value(i), seq, numbers.value(i) as u32);
            hashes.push(hash);
            *seqs = (seqs.0.min(seq), seqs.1.max(seq));
            for view in views.iter_mut().filter(|v| !v.dead.contains(ordinal)) {
                view.sum += version;
                if view.is_newest {
                    live.push(hash);
                }
            }
        }
        Ok(())
    }

    /// The payload blocks of a row group's rows say what its columns say. `at`: where in the section the first begins.
    async fn check_payload(&self, rows: Range<u32>, columns: &[ArrayRef], at: &mut u64) -> Result<(), Stop> {
        let key = &self.index_key;
        let section = self.header.section(Section::Payload).unwrap_or(0..0);
        let blocks = rows.start / BLOCK_ROWS..rows.end.div_ceil(BLOCK_ROWS);
        let mut places: Vec<(u32, Range<u64>)> = Vec::with_capacity(blocks.len());
        for (block, size) in blocks.clone().zip(self.block_sizes(blocks.clone()).await?) {
            places.push((block, section.start + *at..section.start + *at + u64::from(size)));
            *at += u64::from(size);
        }
        for leaf in self.header.leaf_of(rows.start)..=self.header.leaf_of(rows.end - 1) {
            let leaf = self.header.leaf(leaf);
            let place = places.iter().find(|(block, _)| *block == leaf.ordinals.start / BLOCK_ROWS);
            if place.is_some_and(|(_, range)| range.start != section.start + leaf.payload_base) {
                let message =
                    format!("the payload of row {} is not where its leaf has it", leaf.ordinals.start);
                return broken(key, "INV-9", message);
            }
        }
        places.retain(|(block, _)| self.source.samples(u64::from(*block)));
        let schema = Arc::new(self.header.schema().clone());
        for places in places.chunks(256) {
            let ranges = places.iter().map(|(_, range)| range.clone()).collect();
            for ((block, _), bytes) in places.iter().zip(self.source.ranges(key, ranges).await?) {
                let first = block * BLOCK_ROWS - rows.start;
                let decoded = decode_block(key, *block, &bytes, &schema).at(key, "INV-3")?;
                let count = (rows.len() as u32 - first).min(BLOCK_ROWS) as usize;
                let all: Vec<usize> = (0..decoded.len()).collect();
                let found = decoded.to_batch(&all).at(key, "INV-3")?;
                let same = found.num_rows() == count
                    && found.num_columns() == columns.len()
                    && found
                        .columns()
                        .iter()
                        .zip(columns)
                        .all(|(f, c)| **f == *c.slice(first as usize, count));
                if !same {
                    let message = format!("payload block {block} does not say what the columns say");
                    self.source.found(key, "INV-9", message);
                }
            }
        }
        Ok(())
    }

    /// Bytes of payload blocks.
    async fn block_sizes(&self, blocks: Range<u32>) -> Result<Vec<u32>, Stop> {
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0u32, |n, b| n << 8 | u32::from(*b));
        if let Some(hot) = self.directory.find(Section::PayloadSizes) {
            let all = self.header.bytes().slice(hot.range.start as usize..hot.range.end as usize);
            let all: Vec<u32> = all.chunks_exact(4).map(number).collect();
            return Ok(all
                .get(blocks.start as usize..blocks.end as usize)
                .map(<[u32]>::to_vec)
                .unwrap_or_default());
        }
        let start = self.header.section(Section::PayloadSizePages).unwrap_or(0..0).start;
        let pages = u64::from(blocks.start / SIZES.0)..u64::from(blocks.end.div_ceil(SIZES.0));
        let range = start + pages.start * SIZES.1..start + pages.end * SIZES.1;
        let bytes: Bytes = self.source.range(&self.index_key, range).await?;
        let mut sizes = Vec::new();
        for page in bytes.chunks_exact(SIZES.1 as usize) {
            let (body, crc) = page.split_at(page.len() - 4);
            if crc32c::crc32c(body) != number(crc) {
                return broken(&self.index_key, "INV-3", "a page of payload sizes fails its checksum");
            }
            sizes.extend(body.chunks_exact(4).map(number));
        }
        let skip = (blocks.start % SIZES.0) as usize;
        Ok(sizes.get(skip..skip + blocks.len()).map(<[u32]>::to_vec).unwrap_or_default())
    }
}
