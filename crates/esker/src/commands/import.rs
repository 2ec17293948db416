//! `esker import`.

use std::path::Path;
use std::sync::Arc;

use esker_format::{Error, Kind, Name, Result};
use esker_ingest::import::{self as file, Inference, Inspected, Overrides, Plan, Progress, Report};
use esker_ingest::{CollectionSink, Compact};
use esker_store::{Collection, Meter, Seams, Store};
use serde_json::{Value, json};

use super::compact::{fold, report_json, text as compacted};
use crate::args::Import;
use crate::output::{Output, cost_line, count, io_json, plural};
use crate::progress::bar;
use crate::remote::{Remote, RemoteSink};
use crate::settings::{Resources, api_key, name};

pub async fn run(args: Import, url: &str, resources: &Resources, output: &Output) -> Result<()> {
    let into = match &args.into {
        Some(text) => name(text)?,
        None => file::collection_name(&args.file)?,
    };
    let overrides = Overrides {
        id_column: args.id_column.clone(),
        vector_column: args.vector_column.clone(),
        skip_columns: args.skip_columns.clone(),
        metric: args.metric,
        vector_type: args.vector_type,
        existing: None,
    };
    if let Some(endpoint) = &args.endpoint {
        let remote = Remote::new(endpoint, api_key(args.key_file.as_deref())?)?;
        let done = send(&remote, &args.file, &into, overrides, resources, output).await?;
        output.result(&done.json(&into), || done.text(&into));
        return Ok(());
    }
    let store = resources.open_store(url, true)?;
    let meter = Meter::new();
    let say = |note: &str| output.say(note);
    let done = import(&store, &meter, &args.file, &into, overrides, resources, output, &say).await?;
    let report = match args.compact {
        true => Some(fold(&store, &meter, &into, resources, output).await?),
        false => None,
    };
    let mut value = done.json(&into);
    value["io"] = io_json(&meter.io());
    if let Some(report) = &report {
        value["compacted"] = report_json(report);
    }
    output.result(&value, || match &report {
        None => done.text(&into),
        Some(report) => format!("{}\n{}", done.text(&into), compacted(report, &into)),
    });
    output.dim(cost_line(&meter.io(), done.seconds * 1000.0));
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
    fn json(&self, into: &Name) -> Value {
        let Imported { inspected, created, report, seconds } = self;
        json!({
            "collection": into, "created": created, "file": inspected, "rows": report.rows, "skipped": report.skipped,
            "batches": report.batches, "bytes": report.bytes, "position": report.position, "took_ms": seconds * 1000.0,
        })
    }

    /// `imported 440 rows into notes (13,000 rows/s)`.
    pub fn text(&self, into: &Name) -> String {
        let Report { rows, skipped, batches, .. } = self.report;
        let new = rows - skipped;
        let rate = (new as f64 / self.seconds.max(1e-3)) as u64;
        let mut line = format!("imported {} rows into {into}", count(new));
        if skipped > 0 {
            line.push_str(&format!(", {} were there from an earlier run", count(skipped)));
        }
        line.push_str(&format!(
            " ({}, {:.1} s, {} rows/s)",
            plural(batches, "batch", "batches"),
            self.seconds,
            count(rate)
        ));
        line
    }
}

/// Streams a file into a collection, which is created if need be.
#[allow(clippy::too_many_arguments, reason = "each is one thing")]
pub async fn import(
    store: &Arc<Store>,
    meter: &Meter,
    file: &Path,
    into: &Name,
    overrides: Overrides,
    resources: &Resources,
    output: &Output,
    say: &dyn Fn(&str),
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
    let inspected = inspect(file, overrides, resources).await?;
    inspected.inference.notes.iter().for_each(|note| say(note));
    let created = existing.is_none();
    let collection = match existing {
        Some(collection) => collection,
        None => create(store, meter, into, &inspected.inference).await?,
    };
    let settings = collection.manifest(meter).await?.settings.clone();
    let plan =
        Plan::new(file, inspected.clone(), collection.id().clone(), settings)?.with_memory(resources.memory);
    let bar = bar(output, "importing", inspected.rows);
    let show = |p: Progress| bar.set_position(p.rows);
    let sink = CollectionSink::new(collection.clone(), meter.clone(), Some(inline(&collection, resources)));
    let report = file::run(plan, &sink, clock.as_ref(), &show).await;
    bar.finish_and_clear();
    let seconds = (clock.elapsed() - start).as_secs_f64();
    Ok(Imported { inspected, created, report: report?, seconds })
}

/// Looks at the beginning of a file.
async fn inspect(file: &Path, overrides: Overrides, resources: &Resources) -> Result<Inspected> {
    let (path, memory) = (file.to_owned(), resources.memory);
    tokio::task::spawn_blocking(move || file::inspect_within(&path, &overrides, memory))
        .await
        .map_err(|e| Error::invalid("file", "the file is damaged: its decoder panicked").with_source(e))?
}

/// Streams a file to a server.
async fn send(
    remote: &Remote,
    file: &Path,
    into: &Name,
    overrides: Overrides,
    resources: &Resources,
    output: &Output,
) -> Result<Imported> {
    let clock = Seams::system().clock;
    let start = clock.elapsed();
    let existing = remote.describe(into).await?;
    let overrides = Overrides { existing: existing.as_ref().map(|e| e.settings()), ..overrides };
    let inspected = inspect(file, overrides, resources).await?;
    inspected.inference.notes.iter().for_each(|note| output.say(note));
    let created = existing.is_none();
    let found = &inspected.inference;
    let collection = match existing {
        Some(collection) => collection,
        None => remote.create(into, &found.settings(), &found.schema()).await?,
    };
    let plan = Plan::new(file, inspected.clone(), collection.id.clone(), collection.settings())?;
    let plan = plan.with_memory(resources.memory);
    let bar = bar(output, "importing", inspected.rows);
    let show = |p: Progress| bar.set_position(p.rows);
    let sink = RemoteSink::new(remote.clone(), into.clone(), clock.clone());
    let report = file::run(plan, &sink, clock.as_ref(), &show).await;
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
fn inline(collection: &Arc<Collection>, resources: &Resources) -> Compact {
    let (collection, compactor) = (collection.clone(), resources.compactor());
    Box::new(move || {
        let (collection, compactor) = (collection.clone(), compactor.clone());
        Box::pin(async move { compactor.compact(&Meter::new(), &collection, &|_| {}).await.map(drop) })
    })
}
