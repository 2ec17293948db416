//! Reads the rows of a segment: vectors by address, the other columns as Parquet, everything against the checksums of
//! the index; and which rows no longer count.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::Bytes;
use esker_format::head::Part;
use esker_format::manifest::Segment;
use esker_format::schema::Schema;
use esker_format::segment::index::{Header, Section};
use esker_format::segment::payload::PayloadRows;
use esker_format::segment::rows::{RowsChecks, VECTOR_COLUMN};
use esker_format::{Error, Kind, Result};
use futures::stream::{self, Stream};
use futures::{StreamExt, TryStreamExt};
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use roaring::RoaringBitmap;

use crate::cache::Piece;
use crate::collection::Collection;
use crate::lookup;
use crate::meter::Meter;

mod decode;

/// Vector pages are read in ranges of about this many bytes.
const RANGE_BYTES: u64 = 8 << 20;
/// Ids are looked up by pages of the id map up to this share of it and this many ids, above them by the whole map.
const PAGES_SHARE: u64 = 4;
const PAGED_IDS: usize = 1024;

/// An opened segment.
#[derive(Debug)]
pub struct SegmentReader {
    collection: Arc<Collection>,
    segment: Segment,
    header: Arc<Header>,
    deleted: RoaringBitmap,
    rows_key: String,
    index_key: String,
    /// Whether what is read stays for other readers.
    cached: bool,
}

impl SegmentReader {
    /// Opens a segment of a manifest with what `head` has of it; the rest is read: header ‖ deletion bitmap.
    pub async fn open(
        collection: &Arc<Collection>,
        meter: &Meter,
        segment: &Segment,
        part: Option<&Part>,
    ) -> Result<Self> {
        let (rows_key, index_key) =
            (collection.keys().rows(segment.made), collection.keys().index(segment.made));
        let (header_meter, deletes_meter) = (meter.fork(), meter.fork());
        let header = collection.open_header(&header_meter, &index_key, segment, part);
        let deleted = collection.read_deletes(&deletes_meter, segment, part);
        let (header, deleted) = futures::try_join!(header, deleted)?;
        let facts = header.facts();
        if u64::from(facts.rows) != segment.rows || header.rows().file_size != segment.rows_size {
            return Err(Error::corrupt(&index_key, "it is not about the rows that were published with it"));
        }
        Ok(SegmentReader {
            collection: Arc::clone(collection),
            segment: segment.clone(),
            header: Arc::new(header),
            deleted: deleted.unwrap_or_default(),
            rows_key,
            index_key,
            cached: true,
        })
    }

    /// Reads past the cache: for who reads everything once.
    #[must_use]
    pub fn uncached(mut self) -> Self {
        self.cached = false;
        self
    }

    /// What the manifest says of the segment.
    pub fn segment(&self) -> &Segment {
        &self.segment
    }

    /// The opened index.
    pub fn header(&self) -> &Arc<Header> {
        &self.header
    }

    /// Rows that no longer count.
    pub fn deleted(&self) -> &RoaringBitmap {
        &self.deleted
    }

    /// A whole section of the index, checked.
    pub async fn section(&self, meter: &Meter, section: Section) -> Result<Bytes> {
        let range = self.header.section(section).unwrap_or(0..0);
        let pieces = [Piece::of(self.index_key.as_str(), range)];
        self.read(meter, &pieces, |bytes| {
            let bytes = bytes.first().cloned().unwrap_or_default();
            self.header.check_section(section, &bytes)?;
            Ok(bytes)
        })
        .await
    }

    /// The code groups that some leaves touch, checked.
    pub async fn codes(&self, meter: &Meter, leaves: Range<u32>) -> Result<Bytes> {
        let filled = || leaves.clone().filter(|leaf| !self.header.leaf(*leaf).postings.is_empty());
        let range = |leaf| self.header.codes_range(self.header.leaf_groups(leaf));
        let (Some(first), Some(last)) = (filled().next(), filled().next_back()) else {
            return Ok(Bytes::new());
        };
        let all = range(first).start..range(last).end;
        let pieces = [Piece::of(self.index_key.as_str(), all.clone())];
        self.read(meter, &pieces, |bytes| {
            let bytes = bytes.first().cloned().unwrap_or_default();
            for leaf in filled() {
                let own = (range(leaf).start - all.start) as usize..(range(leaf).end - all.start) as usize;
                self.header.check_leaf_codes(leaf, bytes.get(own).unwrap_or_default())?;
            }
            Ok(bytes)
        })
        .await
    }

    /// Rows that may have these ids, live ones only: position in `hashes`, which ascend, and ordinal. Another id can have
    /// the same hash.
    pub async fn find(&self, meter: &Meter, hashes: &[u64]) -> Result<Vec<(usize, u32)>> {
        let pages: Vec<Range<u64>> = hashes.iter().map(|h| self.header.idmap_pages(*h)).collect();
        let all = self.header.section(Section::IdMap).map_or(0, |r| r.end - r.start);
        let wanted: u64 = pages.iter().map(|p| p.end - p.start).sum();
        let found = if hashes.len() > PAGED_IDS || wanted > all / PAGES_SHARE {
            self.find_in_map(meter, hashes).await?
        } else {
            let pieces: Vec<Piece> =
                pages.into_iter().map(|p| Piece::of(self.index_key.as_str(), p)).collect();
            self.read(meter, &pieces, |bytes| {
                let mut found = Vec::new();
                for (i, (hash, bytes)) in hashes.iter().zip(bytes).enumerate() {
                    found.extend(self.header.idmap_find(*hash, bytes)?.into_iter().map(|o| (i, o)));
                }
                Ok(found)
            })
            .await?
        };
        Ok(found.into_iter().filter(|(_, ordinal)| !self.deleted.contains(*ordinal)).collect())
    }

    /// The same by walking the whole id map beside the hashes.
    async fn find_in_map(&self, meter: &Meter, hashes: &[u64]) -> Result<Vec<(usize, u32)>> {
        let range = self.header.section(Section::IdMap).unwrap_or(0..0);
        let pieces = [Piece::of(self.index_key.as_str(), range)];
        let entries = self
            .read(meter, &pieces, |bytes| match bytes.first() {
                Some(bytes) => self.header.idmap_entries(bytes),
                None => Ok(Vec::new()),
            })
            .await?;
        let (mut found, mut at) = (Vec::new(), 0);
        for (i, hash) in hashes.iter().enumerate() {
            at += entries[at..].partition_point(|(h, _)| h < hash);
            let same = entries[at..].iter().take_while(|(h, _)| h == hash);
            found.extend(same.map(|(_, ordinal)| (i, *ordinal)));
        }
        Ok(found)
    }

    /// The payload blocks of these rows, by number.
    pub async fn payload(
        &self,
        meter: &Meter,
        schema: &Arc<Schema>,
        ordinals: impl Iterator<Item = u32>,
    ) -> Result<BTreeMap<u32, Arc<PayloadRows>>> {
        self.collection.read_blocks(meter, &self.index_key, &self.header, schema, ordinals).await
    }

    /// Prepares to read rows: footer ‖ checksums.
    pub async fn rows(&self, meter: &Meter) -> Result<RowsReader<'_>> {
        let (footer_meter, checks_meter) = (meter.fork(), meter.fork());
        let footer = self.section(&footer_meter, Section::Footer);
        let checks = self.section(&checks_meter, Section::Checks);
        let (footer, checks) = futures::try_join!(footer, checks)?;
        let checks = self.header.checks(&checks)?;
        let metadata = decode::metadata(&self.rows_key, &footer)?;
        Ok(RowsReader { segment: self, checks, metadata })
    }

    /// Bytes of immutable objects, decoded; what fails its checksum is read once more.
    async fn read<T>(
        &self,
        meter: &Meter,
        pieces: &[Piece],
        decode: impl Fn(&[Bytes]) -> Result<T>,
    ) -> Result<T> {
        let client = self.collection.client();
        if self.cached {
            return lookup::checked(client, meter, pieces, decode).await;
        }
        let ranges: Vec<(&str, Range<u64>)> = pieces.iter().map(|p| (&*p.key, p.range.clone())).collect();
        match decode(&client.ranges(meter, &ranges).await?) {
            Err(e) if e.kind() == Kind::Corrupt => decode(&client.ranges(meter, &ranges).await?),
            done => done,
        }
    }
}

/// Reads rows of a segment, a row group at a time.
pub struct RowsReader<'a> {
    segment: &'a SegmentReader,
    checks: RowsChecks,
    metadata: ArrowReaderMetadata,
}

/// Some live rows and their ordinals, ascending.
#[derive(Debug, Clone)]
pub struct LiveRows {
    /// Ordinal of each row.
    pub ordinals: Vec<u32>,
    /// The rows.
    pub batch: RecordBatch,
}

impl RowsReader<'_> {
    /// Number of row groups.
    pub fn groups(&self) -> usize {
        self.segment.header.rows().base.len()
    }

    /// Every row of a group, dead ones too: the columns, by their positions in `arrow_schema(settings, schema)`, of a
    /// schema that the segment's own became since. Columns that it did not have are null.
    pub async fn group(
        &self,
        meter: &Meter,
        group: usize,
        schema: &Schema,
        columns: &[usize],
    ) -> Result<RecordBatch> {
        let own = self.segment.header.schema();
        if !schema.extends(own) {
            return Err(Error::internal(format!(
                "{} has columns that the schema lacks",
                self.segment.index_key
            )));
        }
        let plan = decode::Plan::new(self.segment.header.settings(), own, schema, columns)?;
        let pieces = self.pieces(group, &plan);
        let keyed: Vec<Piece> =
            pieces.iter().map(|p| Piece::of(self.segment.rows_key.as_str(), p.range.clone())).collect();
        self.segment
            .read(meter, &keyed, |bytes| {
                for (piece, bytes) in pieces.iter().zip(bytes) {
                    self.check(piece, bytes)?;
                }
                let vectors = pieces.iter().zip(bytes).filter_map(|(p, b)| Some((p.pages.clone()?, b)));
                let vectors = decode::Vectors { header: &self.segment.header, pieces: vectors.collect() };
                let chunks = pieces.iter().zip(bytes).filter(|(p, _)| p.pages.is_none());
                let chunks = chunks.map(|(p, b)| (p.range.start, b.clone())).collect();
                decode::group(&self.segment.rows_key, &self.metadata, group, &plan, chunks, &vectors)
            })
            .await
    }

    /// The live rows of every group that has any, in ordinal order.
    pub fn live<'s>(
        &'s self,
        meter: &'s Meter,
        schema: &'s Schema,
        columns: &'s [usize],
    ) -> impl Stream<Item = Result<LiveRows>> + 's {
        stream::iter(0..self.groups())
            .then(move |group| async move {
                let rows = self.segment.header.rows().group_rows(group);
                let ordinals: Vec<u32> =
                    rows.clone().filter(|o| !self.segment.deleted.contains(*o)).collect();
                if ordinals.is_empty() {
                    return Ok(None);
                }
                let all = self.group(meter, group, schema, columns).await?;
                let batch = decode::select(all, rows.start, &ordinals)?;
                Ok(Some(LiveRows { ordinals, batch }))
            })
            .try_filter_map(|live| async move { Ok(live) })
    }

    /// What of the file holds the columns of a group.
    fn pieces(&self, group: usize, plan: &decode::Plan) -> Vec<RowsPiece> {
        let address = self.segment.header.rows();
        let chunks = plan.stored().filter(|c| *c != VECTOR_COLUMN);
        let chunks = chunks.filter_map(|c| self.checks.chunk(c, group));
        let mut pieces: Vec<RowsPiece> = chunks
            .map(|c| RowsPiece { range: c.range(), pages: None, column: c.column.into(), group })
            .collect();
        if !plan.stored().any(|c| c == VECTOR_COLUMN) {
            return pieces;
        }
        let rows = address.group_rows(group);
        let per_page = esker_format::segment::PAGE_ROWS;
        let (mut page, last) = (rows.start / per_page, rows.end.div_ceil(per_page));
        while page < last {
            let first = page;
            let start = address.page_range(first).start;
            while page < last && (page == first || address.page_range(page).end - start <= RANGE_BYTES) {
                page += 1;
            }
            let range = start..address.page_range(page - 1).end;
            pieces.push(RowsPiece { range, pages: Some(first..page), column: VECTOR_COLUMN, group });
        }
        pieces
    }

    fn check(&self, piece: &RowsPiece, bytes: &Bytes) -> Result<()> {
        let key = &self.segment.rows_key;
        let Some(pages) = &piece.pages else {
            return match self.checks.chunk(piece.column, piece.group) {
                Some(chunk) => chunk.check(key, bytes),
                None => Err(Error::corrupt(&self.segment.index_key, "a column chunk has no checksum")),
            };
        };
        for page in pages.clone() {
            let range = self.segment.header.rows().page_range(page);
            let at = (range.start - piece.range.start) as usize..(range.end - piece.range.start) as usize;
            self.checks.check_page(key, page, bytes.get(at).unwrap_or_default())?;
        }
        Ok(())
    }
}

/// Bytes of the rows file: a column chunk, or some whole vector pages of one.
struct RowsPiece {
    range: Range<u64>,
    pages: Option<Range<u32>>,
    column: usize,
    group: usize,
}

/// Positions of every column of `arrow_schema`.
pub fn all_columns(schema: &Schema) -> Vec<usize> {
    (0..2 + schema.columns.len() + esker_format::schema::TRAILING.len()).collect()
}
