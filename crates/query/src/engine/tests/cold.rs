//! What a cold search asks of the store, request by request.

use esker_format::record::Record;
use esker_format::schema::{Metric, VectorType};
use esker_store::{Meter, Request};
use object_store::ObjectStoreExt;

use super::fixture::World;
use crate::engine::Reader;
use crate::filter::Filter;
use crate::search::Search;

/// The requests with tokens left out and ranges as lengths, which are the same in every run.
fn shown(requests: &[Request]) -> Vec<String> {
    let mut lines: Vec<String> = requests
        .iter()
        .map(|r| {
            let name = r.key.rsplit('/').next().unwrap_or_default();
            let kind = match name.rsplit_once('.') {
                Some((_, kind)) if r.key.contains("/segment/") => format!("segment.{kind}"),
                _ => r.key.replace("c/books-1/", ""),
            };
            let range = if r.range.is_some() { " part" } else { "" };
            let request = Request { key: kind, range: None, ..r.clone() };
            format!("{request}{range}")
        })
        .collect();
    lines.sort();
    let mut counted: Vec<(String, usize)> = Vec::new();
    for line in lines {
        match counted.last_mut() {
            Some((last, count)) if *last == line => *count += 1,
            _ => counted.push((line, 1)),
        }
    }
    counted.into_iter().map(|(line, count)| format!("{count} × {line}")).collect()
}

async fn requests(reader: &Reader, search: &Search) -> Vec<Request> {
    let meter = Meter::recording();
    reader.search(&meter, search).await.unwrap();
    meter.requests()
}

#[tokio::test]
async fn a_cold_search_is_three_waves() {
    // 6,000 × 104 B of codes in four ranges, out of head as those of larger segments are.
    let mut world = World::compacted(6000, 768, Metric::Cosine, VectorType::F16).await;
    drop(world.probing().await);
    let search = Search::new(world.vector(), 10);
    let all = requests(&world.cold(), &search).await;
    assert!(all.iter().all(|r| r.depth <= 3) && all.len() <= 60, "{:#?}", shown(&all));
    insta::assert_snapshot!("cold_codes", shown(&all).join("\n"));

    let filter = Some(Filter::sql("section = 's3' AND number < 5000").unwrap());
    let filtered = Search { filter, ..search.clone() };
    let all = requests(&world.cold(), &filtered).await;
    assert!(all.iter().all(|r| r.depth <= 3) && all.len() <= 60, "{:#?}", shown(&all));
    insta::assert_snapshot!("cold_filtered", shown(&all).join("\n"));

    let reader = world.cold();
    requests(&reader, &search).await;
    let again = requests(&reader, &search).await;
    insta::assert_snapshot!("warm", shown(&again).join("\n"));

    // A tail, many ids of it overwritten, and no head: still few waves.
    let records: Vec<Record> = (0..60).map(|i| world.record(i)).collect();
    world.upsert(records).await;
    let all = requests(&world.cold(), &search).await;
    assert!(all.iter().all(|r| r.depth <= 3) && all.len() <= 60, "{:#?}", shown(&all));
    insta::assert_snapshot!("cold_tail", shown(&all).join("\n"));
    let head = object_store::path::Path::from(world.collection().await.keys().head());
    world.objects.delete(&head).await.unwrap();
    let all = requests(&world.cold(), &search).await;
    assert!(all.iter().all(|r| r.depth <= 6), "{:#?}", shown(&all));
}

#[tokio::test]
async fn a_cold_search_that_probes_is_three_waves() {
    let mut world = World::compacted(4000, 32, Metric::Cosine, VectorType::F32).await;
    let search = Search { explain: true, ..Search::new(world.vector(), 10) };
    let reader = world.probing().await;
    let meter = Meter::recording();
    let reply = reader.search(&meter, &search).await.unwrap();
    let explain = reply.explain.unwrap();
    assert!(reply.io.waves <= 3, "{:#?}", shown(&meter.requests()));
    assert_eq!((reply.io.lists, reply.io.puts), (1, 0));
    assert!(explain.rule == "probe" && explain.codes_scanned < 4000, "{explain:?}");
}
