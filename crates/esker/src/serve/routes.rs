//! The routes that belong to the server itself, and the document of all of them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use esker_compactor::{Compactor, Report};
use esker_format::{Error, Kind, Name};
use esker_proto::rest::{ErrorBody, Failure};
use esker_query::Service;
use esker_store::{Io, Meter, Store, doctor};
use http::header::CONTENT_TYPE;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{InfoBuilder, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::background;
use super::guard::Shell;
use super::measure;

/// The store must answer within this.
const READY: Duration = Duration::from_secs(1);
/// An answer about readiness is good for this long: nobody needs a key to ask.
const READY_KEPT: Duration = Duration::from_secs(1);

/// Compactions by request that may wait or run.
pub const COMPACTIONS: usize = 8;

/// What these routes work on.
pub struct Own {
    /// The store.
    pub store: Arc<Store>,
    /// Reads, and deletes of what reads find.
    pub service: Service,
    /// Compacts.
    pub compactor: Compactor,
    /// Compactions by request and in the background, one at a time.
    pub compacting: tokio::sync::Mutex<()>,
    /// Compactions by request that wait or run.
    pub asked: tokio::sync::Semaphore,
    /// The shell.
    pub shell: Arc<Shell>,
    /// The last answer about readiness.
    pub ready: tokio::sync::Mutex<Option<(Duration, std::result::Result<(), String>)>>,
    /// The OpenAPI document.
    pub document: Mutex<String>,
}

/// The routes.
pub fn router(own: Arc<Own>) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .routes(routes!(metrics))
        .routes(routes!(openapi))
        .routes(routes!(compact))
        .with_state(own)
}

/// What the document says of the server as a whole.
pub fn describe(mut document: OpenApi) -> OpenApi {
    let info = InfoBuilder::new()
        .title("Esker")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("Vector search on object storage."));
    document.info = info.build();
    let components = document.components.get_or_insert_default();
    components.add_security_scheme("bearer", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    let header = ApiKey::Header(ApiKeyValue::new("x-api-key"));
    components.add_security_scheme("key", SecurityScheme::ApiKey(header));
    let none: [&str; 0] = [];
    // Either of them, or none where the server has no keys.
    document.security = Some(vec![
        SecurityRequirement::default(),
        SecurityRequirement::new("bearer", none),
        SecurityRequirement::new("key", none),
    ]);
    document
}

/// Health of the server.
#[derive(Debug, Serialize, ToSchema)]
pub struct Health {
    /// `ok`, or `unavailable`.
    status: &'static str,
    /// Why it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// The process answers.
#[utoipa::path(get, path = "/healthz", tag = "server", responses((status = 200, body = Health)), security(()))]
async fn healthz() -> Response {
    axum::Json(Health { status: "ok", reason: None }).into_response()
}

/// The store answers, the doctor found nothing against it, and the server is not stopping.
#[utoipa::path(get, path = "/readyz", tag = "server", security(()),
    responses((status = 200, body = Health), (status = 503, body = Health)))]
async fn readyz(State(own): State<Arc<Own>>) -> Response {
    match own.readiness().await {
        Ok(()) => axum::Json(Health { status: "ok", reason: None }).into_response(),
        Err(reason) => {
            let health = Health { status: "unavailable", reason: Some(reason) };
            (http::StatusCode::SERVICE_UNAVAILABLE, axum::Json(health)).into_response()
        }
    }
}

/// Prometheus text. Needs a key that is not limited to collections, since the names of all of them are in it.
#[utoipa::path(get, path = "/metrics", tag = "server", responses((status = 200, body = String, content_type = "text/plain")))]
async fn metrics(State(own): State<Arc<Own>>) -> Response {
    own.tails().await;
    let text = measure::render();
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "server", security(()),
    responses((status = 200, body = Object, content_type = "application/json")))]
async fn openapi(State(own): State<Arc<Own>>) -> Response {
    let document = own.document.lock().unwrap_or_else(PoisonError::into_inner).clone();
    ([(CONTENT_TYPE, "application/json")], document).into_response()
}

/// What a compaction did.
#[derive(Debug, Serialize, ToSchema)]
pub struct Compacted {
    /// Whether there was anything to do.
    committed: bool,
    /// Newest version of the manifest.
    version: u64,
    /// Log entries that are in segments now.
    folded_entries: u64,
    /// Their rows, without tombstones.
    folded_rows: u64,
    /// Their tombstones.
    tombstones: u64,
    /// Segments afterwards.
    segments: usize,
    /// Live rows afterwards.
    live_rows: u64,
    /// Bytes of new objects.
    bytes_written: u64,
    /// Milliseconds.
    took_ms: f64,
}

/// Folds the log into segments now. The reply comes when it is done; after the deadline it goes on and the reply is 503.
#[utoipa::path(post, path = "/v1/collections/{collection}/compact", tag = "collections",
    params(("collection" = String, Path, description = "The collection", pattern = "^[a-z0-9_-]{1,64}$")),
    responses((status = 200, description = "What was done.", body = Compacted),
        (status = "default", description = "An error.", body = ErrorBody)))]
async fn compact(State(own): State<Arc<Own>>, Path(name): Path<String>) -> Result<Response, Failure> {
    let name = Name::new(name)?;
    let clock = &own.shell.seams.clock;
    let start = clock.elapsed();
    let (report, io) = own.compact(&name).await?;
    let compacted = Compacted {
        committed: report.committed,
        version: report.version,
        folded_entries: report.folded_entries,
        folded_rows: report.folded_rows,
        tombstones: report.tombstones,
        segments: report.segments_out,
        live_rows: report.live_rows,
        bytes_written: report.bytes_written,
        took_ms: (clock.elapsed() - start).as_secs_f64() * 1000.0,
    };
    let mut reply = axum::Json(compacted).into_response();
    reply.extensions_mut().insert(io);
    Ok(reply)
}

impl Own {
    /// Compacts a collection, after those that are being compacted.
    ///
    /// # Errors
    /// Busy when as many wait as may: each of them holds a place among the requests.
    pub async fn compact(&self, name: &Name) -> Result<(Report, Io), Error> {
        let Ok(_asked) = self.asked.try_acquire() else {
            return Err(Error::new(Kind::Busy, "other compactions that were asked for are waiting")
                .with_retry_after(READY)
                .with_hint("collections are compacted in the background, too"));
        };
        let _one = self.compacting.lock().await;
        let meter = Meter::new();
        let collection = self.store.collection(&meter, name).await?;
        let report = background::compact(self, &meter, &collection).await?;
        Ok((report, meter.io()))
    }

    /// A collection that is there no more.
    pub fn forget(&self, name: &Name) {
        self.shell.seen.remove(name);
        for gauge in ["esker_tail_entries", "esker_tail_bytes"] {
            metrics::gauge!(gauge, "collection" => name.to_string()).set(0.0);
        }
    }

    /// Whether requests can be served, asked at most once a second.
    async fn readiness(&self) -> std::result::Result<(), String> {
        if self.shell.stop.is_cancelled() {
            return Err("the server is stopping".to_owned());
        }
        let clock = &self.shell.seams.clock;
        let mut kept = self.ready.lock().await;
        if let Some((at, answer)) = &*kept
            && clock.elapsed() - *at < READY_KEPT
        {
            return answer.clone();
        }
        let meter = Meter::new();
        let answer = tokio::select! {
            verdict = doctor::verdict(self.store.client(), &meter) => match verdict {
                Ok(Some(verdict)) if !verdict.safe() => {
                    Err("the doctor found that this store breaks promises; see `esker doctor`".to_owned())
                }
                Ok(_) => Ok(()),
                Err(e) if e.kind() == Kind::Corrupt => Err("the store's record of the doctor is corrupt".to_owned()),
                Err(_) => Err("the store does not answer".to_owned()),
            },
            () = clock.sleep(READY) => Err("the store does not answer within a second".to_owned()),
        };
        *kept = Some((clock.elapsed(), answer.clone()));
        answer
    }

    /// Sets the gauges of the tails, from what this process knows.
    async fn tails(&self) {
        let meter = Meter::new();
        for name in self.shell.seen.names() {
            // Warm, as everything seen is: no request.
            let Ok(collection) = self.store.collection(&meter, &name).await else { continue };
            let tail = collection.tail_seen();
            let bytes: u64 = tail.iter().map(|e| e.bytes).sum();
            metrics::gauge!("esker_tail_entries", "collection" => name.to_string()).set(tail.len() as f64);
            metrics::gauge!("esker_tail_bytes", "collection" => name.to_string()).set(bytes as f64);
        }
    }
}
