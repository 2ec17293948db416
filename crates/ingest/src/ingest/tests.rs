use std::collections::BTreeMap;
use std::path::Path;

use arrow::array::AsArray;
use esker_format::record::Value;
use esker_format::schema::{Metric, Schema, VectorType};
use esker_store::{Client, Location, Seams, StoreEnv};
use tempfile::TempDir;

use super::*;
use crate::import::{Overrides, Plan, inspect, run};

fn on_every_store(test: impl AsyncFn(Arc<Store>)) {
    let dir = TempDir::new().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for location in [Location::Memory, Location::Directory(dir.path().join("store"))] {
        runtime.block_on(async {
            let backend = esker_store::open(&location, &StoreEnv::new(), true).unwrap();
            test(Arc::new(Store::new(Client::new(backend, Seams::simulated(1))))).await;
        });
    }
}

fn notes() -> Name {
    Name::new("notes").unwrap()
}

async fn create(store: &Store, name: &Name) -> Arc<Collection> {
    let settings = Settings { dimension: 2, metric: Metric::Cosine, vector_type: VectorType::F32 };
    store.create(&Meter::new(), name, settings, Schema::default()).await.unwrap()
}

fn record(id: &str, key: &str, value: Value) -> Record {
    Record {
        id: id.to_owned(),
        vector: vec![1.0, 2.0],
        metadata: BTreeMap::from([(key.to_owned(), value)]),
        ..Record::default()
    }
}

/// Ids in the tail, in log order, and ids deleted.
async fn tail(collection: &Collection) -> (Vec<String>, Vec<String>) {
    let snapshot = collection.snapshot(&Meter::new()).await.unwrap();
    let (mut ids, mut gone) = (Vec::new(), Vec::new());
    for entry in &snapshot.rows {
        ids.extend(entry.rows.column(0).as_string::<i32>().iter().map(|id| id.unwrap().to_owned()));
        gone.extend(entry.tombstones.iter().map(|t| t.id.clone()));
    }
    (ids, gone)
}

#[test]
fn writes_are_acknowledged_once() {
    on_every_store(async |store| {
        let collection = create(&store, &notes()).await;
        let (ingest, meter) = (Ingest::new(store.clone()), Meter::new());
        let first = ingest
            .upsert(&meter, &notes(), &[record("a", "x", Value::Int(1))], Some(Token(9)))
            .await
            .unwrap();
        assert_eq!((first.rows, first.token, first.duplicate), (1, Token(9), false));
        let again = ingest
            .upsert(&meter, &notes(), &[record("a", "x", Value::Int(1))], Some(Token(9)))
            .await
            .unwrap();
        assert_eq!(again, Ack { duplicate: true, ..first });
        let gone = ingest.delete(&meter, &notes(), &["a", "b"], None).await.unwrap();
        assert!(gone.position > first.position && gone.rows == 2);
        assert_eq!(tail(&collection).await, (vec!["a".to_owned()], vec!["a".to_owned(), "b".to_owned()]));
    });
}

#[test]
fn the_schema_follows_the_records_or_refuses_them() {
    on_every_store(async |store| {
        let collection = create(&store, &notes()).await;
        let (ingest, meter) = (Ingest::new(store.clone()), Meter::new());
        let upsert = async |value| ingest.upsert(&meter, &notes(), &[record("a", "x", value)], None).await;
        upsert(Value::Int(1)).await.unwrap();
        upsert(Value::Float(0.5)).await.unwrap();
        let e = upsert(Value::Bool(true)).await.unwrap_err();
        assert_eq!((e.kind(), e.field()), (Kind::Invalid, Some("records[0].metadata.x")));
        let e = ingest.upsert(&meter, &Name::new("nope").unwrap(), &[], None).await.unwrap_err();
        assert_eq!(e.kind(), Kind::NotFound);
        let snapshot = collection.snapshot(&Meter::new()).await.unwrap();
        assert_eq!((snapshot.schema.columns.len(), snapshot.rows.len()), (1, 2));
    });
}

#[test]
fn a_name_that_was_dropped_and_created_again_is_found() {
    on_every_store(async |store| {
        create(&store, &notes()).await;
        let writer = Arc::new(Store::new(store.client().clone()));
        let (ingest, meter) = (Ingest::new(writer), Meter::new());
        ingest.upsert(&meter, &notes(), &[record("a", "x", Value::Int(1))], None).await.unwrap();
        store.drop_collection(&meter, &notes()).await.unwrap();
        let second = create(&store, &notes()).await;
        ingest.upsert(&meter, &notes(), &[record("b", "x", Value::Int(1))], None).await.unwrap();
        assert_eq!(tail(&second).await.0, ["b"]);
    });
}

fn file(dir: &Path, rows: usize) -> std::path::PathBuf {
    use std::io::Write;
    let path = dir.join("notes.jsonl");
    let mut out = std::fs::File::create(&path).unwrap();
    (0..rows)
        .for_each(|i| writeln!(out, "{{\"id\":{i},\"vector\":[1,{i}],\"even\":{}}}", i % 2 == 0).unwrap());
    path
}

#[test]
fn an_import_runs_twice_and_writes_once() {
    let dir = TempDir::new().unwrap();
    let path = file(dir.path(), 300);
    on_every_store(async |store| {
        let collection = create(&store, &notes()).await;
        let plan = || {
            let existing = collection.last_seen().map(|m| m.settings.clone());
            let inspected = inspect(&path, &Overrides { existing, ..Overrides::default() }).unwrap();
            let settings = inspected.inference.settings();
            Plan::new(&path, inspected, collection.id().clone(), settings).unwrap().with_limits(20, 1 << 20)
        };
        let clock = store.client().seams().clock.clone();
        for skipped in [0, 300] {
            let sink = CollectionSink::new(collection.clone(), Meter::new(), None);
            let report = run(plan(), &sink, clock.as_ref(), &|_| {}).await.unwrap();
            assert_eq!((report.rows, report.skipped, report.batches), (300, skipped, 15));
        }
        // Several batches of one import may share an entry.
        let (mut ids, _) = tail(&collection).await;
        ids.sort_by_key(|id| id.parse::<u32>().unwrap());
        assert_eq!(ids, (0..300).map(|i| i.to_string()).collect::<Vec<_>>());
    });
}

#[test]
fn a_sink_compacts_once_for_all_who_wait() {
    on_every_store(async |store| {
        let collection = create(&store, &notes()).await;
        let runs = Arc::new(AtomicU64::new(0));
        let counter = runs.clone();
        let compact: Compact = Box::new(move || {
            let runs = counter.clone();
            Box::pin(async move {
                tokio::task::yield_now().await;
                runs.fetch_add(1, Ordering::Relaxed);
                Ok(())
            })
        });
        let sink = CollectionSink::new(collection, Meter::new(), Some(compact));
        assert!(!sink.maybe_compact().await.unwrap());
        sink.full.store(true, Ordering::Relaxed);
        let (a, b, c) = futures::join!(sink.maybe_compact(), sink.maybe_compact(), sink.maybe_compact());
        assert_eq!((a.unwrap(), b.unwrap(), c.unwrap()), (true, true, true));
        assert_eq!(runs.load(Ordering::Relaxed), 1);
        assert!(!sink.maybe_compact().await.unwrap());
    });
}

#[test]
fn writes_can_run_on_any_thread() {
    fn sendable<T: Send>(_: T) {}
    on_every_store(async |store| {
        let (ingest, meter) = (Ingest::new(store.clone()), Meter::new());
        sendable(ingest.upsert(&meter, &notes(), &[], None));
        sendable(ingest.delete(&meter, &notes(), &["a"], None));
        let collection = create(&store, &notes()).await;
        let dir = TempDir::new().unwrap();
        let path = file(dir.path(), 1);
        let inspected = inspect(&path, &Overrides::default()).unwrap();
        let settings = inspected.inference.settings();
        let plan = Plan::new(&path, inspected, collection.id().clone(), settings).unwrap();
        let sink = CollectionSink::new(collection, meter, None);
        sendable(run(plan, &sink, store.client().seams().clock.as_ref(), &|_| {}));
    });
}
