use esker_proto::rest::Position;
use esker_store::Io;
use http::StatusCode;
use serde_json::{Value, json};

use super::fixture::App;

/// Takes out what differs from run to run, having looked at its form.
fn settled(mut value: Value) -> Value {
    let object = value.as_object_mut().unwrap();
    let io = object.remove("io").expect("io");
    let keys: Vec<&str> = io.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = ["bytes", "cache_hit_bytes", "gets", "lists", "usd", "waves"];
    assert_eq!(keys, expected);
    assert!(object.remove("took_ms").unwrap().as_f64().unwrap() >= 0.0);
    value
}

#[tokio::test]
async fn a_search_answers_as_the_contract_says() {
    let app = App::with_docs(8).await;
    let path = "/v1/collections/docs/search";
    let reply = app.post(path, json!({"vector": [1, 0.1], "k": 2, "include": ["section"]})).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    let hit = |id: &str, distance: f64, rank: u64, metadata: Value| json!({"id": id, "distance": distance, "score": -distance, "rank": rank, "metadata": metadata});
    let value = settled(reply.json());
    assert_eq!(value["position"], 2);
    assert_eq!(value["hits"][0], hit("r1", 0.0, 1, json!({})));
    assert_eq!(value["hits"][1]["distance"], 1.0);
    assert_eq!(value.as_object().unwrap().len(), 2);
    assert_eq!(reply.reply.extensions().get::<Position>(), Some(&Position(2)));
    assert!(reply.reply.extensions().get::<Io>().is_some());

    // As floats are printed, they are read back.
    let search = json!({"like": "r3", "k": 1, "include_vector": true, "filter": {"year": {"$gte": 2003}}});
    let hit = &app.post(path, search).await.json()["hits"][0];
    assert_eq!((&hit["id"], &hit["vector"]), (&json!("r3"), &json!([3.0, 0.1])));

    let both =
        json!({"vectors": [[0, 0.1], [7, 0.1]], "k": 1, "filter": "section = 'even'", "explain": true});
    let value = settled(app.post(path, both).await.json());
    assert_eq!(value["results"][0]["hits"][0]["id"], "r0");
    assert_eq!(value["results"][1]["hits"][0]["id"], "r6");
    assert_eq!(value["explain"]["filter"], "section = 'even'");
    assert!(value.get("hits").is_none());

    let near = json!({"vector": [0, 0.1], "max_distance": 1.5, "consistency": "eventual", "min_position": 2});
    let value = settled(app.post(path, near).await.json());
    assert_eq!(value["hits"].as_array().unwrap().len(), 2);
    assert!(value["staleness_ms"].is_u64());
}

#[tokio::test]
async fn states_are_chosen_by_position_and_version() {
    let app = App::with_docs(8).await;
    let version = app.get("/v1/collections/docs/stats").await.json()["version"].as_u64().unwrap();
    let count = |body: Value| {
        let app = &app;
        async move { app.post("/v1/collections/docs/records/count", body).await.json()["count"].clone() }
    };
    assert_eq!(count(json!({"as_of": version})).await, 4);
    assert_eq!(count(json!({"min_position": 2})).await, 8);
    assert_eq!(count(json!({"consistency": "eventual", "filter": "year < 2003"})).await, 3);
    let old = app.get(&format!("/v1/collections/docs/records/r7?as_of={version}")).await;
    assert_eq!(old.status, StatusCode::NOT_FOUND);
    let new = app.get("/v1/collections/docs/records/r7?min_position=2&include_vector=true").await;
    assert_eq!((new.status, new.header("esker-position")), (StatusCode::OK, Some("2")));
    assert_eq!(new.json()["vector"], json!([7.0, 0.1]));
}

#[tokio::test]
async fn collections_are_listed_and_described() {
    let app = App::with_docs(4).await;
    app.post("/v1/collections", json!({"name": "other", "dimension": 3, "vector_type": "f16"})).await;
    let list = settled(app.get("/v1/collections").await.json());
    let named = |i: usize, key: &str| list["collections"][i][key].clone();
    assert_eq!((named(0, "name"), named(1, "name")), (json!("docs"), json!("other")));
    assert_eq!((named(1, "metric"), named(1, "vector_type")), (json!("cosine"), json!("f16")));
    let docs = app.get("/v1/collections/docs").await.json();
    let expected = json!({
        "name": "docs", "id": "docs-1", "dimension": 2, "metric": "l2", "vector_type": "f32",
        "metadata": {"year": "int", "section": "string", "tags": "strings"},
        "version": docs["version"], "position": 2,
    });
    assert_eq!(docs, expected);
    let stats = app.get("/v1/collections/docs/stats").await.json();
    assert_eq!((&stats["segment_rows"], &stats["tail_entries"]), (&json!(2), &json!(1)));
    let warm = app.post("/v1/collections/docs/warm", json!({})).await;
    let mut warm = settled(warm.json());
    assert!(warm["bytes"].take().as_u64().unwrap() > 1000);
    assert_eq!(warm, json!({"rows": 4, "position": 2, "resident": true, "bytes": null}));
}

#[tokio::test]
async fn records_are_read_by_id() {
    let app = App::with_docs(4).await;
    let want = json!({"ids": ["r3", "nobody", "r0"], "include": ["year"]});
    let value = settled(app.post("/v1/collections/docs/records/get", want).await.json());
    assert_eq!(value["missing"], json!(["nobody"]));
    let records = value["records"].as_array().unwrap();
    assert_eq!((&records[0]["id"], &records[1]["id"]), (&json!("r3"), &json!("r0")));
    assert_eq!(records[0]["metadata"], json!({"year": 2003}));
    assert_eq!((&records[0]["version"], records[0].get("vector")), (&json!(3), None));
}

#[tokio::test]
async fn ids_may_be_anything_that_a_path_can_carry() {
    let app = App::with_docs(0).await;
    let record = json!({"id": "a/b ö?", "vector": [1, 2]});
    app.post("/v1/collections/docs/records", json!({"records": [record]})).await;
    let got = app.get("/v1/collections/docs/records/a%2Fb%20%C3%B6%3F").await;
    assert_eq!(got.json()["id"], "a/b ö?");
}

#[tokio::test]
async fn queries_answer_in_rows() {
    let app = App::with_docs(4).await;
    let query =
        json!({"query": "SELECT id, section FROM docs WHERE year >= $1 ORDER BY id", "params": [2002]});
    let value = settled(app.post("/v1/sql", query).await.json());
    assert_eq!(value, json!({"rows": [{"id": "r2", "section": "even"}, {"id": "r3", "section": null}]}));
    let nearest = json!({
        "query": "SELECT id FROM docs ORDER BY l2_distance(vector, $1) LIMIT 1", "params": [[3, 0.1]],
    });
    assert_eq!(settled(app.post("/v1/sql", nearest).await.json()), json!({"rows": [{"id": "r3"}]}));
    let none = json!({"query": "SELECT id FROM docs WHERE year = 0"});
    assert_eq!(settled(app.post("/v1/sql", none).await.json()), json!({"rows": []}));
}

#[test]
fn the_document_has_every_route_of_the_contract() {
    use utoipa::openapi::HttpMethod::{Delete, Get, Post};
    let store = super::fixture::App::new().store;
    let engine = crate::Engine::new(store, crate::Options::default());
    let service = crate::Service::new(engine, None, crate::sql::Options::default());
    let document = crate::http::router(service).into_openapi();
    let collection = "/v1/collections/{collection}";
    let mut expected = vec![
        ("/v1/collections".to_owned(), Get),
        (collection.to_owned(), Get),
        (format!("{collection}/stats"), Get),
        (format!("{collection}/records/{{id}}"), Get),
        (format!("{collection}/records/get"), Post),
        (format!("{collection}/records"), Delete),
        (format!("{collection}/records/scan"), Post),
        (format!("{collection}/records/count"), Post),
        (format!("{collection}/search"), Post),
        (format!("{collection}/warm"), Post),
        ("/v1/sql".to_owned(), Post),
    ];
    for (path, item) in &document.paths.paths {
        let has = |m: &utoipa::openapi::HttpMethod| match m {
            Get => item.get.is_some(),
            Post => item.post.is_some(),
            _ => item.delete.is_some(),
        };
        let found = expected.iter().position(|(p, m)| p == path && has(m));
        expected.remove(found.unwrap_or_else(|| panic!("{path} is not in the contract")));
    }
    assert!(expected.is_empty(), "{:?}", expected.iter().map(|(path, _)| path).collect::<Vec<_>>());
}
