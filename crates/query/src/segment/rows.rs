//! Exact vectors and payload of single rows.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use esker_format::Result;
use esker_format::schema::Schema;
use esker_format::segment::BLOCK_ROWS;
use esker_format::segment::index::Section;
use esker_format::segment::payload::{PayloadRows, decode_block};
use esker_index::check16;
use esker_store::{Client, Meter};

use super::Segment;
use crate::ranges::{Pieces, Shape, Thrift};

/// Requests for vectors, and for payload, that are read by themselves.
const ALONE: Thrift = Thrift { requests: 32, waste: 1 << 20 };
/// Requests for pages of payload sizes: all of them are 128 KB for a million rows.
const SIZE_PAGES: Thrift = Thrift { requests: 1, waste: 128 << 10 };
/// Up to so many bytes of pages are read whole where leaves have copies of rows of others.
const ALL_SIZES: u64 = 512 << 10;
/// Bytes of a page of payload sizes.
const SIZE_PAGE: u64 = 4096;

/// Stored vectors by ordinal.
#[derive(Debug, Default)]
pub(crate) struct Vectors(HashMap<u32, Bytes>);

impl Vectors {
    /// The stored bytes of a row's vector.
    pub fn get(&self, ordinal: u32) -> Option<&[u8]> {
        self.0.get(&ordinal).map(|b| b.as_ref())
    }
}

/// Decoded payload blocks by number.
#[derive(Debug, Default)]
pub(crate) struct Payload(HashMap<u32, Arc<PayloadRows>>);

impl Payload {
    /// The block of a row and the row's place in it.
    pub fn row(&self, ordinal: u32) -> Option<(&PayloadRows, usize)> {
        let rows = self.0.get(&(ordinal / BLOCK_ROWS))?;
        let at = (ordinal % BLOCK_ROWS) as usize;
        (at < rows.len()).then_some((rows, at))
    }

    /// The id of a row.
    pub fn id(&self, ordinal: u32) -> Option<&str> {
        self.row(ordinal).map(|(rows, at)| rows.id(at))
    }
}

impl Segment {
    /// Where the vectors of rows lie in the rows file.
    pub fn vector_ranges(&self, ordinals: impl Iterator<Item = u32>) -> Vec<Range<u64>> {
        ordinals.map(|o| self.header.rows().vector_range(o)).collect()
    }

    /// Reads vectors, each checked against its code's check.
    pub async fn read_vectors(
        &self,
        client: &Client,
        meter: &Meter,
        wanted: &[(u32, u16)],
        shape: Shape,
    ) -> Result<Vectors> {
        let ranges = self.vector_ranges(wanted.iter().map(|(o, _)| *o));
        let take = |pieces: &Pieces| {
            let mut vectors = HashMap::with_capacity(wanted.len());
            for ((ordinal, check), range) in wanted.iter().zip(&ranges) {
                let bytes = pieces.bytes(range)?;
                if check16(&bytes) != *check {
                    let what = format!("the vector of row {ordinal} fails its checksum");
                    return Err(esker_format::Error::corrupt(self.rows.key(), what));
                }
                vectors.insert(*ordinal, bytes);
            }
            Ok(Vectors(vectors))
        };
        self.rows.read(client, meter, &ranges, shape, take).await
    }

    /// Reads vectors of rows whose codes are not here: the groups that have their checks come in the same wave.
    pub async fn read_vectors_alone(
        &self,
        client: &Client,
        meter: &Meter,
        ordinals: &[u32],
    ) -> Result<Vectors> {
        let ranges = self.vector_ranges(ordinals.iter().copied());
        let shape = Shape::Few(ALONE);
        let mut tries = 0;
        loop {
            tries += 1;
            let take =
                |pieces: &Pieces| ranges.iter().map(|r| pieces.bytes(r)).collect::<Result<Vec<Bytes>>>();
            let (rows_meter, groups_meter) = (meter.fork(), meter.fork());
            let (vectors, groups) = futures::try_join!(
                self.rows.read(client, &rows_meter, &ranges, shape, take),
                self.read_groups(client, &groups_meter, ordinals)
            )?;
            let matches =
                |(o, bytes): (&u32, &Bytes)| groups.check(self.own_posting(*o)) == Some(check16(bytes));
            if ordinals.iter().zip(&vectors).all(matches) {
                return Ok(Vectors(ordinals.iter().copied().zip(vectors).collect()));
            }
            if tries > 1 {
                // Either of them: the checksums that came alone have none of their own.
                let what = format!("a vector fails its checksum, or {} is corrupt", self.index.key());
                return Err(esker_format::Error::corrupt(self.rows.key(), what));
            }
            self.rows.forget(client, &ranges, shape).await;
            self.forget_groups(client, ordinals).await;
        }
    }

    /// The stored bytes of a vector that is held in memory.
    #[inline]
    pub fn held_vector(&self, ordinal: u32) -> Option<&[u8]> {
        let range = self.header.rows().vector_range(ordinal);
        let runs = self.rows.held()?.runs();
        let at = match runs {
            [_] => 0,
            _ => runs.partition_point(|(r, _)| r.start <= range.start).checked_sub(1)?,
        };
        let (run, bytes) = &runs[at];
        bytes.get((range.start - run.start) as usize..(range.end - run.start) as usize)
    }

    /// A stored vector as floats.
    pub fn floats(&self, bytes: &[u8]) -> Vec<f32> {
        match self.width() {
            2 => bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            _ => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        }
    }

    /// Reads the payload of rows, decoded under the collection's schema.
    pub async fn read_payload(
        &self,
        client: &Client,
        meter: &Meter,
        schema: &Arc<Schema>,
        ordinals: impl IntoIterator<Item = u32>,
    ) -> Result<Payload> {
        let places = self.payload_places(client, meter, ordinals).await?;
        self.read_payload_at(client, meter, schema, &places, Shape::Few(ALONE)).await
    }

    /// Reads payload blocks where [`Segment::payload_places`] says they are.
    pub async fn read_payload_at(
        &self,
        client: &Client,
        meter: &Meter,
        schema: &Arc<Schema>,
        places: &[(u32, Range<u64>)],
        shape: Shape,
    ) -> Result<Payload> {
        let ranges: Vec<Range<u64>> = places.iter().map(|(_, r)| r.clone()).collect();
        let take = |pieces: &Pieces| {
            let decode = |(block, range): &(u32, Range<u64>)| {
                let rows = decode_block(self.index.key(), *block, &pieces.bytes(range)?, schema)?;
                Ok((*block, Arc::new(rows)))
            };
            Ok(Payload(places.iter().map(decode).collect::<Result<_>>()?))
        };
        self.index.read(client, meter, &ranges, shape, take).await
    }

    /// Reads what says where the payload of leaves lies, so that it need not be asked for later. No request for
    /// segments whose header says it.
    pub async fn read_payload_sizes(&self, client: &Client, meter: &Meter, leaves: &[u32]) -> Result<()> {
        let mut missing = Vec::new();
        {
            let known = self.sizes();
            let all = self.header.section(Section::PayloadSizePages).unwrap_or(0..0);
            // Copies may be of rows of any leaf.
            let ranges: Vec<Range<u64>> = match self.spilled() && all.end - all.start <= ALL_SIZES {
                true if leaves.is_empty() => Vec::new(),
                true => vec![all],
                false => leaves.iter().map(|leaf| self.header.payload_sizes_range(*leaf)).collect(),
            };
            for range in ranges {
                missing.extend(pages(&range).filter(|page| !known.contains_key(&page.start)));
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        missing.sort_unstable_by_key(|r| r.start);
        missing.dedup();
        let take = |pieces: &Pieces| {
            let page = |page: &Range<u64>| {
                let bytes = pieces.bytes(page)?;
                self.header.check_payload_sizes(&bytes)?;
                Ok((page.start, bytes))
            };
            missing.iter().map(page).collect::<Result<Vec<_>>>()
        };
        let read = self.index.read(client, meter, &missing, Shape::Few(SIZE_PAGES), take).await?;
        self.sizes().extend(read);
        Ok(())
    }

    /// The payload blocks of rows, and where they lie in the index file. No request if the header says it or
    /// [`Segment::read_payload_sizes`] read it.
    pub async fn payload_places(
        &self,
        client: &Client,
        meter: &Meter,
        ordinals: impl IntoIterator<Item = u32>,
    ) -> Result<Vec<(u32, Range<u64>)>> {
        let ordinals: Vec<u32> = ordinals.into_iter().collect();
        let blocks: BTreeSet<u32> = ordinals.iter().map(|o| self.header.payload_block_of(*o)).collect();
        if self.header.payload_sizes_in_header() {
            let place = |b: &u32| {
                let range = self.header.payload_block_range(*b);
                Ok((*b, range.ok_or_else(|| self.corrupt(format_args!("it has no payload block {b}")))?))
            };
            return blocks.iter().map(place).collect();
        }
        let leaves: BTreeSet<u32> = ordinals.iter().map(|o| self.header.leaf_of(*o)).collect();
        let leaves: Vec<u32> = leaves.into_iter().collect();
        self.read_payload_sizes(client, meter, &leaves).await?;
        let mut places = Vec::with_capacity(blocks.len());
        for leaf in leaves {
            let mut bytes = Vec::new();
            for page in pages(&self.header.payload_sizes_range(leaf)) {
                let known = self.sizes().get(&page.start).cloned();
                bytes.extend_from_slice(&known.unwrap_or_default());
            }
            let of_leaf = self.header.leaf_payload_blocks(leaf, &bytes);
            if of_leaf.is_err() {
                // Read anew the next time.
                self.sizes().clear();
            }
            places.extend(of_leaf?.into_iter().filter(|(b, _)| blocks.contains(b)));
        }
        places.sort_unstable_by_key(|(b, _)| *b);
        places.dedup_by_key(|(b, _)| *b);
        Ok(places)
    }

    /// Bytes that [`Segment::hold`] keeps, or keeps at most.
    pub fn bytes_to_hold(&self) -> u64 {
        let vectors: u64 = self.vector_runs().iter().map(|r| r.end - r.start).sum();
        let heads = if self.is_held() { self.head_bytes() } else { self.most_head_bytes() };
        self.header.facts().file_size + vectors + heads
    }

    /// Where the vectors of each row group lie.
    fn vector_runs(&self) -> Vec<Range<u64>> {
        let address = self.header.rows();
        let run = |g| {
            let rows: Range<u32> = address.group_rows(g);
            address.base[g]..address.vector_range(rows.end.saturating_sub(1)).end
        };
        (0..address.base.len()).map(run).collect()
    }

    /// Reads the whole index file and all vectors into memory, checked, so that queries send no requests. The cache is
    /// left out: it would hold everything once more.
    pub async fn hold(&self, client: &Client, meter: &Meter) -> Result<()> {
        let checks = self.read_checks(client, meter).await?;
        let address = self.header.rows();
        let groups = self.vector_runs();
        let index = vec![0..self.header.facts().file_size; 1];
        let codes = self.header.section(Section::Codes).unwrap_or(0..0);
        let check_index = |pieces: &Pieces| self.hold_codes(pieces.bytes(&codes)?);
        let check_vectors = |pieces: &Pieces| {
            (0..address.pages()).try_for_each(|page| {
                checks.check_page(self.rows.key(), page, &pieces.bytes(&address.page_range(page))?)
            })
        };
        let (index_meter, rows_meter) = (meter.fork(), meter.fork());
        futures::try_join!(
            self.index.read_to_hold(client, &index_meter, &index, check_index),
            self.rows.read_to_hold(client, &rows_meter, &groups, check_vectors)
        )?;
        self.leaves.hold_coarse();
        self.hold_heads().await
    }

    /// Whether everything is held in memory.
    pub fn is_held(&self) -> bool {
        self.index.held().is_some() && self.rows.held().is_some() && self.held_codes().is_some()
    }
}

/// The pages of a range of payload sizes.
fn pages(range: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
    let end = range.end;
    (range.start..range.end).step_by(SIZE_PAGE as usize).map(move |start| start..(start + SIZE_PAGE).min(end))
}
