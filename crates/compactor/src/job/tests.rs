use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use esker_format::manifest::Manifest;
use esker_format::schema::{Metric, VectorType};
use esker_format::wal::PendingBatch;
use esker_format::{Name, SetHash, Token, avro::container::Block};
use esker_index::SplitMix;
use esker_store::seams::{SeededRandom, SimulatedClock};
use esker_store::segment::all_columns;
use esker_store::{Backend, Client, Seams, Store};
use futures::TryStreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartId, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult,
};

use super::*;
use crate::Compactor;
use crate::fixture::{self, NOW, Write, clustered, put};
use crate::versions::versions;

const LONG: Duration = Duration::from_secs(1 << 20);

/// A store in memory that takes a turn of the executor before and after each request, so that a step can be cut off there.
#[derive(Debug)]
struct Slow(InMemory);

impl std::fmt::Display for Slow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("slow")
    }
}

async fn slowly<T>(request: impl Future<Output = T>) -> T {
    tokio::task::yield_now().await;
    let reply = request.await;
    tokio::task::yield_now().await;
    reply
}

type Reply<T> = object_store::Result<T>;

#[async_trait]
impl ObjectStore for Slow {
    async fn put_opts(&self, at: &Path, body: PutPayload, opts: PutOptions) -> Reply<PutResult> {
        slowly(self.0.put_opts(at, body, opts)).await
    }
    async fn put_multipart_opts(
        &self,
        at: &Path,
        opts: PutMultipartOptions,
    ) -> Reply<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(at, opts).await
    }
    async fn get_opts(&self, at: &Path, opts: GetOptions) -> Reply<GetResult> {
        slowly(self.0.get_opts(at, opts)).await
    }
    fn delete_stream(&self, paths: BoxStream<'static, Reply<Path>>) -> BoxStream<'static, Reply<Path>> {
        self.0.delete_stream(paths)
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Reply<ObjectMeta>> {
        self.0.list(prefix)
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Reply<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &Path, to: &Path, opts: CopyOptions) -> Reply<()> {
        self.0.copy_opts(from, to, opts).await
    }
}

#[async_trait]
impl MultipartStore for Slow {
    async fn create_multipart(&self, at: &Path) -> Reply<MultipartId> {
        slowly(self.0.create_multipart(at)).await
    }
    async fn put_part(&self, at: &Path, id: &MultipartId, part: usize, data: PutPayload) -> Reply<PartId> {
        slowly(self.0.put_part(at, id, part, data)).await
    }
    async fn complete_multipart(&self, at: &Path, id: &MultipartId, parts: Vec<PartId>) -> Reply<PutResult> {
        slowly(self.0.complete_multipart(at, id, parts)).await
    }
    async fn abort_multipart(&self, at: &Path, id: &MultipartId) -> Reply<()> {
        slowly(self.0.abort_multipart(at, id)).await
    }
}

/// A collection of several segments, and what it should hold.
struct World {
    objects: Arc<Slow>,
    d: usize,
    truth: BTreeMap<String, Vec<f32>>,
    token: u128,
    memory: u64,
    /// Whether uploads can be resumed.
    parts: bool,
    /// What time processes that start now take it to be.
    wall_ms: i64,
}

impl World {
    /// One segment of so many rows each.
    async fn new(d: usize, segments: &[usize]) -> Self {
        let objects = Arc::new(Slow(InMemory::new()));
        let mut world = World {
            objects,
            d,
            truth: BTreeMap::new(),
            token: 0,
            memory: options().memory,
            parts: true,
            wall_ms: NOW,
        };
        let settings = fixture::settings(d as u32, Metric::Cosine, VectorType::F32);
        world.store(1).create(&Meter::new(), &name(), settings, fixture::schema()).await.unwrap();
        let mut vectors = clustered(segments.iter().sum(), d, 7).into_iter();
        let mut first = 0;
        for rows in segments {
            world.write(first, vectors.by_ref().take(*rows).collect(), None).await;
            first += rows;
        }
        compactor().only_fold(&Meter::new(), &world.collection(2).await).await.unwrap();
        world
    }

    fn fork(&self) -> Self {
        let objects = Arc::new(Slow(self.objects.0.fork()));
        World { objects, truth: self.truth.clone(), ..*self }
    }

    fn store(&self, seed: u64) -> Store {
        let backend = Backend::new(self.objects.clone());
        let backend = if self.parts { backend.with_parts(self.objects.clone()) } else { backend };
        let clock = Arc::new(SimulatedClock::new(self.wall_ms));
        Store::new(Client::new(backend, Seams { clock, random: Arc::new(SeededRandom::new(seed)) }))
    }

    /// Of a process that knows nothing yet.
    async fn collection(&self, seed: u64) -> Arc<Collection> {
        self.store(seed).collection(&Meter::new(), &name()).await.unwrap()
    }

    async fn write(&mut self, first: usize, vectors: Vec<Vec<f32>>, expires_at: Option<i64>) {
        let mut data = Vec::new();
        let rows = vectors.len() as u64;
        let mut op = None;
        for (n, vector) in (first..).zip(vectors) {
            let id = format!("record-{n}");
            op = Some(put(&mut data, &Write::Upsert { id: id.clone(), vector: vector.clone(), expires_at }));
            self.truth.insert(id, vector);
        }
        self.append(op.unwrap(), rows, data).await;
    }

    async fn delete(&mut self, n: usize) {
        let id = format!("record-{n}");
        self.truth.remove(&id);
        let mut data = Vec::new();
        let op = put(&mut data, &Write::Delete { id });
        self.append(op, 1, data).await;
    }

    async fn append(&mut self, op: esker_format::record::Op, rows: u64, data: Vec<u8>) {
        self.token += 1;
        let batch = PendingBatch {
            token: Token(self.token),
            given: false,
            content: None,
            op,
            arrived_ms: NOW,
            blocks: vec![Block { rows, data: data.into() }],
        };
        self.collection(3).await.append(&Meter::new(), batch).await.unwrap();
    }

    async fn manifest(&self) -> Arc<Manifest> {
        self.collection(4).await.manifest(&Meter::new()).await.unwrap()
    }

    /// Begins a job of all segments, or finds it.
    async fn job(&self, collection: &Arc<Collection>, options: &Options) -> Found {
        let meter = Meter::new();
        if let Some(found) = find(&meter, collection).await.unwrap() {
            return found;
        }
        let manifest = collection.manifest(&meter).await.unwrap();
        begin(&meter, collection, &manifest, manifest.segments.clone(), options).await.unwrap()
    }

    /// A step that keeps so many results.
    async fn step(&self, seed: u64, results: Option<u32>) -> Result<Ended> {
        let collection = self.collection(seed).await;
        let options = Options { memory: self.memory, ..options() };
        let found = self.job(&collection, &options).await;
        let mut pace = Pace::new(collection.client().seams().clock.clone(), LONG);
        pace.left = results;
        found.run(&Meter::new(), &collection, &options, pace, &|_| {}).await
    }

    /// Both files of each segment.
    async fn files(&self) -> Vec<(Bytes, Bytes)> {
        let collection = self.collection(5).await;
        let mut out = Vec::new();
        for segment in &self.manifest().await.segments {
            let read =
                async |key: String| self.objects.0.get(&key.into()).await.unwrap().bytes().await.unwrap();
            let keys = collection.keys();
            out.push((read(keys.rows(segment.made)).await, read(keys.index(segment.made)).await));
        }
        out
    }

    async fn work_left(&self) -> Vec<String> {
        let collection = self.collection(6).await;
        let listed = collection.client().list_all(&Meter::new(), &collection.keys().work_prefix()).await;
        listed.unwrap().into_iter().map(|l| l.key).collect()
    }

    /// A fresh process finds exactly what it should, and every sum of hashes is that of the rows found.
    async fn check(&self) -> Arc<Manifest> {
        let (collection, meter) = (self.collection(77).await, Meter::new());
        let snapshot = collection.snapshot(&meter).await.unwrap();
        assert!(snapshot.tail.is_empty());
        let (mut found, mut live) = (BTreeMap::new(), SetHash::default());
        for segment in &snapshot.manifest.segments {
            let reader = SegmentReader::open(&collection, &meter, segment, None).await.unwrap();
            let (columns, rows) = (all_columns(&snapshot.schema), reader.rows(&meter).await.unwrap());
            let batches: Vec<_> = rows.live(&meter, &snapshot.schema, &columns).try_collect().await.unwrap();
            for b in &batches {
                let settings = &snapshot.manifest.settings;
                let vectors = crate::build::floats_of_batch(&b.batch, settings).unwrap();
                for (v, vector) in versions(&b.batch).unwrap().zip(vectors.chunks(self.d)) {
                    live += v.hash();
                    assert!(found.insert(v.id.to_owned(), vector.to_vec()).is_none(), "{} is twice", v.id);
                }
            }
        }
        assert_eq!(found.len(), self.truth.len());
        assert!(found == self.truth);
        assert_eq!(snapshot.manifest.hashes.live, live);
        assert!(snapshot.manifest.hashes.conserved());
        snapshot.manifest.clone()
    }
}

fn name() -> Name {
    Name::new("books").unwrap()
}

/// So little memory that there are several buckets.
fn options() -> Options {
    Options { threads: 2, seed: 3, memory: 4 << 20, copies: Choice::Never, basis: Choice::Never }
}

fn compactor() -> Compactor {
    Compactor::new(options())
}

fn committed(ended: Result<Ended>) -> Option<Report> {
    match ended.unwrap() {
        Ended::Committed(report) => Some(report),
        Ended::Paused(_) => None,
    }
}

#[tokio::test(start_paused = true)]
async fn every_cut_gives_the_same_bytes() {
    let world = World::new(32, &[1000, 700, 300, 1, 500]).await;
    let whole = world.fork();
    let report = committed(whole.step(10, None).await).unwrap();
    assert_eq!((report.merged, report.segments_out, report.rows, report.pruned), (5, 1, 2501, 0));
    whole.check().await;
    assert_eq!(whole.work_left().await, [""; 0]);
    let files = whole.files().await;
    for results in [1, 3, 17] {
        let cut = world.fork();
        let mut steps = 0;
        while committed(cut.step(20 + steps, Some(results)).await).is_none() {
            steps += 1;
            assert!(steps < 200, "it does not end");
        }
        assert!(steps >= 3, "{steps}");
        cut.check().await;
        assert!(cut.files().await == files, "cut after {results}");
        assert_eq!(cut.work_left().await, [""; 0]);
    }
}

/// Polls a future so many times; `None` if it is not done then, and dropped.
async fn cut_off<T>(polls: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    let mut left = polls;
    std::future::poll_fn(|context| match future.as_mut().poll(context) {
        std::task::Poll::Ready(done) => std::task::Poll::Ready(Some(done)),
        std::task::Poll::Pending if left == 0 => std::task::Poll::Ready(None),
        std::task::Poll::Pending => {
            left -= 1;
            std::task::Poll::Pending
        }
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn steps_that_are_killed_anywhere_change_nothing() {
    let world = World::new(8, &[900, 500, 400]).await;
    let whole = world.fork();
    committed(whole.step(10, None).await).unwrap();
    let files = whole.files().await;
    for seed in 0..4 {
        let cut = world.fork();
        let mut random = SplitMix::new(seed);
        let mut killed = 0;
        loop {
            let step = cut.step(100 * seed + killed, Some(random.below(40) as u32));
            match cut_off(random.below(120), step).await {
                None => killed += 1,
                Some(ended) => {
                    if committed(ended).is_some() {
                        break;
                    }
                }
            }
            // The commit itself may be what was cut off.
            if cut.manifest().await.segments.len() == 1 {
                break;
            }
            assert!(killed < 500, "it does not end");
        }
        assert!(killed > 0);
        cut.check().await;
        assert!(cut.files().await == files, "seed {seed}");
        let collection = cut.collection(9).await;
        assert!(find(&Meter::new(), &collection).await.unwrap().is_none());
        assert_eq!(cut.work_left().await, [""; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn two_at_once_commit_one_segment() {
    let world = World::new(8, &[900, 500, 400]).await;
    let whole = world.fork();
    committed(whole.step(10, None).await).unwrap();
    for (one, two) in [(None, None), (Some(9), None), (Some(20), Some(30))] {
        let both = world.fork();
        let mut seed = 0;
        while both.manifest().await.segments.len() > 1 {
            seed += 2;
            let (a, b) = futures::join!(both.step(seed, one), both.step(seed + 1, two));
            for ended in [a, b] {
                // One that comes late finds what it reads gone.
                if let Err(e) = ended {
                    assert_eq!(e.kind(), Kind::NotFound, "{e}");
                }
            }
        }
        both.check().await;
        assert!(both.files().await == whole.files().await);
        find(&Meter::new(), &both.collection(9).await).await.unwrap();
        assert_eq!(both.work_left().await, [""; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_written_meanwhile_is_kept() {
    let mut world = World::new(8, &[900, 500, 400]).await;
    world.write(5000, clustered(3, 8, 1), Some(NOW - 2 * 86_400_000)).await;
    (5000..5003).for_each(|n| drop(world.truth.remove(&format!("record-{n}"))));
    compactor().only_fold(&Meter::new(), &world.collection(2).await).await.unwrap();
    for results in [1, 12, 25, 100] {
        let mut cut = world.fork();
        assert!(committed(cut.step(1, Some(results)).await).is_none() || results == 100);
        cut.write(10, clustered(20, 8, 2), None).await;
        cut.delete(0).await;
        cut.delete(1700).await;
        cut.delete(9999).await;
        compactor().only_fold(&Meter::new(), &cut.collection(2).await).await.unwrap();
        cut.check().await;
        while cut.manifest().await.segments.len() > 2 {
            cut.step(3, Some(results)).await.unwrap();
        }
        cut.check().await;
    }
}

#[tokio::test(start_paused = true)]
async fn rows_that_expired_are_left_out() {
    let world = World::new(8, &[300, 200]).await;
    let mut late = world.fork();
    late.write(1000, clustered(40, 8, 1), Some(NOW + 60_000)).await;
    compactor().only_fold(&Meter::new(), &late.collection(2).await).await.unwrap();
    late.wall_ms += 600_000;
    let report = committed(late.step(1, None).await).unwrap();
    (1000..1040).for_each(|n| drop(late.truth.remove(&format!("record-{n}"))));
    assert_eq!((report.expired, report.rows), (40, 500));
    late.check().await;
}

#[tokio::test(start_paused = true)]
async fn row_groups_follow_each_other() {
    // 4,096 rows a row group.
    let mut world = World::new(2048, &[2500, 1800]).await;
    world.memory = 1 << 30;
    let report = committed(world.step(1, None).await).unwrap();
    assert_eq!(report.rows, 4300);
    let manifest = world.check().await;
    let collection = world.collection(8).await;
    let reader = SegmentReader::open(&collection, &Meter::new(), &manifest.segments[0], None).await.unwrap();
    assert_eq!(reader.header().rows().base.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn where_uploads_cannot_be_resumed_files_are_sent_whole() {
    let mut world = World::new(8, &[300, 200]).await;
    let whole = world.fork();
    committed(whole.step(10, None).await).unwrap();
    world.parts = false;
    let mut steps = 0;
    while committed(world.step(steps, Some(5)).await).is_none() {
        steps += 1;
    }
    world.check().await;
    assert!(world.files().await == whole.files().await);
}

#[tokio::test(start_paused = true)]
async fn a_place_below_a_floor_is_left_for_another() {
    let mut world = World::new(8, &[300, 200]).await;
    let mut steps = 0;
    while !world.work_left().await.iter().any(|key| key.ends_with("rows-0-done")) {
        assert!(committed(world.step(steps, Some(1)).await).is_none());
        steps += 1;
    }
    // Folds commit, and a collection gives up what was uploaded before them.
    for n in 0..3 {
        world.write(1000 + n, clustered(1, 8, 1), None).await;
        compactor().only_fold(&Meter::new(), &world.collection(2).await).await.unwrap();
    }
    let collection = world.collection(2).await;
    let manifest = collection.manifest(&Meter::new()).await.unwrap();
    let floors = esker_format::manifest::Floors { base: manifest.version, ..manifest.floors };
    collection.collect(&Meter::new(), &manifest, floors).await.unwrap();
    while committed(world.step(100 + steps, Some(9)).await).is_none() {
        steps += 1;
    }
    let manifest = world.check().await;
    assert!(manifest.segments.iter().any(|s| s.rows == 500 && s.made.base >= floors.base));
}

#[tokio::test(start_paused = true)]
async fn a_limited_compaction_ends_with_nothing_left() {
    let mut world = World::new(16, &[400, 300, 300, 300, 300, 300]).await;
    world.write(100, clustered(50, 16, 3), None).await;
    world.delete(7).await;
    let meter = Meter::new();
    for call in 0.. {
        assert!(call < 10, "it does not end");
        let collection = world.collection(call).await;
        let until = collection.client().seams().clock.elapsed() + Duration::from_secs(5);
        let (report, steps) =
            compactor().compact_at(0, &meter, &collection, until, true, &|_| {}).await.unwrap();
        let due = crate::work::marked(&world.store(call), &meter).await.unwrap();
        if !report.committed && steps.is_none() {
            break;
        }
        assert!(steps.is_none() || !due.is_empty());
    }
    let manifest = world.check().await;
    assert!(manifest.segments.len() <= 4, "{}", manifest.segments.len());
    assert_eq!(world.work_left().await, [""; 0]);
}

/// Marks of jobs, and what each says.
async fn job_marks(world: &World) -> Vec<Bytes> {
    let store = world.store(9);
    let mut marks = Vec::new();
    for listed in store.client().list_all(&Meter::new(), keys::DIRTY).await.unwrap() {
        if let Key::DirtyJob(..) = Key::parse(&listed.key).unwrap() {
            marks.push(store.client().get(&Meter::new(), &listed.key).await.unwrap().unwrap().0);
        }
    }
    marks
}

#[tokio::test(start_paused = true)]
async fn steps_at_once_wake_one() {
    let world = World::new(16, &[900, 700, 300, 500]).await;
    assert!(committed(world.step(99, Some(2)).await).is_none());
    for round in 1..4u64 {
        // Three that something else woke go on beside each other.
        let steps = (0..3).map(|n| world.step(100 + 10 * round + n, Some(2)));
        for ended in futures::future::join_all(steps).await {
            assert!(committed(ended).is_none());
        }
        let wakes = world.work_left().await.into_iter().filter(|key| key.contains("/wake-")).count();
        assert_eq!(wakes as u64, round + 1);
        assert_eq!(job_marks(&world).await, [round.to_string()]);
    }
    // Who gets no further wakes nobody, whoever is cut off is woken again by the platform.
    assert!(committed(world.step(200, Some(0)).await).is_none());
    cut_off(40, world.step(201, None)).await;
    assert_eq!(job_marks(&world).await, ["3"]);
    committed(world.step(202, None).await).unwrap();
    assert!(job_marks(&world).await.is_empty());
    world.check().await;
}

#[tokio::test(start_paused = true)]
async fn a_merge_that_failed_is_begun_by_no_mark() {
    let world = World::new(8, &[400, 300, 300, 300, 300, 300]).await;
    let call = async |seed, begins| {
        let collection = world.collection(seed).await;
        let until = collection.client().seams().clock.elapsed() + LONG;
        compactor().compact_at(0, &Meter::new(), &collection, until, begins, &|_| {}).await
    };
    // Who begins it leaves all of it to who is woken.
    let (report, steps) = call(1, true).await.unwrap();
    assert_eq!((report.committed, steps.map(|s| s.done)), (false, Some(1)));
    assert_eq!(job_marks(&world).await, ["0"]);
    assert!(committed(world.step(2, Some(4)).await).is_none());
    assert_eq!(job_marks(&world).await, ["1"]);
    let left = world.work_left().await;
    let one = left.iter().find(|key| key.ends_with("sample-0")).unwrap();
    world.objects.0.put(&one.as_str().into(), PutPayload::from_static(b"x")).await.unwrap();
    assert_eq!(call(3, false).await.unwrap_err().kind(), Kind::Corrupt);
    for (seed, begins, steps) in [(4, false, None), (5, true, Some(1))] {
        assert_eq!(call(seed, begins).await.unwrap().1.map(|s| s.done), steps);
        assert_eq!(job_marks(&world).await.len(), steps.map_or(0, |_| 1));
        assert_eq!(world.work_left().await.is_empty(), steps.is_none());
    }
    // Through to the end: what commits the first begins what is due then, if anything is.
    for seed in 6.. {
        assert!(seed < 40, "it does not end");
        if call(seed, false).await.unwrap().1.is_none() {
            break;
        }
    }
    assert!(world.check().await.segments.len() <= 4);
    assert!(world.work_left().await.is_empty() && job_marks(&world).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_job_that_does_not_read_back_is_given_up() {
    let world = World::new(8, &[300, 200]).await;
    assert!(committed(world.step(1, Some(4)).await).is_none());
    let left = world.work_left().await;
    let one = left.iter().find(|key| key.ends_with("sample-0")).unwrap();
    world.objects.0.put(&one.as_str().into(), PutPayload::from_static(b"x")).await.unwrap();
    let error = world.step(2, None).await.err().unwrap();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert_eq!(world.work_left().await, [""; 0]);
    committed(world.step(3, None).await).unwrap();
    world.check().await;
    // Without its inputs, too.
    let world = World::new(8, &[300, 200]).await;
    assert!(committed(world.step(1, Some(4)).await).is_none());
    let whole = Compactor::new(Options { memory: 1 << 30, ..options() });
    let mut more = world.fork();
    more.write(0, clustered(400, 8, 9), None).await;
    whole.compact(&Meter::new(), &more.collection(4).await, &|_| {}).await.unwrap();
    assert!(find(&Meter::new(), &more.collection(5).await).await.unwrap().is_none());
    assert_eq!(more.work_left().await, [""; 0]);
    more.check().await;
}

#[tokio::test(start_paused = true)]
async fn steps_that_get_no_further_are_counted() {
    let world = World::new(8, &[300, 200]).await;
    for call in 0..6 {
        match world.step(call, Some(0)).await.unwrap() {
            Ended::Paused(steps) => assert_eq!(steps.stuck, (call >= 3).then_some(call), "{call}"),
            Ended::Committed(_) => panic!("it kept nothing"),
        }
    }
    committed(world.step(9, None).await).unwrap();
}
