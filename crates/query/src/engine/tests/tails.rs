//! Long tails: their codes, and states that follow each other; answers without metadata.

use esker_format::record::Record;
use esker_format::schema::{Metric, VectorType};
use esker_store::Meter;

use super::fixture::World;
use crate::search::{Search, SearchReply};

const ALL: fn(&Record) -> bool = |_| true;

fn searches(vectors: Vec<Vec<f32>>) -> Search {
    Search { vectors, explain: true, ..Search::default() }
}

/// Rows with nothing but a vector and a number.
async fn fill(world: &mut World, rows: std::ops::Range<usize>) {
    for start in rows.clone().step_by(4000) {
        let batch: Vec<Record> = (start..rows.end.min(start + 4000))
            .map(|i| {
                let mut record = world.record(i);
                record.metadata.retain(|key, _| key == "number");
                record
            })
            .collect();
        world.upsert(batch).await;
    }
}

fn measured(reply: &SearchReply) -> u64 {
    reply.explain.as_ref().unwrap().tail_rows / reply.results.len() as u64
}

#[tokio::test]
async fn a_long_tail_is_searched_by_its_codes() {
    let mut world = World::compacted(1000, 48, Metric::Cosine, VectorType::F32).await;
    fill(&mut world, 1000..21_000).await;
    let (reader, search) = (world.cold(), searches(world.queries(6)));
    let (recall, reply) = world.recall(&reader, &search, ALL).await;
    assert!(recall >= 0.99 && measured(&reply) == 20_000, "a process that searches once makes none");
    for _ in 0..2 {
        let (recall, _) = world.recall(&reader, &search, ALL).await;
        assert!(recall >= 0.99, "{recall}");
    }
    for _ in 0..3 {
        reader.search(&Meter::new(), &search).await.unwrap();
    }
    let (recall, reply) = world.recall(&reader, &search, ALL).await;
    let explain = reply.explain.as_ref().unwrap();
    assert!(measured(&reply) < 4000 && explain.codes_scanned > 6 * 16_000, "{explain:?}");
    assert!(recall >= 0.99, "{recall}");
    // In memory all are made at once.
    let held = world.cold();
    held.hold(&Meter::new()).await.unwrap();
    let (recall, reply) = world.recall(&held, &search, ALL).await;
    assert!(recall >= 0.98 && measured(&reply) < 4000, "{recall}, {}", measured(&reply));
    let warm = held.warm(&Meter::new()).await.unwrap();
    for (query, hits) in search.vectors.iter().zip(&reply.results) {
        let found = warm.search(query, 10, search.min_recall, None).unwrap();
        let ids: Vec<&str> = found.iter().map(|h| warm.id(h)).collect();
        assert_eq!(ids, hits.iter().map(|h| h.id.as_str()).collect::<Vec<_>>());
    }
    // Rows with codes are overwritten and deleted: those that a query finds first, and rows of the segment.
    let nearest = world.truth(&search.vectors[0], 300, ALL);
    let (moved, gone) = nearest.split_at(150);
    let mut records = Vec::new();
    for (id, _) in moved {
        records.push(Record { vector: world.near(11), ..world.rows[id].clone() });
    }
    world.upsert(records).await;
    world.delete(&gone.iter().map(|g| g.0.clone()).collect::<Vec<_>>()).await;
    for reader in [&reader, &held] {
        let (recall, reply) = world.recall(reader, &search, ALL).await;
        assert!(recall >= 0.98 && measured(&reply) < 5000, "{recall}, {}", measured(&reply));
    }
    // Filters, wide and narrow.
    for most in [15_000, 2500, 1010] {
        let filter = crate::Filter::sql(&format!("number < {most}")).unwrap();
        let search = Search { filter: Some(filter), ..search.clone() };
        let passes = |r: &Record| r.version < most;
        for reader in [&reader, &held] {
            let (recall, _) = world.recall(reader, &search, passes).await;
            assert!(recall >= 0.98, "{recall} of rows below {most}");
        }
    }
    // Folded, the tail is short again.
    world.compact().await;
    fill(&mut world, 21_000..21_100).await;
    for reader in [&reader, &held] {
        // The first still goes by the manifest that is known, and learns of the newer one.
        reader.search(&Meter::new(), &search).await.unwrap();
        let (recall, reply) = world.recall(reader, &search, ALL).await;
        assert!(recall >= 0.9 && measured(&reply) == 100, "{recall}, {}", measured(&reply));
    }
}

#[tokio::test]
async fn a_quarter_of_a_chunk_has_codes() {
    let mut world = World::compacted(1000, 48, Metric::Cosine, VectorType::F32).await;
    // A chunk and a third.
    fill(&mut world, 1000..6500).await;
    let (held, search) = (world.cold(), searches(world.queries(6)));
    held.hold(&Meter::new()).await.unwrap();
    let (recall, reply) = world.recall(&held, &search, ALL).await;
    let scanned = reply.explain.unwrap().codes_scanned;
    assert!(recall >= 0.98 && scanned >= 6 * 5500, "{recall}, {scanned}");
}

#[tokio::test]
async fn a_long_tail_is_probed_as_the_largest_segment_is() {
    for metric in [Metric::Cosine, Metric::L2, Metric::Dot] {
        let mut world = World::compacted(12_000, 48, metric, VectorType::F32).await;
        let before = searches(world.queries(20));
        let held = world.cold();
        held.hold(&Meter::new()).await.unwrap();
        let scanned = |reply: &SearchReply| reply.explain.as_ref().unwrap().codes_scanned / 20;
        let alone = scanned(&held.search(&Meter::new(), &before).await.unwrap());
        world.fill(12_000..22_000).await;
        let held = world.cold();
        held.hold(&Meter::new()).await.unwrap();
        let (recall, reply) = world.recall(&held, &before, ALL).await;
        let of_tail = scanned(&reply) - alone;
        assert!(recall >= 0.98 && of_tail < 2000, "{metric}: {recall}, {of_tail} of 10,000");
        // Nothing is promised of queries whose neighbours do not pass or are gone: more is looked at.
        let sections = ["section IN ('s1', 's2')", "section NOT IN ('s3', 's4', 's5')"];
        for (filter, passes) in
            sections.map(|f| crate::Filter::sql(f).unwrap()).into_iter().zip([
                (|r: &Record| [1, 2].contains(&(r.version % 24))) as fn(&Record) -> bool,
                |r: &Record| !(3..=5).contains(&(r.version % 24)),
            ])
        {
            let search = Search { filter: Some(filter), ..before.clone() };
            let (recall, _) = world.recall(&held, &search, passes).await;
            assert!(recall >= 0.98, "{metric}: {recall} under a filter");
        }
        let gone: Vec<String> = world.truth(&before.vectors[0], 700, ALL).into_iter().map(|t| t.0).collect();
        world.delete(&gone).await;
        let (recall, _) = world.recall(&held, &before, ALL).await;
        assert!(recall >= 0.98, "{metric}: {recall} without the nearest of one");
        // Rows unlike those of the segment are found nevertheless.
        world.drift();
        fill(&mut world, 22_000..26_000).await;
        let after = searches(world.queries(20));
        let held = world.cold();
        held.hold(&Meter::new()).await.unwrap();
        for search in [&before, &after] {
            let (recall, reply) = world.recall(&held, search, ALL).await;
            let scanned = scanned(&reply);
            assert!(recall >= 0.98 && scanned < 8000, "{metric}: {recall}, {scanned} after drift");
        }
    }
}

#[tokio::test]
async fn a_held_state_follows_what_is_written() {
    for kind in [VectorType::F32, VectorType::F16] {
        let mut world = World::compacted(1200, 24, Metric::L2, kind).await;
        let held = world.cold();
        held.hold(&Meter::new()).await.unwrap();
        let search = searches(world.queries(5));
        for round in 0..6 {
            let gone: Vec<String> = (0..20).map(|i| format!("row {}", (97 * round + i) % 1200)).collect();
            world.delete(&gone).await;
            let again: Vec<Record> = (0..30).map(|i| world.record((41 * round + 3 * i) % 1200)).collect();
            world.upsert(again).await;
            let (recall, reply) = world.recall(&held, &search, ALL).await;
            let explain = reply.explain.unwrap();
            assert!(recall >= 0.97 && explain.rule == "memory", "{recall}, {explain:?}");
        }
    }
}

#[tokio::test]
async fn without_metadata_rows_are_told_from_memory() {
    let mut world = World::compacted(700, 16, Metric::Cosine, VectorType::F16).await;
    world.fill(700..710).await;
    let held = world.cold();
    held.hold(&Meter::new()).await.unwrap();
    let search = searches(world.queries(6));
    let meter = Meter::new();
    let full = held.search(&meter, &search).await.unwrap();
    let bare = Search { include: Some(Vec::new()), include_vector: true, ..search.clone() };
    let meter = Meter::new();
    let reply = held.search(&meter, &bare).await.unwrap();
    assert_eq!(meter.io().cache_hit_bytes, 0, "no payload is looked at");
    for (bare, full) in reply.results.iter().flatten().zip(full.results.iter().flatten()) {
        assert!(bare.vector.is_some() && bare.metadata.is_empty() && !full.metadata.is_empty());
        let same = |hit: &crate::Hit| (hit.id.clone(), hit.distance, hit.rank, hit.version, hit.expires_at);
        assert_eq!(same(bare), same(full));
        let times = |hit: &crate::Hit| (hit.timestamp, hit.created_at, hit.updated_at);
        assert_eq!(times(bare), times(full));
    }
    let some = Search { include: Some(vec!["section".to_owned()]), ..search };
    let reply = held.search(&Meter::new(), &some).await.unwrap();
    assert!(reply.results.iter().flatten().all(|hit| hit.metadata.keys().eq(["section"])));
}
