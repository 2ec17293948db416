//! What is kept between queries stays under its limit.

use esker_format::schema::{Metric, VectorType};
use esker_format::{Kind, Name};
use esker_store::Meter;

use super::fixture::World;
use crate::engine::{Engine, Options};
use crate::search::Search;

/// Three collections of one store with 600 rows each in segments, and an engine with this much memory.
async fn three(memory: u64) -> (World, Engine, [Name; 3]) {
    let mut world = World::compacted(600, 32, Metric::L2, VectorType::F32).await;
    world.fill(600..610).await;
    let settings = world.settings.clone();
    let schema = world.collection().await.manifest(&Meter::new()).await.unwrap().schema.clone();
    let first = world.name.clone();
    let records: Vec<_> = world.rows.values().cloned().collect();
    let names = ["second", "third"].map(|n| Name::new(n).unwrap());
    for name in &names {
        world.store.create(&Meter::new(), name, settings.clone(), schema.clone()).await.unwrap();
        world.ingest.upsert(&Meter::new(), name, &records, None).await.unwrap();
        let collection = world.store.collection(&Meter::new(), name).await.unwrap();
        let compactor = esker_compactor::Compactor::default();
        compactor.compact(&Meter::new(), &collection, &|_| {}).await.unwrap();
    }
    let engine = world.engine_with(Options { memory, ..Options::default() });
    let [second, third] = names;
    (world, engine, [first, second, third])
}

async fn rule(engine: &Engine, name: &Name, query: Vec<f32>) -> (&'static str, Vec<String>) {
    let search = Search { vectors: vec![query], k: 5, explain: true, ..Search::default() };
    let reply = engine.collection(name).search(&Meter::new(), &search).await.unwrap();
    (reply.explain.unwrap().rule, reply.results[0].iter().map(|h| h.id.clone()).collect())
}

#[tokio::test]
async fn collections_not_read_for_longest_are_let_go_of() {
    let meter = Meter::new();
    let (_, probe, [first, ..]) = three(u64::MAX).await;
    let one = probe.collection(&first).hold(&meter).await.unwrap();
    assert!(one.resident && one.rows == 610 && one.bytes > 600 * 32 * 4, "{one:?}");
    assert!(probe.kept_bytes() > one.bytes, "a tail and a header beside it");
    // Room for two, not for three.
    let memory = probe.kept_bytes() * 5 / 2;
    let (mut world, engine, [first, second, third]) = three(memory).await;
    let query = world.near(3);
    for name in [&first, &second] {
        assert!(engine.collection(name).hold(&meter).await.unwrap().resident);
    }
    assert!(engine.kept_bytes() <= memory);
    let (how, found) = rule(&engine, &first, query.clone()).await;
    assert_eq!(how, "memory");
    assert!(engine.collection(&third).hold(&meter).await.unwrap().resident);
    assert!(engine.kept_bytes() <= memory);
    assert_eq!(rule(&engine, &first, query.clone()).await, ("memory", found.clone()));
    assert_eq!(rule(&engine, &third, query.clone()).await, ("memory", found.clone()));
    assert_eq!(rule(&engine, &second, query.clone()).await, ("codes", found.clone()), "the one to go");
    assert!(engine.kept_bytes() <= memory);
}

#[tokio::test]
async fn what_does_not_fit_is_searched_through_the_cache() {
    let meter = Meter::new();
    let (_, probe, [first, second, _]) = three(u64::MAX).await;
    let bytes = probe.collection(&first).hold(&meter).await.unwrap().bytes;
    let held = probe.kept_bytes();
    for memory in [0, bytes / 2, bytes] {
        let (mut world, engine, _) = three(memory).await;
        let query = world.near(3);
        let (how, _) = rule(&engine, &second, query.clone()).await;
        assert_eq!(how, "codes");
        let residency = engine.collection(&first).hold(&meter).await.unwrap();
        let near = residency.bytes.abs_diff(bytes) < bytes / 10;
        assert!(!residency.resident && near && residency.rows == 610, "{residency:?}");
        assert!(engine.kept_bytes() <= memory);
        let (how, found) = rule(&engine, &first, query.clone()).await;
        let truth: Vec<String> = world.truth(&query, 5, |_| true).into_iter().map(|t| t.0).collect();
        assert_eq!((how, found), ("codes", truth));
        let e = engine.collection(&first).warm(&meter).await.unwrap_err();
        assert!(e.kind() == Kind::Invalid && e.field() == Some("memory"), "{e}");
    }
    // What is held is not put out by what could not be held anyway.
    let (mut world, engine, [first, second, _]) = three(held + held / 8).await;
    world.fill(610..2000).await;
    world.compact().await;
    assert!(engine.collection(&second).hold(&meter).await.unwrap().resident);
    let residency = engine.collection(&first).hold(&meter).await.unwrap();
    assert!(!residency.resident, "{residency:?}, {held} were held");
    let query = world.near(3);
    assert_eq!(rule(&engine, &second, query).await.0, "memory");
}

#[tokio::test]
async fn a_handle_outlives_what_the_engine_lets_go_of() {
    let meter = Meter::new();
    let (_, probe, [first, ..]) = three(u64::MAX).await;
    probe.collection(&first).hold(&meter).await.unwrap();
    let (mut world, engine, [first, second, _]) = three(probe.kept_bytes() + 1000).await;
    let query = world.near(3);
    let warm = engine.collection(&first).warm(&meter).await.unwrap();
    let before = warm.search(&query, 5, 0.98, None).unwrap();
    assert!(engine.collection(&second).hold(&meter).await.unwrap().resident);
    assert_eq!(rule(&engine, &first, query.clone()).await.0, "codes");
    assert_eq!(warm.search(&query, 5, 0.98, None).unwrap(), before);
}
