use std::fs::File;
use std::time::SystemTime;

use esker_format::manifest::Stub;
use esker_format::schema::{Metric, Settings, VectorType};
use esker_format::{Name, Token};
use esker_store::{Client, Location, Seams, Store, StoreEnv, open};

use super::*;

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

#[test]
fn reasons_are_sentences() {
    let reason = Reason::Pin { version: 3, owner: "export".to_owned(), released: false };
    assert_eq!(reason.to_string(), "the pin of export on version 3 has expired");
}
