//! The routes of a server that reads and writes, without a socket.

use std::sync::Arc;

use async_trait::async_trait;
use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::response::Response;
use esker_format::record::Op;
use esker_format::{Name, Result, Seq};
use esker_ingest::{Body as Written, Ingest, WriteOptions};
use esker_store::open::Backend;
use esker_store::{Client, Meter, Seams, Store};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Method, Request, StatusCode};
use object_store::memory::InMemory;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::engine::{Engine, Options};
use crate::service::{Called, Deleted, Doomed, Service, Tombstones, Untouched};

/// What a program does to let deletes through: this is all of it.
pub(super) struct Writer(pub Ingest);

#[async_trait]
impl Tombstones for Writer {
    async fn delete(&self, meter: &Meter, name: &Name, doomed: Doomed, called: Called) -> Result<Deleted> {
        let (ingest, options) = (self.0.drawing(called.drawn), WriteOptions::from(called.given));
        let ack = match doomed {
            Doomed::Ids(ids) => ingest.delete(meter, name, &ids, &options).await?,
            Doomed::Container(file) => {
                ingest.write(meter, name, Op::Delete, Written::Container(file), &options).await?
            }
            Doomed::Framed(payload) => {
                ingest.write(meter, name, Op::Delete, Written::Framed(payload), &options).await?
            }
        };
        Ok(Deleted { position: ack.position, deleted: ack.rows.into(), duplicate: ack.duplicate })
    }

    async fn delete_untouched(
        &self,
        meter: &Meter,
        name: &Name,
        ids: &[String],
        since: Seq,
    ) -> Result<Untouched> {
        let done = self.0.delete_untouched(meter, name, ids, since, None).await?;
        Ok(Untouched { position: done.ack.map(|a| a.position), touched: done.touched })
    }
}

pub(super) struct App {
    pub objects: Arc<InMemory>,
    pub store: Arc<Store>,
    pub router: Router,
}

/// A reply, read to its end.
pub(super) struct Answer {
    pub status: StatusCode,
    pub reply: Response<()>,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", self.body))
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.reply.headers().get(name).map(|v| v.to_str().unwrap())
    }
}

pub(super) const ARROW: &str = "application/vnd.apache.arrow.stream";
pub(super) const AVRO: &str = "application/avro";
pub(super) const NDJSON: &str = "application/x-ndjson";

impl App {
    /// A server on an empty store.
    pub fn new() -> App {
        App::on(Arc::new(InMemory::new()))
    }

    /// Another server on the same store, which knows nothing yet.
    pub fn again(&self) -> App {
        App::on(self.objects.clone())
    }

    fn on(objects: Arc<InMemory>) -> App {
        let client = Client::new(Backend::new(objects.clone()), Seams::system());
        let store = Arc::new(Store::new(client));
        let writer = Writer(Ingest::new(store.clone()));
        Self::with(objects, store, Some(Arc::new(writer)))
    }

    pub fn with(objects: Arc<InMemory>, store: Arc<Store>, writer: Option<Arc<dyn Tombstones>>) -> App {
        let engine = Engine::new(store.clone(), Options::default());
        let service = Service::new(engine, writer, crate::sql::Options::default());
        let writes = esker_ingest::http::router(esker_ingest::http::State::new(store.clone()));
        let (router, _) = crate::http::router(service).merge(writes).split_for_parts();
        App { objects, store, router }
    }

    /// A server with a collection `docs` of 2 dimensions and `n` rows, the first half of them in a segment.
    pub async fn with_docs(n: usize) -> App {
        let app = App::new();
        let create = json!({"name": "docs", "dimension": 2, "metric": "l2", "metadata": {"year": "int"}});
        assert_eq!(app.post("/v1/collections", create).await.status, StatusCode::CREATED);
        app.fill(0..n / 2).await;
        app.compact().await;
        app.fill(n / 2..n).await;
        app
    }

    /// Rows `r0`, `r1`, …: in a line, even ones with a section.
    pub async fn fill(&self, rows: std::ops::Range<usize>) {
        let record = |i: usize| {
            let mut metadata = json!({"year": 2000 + i as i64, "tags": ["all"]});
            if i.is_multiple_of(2) {
                metadata["section"] = json!("even");
            }
            json!({"id": format!("r{i}"), "vector": [i as f32, 0.1], "metadata": metadata, "version": i})
        };
        let records: Vec<Value> = rows.map(record).collect();
        if !records.is_empty() {
            let reply = self.post("/v1/collections/docs/records", json!({"records": records})).await;
            assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
        }
    }

    pub async fn compact(&self) {
        let collection = self.store.collection(&Meter::new(), &Name::new("docs").unwrap()).await.unwrap();
        esker_compactor::Compactor::default().compact(&Meter::new(), &collection, &|_| {}).await.unwrap();
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        let reply = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = reply.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
        Answer { status: parts.status, reply: Response::from_parts(parts, ()), body }
    }

    pub async fn call(&self, method: Method, path: &str, types: [&str; 2], body: impl Into<Body>) -> Answer {
        let [content, accept] = types;
        let request = Request::builder().method(method).uri(path);
        let request = request.header(CONTENT_TYPE, content).header(ACCEPT, accept);
        self.send(request.body(body.into()).unwrap()).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, ["application/json", "*/*"], "").await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.post_for(path, body, "application/json").await
    }

    pub async fn post_for(&self, path: &str, body: Value, accept: &str) -> Answer {
        self.call(Method::POST, path, ["application/json", accept], body.to_string()).await
    }

    pub async fn delete(&self, body: Value) -> Answer {
        let types = ["application/json", "*/*"];
        self.call(Method::DELETE, "/v1/collections/docs/records", types, body.to_string()).await
    }

    pub async fn count(&self, filter: Value) -> u64 {
        let reply = self.post("/v1/collections/docs/records/count", json!({"filter": filter})).await;
        reply.json()["count"].as_u64().unwrap_or_else(|| panic!("{}", reply.text()))
    }
}
