//! Background work: which collections have a log worth folding, one compaction at a time.
//!
//! Several servers may share a store: whoever commits first wins, and the others step back for a while. What this
//! process wrote itself it knows without a request; what others wrote it learns from the marks under `dirty/`.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use esker_compactor::{Report, work};
use esker_format::{CollectionId, Kind, Name, Result, Seq, limits};
use esker_store::{Collection, Meter, TailSeen};

use super::measure;
use super::routes::Own;

/// What this process knows is looked at this often; no request.
const TICK: Duration = Duration::from_secs(1);
/// Marks are listed this often, and a random share of as much again later: one LIST. Sooner where others write so fast that
/// a log would grow by more than [`STRIDE`] entries until then.
const MARKS: Duration = Duration::from_secs(10);
/// A quarter of what a log may have.
const STRIDE: u64 = limits::TAIL_ENTRIES / 4;
/// All names are looked at this often: the backstop for marks that were not put.
const SWEEP: Duration = Duration::from_secs(24 * 60 * 60);
/// A log is folded when its oldest entry was seen this long ago, however short it is.
const AGE: Duration = Duration::from_secs(60);
/// A collection that others compact, or whose compaction failed, is left alone this long at first, twice that at the
/// next time, and so on.
const BACK_OFF: Duration = Duration::from_secs(10);
/// See [`BACK_OFF`].
const MOST_BACK_OFF: Duration = Duration::from_secs(300);

/// Looks after the collections of a store until the server stops.
pub async fn run(own: Arc<Own>) {
    let stop = own.shell.stop.clone();
    let mut work =
        Work { own, known: HashMap::new(), marks: BTreeMap::new(), marks_at: None, sweep_at: None };
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = work.pause() => {}
        }
        work.learn().await;
        for name in work.own.shell.seen.names() {
            // A compaction under way is finished; none is begun.
            if stop.is_cancelled() {
                return;
            }
            work.look(&name).await;
        }
    }
}

struct Work {
    own: Arc<Own>,
    known: HashMap<Name, Known>,
    /// The newest mark of each collection, as they were listed.
    marks: BTreeMap<CollectionId, Seq>,
    /// When the marks are listed next.
    marks_at: Option<Duration>,
    /// When the names are listed next.
    sweep_at: Option<Duration>,
}

/// What is remembered of a collection.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Known {
    /// The newest mark.
    mark: Seq,
    /// The oldest entry that was not folded at the last look, and when it was first seen.
    oldest: Option<(Seq, Duration)>,
    /// Not before this.
    not_before: Duration,
    /// How long it was left alone the last time.
    back_off: Duration,
    /// When it was compacted the last time.
    folded_at: Option<Duration>,
}

/// Whether a log is worth folding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    No,
    Now,
}

impl Known {
    /// Looks at a tail at `now`.
    fn due(&mut self, watermark: Seq, tail: &[TailSeen], now: Duration) -> Due {
        let marked = self.mark > watermark;
        let oldest = tail.first().map(|e| e.seq).or(marked.then_some(watermark + 1));
        let Some(oldest) = oldest else {
            self.oldest = None;
            return Due::No;
        };
        let since = match self.oldest {
            Some((seq, since)) if seq == oldest => since,
            _ => now,
        };
        self.oldest = Some((oldest, since));
        let last = tail.last().map_or(0, |e| e.seq).max(self.mark);
        let bytes: u64 = tail.iter().map(|e| e.bytes).sum();
        let long = work::is_long(last.saturating_sub(watermark), bytes);
        match now >= self.not_before && (long || now - since >= AGE) {
            true => Due::Now,
            false => Due::No,
        }
    }

    /// Notes that `entries` were folded at `now`; returns how long [`STRIDE`] more of them will take at this pace.
    fn folded(&mut self, entries: u64, now: Duration) -> Duration {
        let since = self.folded_at.replace(now).map_or(MARKS, |at| now - at);
        since.mul_f64(STRIDE as f64 / entries.max(1) as f64).clamp(TICK, MARKS)
    }

    /// Leaves the collection alone for a while: up to `share` of the time it is left alone at most.
    fn step_back(&mut self, now: Duration, share: f64) {
        self.back_off = (self.back_off * 2).clamp(BACK_OFF, MOST_BACK_OFF);
        self.not_before = now + self.back_off.mul_f64(0.5 + share / 2.0);
    }
}

impl Work {
    async fn pause(&self) {
        let seams = &self.own.shell.seams;
        seams.clock.sleep(TICK / 2 + seams.jitter(TICK)).await;
    }

    fn now(&self) -> Duration {
        self.own.shell.seams.clock.elapsed()
    }

    /// Learns of collections that others wrote to.
    async fn learn(&mut self) {
        let now = self.now();
        let seams = self.own.shell.seams.clone();
        if self.marks_at.is_none_or(|at| now >= at) {
            self.marks_at = Some(now + MARKS + seams.jitter(MARKS));
            if let Err(e) = self.list_marks().await {
                tracing::warn!(error = %e, "marks of work cannot be listed");
            }
        }
        if self.sweep_at.is_none_or(|at| now >= at) {
            self.sweep_at = Some(now + SWEEP + seams.jitter(SWEEP / 24));
            let meter = Meter::new();
            match self.own.store.list(&meter).await {
                Ok(ids) => ids.iter().for_each(|id| self.own.shell.seen.add(id.name().as_str())),
                Err(e) => {
                    self.sweep_at = Some(now + AGE);
                    tracing::warn!(error = %e, "collections cannot be listed");
                }
            }
            measure::io(&meter.io(), "compaction");
        }
    }

    async fn list_marks(&mut self) -> Result<()> {
        let meter = Meter::new();
        let marks = work::marked(&self.own.store, &meter).await;
        measure::io(&meter.io(), "compaction");
        self.marks = marks?;
        self.marks.keys().for_each(|id| self.own.shell.seen.add(id.name().as_str()));
        Ok(())
    }

    /// Compacts a collection if that is due.
    async fn look(&mut self, name: &Name) {
        let meter = Meter::new();
        let done = self.fold(&meter, name).await;
        let io = meter.io();
        if io != esker_store::Io::default() {
            measure::io(&io, "compaction");
        }
        let (now, share) = (self.now(), self.own.shell.seams.random.unit());
        let known = self.known.entry(name.clone()).or_default();
        match done {
            // Nothing to fold: a mark stands whose entry never came.
            Ok(Some(report)) if report.overtaken > 0 || !report.committed => known.step_back(now, share),
            Ok(Some(report)) => {
                known.back_off = Duration::ZERO;
                let soon = now + known.folded(report.folded_entries, now);
                self.marks_at = self.marks_at.map(|at| at.min(soon));
            }
            Ok(None) => {}
            Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Gone) => {
                self.known.remove(name);
                self.own.forget(name);
            }
            Err(e) => {
                known.step_back(now, share);
                let outcome = if e.kind() == Kind::Conflict { "overtaken" } else { "failed" };
                metrics::counter!("esker_compaction_rounds_total", "outcome" => outcome).increment(1);
                tracing::warn!(collection = %name, error = %e, kind = %e.kind(), "a compaction failed");
            }
        }
    }

    async fn fold(&mut self, meter: &Meter, name: &Name) -> Result<Option<Report>> {
        let collection = self.own.store.collection(meter, name).await?;
        if self.due(name, &collection) == Due::No {
            return Ok(None);
        }
        // Another process may have done it: one GET says so.
        collection.manifest(meter).await?;
        if self.due(name, &collection) == Due::No {
            return Ok(None);
        }
        let _one = self.own.compacting.lock().await;
        compact(&self.own, meter, &collection).await.map(Some)
    }

    fn due(&mut self, name: &Name, collection: &Collection) -> Due {
        let now = self.now();
        let watermark = collection.last_seen().map_or(0, |m| m.watermark);
        let known = self.known.entry(name.clone()).or_default();
        known.mark = self.marks.get(collection.id()).copied().unwrap_or(0);
        known.due(watermark, &collection.tail_seen(), now)
    }
}

/// Compacts, and measures that.
pub async fn compact(own: &Own, meter: &Meter, collection: &Arc<Collection>) -> Result<Report> {
    let clock = &own.shell.seams.clock;
    let start = clock.elapsed();
    // The entries are all read before the first of them is built into a segment.
    let (before, read) = (collection.tail_seen(), OnceLock::new());
    let heard = |p: esker_compactor::Progress| {
        if p.stage != esker_compactor::Stage::Read {
            read.get_or_init(|| collection.tail_seen());
        }
    };
    let report = own.compactor.compact(meter, collection, &heard).await?;
    let took = clock.elapsed() - start;
    let outcome = match (report.committed, report.overtaken) {
        (true, 0) => "committed",
        (true, _) => "overtaken",
        (false, _) => "nothing",
    };
    metrics::counter!("esker_compaction_rounds_total", "outcome" => outcome).increment(1);
    if !report.committed {
        return Ok(report);
    }
    metrics::counter!("esker_compaction_rows_total").increment(report.folded_rows + report.tombstones);
    metrics::counter!("esker_compaction_bytes_total").increment(report.bytes_written);
    metrics::histogram!("esker_compaction_seconds").record(took.as_secs_f64());
    let watermark = collection.last_seen().map_or(0, |m| m.watermark);
    let now_ms = clock.now_ms();
    for entry in read.get().unwrap_or(&before).iter().filter(|e| e.seq <= watermark) {
        if let Some(arrived_ms) = entry.arrived_ms {
            let ms = u64::try_from(now_ms - arrived_ms).unwrap_or(0);
            metrics::histogram!("esker_time_to_indexed_seconds").record(ms as f64 / 1000.0);
        }
    }
    tracing::info!(
        collection = %collection.id(),
        version = report.version,
        entries = report.folded_entries,
        rows = report.folded_rows,
        tombstones = report.tombstones,
        merged = report.merged,
        bytes = report.bytes_written,
        overtaken = report.overtaken,
        ms = took.as_millis() as u64,
        "compacted"
    );
    Ok(report)
}

#[cfg(test)]
mod tests;
