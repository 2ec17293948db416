use std::fs::File;
use std::time::SystemTime;

use esker_format::avro::container::Block;
use esker_format::avro::encode_record;
use esker_format::keys::Made;
use esker_format::manifest::Stub;
use esker_format::record::{Op, RecordRef};
use esker_format::schema::{Metric, Settings, VectorType};
use esker_format::wal::{PendingBatch, inbox};
use esker_format::{Name, Token};
use esker_store::{Client, Location, Seams, Store, StoreEnv, open};

use super::*;
use crate::{Compactor, Options};

const HOUR: Duration = Duration::from_secs(60 * 60);

async fn directory() -> (tempfile::TempDir, Arc<Collection>) {
    let folder = tempfile::tempdir().unwrap();
    let location = Location::Directory(folder.path().to_owned());
    let backend = open(&location, &StoreEnv::new(), true).unwrap();
    let store = Store::new(Client::new(backend, Seams::system()));
    let settings = Settings { dimension: 2, metric: Metric::L2, vector_type: VectorType::F32 };
    let made = store.create(&Meter::new(), &Name::new("notes").unwrap(), settings, Default::default()).await;
    (folder, made.unwrap())
}

#[tokio::test]
async fn a_stub_is_told_from_a_manifest_by_its_size() {
    let (_folder, notes) = directory().await;
    let first = notes.newest(&Meter::new()).await.unwrap();
    let smallest = first.encode().unwrap().len() as u64;
    let floors = Floors { wal: u64::MAX, base: u64::MAX, version: u64::MAX };
    let largest = Stub { version: u64::MAX, token: Token(u128::MAX), floors }.encode().unwrap().len() as u64;
    assert!(largest <= look::STUB_BYTES && look::STUB_BYTES < smallest, "{largest} {smallest}");
}

#[tokio::test]
async fn temporary_files_of_the_dead_go() {
    let (folder, notes) = directory().await;
    let at = |name: &str| folder.path().join("c/notes-1").join(name);
    std::fs::create_dir_all(at("segment")).unwrap();
    let made = format!("segment/{:020}-{}.parquet", 1, Token(7));
    let (dead, young, plain) = (at(&format!("{made}#4711")), at("head#42"), at(&made));
    for path in [&dead, &young, &plain] {
        let file = File::create(path).unwrap();
        let age = if *path == young { Duration::ZERO } else { 2 * HOUR };
        #[expect(clippy::disallowed_methods, reason = "the age of a file")]
        file.set_modified(SystemTime::now() - age).unwrap();
    }
    let collector = Collector::new(CollectOptions { retain: HOUR, grace: Duration::ZERO });
    let plan = collector.plan(&Meter::new(), &notes).await.unwrap();
    let items: Vec<_> = plan.items.iter().map(|i| (i.key.as_str(), &i.reason)).collect();
    assert_eq!(items, [(format!("c/notes-1/{made}#4711").as_str(), &Reason::Temporary)]);
    let done = collector.run(&Meter::new(), &notes, &|_| {}).await.unwrap();
    assert_eq!((done.deleted, done.committed), (1, false));
    assert!(!dead.exists() && young.exists(), "only what nobody writes any more");
    assert!(plain.exists(), "an upload whose base is not below the floor may be in flight");
}

/// One row, as its writer offers it.
fn offered(notes: &Collection, token: u128) -> PendingBatch {
    let mut data = Vec::new();
    encode_record(&mut data, &RecordRef { id: "a", vector: &[1.0, 2.0], ..RecordRef::default() });
    let blocks = vec![Block { rows: 1, data: data.into() }];
    let arrived_ms = notes.client().seams().clock.now_ms();
    PendingBatch { token: Token(token), given: false, content: None, op: Op::Upsert, arrived_ms, blocks }
}

#[tokio::test]
async fn offers_go_when_nobody_may_take_them() {
    let (_folder, notes) = directory().await;
    let meter = Meter::new();
    for token in 1..=2 {
        notes.append(&meter, offered(&notes, token)).await.unwrap();
    }
    let mut keys = Vec::new();
    for (tail, token) in [(0, 5), (1, 6), (2, 7)] {
        let (key, bytes) = inbox::encode(notes.id(), tail, &[offered(&notes, token)]).unwrap();
        notes.client().overwrite(&meter, &key, bytes.into()).await.unwrap();
        keys.push(key);
    }
    let collector = Collector::new(CollectOptions { retain: Duration::ZERO, grace: Duration::ZERO });
    assert_eq!(collector.plan(&meter, &notes).await.unwrap().items, [], "the floor is 0");
    Compactor::new(Options { threads: 1, seed: 3, ..Options::default() })
        .compact(&meter, &notes, &|_| {})
        .await
        .unwrap();
    let plan = collector.plan(&meter, &notes).await.unwrap();
    let offers: Vec<_> = plan.items.iter().filter(|i| matches!(i.reason, Reason::Offer { .. })).collect();
    assert_eq!(offers.iter().map(|i| &i.key).collect::<Vec<_>>(), [&keys[1], &keys[0]]);
    assert!(offers[0].reason.to_string().contains("offered after entry 1 of the log, below 2"));
    collector.run(&meter, &notes, &|_| {}).await.unwrap();
    let left = notes.client().list_all(&meter, &notes.keys().inbox_prefix()).await.unwrap();
    assert_eq!(left.iter().map(|l| &l.key).collect::<Vec<_>>(), [&keys[2]]);
}

#[tokio::test]
async fn uploads_go_after_a_day_and_their_progress_after_two() {
    let (folder, notes) = directory().await;
    let at = |key: &str| folder.path().join(key);
    let body = |n: u128| notes.keys().upload(Token(n));
    let progress = |n: u128| notes.keys().progress(Token(n));
    std::fs::create_dir_all(at("c/notes-1/upload")).unwrap();
    for (key, hours) in
        [(body(1), 23), (body(2), 25), (progress(2), 25), (body(3), 49), (progress(3), 49), (progress(4), 47)]
    {
        let file = File::create(at(&key)).unwrap();
        #[expect(clippy::disallowed_methods, reason = "the age of a file")]
        file.set_modified(SystemTime::now() - hours * HOUR).unwrap();
    }
    let collector = Collector::new(CollectOptions { retain: HOUR, grace: Duration::ZERO });
    let plan = collector.plan(&Meter::new(), &notes).await.unwrap();
    let items: Vec<_> = plan.items.iter().map(|i| (i.key.clone(), i.reason.clone())).collect();
    let expected = [(body(2), Reason::Upload), (body(3), Reason::Upload), (progress(3), Reason::Progress)];
    assert_eq!(items, expected);
    let done = collector.run(&Meter::new(), &notes, &|_| {}).await.unwrap();
    assert_eq!((done.deleted, done.committed), (3, false));
    let left = notes.client().list_all(&Meter::new(), &notes.keys().upload_prefix()).await.unwrap();
    assert_eq!(left.len(), 3);
    // With the collection everything goes.
    let client = notes.client().clone();
    Store::new(client).drop_collection(&Meter::new(), &Name::new("notes").unwrap()).await.unwrap();
    collector.run(&Meter::new(), &notes, &|_| {}).await.unwrap();
    let left = notes.client().list_all(&Meter::new(), &notes.keys().upload_prefix()).await.unwrap();
    assert_eq!(left.len(), 0);
}

#[test]
fn reasons_are_sentences() {
    let reason = Reason::Pin { version: 3, owner: "export".to_owned(), released: false };
    assert_eq!(reason.to_string(), "the pin of export on version 3 has expired");
}

#[tokio::test]
async fn a_merge_in_steps_goes_when_nobody_went_on_with_it_for_three_days() {
    let (folder, notes) = directory().await;
    let (idle, busy) = (Made { base: 0, token: Token(1) }, Made { base: 0, token: Token(2) });
    let at = |made, name: &str| folder.path().join(notes.keys().job(made, name));
    for (made, name, hours) in
        [(idle, "job", 80), (idle, "part-1", 73), (busy, "job", 80), (busy, "part-1", 70)]
    {
        std::fs::create_dir_all(at(made, name).parent().unwrap()).unwrap();
        let file = File::create(at(made, name)).unwrap();
        #[expect(clippy::disallowed_methods, reason = "the age of a file")]
        file.set_modified(SystemTime::now() - hours * HOUR).unwrap();
    }
    let collector = Collector::new(CollectOptions { retain: HOUR, grace: Duration::ZERO });
    let plan = collector.plan(&Meter::new(), &notes).await.unwrap();
    let items: Vec<_> = plan.items.iter().map(|i| (i.key.clone(), &i.reason)).collect();
    let keys = ["job", "part-1"].map(|name| notes.keys().job(idle, name));
    assert_eq!(items, keys.map(|key| (key, &Reason::Job)));
    collector.run(&Meter::new(), &notes, &|_| {}).await.unwrap();
    assert!(!at(idle, "job").exists() && at(busy, "job").exists() && at(busy, "part-1").exists());
}
