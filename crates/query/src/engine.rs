//! The engine: reads of collections by name. Handles are cheap; what is immutable is kept between queries.

use std::sync::Arc;
use std::time::Duration;

use esker_format::{Name, Result};
use esker_store::{Client, Meter, Store};

mod exact;
mod filters;
mod get;
mod hits;
pub(crate) mod leaves;
pub(crate) mod load;
mod memory;
mod missed;
pub(crate) mod nearest;
mod page;
mod rerank;
pub(crate) mod scan;
mod scene;
mod search;
pub(crate) mod see;
mod state;
mod warm;

pub(crate) use filters::{KEPT, KEPT_BYTES, Recent};
pub use get::{Got, Stats};
pub(crate) use hits::value_at;
pub use page::{Cursor, Page, PageRequest};
pub use scan::{ScanRequest, Scanned, table_schema};
pub use see::{Access, Seen};
pub(crate) use state::State;
pub use warm::{Residency, Warm, WarmFilter, WarmHit};

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

#[cfg(test)]
pub(crate) mod tests;
