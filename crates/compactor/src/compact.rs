//! A compaction: one round reads a state, makes what should follow it, uploads that and commits it in one manifest. A
//! round that another commit overtook starts again from the state that commit left.

mod commit;
mod inputs;
mod limited;
mod plan;
mod sending;
mod spilling;
mod tail;

use std::sync::Arc;
use std::time::Duration;

use esker_format::keys;
use esker_format::manifest::{Manifest, Recent};
use esker_format::{Error, Kind, Result, SetHash, Version};
use esker_store::{Collection, Io, Meter, Unfolded};
use futures::TryStreamExt;

use crate::build::{Blob, BuildOptions, Choice, Large, Made, Spill, StopWatch, Target, build_merged};
use crate::fold::{Fold, Winners};
use crate::scratch::{MemoryScratch, Scratch, ScratchFile};
pub(crate) use commit::Commit;
use inputs::Gathered;
pub(crate) use inputs::{Inputs, Merged};
use limited::Limit;
pub(crate) use sending::Sending;
use spilling::Spilling;
use tail::Tail;

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
    /// Bytes that a compaction may take. Rows of more than a third of it are built out of memory, in scratch files; then
    /// some 110 bytes a row come on top (at 384 dimensions), and 190 where rows have copies.
    pub memory: u64,
    /// Whether rows of large segments get copies in second leaves.
    pub copies: Choice,
    /// Whether their codes are made with a learned basis.
    pub basis: Choice,
}

/// [`Options::memory`] unless it is set.
pub const MEMORY: u64 = 1 << 30;
/// Rows and files up to this share of the memory are built in memory.
const IN_MEMORY: u64 = 3;
/// Entries up to this share are decoded once and kept.
const DECODED: u64 = 6;
/// Entries whose rows lie in them are held; one fold takes up to this share of them.
const INLINE: u64 = 8;
/// Bytes of a row beside its vector, about.
const ROW_BYTES: u64 = 128;

impl Default for Options {
    /// Every core of the machine.
    fn default() -> Self {
        Options {
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            seed: 1,
            memory: MEMORY,
            copies: Choice::default(),
            basis: Choice::default(),
        }
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
    /// Of these, rows whose codes were copied from a segment that was rewritten …
    pub copied: u64,
    /// … and rows that were encoded.
    pub encoded: u64,
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
#[derive(Debug, Clone)]
pub struct Compactor {
    options: Options,
    scratch: Arc<dyn Scratch>,
}

impl Default for Compactor {
    fn default() -> Self {
        Compactor::new(Options::default())
    }
}

/// How a round ended.
pub(crate) enum Round {
    /// And whether the log goes on above what was folded.
    Done(Box<Report>, bool),
    /// Another commit was first; what was made is of no use.
    Overtaken,
}

/// What a round has made.
enum Prepared<'a> {
    Nothing(Box<Report>),
    Ready(Box<Commit<'a>>),
}

impl Compactor {
    /// A compactor whose scratch files are in memory: its limit holds only with [`Compactor::with_scratch`].
    pub fn new(options: Options) -> Self {
        Compactor { options, scratch: Arc::new(MemoryScratch) }
    }

    /// Puts what does not fit into memory there.
    #[must_use]
    pub fn with_scratch(self, scratch: Arc<dyn Scratch>) -> Self {
        Compactor { scratch, ..self }
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
        let (mut report, mut more) = self.commit(meter, collection, None, progress).await?;
        while more {
            let (next, still) = self.commit(meter, collection, None, progress).await?;
            (report, more) = (report.and(next), still);
        }
        Ok(report)
    }

    /// One commit, of what the limit allows, and whether the log goes on above it.
    async fn commit(
        &self,
        meter: &Meter,
        collection: &Arc<Collection>,
        limit: Option<&Limit>,
        progress: Listener<'_>,
    ) -> Result<(Report, bool)> {
        let seams = collection.client().seams();
        for round in 0..ROUNDS {
            let done = self.round(meter, collection, limit, progress).await;
            match done {
                Ok(Round::Done(mut report, more)) => {
                    report.overtaken = round;
                    report.io = meter.io();
                    return Ok((*report, more));
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
        limit: Option<&Limit>,
        progress: Listener<'_>,
    ) -> Result<Round> {
        match self.prepare(meter, collection, limit, progress).await? {
            Prepared::Nothing(report) => Ok(Round::Done(report, false)),
            Prepared::Ready(commit) => commit.run().await,
        }
    }

    /// Makes what should follow the newest version.
    async fn prepare<'a>(
        &self,
        meter: &'a Meter,
        collection: &'a Arc<Collection>,
        limit: Option<&Limit>,
        progress: Listener<'a>,
    ) -> Result<Prepared<'a>> {
        let clock = &collection.client().seams().clock;
        let start = clock.elapsed();
        let mut unfolded = collection.unfolded(meter, self.options.memory / INLINE).await?;
        if let Some(limit) = limit {
            limit.cut(&mut unfolded);
        }
        let manifest = Arc::clone(&unfolded.manifest);
        let now_ms = clock.now_ms();
        let tail = Tail::open(meter, collection, &unfolded, self.options.memory / DECODED).await?;
        let winners = fold(collection, &tail, now_ms).await?;
        check_entries(&unfolded, &winners)?;
        let mut merges = plan::merges(&manifest.segments, winners.live_rows);
        if let Some(limit) = limit {
            limit.spare(&manifest, winners.live_rows, &mut merges);
        }
        if unfolded.tail.is_empty() && !merges.contains(&true) {
            return Ok(Prepared::Nothing(Box::new(nothing(&unfolded))));
        }
        let read = clock.elapsed();
        let mut rows = self.gathered(&manifest, &winners, &merges)?;
        let inputs =
            Inputs::read(meter, collection, &unfolded, &winners, &merges, now_ms, &mut rows, progress)
                .await?;
        let live = tail.keep(&winners, &mut rows).await?;
        let base = inputs.base(meter, &unfolded, winners.live_rows, &rows, &*self.scratch).await?;
        let work = Work::new(&unfolded, &inputs, &winners, live);
        // Entries, payloads and headers are done with; rows live on in what is built.
        drop((tail, winners));
        let schema = unfolded.schema.clone();
        drop(unfolded);
        let merged = clock.elapsed();
        let target = Target { collection: collection.id(), settings: &manifest.settings, schema: &schema };
        let Options { seed, threads, copies, basis, .. } = self.options;
        let options = BuildOptions { seed, threads, copies, basis };
        let heard = |done, total| progress(Progress { stage: Stage::Build, done, total });
        let made = keys::Made { base: manifest.version, token: collection.client().seams().token() };
        let mut sending = Sending::default();
        let built = blocking(|| match rows {
            Gathered::Memory { rows, .. } => {
                Ok(build_merged(rows, base, target, options, &**clock, &heard)?.map(Made::from))
            }
            Gathered::Scratch(spilling) => {
                let (memory, scratch, watch) =
                    (self.options.memory, &*self.scratch, StopWatch::new(&**clock));
                let mut send = |rows_file: &Arc<dyn ScratchFile>| {
                    let key = collection.keys().rows(made);
                    sending.begin(collection.client().upload(meter, &key), rows_file);
                };
                let large = Large { target, options, memory, scratch, watch };
                let built = large.build(*spilling.finish()?, base, &heard, &mut send)?;
                Ok(built.map(|made| Made { rows_file: Blob::Placed(made.rows_file.len()), ..made }))
            }
        })?;
        work.check(&manifest, &inputs, built.as_ref())?;
        let ms = |d: Duration| d.as_millis() as u64;
        tracing::debug!(
            collection = %collection.id(),
            tail_ms = ms(read - start),
            merge_ms = ms(merged - read),
            build_ms = ms(clock.elapsed() - merged),
            "compaction made"
        );
        let commit = Commit {
            meter,
            collection,
            base: manifest,
            inputs,
            work,
            built,
            placed: Some(made),
            sending,
            progress,
        };
        Ok(Prepared::Ready(Box::new(commit)))
    }

    /// Where the rows go that the tail and the merged segments have.
    fn gathered<'a>(
        &'a self,
        manifest: &'a Manifest,
        winners: &Winners,
        merges: &[bool],
    ) -> Result<Gathered<'a>> {
        let Options { memory, seed, threads, .. } = self.options;
        let settings = &manifest.settings;
        let spill = move || Spill::new(settings, memory, seed, threads, &*self.scratch).map(Box::new);
        let merged = manifest.segments.iter().zip(merges).filter(|(_, merged)| **merged);
        let files: u64 = merged.map(|(s, _)| limited::size(s)).sum();
        let bytes = files + winners.live_rows * (settings.stride() as u64 + ROW_BYTES);
        // Files are smaller than what they are read to: rows in memory are moved aside should they turn out to be too large.
        match bytes <= memory / IN_MEMORY {
            true => Ok(Gathered::new(memory / IN_MEMORY, Box::new(spill))),
            false => Ok(Gathered::Scratch(Spilling::new(spill()?)?)),
        }
    }
}

/// The first pass over a tail.
async fn fold(collection: &Collection, tail: &Tail<'_>, now_ms: i64) -> Result<Winners> {
    let mut fold = Fold::new(collection.id(), now_ms, tail.writes());
    let entries = tail.read();
    futures::pin_mut!(entries);
    while let Some((_, entry)) = entries.try_next().await? {
        blocking(|| fold.note(&entry))?;
    }
    Ok(blocking(|| fold.settle()))
}

impl Report {
    /// This and the report of the commit after it.
    fn and(self, next: Report) -> Report {
        Report {
            version: next.version,
            committed: self.committed || next.committed,
            folded_entries: self.folded_entries + next.folded_entries,
            folded_rows: self.folded_rows + next.folded_rows,
            tombstones: self.tombstones + next.tombstones,
            segments_in: self.segments_in,
            segments_out: next.segments_out,
            merged: self.merged + next.merged,
            rows: next.rows,
            copied: self.copied + next.copied,
            encoded: self.encoded + next.encoded,
            marked: self.marked + next.marked,
            pruned: self.pruned + next.pruned,
            expired: self.expired + next.expired,
            bytes_written: self.bytes_written + next.bytes_written,
            overtaken: self.overtaken + next.overtaken,
            carried: self.carried + next.carried,
            live_rows: next.live_rows,
            io: next.io,
        }
    }
}

/// Whether an object is missing of a collection that was found.
fn is_input_gone(e: &Error, collection: &Collection) -> bool {
    e.kind() == Kind::NotFound && collection.last_seen().is_some()
}

/// What a round adds to and takes from the collection.
pub(crate) struct Work {
    /// The last entry folded; the watermark when there is none.
    position: u64,
    accepted: SetHash,
    pruned: SetHash,
    recent: Vec<Recent>,
    /// Whether the log goes on above `position`.
    more: bool,
    /// What the new segment must hold.
    rows: u64,
    live: SetHash,
    report: Report,
}

impl Work {
    /// `live` is the sum of the hashes of the tail's rows that survive.
    fn new(snapshot: &Unfolded, inputs: &Inputs, folded: &Winners, live: SetHash) -> Self {
        let recent = snapshot.tail.iter().flat_map(|e| {
            let seq = e.seq();
            e.entry.batches.iter().map(move |b| Recent::of(seq, b))
        });
        let accepted: SetHash = folded.accepted.iter().copied().sum();
        let pruned_rows = folded.superseded + folded.tombstones + folded.expired;
        Work {
            position: snapshot.position,
            accepted,
            pruned: accepted - live + inputs.pruned(),
            recent: recent.collect(),
            more: snapshot.more,
            rows: folded.live_rows + inputs.moved_rows(),
            live: live + inputs.moved(),
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

    /// A merge of segments alone, to follow `base`.
    pub(crate) fn merge(base: &Manifest, inputs: &Inputs) -> Self {
        Work {
            position: base.watermark,
            accepted: SetHash::default(),
            pruned: inputs.pruned(),
            recent: Vec::new(),
            more: false,
            rows: inputs.moved_rows(),
            live: inputs.moved(),
            report: Report {
                segments_in: base.segments.len(),
                merged: inputs.merged.len(),
                marked: inputs.marked(),
                pruned: inputs.marked(),
                expired: inputs.expired,
                ..Report::default()
            },
        }
    }

    /// INV-6, before anything is uploaded: what was read is in the new segment or accounted for, and nothing else.
    fn check(&self, base: &Manifest, inputs: &Inputs, built: Option<&Made>) -> Result<()> {
        self.check_built(built)?;
        let live = self.live;
        let after = base.hashes.live + self.accepted - self.pruned;
        let all_read = inputs.merged.len() == base.segments.len();
        if all_read && after != live {
            return Err(Error::internal("INV-6: the segments do not hold the rows that the manifest counts"));
        }
        Ok(())
    }
}

impl Work {
    /// The first half of it.
    pub(crate) fn check_built(&self, built: Option<&Made>) -> Result<()> {
        let (rows, live) = built.map_or((0, SetHash::default()), |b| (b.rows(), b.hash));
        match rows == self.rows && live == self.live {
            true => Ok(()),
            false => Err(Error::internal("INV-6: the new segment does not hold what was read")),
        }
    }
}

/// Every entry must hold the rows that its header announces.
fn check_entries(snapshot: &Unfolded, folded: &Winners) -> Result<()> {
    for (entry, hash) in snapshot.tail.iter().zip(&folded.accepted) {
        if entry.entry.batches.iter().map(|b| b.hash).sum::<SetHash>() != *hash {
            return Err(Error::corrupt(&entry.entry.key, "its rows are not those of its header"));
        }
    }
    Ok(())
}

fn nothing(snapshot: &Unfolded) -> Report {
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
pub(crate) fn blocking<T>(work: impl FnOnce() -> T) -> T {
    if runs_beside() { tokio::task::block_in_place(work) } else { work() }
}

/// Whether tasks of this runtime run beside [`blocking`] work.
fn runs_beside() -> bool {
    use tokio::runtime::{Handle, RuntimeFlavor};
    Handle::try_current().is_ok_and(|h| h.runtime_flavor() == RuntimeFlavor::MultiThread)
}

#[cfg(test)]
mod tests;
