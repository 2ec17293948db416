//! What a compactor that is woken does: finds the collections with work, without listing the bucket, and works on one after
//! the other while there is time.
//!
//! Two that are woken at once do no harm: of two compactions one commits, and what the other made is garbage.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use esker_format::keys::{DIRTY, Key, NAMES};
use esker_format::{CollectionId, Error, Kind, Name, Result, Seq, limits};
use esker_store::{Collection, Io, Meter, Store};
use serde::Serialize;

use crate::{Collector, Compactor, Report, Steps};

/// Nothing is begun with less time than this left: a small fold takes some seconds over a slow store.
const LEAST: Duration = Duration::from_secs(3);

/// The collections that marks name, each with the last entry that one was put for; 0 where there is only a merge to go on
/// with. One LIST.
///
/// # Errors
/// Those of the store.
pub async fn marked(store: &Store, meter: &Meter) -> Result<BTreeMap<CollectionId, Seq>> {
    let mut found = BTreeMap::new();
    for mark in store.client().list_all(meter, DIRTY).await? {
        let (id, seq) = match Key::parse(&mark.key) {
            Ok(Key::Dirty(id, seq)) => (id, seq),
            Ok(Key::DirtyJob(id, _)) => (id, 0),
            _ => continue,
        };
        let last: &mut Seq = found.entry(id).or_default();
        *last = seq.max(*last);
    }
    Ok(found)
}

/// Whether a log of so many entries or bytes is worth folding, whatever its age.
pub fn is_long(entries: u64, bytes: u64) -> bool {
    entries >= limits::FOLD_ENTRIES || bytes >= limits::FOLD_BYTES
}

/// The collection that a new object belongs to, by its key relative to the store, and what is to be done there; none for
/// what tells of no work.
pub fn worked_on(key: &str) -> Option<(Name, Task)> {
    use esker_format::keys::Part;
    match Key::parse(key).ok()? {
        Key::Dirty(id, _) | Key::Of(id, Part::Wal(_)) => Some((id.name().clone(), Task::FoldLong)),
        Key::DirtyJob(id, _) => Some((id.name().clone(), Task::Step)),
        _ => None,
    }
}

/// The collections that ever had a name, dropped ones first. The present one is opened as any reader does.
///
/// # Errors
/// NotFound when there never was one; those of the store.
pub async fn lives(meter: &Meter, store: &Store, name: &Name) -> Result<Vec<Arc<Collection>>> {
    let records = store.client().list_all(meter, &format!("{NAMES}{name}/")).await?;
    let mut numbers: Vec<u64> = Vec::new();
    for listed in &records {
        match Key::parse(&listed.key) {
            Ok(Key::Name(_, n)) => numbers.push(n),
            _ => return Err(Error::corrupt(&listed.key, "it is among the names and is no record's")),
        }
    }
    numbers.sort_unstable();
    let newest = numbers.last().copied();
    let mut lives = Vec::new();
    // Odd records bind the name, even ones say that it was dropped.
    for n in numbers.into_iter().filter(|n| n % 2 == 1) {
        if Some(n) == newest {
            lives.push(store.collection(meter, name).await?);
            continue;
        }
        let life = Collection::new(store.client().clone(), CollectionId::new(name.clone(), n.div_ceil(2)));
        match life.newest(meter).await {
            // Its maker died before the first manifest, and nothing else can be there.
            Err(e) if e.kind() == Kind::NotFound => {}
            newest => {
                newest?;
                lives.push(life);
            }
        }
    }
    match newest {
        None => Err(Error::new(Kind::NotFound, format!("collection `{name}` does not exist"))),
        Some(_) => Ok(lives),
    }
}

/// What became of a collection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// Its log was folded.
    Folded {
        /// Newest version of the manifest.
        version: u64,
        /// Log entries that are in segments now.
        folded_entries: u64,
        /// Their rows, without tombstones.
        folded_rows: u64,
        /// Segments afterwards.
        segments: usize,
        /// Live rows afterwards.
        live_rows: u64,
        /// Bytes of new objects.
        bytes_written: u64,
    },
    /// A merge that takes longer than there was time has come further: the next to be woken goes on with it.
    Stepped {
        /// How far it is.
        #[serde(flatten)]
        steps: Steps,
        /// Log entries that were folded before.
        folded_entries: u64,
        /// Their rows, without tombstones.
        folded_rows: u64,
    },
    /// There was nothing to fold.
    Nothing,
    /// What no version needs was deleted.
    Collected {
        /// Objects deleted.
        deleted: u64,
        /// Old versions that became stubs.
        stubbed: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// There was no time for it: the next to be woken does it.
    Left,
    /// It failed.
    Failed {
        /// What happened.
        error: String,
        /// The error's kind.
        kind: Kind,
    },
}

impl Outcome {
    /// The error of what failed.
    pub fn error(&self) -> Option<Error> {
        match self {
            Outcome::Failed { error, kind } => Some(Error::new(*kind, error.clone())),
            _ => None,
        }
    }
}

/// Compacts and collects while there is time.
#[derive(Debug, Clone)]
pub struct Worker {
    /// The store.
    pub store: Arc<Store>,
    /// Compacts.
    pub compactor: Compactor,
    /// Collects.
    pub collector: Collector,
}

/// What to do with a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Folds its log, however short, and begins a merge in steps or goes on with it.
    Fold,
    /// Folds its log if it is long.
    FoldLong,
    /// Goes on with a merge in steps, and begins none: one that failed is for the next tick.
    Step,
    /// Deletes what no version needs.
    Collect,
}

impl Worker {
    /// The collections that have marks.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn marked(&self) -> Result<Vec<Name>> {
        let marked = marked(&self.store, &Meter::new()).await?;
        let names: BTreeSet<Name> = marked.keys().map(|id| id.name().clone()).collect();
        Ok(names.into_iter().collect())
    }

    /// Every name, those of dropped collections, too: the backstop for marks that were not put.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn names(&self) -> Result<Vec<Name>> {
        let records = self.store.client().list_all(&Meter::new(), NAMES).await?;
        let names = records.iter().filter_map(|r| match Key::parse(&r.key) {
            Ok(Key::Name(name, _)) => Some(name),
            _ => None,
        });
        Ok(names.collect::<BTreeSet<Name>>().into_iter().collect())
    }

    /// Works on one collection after the other until the clock's `elapsed` is `until`. What is under way then is dropped: it
    /// has committed or left garbage behind, or what others go on with.
    pub async fn work(&self, names: Vec<Name>, task: Task, until: Duration) -> BTreeMap<Name, Outcome> {
        let clock = &self.store.client().seams().clock;
        let mut outcomes = BTreeMap::new();
        for name in names {
            let left = until.saturating_sub(clock.elapsed());
            if left < LEAST {
                outcomes.insert(name, Outcome::Left);
                continue;
            }
            let meter = Meter::new();
            let done = tokio::select! {
                biased;
                done = self.one(&meter, &name, task, until) => done,
                () = tokio::task::unconstrained(clock.sleep(left)) => Ok(Outcome::Left),
            };
            let outcome = done.unwrap_or_else(failed);
            say(&name, &outcome, meter.io());
            outcomes.insert(name, outcome);
        }
        outcomes
    }

    async fn one(&self, meter: &Meter, name: &Name, task: Task, until: Duration) -> Result<Outcome> {
        if task == Task::Collect {
            let (mut deleted, mut stubbed, mut bytes) = (0, 0, 0);
            for life in lives(meter, &self.store, name).await? {
                let done = self.collector.run(meter, &life, &|_| {}).await?;
                (deleted, stubbed, bytes) =
                    (deleted + done.deleted, stubbed + done.stubbed, bytes + done.bytes);
            }
            return Ok(Outcome::Collected { deleted, stubbed, bytes });
        }
        let mut collection = self.store.collection(meter, name).await?;
        if task == Task::FoldLong && meter.io().waves == 0 {
            // Known from before, and what was written since is what we are woken for.
            collection.forget();
            collection = self.store.collection(meter, name).await?;
        }
        let tail = collection.tail_seen();
        let bytes = tail.iter().map(|entry| entry.bytes).sum();
        if task == Task::FoldLong && !is_long(tail.len() as u64, bytes) {
            return Ok(Outcome::Nothing);
        }
        let begins = task != Task::Step;
        let (report, steps) =
            self.compactor.compact_until(meter, &collection, until, begins, &|_| {}).await?;
        if let Some(steps) = steps {
            return stepped(&report, steps);
        }
        if !report.committed {
            // A mark that was put after its entry had been folded would wake us for ever.
            if let Some(manifest) = collection.last_seen() {
                let is_done = |mark: &Key| match mark {
                    Key::Dirty(_, seq) => *seq <= manifest.watermark,
                    _ => true,
                };
                collection.clear_marks(meter, is_done).await;
            }
            return Ok(Outcome::Nothing);
        }
        Ok(folded(&report))
    }
}

fn folded(report: &Report) -> Outcome {
    Outcome::Folded {
        version: report.version,
        folded_entries: report.folded_entries,
        folded_rows: report.folded_rows,
        segments: report.segments_out,
        live_rows: report.live_rows,
        bytes_written: report.bytes_written,
    }
}

fn stepped(report: &Report, steps: Steps) -> Result<Outcome> {
    if let Some(tries) = steps.stuck {
        let message = format!("a merge in steps is at `{}` and was there {tries} times before", steps.stage);
        return Err(Error::new(Kind::Unavailable, message)
            .with_hint("give the function more time or memory: a piece of the work does not fit"));
    }
    let Report { folded_entries, folded_rows, .. } = *report;
    Ok(Outcome::Stepped { steps, folded_entries, folded_rows })
}

fn failed(e: Error) -> Outcome {
    match e.kind() {
        // Dropped since the mark was put; or others are at it.
        Kind::NotFound | Kind::Gone => Outcome::Nothing,
        Kind::Conflict => Outcome::Left,
        kind => Outcome::Failed { error: e.to_string(), kind },
    }
}

fn say(name: &Name, outcome: &Outcome, io: Io) {
    let (word, rows, bytes, error) = match outcome {
        Outcome::Folded { folded_rows, bytes_written, .. } => {
            ("folded", Some(*folded_rows), Some(*bytes_written), None)
        }
        Outcome::Stepped { folded_rows, .. } => ("stepped", Some(*folded_rows), None, None),
        Outcome::Nothing => ("nothing", None, None, None),
        Outcome::Collected { bytes, .. } => ("collected", None, Some(*bytes), None),
        Outcome::Left => ("left", None, None, None),
        Outcome::Failed { error, .. } => ("failed", None, None, Some(error.as_str())),
    };
    let steps = match outcome {
        Outcome::Stepped { steps, .. } => Some(steps),
        _ => None,
    };
    tracing::info!(
        target: "esker::work",
        collection = %name,
        outcome = word,
        stage = steps.map(|steps| steps.stage),
        done = steps.map(|steps| steps.done),
        total = steps.map(|steps| steps.total),
        rows,
        bytes,
        error,
        waves = io.waves,
        gets = io.gets,
        lists = io.lists,
        puts = io.puts,
        deletes = io.deletes,
        bytes_read = io.bytes_read,
        bytes_written = io.bytes_written,
        "worked"
    );
}

#[cfg(test)]
mod tests;
