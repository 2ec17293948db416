//! Replies at the pace of their clients, but not for ever: a body of which nothing moves for as long as a request may
//! take is given up, and what it holds is given back, whether it is the server that does not get on or the client that
//! takes nothing. Long pieces are handed out in short ones, so that what a client has not taken stays accounted for
//! here instead of in the buffers of HTTP/2.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use esker_format::{Error, Kind};
use esker_store::Clock;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::admission::Admitted;
use super::refusal::Surface;

/// Bytes handed out at once.
const PIECE: usize = 64 << 10;
/// How soon the watch looks again at a body that is being polled.
const BUSY: Duration = Duration::from_millis(10);

/// What a reply is held to.
#[derive(Debug)]
pub struct Limits {
    /// Something moves within this; none = whenever it likes.
    pub idle: Option<Duration>,
    /// Ends the reply, for those that would go on for ever.
    pub stop: Option<CancellationToken>,
    /// How its end is told.
    pub surface: Surface,
    /// Whether it answers writes.
    pub writes: bool,
}

/// A body under watch.
pub struct Paced {
    shared: Arc<Mutex<Shared>>,
    clock: Arc<dyn Clock>,
    _watch: AbortOnDropHandle<()>,
}

struct Shared {
    /// None when it has ended or was given up.
    body: Option<Body>,
    admitted: Option<Admitted>,
    /// What is left of its last piece.
    rest: Bytes,
    /// When something was taken last.
    moved: Duration,
    /// Why it was given up, until that is told.
    given_up: Option<Error>,
    waker: Option<Waker>,
    surface: Surface,
}

impl Paced {
    /// Watches a body, which holds its admission until it ends.
    pub fn new(body: Body, admitted: Option<Admitted>, limits: Limits, clock: Arc<dyn Clock>) -> Self {
        let shared = Arc::new(Mutex::new(Shared {
            body: Some(body),
            admitted,
            rest: Bytes::new(),
            moved: clock.elapsed(),
            given_up: None,
            waker: None,
            surface: limits.surface,
        }));
        #[allow(clippy::disallowed_methods, reason = "aborted with the body that it watches")]
        let watch = tokio::spawn(watch(shared.clone(), limits, clock.clone()));
        Paced { shared, clock, _watch: AbortOnDropHandle::new(watch) }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives the body up when nothing moves, or the server stops.
async fn watch(shared: Arc<Mutex<Shared>>, limits: Limits, clock: Arc<dyn Clock>) {
    let Limits { idle, stop, writes, .. } = limits;
    let stopped = async {
        match stop {
            Some(stop) => stop.cancelled().await,
            None => std::future::pending().await,
        }
    };
    let stalled = async {
        let Some(idle) = idle else { return std::future::pending().await };
        loop {
            // Whoever polls it now makes it move, or not: soon it is known.
            let left = match shared.try_lock() {
                Ok(shared) => (shared.moved + idle).saturating_sub(clock.elapsed()),
                Err(_) => BUSY,
            };
            if left.is_zero() {
                return idle;
            }
            clock.sleep(left).await;
        }
    };
    let why = tokio::select! {
        idle = stalled => late(idle, writes),
        () = stopped => Error::new(Kind::Unavailable, "the server is stopping"),
    };
    let (body, waker) = {
        let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.admitted = None;
        shared.rest = Bytes::new();
        shared.given_up = Some(why);
        (shared.body.take(), shared.waker.take())
    };
    drop(body);
    if let Some(waker) = waker {
        waker.wake();
    }
}

fn late(idle: Duration, writes: bool) -> Error {
    let ms = idle.as_millis();
    match writes {
        false => Error::new(Kind::Unavailable, format!("nothing moved for {ms} ms"))
            .with_hint("read on where this ended, or allow more time"),
        true => Error::new(Kind::Unknown, format!("nothing moved for {ms} ms"))
            .with_hint("batches without a reply may be written or not: send them again"),
    }
}

impl Shared {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if !self.rest.is_empty() {
            return Poll::Ready(Some(Ok(self.piece())));
        }
        let Some(body) = &mut self.body else { return Poll::Ready(self.end()) };
        let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(body).poll_frame(cx)));
        let Ok(polled) = polled else {
            tracing::error!("the body of a reply panicked");
            metrics::counter!("esker_panics_total").increment(1);
            self.body = None;
            self.given_up = Some(Error::internal("the server failed at this reply; its log says why"));
            return Poll::Ready(self.end());
        };
        match polled {
            Poll::Pending => {
                self.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(match frame.into_data() {
                Ok(data) => {
                    self.rest = data;
                    self.piece()
                }
                Err(frame) => frame,
            }))),
            Poll::Ready(ended) => {
                self.body = None;
                Poll::Ready(ended)
            }
        }
    }

    fn piece(&mut self) -> Frame<Bytes> {
        Frame::data(self.rest.split_to(PIECE.min(self.rest.len())))
    }

    /// How a body that was given up ends: gRPC has a status after it, HTTP breaks it off.
    fn end(&mut self) -> Option<Result<Frame<Bytes>, axum::Error>> {
        let why = self.given_up.take()?;
        if self.surface == Surface::Rest {
            return Some(Err(axum::Error::new(why)));
        }
        let mut trailers = http::HeaderMap::new();
        match esker_proto::grpc::status(&why).add_header(&mut trailers) {
            Ok(()) => Some(Ok(Frame::trailers(trailers))),
            Err(status) => Some(Err(axum::Error::new(status))),
        }
    }

    fn has_ended(&self) -> bool {
        let body = self.body.as_ref().is_none_or(HttpBody::is_end_stream);
        body && self.rest.is_empty() && self.given_up.is_none()
    }
}

impl HttpBody for Paced {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut shared = self.lock();
        let polled = shared.poll(cx);
        if polled.is_ready() {
            shared.moved = self.clock.elapsed();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.lock().has_ended()
    }

    fn size_hint(&self) -> SizeHint {
        let shared = self.lock();
        let rest = shared.rest.len() as u64;
        match shared.body.as_ref().map(HttpBody::size_hint) {
            Some(hint) => match hint.exact() {
                Some(n) => SizeHint::with_exact(n + rest),
                None => SizeHint::default(),
            },
            None if shared.given_up.is_none() => SizeHint::with_exact(rest),
            None => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests;
