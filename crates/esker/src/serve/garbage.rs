//! Collection of garbage in the background, one collection at a time, where something changed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use esker_compactor::{CollectOptions, Collected, Collector};
use esker_format::{Kind, Name, Result, Version};
use esker_store::Meter;

use super::measure;
use super::routes::Own;

/// Collections are looked at this often at most and at least; between these, four times while a version is retained.
const OFTEN: Duration = Duration::from_secs(60);
/// See [`OFTEN`].
const SELDOM: Duration = Duration::from_secs(15 * 60);
/// A collection in which nothing changes is looked at this often all the same: uploads that broke off leave no trace in it.
const ANYWAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What is remembered of a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    /// The newest version at the last look, and when it was first seen.
    version: Version,
    since: Duration,
    /// When garbage was collected last, and whether there was any.
    at: Duration,
    found: bool,
}

impl Known {
    /// Whether there may be garbage: something was found the last time, or versions have come of age since.
    fn worth(&self, version: Version, now: Duration, retain: Duration) -> bool {
        let of_age = self.since + retain + SELDOM;
        self.found || self.version != version || self.at < of_age || now >= self.at + ANYWAY
    }
}

/// Collects garbage until the server stops, at any point: what is left is found by the next collection.
pub async fn run(own: Arc<Own>, retain: Duration) {
    let collector = Collector::new(CollectOptions { retain, ..CollectOptions::default() });
    let every = (retain / 4).clamp(OFTEN, SELDOM);
    let seams = own.shell.seams.clone();
    let all = async {
        let mut known = HashMap::new();
        loop {
            seams.clock.sleep(every / 2 + seams.jitter(every)).await;
            for name in own.shell.seen.names() {
                look(&own, &collector, retain, &name, &mut known).await;
            }
        }
    };
    tokio::select! {
        () = own.shell.stop.cancelled() => {}
        () = all => {}
    }
}

async fn look(
    own: &Own,
    collector: &Collector,
    retain: Duration,
    name: &Name,
    known: &mut HashMap<Name, Known>,
) {
    let meter = Meter::new();
    let now = own.shell.seams.clock.elapsed();
    let done = collect(own, collector, retain, name, known.get(name).copied(), &meter).await;
    measure::io(&meter.io(), "gc");
    let (version, found) = match done {
        Ok(None) => return,
        Ok(Some(done)) => {
            count(name, &done);
            (done.version, done.deleted + done.stubbed > 0)
        }
        Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Gone) => {
            known.remove(name);
            return own.forget(name);
        }
        Err(e) => {
            metrics::counter!("esker_gc_runs_total", "outcome" => "failed").increment(1);
            return tracing::warn!(collection = %name, error = %e, "garbage was not collected");
        }
    };
    let since = match known.get(name) {
        Some(before) if before.version == version => before.since,
        _ => now,
    };
    known.insert(name.clone(), Known { version, since, at: now, found });
}

async fn collect(
    own: &Own,
    collector: &Collector,
    retain: Duration,
    name: &Name,
    known: Option<Known>,
    meter: &Meter,
) -> Result<Option<Collected>> {
    let collection = own.store.collection(meter, name).await?;
    let version = collection.manifest(meter).await?.version;
    let now = own.shell.seams.clock.elapsed();
    if known.is_some_and(|known| !known.worth(version, now, retain)) {
        return Ok(None);
    }
    collector.run(meter, &collection, &|_| {}).await.map(Some)
}

fn count(name: &Name, done: &Collected) {
    metrics::counter!("esker_gc_runs_total", "outcome" => "done").increment(1);
    metrics::counter!("esker_gc_objects_total").increment(done.deleted);
    metrics::counter!("esker_gc_bytes_total").increment(done.bytes);
    if done.deleted + done.stubbed > 0 {
        tracing::info!(
            collection = %name,
            version = done.version,
            deleted = done.deleted,
            stubbed = done.stubbed,
            bytes = done.bytes,
            "collected garbage"
        );
    }
}

#[cfg(test)]
mod tests;
