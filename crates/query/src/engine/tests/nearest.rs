//! Unfiltered searches: recall for each metric and type, cold, probing and in memory; churn; tails.

use esker_format::record::{Record, Value};
use esker_format::schema::{Metric, VectorType};
use esker_store::Meter;

use super::fixture::World;
use crate::filter::Filter;
use crate::search::Search;

const ALL: fn(&Record) -> bool = |_| true;

fn searches(vectors: Vec<Vec<f32>>, k: usize) -> Search {
    Search { vectors, k, explain: true, ..Search::default() }
}

#[tokio::test]
async fn recall_holds_for_each_metric_and_type() {
    for (metric, kind) in [
        (Metric::Cosine, VectorType::F32),
        (Metric::L2, VectorType::F32),
        (Metric::Dot, VectorType::F32),
        (Metric::Cosine, VectorType::F16),
    ] {
        let mut world = World::compacted(1500, 48, metric, kind).await;
        let search = searches(world.queries(20), 10);
        for (how, reader) in [("codes", world.cold()), ("probe", world.probing().await)] {
            let (recall, reply) = world.recall(&reader, &search, ALL).await;
            assert_eq!(reply.explain.unwrap().rule, how);
            assert!(recall >= 0.97, "{metric} {kind} by {how}: {recall}");
        }
        let held = world.cold();
        let warm = held.warm(&Meter::new()).await.unwrap();
        let (recall, reply) = world.recall(&held, &search, ALL).await;
        assert_eq!(reply.explain.unwrap().rule, "memory");
        assert!(recall >= 0.97, "{metric} {kind} in memory: {recall}");
        // The synchronous search is the same search.
        for (query, hits) in search.vectors.iter().zip(&reply.results) {
            let found = warm.search(query, 10, search.min_recall, None).unwrap();
            let ids: Vec<&str> = found.iter().map(|h| warm.id(h)).collect();
            assert_eq!(ids, hits.iter().map(|h| h.id.as_str()).collect::<Vec<_>>());
        }
    }
}

#[tokio::test]
async fn a_tail_alone_is_searched_exactly() {
    let mut world = World::new(8, Metric::L2, VectorType::F32).await;
    let search = searches(world.queries(3), 10);
    let (recall, reply) = world.recall(&world.cold(), &search, ALL).await;
    assert!(recall == 1.0 && reply.results.iter().all(Vec::is_empty), "an empty collection has no hits");
    world.fill(0..50).await;
    let (recall, reply) = world.recall(&world.cold(), &search, ALL).await;
    assert_eq!((recall, reply.explain.unwrap().rule), (1.0, "tail"));
}

#[tokio::test]
async fn full_recall_is_exact() {
    let mut world = World::compacted(1500, 4, Metric::L2, VectorType::F32).await;
    world.fill(1500..1700).await;
    world.compact().await;
    // Overwrites rows of both segments.
    world.fill(1450..1550).await;
    let search = Search { min_recall: 1.0, ..searches(world.queries(40), 10) };
    let held = world.cold();
    held.warm(&Meter::new()).await.unwrap();
    for (reader, rule) in [(world.cold(), "exact"), (held, "memory")] {
        let (recall, reply) = world.recall(&reader, &search, ALL).await;
        let explain = reply.explain.unwrap();
        assert_eq!((recall, explain.rule, explain.estimated_recall), (1.0, rule, 1.0));
    }
}

#[tokio::test]
async fn several_segments_and_a_tail_are_one_answer() {
    let mut world = World::compacted(3000, 32, Metric::Cosine, VectorType::F32).await;
    world.fill(3000..3400).await;
    world.compact().await;
    world.fill(3400..3450).await;
    world.compact().await;
    world.fill(3450..3470).await;
    let search = searches(world.queries(20), 10);
    for reader in [world.cold(), world.probing().await] {
        let (recall, reply) = world.recall(&reader, &search, ALL).await;
        let explain = reply.explain.unwrap();
        assert_eq!((explain.segments.len(), explain.tail_ids), (3, 20));
        assert!((0.96..=0.98).contains(&explain.estimated_recall), "{}", explain.estimated_recall);
        assert!(recall >= 0.97, "{recall}");
    }
}

#[tokio::test]
async fn deleting_the_nearest_does_not_hurt() {
    for (deleted, compact) in [(20, false), (400, false), (400, true)] {
        let mut world = World::compacted(3000, 32, Metric::L2, VectorType::F32).await;
        let query = world.near(3);
        let nearest: Vec<String> = world.truth(&query, deleted, ALL).into_iter().map(|t| t.0).collect();
        world.delete(&nearest).await;
        if compact {
            world.compact().await;
        }
        let mut queries = vec![query];
        queries.extend((0..9).map(|_| world.near(3)));
        let search = searches(queries, 10);
        let held = world.cold();
        held.warm(&Meter::new()).await.unwrap();
        for (how, reader) in [("codes", world.cold()), ("probe", world.probing().await), ("memory", held)] {
            let (recall, _) = world.recall(&reader, &search, ALL).await;
            assert!(recall >= 0.95, "{deleted} deleted, compacted: {compact}, by {how}: {recall}");
        }
    }
}

/// Of more rows than are all looked at, none near the query passes: a probe goes on for as long as what it scans has a chance.
#[tokio::test]
async fn a_probe_far_from_the_query_ends_where_nothing_has_a_chance() {
    let mut world = World::new(48, Metric::Cosine, VectorType::F32).await;
    let queries: Vec<Vec<f32>> = (0..6).map(|_| world.near(3)).collect();
    let unit = |v: &[f32]| -> Vec<f32> {
        let norm = v.iter().map(|x| x * x).sum::<f32>().sqrt();
        v.iter().map(|x| x / norm).collect()
    };
    let centre = unit(&queries[0]);
    for batch in 0..23 {
        let records = (0..4000).map(|i| {
            let record = world.record(4000 * batch + i);
            let vector = world.vector();
            let cosine: f32 = unit(&vector).iter().zip(&centre).map(|(a, b)| a * b).sum();
            let side = Value::Int((1000.0 * cosine) as i64);
            Record { vector, metadata: [("side".to_owned(), side)].into(), ..record }
        });
        let records = records.collect();
        world.upsert(records).await;
    }
    world.compact().await;
    let held = world.cold();
    held.hold(&Meter::new()).await.unwrap();
    let filter = Some(Filter::sql("side < 200").unwrap());
    let search = Search { filter, explain: true, ..searches(queries, 10) };
    let passes = |r: &Record| matches!(r.metadata.get("side"), Some(Value::Int(side)) if *side < 200);
    let (recall, reply) = world.recall(&held, &search, passes).await;
    let scanned = reply.explain.unwrap().codes_scanned / 6;
    assert!(recall >= 0.98 && scanned < 30_000, "{recall}, {scanned} of 92,000");
}

#[tokio::test]
async fn overwritten_rows_are_found_where_they_are_now() {
    for moved in [10, 300] {
        let mut world = World::compacted(2000, 32, Metric::Cosine, VectorType::F32).await;
        let query = world.near(5);
        let nearest = world.truth(&query, moved, ALL);
        let mut records = Vec::new();
        for (id, _) in nearest {
            let vector = world.near(11);
            records.push(Record { vector, ..world.rows[&id].clone() });
        }
        world.upsert(records).await;
        let mut queries = vec![query];
        queries.extend((0..8).map(|i| world.near(5 + 6 * (i % 2))));
        let search = searches(queries, 10);
        let held = world.cold();
        held.warm(&Meter::new()).await.unwrap();
        for (how, reader) in [("codes", world.cold()), ("probe", world.probing().await), ("memory", held)] {
            let (recall, _) = world.recall(&reader, &search, ALL).await;
            assert!(recall >= 0.95, "{moved} moved, by {how}: {recall}");
        }
    }
}

#[tokio::test]
async fn more_than_there_are_gives_all() {
    let mut world = World::compacted(500, 16, Metric::L2, VectorType::F32).await;
    world.fill(500..520).await;
    world.delete(&["row 3".to_owned(), "row 501".to_owned()]).await;
    let search = searches(world.queries(2), 10_000);
    for reader in [world.cold(), world.probing().await] {
        let (recall, reply) = world.recall(&reader, &search, ALL).await;
        assert_eq!((recall, reply.results[0].len()), (1.0, 518));
    }
}

#[tokio::test]
async fn a_reader_follows_writes_and_compactions() {
    let mut world = World::compacted(800, 16, Metric::Cosine, VectorType::F32).await;
    let reader = world.cold();
    let search = searches(world.queries(2), 5);
    let mut last = 0;
    for round in 0..6 {
        world.fill(800 + 40 * round..840 + 40 * round).await;
        world.delete(&[format!("row {}", 7 * round)]).await;
        if round % 2 == 1 {
            world.compact().await;
        }
        let (recall, reply) = world.recall(&reader, &search, ALL).await;
        assert!(recall >= 0.9 && reply.position > last, "{recall}");
        last = reply.position;
    }
}
