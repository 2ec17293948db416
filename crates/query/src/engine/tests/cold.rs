//! What a cold search asks of the store, request by request.

use esker_format::record::Record;
use esker_format::schema::{Metric, VectorType};
use esker_store::{Meter, Request};
use object_store::ObjectStoreExt;

use super::fixture::World;
use crate::engine::{Options, Reader};
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

#[tokio::test]
async fn four_segments_are_three_waves() {
    let mut world = World::new(64, Metric::Cosine, VectorType::F32).await;
    let mut first = 0;
    for rows in [6000, 1000, 200, 40] {
        world.fill(first..first + rows).await;
        world.compact().await;
        first += rows;
    }
    let manifest = world.collection().await.manifest(&Meter::new()).await.unwrap();
    let rows: Vec<u64> = manifest.segments.iter().map(|s| s.rows).collect();
    assert_eq!(rows, [6000, 1000, 200, 40]);
    // Half of the codes would be few enough to be read whole; the two small segments are.
    world.take_codes_from_head().await;
    let options = Options { whole_codes: 64 << 10, ..Options::default() };
    let search = Search { explain: true, ..Search::new(world.vector(), 10) };
    let meter = Meter::recording();
    let reply = world.cold_with(options).search(&meter, &search).await.unwrap();
    let (explain, requests) = (reply.explain.unwrap(), meter.requests());
    assert_eq!((explain.rule, explain.further_rounds), ("probe", 0));
    assert!((240..7240).contains(&explain.codes_scanned), "{explain:?}");
    // One list of candidates for all segments: no longer than that of the one that needs most.
    let rerank = explain.segments.iter().map(|s| u64::from(s.rerank)).max().unwrap();
    assert!(explain.rows_reranked <= rerank.max(50), "{explain:?}");
    assert_eq!((reply.io.waves, reply.io.lists, reply.io.hedges), (3, 1, 0));
    let of = |depth| requests.iter().filter(|r| r.depth == depth).count();
    assert_eq!((of(1), of(2)), (3, 5), "codes of four segments beside the proof: {:#?}", shown(&requests));
    assert!(reply.io.gets <= 90 && reply.io.bytes_read <= 8_000_000, "{:#?}", shown(&requests));
    insta::assert_snapshot!("cold_four_segments", shown(&requests).join("\n"));
}

#[tokio::test]
async fn a_filter_costs_one_wave_more_at_most() {
    let mut world = World::compacted(4000, 32, Metric::Cosine, VectorType::F32).await;
    world.take_codes_from_head().await;
    // Rows that are rare, rows where the query is, and rows where it is not.
    for filter in
        ["number < 60", "section = 's3'", "section <> 's3'", "section IN ('s3', 's5') OR number > 3900"]
    {
        for vector in [world.near(3), world.near(9)] {
            let filter = Some(Filter::sql(filter).unwrap());
            let search = Search { explain: true, filter, ..Search::new(vector, 10) };
            let meter = Meter::recording();
            let options = Options { whole_codes: 0, ..Options::default() };
            let reply = world.cold_with(options).search(&meter, &search).await.unwrap();
            assert_eq!(reply.results[0].len(), 10);
            assert!(reply.io.waves <= 4 && reply.explain.unwrap().further_rounds <= 1);
        }
    }
}
