//! Metrics: their names, declared once, and the one recorder of the process.

use std::sync::OnceLock;
use std::time::Duration;

use esker_store::Io;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use super::refusal::Surface;

/// Kind of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size.
    Histogram,
}

/// Every metric: name, kind, labels, meaning. `docs/operations/metrics.md` has the same table.
pub const METRICS: &[(&str, Sort, &str, &str)] = {
    use Sort::{Counter, Gauge, Histogram};
    &[
        ("esker_build_info", Gauge, "version", "1, with the version of the program"),
        (
            "esker_requests_total",
            Counter,
            "port, method, route, status",
            "requests answered; status is HTTP's or gRPC's",
        ),
        (
            "esker_request_seconds",
            Histogram,
            "port, route",
            "from the head of a request to the end of its reply",
        ),
        ("esker_request_waves", Histogram, "", "dependent rounds of store requests of one request"),
        ("esker_rejected_total", Counter, "limit", "refused at a limit: requests, bodies or connections"),
        ("esker_panics_total", Counter, "", "requests that ended in a bug"),
        ("esker_connections", Gauge, "port", "connections open"),
        ("esker_store_requests_total", Counter, "method, by", "requests to the store, retries included"),
        ("esker_store_bytes_total", Counter, "direction, by", "bytes read from and written to the store"),
        ("esker_cache_hit_bytes_total", Counter, "by", "bytes that the cache had"),
        (
            "esker_tail_entries",
            Gauge,
            "collection",
            "entries of the log that are not in segments, as last seen",
        ),
        ("esker_tail_bytes", Gauge, "collection", "their bytes"),
        (
            "esker_time_to_indexed_seconds",
            Histogram,
            "",
            "from the arrival of a batch to the commit of its segment",
        ),
        (
            "esker_compaction_rounds_total",
            Counter,
            "outcome",
            "compactions: committed, nothing, overtaken or failed",
        ),
        ("esker_compaction_rows_total", Counter, "", "rows of the log that went into segments"),
        ("esker_compaction_bytes_total", Counter, "", "bytes of new objects"),
        ("esker_compaction_seconds", Histogram, "", "time of a compaction"),
        ("esker_gc_runs_total", Counter, "outcome", "collections of garbage: done or failed"),
        ("esker_gc_objects_total", Counter, "", "objects deleted"),
        ("esker_gc_bytes_total", Counter, "", "bytes deleted"),
        ("esker_resident_bytes", Gauge, "", "memory of the process"),
    ]
};

const SECONDS: [f64; 16] =
    [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0];
const LONG: [f64; 12] = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0, 86400.0];
const WAVES: [f64; 8] = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 8.0, 16.0];

static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// Starts recording, once in a process. Without it the macros of `metrics` do nothing.
pub fn start() {
    HANDLE.get_or_init(|| {
        let buckets = |name: &str| match name {
            "esker_request_waves" => &WAVES[..],
            "esker_time_to_indexed_seconds" | "esker_compaction_seconds" => &LONG,
            _ => &SECONDS,
        };
        let mut builder = PrometheusBuilder::new();
        for (name, sort, ..) in METRICS {
            if *sort == Sort::Histogram {
                builder =
                    builder.set_buckets_for_metric(Matcher::Full((*name).to_owned()), buckets(name)).ok()?;
            }
        }
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder).ok()?;
        for (name, sort, _, help) in METRICS {
            match sort {
                Sort::Counter => metrics::describe_counter!(*name, *help),
                Sort::Gauge => metrics::describe_gauge!(*name, *help),
                Sort::Histogram => metrics::describe_histogram!(*name, *help),
            }
        }
        metrics::gauge!("esker_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        Some(handle)
    });
}

/// All metrics as Prometheus reads them.
pub fn render() -> String {
    if let Some(bytes) = resident_bytes() {
        metrics::gauge!("esker_resident_bytes").set(bytes as f64);
    }
    HANDLE.get().and_then(Option::as_ref).map(PrometheusHandle::render).unwrap_or_default()
}

/// Keeps histograms from growing between scrapes.
pub fn upkeep() {
    if let Some(handle) = HANDLE.get().and_then(Option::as_ref) {
        handle.run_upkeep();
    }
}

/// A request was answered.
pub fn request(surface: Surface, method: &str, route: &str, status: &str, took: Duration) {
    let port = port(surface);
    let labels = [
        ("port", port.to_owned()),
        ("method", method.to_owned()),
        ("route", route.to_owned()),
        ("status", status.to_owned()),
    ];
    metrics::counter!("esker_requests_total", &labels).increment(1);
    let labels = [("port", port.to_owned()), ("route", route.to_owned())];
    metrics::histogram!("esker_request_seconds", &labels).record(took.as_secs_f64());
}

/// A port's name.
pub fn port(surface: Surface) -> &'static str {
    match surface {
        Surface::Rest => "http",
        Surface::Grpc => "grpc",
    }
}

/// What something cost: `by` is requests, compaction or gc.
pub fn io(io: &Io, by: &'static str) {
    let methods = [("get", io.gets), ("list", io.lists), ("put", io.puts), ("delete", io.deletes)];
    for (method, n) in methods.into_iter().filter(|(_, n)| *n > 0) {
        metrics::counter!("esker_store_requests_total", "method" => method, "by" => by).increment(n);
    }
    for (direction, n) in [("read", io.bytes_read), ("written", io.bytes_written)] {
        metrics::counter!("esker_store_bytes_total", "direction" => direction, "by" => by).increment(n);
    }
    metrics::counter!("esker_cache_hit_bytes_total", "by" => by).increment(io.cache_hit_bytes);
    if by == "requests" {
        metrics::histogram!("esker_request_waves").record(f64::from(io.waves));
    }
}

/// Memory of this process, where the system says.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kb| kb * 1024)
}

#[cfg(test)]
mod tests;
