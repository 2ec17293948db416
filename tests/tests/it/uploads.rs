//! Bodies that a client puts into a bucket under a signed URL, without credentials of its own.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use esker_format::schema::{Metric, Settings, VectorType};
use esker_format::{Name, limits};
use esker_store::{Client, Location, Meter, Seams, Store, open};
use esker_tests::s3::{S3Options, S3Server};
use serde_json::{Value, json};
use tower::ServiceExt;

/// Puts a body as any HTTP client does; the status.
fn put(url: &str, method: &str, body: &[u8]) -> u16 {
    let (host, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    let head = format!(
        "{method} /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply.split(' ').nth(1).unwrap().parse().unwrap()
}

async fn post(router: &Router, path: &str, body: Value) -> (StatusCode, Value) {
    let request = Request::post(path).header("content-type", "application/json");
    let request = request.body(Body::from(body.to_string())).unwrap();
    let reply = router.clone().oneshot(request).await.unwrap();
    let status = reply.status();
    (status, serde_json::from_slice(&to_bytes(reply.into_body(), 1 << 20).await.unwrap()).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signed_url_takes_one_body_which_is_committed_once() {
    let server = S3Server::start(S3Options::default()).unwrap();
    let env = server.env().into_iter().collect();
    let location = Location::parse(&server.url("some/prefix")).unwrap();
    let store = Arc::new(Store::new(Client::new(open(&location, &env, true).unwrap(), Seams::system())));
    let settings = Settings { dimension: 2, metric: Metric::L2, vector_type: VectorType::F32 };
    store.create(&Meter::new(), &Name::new("docs").unwrap(), settings, Default::default()).await.unwrap();
    let (router, _) =
        esker_ingest::http::router(esker_ingest::http::State::new(store.clone())).split_for_parts();
    let (status, place) = post(&router, "/v1/collections/docs/uploads", json!({})).await;
    assert_eq!(status, StatusCode::CREATED);
    let (token, url) = (place["token"].as_str().unwrap(), place["url"].as_str().unwrap());
    let key = format!("/{}/some/prefix/c/docs-1/upload/{token}?", "esker");
    assert!(url.starts_with(&server.endpoint()) && url.contains(&key), "{url}");
    assert!(!url.contains(esker_tests::s3::SECRET_KEY));
    // More than a gateway takes: 6 MB.
    let row =
        |i: usize| json!({"id": format!("r{i}"), "vector": [i, 1], "metadata": {"text": "x".repeat(400)}});
    let rows = limits::BATCH_ROWS + 5_000;
    let body: String = (0..rows).map(|i| row(i).to_string() + "\n").collect();
    assert!(body.len() > 6 << 20);
    let forged = url.replace(token, &"0".repeat(32));
    assert_eq!(put(&forged, "PUT", b"x"), 403, "the URL is of one name");
    assert_eq!(put(url, "DELETE", b""), 403, "and of one method");
    assert_eq!(put(url, "PUT", body.as_bytes()), 200);
    let commit = format!("/v1/collections/docs/uploads/{token}/commit");
    for duplicate in [false, true] {
        let (status, done) = post(&router, &commit, json!({"content_type": "application/x-ndjson"})).await;
        let mut expected = json!({"position": 2, "upserted": rows, "done": true});
        if duplicate {
            expected["duplicate"] = json!(true);
        }
        assert_eq!((status, done), (StatusCode::OK, expected));
    }
    // Who still has the URL changes nothing that was committed, and is told so.
    assert_eq!(put(url, "PUT", b"{}"), 200);
    let (status, _) = post(&router, &commit, json!({"content_type": "application/x-ndjson"})).await;
    assert_eq!(status, StatusCode::CONFLICT);
    let collection = store.collection(&Meter::new(), &Name::new("docs").unwrap()).await.unwrap();
    let snapshot = collection.snapshot(&Meter::new()).await.unwrap();
    let there: u64 = snapshot.tail.iter().map(|e| e.entry.rows()).sum();
    assert_eq!(there, rows as u64);
}
