//! What the tests of the protocol share: a store whose next create can be made to go wrong, batches, a small world.

use std::collections::HashMap;
use std::fmt;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use esker_format::Token;
use esker_format::avro::container::Block;
use esker_format::avro::{encode_record, encode_tombstone};
use esker_format::record::{Op, RecordRef};
use esker_format::schema::{Metric, Schema, Settings, VectorType};
use esker_format::wal::PendingBatch;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};

use super::*;
use crate::names::Store;
use crate::open::Backend;
use crate::seams::{Clock, Seams, SimulatedClock};

/// What happens to a create.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Fault {
    /// Nothing is stored and nothing is answered.
    FailBefore,
    /// It is stored and the answer is lost.
    LostReply,
    /// The answer says that something is there; nothing is.
    Empty409,
    /// The answer never comes; nothing is stored.
    Stall,
    /// The store does not let this process write there.
    Denied,
}

/// Memory whose creates of keys that contain a text go wrong as often as scripted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faulty {
    inner: InMemory,
    script: Arc<Mutex<Vec<(&'static str, Fault)>>>,
    /// What each request takes.
    latency: Arc<Mutex<Duration>>,
    /// When each object was put.
    dates: Arc<Mutex<HashMap<Path, SystemTime>>>,
    clock: StoreClock,
}

/// The clock of the storage shows what those of processes do.
#[derive(Debug, Clone)]
struct StoreClock(Arc<SimulatedClock>);

impl Default for StoreClock {
    fn default() -> Self {
        StoreClock(Arc::new(SimulatedClock::new(SimulatedClock::START_MS)))
    }
}

impl Faulty {
    pub(crate) fn next_create_of(&self, key: &'static str, fault: Fault) {
        self.script.lock().unwrap().push((key, fault));
    }

    pub(crate) fn slow_down(&self, latency: Duration) {
        *self.latency.lock().unwrap() = latency;
    }

    /// Never at once, so that calls which overlap interleave.
    #[expect(clippy::disallowed_methods, reason = "the paused time of a test")]
    async fn travel(&self) {
        let latency = *self.latency.lock().unwrap();
        match latency {
            Duration::ZERO => tokio::task::yield_now().await,
            latency => tokio::time::sleep(latency).await,
        }
    }

    /// Puts it, as of now.
    async fn store(&self, at: &Path, body: PutPayload, opts: PutOptions) -> object_store::Result<PutResult> {
        let put = self.inner.put_opts(at, body, opts).await?;
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(self.clock.0.now_ms() as u64);
        self.dates.lock().unwrap().insert(at.clone(), now);
        Ok(put)
    }

    fn fault(&self, at: &Path, mode: &PutMode) -> Option<Fault> {
        let mut script = self.script.lock().unwrap();
        let due = script.iter().position(|(key, _)| *mode == PutMode::Create && at.as_ref().contains(key))?;
        Some(script.remove(due).1)
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(
        &self,
        at: &Path,
        body: PutPayload,
        opts: PutOptions,
    ) -> object_store::Result<PutResult> {
        let generic = || object_store::Error::Generic { store: "Faulty", source: "scripted".into() };
        self.travel().await;
        match self.fault(at, &opts.mode) {
            None => self.store(at, body, opts).await,
            Some(Fault::FailBefore) => Err(generic()),
            Some(Fault::LostReply) => {
                self.store(at, body, opts).await?;
                Err(generic())
            }
            Some(Fault::Empty409) => {
                Err(object_store::Error::AlreadyExists { path: at.to_string(), source: "scripted".into() })
            }
            Some(Fault::Denied) => {
                Err(object_store::Error::PermissionDenied { path: at.to_string(), source: "scripted".into() })
            }
            Some(Fault::Stall) => std::future::pending().await,
        }
    }
    async fn put_multipart_opts(
        &self,
        at: &Path,
        opts: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, opts).await
    }
    async fn get_opts(&self, at: &Path, opts: GetOptions) -> object_store::Result<GetResult> {
        self.travel().await;
        self.inner.get_opts(at, opts).await
    }
    fn delete_stream(
        &self,
        paths: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(paths)
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        let (this, prefix) = (self.clone(), prefix.cloned());
        let listed = async move {
            this.travel().await;
            let dates = this.dates;
            let dated = move |mut meta: ObjectMeta| {
                let date = dates.lock().unwrap().get(&meta.location).copied();
                meta.last_modified = date.map_or(meta.last_modified, Into::into);
                meta
            };
            this.inner.list(prefix.as_ref()).map(move |listed| listed.map(&dated))
        };
        listed.into_stream().flatten().boxed()
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &Path, to: &Path, opts: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, opts).await
    }
}

/// One storage that several processes use.
#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    pub storage: Faulty,
}

impl World {
    /// A process with nothing in memory.
    pub(crate) fn process(&self, seed: u64) -> Store {
        let backend = Backend::new(Arc::new(self.storage.clone()));
        Store::new(Client::new(backend, Seams::simulated(seed)))
    }

    /// A fresh collection `notes` and the process that made it.
    pub(crate) async fn with_collection() -> (World, Store, Arc<Collection>) {
        let world = World::default();
        let store = world.process(1);
        let notes = store.create(&Meter::new(), &notes(), settings(), Schema::default()).await.unwrap();
        (world, store, notes)
    }

    /// `notes` as a fresh process opens it.
    pub(crate) async fn reopen(&self, seed: u64) -> Arc<Collection> {
        self.process(seed).collection(&Meter::new(), &notes()).await.unwrap()
    }
}

pub(crate) fn notes() -> Name {
    Name::new("notes").unwrap()
}

pub(crate) fn settings() -> Settings {
    Settings { dimension: 2, metric: Metric::L2, vector_type: VectorType::F32 }
}

pub(crate) fn upsert(token: u128, ids: &[&str]) -> PendingBatch {
    let mut data = Vec::new();
    for id in ids {
        encode_record(&mut data, &RecordRef { id, vector: &[1.0, 2.0], ..RecordRef::default() });
    }
    let blocks = vec![Block { rows: ids.len() as u64, data: Bytes::from(data) }];
    PendingBatch {
        token: Token(token),
        given: false,
        content: None,
        op: Op::Upsert,
        arrived_ms: 1_000,
        blocks,
    }
}

/// The same under a token that its caller gave.
pub(crate) fn given(batch: PendingBatch) -> PendingBatch {
    PendingBatch { given: true, ..batch }
}

pub(crate) fn delete(token: u128, ids: &[&str]) -> PendingBatch {
    let mut data = Vec::new();
    ids.iter().for_each(|id| encode_tombstone(&mut data, id));
    let blocks = vec![Block { rows: ids.len() as u64, data: Bytes::from(data) }];
    PendingBatch {
        token: Token(token),
        given: false,
        content: None,
        op: Op::Delete,
        arrived_ms: 1_000,
        blocks,
    }
}

/// The ids in the inline entries of a snapshot's tail, in order.
pub(crate) fn ids(snapshot: &crate::snapshot::Snapshot) -> Vec<String> {
    let blocks = snapshot.tail.iter().flat_map(|e| e.entry.blocks.clone());
    blocks
        .flat_map(|b| esker_format::avro::ids(&b.data).map(|id| id.unwrap().to_owned()).collect::<Vec<_>>())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn facts_only_grow() {
    let (_world, _store, notes) = World::with_collection().await;
    let meter = Meter::new();
    for n in 1..=3u128 {
        notes.append(&meter, upsert(n, &["a"])).await.unwrap();
    }
    let known = notes.known().unwrap();
    assert_eq!((known.last(), known.run_end(&known.manifest)), (3, 3));
    // An old manifest, learnt late, changes nothing.
    let mut newer = (*known.manifest).clone();
    newer.version = 9;
    newer.watermark = 2;
    notes.learn(Arc::new(newer), None, []);
    notes.learn(known.manifest.clone(), None, []);
    let known = notes.known().unwrap();
    assert_eq!((known.manifest.version, known.slots.len(), known.last()), (9, 1, 3));
}

#[tokio::test(start_paused = true)]
async fn entries_are_let_go_beyond_a_size() {
    let (_world, _store, notes) = World::with_collection().await;
    for n in 1..=4u128 {
        notes.append(&Meter::new(), upsert(n, &["a"])).await.unwrap();
    }
    let mut known = notes.known().unwrap();
    let one = known.slots[&1].entry.as_ref().unwrap().held_bytes();
    known.keep_within(2 * one);
    let kept: Vec<bool> = known.slots.values().map(|s| s.entry.is_some()).collect();
    assert_eq!(kept, [true, true, false, false]);
    assert!(known.slots.values().all(|s| s.batches.is_some()));
}

/// Servers spawn what calls these: every public future must be `Send`. Compiled, never run.
#[allow(dead_code)]
fn futures_are_send(store: Store, notes: Arc<Collection>, begun: crate::Begun, snapshot: crate::Snapshot) {
    fn send<F: Future + Send + 'static>(make: impl FnOnce(Meter) -> F) {
        drop(make(Meter::new()));
    }
    let client = notes.client().clone();
    let store = Arc::new(store);
    let (s, c) = (store.clone(), notes.clone());
    send(|m| async move {
        drop(s.create(&m, c.name(), settings(), Schema::default()).await);
        drop(s.begin(&m, c.name()).await);
        drop(s.list(&m).await);
        drop(s.drop_collection(&m, c.name()).await);
    });
    let c = notes.clone();
    send(|m| async move {
        drop(c.append(&m, upsert(1, &[])).await);
        drop(c.finish(&m, begun).await);
        drop(c.snapshot_newest(&m).await);
        drop(c.eventual(&m, Duration::ZERO, 0).await);
        drop(c.as_of(&m, 1).await);
        drop(c.lookup(&m, &snapshot, &["a"], 0).await);
    });
    send(|m| async move {
        let base = notes.manifest(&m).await?;
        drop(notes.alter(&m, |_| Ok(None)).await);
        drop(
            notes.publish(&m, &base, Token(1), esker_format::register::Publish::default(), Vec::new()).await,
        );
        drop(notes.collect(&m, &base, esker_format::manifest::Floors::default()).await);
        drop(notes.marks(&m).await);
        Ok::<_, Error>(())
    });
    send(|m| async move {
        drop(crate::doctor::examine(&client, &m).await);
        drop(client.ranges(&m, &[("a", 0..1)]).await);
        drop(client.cached_ranges(&m, &[]).await);
        drop(client.list_all(&m, "").await);
        drop(client.put_immutable(&m, "a", Bytes::new()).await);
        let mut upload = client.upload(&m, "a");
        drop(upload.write(Bytes::new()).await);
        drop(upload.finish().await);
        drop(store);
    });
}
