use std::collections::BTreeSet;

use http::StatusCode;
use serde_json::{Value, json};

use super::fixture::{ARROW, App, NDJSON};

const SCAN: &str = "/v1/collections/docs/records/scan";

fn ids(reply: &Value) -> Vec<String> {
    reply["records"].as_array().unwrap().iter().map(|r| r["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn pages_are_of_one_state_whatever_is_written_in_between() {
    let app = App::with_docs(20).await;
    let (mut seen, mut cursor, mut pages) = (Vec::new(), Value::Null, 0);
    loop {
        // A server that knows nothing goes on as well as the one that began.
        let again = app.again();
        let server = if pages == 1 { &app } else { &again };
        let page = server.post(SCAN, json!({"limit": 3, "cursor": cursor})).await;
        assert_eq!(page.status, StatusCode::OK, "{}", page.text());
        let page = page.json();
        assert_eq!(page["position"], 2);
        assert!(ids(&page).len() <= 3);
        seen.extend(ids(&page));
        pages += 1;
        match &page["cursor"] {
            Value::Null => break,
            next => cursor = next.clone(),
        }
        // Rows that were there change, go and come.
        let i = pages;
        app.delete(json!({"ids": [format!("r{i}"), format!("r{}", 19 - i)]})).await;
        app.fill(20 + i..21 + i).await;
        if pages == 3 {
            app.compact().await;
        }
    }
    let all: BTreeSet<String> = (0..20).map(|i| format!("r{i}")).collect();
    assert_eq!((seen.len(), seen.into_iter().collect::<BTreeSet<_>>()), (20, all));
    assert_eq!(pages, 7);
}

#[tokio::test]
async fn a_page_has_what_passes_the_filter() {
    let app = App::with_docs(20).await;
    let first =
        app.post(SCAN, json!({"filter": "section = 'even'", "limit": 6, "include": ["year"]})).await.json();
    let second =
        json!({"filter": "section = 'even'", "limit": 6, "cursor": first["cursor"], "include_vector": true});
    let second = app.post(SCAN, second).await.json();
    assert_eq!((ids(&first).len(), ids(&second).len(), &second["cursor"]), (6, 4, &Value::Null));
    let mut all: Vec<String> = ids(&first).into_iter().chain(ids(&second)).collect();
    all.sort_by_key(|id| id[1..].parse::<u32>().unwrap());
    assert_eq!(all, (0..20).step_by(2).map(|i| format!("r{i}")).collect::<Vec<_>>());
    assert_eq!(first["records"][0]["metadata"].as_object().unwrap().len(), 1);
    assert_eq!(second["records"][0]["vector"].as_array().unwrap().len(), 2);
    let exact = app.post(SCAN, json!({"filter": "section = 'even'", "limit": 10})).await.json();
    assert_eq!(exact["cursor"], Value::Null);
}

#[tokio::test]
async fn other_encodings_have_the_cursor_in_a_header() {
    let app = App::with_docs(10).await;
    for encoding in [NDJSON, ARROW] {
        let first = app.post_for(SCAN, json!({"limit": 7}), encoding).await;
        let cursor = first.header("esker-cursor").unwrap();
        let second = app.post(SCAN, json!({"limit": 7, "cursor": cursor})).await.json();
        assert_eq!((ids(&second).len(), &second["cursor"]), (3, &Value::Null));
        let whole = app.post_for(SCAN, json!({}), encoding).await;
        assert_eq!((whole.header("esker-cursor"), whole.header("esker-position")), (None, Some("2")));
    }
}

#[tokio::test]
async fn a_cursor_is_only_good_for_its_scan() {
    let app = App::with_docs(10).await;
    let cursor = app.post(SCAN, json!({"limit": 3})).await.json()["cursor"].as_str().unwrap().to_owned();
    let error = |reply: super::fixture::Answer| (reply.status, reply.json()["error"]["field"].clone());
    let invalid = (StatusCode::BAD_REQUEST, json!("cursor"));
    assert_eq!(error(app.post(SCAN, json!({"cursor": cursor, "filter": "year > 1"})).await), invalid);
    let (start, end) = cursor.split_at(20);
    let changed = format!("{}{}{end}", &start[..19], if start.ends_with('0') { '1' } else { '0' });
    for wrong in ["", "x", "ä", &changed, &cursor[1..]] {
        assert_eq!(error(app.post(SCAN, json!({"cursor": wrong})).await), invalid, "{wrong}");
    }
    // A collection of the same name is another one.
    app.call(http::Method::DELETE, "/v1/collections/docs", ["application/json", "*/*"], "").await;
    app.post("/v1/collections", json!({"name": "docs", "dimension": 2})).await;
    let gone = app.post(SCAN, json!({"cursor": cursor})).await;
    assert_eq!((gone.status, &gone.json()["error"]["kind"]), (StatusCode::GONE, &json!("gone")));
}

#[tokio::test]
async fn a_state_that_was_collected_is_gone() {
    use object_store::{ObjectStoreExt, path::Path};
    let app = App::with_docs(10).await;
    let cursor = app.post(SCAN, json!({"limit": 7})).await.json()["cursor"].clone();
    app.compact().await;
    let name = esker_format::Name::new("docs").unwrap();
    let collection = app.store.collection(&esker_store::Meter::new(), &name).await.unwrap();
    app.objects.delete(&Path::from(collection.keys().wal(2))).await.unwrap();
    let gone = app.again().post(SCAN, json!({"limit": 7, "cursor": cursor})).await;
    assert_eq!(gone.status, StatusCode::GONE, "{}", gone.text());
    assert_eq!(gone.json()["error"]["hint"], "scan again without the cursor");
    // The server that answered the first page still has the log's rows in memory, and the segments are there.
    let kept = app.post(SCAN, json!({"limit": 7, "cursor": cursor})).await;
    assert_eq!(ids(&kept.json()).len(), 3);
}
