//! Where validated batches go.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use esker_format::avro::Summary;
use esker_format::wal::PendingBatch;
use esker_format::{Kind, Result, Seq, limits};
use esker_store::{Collection, Meter};
use futures::future::BoxFuture;

use crate::ingest::append;

/// What an append came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The entry that holds the batch: the position to read it at.
    pub position: Seq,
    /// The batch's token was known: it was there before, and nothing was written.
    pub duplicate: bool,
}

/// Takes the batches of one collection, several at a time.
#[async_trait]
pub trait BatchSink: Send + Sync {
    /// Makes a batch durable and visible, widening the collection's columns first when `summary` asks for it. A batch
    /// whose token is known is answered as it was the first time.
    async fn append(&self, batch: PendingBatch, summary: &Summary) -> Result<Appended>;

    /// Makes room in the log when it nears its limits, waiting for a compaction that is already at it. Whether there
    /// is more room now.
    async fn maybe_compact(&self) -> Result<bool>;
}

/// Compacts a collection: what the command line injects, since only the compactor makes segments.
pub type Compact = Box<dyn Fn() -> BoxFuture<'static, Result<()>> + Send + Sync>;

/// A compaction is due at this share of the log's limits, so that imports never run into them.
const DUE_ENTRIES: u64 = limits::TAIL_ENTRIES / 2;
/// See [`DUE_ENTRIES`]. The rarer, the less often a large import writes its rows again.
const DUE_BYTES: u64 = limits::TAIL_BYTES / 4 * 3;

/// The batches of an import, into one collection.
pub struct CollectionSink {
    collection: Arc<Collection>,
    meter: Meter,
    compact: Option<Compact>,
    /// One compaction at a time; how many there were.
    compactions: tokio::sync::Mutex<u64>,
    begun: AtomicU64,
    /// Bytes appended since the last compaction.
    bytes: AtomicU64,
    position: AtomicU64,
    full: AtomicBool,
}

impl CollectionSink {
    /// A sink that counts its requests on `meter` and compacts by `compact`, if there is one.
    pub fn new(collection: Arc<Collection>, meter: Meter, compact: Option<Compact>) -> Self {
        CollectionSink {
            collection,
            meter,
            compact,
            compactions: tokio::sync::Mutex::new(0),
            begun: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            position: AtomicU64::new(0),
            full: AtomicBool::new(false),
        }
    }

    fn due(&self) -> bool {
        let watermark = self.collection.last_seen().map_or(0, |m| m.watermark);
        let entries = self.position.load(Ordering::Relaxed).saturating_sub(watermark);
        self.full.load(Ordering::Relaxed)
            || entries >= DUE_ENTRIES
            || self.bytes.load(Ordering::Relaxed) >= DUE_BYTES
    }
}

#[async_trait]
impl BatchSink for CollectionSink {
    async fn append(&self, batch: PendingBatch, summary: &Summary) -> Result<Appended> {
        let bytes = batch.bytes() as u64;
        let answer = append(&self.collection, &self.meter.fork(), batch, summary).await;
        if answer.as_ref().is_err_and(|e| e.kind() == Kind::Busy) {
            self.full.store(true, Ordering::Relaxed);
        }
        let done = answer?;
        if !done.repeated {
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
            self.position.fetch_max(done.position, Ordering::Relaxed);
        }
        Ok(Appended { position: done.position, duplicate: done.repeated })
    }

    async fn maybe_compact(&self) -> Result<bool> {
        let Some(compact) = &self.compact else { return Ok(false) };
        if !self.due() {
            return Ok(false);
        }
        let before = self.begun.load(Ordering::Relaxed);
        let mut done = self.compactions.lock().await;
        // Someone compacted while this call waited.
        if *done > before {
            return Ok(true);
        }
        self.bytes.store(0, Ordering::Relaxed);
        compact().await?;
        self.full.store(false, Ordering::Relaxed);
        *done += 1;
        self.begun.store(*done, Ordering::Relaxed);
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
