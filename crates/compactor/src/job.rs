//! A merge of segments that takes longer than a process lives: made in steps, each of which goes on where others stopped
//! (docs/rfcs/0012-merges-in-steps.md).
//!
//! What it merges is fixed when it begins. Every piece of work is a function of that and of earlier pieces, and its result
//! is kept under a name of its own; a step makes the results that are missing, in an order that never changes, while it has
//! time. So a step that is killed costs what it had not kept, and two at once make the same things.

mod bench;
mod index;
mod learn;
mod pack;
mod pieces;
mod place;
mod sources;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use esker_format::keys::{self, Key, Made, Part};
use esker_format::manifest::{Manifest, Segment};
use esker_format::{Error, Kind, Result, SetHash};
use esker_store::{Collection, CreateReply, Meter, SegmentReader};
use futures::future::try_join_all;
use serde::Serialize;

use crate::build::units::Frame;
use crate::build::{self, Blob, BuildOptions, Choice, Target};
use crate::compact::{Commit, Inputs, Listener, Merged, Options, Report, Round, Sending, Work};
pub(crate) use bench::Pace;
use bench::{Bench, Stop};
use pieces::{Part as Cut, Piece};
use place::{Composed, File, Place};
use sources::{Plan, RESULTS, Sources};

/// What says what a job is about.
const JOB: &str = "job";
/// What counts how often a job was taken up with as much done as before.
const TRY: &str = "try";
/// What counts the marks that steps put at their end.
const WAKE: &str = "wake";
/// With so many places that its files were sent to, nobody is woken to send them to another.
const PLACES: usize = 8;
/// From so many tries on, a step says that it needs more.
const TRIES: usize = 3;
/// Deletes sent together.
const TOGETHER: usize = 64;

/// How far a merge in steps is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Steps {
    /// What it is at: `sample`, `train`, `refine`, `part`, `write`, `encode`, `calibrate`, `attributes`, `upload` or `commit`.
    pub stage: &'static str,
    /// Results kept so far …
    pub done: u64,
    /// … of about so many.
    pub total: u64,
    /// How many calls before this one got no further than where this one began, if nothing was added by this one either.
    pub stuck: Option<u64>,
}

/// How a step ended.
pub(crate) enum Ended {
    Committed(Report),
    Paused(Steps),
}

/// A job that was begun.
pub(crate) struct Found {
    made: Made,
    plan: Plan,
    deleted: Vec<roaring::RoaringBitmap>,
    have: BTreeSet<String>,
}

/// The job of a collection, if one is under way. Those whose inputs are gone are deleted.
pub(crate) async fn find(meter: &Meter, collection: &Arc<Collection>) -> Result<Option<Found>> {
    let mut jobs: BTreeMap<Made, BTreeSet<String>> = BTreeMap::new();
    let keys = collection.keys();
    for listed in collection.client().list_all(meter, &keys.work_prefix()).await? {
        if let Ok(Key::Of(_, Part::Work(made))) = Key::parse(&listed.key)
            && let Some(name) = listed.key.strip_prefix(&keys.job_prefix(made))
        {
            jobs.entry(made).or_default().insert(name.to_owned());
        }
    }
    if jobs.is_empty() {
        return Ok(None);
    }
    let manifest = collection.manifest(meter).await?;
    let mut found = None;
    for (made, have) in jobs {
        let sources = match have.contains(JOB) {
            true => plan(meter, collection, made).await?,
            false => None,
        };
        match sources {
            Some((plan, deleted)) if plan.stands(&manifest) => {
                // Of two that were begun at once everyone takes the first.
                found.get_or_insert(Found { made, plan, deleted, have });
            }
            _ => abandon(meter, collection, made, &have).await?,
        }
    }
    Ok(found)
}

/// What a job is about; `None` if it does not read back.
async fn plan(
    meter: &Meter,
    collection: &Arc<Collection>,
    made: Made,
) -> Result<Option<(Plan, Vec<roaring::RoaringBitmap>)>> {
    let key = collection.keys().job(made, JOB);
    let Some((bytes, _)) = collection.client().get(meter, &key).await? else { return Ok(None) };
    let read = pack::Unpack::open(&key, &bytes).and_then(|kept| Sources::unpack(collection, kept));
    match read {
        Ok(sources) => Ok(Some((Plan::clone(&sources.plan), sources.deleted))),
        Err(e) => {
            tracing::warn!(collection = %collection.id(), error = %e, "a merge in steps is given up");
            Ok(None)
        }
    }
}

/// Begins a job: no row that the segments have in `manifest` is lost, nor one added.
pub(crate) async fn begin(
    meter: &Meter,
    collection: &Arc<Collection>,
    manifest: &Arc<Manifest>,
    inputs: Vec<Segment>,
    options: &Options,
) -> Result<Found> {
    // A name of its own: nothing that an earlier job over the same inputs left, or does late, is about this one. Of two that
    // begin at once the first by name is gone on with.
    let made = Made { base: manifest.version, token: collection.client().seams().token() };
    let all = inputs.len() == manifest.segments.len();
    let plan = Plan {
        results: RESULTS,
        version: manifest.version,
        inputs,
        settings: manifest.settings.clone(),
        schema: manifest.schema.clone(),
        seed: options.seed,
        memory: options.memory,
        now_ms: collection.client().seams().clock.now_ms(),
        live: all.then_some(manifest.hashes.live),
    };
    let sources = Sources::of_plan(meter, collection, plan).await?;
    let pace = Pace::new(collection.client().seams().clock.clone(), std::time::Duration::MAX);
    let mut bench = Bench::new(meter, collection, made, BTreeSet::new(), pace);
    let kept = bench.keep(JOB, sources.pack()?).await?;
    let sources = Sources::unpack(collection, kept)?;
    let have = [JOB.to_owned()].into();
    Ok(Found { made, plan: Plan::clone(&sources.plan), deleted: sources.deleted, have })
}

/// Deletes everything of a job.
async fn abandon(
    meter: &Meter,
    collection: &Arc<Collection>,
    made: Made,
    have: &BTreeSet<String>,
) -> Result<()> {
    // First what says that there is a job: what is left of one without it is garbage.
    let (first, names): (Vec<&String>, Vec<&String>) = have.iter().partition(|name| *name == JOB);
    for group in [first].iter().map(Vec::as_slice).chain(names.chunks(TOGETHER)) {
        let deletes = group.iter().map(|name| {
            let (meter, key) = (meter.fork(), collection.keys().job(made, name));
            async move { collection.client().delete(&meter, &key).await }
        });
        try_join_all(deletes).await?;
    }
    collection.client().delete(meter, &keys::dirty_job(collection.id(), made)).await
}

impl Found {
    /// Whether a mark says that it is to be gone on with.
    pub(crate) fn is_marked(&self) -> bool {
        self.have.iter().any(|name| name.starts_with(WAKE))
    }

    /// The segments that it merges.
    pub(crate) fn inputs(&self) -> impl Iterator<Item = Made> + '_ {
        self.plan.inputs.iter().map(|input| input.made)
    }

    /// Leaves what was just begun to who is woken.
    pub(crate) async fn leave(
        self,
        meter: &Meter,
        collection: &Arc<Collection>,
        options: &Options,
    ) -> Result<Steps> {
        let Found { made, plan, deleted, have } = self;
        let sources = Sources::new(collection, plan, deleted);
        let total = about(&sources, &frame(collection, &sources.plan, options));
        let pace = Pace::new(collection.client().seams().clock.clone(), std::time::Duration::MAX);
        let bench = Bench::new(meter, collection, made, have, pace);
        bench.wake().await?;
        Ok(Steps { stage: "sample", done: bench.results() as u64, total, stuck: None })
    }

    /// Goes on with it while there is time, and commits it when all is there.
    ///
    /// # Errors
    /// What is wrong with the job itself ends it: the next call begins another.
    pub(crate) async fn run(
        self,
        meter: &Meter,
        collection: &Arc<Collection>,
        options: &Options,
        pace: Pace,
        progress: Listener<'_>,
    ) -> Result<Ended> {
        let Found { made, plan, deleted, have } = self;
        let sources = Sources::new(collection, plan, deleted);
        let mut bench = Bench::new(meter, collection, made, have, pace);
        let tries = tried(&mut bench).await?;
        if tries >= TRIES {
            tracing::error!(
                collection = %collection.id(), tries,
                "a merge in steps gets no further: give the function more time or memory"
            );
        }
        let plan = Arc::clone(&sources.plan);
        let frame = frame(collection, &plan, options);
        match steps(&mut bench, &sources, &frame, progress).await {
            Ok(report) => {
                bench.abandon().await;
                Ok(Ended::Committed(report))
            }
            Err(stop @ (Stop::Time | Stop::Again)) => {
                let places = bench.last("place").unwrap_or(0);
                if bench.new_results() > 0 || matches!(stop, Stop::Again) && places < PLACES {
                    bench.wake().await?;
                }
                let stuck = (bench.new_results() == 0 && tries >= TRIES).then_some(tries as u64);
                let (done, stage) = (bench.results() as u64, bench.stage);
                Ok(Ended::Paused(Steps { stage, done, total: about(&sources, &frame).max(done + 1), stuck }))
            }
            Err(Stop::Failed(e)) => {
                // What does not read back, or makes no sense together, would not do so in the next step either.
                let own = e.to_string().contains(&collection.keys().job_prefix(made));
                if e.kind() == Kind::Internal || own && matches!(e.kind(), Kind::Corrupt | Kind::NotFound) {
                    tracing::warn!(collection = %collection.id(), error = %e, "a merge in steps is given up");
                    bench.abandon().await;
                }
                Err(e)
            }
        }
    }
}

impl Bench<'_> {
    /// Wakes who goes on. Of all steps that began before one of them did so, one: steps that others woke meanwhile make no
    /// second row of them.
    async fn wake(&self) -> Result<()> {
        let number = self.last(WAKE).map_or(0, |last| last + 1);
        let client = self.collection.client();
        let key = self.collection.keys().job(self.made, &format!("{WAKE}-{number}"));
        if matches!(client.create(self.meter, &key, bytes::Bytes::new()).await, CreateReply::Exists) {
            return Ok(());
        }
        // Two too many would do no harm, none too few would: what became of the name is all the same.
        let mark = keys::dirty_job(self.collection.id(), self.made);
        client.overwrite(self.meter, &mark, number.to_string().into()).await
    }

    /// Deletes everything of the job, as far as the store lets it: what is left the next call finds, or a collection.
    async fn abandon(&self) {
        let done = async {
            if let Some(number) = self.last("place") {
                let place: Place = self.load_last("place", number).await?.json()?;
                place::forget(self, &place).await;
            }
            let prefix = self.collection.keys().job_prefix(self.made);
            let listed = self.collection.client().list_all(self.meter, &prefix).await?;
            let names = listed.iter().filter_map(|l| l.key.strip_prefix(&prefix).map(str::to_owned));
            abandon(self.meter, self.collection, self.made, &names.collect()).await
        };
        if let Err(e) = done.await {
            tracing::debug!(collection = %self.collection.id(), error = %e, "a merge in steps left something behind");
        }
    }
}

/// What a job is built with.
fn frame<'a>(collection: &'a Collection, plan: &'a Plan, options: &Options) -> Frame<'a> {
    Frame {
        target: Target { collection: collection.id(), settings: &plan.settings, schema: &plan.schema },
        options: BuildOptions {
            seed: plan.seed,
            threads: options.threads,
            copies: Choice::Never,
            basis: Choice::Never,
        },
        memory: plan.memory,
        rows: plan.rows(),
        row_bytes: plan.row_bytes(),
    }
}

/// How often the job was taken up before with as much done as now.
async fn tried(bench: &mut Bench<'_>) -> Result<usize> {
    let name = format!("{TRY}-{}", bench.results());
    let tries = bench.last(&name).map_or(0, |last| last + 1);
    bench.count(&format!("{name}-{tries}")).await?;
    Ok(tries)
}

/// Results of all stages, about.
fn about(sources: &Sources<'_>, frame: &Frame<'_>) -> u64 {
    let (groups, rows) = (sources.groups.len() as u64, frame.rows);
    let pieces = rows.div_ceil(u64::from(frame.group_rows()));
    let files = rows * (frame.target.settings.stride() as u64 + 256) / (32 << 20) + 2;
    let columns = frame.target.schema.columns.len() as u64 + 5;
    2 * groups + groups / 8 + 16 + rows * 3 / 2 / frame.capacity() as u64 + 2 * pieces + 32 + columns + files
}

/// All of it, as far as there is time.
async fn steps(
    bench: &mut Bench<'_>,
    sources: &Sources<'_>,
    frame: &Frame<'_>,
    progress: Listener<'_>,
) -> Result<Report, Stop> {
    let parts = pieces::parts(bench, sources, frame).await?;
    let (built, placed) = match parts.iter().map(Cut::rows).sum::<usize>() {
        0 => (None, None),
        rows => {
            bench.stage = "write";
            let (pieces, centres) = pieces::pieces(bench, frame, &parts).await?;
            let (built, made) = files(bench, frame, &pieces, centres, rows).await?;
            (Some(built), Some(made))
        }
    };
    bench.stage = "commit";
    bench.turn()?;
    let (meter, collection) = (bench.meter, bench.collection);
    let base = collection.manifest(meter).await?;
    let inputs = inputs(bench, sources, &parts).await?;
    let work = Work::merge(&base, &inputs);
    work.check_built(built.as_ref())?;
    if sources.plan.live.is_some_and(|live| live - inputs.pruned() != inputs.moved()) {
        let message = "INV-6: the segments do not hold the rows that the manifest counted";
        return Err(Error::internal(message).into());
    }
    if let (Some(built), Some(made)) = (&built, placed) {
        place::checked(bench, built, made).await?;
    }
    let sending = Sending::default();
    let commit = Commit { meter, collection, base, inputs, work, built, placed, sending, progress };
    match commit.run().await? {
        Round::Done(report, _) => Ok(*report),
        // The inputs are gone, or the place is below a floor by now: the next step sees which.
        Round::Overtaken => Err(Stop::Again),
    }
}

/// Makes the segment's files and sends them.
async fn files(
    bench: &mut Bench<'_>,
    frame: &Frame<'_>,
    pieces: &[Piece],
    centres: pieces::Centres,
    rows: usize,
) -> Result<(build::Made, Made), Stop> {
    let layout = index::layout(bench, frame, pieces).await?;
    let rows_size = layout.address.file_size;
    let rows_file = Composed::rows(&layout, pieces);
    let place = place::begun(bench).await?;
    // Before the codes are there, which every later step has to read.
    if rows_file.len() != rows_size {
        return Err(Error::internal("the rows of a segment are not as long as they were laid out").into());
    }
    place::sent(bench, &place, File::Rows, &rows_file).await?;
    let leaf_starts = centres.starts.clone();
    let laid = index::laid(bench, frame, pieces, layout, centres).await?;
    let index_file = Composed::index(&laid, pieces);
    if index_file.len() != laid.summary.size {
        return Err(Error::internal("the index of a segment is not as long as it was laid out").into());
    }
    place::sent(bench, &place, File::Index, &index_file).await?;
    let order: Vec<u32> = pieces.iter().flat_map(|piece| &piece.order).copied().collect();
    if order.len() != rows {
        return Err(Error::internal("the row groups of a segment have other rows than its parts").into());
    }
    let built = build::Made {
        rows_file: Blob::Placed(rows_size),
        index_file: Blob::Placed(laid.summary.size),
        header: laid.header(),
        summary: laid.summary,
        codes: laid.codes,
        order,
        leaf_starts,
        seqs: laid.seqs,
        hash: laid.sum,
        copied: 0,
    };
    Ok((built, place.1.made))
}

/// What the commit has to know of the inputs: which rows moved, and where they were.
async fn inputs(bench: &Bench<'_>, sources: &Sources<'_>, parts: &[Cut]) -> Result<Inputs> {
    let plan = &sources.plan;
    let mut inputs =
        Inputs { segments: plan.inputs.clone(), merged: Vec::new(), kept: Vec::new(), expired: 0 };
    let mut first = 0;
    for (number, segment) in plan.inputs.iter().enumerate() {
        // What is dead is known: that bitmap may be gone by now.
        let bare = Segment { deletes: None, ..segment.clone() };
        let reader = SegmentReader::open(bench.collection, bench.meter, &bare, None).await?;
        let mut merged = Merged {
            reader,
            deleted: sources.deleted[number].clone(),
            moved: Vec::new(),
            first,
            dropped: BTreeMap::new(),
            hash: SetHash::default(),
        };
        let own = sources.groups.iter().zip(parts).filter(|(group, _)| group.input == number);
        for (group, part) in own {
            merged.dropped.extend(part.dropped.iter().copied());
            let dropped = &merged.dropped;
            merged.moved.extend(sources.ordinals(*group).filter(|ordinal| !dropped.contains_key(ordinal)));
            merged.hash += part.hash;
        }
        first += merged.moved.len();
        inputs.expired += merged.dropped.len() as u64;
        inputs.merged.push(merged);
    }
    Ok(inputs)
}

#[cfg(test)]
mod tests;
