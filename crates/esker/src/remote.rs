//! A server or a gateway as the place where an import goes (docs/http.md).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use esker_format::avro::{Summary, container};
use esker_format::schema::{Metric, Schema, Settings, VectorType};
use esker_format::wal::PendingBatch;
use esker_format::{CollectionId, Error, Kind, Name, Result};
use esker_ingest::{Appended, BatchSink};
use esker_proto::rest::ErrorBody;
use esker_store::Clock;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{Method, StatusCode};
use reqwest::RequestBuilder;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

/// Bodies up to this size are sent as they are: a gateway takes 4.5 MB of what it puts into base64. Larger ones are uploaded.
const DIRECT_BYTES: usize = 4 << 20;
/// A request is answered within this: gateways and servers end one sooner.
const TIMEOUT: Duration = Duration::from_secs(300);
/// How long a log that is full is left to a compaction, where nothing else is said.
const FULL: Duration = Duration::from_secs(5);

/// A server, and who asks.
#[derive(Clone)]
pub struct Remote {
    http: reqwest::Client,
    base: String,
    key: Option<String>,
}

/// A collection, as a server describes it.
#[derive(Debug, Clone, Deserialize)]
pub struct Described {
    /// Which collection of its name.
    pub id: CollectionId,
    dimension: u32,
    metric: Metric,
    vector_type: VectorType,
}

impl Described {
    pub fn settings(&self) -> Settings {
        Settings { dimension: self.dimension, metric: self.metric, vector_type: self.vector_type }
    }
}

#[derive(Deserialize)]
struct Upserted {
    position: u64,
    /// Of a commit.
    done: Option<bool>,
    #[serde(default)]
    duplicate: bool,
}

#[derive(Deserialize)]
struct Place {
    token: String,
    url: String,
}

impl Remote {
    /// The server at `endpoint`. No request is sent.
    ///
    /// # Errors
    /// Invalid when it is no URL.
    pub fn new(endpoint: &str, key: Option<String>) -> Result<Self> {
        let wrong = |message: String| {
            Error::invalid("endpoint", message).with_hint("use a URL, http://127.0.0.1:5678 or https://…")
        };
        match reqwest::Url::parse(endpoint) {
            Ok(url) if ["http", "https"].contains(&url.scheme()) && url.query().is_none() => {}
            Ok(_) => return Err(wrong(format!("`{endpoint}` is no address of a server"))),
            Err(e) => return Err(wrong(format!("`{endpoint}` is no URL: {e}"))),
        }
        let http =
            reqwest::Client::builder().timeout(TIMEOUT).build().map_err(|e| unreachable(endpoint, e))?;
        Ok(Remote { http, base: endpoint.trim_end_matches('/').to_owned(), key })
    }

    /// A collection, if it is there.
    pub async fn describe(&self, name: &Name) -> Result<Option<Described>> {
        let asked = self.request(Method::GET, &format!("/v1/collections/{name}"));
        match self.answer(asked).await {
            Err(e) if e.kind() == Kind::NotFound => Ok(None),
            answer => answer.map(Some),
        }
    }

    /// Makes a collection, or takes the one that a rival made meanwhile.
    pub async fn create(&self, name: &Name, settings: &Settings, schema: &Schema) -> Result<Described> {
        let metadata: BTreeMap<_, _> = schema.columns.iter().map(|c| (&c.name, c.kind)).collect();
        let body = json!({
            "name": name, "dimension": settings.dimension, "metric": settings.metric,
            "vector_type": settings.vector_type, "metadata": metadata,
        });
        let asked = self.request(Method::POST, "/v1/collections").json(&body);
        match self.answer::<serde_json::Value>(asked).await {
            Err(e) if e.kind() != Kind::Conflict => return Err(e),
            _ => {}
        }
        let made = self.describe(name).await?;
        made.ok_or_else(|| Error::new(Kind::Gone, format!("collection `{name}` was dropped meanwhile")))
    }

    /// Writes a body under a name, which makes it safe to send again.
    async fn upsert(&self, name: &Name, token: &str, body: Bytes) -> Result<Upserted> {
        let avro = |request: RequestBuilder| {
            request.header("idempotency-key", token).header(CONTENT_TYPE, "application/avro")
        };
        let at = format!("/v1/collections/{name}");
        if body.len() <= DIRECT_BYTES {
            let asked = avro(self.request(Method::POST, &format!("{at}/records"))).body(body);
            return self.answer(asked).await;
        }
        let place: Place = self.answer(self.request(Method::POST, &format!("{at}/uploads"))).await?;
        let put = match place.url.starts_with('/') {
            true => self.request(Method::PUT, &place.url),
            // Signed: it needs no key, and must not see ours.
            false => self.http.put(&place.url),
        };
        self.send(put.body(body)).await?;
        let commit = format!("{at}/uploads/{}/commit", place.token);
        // What a commit wrote that was stopped is no other import's.
        let mut written = false;
        loop {
            let asked = self.request(Method::POST, &commit).header("idempotency-key", token);
            let asked = asked.json(&json!({"content_type": "application/avro"}));
            let upserted: Upserted = self.answer(asked).await?;
            if upserted.done == Some(true) {
                return Ok(Upserted { duplicate: upserted.duplicate && !written, ..upserted });
            }
            written = true;
        }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    async fn answer<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T> {
        let bytes = self.send(request).await?;
        serde_json::from_slice(&bytes).map_err(|e| {
            Error::new(Kind::Unavailable, format!("{} answered what is no answer: {e}", self.base))
        })
    }

    /// The body of a reply that is a success.
    async fn send(&self, request: RequestBuilder) -> Result<Bytes> {
        let reply = request.send().await.map_err(|e| unreachable(&self.base, e))?;
        let (status, wait) = (reply.status(), reply.headers().get(RETRY_AFTER).cloned());
        let wait = wait.and_then(|v| v.to_str().ok()?.parse().ok()).map(Duration::from_secs);
        let bytes = reply.bytes().await.map_err(|e| unreachable(&self.base, e))?;
        match status.is_success() {
            true => Ok(bytes),
            false => Err(refused(status, wait, &bytes)),
        }
    }
}

/// The error of a reply: a server's, or that of a gateway or a bucket, which have their own forms.
fn refused(status: StatusCode, wait: Option<Duration>, body: &[u8]) -> Error {
    let error = match serde_json::from_slice::<ErrorBody>(body) {
        Ok(ErrorBody { error }) => {
            let new = match error.field {
                Some(field) if error.kind == Kind::Invalid => Error::invalid(field, error.message),
                _ => Error::new(error.kind, error.message),
            };
            match error.hint {
                Some(hint) => new.with_hint(hint),
                None => new,
            }
        }
        Err(_) => {
            let kind = match status {
                StatusCode::TOO_MANY_REQUESTS => Kind::Busy,
                StatusCode::NOT_FOUND => Kind::NotFound,
                _ if status.is_server_error() => Kind::Unavailable,
                _ => Kind::Invalid,
            };
            let text = String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned();
            let refused = Error::new(kind, format!("refused with {status}: {text}"));
            match status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    refused.with_hint("give a key by ESKER_API_KEY or --key-file")
                }
                _ => refused,
            }
        }
    };
    match wait {
        Some(wait) => error.with_retry_after(wait),
        None => error,
    }
}

fn unreachable(at: &str, e: reqwest::Error) -> Error {
    // The URL of an upload is a secret for an hour.
    let e = e.without_url();
    let why = std::error::Error::source(&e).map(|s| format!(": {s}")).unwrap_or_default();
    Error::new(Kind::Unavailable, format!("{at} cannot be reached: {e}{why}")).with_source(e)
}

/// The batches of an import, sent to a server.
pub struct RemoteSink {
    remote: Remote,
    name: Name,
    clock: Arc<dyn Clock>,
    full: AtomicBool,
}

impl RemoteSink {
    pub fn new(remote: Remote, name: Name, clock: Arc<dyn Clock>) -> Self {
        RemoteSink { remote, name, clock, full: AtomicBool::new(false) }
    }
}

#[async_trait]
impl BatchSink for RemoteSink {
    async fn append(&self, batch: PendingBatch, _: &Summary) -> Result<Appended> {
        let blocks: Vec<(u64, &[u8])> = batch.blocks.iter().map(|b| (b.rows, b.data.as_ref())).collect();
        let body = Bytes::from(container::write(&BTreeMap::new(), &blocks));
        let done = self.remote.upsert(&self.name, &batch.token.to_string(), body).await.inspect_err(|e| {
            if e.kind() == Kind::Busy {
                self.full.store(true, Ordering::Relaxed);
            }
        })?;
        Ok(Appended { position: done.position, duplicate: done.duplicate })
    }

    /// The other side compacts by itself: a log that is full is given time.
    async fn maybe_compact(&self) -> Result<bool> {
        let full = self.full.swap(false, Ordering::Relaxed);
        if full {
            self.clock.sleep(FULL).await;
        }
        Ok(full)
    }
}

#[cfg(test)]
mod tests;
