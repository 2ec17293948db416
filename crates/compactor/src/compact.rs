//! A compaction: one round reads a state, makes what should follow it, uploads that and commits it in one manifest. A
//! round that another commit overtook starts again from the state that commit left.

mod commit;
mod inputs;
mod plan;

use std::sync::Arc;
use std::time::Duration;

use esker_format::manifest::Recent;
use esker_format::{Error, Kind, Result, SetHash, Version};
use esker_store::{Collection, Io, Meter, Snapshot};

use crate::build::{BuildOptions, BuiltSegment, Target, build_segment};
use crate::fold::{Folded, fold};
use commit::Commit;
use inputs::Inputs;

/// Most rounds of one compaction.
const ROUNDS: u32 = 5;
/// Upper bound of the wait before the second round; grows with each.
const WAIT: Duration = Duration::from_millis(200);

/// How to compact.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Most threads that build at once.
    pub threads: usize,
    /// Decides everything random in a segment.
    pub seed: u64,
}

impl Default for Options {
    /// Every core of the machine.
    fn default() -> Self {
        Options { threads: std::thread::available_parallelism().map_or(1, usize::from), seed: 1 }
    }
}

/// What a compaction is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Reading the tail and the segments to merge; in rows.
    Read,
    /// Clustering and writing a segment; in units of clustering work.
    Build,
    /// Uploading; in bytes.
    Upload,
    /// Committing.
    Commit,
}

/// How far a stage is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The stage.
    pub stage: Stage,
    /// What is done of it.
    pub done: u64,
    /// What it has to do.
    pub total: u64,
}

/// Hears how far a compaction is.
pub type Listener<'a> = &'a (dyn Fn(Progress) + Sync);

/// What a compaction did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The version committed, or the newest when there was nothing to do.
    pub version: Version,
    /// Whether anything was committed.
    pub committed: bool,
    /// Log entries that are in segments now.
    pub folded_entries: u64,
    /// Their rows, without tombstones.
    pub folded_rows: u64,
    /// Their tombstones.
    pub tombstones: u64,
    /// Segments before.
    pub segments_in: usize,
    /// Segments after.
    pub segments_out: usize,
    /// Segments that were rewritten.
    pub merged: usize,
    /// Rows of the new segment; 0 if none was made.
    pub rows: u64,
    /// Rows of older segments that were marked as overwritten or deleted.
    pub marked: u64,
    /// Row versions that no longer count, tombstones among them.
    pub pruned: u64,
    /// Of these, rows that had expired.
    pub expired: u64,
    /// Bytes of new objects, without manifest and head.
    pub bytes_written: u64,
    /// Rounds that another commit overtook.
    pub overtaken: u32,
    /// Commits whose marks were carried over.
    pub carried: u32,
    /// Live rows after.
    pub live_rows: u64,
    /// What it asked of the store.
    pub io: Io,
}

/// Compacts collections.
#[derive(Debug, Clone, Copy, Default)]
pub struct Compactor {
    options: Options,
}

/// How a round ended.
enum Round {
    Done(Box<Report>),
    /// Another commit was first; what was made is of no use.
    Overtaken,
}

/// What a round has made.
enum Prepared<'a> {
    Nothing(Box<Report>),
    Ready(Box<Commit<'a>>),
}

impl Compactor {
    /// A compactor.
    pub fn new(options: Options) -> Self {
        Compactor { options }
    }

    /// Folds the tail, merges segments that are due and commits both at once. With neither to do nothing is written.
    ///
    /// # Errors
    /// Corrupt, naming the object, when anything read is not what was written: nothing is committed. Conflict when other
    /// commits were first every time. Unknown when the outcome of the commit could not be learnt.
    pub async fn compact(
        &self,
        meter: &Meter,
        collection: &Arc<Collection>,
        progress: Listener<'_>,
    ) -> Result<Report> {
        let seams = collection.client().seams();
        for round in 0..ROUNDS {
            let done = self.round(meter, collection, progress).await;
            match done {
                Ok(Round::Done(mut report)) => {
                    report.overtaken = round;
                    report.io = meter.io();
                    return Ok(*report);
                }
                Ok(Round::Overtaken) => {
                    tracing::debug!(collection = %collection.id(), round, "another commit was first");
                }
                // An input was collected meanwhile.
                Err(e) if is_input_gone(&e, collection) && round + 1 < ROUNDS => {
                    tracing::debug!(collection = %collection.id(), round, error = %e, "an input is gone");
                }
                Err(e) => return Err(e),
            }
            seams.clock.sleep(seams.jitter(WAIT * (round + 1))).await;
        }
        Err(Error::new(Kind::Conflict, format!("{} is compacted by others", collection.id())))
    }

    async fn round(
        &self,
        meter: &Meter,
        collection: &Arc<Collection>,
        progress: Listener<'_>,
    ) -> Result<Round> {
        match self.prepare(meter, collection, progress).await? {
            Prepared::Nothing(report) => Ok(Round::Done(report)),
            Prepared::Ready(commit) => commit.run().await,
        }
    }

    /// Makes what should follow the newest version, in memory.
    async fn prepare<'a>(
        &self,
        meter: &'a Meter,
        collection: &'a Arc<Collection>,
        progress: Listener<'a>,
    ) -> Result<Prepared<'a>> {
        let clock = &collection.client().seams().clock;
        let start = clock.elapsed();
        let snapshot = collection.snapshot_newest(meter).await?;
        let manifest = Arc::clone(&snapshot.manifest);
        let now_ms = clock.now_ms();
        let folded = fold(collection.id(), &snapshot.rows, now_ms)?;
        check_entries(&snapshot, &folded)?;
        let merges = plan::merges(&manifest.segments, folded.live_rows);
        if snapshot.tail.is_empty() && !merges.contains(&true) {
            return Ok(Prepared::Nothing(Box::new(nothing(&snapshot))));
        }
        let read = clock.elapsed();
        let mut inputs =
            Inputs::read(meter, collection, &snapshot, &folded, &merges, now_ms, progress).await?;
        let work = Work::new(&snapshot, &inputs, &folded);
        // Entries, payloads and headers are done with; rows live on in what is built.
        let schema = snapshot.schema.clone();
        drop(snapshot);
        let mut rows = inputs.take_rows();
        rows.extend(folded.rows);
        let merged = clock.elapsed();
        let target = Target { collection: collection.id(), settings: &manifest.settings, schema: &schema };
        let options = BuildOptions { seed: self.options.seed, threads: self.options.threads };
        let heard = |done, total| progress(Progress { stage: Stage::Build, done, total });
        let built = blocking(|| build_segment(rows, target, options, &**clock, &heard))?;
        work.check(&manifest, &inputs, built.as_ref())?;
        let ms = |d: Duration| d.as_millis() as u64;
        tracing::debug!(
            collection = %collection.id(),
            tail_ms = ms(read - start),
            merge_ms = ms(merged - read),
            build_ms = ms(clock.elapsed() - merged),
            "compaction made"
        );
        let commit = Commit { meter, collection, base: manifest, inputs, work, built, progress };
        Ok(Prepared::Ready(Box::new(commit)))
    }
}

/// Whether an object is missing of a collection that was found.
fn is_input_gone(e: &Error, collection: &Collection) -> bool {
    e.kind() == Kind::NotFound && collection.last_seen().is_some()
}

/// What a round adds to and takes from the collection.
struct Work {
    /// The last entry folded; the watermark when there is none.
    position: u64,
    accepted: SetHash,
    pruned: SetHash,
    recent: Vec<Recent>,
    /// What the new segment must hold.
    rows: u64,
    live: SetHash,
    report: Report,
}

impl Work {
    fn new(snapshot: &Snapshot, inputs: &Inputs, folded: &Folded) -> Self {
        let recent = snapshot.tail.iter().flat_map(|e| {
            let seq = e.seq();
            e.entry.batches.iter().map(move |b| Recent {
                token: b.token,
                seq,
                rows: b.rows,
                at_ms: b.arrived_ms,
            })
        });
        let pruned_rows = folded.superseded + folded.tombstones + folded.expired;
        Work {
            position: snapshot.position,
            accepted: folded.accepted.iter().copied().sum(),
            pruned: folded.pruned + inputs.pruned(),
            recent: recent.collect(),
            rows: folded.live_rows + inputs.moved_rows(),
            live: folded.live + inputs.moved(),
            report: Report {
                folded_entries: snapshot.tail.len() as u64,
                folded_rows: folded.live_rows + folded.superseded + folded.expired,
                tombstones: folded.tombstones,
                segments_in: snapshot.manifest.segments.len(),
                merged: inputs.merged.len(),
                marked: inputs.marked(),
                pruned: pruned_rows + inputs.marked(),
                expired: folded.expired + inputs.expired,
                ..Report::default()
            },
        }
    }

    /// INV-6, before anything is uploaded: what was read is in the new segment or accounted for, and nothing else.
    fn check(
        &self,
        base: &esker_format::manifest::Manifest,
        inputs: &Inputs,
        built: Option<&BuiltSegment>,
    ) -> Result<()> {
        let (rows, live) = built.map_or((0, SetHash::default()), |b| (b.rows(), b.hash));
        if rows != self.rows || live != self.live {
            return Err(Error::internal("INV-6: the new segment does not hold what was read"));
        }
        let after = base.hashes.live + self.accepted - self.pruned;
        let all_read = inputs.merged.len() == base.segments.len();
        if all_read && after != live {
            return Err(Error::internal("INV-6: the segments do not hold the rows that the manifest counts"));
        }
        Ok(())
    }
}

/// Every entry must hold the rows that its header announces.
fn check_entries(snapshot: &Snapshot, folded: &Folded) -> Result<()> {
    for (entry, hash) in snapshot.tail.iter().zip(&folded.accepted) {
        if entry.entry.batches.iter().map(|b| b.hash).sum::<SetHash>() != *hash {
            return Err(Error::corrupt(&entry.entry.key, "its rows are not those of its header"));
        }
    }
    Ok(())
}

fn nothing(snapshot: &Snapshot) -> Report {
    let segments = snapshot.manifest.segments.len();
    Report {
        version: snapshot.manifest.version,
        segments_in: segments,
        segments_out: segments,
        live_rows: snapshot.manifest.live_rows(),
        ..Report::default()
    }
}

/// Runs work that takes seconds of a core without holding up other tasks, where the runtime can.
fn blocking<T>(work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current().map(|h| h.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

#[cfg(test)]
mod tests;
