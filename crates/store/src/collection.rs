//! A collection as one process knows it: facts that only grow, shared by its writers and readers.
//!
//! What is remembered is never taken for truth by itself: an append and a strong read both probe the register after
//! they have used it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use esker_format::head::Head;
use esker_format::keys::{Keys, parse_descending};
use esker_format::manifest::Manifest;
use esker_format::wal::Batch;
use esker_format::{CollectionId, Error, Kind, Name, Result, Seq, append, limits};

use crate::client::{Client, ETag, Listed};
use crate::meter::Meter;
use crate::tail::TailEntry;
use crate::writer::Queue;

/// Entries kept decoded for the next reader, in bytes; those beyond are remembered by their header alone.
const KEPT_BYTES: u64 = 64 << 20;
/// One page of the log's listing: more than the longest tail that is accepted.
const LOG_PAGE: usize = 1000;

/// One life of a collection. Shared by everything in the process that reads or writes it.
#[derive(Debug)]
pub struct Collection {
    client: Client,
    id: CollectionId,
    keys: Keys,
    known: Mutex<Option<Known>>,
    pub(crate) queue: Queue,
}

/// What was learnt about a collection.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    /// The newest version seen.
    pub manifest: Arc<Manifest>,
    /// The newest head seen; its manifest may be older.
    pub head: Option<Arc<Head>>,
    /// Slots above the watermark that were seen taken.
    pub slots: BTreeMap<Seq, Slot>,
    /// When the log was last listed or the register probed.
    pub seen: Instant,
    /// When the register was last probed: `manifest` was the newest then, or a newer one was seen since.
    pub probed: Option<Instant>,
    /// When manifest and slots together were last proven to be the whole collection.
    pub proven: Option<Instant>,
}

/// A slot that was seen taken.
#[derive(Debug, Clone, Default)]
pub(crate) struct Slot {
    /// From a listing.
    pub etag: Option<ETag>,
    /// Bytes of the entry, and of its body once the header was read.
    pub bytes: u64,
    /// The header's batches, once read.
    pub batches: Option<Arc<[Batch]>>,
    /// The entry, if it is kept.
    pub entry: Option<Arc<TailEntry>>,
    /// The entry, as long as a reader has it.
    lent: Weak<TailEntry>,
}

/// An entry above the watermark, as far as this process has seen it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TailSeen {
    /// Its number.
    pub seq: Seq,
    /// Its bytes, with those of its body once its header was read.
    pub bytes: u64,
    /// When its oldest batch arrived, milliseconds since the epoch; none until its header was read.
    pub arrived_ms: Option<i64>,
}

/// An instant by both clocks. A machine that is frozen stops its monotonic clock, one whose time is set wrong moves
/// its wall clock: the longer of the two differences is taken.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Instant {
    elapsed: Duration,
    wall_ms: i64,
}

impl Collection {
    /// A handle that knows nothing yet. No request is sent.
    pub fn new(client: Client, id: CollectionId) -> Arc<Self> {
        let keys = Keys::new(&id);
        Arc::new(Collection { client, id, keys, known: Mutex::new(None), queue: Queue::default() })
    }

    /// Which collection.
    pub fn id(&self) -> &CollectionId {
        &self.id
    }

    /// Its name.
    pub fn name(&self) -> &Name {
        self.id.name()
    }

    /// Its keys.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The storage it is in.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The newest manifest this process has seen, without a request. `None` before the first read or write.
    pub fn last_seen(&self) -> Option<Arc<Manifest>> {
        self.known().map(|k| k.manifest)
    }

    /// The entries above the watermark that this process has seen, oldest first, without a request.
    pub fn tail_seen(&self) -> Vec<TailSeen> {
        let lock = self.lock();
        let slots = lock.iter().flat_map(|known| &known.slots);
        let arrived = |slot: &Slot| slot.batches.as_ref()?.iter().map(|b| b.arrived_ms).min();
        slots
            .map(|(seq, slot)| TailSeen { seq: *seq, bytes: slot.bytes, arrived_ms: arrived(slot) })
            .collect()
    }

    /// Forgets what was learnt, so that the next read or write starts cold.
    pub fn forget(&self) {
        *self.lock() = None;
    }

    /// The newest manifest: one probe of the register when warm.
    pub async fn manifest(&self, meter: &Meter) -> Result<Arc<Manifest>> {
        let start = match self.known() {
            Some(known) => known.manifest,
            None => self.read_head(meter).await?.0,
        };
        live(self.follow(meter, start).await?)
    }

    pub(crate) fn known(&self) -> Option<Known> {
        self.lock().clone()
    }

    pub(crate) fn now(&self) -> Instant {
        let clock = &self.client.seams().clock;
        Instant { elapsed: clock.elapsed(), wall_ms: clock.now_ms() }
    }

    /// Time since `then`, frozen time included.
    pub(crate) fn since(&self, then: Instant) -> Duration {
        let now = self.now();
        let wall = Duration::from_millis(u64::try_from(now.wall_ms - then.wall_ms).unwrap_or(0));
        wall.max(now.elapsed - then.elapsed)
    }

    /// Adds facts: a committed manifest, its head, slots above its floor that were seen taken.
    pub(crate) fn learn(
        &self,
        manifest: Arc<Manifest>,
        head: Option<Arc<Head>>,
        slots: impl IntoIterator<Item = (Seq, Slot)>,
    ) {
        let seen = self.now();
        let mut lock = self.lock();
        let known = lock.get_or_insert_with(|| Known {
            manifest: manifest.clone(),
            head: None,
            slots: BTreeMap::new(),
            seen,
            probed: None,
            proven: None,
        });
        known.seen = seen;
        if manifest.version >= known.manifest.version {
            known.manifest = manifest;
        }
        if let Some(head) = head
            && known.head.as_ref().is_none_or(|old| old.manifest.version <= head.manifest.version)
        {
            known.head = Some(head);
        }
        for (seq, slot) in slots {
            known.slots.entry(seq).or_default().merge(slot);
        }
        let watermark = known.manifest.watermark;
        known.slots.retain(|seq, _| *seq > watermark);
        known.keep_within(KEPT_BYTES);
    }

    /// Notes that a version was the newest at `start`.
    pub(crate) fn learn_newest(&self, newest: &Arc<Manifest>, start: Instant) {
        self.learn(newest.clone(), None, []);
        if let Some(known) = &mut *self.lock() {
            known.probed = Some(start);
        }
    }

    /// Notes that what is known was complete at `start`.
    pub(crate) fn prove(&self, start: Instant) {
        if let Some(known) = &mut *self.lock() {
            known.proven = Some(start);
        }
    }

    /// What `head` says, and the head itself. When it is missing, the newest names in the register: a listing.
    pub(crate) async fn read_head(&self, meter: &Meter) -> Result<(Arc<Manifest>, Option<Arc<Head>>)> {
        let key = self.keys.head();
        if let Some((bytes, _)) = self.client.get(meter, &key).await? {
            // Advisory: one that cannot be read costs requests, not answers.
            match Head::decode(&key, &bytes) {
                Ok(head) if head.manifest.collection == self.id => {
                    let head = Arc::new(head);
                    return Ok((Arc::new(head.manifest.clone()), Some(head)));
                }
                Ok(_) => tracing::warn!(key, "head is of another collection and is ignored"),
                Err(e) => tracing::warn!(key, error = %e, "head cannot be read and is ignored"),
            }
        }
        Ok((self.newest_listed(meter).await?, None))
    }

    /// One page of the log, newest first.
    pub(crate) async fn list_log(&self, meter: &Meter) -> Result<Vec<(Seq, Slot)>> {
        let prefix = self.keys.wal_prefix();
        let page = self.client.list_page(meter, &prefix, None, LOG_PAGE).await?;
        page.objects.into_iter().map(|l| Ok((log_seq(&prefix, &l)?, Slot::listed(l)))).collect()
    }
}

fn log_seq(prefix: &str, listed: &Listed) -> Result<Seq> {
    let name = listed.key.strip_prefix(prefix).and_then(|n| n.strip_suffix(".avro"));
    name.and_then(parse_descending)
        .ok_or_else(|| Error::corrupt(&listed.key, "it is in the log and is no entry's name"))
}

/// Refuses a dropped collection.
pub(crate) fn live(manifest: Arc<Manifest>) -> Result<Arc<Manifest>> {
    if manifest.dropped {
        return Err(gone(&manifest.collection));
    }
    Ok(manifest)
}

pub(crate) fn gone(id: &CollectionId) -> Error {
    Error::new(Kind::Gone, format!("collection `{}` was dropped", id.name()))
}

impl Collection {
    fn lock(&self) -> MutexGuard<'_, Option<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// The end of the contiguous run of taken slots above the watermark of `manifest`.
    pub fn run_end(&self, manifest: &Manifest) -> Seq {
        let above = self.slots.range(manifest.watermark + 1..).map(|(seq, _)| *seq);
        append::tail(manifest.watermark, above).last().copied().unwrap_or(manifest.watermark)
    }

    /// The greatest slot seen taken.
    pub fn last(&self) -> Seq {
        self.slots
            .last_key_value()
            .map_or(self.manifest.watermark, |(seq, _)| *seq)
            .max(self.manifest.watermark)
    }

    /// Bytes of the tail, as far as they are known.
    pub fn tail_bytes(&self) -> u64 {
        self.slots.values().map(|s| s.bytes).sum()
    }

    /// The same, a slot whose header was not read counted with the largest body that it can have.
    pub fn tail_bytes_at_most(&self) -> u64 {
        let unread = self.slots.values().filter(|s| s.batches.is_none()).count();
        self.tail_bytes() + unread as u64 * limits::BATCH_BYTES as u64
    }

    /// Lets go of entries, oldest kept longest, while more than `bytes` of them are held.
    fn keep_within(&mut self, bytes: u64) {
        let mut kept = 0;
        for slot in self.slots.values_mut() {
            let held = slot.entry.as_ref().map_or(0, |e| e.held_bytes());
            kept += held;
            if kept > bytes && held > 0 {
                kept -= held;
                slot.entry = None;
            }
        }
    }
}

impl Slot {
    fn listed(listed: Listed) -> Self {
        Slot { etag: Some(listed.etag), bytes: listed.size, ..Slot::default() }
    }

    /// A slot whose entry was read or written.
    pub fn of(entry: Arc<TailEntry>) -> Self {
        let batches = entry.entry.batches.clone().into();
        Slot {
            etag: None,
            bytes: entry.entry.bytes,
            batches: Some(batches),
            lent: Arc::downgrade(&entry),
            entry: Some(entry),
        }
    }

    /// The entry, if it is kept or a reader has it.
    pub fn entry(&self) -> Option<Arc<TailEntry>> {
        self.entry.clone().or_else(|| self.lent.upgrade())
    }

    fn merge(&mut self, o: Slot) {
        self.bytes = self.bytes.max(o.bytes);
        self.etag = o.etag.or(self.etag.take());
        self.batches = self.batches.take().or(o.batches);
        // What readers have already stays the one that is known.
        self.entry = self.entry().or(o.entry);
        if let Some(entry) = &self.entry {
            self.lent = Arc::downgrade(entry);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
