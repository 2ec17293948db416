//! An S3 server over a real socket: atomic, in memory, with latency, a log of requests and weaknesses on demand.
//!
//! It runs on threads of its own, so blocking callers and child processes can use it. Beside S3 it answers plain GETs
//! for scripts: `/-/requests` (the log, one JSON object a line), `/-/reset` (empties the log), `/-/latency/MILLISECONDS`,
//! `/-/weaken/WEAKNESS` and `/-/mend`.

mod headers;
mod service;
mod weakness;

pub use weakness::Weakness;

use crate::world::World;
use bytes::Bytes;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_LENGTH, RANGE};
use hyper_util::rt::TokioIo;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{ClientOptions, RetryConfig};
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{HttpError, HttpResponse};
use serde::Serialize;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// The access key the server knows. Every other one, a wrong signature and none are refused.
pub const ACCESS_KEY: &str = "esker-test";
/// Its secret.
pub const SECRET_KEY: &str = "esker-test-secret";
/// The region clients should sign for.
pub const REGION: &str = "us-east-1";

/// How a server is started.
#[derive(Clone, Debug)]
pub struct S3Options {
    /// Where to listen; port 0 takes a free one.
    pub addr: SocketAddr,
    /// The one bucket there is.
    pub bucket: String,
    /// Added to each request before it is looked at.
    pub latency: Duration,
    /// A file to which each answered request is appended as a line of JSON.
    pub log: Option<std::path::PathBuf>,
}

impl Default for S3Options {
    fn default() -> Self {
        let addr = SocketAddr::from(([127, 0, 0, 1], 0));
        Self { addr, bucket: "esker".to_owned(), latency: Duration::ZERO, log: None }
    }
}

/// One answered request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Request {
    /// `GET`, `PUT`, …
    pub method: String,
    /// The key; empty for requests to the bucket, a listing for one.
    pub key: String,
    /// The query as it came, without `?`.
    pub query: String,
    /// The `Range` header.
    pub range: Option<String>,
    /// Status of the answer.
    pub status: u16,
    /// Bytes of the answer's content.
    pub bytes: u64,
    /// Bytes of the request's content.
    pub sent: u64,
    /// Microseconds from the server's start to the request's arrival.
    pub at_us: u64,
    /// Microseconds from arrival to answer, latency included.
    pub took_us: u64,
}

impl Request {
    /// Whether it lists.
    pub fn is_list(&self) -> bool {
        self.method == "GET" && self.query.contains("list-type=2")
    }
}

/// A running server. It ends when dropped.
#[derive(Debug)]
pub struct S3Server {
    addr: SocketAddr,
    /// The one bucket there is.
    pub bucket: String,
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

#[derive(Debug)]
struct Shared {
    world: World,
    bucket: String,
    latency_us: AtomicU64,
    ids: AtomicU64,
    weakness: Mutex<Option<Weakness>>,
    requests: Mutex<Vec<Request>>,
    log: Option<Mutex<std::fs::File>>,
    started: Instant,
}

impl S3Server {
    /// Starts a server with an empty bucket.
    ///
    /// # Errors
    /// Where the address is taken or the log cannot be opened.
    pub fn start(options: S3Options) -> std::io::Result<Self> {
        let log = options
            .log
            .as_ref()
            .map(|path| std::fs::File::options().create(true).append(true).open(path).map(Mutex::new));
        let shared = Arc::new(Shared {
            world: World::wall(),
            bucket: options.bucket.clone(),
            latency_us: AtomicU64::new(micros(options.latency)),
            ids: AtomicU64::new(0),
            weakness: Mutex::default(),
            requests: Mutex::default(),
            log: log.transpose()?,
            started: instant(),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("s3-server")
            .enable_all()
            .build()?;
        let listener = std::net::TcpListener::bind(options.addr)?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let listener = {
            let _context = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let mut builder = S3ServiceBuilder::new(service::Service::new(shared.clone()));
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        runtime.handle().spawn(accept(listener, shared.clone(), builder.build()));
        Ok(Self { addr, bucket: options.bucket, shared, runtime: Some(runtime) })
    }

    /// `http://127.0.0.1:PORT`
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// `s3://BUCKET/PREFIX`
    pub fn url(&self, prefix: &str) -> String {
        format!("s3://{}/{prefix}", self.bucket)
    }

    /// The variables with which a child process reaches the server.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
            ("AWS_REGION", REGION.to_owned()),
        ]
    }

    /// A client of the bucket, without retries, to be configured further.
    pub fn builder(&self) -> AmazonS3Builder {
        AmazonS3Builder::new()
            .with_endpoint(self.endpoint())
            .with_client_options(ClientOptions::new().with_allow_http(true))
            .with_bucket_name(&self.bucket)
            .with_region(REGION)
            .with_access_key_id(ACCESS_KEY)
            .with_secret_access_key(SECRET_KEY)
            .with_retry(RetryConfig { max_retries: 0, ..Default::default() })
    }

    /// A client of the bucket, without retries.
    ///
    /// # Errors
    /// Where object_store refuses the configuration.
    pub fn client(&self) -> object_store::Result<AmazonS3> {
        self.builder().build()
    }

    /// What it stores.
    pub fn world(&self) -> &World {
        &self.shared.world
    }

    /// The requests answered since the start or the last reset, in the order of their answers.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests().clone()
    }

    /// Empties the log of requests; the objects stay.
    pub fn reset(&self) {
        self.shared.requests().clear();
    }

    /// Changes what is added to each request from now on.
    pub fn set_latency(&self, latency: Duration) {
        self.shared.latency_us.store(micros(latency), Ordering::Relaxed);
    }

    /// Makes it a worse store from now on; it has one weakness at a time.
    pub fn weaken(&self, weakness: Weakness) {
        self.shared.weaken(Some(weakness));
    }

    /// Takes the weakness away.
    pub fn mend(&self) {
        self.shared.weaken(None);
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        // Waiting for the threads is not allowed where the owner is itself async.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Shared {
    fn weakness(&self) -> Option<Weakness> {
        *self.weakness.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn weaken(&self, weakness: Option<Weakness>) {
        *self.weakness.lock().unwrap_or_else(PoisonError::into_inner) = weakness;
    }

    fn requests(&self) -> MutexGuard<'_, Vec<Request>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    fn record(&self, request: Request) {
        if let Some(log) = &self.log {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            // A full disk must not become a fault of the store under test.
            serde_json::to_writer(&mut *log, &request).ok();
            log.write_all(b"\n").ok();
        }
        self.requests().push(request);
    }

    /// The log as lines of JSON.
    fn lines(&self) -> String {
        self.requests().iter().filter_map(|r| serde_json::to_string(r).ok()).map(|line| line + "\n").collect()
    }
}

async fn accept(listener: tokio::net::TcpListener, shared: Arc<Shared>, s3: S3Service) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                stream.set_nodelay(true).ok();
                let (shared, s3) = (shared.clone(), s3.clone());
                let answer = hyper::service::service_fn(move |r| answer(shared.clone(), s3.clone(), r));
                let http = hyper::server::conn::http1::Builder::new();
                connections.spawn(http.serve_connection(TokioIo::new(stream), answer));
            }
            // Ended connections are let go; a broken one is its client's business.
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn answer(
    shared: Arc<Shared>,
    s3: S3Service,
    request: hyper::Request<Incoming>,
) -> Result<HttpResponse, HttpError> {
    if let Some(control) = request.uri().path().strip_prefix("/-/") {
        return Ok(control_answer(&shared, control));
    }
    let arrived = shared.started.elapsed();
    let latency = Duration::from_micros(shared.latency_us.load(Ordering::Relaxed));
    if !latency.is_zero() {
        service::pause(latency).await;
    }
    let text = |name| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (method, range) = (request.method().to_string(), text(RANGE));
    let key = key_of(&shared.bucket, request.uri().path());
    let query = request.uri().query().unwrap_or_default().to_owned();
    let sent = text(CONTENT_LENGTH).and_then(|length| length.parse().ok()).unwrap_or(0);
    let is_head = method == "HEAD";
    let response = s3.call(request.map(s3s::Body::from)).await?;
    let bytes = if is_head { 0 } else { response.body().size_hint().exact().unwrap_or(0) };
    let took = shared.started.elapsed().saturating_sub(arrived);
    let status = response.status().as_u16();
    let (at_us, took_us) = (micros(arrived), micros(took));
    shared.record(Request { method, key, query, range, status, bytes, sent, at_us, took_us });
    Ok(response)
}

fn control_answer(shared: &Shared, control: &str) -> HttpResponse {
    let (status, body) = match control.split_once('/') {
        None if control == "requests" => (200, shared.lines()),
        None if control == "reset" => {
            shared.requests().clear();
            (200, String::new())
        }
        None if control == "mend" => {
            shared.weaken(None);
            (200, String::new())
        }
        Some(("weaken", name)) => match Weakness::named(name) {
            Some(weakness) => {
                shared.weaken(Some(weakness));
                (200, String::new())
            }
            None => (400, format!("no such weakness: {name}\n")),
        },
        Some(("latency", ms)) => match ms.parse::<u64>() {
            Ok(ms) => {
                shared.latency_us.store(ms.saturating_mul(1000), Ordering::Relaxed);
                (200, String::new())
            }
            Err(e) => (400, format!("latency {ms:?}: {e}\n")),
        },
        _ => (404, format!("no such control: {control}\n")),
    };
    let mut response = HttpResponse::new(s3s::Body::from(Bytes::from(body)));
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or_default();
    response
}

/// The key of a path-style request, decoded.
fn key_of(bucket: &str, path: &str) -> String {
    let path = path.trim_start_matches('/');
    let key = path.strip_prefix(bucket).unwrap_or(path).trim_start_matches('/');
    Path::from_url_path(key).map_or_else(|_| key.to_owned(), |path| path.to_string())
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[expect(clippy::disallowed_methods, reason = "a server takes real time")]
fn instant() -> Instant {
    Instant::now()
}
