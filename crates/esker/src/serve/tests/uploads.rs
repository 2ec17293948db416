//! Bodies that are put and then committed, over real sockets, on a store that signs nothing.

use esker_format::Name;

use super::*;
use crate::serve::keys::{Scope, create};

const UPLOADS: &str = "/v1/collections/notes/uploads";

async fn send(world: &World, method: &str, path: &str, key: &str, body: &str) -> Reply {
    let head = format!("{method} {path} HTTP/1.1\r\nauthorization: Bearer {key}\r\n");
    client::request(world.server.http, &head, body).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_needs_a_key_that_writes_here() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys");
    let random = esker_store::seams::SystemRandom;
    let key = |name: &str, scope, of: &str| {
        create(&path, name, scope, Some(vec![Name::new(of).unwrap()]), &random, 0).unwrap()
    };
    let write = key("write", Scope::Write, "notes");
    let (read, other) = (key("read", Scope::Read, "notes"), key("other", Scope::Write, "others"));
    let world = World::with_notes(&["--keys", path.to_str().unwrap(), "--max-body", "1MiB"]).await;
    let made = send(&world, "POST", UPLOADS, &write, "").await;
    assert_eq!(made.status, 201, "{}", made.body);
    let url = made.json()["url"].as_str().unwrap().to_owned();
    let commit = format!("{url}/commit");
    assert_eq!(url, format!("{UPLOADS}/{}", made.json()["token"].as_str().unwrap()));
    for key in [&read, &other] {
        for (method, path) in [("POST", UPLOADS), ("PUT", &url), ("POST", &commit)] {
            assert_eq!(send(&world, method, path, key, "{}").await.status, 403, "{method} {path}");
        }
    }
    assert_eq!(send(&world, "POST", &commit, &write, "{}").await.status, 404, "nothing was put");
    // More than a request may have: a body that is put is not held.
    let row = |i: usize| {
        format!(r#"{{"id":"r{i}","vector":[{i},0.5],"metadata":{{"text":"{}"}}}}"#, "x".repeat(400))
    };
    let body = (0..5_000).map(row).collect::<Vec<_>>().join("\n");
    assert!(body.len() > 1 << 20);
    let put = send(&world, "PUT", &url, &write, &body).await;
    assert_eq!((put.status, &put.json()["bytes"]), (200, &body.len().into()), "{}", put.body);
    let kind = r#"{"content_type": "application/x-ndjson"}"#;
    let done = send(&world, "POST", &commit, &write, kind).await;
    assert_eq!(done.body, r#"{"position":1,"upserted":5000,"done":true}"#);
    let again = send(&world, "POST", &commit, &write, kind).await;
    assert_eq!(again.body, r#"{"position":1,"upserted":5000,"done":true,"duplicate":true}"#);
    for (path, status) in [("text/plain", 415), ("application/json", 409)] {
        let body = format!(r#"{{"content_type": "{path}"}}"#);
        assert_eq!(send(&world, "POST", &commit, &write, &body).await.status, status, "{path}");
    }
    for wrong in ["..%2F..%2Fhead", "7", "0000000000000000000000000000000G"] {
        let path = format!("{UPLOADS}/{wrong}");
        assert_eq!(send(&world, "PUT", &path, &write, "x").await.status, 400, "{wrong}");
        assert_eq!(send(&world, "POST", &format!("{path}/commit"), &write, "").await.status, 400, "{wrong}");
    }
    world.stop().await;
}
