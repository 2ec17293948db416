//! What is kept between queries stays under its limit.

use esker_format::record::{Record, Value};
use esker_format::schema::{Metric, VectorType};
use esker_format::{Kind, Name};
use esker_store::Meter;

use super::fixture::World;
use crate::engine::{Engine, Options};
use crate::filter::Filter;
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

/// Searches under a filter, each some times: from the second on its rows are known.
async fn filtered(world: &mut World, engine: &Engine, when: &str) {
    let reader = engine.collection(&world.name);
    for section in [3, 5] {
        let filter = Some(Filter::sql(&format!("section = 's{section}'")).unwrap());
        let passes = |r: &Record| r.metadata.get("section") == Some(&Value::String(format!("s{section}")));
        let mut kept = Vec::new();
        for _ in 0..3 {
            let vectors = world.queries(3);
            let search =
                Search { vectors, k: 60, filter: filter.clone(), explain: true, ..Search::default() };
            let (recall, reply) = world.recall(&reader, &search, passes).await;
            assert_eq!((recall, reply.explain.unwrap().rule), (1.0, "memory"), "{when}");
            kept.push(engine.kept_bytes());
        }
        // What a search keeps is counted by the next.
        assert_eq!(kept[1], kept[2], "nothing is worked out again");
    }
}

#[tokio::test]
async fn the_rows_of_a_filter_are_known_until_they_are_others() {
    for copies in [false, true] {
        let mut world = World::new(16, Metric::L2, VectorType::F32).await;
        world.fill(0..1200).await;
        match copies {
            true => world.compact_with_copies().await,
            false => world.compact().await,
        }
        let engine = world.engine_with(Options::default());
        let reader = engine.collection(&world.name);
        reader.hold(&Meter::new()).await.unwrap();
        let before = engine.kept_bytes();
        filtered(&mut world, &engine, "at first").await;
        assert!(engine.kept_bytes() > before, "two answers");
        // Rows that pass are overwritten by some that do not, and the other way round; others go.
        let mut moved: Vec<Record> = [3, 27, 51, 4, 28].iter().map(|i| world.record(*i)).collect();
        for record in &mut moved {
            let section = if record.version % 24 == 3 { "s9" } else { "s3" };
            record.metadata.insert("section".to_owned(), Value::String(section.to_owned()));
            record.version = 5000;
        }
        world.upsert(moved).await;
        world.delete(&["row 75".to_owned(), "row 5".to_owned(), "row 6".to_owned()]).await;
        filtered(&mut world, &engine, "after writes").await;
        // The same as marks of the segment, with a second one beside it.
        world.compact().await;
        // Without a write in between a reader goes on with the manifest that it knows until it searches.
        rule(&engine, &world.name, world.rows["row 7"].vector.clone()).await;
        reader.hold(&Meter::new()).await.unwrap();
        filtered(&mut world, &engine, "after a compaction").await;
        world.fill(1200..1230).await;
        filtered(&mut world, &engine, "with a tail").await;
    }
}

#[tokio::test]
async fn the_rows_of_a_filter_are_not_kept_where_rows_expire() {
    let mut world = World::new(16, Metric::L2, VectorType::F32).await;
    world.fill(0..300).await;
    let mut mortal = world.record(300);
    mortal.expires_at = Some(253_402_300_799_999);
    world.upsert(vec![mortal]).await;
    world.compact().await;
    let engine = world.engine_with(Options::default());
    let reader = engine.collection(&world.name);
    reader.hold(&Meter::new()).await.unwrap();
    let before = engine.kept_bytes();
    filtered(&mut world, &engine, "mortal").await;
    assert_eq!(engine.kept_bytes(), before);
}
