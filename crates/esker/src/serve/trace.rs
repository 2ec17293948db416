//! Logs, and traces for OpenTelemetry when a collector is named.
//!
//! Spans have a target of their own which the log never asks for, so that without a collector no span is made.

use std::future::Future;
use std::io::IsTerminal;

use axum::response::Response;
use esker_format::{Error, Result};
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::{Instrument, Span};
use tracing_subscriber::filter::{Directive, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use super::settings::LogFormat;

/// The target of spans.
const SPANS: &str = "esker_spans";

/// Traces on their way out; sends the last ones when dropped.
pub struct Traces(Option<SdkTracerProvider>);

impl Drop for Traces {
    fn drop(&mut self) {
        if let Some(provider) = &self.0
            && let Err(e) = provider.shutdown()
        {
            tracing::warn!(error = %e, "the last traces were not sent");
        }
    }
}

/// Starts log and traces. Call inside a tokio runtime.
///
/// # Errors
/// Invalid when the collector's address is none.
pub fn start(filter: EnvFilter, format: LogFormat, otlp: Option<&str>) -> Result<Traces> {
    let provider = otlp.map(provider).transpose()?;
    let spans = provider.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("esker"))
            .with_filter(Targets::new().with_target(SPANS, tracing::Level::INFO))
    });
    let off: Directive =
        format!("{SPANS}=off").parse().map_err(|_| Error::internal("a filter that is none"))?;
    let filter = filter.add_directive(off);
    let terminal = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(terminal);
    let lines = match format {
        LogFormat::Text => lines.with_target(false).with_filter(filter).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_filter(filter).boxed(),
    };
    tracing_subscriber::registry()
        .with(spans)
        .with(lines)
        .try_init()
        .map_err(|e| Error::internal("the log cannot be started").with_source(e))?;
    Ok(Traces(provider))
}

fn provider(endpoint: &str) -> Result<SdkTracerProvider> {
    let exporter =
        opentelemetry_otlp::SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .build()
            .map_err(|e| Error::invalid("--otlp-endpoint", format!("`{endpoint}`: {e}")).with_source(e))?;
    let resource = Resource::builder().with_service_name("esker").build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

/// The span of a request.
pub fn span(route: &str, id: &str, collection: Option<&str>) -> Span {
    tracing::info_span!(
        target: SPANS,
        "request",
        otel.name = route,
        otel.kind = "server",
        request.id = id,
        collection,
        position = tracing::field::Empty,
        http.response.status_code = tracing::field::Empty,
        waves = tracing::field::Empty,
        gets = tracing::field::Empty,
    )
}

/// Notes what the reply says.
pub fn record(span: &Span, reply: &Response) {
    if span.is_disabled() {
        return;
    }
    span.record("http.response.status_code", reply.status().as_u16());
    if let Some(esker_proto::rest::Position(position)) = reply.extensions().get() {
        span.record("position", position);
    }
    if let Some(io) = reply.extensions().get::<esker_store::Io>() {
        span.record("waves", io.waves).record("gets", io.gets);
    }
}

/// Runs inside the span, if there is one.
pub fn within<F: Future>(span: Span, future: F) -> impl Future<Output = F::Output> {
    future.instrument(span)
}
