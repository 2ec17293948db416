//! Steps over HTTP.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Method, Request};
use esker_proto::rest::ErrorBody;
use esker_store::Store;
use serde_json::Value as Json;
use tower::ServiceExt;

use super::Answer;
use super::cases::Step;
use super::server::reads;

pub struct Client(Router);

impl Client {
    pub fn new(store: Arc<Store>) -> Client {
        let reads = esker_query::http::router(reads(&store));
        let writes = esker_ingest::http::router(esker_ingest::http::State::new(store));
        Client(writes.merge(reads).split_for_parts().0)
    }

    pub async fn send(&self, step: &Step) -> Answer {
        let collection = format!("/v1/collections/{}", step.collection);
        let (method, path) = match step.op {
            "create" => (Method::POST, "/v1/collections".to_owned()),
            "list" => (Method::GET, "/v1/collections".to_owned()),
            "sql" => (Method::POST, "/v1/sql".to_owned()),
            "describe" => (Method::GET, collection),
            "drop" => (Method::DELETE, collection),
            "stats" => (Method::GET, format!("{collection}/stats")),
            "upsert" => (Method::POST, format!("{collection}/records")),
            "patch" => (Method::PATCH, format!("{collection}/records")),
            "delete" => (Method::DELETE, format!("{collection}/records")),
            "get" => {
                let id = step.body["id"].as_str().unwrap();
                let vector = step.body["include_vector"].as_bool().unwrap_or(false);
                (Method::GET, format!("{collection}/records/{id}?include_vector={vector}"))
            }
            "get_many" => (Method::POST, format!("{collection}/records/get")),
            "scan" => (Method::POST, format!("{collection}/records/scan")),
            "count" => (Method::POST, format!("{collection}/records/count")),
            "search" | "warm" => (Method::POST, format!("{collection}/{}", step.op)),
            other => panic!("there is no operation {other}"),
        };
        let mut request = Request::builder().uri(path).header("content-type", "application/json");
        if let Some(key) = &step.key {
            request = request.header("idempotency-key", key);
        }
        let body = if method == Method::GET { Body::empty() } else { Body::from(step.body.to_string()) };
        let reply = self.0.clone().oneshot(request.method(method).body(body).unwrap()).await.unwrap();
        let status = reply.status();
        let body = to_bytes(reply.into_body(), usize::MAX).await.unwrap();
        match status.is_success() {
            true => Ok(serde_json::from_slice::<Json>(&body).unwrap()),
            false => Err(serde_json::from_slice::<ErrorBody>(&body).unwrap().error),
        }
    }
}
