use std::collections::BTreeMap;

use esker_format::manifest::Manifest;
use esker_format::record::Op;
use esker_format::schema::{Column, ColumnType, Metric, Settings, VectorType};
use esker_format::segment::index::Section;
use esker_format::wal::PendingBatch;
use esker_format::{Name, Token, avro::container::Block};
use esker_index::SplitMix;
use esker_store::segment::all_columns;
use esker_store::{Backend, Client, Seams, SegmentReader, Store};
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::{ObjectStoreExt, PutPayload};

use super::*;
use crate::fixture::{self, NOW, Write, clustered, put};
use crate::versions::versions;

const D: u32 = 6;

/// A store in memory, a collection, and what it should hold.
pub(super) struct World {
    objects: Arc<InMemory>,
    pub(super) collection: Arc<Collection>,
    truth: BTreeMap<String, Vec<f32>>,
    accepted: u64,
    token: u128,
}

fn process(objects: &Arc<InMemory>, seed: u64) -> Store {
    Store::new(Client::new(Backend::new(objects.clone()), Seams::simulated(seed)))
}

fn name() -> Name {
    Name::new("books").unwrap()
}

impl World {
    pub(super) async fn new(vector_type: VectorType) -> Self {
        let objects = Arc::new(InMemory::new());
        let settings = Settings { dimension: D, metric: Metric::Cosine, vector_type };
        let store = process(&objects, 1);
        let meter = Meter::new();
        let collection = store.create(&meter, &name(), settings, fixture::schema()).await.unwrap();
        World { objects, collection, truth: BTreeMap::new(), accepted: 0, token: 0 }
    }

    /// Another process that knows nothing yet.
    pub(super) async fn process(&self, seed: u64) -> Arc<Collection> {
        process(&self.objects, seed).collection(&Meter::new(), &name()).await.unwrap()
    }

    /// One entry of the log per call: runs of writes with one operation become its batches.
    pub(super) async fn write(&mut self, writes: &[Write]) {
        for write in writes {
            let mut data = Vec::new();
            let op = put(&mut data, write);
            self.append(op, Block { rows: 1, data: data.into() }).await;
            match write {
                Write::Delete { id } => drop(self.truth.remove(id)),
                Write::Upsert { id, expires_at, .. } if expires_at.is_some_and(|e| e <= NOW) => {
                    drop(self.truth.remove(id));
                }
                Write::Upsert { id, vector, .. } => drop(self.truth.insert(id.clone(), vector.clone())),
            }
        }
    }

    /// All upserts as one entry.
    pub(super) async fn import(&mut self, first: usize, vectors: Vec<Vec<f32>>) {
        let mut data = Vec::new();
        let rows = vectors.len() as u64;
        for (n, vector) in (first..).zip(vectors) {
            let id = format!("record-{n}");
            put(&mut data, &Write::Upsert { id: id.clone(), vector: vector.clone(), expires_at: None });
            self.truth.insert(id, vector);
        }
        self.append(Op::Upsert, Block { rows, data: data.into() }).await;
    }

    async fn append(&mut self, op: Op, block: Block) {
        self.token += 1;
        self.accepted += block.rows;
        let batch = PendingBatch {
            token: Token(self.token),
            given: false,
            content: None,
            op,
            arrived_ms: NOW,
            blocks: vec![block],
        };
        self.collection.append(&Meter::new(), batch).await.unwrap();
    }

    async fn compact(&self) -> Report {
        compactor().compact(&Meter::new(), &self.collection, &|_| {}).await.unwrap()
    }

    async fn manifest(&self) -> Arc<Manifest> {
        self.process(99).await.manifest(&Meter::new()).await.unwrap()
    }

    /// A fresh process finds exactly what it should, and every sum of hashes is that of the rows found.
    pub(super) async fn check(&self) -> Arc<Manifest> {
        let (collection, meter) = (self.process(77).await, Meter::new());
        let snapshot = collection.snapshot(&meter).await.unwrap();
        assert!(snapshot.tail.is_empty());
        let manifest = snapshot.manifest.clone();
        let mut found = BTreeMap::new();
        let mut live = SetHash::default();
        for (i, segment) in manifest.segments.iter().enumerate() {
            let part = snapshot.parts[i].as_ref().expect("head has every segment");
            let reader = SegmentReader::open(&collection, &meter, segment, Some(part)).await.unwrap();
            let codes = reader.section(&meter, Section::Codes).await.unwrap();
            assert_eq!(part.codes.as_ref(), Some(&codes));
            assert_eq!(part.deletes.is_some(), segment.deletes.is_some());
            let (columns, rows) = (all_columns(&snapshot.schema), reader.rows(&meter).await.unwrap());
            let batches: Vec<_> = rows.live(&meter, &snapshot.schema, &columns).try_collect().await.unwrap();
            let count: usize = batches.iter().map(|b| b.batch.num_rows()).sum();
            assert_eq!(count as u64, segment.live());
            for b in &batches {
                let vectors = vectors(&b.batch);
                for (v, vector) in versions(&b.batch).unwrap().zip(vectors) {
                    live += v.hash();
                    assert!(found.insert(v.id.to_owned(), vector).is_none(), "{} is there twice", v.id);
                }
            }
        }
        assert_eq!(found.len(), self.truth.len());
        assert_eq!(found, self.truth);
        assert_eq!(manifest.hashes.live, live);
        assert!(manifest.hashes.conserved());
        manifest
    }
}

fn vectors(batch: &arrow::array::RecordBatch) -> Vec<Vec<f32>> {
    use arrow::array::AsArray;
    use arrow::datatypes::Float32Type;
    let values = batch.column(1).as_fixed_size_list().values();
    let values = arrow::compute::cast(values, &arrow::datatypes::DataType::Float32).unwrap();
    values.as_primitive::<Float32Type>().values().chunks(D as usize).map(<[f32]>::to_vec).collect()
}

fn compactor() -> Compactor {
    Compactor::new(Options { threads: 2, seed: 3, ..Options::default() })
}

/// Vectors that f16 holds exactly.
pub(super) fn exact(rows: usize, seed: u64) -> Vec<Vec<f32>> {
    let mut random = SplitMix::new(seed);
    (0..rows)
        .map(|_| (0..D).map(|_| random.below(2048) as f32 / 256.0 - 4.0 + 1.0 / 512.0).collect())
        .collect()
}

pub(super) fn delete(n: usize) -> Write {
    Write::Delete { id: format!("record-{n}") }
}

#[tokio::test(start_paused = true)]
async fn with_nothing_to_do_nothing_is_written() {
    let mut world = World::new(VectorType::F32).await;
    let idle = world.compact().await;
    assert_eq!((idle.committed, idle.version, idle.io.puts), (false, 1, 0));
    world.import(0, clustered(50, D as usize, 1)).await;
    let done = world.compact().await;
    assert_eq!((done.committed, done.version, done.rows, done.folded_entries), (true, 2, 50, 1));
    let again = world.compact().await;
    assert_eq!((again.committed, again.version, again.io.puts), (false, 2, 0));
    world.check().await;
}

#[tokio::test(start_paused = true)]
async fn overwritten_and_deleted_rows_of_kept_segments_are_marked() {
    for count in [3, 300] {
        let mut world = World::new(VectorType::F32).await;
        world.import(0, clustered(2400, D as usize, 1)).await;
        world.compact().await;
        // Few are looked up one by one, many by walking the map; both are confirmed by id.
        world.import(5, clustered(count, D as usize, 2)).await;
        world.write(&[delete(0), delete(2399), delete(5)]).await;
        world.write(&[Write::Delete { id: "never there".into() }]).await;
        let report = world.compact().await;
        assert_eq!((report.marked, report.merged, report.segments_out), (count as u64 + 2, 0, 2));
        assert_eq!(report.rows, count as u64 - 1);
        let manifest = world.check().await;
        assert_eq!(manifest.segments[0].deletes.as_ref().unwrap().count, count as u64 + 2);
    }
}

#[tokio::test(start_paused = true)]
async fn small_segments_merge_and_hollow_ones_are_rewritten() {
    let mut world = World::new(VectorType::F16).await;
    world.import(0, exact(300, 1)).await;
    world.compact().await;
    world.import(1000, exact(100, 2)).await;
    let merged = world.compact().await;
    assert_eq!((merged.merged, merged.segments_out, merged.rows), (1, 1, 400));
    for n in 0..150 {
        world.write(&[delete(n)]).await;
    }
    let marked = world.compact().await;
    assert_eq!((marked.merged, marked.marked, marked.rows, marked.segments_out), (0, 150, 0, 1));
    let rewritten = world.compact().await;
    assert_eq!((rewritten.merged, rewritten.rows, rewritten.committed), (1, 250, true));
    let manifest = world.check().await;
    assert_eq!(manifest.segments[0].deletes, None);
    assert!(!world.compact().await.committed);
}

#[tokio::test(start_paused = true)]
async fn everything_deleted_leaves_no_segment() {
    let mut world = World::new(VectorType::F32).await;
    world.import(0, clustered(20, D as usize, 1)).await;
    world.compact().await;
    for n in 0..20 {
        world.write(&[delete(n)]).await;
    }
    world.compact().await;
    let report = world.compact().await;
    assert_eq!((report.segments_out, report.live_rows), (0, 0));
    let manifest = world.check().await;
    assert_eq!(manifest.hashes.live, SetHash::default());
}

#[tokio::test(start_paused = true)]
async fn expired_rows_go_when_their_grace_is_over() {
    let mut world = World::new(VectorType::F32).await;
    let clock = world.collection.client().seams().clock.clone();
    let soon = clock.now_ms() + 1000;
    let long_ago = clock.now_ms() - esker_format::limits::EXPIRY_GRACE_MS;
    let with = |id: &str, expires_at| Write::Upsert { id: id.into(), vector: vec![1.0; 6], expires_at };
    world.write(&[with("a", Some(soon)), with("b", Some(long_ago)), with("c", None)]).await;
    world.truth.remove("b");
    let report = world.compact().await;
    assert_eq!((report.rows, report.expired), (2, 1));
    world.check().await;
    clock.sleep(Duration::from_secs(302)).await;
    world.write(&[with("d", None)]).await;
    let report = world.compact().await;
    assert_eq!((report.rows, report.expired, report.merged), (2, 1, 1));
    world.truth.remove("a");
    world.check().await;
}

#[tokio::test(start_paused = true)]
async fn random_writes_and_compactions_keep_what_an_oracle_keeps() {
    for seed in 0..6 {
        let mut world = World::new(VectorType::F16).await;
        let mut random = SplitMix::new(seed);
        for cycle in 0..7 {
            for _ in 0..1 + random.below(3) {
                let (first, count) = (random.below(60), 1 + random.below(40));
                world.import(first, exact(count, seed * 100 + cycle)).await;
                for _ in 0..random.below(8) {
                    world.write(&[delete(random.below(120))]).await;
                }
            }
            let report = world.compact().await;
            assert!(report.committed && report.segments_out <= plan::MOST_SEGMENTS);
            world.check().await;
        }
        while world.compact().await.committed {
            world.check().await;
        }
    }
}

/// Everything goes through scratch files: the least memory there is.
pub(super) fn tight() -> Compactor {
    Compactor::new(Options { threads: 2, seed: 3, memory: 1, ..Options::default() })
}

#[tokio::test(start_paused = true)]
async fn without_memory_the_same_rows_are_kept() {
    for seed in 0..3 {
        let mut world = World::new(VectorType::F16).await;
        let mut random = SplitMix::new(seed);
        for cycle in 0..5 {
            for _ in 0..1 + random.below(3) {
                let (first, count) = (random.below(60), 1 + random.below(200));
                world.import(first, exact(count, seed * 100 + cycle)).await;
                for _ in 0..random.below(8) {
                    world.write(&[delete(random.below(120))]).await;
                }
            }
            // Memory for one entry at a time: as many commits as entries.
            let tail = world.process(5).await.unfolded(&Meter::new(), u64::MAX).await.unwrap().tail.len();
            let report = tight().compact(&Meter::new(), &world.collection, &|_| {}).await.unwrap();
            assert_eq!((report.committed, report.folded_entries), (true, tail as u64));
            assert!(report.segments_out <= plan::MOST_SEGMENTS);
            world.check().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_built_in_scratch_files_is_uploaded_from_them() {
    // Above 16 MiB an upload has parts.
    let objects = Arc::new(InMemory::new());
    let settings = Settings { dimension: 512, metric: Metric::L2, vector_type: VectorType::F32 };
    let store = process(&objects, 1);
    let meter = Meter::new();
    let collection = store.create(&meter, &name(), settings, fixture::schema()).await.unwrap();
    for entry in 0..3u128 {
        let mut data = Vec::new();
        for (n, vector) in clustered(4000, 512, entry as u64).into_iter().enumerate() {
            put(&mut data, &Write::Upsert { id: format!("record-{entry}-{n}"), vector, expires_at: None });
        }
        let blocks = vec![Block { rows: 4000, data: data.into() }];
        let batch = PendingBatch {
            token: Token(entry),
            given: false,
            content: None,
            op: Op::Upsert,
            arrived_ms: NOW,
            blocks,
        };
        collection.append(&meter, batch).await.unwrap();
    }
    let directory = tempfile::tempdir().unwrap();
    let compactor = Compactor::new(Options { threads: 2, seed: 3, memory: 8 << 20, ..Options::default() })
        .with_scratch(Arc::new(crate::DirectoryScratch::new(directory.path())));
    let report = compactor.compact(&meter, &collection, &|_| {}).await.unwrap();
    assert_eq!((report.rows, report.folded_entries, report.segments_out), (12_000, 3, 1));
    let snapshot = collection.snapshot(&meter).await.unwrap();
    let reader =
        SegmentReader::open(&collection, &meter, &snapshot.manifest.segments[0], None).await.unwrap();
    let rows = reader.rows(&meter).await.unwrap();
    let columns = all_columns(&snapshot.schema);
    let batches: Vec<_> = rows.live(&meter, &snapshot.schema, &columns).try_collect().await.unwrap();
    let hashes = batches.iter().flat_map(|b| versions(&b.batch).unwrap().map(|v| v.hash()));
    assert_eq!(hashes.sum::<SetHash>(), snapshot.manifest.hashes.live);
    assert!(std::fs::read_dir(directory.path()).unwrap().next().is_none());
}

/// A file that cannot be read.
struct Unreadable;

impl ScratchFile for Unreadable {
    fn append(&self, _: &[u8]) -> std::io::Result<u64> {
        Ok(0)
    }

    fn read(&self, _: u64, _: &mut [u8]) -> std::io::Result<()> {
        Err(std::io::ErrorKind::UnexpectedEof.into())
    }

    fn length(&self) -> u64 {
        1
    }
}

#[test]
fn an_upload_that_fails_is_told_to_who_waits_for_it() {
    use tokio::runtime::Builder;
    for mut runtime in [Builder::new_multi_thread(), Builder::new_current_thread()] {
        runtime.build().unwrap().block_on(async {
            let world = World::new(VectorType::F32).await;
            let file: Arc<dyn ScratchFile> = Arc::new(Unreadable);
            let mut sending = Sending::default();
            sending.begin(world.collection.client().upload(&Meter::new(), "rows"), &file);
            assert_eq!(sending.sent().await.unwrap_err().kind(), Kind::Unavailable);
        });
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_scratch_file_beside_a_store_becomes_the_object() {
    use std::os::unix::fs::MetadataExt;
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let location = esker_store::Location::Directory(root.clone());
    let backend = esker_store::open(&location, &esker_store::StoreEnv::new(), true).unwrap();
    let (client, meter) = (Client::new(backend, Seams::system()), Meter::new());
    let file = crate::DirectoryScratch::new(directory.path()).file().unwrap();
    file.append(b"rows").unwrap();
    assert_eq!(sending::send(client.upload(&meter, "rows"), &*file, &|_, _| {}).await.unwrap(), 4);
    assert_eq!((meter.io().puts, meter.io().bytes_written), (1, 4));
    assert_eq!(client.get(&meter, "rows").await.unwrap().unwrap().0, "rows");
    let same = file.seal().unwrap().metadata().unwrap().ino();
    assert_eq!(std::fs::metadata(root.join("rows")).unwrap().ino(), same);
}

async fn ready<'a>(meter: &'a Meter, collection: &'a Arc<Collection>) -> Box<Commit<'a>> {
    match compactor().prepare(meter, collection, None, &|_| {}).await.unwrap() {
        Prepared::Ready(commit) => commit,
        Prepared::Nothing(_) => panic!("there is work"),
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_rivals_one_starts_again() {
    let mut world = World::new(VectorType::F32).await;
    world.import(0, clustered(60, D as usize, 1)).await;
    let (meter, rival) = (Meter::new(), world.process(8).await);
    let late = ready(&meter, &rival).await;
    world.compact().await;
    assert!(matches!(late.run().await.unwrap(), Round::Overtaken));
    let manifest = world.check().await;
    assert_eq!((manifest.version, manifest.segments.len()), (2, 1));

    world.import(30, clustered(60, D as usize, 2)).await;
    let (one, other) = (compactor(), compactor());
    let (a, b) = futures::join!(
        one.compact(&meter, &world.collection, &|_| {}),
        other.compact(&meter, &rival, &|_| {})
    );
    let committed = [a.unwrap(), b.unwrap()].map(|r| r.committed);
    assert_eq!(committed.iter().filter(|c| **c).count(), 1);
    world.check().await;
}

/// A segment that the next compaction rewrites: of its rows 0..110 are marked, and 400..410 have expired.
async fn hollow() -> World {
    let mut world = World::new(VectorType::F32).await;
    let expires_at = Some(world.collection.client().seams().clock.now_ms() + 1000);
    world.import(0, clustered(400, D as usize, 1)).await;
    for n in 400..410 {
        let id = format!("record-{n}");
        world.write(&[Write::Upsert { id, vector: vec![1.0; 6], expires_at }]).await;
    }
    world.compact().await;
    for n in 0..110 {
        world.write(&[delete(n)]).await;
    }
    assert_eq!(world.compact().await.marked, 110);
    world.collection.client().seams().clock.sleep(Duration::from_secs(400)).await;
    world
}

#[tokio::test(start_paused = true)]
async fn marks_of_a_rival_are_carried_over() {
    let mut world = hollow().await;
    // Ours rewrites the hollow segment; before it commits, a rival that only folds marks more rows there, one of which
    // ours drops because it expired.
    let (meter, rival, own) = (Meter::new(), world.process(8).await, world.collection.clone());
    let ours = ready(&meter, &own).await;
    world.write(&[delete(200), delete(201), delete(405)]).await;
    fold_only(&rival).await;
    let Round::Done(report, _) = ours.run().await.unwrap() else { panic!("marks can be carried over") };
    assert_eq!((report.carried, report.merged, report.expired), (1, 1, 10));
    (400..410).for_each(|n| drop(world.truth.remove(&format!("record-{n}"))));
    let manifest = world.check().await;
    assert_eq!(manifest.segments.len(), 1);
    assert_eq!(manifest.segments[0].deletes.as_ref().unwrap().count, 2);
}

#[tokio::test(start_paused = true)]
async fn marks_that_were_carried_over_are_not_counted_again_with_further_ones() {
    let mut world = hollow().await;
    // Ours drops record-405, which expired; a rival marks it meanwhile, and another row after that was carried over.
    let (meter, rival, own) = (Meter::new(), world.process(8).await, world.collection.clone());
    let mut ours = ready(&meter, &own).await;
    let (token, mut publish, mut parts) = ours.ready().await.unwrap();
    world.write(&[delete(405)]).await;
    fold_only(&rival).await;
    ours.carry(&own.manifest(&meter).await.unwrap(), &mut publish, &mut parts).await.unwrap();
    world.write(&[delete(201)]).await;
    fold_only(&rival).await;
    let Round::Done(report, _) = ours.commit(token, publish, parts).await.unwrap() else {
        panic!("marks can be carried over")
    };
    assert_eq!((report.carried, report.merged, report.expired), (1, 1, 10));
    (400..410).for_each(|n| drop(world.truth.remove(&format!("record-{n}"))));
    let manifest = world.check().await;
    assert_eq!(manifest.segments[0].deletes.as_ref().unwrap().count, 1);
    // All that it counts is there to be merged again.
    for n in 202..300 {
        world.write(&[delete(n)]).await;
    }
    world.compact().await;
    assert_eq!(world.compact().await.merged, 1);
    world.check().await;
}

/// Folds a tail of deletes without merging anything.
async fn fold_only(collection: &Arc<Collection>) {
    let meter = Meter::new();
    let snapshot = collection.unfolded(&meter, u64::MAX).await.unwrap();
    let tail = Tail::open(&meter, collection, &snapshot, u64::MAX).await.unwrap();
    let winners = fold(collection, &tail, NOW).await.unwrap();
    let mut rows = Gathered::new(u64::MAX, Box::new(|| panic!("there is room")));
    let none = vec![false; snapshot.manifest.segments.len()];
    let inputs =
        Inputs::read(&meter, collection, &snapshot, &winners, &none, NOW, &mut rows, &|_| {}).await.unwrap();
    let work = Work::new(&snapshot, &inputs, &winners, SetHash::default());
    let base = snapshot.manifest.clone();
    let commit = Commit {
        meter: &meter,
        collection,
        base,
        inputs,
        work,
        built: None,
        placed: None,
        sending: Sending::default(),
        progress: &|_| {},
    };
    assert!(matches!(commit.run().await.unwrap(), Round::Done(..)));
}

#[tokio::test(start_paused = true)]
async fn rows_of_an_older_schema_are_merged_as_the_newer_one_has_them() {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::Float64Type;
    let mut world = World::new(VectorType::F32).await;
    world.import(0, clustered(40, D as usize, 1)).await;
    world.compact().await;
    let wider = |s: &esker_format::schema::Schema| {
        let mut wider = s.clone();
        wider.columns[2].kind = ColumnType::Float;
        wider.columns.push(Column { name: "later".into(), kind: ColumnType::Boolean, wide: false });
        Ok((wider != *s).then_some(wider))
    };
    world.collection.alter(&Meter::new(), wider).await.unwrap();
    world.import(40, clustered(40, D as usize, 2)).await;
    assert_eq!(world.compact().await.merged, 1);
    let manifest = world.check().await;
    let meter = Meter::new();
    let reader = SegmentReader::open(&world.collection, &meter, &manifest.segments[0], None).await.unwrap();
    assert_eq!(reader.header().schema(), &manifest.schema);
    let rows = reader.rows(&meter).await.unwrap();
    // id, number and the column that came later.
    let batches: Vec<_> = rows.live(&meter, &manifest.schema, &[0, 4, 5]).try_collect().await.unwrap();
    for batch in batches.iter().map(|b| &b.batch) {
        assert_eq!(batch.num_columns(), 3);
        assert_eq!(batch.column(2).null_count(), batch.num_rows());
        let (ids, numbers) =
            (batch.column(0).as_string::<i32>(), batch.column(1).as_primitive::<Float64Type>());
        for i in 0..batch.num_rows() {
            assert_eq!(numbers.value(i), ids.value(i).bytes().map(f64::from).sum::<f64>());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn corrupt_bytes_are_refused_by_name_and_nothing_is_committed() {
    let mut world = World::new(VectorType::F32).await;
    world.import(0, clustered(40, D as usize, 1)).await;
    world.compact().await;
    world.import(100, clustered(40, D as usize, 2)).await;
    let manifest = world.manifest().await;
    let keys = world.collection.keys();
    let made = manifest.segments[0].made;
    // In the middle of the vectors, in a column chunk, in the header.
    for (key, at) in [(keys.wal(2), 1500), (keys.rows(made), 100), (keys.index(made), 100)] {
        let path = object_store::path::Path::parse(&key).unwrap();
        let good = world.objects.get(&path).await.unwrap().bytes().await.unwrap();
        let mut bad = good.to_vec();
        bad[at] ^= 4;
        world.objects.put(&path, PutPayload::from(bad)).await.unwrap();
        let head = object_store::path::Path::parse(keys.head()).unwrap();
        let kept = world.objects.get(&head).await.unwrap().bytes().await.unwrap();
        world.objects.delete(&head).await.unwrap();
        let refused = compactor().compact(&Meter::new(), &world.process(4).await, &|_| {}).await;
        world.objects.put(&path, PutPayload::from(good)).await.unwrap();
        world.objects.put(&head, PutPayload::from(kept)).await.unwrap();
        let e = refused.unwrap_err();
        assert_eq!(e.kind(), Kind::Corrupt, "{e}");
        assert!(e.to_string().contains(&key), "{e} does not name {key}");
        assert_eq!(world.manifest().await.version, 2);
    }
    world.compact().await;
    world.check().await;
}

#[test]
fn a_compaction_can_move_between_threads() {
    fn send<T: Send>(_: T) {}
    async fn whole(collection: Arc<Collection>) -> Result<Report> {
        compactor().compact(&Meter::new(), &collection, &|_| {}).await
    }
    let _ = |collection| send(whole(collection));
}
