//! A port: accepts connections up to a limit, speaks HTTP/1.1 and HTTP/2 with or without TLS, and stops without
//! breaking off what is under way.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use esker_store::Clock;
use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::measure;
use super::refusal::Surface;
use super::tls::Tls;

/// A connection without a complete head, or TLS handshake, after this is closed.
const HEAD: Duration = Duration::from_secs(10);
/// A client that takes nothing for this long is dropped.
const WRITE_STALL: Duration = Duration::from_secs(30);
/// Requests under way get this long to finish when the server stops.
pub const GRACE: Duration = Duration::from_secs(30);
/// Streams of one HTTP/2 connection.
const STREAMS: u32 = 256;
/// Bytes of the head of a request.
const HEAD_BYTES: usize = 64 << 10;

/// The answer above the limit of connections.
const FULL: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\nconnection: close\r\n\
content-type: application/json\r\ncontent-length: 88\r\n\r\n\
{\"error\":{\"kind\":\"busy\",\"message\":\"the server is at its limit of connections at once\"}}\n";

/// What the ports share.
pub struct Ports {
    /// Connections left.
    pub connections: Arc<Semaphore>,
    /// TLS, if it is spoken.
    pub tls: Option<Arc<Tls>>,
    /// Fires when the server stops.
    pub stop: CancellationToken,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

/// Serves a port until the server stops, then finishes what is under way.
pub async fn serve(ports: Arc<Ports>, listener: TcpListener, surface: Surface, router: Router) {
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = ports.stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => match ports.connections.clone().try_acquire_owned() {
                    Ok(permit) => {
                        let connection = Connection {
                            ports: ports.clone(), surface, router: router.clone(), _permit: permit,
                        };
                        connections.spawn(connection.run(stream, graceful.watcher()));
                    }
                    Err(_) => refuse(&stream, surface, &ports),
                },
                // Out of file descriptors, mostly: those who are served must get on.
                Err(e) => {
                    tracing::warn!(error = %e, "a connection could not be accepted");
                    ports.clock.sleep(Duration::from_millis(50)).await;
                }
            },
        }
    }
    drop(listener);
    tokio::select! {
        () = graceful.shutdown() => {}
        () = ports.clock.sleep(GRACE) => {
            tracing::warn!(port = measure::port(surface), "requests are still under way and are broken off");
        }
    }
    connections.shutdown().await;
}

fn refuse(stream: &TcpStream, surface: Surface, ports: &Ports) {
    metrics::counter!("esker_rejected_total", "limit" => "connections").increment(1);
    if surface == Surface::Rest && ports.tls.is_none() {
        // Fits any socket's buffer; a client that does not get it sees the connection closed.
        let _ = stream.try_write(FULL);
    }
}

struct Connection {
    ports: Arc<Ports>,
    surface: Surface,
    router: Router,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    async fn run(self, stream: TcpStream, watcher: Watcher) {
        let open = metrics::gauge!("esker_connections", "port" => measure::port(self.surface));
        open.increment(1.0);
        let _ = stream.set_nodelay(true);
        let stream = Patient::new(stream);
        match &self.ports.tls {
            None => self.http(stream, watcher).await,
            Some(tls) => {
                let handshake = tls.acceptor().accept(stream);
                tokio::select! {
                    biased;
                    () = self.ports.stop.cancelled() => {}
                    stream = handshake => match stream {
                        Ok(stream) => self.http(stream, watcher).await,
                        Err(e) => tracing::debug!(error = %e, "a TLS handshake failed"),
                    },
                    () = self.ports.clock.sleep(HEAD) => tracing::debug!("a TLS handshake took too long"),
                }
            }
        }
        open.decrement(1.0);
    }

    async fn http<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(&self, stream: S, watcher: Watcher) {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEAD_BYTES);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(HEAD_BYTES as u32)
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20));
        let begun = Arc::new(AtomicBool::new(false));
        let (router, first) = (self.router.clone(), begun.clone());
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            first.store(true, Ordering::Relaxed);
            router.clone().call(request.map(Body::new))
        });
        let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
        tokio::select! {
            done = watcher.watch(connection) => {
                if let Err(e) = done {
                    tracing::debug!(error = %e, "a connection broke");
                }
            }
            () = self.no_request(&begun) => tracing::debug!("a connection without a request was closed"),
        }
    }

    /// Ends when the first request has not begun in time: hyper does not watch the bytes that tell HTTP/2 from 1.1.
    async fn no_request(&self, begun: &AtomicBool) {
        self.ports.clock.sleep(HEAD).await;
        if begun.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }
}

/// A socket that fails when the other side takes nothing for too long.
struct Patient {
    stream: TcpStream,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn new(stream: TcpStream) -> Self {
        Patient { stream, stalled: None }
    }

    #[allow(clippy::disallowed_methods, reason = "a timer that is polled beside the socket")]
    fn watch<T>(&mut self, cx: &mut Context<'_>, wrote: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if wrote.is_ready() {
            self.stalled = None;
            return wrote;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(WRITE_STALL)));
        match stalled.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, to)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, from);
        self.watch(cx, wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, from);
        self.watch(cx, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.watch(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
