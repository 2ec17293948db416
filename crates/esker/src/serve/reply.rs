//! The end of a request: one log line, the counters, and whatever it held.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use esker_store::{Clock, Io};
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::admission::Admitted;
use super::keys::Key;
use super::measure;
use super::pace::Limits;
use super::refusal::Surface;

/// What is known of a request, written down when its reply was sent or given up.
#[derive(Debug)]
pub struct Finish {
    /// Which port.
    pub surface: Surface,
    /// Sent back as `x-request-id`.
    pub id: String,
    /// GET, POST, …
    pub method: String,
    /// The route's pattern or the RPC; never what a client made up.
    pub route: String,
    /// The collection that the path names, if it is a name.
    pub collection: Option<String>,
    /// The key that it came with.
    pub key: Option<Arc<Key>>,
    /// HTTP status.
    pub status: u16,
    /// gRPC status, once the reply said so.
    pub grpc: Option<i32>,
    /// What it cost.
    pub io: Option<Io>,
    /// Bytes of the reply's body.
    pub sent: u64,
    /// Whether the body was sent to its end.
    pub complete: bool,
    /// When it came, by `clock`.
    pub start: Duration,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The admission; given back at the end.
    pub admitted: Option<Admitted>,
    /// What its body is held to.
    pub pace: Option<Limits>,
    /// The trace's span; closed at the end.
    pub span: tracing::Span,
}

impl Drop for Finish {
    fn drop(&mut self) {
        let took = self.clock.elapsed().saturating_sub(self.start);
        // A client that went away before its reply.
        let status = match (self.surface, self.status, self.grpc) {
            (_, 0, _) => "499".to_owned(),
            (Surface::Rest, status, _) => status.to_string(),
            (Surface::Grpc, _, Some(code)) => code.to_string(),
            (Surface::Grpc, ..) if self.complete => "0".to_owned(),
            (Surface::Grpc, ..) => "1".to_owned(),
        };
        measure::request(self.surface, &self.method, &self.route, &status, took);
        let io = self.io;
        if let Some(io) = &io {
            measure::io(io, "requests");
        }
        tracing::info!(
            target: "esker::request",
            id = self.id,
            method = self.method,
            route = self.route,
            status,
            ms = (took.as_micros() as f64) / 1000.0,
            collection = self.collection,
            key = self.key.as_ref().map(|key| key.name.as_str()),
            waves = io.map(|io| io.waves),
            gets = io.map(|io| io.gets),
            lists = io.map(|io| io.lists),
            puts = io.map(|io| io.puts),
            bytes_read = io.map(|io| io.bytes_read),
            bytes_written = io.map(|io| io.bytes_written),
            cache_hit_bytes = io.map(|io| io.cache_hit_bytes),
            sent = self.sent,
            complete = self.complete,
            "request"
        );
    }
}

/// A reply's body, watched to its end.
pub struct Watched {
    inner: Body,
    finish: Finish,
}

impl Watched {
    /// Watches a body.
    pub fn new(inner: Body, finish: Finish) -> Self {
        let mut watched = Watched { inner, finish };
        watched.finish.complete = watched.inner.is_end_stream();
        watched
    }
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(cx));
        match &frame {
            None => this.finish.complete = true,
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    this.finish.sent += data.len() as u64;
                }
                if let Some(trailers) = frame.trailers_ref() {
                    this.finish.grpc = grpc_status(trailers).or(this.finish.grpc);
                    this.finish.complete = true;
                }
                // hyper asks no more of a body that says that it ended.
                this.finish.complete |= this.inner.is_end_stream();
            }
            Some(Err(_)) => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The gRPC status in headers or trailers.
pub fn grpc_status(headers: &http::HeaderMap) -> Option<i32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}
