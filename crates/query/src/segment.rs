//! A segment as a query uses it: the hot header decoded once, everything else read when it is needed.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use esker_format::head::Part;
use esker_format::keys::{Keys, Made};
use esker_format::manifest;
use esker_format::schema::{self, Settings};
use esker_format::segment::index::Header;
use esker_format::segment::payload::RowHeads;
use esker_format::{Error, Result};
use esker_index::{Bitset, Centroids, Encoder, Metric};
use esker_store::{Client, Meter};
use roaring::RoaringBitmap;

use crate::ranges::{File, Pieces, Shape};

mod answer;
mod codes;
mod columns;
mod heads;
mod ids;
mod leaves;
mod rows;

pub(crate) use answer::Answer;
pub use answer::FilterPlan;
pub(crate) use codes::{Codes, IdPlane, Want};
pub(crate) use columns::vector_array;
pub(crate) use ids::Hashed;
pub(crate) use leaves::Leaves;
pub(crate) use rows::{Payload, Vectors};

/// An immutable segment, opened. Shared by all queries that see it.
#[derive(Debug)]
pub(crate) struct Segment {
    pub made: Made,
    pub header: Header,
    pub index: File,
    pub rows: File,
    pub leaves: Arc<Leaves>,
    /// All codes, once they were read.
    codes: OnceLock<Arc<Codes>>,
    /// Ids, times and versions of all rows, in segments that are held.
    heads: OnceLock<RowHeads>,
    /// Pages of payload sizes by their offset, for segments too large to have them in the header.
    sizes: Mutex<BTreeMap<u64, Bytes>>,
}

/// The metric as the mathematics names it.
pub(crate) fn metric(metric: schema::Metric) -> Metric {
    match metric {
        schema::Metric::Cosine => Metric::Cosine,
        schema::Metric::L2 => Metric::L2,
        schema::Metric::Dot => Metric::Dot,
    }
}

impl Segment {
    /// Opens a segment from what `head` had of it, or from its index file: one request.
    pub async fn open(
        client: &Client,
        meter: &Meter,
        keys: &Keys,
        meta: &manifest::Segment,
        settings: &Settings,
        part: Option<&Part>,
    ) -> Result<Arc<Segment>> {
        let index = File::new(keys.index(meta.made));
        let parse = |bytes: Bytes| {
            if bytes.len() as u64 != meta.header_size || crc32c::crc32c(&bytes) != meta.header_crc {
                return Err(Error::corrupt(index.key(), "its header is not the one that was published"));
            }
            Header::parse(index.key(), bytes)
        };
        // Head is advisory: a part that does not fit costs a request.
        let header = match part.and_then(|p| parse(p.header.clone()).ok()) {
            Some(header) => header,
            None => {
                let range = 0..meta.header_size;
                let take = |p: &Pieces| parse(p.bytes(&range)?);
                index.read(client, meter, std::slice::from_ref(&range), Shape::AsGiven, take).await?
            }
        };
        let (facts, own) = (header.facts(), header.settings());
        if own != settings || u64::from(facts.rows) != meta.rows {
            return Err(Error::corrupt(index.key(), "it is the index of another segment"));
        }
        let dimension = own.dimension as usize;
        let centroids =
            Centroids::decode(facts.centroid_bits, facts.leaves as usize, dimension, &header.centroids())
                .map_err(|e| Error::corrupt(index.key(), e))?;
        let (metric, basis) = (metric(own.metric), header.basis());
        let encoder = Encoder::stored(metric, dimension, facts.rotation_seed, facts.scale, basis.as_deref())
            .map_err(|e| Error::corrupt(index.key(), e))?;
        if header.bare_group_bytes() as usize != encoder.group_bytes() {
            return Err(Error::corrupt(index.key(), "its codes are not those of its dimension or basis"));
        }
        let leaves = Leaves::new(centroids, encoder);
        let segment = Segment {
            made: meta.made,
            index,
            rows: File::new(keys.rows(meta.made)),
            leaves: Arc::new(leaves),
            codes: OnceLock::new(),
            heads: OnceLock::new(),
            sizes: Mutex::default(),
            header,
        };
        if let Some(codes) = part.and_then(|p| p.codes.clone())
            && let Err(e) = segment.hold_codes(codes)
        {
            tracing::warn!(key = segment.index.key(), error = %e, "the codes in head are ignored");
        }
        Ok(Arc::new(segment))
    }

    /// Number of rows, dead ones included.
    pub fn row_count(&self) -> u32 {
        self.header.facts().rows
    }

    /// Elements of a vector.
    pub fn dimension(&self) -> usize {
        self.header.settings().dimension as usize
    }

    /// Bytes of an element of a stored vector.
    pub fn width(&self) -> usize {
        self.header.settings().vector_type.width()
    }

    /// Whether leaves have copies of rows of other leaves.
    pub fn spilled(&self) -> bool {
        self.header.is_spilled()
    }

    /// The posting of a row in its own leaf.
    pub fn own_posting(&self, ordinal: u32) -> u32 {
        let leaf = self.header.leaf(self.header.leaf_of(ordinal));
        leaf.postings.start + (ordinal - leaf.ordinals.start)
    }

    /// Bytes that it takes in memory as it is now.
    pub fn bytes(&self) -> u64 {
        let facts = self.header.facts();
        let centroids = 4 * u64::from(facts.leaves) * self.dimension() as u64;
        let index = match self.index.held() {
            // The codes are a part of it.
            Some(index) => index.len(),
            None => self.held_codes().map_or(0, |codes| codes.bytes()),
        };
        let sizes: u64 = self.sizes().values().map(|page| page.len() as u64).sum();
        let rows = self.rows.held().map_or(0, Pieces::len) + self.head_bytes();
        self.header.bytes().len() as u64 + centroids + self.leaves.code_bytes() + index + rows + sizes
    }

    /// Refuses what a range of the index file names when it is outside of what can be asked for.
    fn corrupt(&self, what: impl std::fmt::Display) -> Error {
        Error::corrupt(self.index.key(), what)
    }

    fn sizes(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Bytes>> {
        self.sizes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Rows of a segment, as a set of ordinals.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Rows {
    /// Every row of the segment.
    All,
    /// These.
    Only(Arc<RoaringBitmap>),
}

impl Rows {
    /// All rows but these.
    pub fn except(rows: u32, gone: &RoaringBitmap) -> Rows {
        if gone.is_empty() { Rows::All } else { Rows::Only(Arc::new(every(rows) - gone)) }
    }

    /// How many, of a segment with `rows` rows.
    pub fn count(&self, rows: u32) -> u64 {
        match self {
            Rows::All => u64::from(rows),
            Rows::Only(only) => only.len(),
        }
    }

    /// Without these.
    pub fn without(self, rows: u32, gone: &RoaringBitmap) -> Rows {
        match self {
            Rows::All => Rows::except(rows, gone),
            Rows::Only(only) if gone.is_empty() => Rows::Only(only),
            Rows::Only(only) => Rows::Only(Arc::new(&*only - gone)),
        }
    }

    /// The ordinals in `range`, ascending.
    pub fn within(&self, range: Range<u32>) -> Vec<u32> {
        match self {
            Rows::All => range.collect(),
            Rows::Only(only) => only.range(range).collect(),
        }
    }
}

/// The ordinals `0..rows`.
pub(crate) fn every(rows: u32) -> RoaringBitmap {
    let mut all = RoaringBitmap::new();
    all.insert_range(0..rows);
    all
}

/// The postings whose rows are in a set, as scans want them; nothing when all are.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mask(Option<Arc<Bitset>>);

impl Mask {
    /// For scans of the leaves that `codes` have, copies of rows of others among them.
    pub fn new(segment: &Segment, rows: &Rows, codes: &Codes) -> Mask {
        let Rows::Only(only) = rows else { return Mask(None) };
        if !segment.spilled() {
            return Mask::own(segment, rows);
        }
        let mut set = Bitset::new(segment.header.facts().postings as usize);
        for leaf in codes.leaves() {
            let leaf = segment.header.leaf(*leaf);
            let own = only.range(leaf.ordinals.clone());
            own.for_each(|o| set.insert((leaf.postings.start + (o - leaf.ordinals.start)) as usize));
            let copies = leaf.postings.start + leaf.ordinals.len() as u32..leaf.postings.end;
            copies
                .filter(|posting| segment.ordinal(*posting, codes).is_some_and(|o| only.contains(o)))
                .for_each(|posting| set.insert(posting as usize));
        }
        Mask(Some(Arc::new(set)))
    }

    /// For scans of rows in their own leaves.
    pub fn own(segment: &Segment, rows: &Rows) -> Mask {
        let Rows::Only(only) = rows else { return Mask(None) };
        let (postings, rows) = (segment.header.facts().postings as usize, segment.row_count());
        let (starts, first) = (segment.header.leaf_starts(), segment.header.posting_starts());
        let mut leaf = 0;
        // Ordinals ascend, and so do their leaves.
        let mut posting = |ordinal: u32| {
            while starts[leaf + 1] <= ordinal {
                leaf += 1;
            }
            (first[leaf] + (ordinal - starts[leaf])) as usize
        };
        if only.len() < u64::from(rows / 2) {
            let mut set = Bitset::new(postings);
            only.iter().for_each(|ordinal| set.insert(posting(ordinal)));
            return Mask(Some(Arc::new(set)));
        }
        let mut set = Bitset::full(postings);
        (every(rows) - &**only).iter().for_each(|ordinal| set.remove(posting(ordinal)));
        Mask(Some(Arc::new(set)))
    }

    /// Without these rows, which are in their own leaves. `None` where all rows are in it.
    pub fn without(&self, segment: &Segment, gone: &RoaringBitmap) -> Option<Mask> {
        let mut set = self.0.clone()?;
        if !gone.is_empty() {
            let left = Arc::make_mut(&mut set);
            gone.iter().for_each(|ordinal| left.remove(segment.own_posting(ordinal) as usize));
        }
        Some(Mask(Some(set)))
    }

    /// Bytes of the groups of codes that a scan of all leaves looks at.
    pub fn code_bytes(&self, segment: &Segment) -> u64 {
        match &self.0 {
            Some(set) => set.groups() as u64 * u64::from(segment.header.facts().group_bytes),
            None => segment.code_bytes(),
        }
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> u64 {
        self.0.as_ref().map_or(0, |set| set.bytes() as u64)
    }

    /// The lanes of a group of postings that pass.
    pub fn lanes(&self, group: usize) -> u32 {
        self.0.as_ref().map_or(u32::MAX, |set| set.group(group))
    }
}
