//! `esker get`.

use esker_format::record::Record;
use esker_format::{Error, Kind, Result};
use esker_store::Meter;
use serde_json::json;

use super::{engine, known};
use crate::args::Get;
use crate::output::{Output, cost_line, io_json, time};
use crate::rows::cell;
use crate::settings::{name, open_store};

pub async fn run(args: Get, url: &str, output: &Output) -> Result<()> {
    let collection = name(&args.collection)?;
    let (store, meter) = (open_store(url, false)?, Meter::new());
    let clock = store.client().seams().clock.clone();
    let start = clock.elapsed();
    let found = engine(&store).collection(&collection).get(&meter, &args.ids, args.vector).await;
    let (found, position) = known(&store, &collection, found).await?;
    let ms = (clock.elapsed() - start).as_secs_f64() * 1000.0;
    let missing: Vec<&str> =
        args.ids.iter().zip(&found).filter(|(_, r)| r.is_none()).map(|(id, _)| id.as_str()).collect();
    let records: Vec<&Record> = found.iter().flatten().collect();
    let value = json!({
        "records": records, "missing": missing, "position": position, "io": io_json(&meter.io()), "took_ms": ms,
    });
    if output.is_json() || !records.is_empty() {
        output.result(&value, || records.iter().map(|r| text(r)).collect::<Vec<_>>().join("\n\n"));
    }
    output.dim(cost_line(&meter.io(), ms));
    match missing.as_slice() {
        [] => Ok(()),
        missing => {
            Err(Error::new(Kind::NotFound, format!("`{collection}` has no row {}", missing.join(", "))))
        }
    }
}

fn text(record: &Record) -> String {
    let mut lines = vec![record.id.clone()];
    let mut line = |name: &str, value: String| lines.push(format!("  {name:12} {value}"));
    for (key, value) in &record.metadata {
        line(key, cell(value));
    }
    line("_timestamp", time(record.timestamp));
    line("_created_at", time(record.created_at));
    line("_updated_at", time(record.updated_at));
    if let Some(at) = record.expires_at {
        line("_expires_at", time(at));
    }
    line("_version", record.version.to_string());
    if !record.vector.is_empty() {
        line("vector", serde_json::to_string(&record.vector).unwrap_or_default());
    }
    lines.join("\n")
}
