//! What the functions ask of the store is what their roles allow (`infra/terraform/roles.tf`): a role that is too small shows
//! only where there is AWS. `scripts/check-terraform.sh` shows that none is too large.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use esker_compactor::work::{lives, marked};
use esker_compactor::{CollectOptions, Collector, Compactor, Options};
use esker_format::Name;
use esker_format::record::{Op, Record, Value};
use esker_format::schema::{Metric, Schema, Settings, VectorType};
use esker_ingest::{Body, Condition, Ingest, WriteOptions};
use esker_query::{Engine, PageRequest, ScanRequest, Search};
use esker_store::{Backend, Client, Location, Meter, Method, Request, Seams, Store, StoreEnv, open};
use futures::TryStreamExt;
use futures::future::join_all;

const ROLES: &str = include_str!("../../../infra/terraform/roles.tf");

/// What a role may do: patterns of keys by kind of leave.
struct Role(&'static str, BTreeMap<&'static str, Vec<&'static str>>);

impl Role {
    /// Reads it from the table `access` of the module.
    fn of(name: &'static str) -> Self {
        let start = ROLES.find(&format!("\n    {name} = {{\n")).expect("the role is in the table");
        let table = ROLES[start..].split("\n    }\n").next().unwrap();
        let leaves = ["read", "list", "write", "delete"].map(|leave| {
            let line = table.find(&format!("      {leave} ")).expect("each role says all four");
            let patterns = table[line..].split_once('[').unwrap().1.split(']').next().unwrap();
            (leave, patterns.split('"').skip(1).step_by(2).collect())
        });
        Role(name, leaves.into())
    }

    fn allows(&self, request: &Request) -> bool {
        let leave = match request.method {
            Method::Get => "read",
            Method::List => "list",
            Method::Create | Method::Put => "write",
            Method::Delete => "delete",
        };
        self.1[leave].iter().any(|pattern| matches(pattern, &request.key))
    }

    fn check(&self, meter: &Meter) {
        let requests = meter.requests();
        let refused: Vec<String> =
            requests.iter().filter(|r| !self.allows(r)).map(Request::to_string).collect();
        assert!(!requests.is_empty() && refused.is_empty(), "{} may not {refused:#?}", self.0);
    }
}

/// Whether a pattern, in which `*` is any text, is the whole key.
fn matches(pattern: &str, key: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == key,
        Some((before, after)) => key.strip_prefix(before).is_some_and(|rest| {
            rest.char_indices().map(|(i, _)| i).chain([rest.len()]).any(|i| matches(after, &rest[i..]))
        }),
    }
}

fn name() -> Name {
    Name::new("notes").unwrap()
}

/// A function that knows nothing yet.
fn started(backend: &Backend, seed: u64) -> Arc<Store> {
    Arc::new(Store::new(Client::new(backend.clone(), Seams::simulated(seed))))
}

const DIMENSION: u32 = 64;

fn rows(from: usize, n: usize) -> Vec<Record> {
    let row = |i: usize| Record {
        id: format!("row-{i}"),
        vector: (0..DIMENSION).map(|d| ((i * 31 + d as usize * 17) % 97) as f32 + 1.0).collect(),
        metadata: BTreeMap::from([(format!("column_{}", from % 3), Value::Int(i as i64))]),
        ..Record::default()
    };
    (from..from + n).map(row).collect()
}

/// Creates, widens, appends small and large, deletes, conditional and contended writes.
async fn write(backend: &Backend, meter: &Meter, seed: u64) {
    let store = started(backend, seed);
    let settings = Settings { dimension: DIMENSION, metric: Metric::L2, vector_type: VectorType::F32 };
    store.create(meter, &name(), settings, Schema::default()).await.unwrap();
    let ingest = Ingest::new(store);
    for i in 0..20 {
        ingest.upsert(meter, &name(), &rows(i, 1), None).await.unwrap();
    }
    ingest.upsert(meter, &name(), &rows(0, 6_000), None).await.unwrap();
    ingest.delete(meter, &name(), &["row-3"], &WriteOptions::default()).await.unwrap();
    let absent = WriteOptions { condition: Condition::IfAbsent, ..WriteOptions::default() };
    ingest.write(meter, &name(), Op::Upsert, Body::Records(rows(9_000, 1)), &absent).await.unwrap();
    let rivals = (1..8).map(|rival| {
        let (ingest, meter) = (Ingest::new(started(backend, seed + rival)), meter.clone());
        async move { ingest.upsert(&meter, &name(), &rows(10_000 * rival as usize, 1), None).await }
    });
    assert!(join_all(rivals).await.iter().all(Result::is_ok));
}

/// What an event, a tick and a collection of garbage do.
async fn compact(backend: &Backend, meter: &Meter, seed: u64) {
    let store = started(backend, seed);
    marked(&store, meter).await.unwrap();
    let collection = store.begin(meter, &name()).await.unwrap().0;
    let compactor = Compactor::new(Options { threads: 1, ..Options::default() });
    compactor.compact(meter, &collection, &|_| {}).await.unwrap();
    collect(&store, meter).await;
}

async fn collect(store: &Store, meter: &Meter) {
    let collector = Collector::new(CollectOptions { retain: Duration::ZERO, grace: Duration::ZERO });
    store.list(meter).await.unwrap();
    for life in lives(meter, store, &name()).await.unwrap() {
        collector.run(meter, &life, &|_| {}).await.unwrap();
    }
}

async fn ask(backend: &Backend, meter: &Meter) {
    let engine = Engine::new(started(backend, 900), esker_query::Options::default());
    engine.names(meter).await.unwrap();
    let reader = engine.collection(&name());
    let search = Search { vectors: vec![vec![1.0; DIMENSION as usize]], ..Search::default() };
    assert_eq!(reader.search(meter, &search).await.unwrap().results[0].len(), 10);
    reader.count(meter, None).await.unwrap();
    reader.stats(meter).await.unwrap();
    reader.describe(meter).await.unwrap();
    let scanned = reader.scan(meter, &ScanRequest::default()).await.unwrap();
    scanned.batches.try_collect::<Vec<_>>().await.unwrap();
    let page = reader.page(meter, &PageRequest::default()).await.unwrap();
    page.batches.try_collect::<Vec<_>>().await.unwrap();
    assert!(engine.collection(&Name::new("nothing").unwrap()).search(meter, &search).await.is_err());
}

#[tokio::test]
async fn each_function_asks_what_its_role_allows() {
    let backend = open(&Location::Memory, &StoreEnv::new(), true).unwrap();
    let (ingest, compactor, query) = (Role::of("ingest"), Role::of("compactor"), Role::of("query"));
    let meters = [(); 3].map(|()| Meter::recording());
    let [writes, folds, reads] = &meters;
    write(&backend, writes, 100).await;
    ask(&backend, reads).await;
    compact(&backend, folds, 200).await;
    ask(&backend, reads).await;
    // Older rows are overwritten: deletion bitmaps and old versions.
    let again = Ingest::new(started(&backend, 300));
    again.upsert(writes, &name(), &rows(0, 40), None).await.unwrap();
    compact(&backend, folds, 400).await;
    ask(&backend, reads).await;
    let owner = started(&backend, 500);
    owner.drop_collection(writes, &name()).await.unwrap();
    collect(&started(&backend, 600), folds).await;
    write(&backend, writes, 700).await;
    ask(&backend, reads).await;
    for (role, meter) in [(&ingest, writes), (&compactor, folds), (&query, reads)] {
        role.check(meter);
    }
    let asked = |meter: &Meter, method: Method, folder: &str| {
        meter.requests().iter().any(|r| r.method == method && r.key.contains(folder))
    };
    assert!(asked(writes, Method::Put, "/body/") && asked(folds, Method::Put, "/deletes/"), "all was tried");
    assert!(asked(folds, Method::Delete, "/wal/") && asked(folds, Method::Delete, "dirty/"), "all was tried");
}

#[test]
fn what_a_role_does_not_allow_is_seen() {
    let put = |key: &str| Request { method: Method::Put, key: key.to_owned(), range: None, depth: 1 };
    let wal = put("c/notes-1/wal/18446744073709551614.avro");
    let rows = put("c/notes-1/segment/00000000000000000001-0.parquet");
    assert!(Role::of("ingest").allows(&wal) && !Role::of("ingest").allows(&rows));
    assert!(Role::of("compactor").allows(&rows) && !Role::of("compactor").allows(&wal));
    assert!(!Role::of("query").allows(&wal) && !Role::of("query").allows(&rows));
}
