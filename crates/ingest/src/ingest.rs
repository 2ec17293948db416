//! Writes to the collections of a store: validate, widen the columns if need be, append.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use esker_format::avro::Summary;
use esker_format::avro::container::Block;
use esker_format::record::{Op, Record};
use esker_format::schema::Settings;
use esker_format::wal::PendingBatch;
use esker_format::{Kind, Name, Result, Seq, Token, limits};
use esker_store::{Collection, Meter, Store};
use futures::future::BoxFuture;

use crate::batch::{Cut, Target};
use crate::sink::{Appended, BatchSink};

/// What a write came to: it is durable and visible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Ack {
    /// Reads at this position or later see the write.
    pub position: Seq,
    /// Records written.
    pub rows: u32,
    /// The write's name: writing again under it changes nothing.
    pub token: Token,
    /// A write of this name was there before; nothing was written now.
    pub duplicate: bool,
}

/// The writer of a store. Each call is one batch: all of its records become visible at once, or none.
#[derive(Debug, Clone)]
pub struct Ingest {
    store: Arc<Store>,
}

impl Ingest {
    /// A writer. No request is sent.
    pub fn new(store: Arc<Store>) -> Self {
        Ingest { store }
    }

    /// Inserts records, or replaces those of the same id; of equal ids in the call the last wins. `token` names a write
    /// that may be tried again; without one, a fresh one is drawn.
    ///
    /// # Errors
    /// Invalid, naming `records[i].field`, when a record or the batch breaks a rule, and NotFound when there is no such
    /// collection: nothing was written. Unknown, with the token, when the outcome could not be learnt: call again with
    /// that token. Busy when the log is at its limit until a compaction.
    pub async fn upsert(
        &self,
        meter: &Meter,
        name: &Name,
        records: &[Record],
        token: Option<Token>,
    ) -> Result<Ack> {
        self.write(meter, name, token, |target| target.upsert(records)).await
    }

    /// Deletes records. Ids that are not there are no error.
    ///
    /// # Errors
    /// As [`Ingest::upsert`].
    pub async fn delete<S: AsRef<str> + Sync>(
        &self,
        meter: &Meter,
        name: &Name,
        ids: &[S],
        token: Option<Token>,
    ) -> Result<Ack> {
        self.write(meter, name, token, |target| target.delete(ids)).await
    }

    /// [`Ingest::upsert`] or a delete from an Avro object container file.
    ///
    /// # Errors
    /// As [`Ingest::upsert`].
    pub async fn container(
        &self,
        meter: &Meter,
        name: &Name,
        op: Op,
        file: &Bytes,
        token: Option<Token>,
    ) -> Result<Ack> {
        self.write(meter, name, token, |target| target.container(op, file)).await
    }

    /// [`Ingest::upsert`] or a delete from Avro blocks in our schema, which are stored byte for byte.
    ///
    /// # Errors
    /// As [`Ingest::upsert`].
    pub async fn blocks(
        &self,
        meter: &Meter,
        name: &Name,
        op: Op,
        blocks: &[Block],
        token: Option<Token>,
    ) -> Result<Ack> {
        self.write(meter, name, token, |target| target.blocks(op, blocks.to_vec())).await
    }

    async fn write(
        &self,
        meter: &Meter,
        name: &Name,
        token: Option<Token>,
        cut: impl Fn(&Target) -> Result<Cut>,
    ) -> Result<Ack> {
        let seams = self.store.client().seams();
        let (fresh, token) = (token.is_none(), token.unwrap_or_else(|| seams.token()));
        let mut known: Option<Arc<Collection>> = None;
        loop {
            let collection = self.store.collection(meter, name).await?;
            let target =
                Target { collection: collection.id().clone(), settings: settings(&collection, meter).await? };
            let (batch, summary) = cut(&target)?.into_pending(token, seams.clock.now_ms());
            match append(&collection, meter, batch, &summary, fresh).await {
                // Dropped since this process last looked; the name may be another collection's by now.
                Err(e) if e.kind() == Kind::Gone && known.is_none() => known = Some(collection),
                Err(e) => return Err(e),
                Ok(done) => {
                    return Ok(Ack {
                        position: done.position,
                        rows: done.rows,
                        token,
                        duplicate: done.repeated,
                    });
                }
            }
        }
    }
}

async fn settings(collection: &Collection, meter: &Meter) -> Result<Settings> {
    match collection.last_seen() {
        Some(manifest) => Ok(manifest.settings.clone()),
        None => Ok(collection.manifest(meter).await?.settings.clone()),
    }
}

/// Commits the wider schema first: an entry whose keys a reader cannot know would be unreadable.
async fn append(
    collection: &Collection,
    meter: &Meter,
    batch: PendingBatch,
    summary: &Summary,
    fresh: bool,
) -> Result<esker_store::Appended> {
    if !summary.keys.is_empty() {
        let keys = summary.keys.clone();
        collection
            .alter(meter, move |schema| schema.admit(keys.iter().map(|(k, seen)| (k.as_str(), seen))))
            .await
            // The batch was not sent, whatever became of the schema: its token is the one to call again with.
            .map_err(|e| if e.kind() == Kind::Unknown { e.with_token(batch.token) } else { e })?;
    }
    collection.append(meter, batch, fresh).await
}

/// Compacts a collection: what the command line injects, since only the compactor makes segments.
pub type Compact = Box<dyn Fn() -> BoxFuture<'static, Result<()>> + Send + Sync>;

/// A compaction is due at this share of the log's limits, so that imports never run into them.
const DUE_ENTRIES: u64 = limits::TAIL_ENTRIES / 2;
/// See [`DUE_ENTRIES`].
const DUE_BYTES: u64 = limits::TAIL_BYTES / 4;

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
        let answer = append(&self.collection, &self.meter.fork(), batch, summary, false).await;
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
