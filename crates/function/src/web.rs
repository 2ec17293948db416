//! Requests by HTTP: API gateways (payloads 1.0 and 2.0) and functions' URLs, JSON and gRPC-Web alike.
//!
//! What `esker serve` does for a request in its guard is done here where a function needs it: a name, a deadline, an answer
//! in our form whatever happens, one line of the log. Keys and limits are the gateway's.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use esker_format::{Error, Kind, Name, Token};
use esker_proto::access::{Named, Until};
use esker_proto::refusal::{Refusal, Surface};
use esker_proto::rest::{Refused, idempotency_key};
use esker_store::{Io, Seams};
use futures::FutureExt;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use lambda_http::request::{LambdaRequest, RequestContext};
use lambda_http::{Adapter, LambdaEvent, RequestExt, service_fn};
use lambda_runtime::Service;
use serde_json::value::RawValue;
use tonic::service::Routes;
use tower::ServiceExt;

use crate::event::without_values;
use crate::run::{Call, Reply, json};

/// Names a request, in and out.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Milliseconds that a client allows.
const TIMEOUT: HeaderName = HeaderName::from_static("x-esker-timeout-ms");
/// The kind of an error of gRPC.
const KIND: HeaderName = HeaderName::from_static("esker-kind");
/// A function's reply may have 6 MiB as JSON. Base64 makes four bytes of three, and JSON escapes quotes.
const REPLY_BYTES: usize = (6 << 20) - (64 << 10);

/// The routes of a function.
#[derive(Clone)]
pub struct Web {
    rest: Router,
    grpc: Router,
    seams: Seams,
}

/// What the log says of a request.
#[derive(Debug, Clone)]
struct Route(String);

impl Web {
    /// Serves the routes of a crate, and its gRPC services as gRPC-Web.
    pub fn new(seams: &Seams, rest: Router, grpc: Routes) -> Self {
        let healthz = || async { Json(serde_json::json!({"status": "ok"})) };
        let no_route = || async { Refusal::no_route().into_response(Surface::Rest) };
        let rest = rest
            .route("/healthz", get(healthz))
            .fallback(no_route)
            .method_not_allowed_fallback(no_method)
            .layer(from_fn_with_state(Arc::new((seams.clone(), Surface::Rest)), guard));
        let grpc = grpc
            .into_axum_router()
            .layer(from_fn_with_state(Arc::new((seams.clone(), Surface::Grpc)), guard))
            .layer(tonic_web::GrpcWebLayer::new());
        Web { rest, grpc, seams: seams.clone() }
    }

    /// Answers an event of a gateway, in the gateway's form.
    ///
    /// # Errors
    /// None that a request can cause: those are replies.
    pub async fn event(&self, raw: &RawValue, call: &Call) -> Reply {
        let malformed = |what: String| {
            tracing::warn!(what, "an event of a gateway cannot be read");
            let e = Error::invalid("event", "the gateway's event cannot be read");
            // Every gateway's payload has these three.
            let body =
                serde_json::json!({"error": {"kind": "invalid", "message": e.to_string()}}).to_string();
            let headers = serde_json::json!({"content-type": "application/json"});
            json(&serde_json::json!({"statusCode": 400, "headers": headers, "body": body}))
        };
        let request: LambdaRequest = match serde_json::from_str(raw.get()) {
            Ok(request) => request,
            Err(e) => return malformed(without_values(&e)),
        };
        let mut adapter = Adapter::from(service_fn(|request: lambda_http::Request| async move {
            Ok::<_, std::convert::Infallible>(self.lambda(request, call).await)
        }));
        // Turning the event into a request panics on what is no base64, or no URL.
        let answered = async { adapter.call(LambdaEvent::new(request, call.context.clone())).await };
        match AssertUnwindSafe(answered).catch_unwind().await {
            Ok(Ok(reply)) => json(&reply),
            Ok(Err(never)) => match never {},
            Err(_) => malformed("it is no request".to_owned()),
        }
    }

    async fn lambda(&self, request: lambda_http::Request, call: &Call) -> http::Response<Full<Bytes>> {
        // What is no path leads nowhere.
        let uri = plain_uri(&request).unwrap_or_default();
        let (mut parts, body) = request.into_parts();
        parts.uri = uri;
        let bytes = match body {
            lambda_http::Body::Text(text) => Bytes::from(text),
            lambda_http::Body::Binary(bytes) => Bytes::from(bytes),
            _ => Bytes::new(),
        };
        self.whole(Request::from_parts(parts, Body::from(bytes)), call).await.map(Full::new)
    }

    /// Answers a request before the call's deadline, the whole of its body included.
    pub async fn answer(&self, request: Request, call: &Call) -> Response {
        self.whole(request, call).await.map(Body::from)
    }

    async fn whole(&self, mut request: Request, call: &Call) -> http::Response<Bytes> {
        let clock = &self.seams.clock;
        let start = clock.elapsed();
        let grpc = is_grpc(request.headers());
        let (method, collection) = (request.method().clone(), collection(request.uri()));
        let until = match asked(request.headers()) {
            Ok(asked) => asked.map_or(call.until, |asked| call.until.min(start + asked)),
            Err(refusal) => return gathered(refusal.into_response(Surface::Rest)).await,
        };
        request.extensions_mut().insert(Until(until));
        let router = if grpc { self.grpc.clone() } else { self.rest.clone() };
        let reply = router.oneshot(request).await.unwrap_or_else(|never| match never {});
        let mut reply = self.collected(reply, until).await;
        let id = reply.headers().get(&REQUEST_ID).cloned();
        let id = id.or_else(|| HeaderValue::from_str(&call.context.request_id).ok());
        if let Some(id) = id {
            reply.headers_mut().insert(REQUEST_ID, id);
        }
        let io = reply.extensions().get::<Io>().copied();
        tracing::info!(
            target: "esker::request",
            id = call.context.request_id,
            method = method.as_str(),
            route = reply.extensions().get::<Route>().map_or("none", |route| &route.0),
            status = reply.status().as_u16(),
            kind = kind(&reply),
            ms = ((clock.elapsed() - start).as_micros() as f64) / 1000.0,
            collection,
            waves = io.map(|io| io.waves),
            gets = io.map(|io| io.gets),
            lists = io.map(|io| io.lists),
            puts = io.map(|io| io.puts),
            bytes_read = io.map(|io| io.bytes_read),
            bytes_written = io.map(|io| io.bytes_written),
            cache_hit_bytes = io.map(|io| io.cache_hit_bytes),
            "request"
        );
        reply
    }

    /// A gateway takes replies whole.
    async fn collected(&self, reply: Response, until: Duration) -> http::Response<Bytes> {
        let left = until.saturating_sub(self.seams.clock.elapsed());
        let (parts, body) = reply.into_parts();
        let late = self.seams.clock.sleep(left);
        let whole = tokio::select! {
            biased;
            whole = AssertUnwindSafe(body.collect()).catch_unwind() => whole,
            () = late => return gathered(Refusal::read_late(left.as_millis()).into_response(Surface::Rest)).await,
        };
        let refused = match whole {
            Ok(Ok(whole)) => {
                let bytes = whole.to_bytes();
                if bytes.len() <= most(&parts.headers) {
                    return http::Response::from_parts(parts, bytes);
                }
                let message = format!("the reply has {} bytes, more than a function may send", bytes.len());
                let e = Error::invalid("limit", message)
                    .with_hint("ask for fewer rows or columns, leave out vectors, or take Arrow");
                Refused(StatusCode::BAD_REQUEST, e).into_response()
            }
            // A query that failed after its first rows.
            Ok(Err(e)) => match own(e) {
                Some(e) => Refused::from(e).into_response(),
                None => Refusal::internal().into_response(Surface::Rest),
            },
            Err(_) => {
                tracing::error!("the body of a reply panicked");
                Refusal::internal().into_response(Surface::Rest)
            }
        };
        gathered(refused).await
    }
}

/// Our error that broke a body off, however often it was wrapped on its way.
fn own(e: axum::Error) -> Option<Error> {
    match e.into_inner().downcast::<Error>() {
        Ok(e) => Some(*e),
        Err(other) => match other.downcast::<axum::Error>() {
            Ok(e) => own(*e),
            Err(e) => {
                tracing::error!(error = %e, "a reply broke off");
                None
            }
        },
    }
}

/// A short reply of our own.
async fn gathered(reply: Response) -> http::Response<Bytes> {
    let (parts, body) = reply.into_parts();
    http::Response::from_parts(parts, axum::body::to_bytes(body, REPLY_BYTES).await.unwrap_or_default())
}

type Shell = Arc<(Seams, Surface)>;

/// Answers in time and in our form, and says which route it was. What does not fit the time is dropped, wherever it is:
/// the function may be frozen the moment it has answered.
async fn guard(State(shell): State<Shell>, mut request: Request, next: Next) -> Response {
    let (seams, surface) = (&shell.0, shell.1);
    let route = match surface {
        Surface::Rest => request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned()),
        Surface::Grpc => Some(request.uri().path().to_owned()),
    };
    let writes = match surface {
        Surface::Rest => is_write(request.method(), route.as_deref().unwrap_or_default()),
        Surface::Grpc => route.as_deref().is_some_and(|rpc| rpc.starts_with("/esker.v1.Ingest/")),
    };
    let named = writes.then(|| Named::new(seams.batch_token()));
    // An upload has a name already.
    let upload = route.as_deref().is_some_and(commits).then(|| committed(request.uri().path())).flatten();
    let named = named.or(upload.map(Named::new));
    if let Some(named) = &named {
        if let Ok(Some(key)) = idempotency_key(request.headers()) {
            named.give(Token::from_key(key));
        }
        request.extensions_mut().insert(named.clone());
    }
    let writes = named.is_some() || route.as_deref().is_some_and(|route| manages(request.method(), route));
    let until = request.extensions().get::<Until>().map_or(Duration::ZERO, |until| until.0);
    let left = until.saturating_sub(seams.clock.elapsed());
    // Unconstrained: a request that used up its task's turn would otherwise never let the timer be looked at.
    let late = tokio::task::unconstrained(seams.clock.sleep(left));
    let mut reply = tokio::select! {
        biased;
        done = AssertUnwindSafe(next.run(request)).catch_unwind() => done.unwrap_or_else(|panic| {
            tracing::error!(panic = panic_message(&*panic), "a request panicked");
            Refusal::internal().into_response(surface)
        }),
        () = late => match writes {
            true => Refusal::write_late(left.as_millis(), named.map(|named| named.token())),
            false => Refusal::read_late(left.as_millis()),
        }
        .into_response(surface),
    };
    if let Some(route) = route {
        reply.extensions_mut().insert(Route(route));
    }
    reply
}

async fn no_method() -> Response {
    let e = Error::invalid("method", "this route does not have this method");
    Refused(StatusCode::METHOD_NOT_ALLOWED, e).into_response()
}

/// Whether a route writes the records of an upload.
fn commits(route: &str) -> bool {
    route.ends_with("/uploads/{token}/commit")
}

/// The upload that a path commits.
fn committed(path: &str) -> Option<Token> {
    path.strip_suffix("/commit")?.rsplit('/').next()?.parse().ok()
}

/// Whether a route changes collections, or puts what one is to be changed by.
fn manages(method: &Method, route: &str) -> bool {
    match *method {
        Method::POST => route == "/v1/collections",
        Method::DELETE => route == "/v1/collections/{collection}",
        Method::PUT => true,
        _ => false,
    }
}

/// Whether a route changes records.
fn is_write(method: &Method, route: &str) -> bool {
    route.ends_with("/records") && matches!(*method, Method::POST | Method::PATCH | Method::DELETE)
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("application/grpc"))
}

/// How long a client allows, if it says so.
fn asked(headers: &HeaderMap) -> Result<Option<Duration>, Refusal> {
    let Some(value) = headers.get(&TIMEOUT) else { return Ok(None) };
    match value.to_str().unwrap_or_default().parse() {
        Ok(ms) if ms > 0 => Ok(Some(Duration::from_millis(ms))),
        _ => Err(Refusal::header("x-esker-timeout-ms", "it is a number of milliseconds, from 1")),
    }
}

/// What kind of error a reply is, if it is one: in gRPC a header says so.
fn kind<B>(reply: &http::Response<B>) -> Option<String> {
    let header = || reply.headers().get(&KIND)?.to_str().ok().map(str::to_owned);
    reply.extensions().get::<Kind>().map(ToString::to_string).or_else(header)
}

/// The collection that a path names.
fn collection(uri: &Uri) -> Option<String> {
    let name = uri.path().strip_prefix("/v1/collections/")?.split('/').next()?;
    Name::new(name).is_ok().then(|| name.to_owned())
}

/// Most bytes of a reply's body.
fn most(headers: &HeaderMap) -> usize {
    let kind = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    match kind.starts_with("application/json") || kind.starts_with("text/") {
        true => REPLY_BYTES,
        false => REPLY_BYTES / 4 * 3,
    }
}

/// Path and query as the client sent them: without the stage of the gateway, and with what gateways unescape escaped again.
fn plain_uri(request: &lambda_http::Request) -> Option<Uri> {
    let stage = match request.request_context_ref() {
        Some(RequestContext::ApiGatewayV1(context)) => context.stage.as_deref(),
        Some(RequestContext::ApiGatewayV2(context)) => context.stage.as_deref(),
        _ => None,
    };
    let raw = request.raw_http_path();
    let path = match stage.filter(|stage| *stage != "$default") {
        Some(stage) => raw
            .strip_prefix('/')
            .and_then(|rest| rest.strip_prefix(stage))
            .filter(|rest| rest.starts_with('/'))
            .unwrap_or(raw),
        None => raw,
    };
    let mut text = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'?'
            | b'#'
            | b'"'
            | b'<'
            | b'>'
            | b'`'
            | b'{'
            | b'}'
            | b'\\'
            | b'^'
            | b'|'
            | 0..=0x20
            | 0x7F.. => {
                text += &format!("%{byte:02X}");
            }
            _ => text.push(char::from(byte)),
        }
    }
    if let Some(query) = request.uri().query() {
        text = format!("{text}?{query}");
    }
    text.parse().ok()
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests;
