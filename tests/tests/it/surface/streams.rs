//! Calls of several messages.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrow::array::AsArray;
use arrow::ipc::reader::StreamReader;
use esker_format::Kind;
use esker_proto::{grpc, v1};
use esker_tests::fault::{FaultStore, Mode, Plan};
use esker_tests::world::World;
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::json;

use super::cases::Step;
use super::rpc::{Client, search};
use super::server::{Server, store};

const DIMENSION: usize = 64;

async fn started(world: &World) -> (Server, Client) {
    let server = Server::start(store(&FaultStore::new(world, Plan::none()), 7)).await;
    let mut client = Client::connect(&server).await;
    let docs = json!({"name": "docs", "dimension": DIMENSION, "metric": "l2"});
    client.send(&Step::new("create", "", docs)).await.unwrap();
    (server, client)
}

fn batch(ids: std::ops::Range<usize>) -> v1::UpsertRequest {
    let records = ids.map(|i| v1::Record {
        id: format!("r{i:05}"),
        vector: vec![i as f32; DIMENSION],
        ..Default::default()
    });
    v1::UpsertRequest { collection: "docs".into(), records: records.collect(), ..Default::default() }
}

#[tokio::test]
async fn each_batch_of_a_stream_is_answered() {
    let (_server, mut client) = started(&World::new()).await;
    let batches: Vec<_> = (0..5)
        .map(|i| {
            let mut batch = batch(i * 10..i * 10 + 10);
            // The collection of the message before.
            batch.collection = if i == 0 { "docs".to_owned() } else { String::new() };
            batch
        })
        .collect();
    let replies = client.ingest.upsert_stream(stream::iter(batches)).await.unwrap().into_inner();
    let replies: Vec<v1::UpsertReply> = replies.try_collect().await.unwrap();
    assert_eq!(replies.iter().map(|r| r.upserted).collect::<Vec<_>>(), [10; 5]);
    assert!(replies.windows(2).all(|w| w[0].position < w[1].position && w[0].token != w[1].token));
    let count = client.send(&Step::new("count", "docs", json!({}))).await.unwrap();
    assert_eq!((&count["count"], &count["position"]), (&json!(50), &json!(replies[4].position)));
}

#[tokio::test]
async fn the_first_bad_batch_ends_the_stream() {
    let (_server, mut client) = started(&World::new()).await;
    let mut bad = batch(20..21);
    bad.records[0].vector.pop();
    let batches = [batch(0..10), batch(10..20), bad, batch(30..40)];
    let mut replies = client.ingest.upsert_stream(stream::iter(batches)).await.unwrap().into_inner();
    for _ in 0..2 {
        assert_eq!(replies.message().await.unwrap().unwrap().upserted, 10);
    }
    let error = grpc::error(&replies.message().await.unwrap_err());
    assert_eq!((error.kind(), error.field()), (Kind::Invalid, Some("records[0].vector")));
    let count = client.send(&Step::new("count", "docs", json!({}))).await.unwrap();
    assert_eq!(count["count"], 20);
}

/// The store stops answering: the client may fill the connection's windows, and no more.
#[tokio::test]
#[allow(clippy::disallowed_methods, reason = "sockets are waited for in real time")]
async fn a_slow_store_holds_the_client_back() {
    let world = World::new();
    let (server, client) = started(&world).await;
    drop((server, client));
    let faults = FaultStore::new(&world, Plan::none().seed(1).random(1000, &[Mode::Stall]));
    let server = Server::start(store(&faults, 8)).await;
    let mut client = Client::connect(&server).await;
    // 256 KiB each: 64 MiB in all.
    let (taken, message) = (Arc::new(AtomicUsize::new(0)), batch(0..1000));
    let counted = taken.clone();
    let batches = stream::iter(0..256).map(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        message.clone()
    });
    let call = client.ingest.upsert_stream(batches);
    let replies = async { call.await.unwrap().into_inner().message().await };
    let waited = tokio::time::timeout(Duration::from_millis(500), replies).await;
    assert!(waited.is_err(), "nothing is acknowledged");
    assert!(faults.call_count() > 0, "the first batch reached the store");
    let taken = taken.load(Ordering::Relaxed);
    assert!((1..=12).contains(&taken), "{taken} batches left the client");
}

#[tokio::test]
async fn scans_go_through_all_pages() {
    let (_server, mut client) = started(&World::new()).await;
    for i in 0..3 {
        client.ingest.upsert(batch(i * 5000..(i + 1) * 5000)).await.unwrap();
    }
    let mut scan = async |limit: Option<u64>, cursor: String| {
        let request = v1::ScanRequest {
            collection: "docs".into(),
            limit,
            cursor,
            include_vector: true,
            ..Default::default()
        };
        let pieces: Vec<v1::ScanReply> =
            client.query.scan(request).await.unwrap().into_inner().try_collect().await.unwrap();
        let last = pieces.last().unwrap().cursor.clone();
        let largest = pieces.iter().map(prost::Message::encoded_len).max().unwrap();
        assert!(largest < 2 << 20, "{largest}");
        (pieces.into_iter().flat_map(|p| p.records).collect::<Vec<_>>(), last)
    };
    let (all, cursor) = scan(None, String::new()).await;
    assert_eq!((all.len(), cursor.as_str()), (15_000, ""));
    assert!(all.iter().all(|r| r.vector.len() == DIMENSION && r.collection_id == "docs"));
    let (first, cursor) = scan(Some(12_345), String::new()).await;
    assert!(!cursor.is_empty());
    let (rest, end) = scan(None, cursor).await;
    assert_eq!((first.len(), rest.len(), end.as_str()), (12_345, 2_655, ""));
    let ids: BTreeSet<String> = first.into_iter().chain(rest).map(|r| r.id).collect();
    assert_eq!(ids, all.into_iter().map(|r| r.id).collect());
}

#[tokio::test]
async fn hits_of_several_vectors_come_as_they_are_found() {
    let (_server, mut client) = started(&World::new()).await;
    client.ingest.upsert(batch(0..100)).await.unwrap();
    let vectors: Vec<_> = (0..10).map(|i| vec![i as f32 * 7.0; DIMENSION]).collect();
    let body = json!({"vectors": vectors, "k": 3});
    let whole = client.query.search(search("docs".into(), &body)).await.unwrap().into_inner();
    let parts = client.query.search_stream(search("docs".into(), &body)).await.unwrap().into_inner();
    let mut parts: Vec<v1::SearchPart> = parts.try_collect().await.unwrap();
    assert_eq!(parts[0].index, 0);
    parts.sort_by_key(|p| p.index);
    let results: Vec<_> = parts.into_iter().map(|p| p.result.unwrap()).collect();
    assert_eq!(results, whole.results);
    // What is wrong is said as of the whole request.
    let body = json!({"vectors": [vectors[0], vectors[1], [1]], "k": 3});
    let parts = client.query.search_stream(search("docs".into(), &body)).await.unwrap().into_inner();
    let error = grpc::error(&parts.try_collect::<Vec<_>>().await.unwrap_err());
    assert_eq!(error.field(), Some("vectors[2]"));
}

#[tokio::test]
async fn sql_comes_in_three_forms() {
    let (_server, mut client) = started(&World::new()).await;
    client.ingest.upsert(batch(0..3)).await.unwrap();
    let mut query = async |format: v1::SqlFormat| {
        let query = "SELECT id, vector[1] AS first FROM docs ORDER BY id".to_owned();
        let request = v1::SqlRequest { query, format: format.into(), ..Default::default() };
        let pieces: Vec<v1::SqlReply> =
            client.query.sql(request).await.unwrap().into_inner().try_collect().await.unwrap();
        pieces.into_iter().flat_map(|p| p.data).collect::<Vec<u8>>()
    };
    let arrow = query(v1::SqlFormat::Arrow).await;
    let batches: Vec<_> = StreamReader::try_new(&arrow[..], None).unwrap().map(Result::unwrap).collect();
    let ids: Vec<_> = batches.iter().flat_map(|b| b.column(0).as_string::<i32>().iter().flatten()).collect();
    assert_eq!(ids, ["r00000", "r00001", "r00002"]);
    let lines = String::from_utf8(query(v1::SqlFormat::Ndjson).await).unwrap();
    assert_eq!(lines.lines().next(), Some(r#"{"id":"r00000","first":0.0}"#));
    let csv = String::from_utf8(query(v1::SqlFormat::Csv).await).unwrap();
    assert_eq!(csv, "id,first\nr00000,0.0\nr00001,1.0\nr00002,2.0\n");
    let request = v1::SqlRequest { query: "SELECT 1".into(), format: 9, ..Default::default() };
    let error = grpc::error(&client.query.sql(request).await.unwrap_err());
    assert_eq!(error.field(), Some("format"));
}
