//! Every route over a store in memory, in-process. What was written is read back through the log.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, FixedSizeListArray, Float32Array, Int64Array, RecordBatch, StringArray,
};
use arrow::datatypes::{DataType, Field, Float32Type};
use arrow::ipc::writer::StreamWriter;
use axum::Router;
use axum::body::{Body, to_bytes};
use esker_format::Name;
use esker_format::avro::{container, framing};
use esker_format::record::{Record, Value as Metadata};
use esker_proto::rest::Position;
use esker_store::open::{Location, StoreEnv, open};
use esker_store::{Client, Io, Meter, Place, Seams, Store};
use http::header::CONTENT_TYPE;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;

const RECORDS: &str = "/v1/collections/docs/records";
const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";

struct App {
    store: Arc<Store>,
    router: Router,
}

impl App {
    /// A server with a collection `docs` of 2 dimensions.
    async fn new() -> App {
        let backend = open(&Location::parse("memory:").unwrap(), &StoreEnv::default(), true).unwrap();
        let store = Arc::new(Store::new(Client::new(backend, Seams::system())));
        let (router, _) = router(State::new(store.clone())).split_for_parts();
        let app = App { store, router };
        let docs = json!({"name": "docs", "dimension": 2, "metric": "l2"});
        let (status, reply) = app.send(Method::POST, "/v1/collections", JSON, docs.to_string()).await;
        assert_eq!((status, reply), (StatusCode::CREATED, json!({"name": "docs", "id": "docs-1"})));
        app
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: impl Into<Body>,
    ) -> (StatusCode, Value) {
        self.keyed(method, path, kind, body, None).await
    }

    async fn keyed(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: impl Into<Body>,
        key: Option<&str>,
    ) -> (StatusCode, Value) {
        let mut request = Request::builder().method(method).uri(path).header(CONTENT_TYPE, kind);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let reply = self.router.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap();
        if reply.status().is_success() {
            assert!(reply.extensions().get::<Io>().is_some());
        }
        if reply.status() == StatusCode::OK && path.contains("records") {
            assert!(reply.extensions().get::<Position>().is_some());
        }
        let status = reply.status();
        let body = to_bytes(reply.into_body(), usize::MAX).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap_or_else(|e| panic!("{e}: {body:?}")))
    }

    async fn upsert(&self, body: Value) -> (StatusCode, Value) {
        self.send(Method::POST, RECORDS, JSON, body.to_string()).await
    }

    async fn patch(&self, body: Value) -> (StatusCode, Value) {
        self.send(Method::PATCH, RECORDS, JSON, body.to_string()).await
    }

    /// The row as the log has it.
    async fn row(&self, id: &str) -> Option<Record> {
        let collection = self.store.collection(&Meter::new(), &Name::new("docs").unwrap()).await.unwrap();
        let snapshot = collection.snapshot(&Meter::new()).await.unwrap();
        let found = collection.lookup(&Meter::new(), &snapshot, &[id], 0).await.unwrap();
        let found = found.into_iter().next().flatten()?;
        let Place::Tail(decoded, row) = &found.place else { panic!("nothing is compacted here") };
        let vectors = decoded.rows["vector"].as_fixed_size_list().value(*row);
        let mut record = found.record(&snapshot.schema).unwrap();
        record.vector = vectors.as_primitive::<Float32Type>().values().to_vec();
        Some(record)
    }
}

fn record(i: usize) -> Record {
    Record {
        id: format!("r{i}"),
        vector: vec![i as f32, 0.5],
        metadata: [("year".to_owned(), Metadata::Int(2000 + i as i64))].into(),
        timestamp: 5,
        version: i as i64,
        ..Record::default()
    }
}

fn arrow(records: &[Record]) -> Vec<u8> {
    let vectors = Float32Array::from_iter_values(records.iter().flat_map(|r| r.vector.iter().copied()));
    let item = Arc::new(Field::new("item", DataType::Float32, false));
    let vectors = FixedSizeListArray::new(item, 2, Arc::new(vectors), None);
    let columns: [(&str, ArrayRef); 5] = [
        ("id", Arc::new(StringArray::from_iter_values(records.iter().map(|r| &r.id)))),
        ("vector", Arc::new(vectors)),
        ("year", Arc::new(Int64Array::from_iter_values(records.iter().map(|r| 2000 + r.version)))),
        ("_timestamp", Arc::new(Int64Array::from_iter_values(records.iter().map(|r| r.timestamp)))),
        ("_version", Arc::new(Int64Array::from_iter_values(records.iter().map(|r| r.version)))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

#[tokio::test]
async fn records_come_in_every_encoding() {
    let app = App::new().await;
    let records: Vec<Record> = (0..3).map(record).collect();
    let mut block = Vec::new();
    records.iter().for_each(|r| r.encode(&mut block));
    let lines: Vec<String> = records.iter().map(|r| serde_json::to_string(r).unwrap()).collect();
    for (at, (kind, body)) in (1..).zip([
        (JSON, json!({"records": records}).to_string().into_bytes()),
        (NDJSON, (lines.join("\n\n") + "\n").into_bytes()),
        ("application/avro", container::write(&Default::default(), &[(3, &block)])),
        ("application/x-esker-avro", framing::encode("upsert", &block)),
        ("application/vnd.apache.arrow.stream", arrow(&records)),
    ]) {
        let done = app.send(Method::POST, RECORDS, kind, body).await;
        assert_eq!(done, (StatusCode::OK, json!({"position": at, "upserted": 3})), "{kind}");
        let row = app.row("r2").await.unwrap();
        let expected = record(2);
        assert_eq!((row.vector, row.metadata), (expected.vector, expected.metadata), "{kind}");
        assert_eq!((row.timestamp, row.version), (5, 2), "{kind}");
        let (status, reply) = app.send(Method::DELETE, "/v1/collections/none", JSON, "").await;
        assert_eq!((status, &reply["error"]["kind"]), (StatusCode::NOT_FOUND, &json!("not_found")));
    }
}

#[tokio::test]
async fn conditions_are_in_the_body_or_in_the_query() {
    let app = App::new().await;
    let one = |version: i64| json!({"id": "a", "vector": [1, 2], "version": version});
    let body = json!({"records": [one(1)], "if_absent": true});
    assert_eq!(app.upsert(body.clone()).await.0, StatusCode::OK);
    let (status, reply) = app.upsert(body).await;
    assert_eq!((status, &reply["error"]["kind"]), (StatusCode::CONFLICT, &json!("conflict")));
    assert_eq!(app.upsert(json!({"records": [one(2)], "if_version": 1})).await.0, StatusCode::OK);
    assert_eq!(app.upsert(json!({"records": [one(3)], "if_version": 1})).await.0, StatusCode::CONFLICT);
    let line = one(4).to_string();
    for (query, status) in [
        ("if_version=1", StatusCode::CONFLICT),
        ("if_absent=true", StatusCode::CONFLICT),
        ("if_version=2", StatusCode::OK),
        ("if_version=x", StatusCode::BAD_REQUEST),
        ("if_missing=true", StatusCode::BAD_REQUEST),
        ("if_absent=true&if_version=4", StatusCode::BAD_REQUEST),
    ] {
        let path = format!("{RECORDS}?{query}");
        assert_eq!(app.send(Method::POST, &path, NDJSON, line.clone()).await.0, status, "{query}");
    }
    assert_eq!(app.row("a").await.unwrap().version, 4);
}

#[tokio::test]
async fn a_write_that_is_sent_again_is_one_write() {
    let app = App::new().await;
    let body = json!({"records": [record(1)], "if_absent": true}).to_string();
    let send = |key| app.keyed(Method::POST, RECORDS, JSON, body.clone(), Some(key));
    assert_eq!(send("order 7").await.1, json!({"position": 1, "upserted": 1}));
    let again = send("order 7").await;
    assert_eq!(again, (StatusCode::OK, json!({"position": 1, "upserted": 1, "duplicate": true})));
    assert_eq!(send("order 8").await.0, StatusCode::CONFLICT);
    let (status, reply) = send("").await;
    assert_eq!((status, &reply["error"]["field"]), (StatusCode::BAD_REQUEST, &json!("idempotency-key")));
}

#[tokio::test]
async fn patches_change_what_they_give() {
    let app = App::new().await;
    let whole =
        json!({"id": "a", "vector": [1, 2], "metadata": {"x": 1, "y": "z"}, "expires_at": 4102444800000i64});
    app.upsert(json!({"records": [whole]})).await;
    let change = json!({"id": "a", "metadata": {"x": null, "w": true}});
    assert_eq!(app.patch(json!({"records": [change]})).await.1, json!({"position": 2, "patched": 1}));
    let row = app.row("a").await.unwrap();
    let expected = [("w".to_owned(), Metadata::Bool(true)), ("y".to_owned(), Metadata::String("z".into()))];
    assert_eq!((row.metadata, row.expires_at), (expected.into(), Some(4102444800000)));
    let line = r#"{"id": "a", "vector": [3, 4], "expires_at": null, "version": 7}"#;
    assert_eq!(app.send(Method::PATCH, RECORDS, NDJSON, line).await.0, StatusCode::OK);
    let row = app.row("a").await.unwrap();
    assert_eq!((row.vector, row.expires_at, row.version), (vec![3.0, 4.0], None, 7));
    for (body, status, field) in [
        (json!({"records": [{"id": "nobody"}]}), StatusCode::NOT_FOUND, Value::Null),
        (json!({"records": [{"id": "a"}], "if_version": 6}), StatusCode::CONFLICT, Value::Null),
        (json!({"records": [{"id": "a"}], "if_absent": true}), StatusCode::BAD_REQUEST, json!("if_absent")),
        (
            json!({"records": [{"id": "a", "created_at": 1}]}),
            StatusCode::BAD_REQUEST,
            json!("records[0].created_at"),
        ),
        (json!({"records": []}), StatusCode::BAD_REQUEST, json!("records")),
    ] {
        let (found, reply) = app.patch(body.clone()).await;
        assert_eq!(found, status, "{body} {reply}");
        if status == StatusCode::BAD_REQUEST {
            assert_eq!(reply["error"]["field"], field);
        }
    }
    let avro = app.send(Method::PATCH, RECORDS, "application/avro", "").await;
    assert_eq!(avro.0, StatusCode::UNSUPPORTED_MEDIA_TYPE);
}

#[tokio::test]
async fn what_is_wrong_is_named_and_nothing_is_written() {
    let app = App::new().await;
    let cases = [
        (JSON, json!({"records": []}).to_string(), "records", "the batch has no records"),
        (JSON, json!({"rows": []}).to_string(), "rows", "unknown field `rows`"),
        (
            JSON,
            json!({"records": [{"id": "a", "vector": [1]}]}).to_string(),
            "records[0].vector",
            "1 dimensions, the collection has 2",
        ),
        (
            JSON,
            json!({"records": [{"id": "a", "vector": [1, "x"]}]}).to_string(),
            "records[0].vector[1]",
            "invalid type: string \"x\", expected f32",
        ),
        (
            JSON,
            json!({"records": [{"id": "a", "vec": []}]}).to_string(),
            "records[0].vec",
            "unknown field `vec`",
        ),
        (
            JSON,
            json!({"records": [{"id": "a", "vector": [1, 2], "rank": 1}]}).to_string(),
            "records[0].rank",
            "this field is set in results and must be null in writes",
        ),
        (
            NDJSON,
            "{\"id\": \"a\", \"vector\": [1, 2]}\n{\"id\": 3}".to_owned(),
            "records[1].id",
            "invalid type: integer `3`, expected a string",
        ),
        (NDJSON, "nonsense".to_owned(), "records[0]", "the body is not a JSON object"),
        (
            JSON,
            "{".to_owned(),
            "body",
            "the body is not JSON: EOF while parsing an object at line 1 column 1",
        ),
    ];
    for (kind, body, field, message) in cases {
        let (status, reply) = app.send(Method::POST, RECORDS, kind, body.clone()).await;
        let error = &reply["error"];
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
        assert_eq!((&error["field"], &error["message"]), (&json!(field), &json!(message)), "{body}");
    }
    for kind in ["application/avro", "application/x-esker-avro", "application/vnd.apache.arrow.stream"] {
        let (status, reply) = app.send(Method::POST, RECORDS, kind, "nonsense").await;
        assert_eq!(
            (status, &reply["error"]["kind"]),
            (StatusCode::BAD_REQUEST, &json!("invalid")),
            "{kind} {reply}"
        );
    }
    let (status, _) = app.send(Method::POST, RECORDS, "text/csv", "id").await;
    assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let long = vec![b' '; bodies::limit(esker_proto::rest::Encoding::Avro) + 1];
    let (status, _) = app.send(Method::POST, RECORDS, "application/avro", long).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    let body = json!({"records": [record(1)]}).to_string();
    let (status, _) = app.send(Method::POST, "/v1/collections/none/records", JSON, body).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let collection = app.store.collection(&Meter::new(), &Name::new("docs").unwrap()).await.unwrap();
    assert_eq!(collection.snapshot(&Meter::new()).await.unwrap().position, 0);
}

#[tokio::test]
async fn collections_are_made_as_they_are_asked_for() {
    let app = App::new().await;
    let create = |body: Value| app.send(Method::POST, "/v1/collections", JSON, body.to_string());
    let types = json!({"name": "typed", "dimension": 3, "vector_type": "f16", "metadata": {"year": "int", "tags": "strings"}});
    assert_eq!(create(types).await.0, StatusCode::CREATED);
    let typed = app.store.collection(&Meter::new(), &Name::new("typed").unwrap()).await.unwrap();
    let manifest = typed.manifest(&Meter::new()).await.unwrap();
    let settings = serde_json::to_value(&manifest.settings).unwrap();
    assert_eq!(settings, json!({"dimension": 3, "metric": "cosine", "vector_type": "f16"}));
    let columns: Vec<_> =
        manifest.schema.columns.iter().map(|c| (c.name.as_str(), c.kind.as_str())).collect();
    assert_eq!(columns, [("tags", "strings"), ("year", "int")]);
    for (body, status, field) in [
        (json!({"name": "docs", "dimension": 2}), 409, Value::Null),
        (json!({"name": "D", "dimension": 2}), 400, json!("collection")),
        (json!({"name": "a"}), 400, json!("dimension")),
        (json!({"name": "a", "dimension": 0}), 400, json!("dimension")),
        (json!({"name": "a", "dimension": 2, "metric": "manhattan"}), 400, json!("metric")),
        (json!({"name": "a", "dimension": 2, "metadata": {"x": "uuid"}}), 400, json!("metadata.x")),
        (json!({"name": "a", "dimension": 2, "metadata": {"_x": "int"}}), 400, json!("metadata._x")),
        (json!({"name": "a", "dimension": 2, "shards": 3}), 400, json!("shards")),
    ] {
        let (found, reply) = create(body.clone()).await;
        assert_eq!((found.as_u16(), &reply["error"]["field"]), (status, &field), "{body} {reply}");
    }
    let dropped = app.send(Method::DELETE, "/v1/collections/docs", JSON, "").await;
    assert_eq!(dropped, (StatusCode::OK, json!({"dropped": "docs"})));
    assert_eq!(
        create(json!({"name": "docs", "dimension": 9})).await.1,
        json!({"name": "docs", "id": "docs-2"})
    );
}
