//! Where rows have copies in second leaves, every read answers as without: each row once, masked wherever it lies.

use std::collections::BTreeSet;

use esker_format::record::{Record, Value};
use esker_format::schema::{Metric, VectorType};
use esker_store::Meter;

use super::fixture::World;
use crate::engine::Reader;
use crate::filter::Filter;
use crate::search::Search;

type Passes = fn(&Record) -> bool;

fn section(r: &Record) -> bool {
    matches!(r.metadata.get("section"), Some(Value::String(s)) if s == "s3" || s == "s4")
}

fn number(r: &Record) -> bool {
    matches!(r.metadata.get("number"), Some(Value::Int(n)) if *n >= 400)
}

/// Searches without a filter and with two, by every reader there is.
async fn check(world: &mut World, what: &str) {
    let filters: [(Option<&str>, Passes); 3] =
        [(None, |_| true), (Some("section IN ('s3', 's4')"), section), (Some("number >= 400"), number)];
    let queries = world.queries(12);
    let warm = world.cold();
    warm.warm(&Meter::new()).await.unwrap();
    let readers: [(&str, Reader); 3] =
        [("codes", world.cold()), ("probe", world.probing().await), ("memory", warm)];
    for (how, reader) in &readers {
        for (filter, passes) in filters {
            let filter = filter.map(|f| Filter::sql(f).unwrap());
            let search =
                Search { vectors: queries.clone(), k: 10, filter, explain: true, ..Search::default() };
            let (recall, reply) = world.recall(reader, &search, passes).await;
            assert!(recall >= 0.97, "{what}, {how}: {recall}");
            for hits in &reply.results {
                let ids: BTreeSet<&str> = hits.iter().map(|h| h.id.as_str()).collect();
                assert_eq!(ids.len(), hits.len(), "{what}, {how}: a row twice");
            }
        }
    }
}

#[tokio::test]
async fn copies_change_no_answer() {
    for (metric, kind) in [(Metric::Cosine, VectorType::F32), (Metric::L2, VectorType::F16)] {
        let mut world = World::new(24, metric, kind).await;
        world.fill(0..1800).await;
        world.compact_with_copies().await;
        check(&mut world, "one segment").await;
        // A tail of few ids, which are compared by id, and of many, by hash: rows deleted and written anew.
        let gone: Vec<String> = (0..12).map(|i| format!("row {}", 7 * i)).collect();
        world.delete(&gone).await;
        world.fill(100..110).await;
        check(&mut world, "a short tail").await;
        let gone: Vec<String> = (20..120).map(|i| format!("row {}", 7 * i)).collect();
        world.delete(&gone).await;
        world.fill(900..960).await;
        check(&mut world, "a long tail").await;
        // Folded: marked in the segment, then merged around it.
        world.compact_with_copies().await;
        check(&mut world, "folded").await;
        world.fill(1800..2300).await;
        world.compact_with_copies().await;
        check(&mut world, "merged").await;
    }
}

#[tokio::test]
async fn rows_near_a_query_may_all_be_gone() {
    let mut world = World::new(24, Metric::L2, VectorType::F32).await;
    world.fill(0..1800).await;
    world.compact_with_copies().await;
    let query = world.queries(1).remove(0);
    let gone: Vec<String> = world.truth(&query, 40, |_| true).into_iter().map(|(id, _)| id).collect();
    world.delete(&gone).await;
    let search = Search { vectors: vec![query], k: 10, ..Search::default() };
    for compacted in [false, true] {
        for reader in [world.cold(), world.probing().await] {
            let (recall, _) = world.recall(&reader, &search, |_| true).await;
            assert!(recall >= 0.9, "compacted {compacted}: {recall}");
        }
        world.compact_with_copies().await;
    }
}
