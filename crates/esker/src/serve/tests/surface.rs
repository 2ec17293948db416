//! The document, the table of scopes and the real routes agree.

use std::collections::BTreeSet;

use super::*;

/// Methods and paths of the document.
fn documented(document: &serde_json::Value) -> BTreeSet<(String, String)> {
    let paths = document["paths"].as_object().unwrap();
    let methods = ["get", "put", "post", "delete", "patch", "head"];
    let of = |(path, item): (&String, &serde_json::Value)| {
        let all: Vec<_> = methods
            .iter()
            .filter(|m| item.get(**m).is_some())
            .map(|m| (m.to_uppercase(), plain(path)))
            .collect();
        all
    };
    paths.iter().flat_map(of).collect()
}

/// With every parameter called the same.
fn plain(path: &str) -> String {
    let part = |part: &str| if part.starts_with('{') { "{}".to_owned() } else { part.to_owned() };
    path.split('/').map(part).collect::<Vec<_>>().join("/")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn document_scopes_and_routes_agree() {
    let world = World::with_notes(&[]).await;
    let document = get(world.server.http, "/openapi.json").await.json();
    assert_eq!(document["info"]["title"], "Esker");
    let rules: BTreeSet<(String, String)> =
        access::ROUTES.iter().map(|r| (r.method.to_string(), plain(r.path))).collect();
    assert_eq!(documented(&document), rules);
    for (method, path) in &rules {
        // Dropped last.
        if (method.as_str(), path.as_str()) == ("DELETE", "/v1/collections/{}") {
            continue;
        }
        let path = path.replacen("{}", "notes", 1).replace("{}", "some-id");
        let reply = client::request(world.server.http, &format!("{method} {path} HTTP/1.1\r\n"), "").await;
        let text = &reply.body;
        assert_ne!(reply.status, 405, "{method} {path}: {text}");
        assert!(
            !text.contains("no such route") && reply.status < 500,
            "{method} {path}: {} {text}",
            reply.status
        );
        if reply.status >= 400 {
            assert!(reply.json()["error"]["kind"].is_string(), "{method} {path}: {text}");
        }
        assert!(reply.head.contains("x-request-id: "));
    }
    let reply = client::request(world.server.http, "DELETE /v1/collections/notes HTTP/1.1\r\n", "").await;
    assert!(reply.status < 300, "{}", reply.body);
    world.stop().await;
}
