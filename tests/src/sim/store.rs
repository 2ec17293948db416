//! One process's way to the storage: the fault store, with time on the way there and back. Here a storage can also be made
//! worse than any that the protocol allows for, to see whether that is noticed.

use super::env::Env;
use super::process::{Role, Seat};
use crate::fault::{FaultStore, Plan};
use async_trait::async_trait;
use bytes::Bytes;
use esker_format::head::Head;
use esker_format::keys::{Key, Part};
use esker_format::wal::{self, PendingBatch, inbox};
use esker_store::Clock;
use futures::stream::BoxStream;
use object_store::list::{PaginatedListOptions, PaginatedListResult, PaginatedListStore};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use rand::Rng;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A promise of the storage, or a duty of an actor, that is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weakening {
    /// A create replaces what is there.
    CreateReplaces,
    /// A create of a slot that is taken is answered "created", and dropped.
    TwoWinners,
    /// One of 16 slots is answered "created", and dropped.
    LostPut,
    /// A reader's listing of the log sometimes lacks its newest name.
    StaleList,
    /// Readers never find a newer version.
    BlindReader,
    /// Writers never find a newer version.
    BlindWriter,
    /// Collectors are told that their floors are committed, and they are not: deletes before the floor.
    DeleteBeforeFloor,
    /// Collectors do not see pins.
    PinsUnseen,
    /// A reader is sometimes told that a slot is empty which is not.
    SlotUnseen,
    /// A writer offers what it just put into the log, as if it were not there.
    FalseOffer,
}

impl Weakening {
    /// All of them.
    pub const ALL: [Weakening; 10] = [
        Weakening::CreateReplaces,
        Weakening::TwoWinners,
        Weakening::LostPut,
        Weakening::StaleList,
        Weakening::BlindReader,
        Weakening::BlindWriter,
        Weakening::DeleteBeforeFloor,
        Weakening::PinsUnseen,
        Weakening::SlotUnseen,
        Weakening::FalseOffer,
    ];
}

/// A process's store.
#[derive(Clone)]
pub struct SimStore(Arc<Way>);

struct Way {
    env: Arc<Env>,
    faults: FaultStore,
    who: String,
    role: Role,
    /// The newest version that `head` or a listing told the process.
    told: AtomicU64,
    /// Whose store it is; of nobody's, nothing fails.
    seat: Option<Arc<Seat>>,
}

impl SimStore {
    pub fn new(env: &Arc<Env>, who: &str, role: Role, seed: u64, seat: Option<Arc<Seat>>) -> Self {
        let rate = if seat.is_some() { env.knobs.faults } else { 0 };
        let plan = Plan::none().seed(seed).jitter(2).random(rate, &env.knobs.modes);
        let faults = FaultStore::new(&env.world, plan);
        let (env, who) = (env.clone(), who.to_owned());
        SimStore(Arc::new(Way { env, faults, who, role, told: AtomicU64::new(0), seat }))
    }

    fn weak(&self, weakening: Weakening, roles: &[Role]) -> bool {
        let way = &*self.0;
        way.seat.is_some() && way.env.settings.weakening == Some(weakening) && roles.contains(&way.role)
    }

    /// On the way: mostly some milliseconds, rarely longer than anyone waits.
    async fn travel(&self) {
        let ms = self.0.env.draw(|rng| match rng.random_range(0..1000) {
            0..600 => rng.random_range(0..6),
            600..970 => rng.random_range(0..40),
            970..997 => rng.random_range(0..800),
            _ => rng.random_range(0..14_000),
        });
        self.0.env.clock().sleep(Duration::from_millis(ms)).await;
        self.0.env.sync();
    }

    async fn call<T>(&self, what: &str, key: &str, act: impl Future<Output = Result<T>>) -> Result<T> {
        let Way { env, who, .. } = &*self.0;
        env.count(|tally| tally.calls += 1);
        self.travel().await;
        if let Some(cut) = self.cut() {
            // It may have arrived all the same; only the reply is certain not to come.
            if env.draw(|rng| rng.random()) {
                drop(act.await);
                env.log(who, || format!("{what} {key}: done, and cut off"));
            }
            env.clock().sleep(cut).await;
            return Err(Error::Generic { store: "sim", source: "the connection is gone".into() });
        }
        let commits = what == "CREATE" || what == "PUT";
        self.spring(commits, false).await;
        let done = act.await;
        self.spring(commits, true).await;
        let said = match &done {
            Ok(_) => "ok".to_owned(),
            Err(Error::NotFound { .. }) => "absent".to_owned(),
            Err(Error::AlreadyExists { .. }) => "exists".to_owned(),
            Err(Error::Precondition { .. }) => "changed".to_owned(),
            Err(e) => e.to_string(),
        };
        env.log(who, || format!("{what} {key}: {said}"));
        self.travel().await;
        done
    }
}

impl SimStore {
    /// Offers the batches of an entry as of its own slot.
    async fn offer_falsely(&self, key: &str, bytes: Bytes) {
        let Ok(entry) = wal::decode(key, bytes) else { return };
        let mut blocks = entry.blocks.iter().cloned();
        let batch = |b: &wal::Batch| PendingBatch {
            token: b.token,
            given: b.given,
            content: b.content,
            op: b.op,
            arrived_ms: b.arrived_ms,
            blocks: blocks.by_ref().take(b.blocks as usize).collect(),
        };
        let batches: Vec<PendingBatch> = entry.batches.iter().map(batch).collect();
        if let Ok((key, bytes)) = inbox::encode(&entry.collection, entry.seq, &batches) {
            drop(self.0.faults.put_opts(&Path::from(key), bytes.into(), PutMode::Create.into()).await);
        }
    }

    /// How long the process is cut off from now on.
    fn cut(&self) -> Option<Duration> {
        let until = self.0.seat.as_ref()?.is_cut_off()?;
        until.checked_sub(self.0.env.clock().elapsed()).filter(|left| !left.is_zero())
    }

    /// Lets what was planned for the next commit happen.
    async fn spring(&self, commits: bool, after: bool) {
        let Some(seat) = self.0.seat.as_ref().filter(|_| commits) else { return };
        if seat.spring(after) {
            self.0.env.log(&self.0.who, || format!("is trapped, after the commit: {after}"));
            self.0.env.count(|tally| tally.trapped += 1);
            tokio::task::yield_now().await;
        }
    }

    /// Whether this version is one that a blind process does not see.
    fn is_hidden(&self, key: &str) -> bool {
        let blind = self.weak(Weakening::BlindReader, &[Role::Reader])
            || self.weak(Weakening::BlindWriter, &[Role::Writer]);
        let version = match Key::parse(key) {
            Ok(Key::Of(_, Part::Manifest(version))) if blind => version,
            _ => return false,
        };
        let told = self.0.told.load(Ordering::Relaxed);
        told > 0 && version > told
    }

    /// Notes what a read of `head` tells.
    fn tell(&self, key: &str) {
        let head = self.0.env.world.body(key).and_then(|body| Head::decode(key, &body).ok());
        let version = head.map_or(0, |head| head.manifest.version);
        self.0.told.fetch_max(version, Ordering::Relaxed);
    }
}

fn absent(at: &Path) -> Error {
    Error::NotFound { path: at.to_string(), source: "it is not seen".into() }
}

fn created() -> PutResult {
    PutResult { e_tag: None, version: None }
}

impl std::fmt::Debug for SimStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimStore({})", self.0.who)
    }
}

impl std::fmt::Display for SimStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimStore")
    }
}

const EVERYONE: [Role; 5] = [Role::Writer, Role::Reader, Role::Compactor, Role::Collector, Role::Owner];

#[async_trait]
impl ObjectStore for SimStore {
    async fn put_opts(&self, at: &Path, body: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        let key = at.as_ref();
        let create = matches!(options.mode, PutMode::Create);
        let slot = create && key.contains("/wal/");
        let register = create && key.contains("/manifest/") || key.ends_with("/head");
        if register && self.weak(Weakening::DeleteBeforeFloor, &[Role::Collector]) {
            return self.call("keep back", key, async { Ok(created()) }).await;
        }
        if slot && self.weak(Weakening::CreateReplaces, &EVERYONE) {
            options.mode = PutMode::Overwrite;
        }
        if slot && self.weak(Weakening::LostPut, &EVERYONE) && self.0.env.draw(|rng| rng.random_ratio(1, 16))
        {
            return self.call("lose", key, async { Ok(created()) }).await;
        }
        let offered =
            (slot && self.weak(Weakening::FalseOffer, &[Role::Writer])).then(|| Bytes::from(body.clone()));
        let twice = slot && self.weak(Weakening::TwoWinners, &EVERYONE);
        let put = async {
            match self.0.faults.put_opts(at, body, options).await {
                Err(Error::AlreadyExists { .. }) if twice => Ok(created()),
                done => done,
            }
        };
        let put = self.call(if create { "CREATE" } else { "PUT" }, key, put).await?;
        if let Some(entry) = offered {
            self.offer_falsely(key, entry).await;
        }
        Ok(put)
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.call("UPLOAD", at.as_ref(), self.0.faults.put_multipart_opts(at, options)).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        let key = at.as_ref();
        if key.ends_with("/head") {
            self.tell(key);
        }
        if self.is_hidden(key) {
            return self.call("do not see", key, async { Err(absent(at)) }).await;
        }
        if key.contains("/wal/") && self.weak(Weakening::SlotUnseen, &[Role::Reader]) {
            let get = async {
                match self.0.faults.get_opts(at, options).await {
                    Ok(_) if self.0.env.draw(|rng| rng.random_ratio(1, 8)) => Err(absent(at)),
                    done => done,
                }
            };
            return self.call("GET?", key, get).await;
        }
        let what = match &options.range {
            Some(range) => format!("GET {range}"),
            None => "GET".to_owned(),
        };
        self.call(&what, key, self.0.faults.get_opts(at, options)).await
    }

    fn delete_stream(&self, at: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        use futures::{StreamExt, TryStreamExt};
        let store = self.clone();
        at.and_then(move |at| {
            let store = store.clone();
            async move {
                use object_store::ObjectStoreExt;
                store.call("DELETE", at.as_ref(), store.0.faults.delete(&at)).await?;
                Ok(at)
            }
        })
        .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.faults.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.faults.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.call("COPY", to.as_ref(), self.0.faults.copy_opts(from, to, options)).await
    }
}

#[async_trait]
impl PaginatedListStore for SimStore {
    async fn list_paginated(
        &self,
        prefix: Option<&str>,
        options: PaginatedListOptions,
    ) -> Result<PaginatedListResult> {
        let key = prefix.unwrap_or_default();
        let page = self.call("LIST", key, self.0.faults.list_paginated(prefix, options));
        let mut page = page.await?;
        let objects = &mut page.result.objects;
        let listed = objects.first().map(|o| Key::parse(o.location.as_ref()));
        if let Some(Ok(Key::Of(_, Part::Manifest(version)))) = listed {
            self.0.told.fetch_max(version, Ordering::Relaxed);
        }
        let miss = key.contains("/wal/")
            && self.weak(Weakening::StaleList, &[Role::Reader])
            && self.0.env.draw(|rng| rng.random_ratio(1, 3));
        if miss && !objects.is_empty() {
            objects.remove(0);
        }
        if key.contains("/pins/") && self.weak(Weakening::PinsUnseen, &[Role::Collector]) {
            objects.clear();
        }
        Ok(page)
    }
}
