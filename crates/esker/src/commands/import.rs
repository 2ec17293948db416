//! `esker import`.

use std::path::Path;
use std::sync::Arc;

use esker_compactor::Compactor;
use esker_format::{Error, Kind, Name, Result};
use esker_ingest::import::{Inference, Inspected, Overrides, Plan, Progress, Report, collection_name, inspect, run as stream};
use esker_ingest::{CollectionSink, Compact};
use esker_store::{Collection, Meter, Store};
use serde_json::json;

use super::compact::{compactor, fold};
use crate::args::Import;
use crate::output::{Output, count, cost_line, io_json};
use crate::progress::bar;
use crate::settings::{name, open_store};

pub async fn run(args: Import, url: &str, output: &Output) -> Result<()> {
    let into = match &args.into {
        Some(text) => name(text)?,
        None => collection_name(&args.file)?,
    };
    let overrides = Overrides {
        id_column: args.id_column.clone(),
        vector_column: args.vector_column.clone(),
        skip_columns: args.skip_columns.clone(),
        metric: args.metric,
        vector_type: args.vector_type,
        existing: None,
    };
    let store = Arc::new(open_store(url, true)?);
    let meter = Meter::new();
    let done = import(&store, &meter, &args.file, &into, overrides, output).await?;
    if args.compact {
        fold(&store, &meter, &into, output).await?;
    }
    let Imported { inspected, created, report, seconds } = &done;
    let value = json!({
        "collection": into, "created": created, "file": inspected, "rows": report.rows, "skipped": report.skipped,
        "batches": report.batches, "bytes": report.bytes, "position": report.position, "io": io_json(&meter.io()),
        "took_ms": seconds * 1000.0,
    });
    output.result(&value, || done.text(&into));
    output.dim(cost_line(&meter.io(), seconds * 1000.0));
    Ok(())
}

/// An import that is done.
pub struct Imported {
    pub inspected: Inspected,
    /// The collection was made for it.
    pub created: bool,
    pub report: Report,
    pub seconds: f64,
}

impl Imported {
    /// `imported 440 rows into notes (13,000 rows/s)`.
    pub fn text(&self, into: &Name) -> String {
        let Report { rows, skipped, batches, .. } = self.report;
        let new = rows - skipped;
        let rate = (new as f64 / self.seconds.max(1e-3)) as u64;
        let mut line = format!("imported {} rows into {into}", count(new));
        if skipped > 0 {
            line.push_str(&format!(", {} were there from an earlier run", count(skipped)));
        }
        line.push_str(&format!(" ({} batches, {:.1} s, {} rows/s)", count(batches), self.seconds, count(rate)));
        line
    }
}

/// Streams a file into a collection, which is created if need be.
pub async fn import(
    store: &Arc<Store>,
    meter: &Meter,
    file: &Path,
    into: &Name,
    overrides: Overrides,
    output: &Output,
) -> Result<Imported> {
    let clock = store.client().seams().clock.clone();
    let start = clock.elapsed();
    let existing = match store.collection(meter, into).await {
        Ok(collection) => Some(collection),
        Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Gone) => None,
        Err(e) => return Err(e),
    };
    let overrides = match &existing {
        Some(c) => Overrides { existing: Some(c.manifest(meter).await?.settings.clone()), ..overrides },
        None => overrides,
    };
    let path = file.to_owned();
    let inspected = tokio::task::spawn_blocking(move || inspect(&path, &overrides))
        .await
        .map_err(|e| Error::invalid("file", "the file is damaged: its decoder panicked").with_source(e))??;
    explain(&inspected.inference, output);
    let created = existing.is_none();
    let collection = match existing {
        Some(collection) => collection,
        None => create(store, meter, into, &inspected.inference).await?,
    };
    let settings = collection.manifest(meter).await?.settings.clone();
    let plan = Plan::new(file, inspected.clone(), collection.id().clone(), settings)?;
    let bar = bar(output, "importing", inspected.rows);
    let show = |p: Progress| bar.set_position(p.rows);
    let sink = CollectionSink::new(collection.clone(), meter.clone(), Some(inline(store, &collection)));
    let report = stream(plan, &sink, clock.as_ref(), &show).await;
    bar.finish_and_clear();
    let seconds = (clock.elapsed() - start).as_secs_f64();
    Ok(Imported { inspected, created, report: report?, seconds })
}

async fn create(store: &Store, meter: &Meter, into: &Name, found: &Inference) -> Result<Arc<Collection>> {
    match store.create(meter, into, found.settings(), found.schema()).await {
        // A rival import was first.
        Err(e) if e.kind() == Kind::Conflict => store.collection(meter, into).await,
        made => made,
    }
}

/// Makes room in the log while the import runs.
fn inline(store: &Arc<Store>, collection: &Arc<Collection>) -> Compact {
    let (compactor, collection) = (Arc::new(compactor(store)), collection.clone());
    Box::new(move || {
        let (compactor, collection): (Arc<Compactor>, _) = (compactor.clone(), collection.clone());
        Box::pin(async move { compactor.compact(&Meter::new(), &collection, &|_| {}).await.map(drop) })
    })
}

/// What was inferred and why.
fn explain(found: &Inference, output: &Output) {
    for note in &found.notes {
        output.say(note);
    }
}
