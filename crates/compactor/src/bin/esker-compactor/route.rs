//! A compaction by request of HTTP.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use esker_compactor::work::Worker;
use esker_format::Name;
use esker_function::Failure;
use esker_store::Meter;

/// As `esker serve` does it. Given up at the deadline, which commits or leaves garbage.
pub async fn compact(
    State(worker): State<Arc<Worker>>,
    Path(name): Path<String>,
) -> Result<Json<serde_json::Value>, Failure> {
    let (name, meter) = (Name::new(name)?, Meter::new());
    let clock = &worker.store.client().seams().clock;
    let start = clock.elapsed();
    let collection = worker.store.collection(&meter, &name).await?;
    let report = worker.compactor.compact(&meter, &collection, &|_| {}).await?;
    Ok(Json(serde_json::json!({
        "committed": report.committed, "version": report.version, "folded_entries": report.folded_entries,
        "folded_rows": report.folded_rows, "tombstones": report.tombstones, "segments": report.segments_out,
        "live_rows": report.live_rows, "bytes_written": report.bytes_written,
        "took_ms": (clock.elapsed() - start).as_secs_f64() * 1000.0,
    })))
}
