//! A whole server on free ports of this machine.
#![allow(clippy::disallowed_methods, reason = "measures time, and writes files")]

use std::sync::atomic::{AtomicBool, Ordering};

use clap::Parser;
use esker_format::limits::FOLD_ENTRIES;
use esker_format::schema::{Metric, Schema, VectorType};
use esker_store::{Backend, Client, Meter, Retry, Seams};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::*;

mod client;
mod grpc;
mod limits;
mod stuck;
mod surface;
mod tls;
mod uploads;
mod web;

use client::{Reply, get, post};
use stuck::Sticky;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    settings: Settings,
}

/// A server, its store and how to stop it.
struct World {
    server: Server,
    store: Arc<Store>,
    stuck: Arc<AtomicBool>,
}

impl World {
    async fn new(args: &[&str]) -> World {
        let stuck = Arc::new(AtomicBool::new(false));
        let objects = Sticky::new(stuck.clone());
        // Soon done with a reply that does not come.
        let retry = Retry { reply: Duration::from_millis(200), tries: 2, ..Retry::default() };
        let client = Client::new(Backend::new(Arc::new(objects)), Seams::system()).with_retry(retry);
        let store = Arc::new(Store::new(client));
        let fixed = ["serve", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0"];
        let settings = Line::try_parse_from(fixed.iter().chain(args)).unwrap().settings;
        let server = Server::start(&settings, store.clone()).await.unwrap();
        World { server, store, stuck }
    }

    /// With a collection `notes` of two dimensions.
    async fn with_notes(args: &[&str]) -> World {
        let world = World::new(args).await;
        let settings =
            esker_format::schema::Settings { dimension: 2, metric: Metric::L2, vector_type: VectorType::F32 };
        let name = esker_format::Name::new("notes").unwrap();
        world.store.create(&Meter::new(), &name, settings, Schema::default()).await.unwrap();
        world
    }

    async fn stop(self) {
        self.server.stopper().cancel();
        self.server.finished().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_readiness_and_metrics_are_served() {
    let world = World::new(&[]).await;
    assert_eq!(get(world.server.http, "/healthz").await.status, 200);
    assert_eq!(get(world.server.http, "/readyz").await.json()["status"], "ok");
    let text = get(world.server.http, "/metrics").await.body;
    for expected in
        ["esker_build_info{version=", "esker_resident_bytes ", "route=\"/healthz\",status=\"200\""]
    {
        assert!(text.contains(expected), "{expected} in {text}");
    }
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let name = line.split(['{', ' ']).next().unwrap();
        let base =
            ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        let known = |n: &str| measure::METRICS.iter().any(|(known, ..)| *known == n);
        assert!(known(name) || known(base), "{name}");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stuck_store_is_answered_for_in_time() {
    let world = World::with_notes(&["--deadline", "300ms", "--no-compaction"]).await;
    assert_eq!(
        post(world.server.http, "/v1/collections/notes/search", r#"{"vector":[0,1]}"#).await.status,
        200
    );
    world.stuck.store(true, Ordering::Relaxed);
    let start = std::time::Instant::now();
    let read = post(world.server.http, "/v1/collections/notes/search", r#"{"vector":[0,1]}"#).await;
    assert_eq!((read.status, &read.json()["error"]["kind"]), (503, &"unavailable".into()));
    let write = post(
        world.server.http,
        "/v1/collections/notes/records",
        r#"{"records":[{"id":"a","vector":[0,1]}]}"#,
    );
    let write = write.await;
    assert_eq!((write.status, &write.json()["error"]["kind"]), (503, &"unknown".into()), "{}", write.body);
    assert_eq!(write.json()["error"]["token"].as_str().map(str::len), Some(32));
    assert!(start.elapsed() < Duration::from_secs(3));
    assert_eq!(get(world.server.http, "/healthz").await.status, 200);
    assert_eq!(get(world.server.http, "/readyz").await.status, 503);
    // The same write again under its token, once the store is back: there once, whatever became of the first.
    world.stuck.store(false, Ordering::Relaxed);
    let token = write.json()["error"]["token"].as_str().unwrap().to_owned();
    let head = format!("POST /v1/collections/notes/records HTTP/1.1\r\nidempotency-key: {token}\r\n");
    loop {
        let body = r#"{"records":[{"id":"a","vector":[0,1]}]}"#;
        let again = client::request(world.server.http, &head, body).await;
        match again.json()["error"]["kind"].as_str() {
            None => break,
            // It waits for the outcome of the first.
            Some(kind) => {
                assert!(kind == "unknown" && start.elapsed() < Duration::from_secs(20), "{}", again.body)
            }
        }
    }
    assert_eq!(rows(&world.store).await, 1);
    world.stop().await;
}

/// What the guard drew for a write is no name that its client gave: nothing is looked up for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drawn_name_is_not_taken_for_the_clients() {
    let world = World::with_notes(&["--no-compaction"]).await;
    let path = "/v1/collections/notes/records";
    for (key, given) in [("", false), ("idempotency-key: once\r\n", true)] {
        let bodies = [("POST", r#"{"records":[{"id":"a","vector":[0,1]}]}"#), ("DELETE", r#"{"ids":["a"]}"#)];
        for (method, body) in bodies {
            let head = format!("{method} {path} HTTP/1.1\r\n{}", key.replace("once", method));
            assert_eq!(client::request(world.server.http, &head, body).await.status, 200);
            let meter = Meter::new();
            let name = esker_format::Name::new("notes").unwrap();
            let collection = world.store.collection(&meter, &name).await.unwrap();
            let snapshot = collection.snapshot(&meter).await.unwrap();
            let batches = &snapshot.tail.last().unwrap().entry.batches;
            assert_eq!(batches.iter().map(|b| b.given).collect::<Vec<_>>(), [given], "{method} {key}");
        }
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_under_way_is_finished_when_the_server_stops() {
    let world = World::with_notes(&[]).await;
    let body = r#"{"records":[{"id":"a","vector":[0,1]}]}"#;
    let mut stream = TcpStream::connect(world.server.http).await.unwrap();
    let head = format!(
        "POST /v1/collections/notes/records HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&body.as_bytes()[..10]).await.unwrap();
    tokio::task::yield_now().await;
    world.store.client().seams().clock.sleep(Duration::from_millis(50)).await;
    let (address, store) = (world.server.http, world.store.clone());
    let rest = async {
        store.client().seams().clock.sleep(Duration::from_millis(50)).await;
        assert!(TcpStream::connect(address).await.is_err(), "nothing new is accepted");
        stream.write_all(&body.as_bytes()[10..]).await.unwrap();
        let reply = Reply::read(&mut stream).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
    };
    futures::join!(world.stop(), rest);
    assert_eq!(rows(&store).await, 1);
}

/// Rows of `notes` as a fresh process sees them.
async fn rows(store: &Arc<Store>) -> u64 {
    let fresh = Arc::new(Store::new(store.client().clone()));
    let name = esker_format::Name::new("notes").unwrap();
    let engine = Engine::new(fresh, esker_query::Options::default());
    engine.collection(&name).count(&Meter::new(), None).await.unwrap().0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_clients_at_once_see_no_error() {
    let world = World::with_notes(&[]).await;
    let address = world.server.http;
    let clients = (0..64).map(|c| async move {
        for i in 0..4 {
            let body = format!(r#"{{"records":[{{"id":"{c}-{i}","vector":[{c},{i}]}}]}}"#);
            let reply = post(address, "/v1/collections/notes/records", &body).await;
            assert_eq!(reply.status, 200, "{}", reply.body);
            let query = format!(r#"{{"vector":[{c},{i}],"k":1}}"#);
            let reply = post(address, "/v1/collections/notes/search", &query).await;
            assert_eq!(reply.json()["hits"][0]["id"], format!("{c}-{i}"), "{}", reply.body);
        }
    });
    futures::future::join_all(clients).await;
    assert_eq!(rows(&world.store).await, 256);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_folded_in_the_background() {
    let world = World::with_notes(&[]).await;
    for i in 0..FOLD_ENTRIES {
        let body = format!(r#"{{"records":[{{"id":"{i}","vector":[{i},1]}}]}}"#);
        assert_eq!(post(world.server.http, "/v1/collections/notes/records", &body).await.status, 200);
    }
    let name = esker_format::Name::new("notes").unwrap();
    let collection = world.store.collection(&Meter::new(), &name).await.unwrap();
    let clock = world.store.client().seams().clock.clone();
    let start = clock.elapsed();
    while collection.last_seen().unwrap().watermark < FOLD_ENTRIES {
        assert!(clock.elapsed() - start < Duration::from_secs(20), "it is not folded");
        clock.sleep(Duration::from_millis(50)).await;
    }
    let text = get(world.server.http, "/metrics").await.body;
    for expected in [
        "esker_compaction_rounds_total{outcome=\"committed\"}",
        "esker_time_to_indexed_seconds_count",
        "esker_tail_entries{collection=\"notes\"} 0",
    ] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
    // By request, the same; there is nothing left to do.
    let reply = post(world.server.http, "/v1/collections/notes/compact", "").await;
    assert_eq!((reply.status, &reply.json()["committed"]), (200, &false.into()), "{}", reply.body);
    let reply = post(world.server.http, "/v1/collections/none/compact", "").await;
    assert_eq!((reply.status, &reply.json()["error"]["kind"]), (404, &"not_found".into()));
    world.stop().await;
}
