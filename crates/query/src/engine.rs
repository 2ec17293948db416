//! The engine: reads of collections by name. Handles are cheap; what is immutable is kept between queries.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use esker_format::avro::Decoded;
use esker_format::keys::Made;
use esker_format::schema::Schema;
use esker_format::{CollectionId, Name, Result, Seq, Version};
use esker_store::{Client, Meter, Store};
use roaring::RoaringBitmap;

use crate::segment::Segment;
use crate::tail::Tail;

mod filters;
mod get;
mod hits;
pub(crate) mod load;
mod memory;
pub(crate) mod nearest;
mod page;
pub(crate) mod scan;
mod search;
pub(crate) mod see;
mod warm;

pub(crate) use filters::Recent;
pub use get::{Got, Stats};
pub(crate) use hits::value_at;
pub use page::{Cursor, Page, PageRequest};
pub use scan::{ScanRequest, Scanned, table_schema};
pub use see::{Access, Seen};
pub use warm::{Residency, Warm, WarmFilter, WarmHit};

/// Segments kept open per collection; those of the newest manifest seen always are.
const KEPT_SEGMENTS: usize = 64;

/// How the engine reads.
#[derive(Debug, Clone)]
pub struct Options {
    /// How old the answer of an eventual read may be.
    pub staleness: Duration,
    /// Codes of all segments together up to this many bytes are read whole, above that those of the leaves worth probing
    /// (INDEX §2).
    pub whole_codes: u64,
    /// Most bytes kept between queries: segments in memory, opened headers, codes, tails. Beyond it the collections that
    /// were not read for longest are let go of. The client's cache is beside it.
    pub memory: u64,
}

impl Default for Options {
    /// 5 s, 4 MiB, and all the memory there is.
    fn default() -> Self {
        Options { staleness: Duration::from_secs(5), whole_codes: 4 << 20, memory: u64::MAX }
    }
}

/// Reads every collection of a store.
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    store: Arc<Store>,
    options: Options,
    memory: memory::Memory,
    filters: filters::Resolutions,
    /// States between the pages of scans.
    pinned: page::Pins,
}

/// A collection, by name. Nothing is asked of the store before the first read.
#[derive(Debug, Clone)]
pub struct Reader {
    inner: Arc<Inner>,
    name: Name,
}

impl Engine {
    /// An engine over the collections of `store`, with the cache and the seams of its client.
    pub fn new(store: Arc<Store>, options: Options) -> Engine {
        Engine {
            inner: Arc::new(Inner {
                store,
                memory: memory::Memory::new(options.memory),
                options,
                filters: filters::Resolutions::default(),
                pinned: page::Pins::default(),
            }),
        }
    }

    /// The store.
    pub fn store(&self) -> &Arc<Store> {
        &self.inner.store
    }

    /// Bytes that are kept between queries; at most [`Options::memory`] once the queries under way are done.
    pub fn kept_bytes(&self) -> u64 {
        self.inner.memory.bytes()
    }

    /// A handle of a collection. No request is sent.
    pub fn collection(&self, name: &Name) -> Reader {
        Reader { inner: self.inner.clone(), name: name.clone() }
    }

    /// The names of all collections, sorted.
    pub async fn names(&self, meter: &Meter) -> Result<Vec<Name>> {
        let ids = self.inner.store.list(meter).await?;
        Ok(ids.into_iter().map(|id| id.name().clone()).collect())
    }
}

impl Reader {
    /// The collection's name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    pub(crate) fn client(&self) -> &Client {
        self.inner.store.client()
    }

    fn now_ms(&self) -> i64 {
        self.client().seams().clock.now_ms()
    }
}

/// What is kept of one life of a collection between queries: immutable things, and the last tail.
#[derive(Debug, Default)]
pub(crate) struct State {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    segments: HashMap<Made, Arc<Segment>>,
    deletes: HashMap<Made, Arc<RoaringBitmap>>,
    tail: Option<LastTail>,
    /// The newest manifest that was read from.
    newest: Version,
}

#[derive(Debug)]
struct LastTail {
    version: Version,
    position: Seq,
    schema: Schema,
    tail: Arc<Tail>,
    /// Per segment of the manifest, the rows that the tail superseded.
    superseded: Option<Arc<Vec<RoaringBitmap>>>,
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn segment(&self, made: Made) -> Option<Arc<Segment>> {
        self.lock().segments.get(&made).cloned()
    }

    pub fn keep_segment(&self, segment: &Arc<Segment>) {
        self.lock().segments.insert(segment.made, segment.clone());
    }

    pub fn deletes(&self, made: Made) -> Option<Arc<RoaringBitmap>> {
        self.lock().deletes.get(&made).cloned()
    }

    pub fn keep_deletes(&self, made: Made, deletes: &Arc<RoaringBitmap>) {
        self.lock().deletes.insert(made, deletes.clone());
    }

    /// Lets go of what the newest manifest does not name: at once of what is held in memory, of the rest when there is much
    /// of it.
    pub fn trim(&self, version: Version, named: &[esker_format::manifest::Segment]) {
        let mut kept = self.lock();
        if version < kept.newest {
            return;
        }
        kept.newest = version;
        kept.segments.retain(|made, s| !s.is_held() || named.iter().any(|n| n.made == *made));
        if kept.segments.len() > KEPT_SEGMENTS {
            kept.segments.retain(|made, _| named.iter().any(|s| s.made == *made));
        }
        if kept.deletes.len() > KEPT_SEGMENTS {
            kept.deletes
                .retain(|made, _| named.iter().any(|s| s.deletes.as_ref().is_some_and(|d| d.made == *made)));
        }
    }

    /// Bytes of everything that is kept.
    pub fn bytes(&self) -> u64 {
        let kept = self.lock();
        let segments: u64 = kept.segments.values().map(|s| s.bytes()).sum();
        let bitmaps = kept.tail.iter().flat_map(|t| t.superseded.iter().flat_map(|all| all.iter()));
        let bitmaps = bitmaps.chain(kept.deletes.values().map(AsRef::as_ref));
        let bitmaps: u64 = bitmaps.map(|b| b.serialized_size() as u64).sum();
        segments + bitmaps + kept.tail.as_ref().map_or(0, |t| t.tail.bytes())
    }

    /// Ids that the last tail touched.
    pub fn last_tail_ids(&self) -> usize {
        self.lock().tail.as_ref().map_or(0, |t| t.tail.ids())
    }

    /// The tail of a snapshot, worked out once.
    pub fn tail(
        &self,
        id: &CollectionId,
        version: Version,
        position: Seq,
        schema: &Schema,
        entries: &[Arc<Decoded>],
    ) -> Result<Arc<Tail>> {
        if let Some(last) = &self.lock().tail
            && (last.version, last.position) == (version, position)
            && last.schema == *schema
        {
            return Ok(last.tail.clone());
        }
        let tail = Arc::new(Tail::new(id, entries)?);
        let last =
            LastTail { version, position, schema: schema.clone(), tail: tail.clone(), superseded: None };
        self.lock().tail = Some(last);
        Ok(tail)
    }

    /// What the tail superseded, if that was worked out.
    pub fn superseded(&self, version: Version, position: Seq) -> Option<Arc<Vec<RoaringBitmap>>> {
        let kept = self.lock();
        let last = kept.tail.as_ref().filter(|t| (t.version, t.position) == (version, position))?;
        last.superseded.clone()
    }

    pub fn keep_superseded(&self, version: Version, position: Seq, superseded: &Arc<Vec<RoaringBitmap>>) {
        if let Some(last) = &mut self.lock().tail
            && (last.version, last.position) == (version, position)
        {
            last.superseded = Some(superseded.clone());
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
