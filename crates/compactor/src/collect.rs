//! Garbage: the only deleter.
//!
//! The order is the argument (docs/rfcs/0008-collection.md). What was retained is chosen by age and pins; the *floors* are
//! committed, which fences every writer, compactor and reader that does not know it; then a grace passes; pins are listed
//! again; versions no longer retained become stubs; and only then names at or below the floors go that no retained or
//! pinned version refers to. A crash anywhere leaves garbage below floors, which the next collection finds by listing.
//! Two collectors at once delete the same things, and one that slept only what an older floor gave up.

mod look;
mod reach;
mod reason;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use esker_format::manifest::{Floors, Manifest};
use esker_format::register::Refusal;
use esker_format::{Error, Kind, Result, Version};
use esker_store::{Collection, Commit, Io, Meter, Pin};
use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use look::{Candidate, Look, Mark, Object};
pub use reason::Reason;

/// Most rounds of one collection: another that commits first makes it look again.
const ROUNDS: u32 = 5;
/// Upper bound of the wait between two rounds.
const WAIT: Duration = Duration::from_millis(500);
/// Requests in flight while deleting.
const IN_FLIGHT: usize = 64;
/// Old versions alone are worth a commit, which makes a version itself, from this many on.
const WORTH: usize = 16;

/// How long things are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CollectOptions {
    /// Versions that were the newest less long ago than this stay readable by `as_of`.
    pub retain: Duration,
    /// Time between a committed floor and the first delete below it.
    pub grace: Duration,
}

impl Default for CollectOptions {
    fn default() -> Self {
        CollectOptions { retain: Duration::from_secs(60 * 60), grace: Duration::from_secs(60) }
    }
}

/// Something that goes, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Item {
    /// The object, relative to the store.
    pub key: String,
    /// Its bytes.
    pub bytes: u64,
    /// Why.
    pub reason: Reason,
}

/// What a collection would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The newest version.
    pub version: Version,
    /// The floors that it would commit; those that stand, when nothing needs higher ones.
    pub floors: Floors,
    /// Whether they are higher than those that stand.
    pub raises: bool,
    /// The collection was dropped: everything but its register goes.
    pub dropped: bool,
    /// Versions that pins keep.
    pub pinned: Vec<Version>,
    /// Each object that would be deleted, or overwritten by a stub.
    pub items: Vec<Item>,
    /// Bytes of all of them.
    pub bytes: u64,
}

/// What a collection did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Collected {
    /// The version with the floors under which it deleted.
    pub version: Version,
    /// These floors.
    pub floors: Floors,
    /// Whether it raised them.
    pub committed: bool,
    /// Objects deleted.
    pub deleted: u64,
    /// Manifests overwritten by stubs.
    pub stubbed: u64,
    /// Bytes of what was deleted, and of the manifests overwritten.
    pub bytes: u64,
    /// What it asked of the store.
    #[serde(skip)]
    pub io: Io,
}

/// What a collection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Listing.
    Look,
    /// Waiting between floor and delete; in seconds.
    Wait,
    /// Deleting; in objects.
    Delete,
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

/// Hears how far a collection is.
pub type Listener<'a> = &'a (dyn Fn(Progress) + Sync);

/// Collects garbage. Holds nothing between collections: everything it needs to know is in the store.
#[derive(Debug, Clone, Copy, Default)]
pub struct Collector {
    options: CollectOptions,
}

impl Collector {
    /// A collector.
    pub fn new(options: CollectOptions) -> Self {
        Collector { options }
    }

    /// What would be deleted and why. Writes nothing, and so takes this machine's clock for the store's, which a
    /// collection itself never does.
    pub async fn plan(&self, meter: &Meter, collection: &Arc<Collection>) -> Result<Plan> {
        let newest = collection.newest(meter).await?;
        let look = Look::at(meter, collection, &newest, None, &self.options).await?;
        let items: Vec<Item> = look.candidates.iter().map(|c| c.item.clone()).collect();
        Ok(Plan {
            version: newest.version,
            floors: look.floors,
            raises: look.floors != newest.floors,
            dropped: newest.dropped,
            pinned: look.held(&look.pins).into_iter().collect(),
            bytes: items.iter().map(|i| i.bytes).sum(),
            items,
        })
    }

    /// Commits floors, waits the grace, lists pins again, overwrites old manifests by stubs, deletes.
    ///
    /// # Errors
    /// Unknown when the outcome of the commit could not be learnt, Conflict when others committed first every time: in
    /// both cases nothing was deleted. After any other error the rest is up to the next collection.
    pub async fn run(
        &self,
        meter: &Meter,
        collection: &Arc<Collection>,
        progress: Listener<'_>,
    ) -> Result<Collected> {
        let seams = collection.client().seams();
        for round in 0..ROUNDS {
            progress(Progress { stage: Stage::Look, done: u64::from(round), total: u64::from(ROUNDS) });
            let newest = collection.newest(meter).await?;
            let mark = Mark::put(meter, collection, newest.version).await?;
            let done = self.round(meter, collection, newest, &mark, progress).await;
            // Left behind, it is garbage like any other.
            if let Err(e) = mark.remove(meter, collection).await {
                tracing::debug!(collection = %collection.id(), error = %e, "a mark of time was left behind");
            }
            if let Some(mut collected) = done? {
                collected.io = meter.io();
                return Ok(collected);
            }
            seams.clock.sleep(seams.jitter(WAIT)).await;
        }
        Err(Error::new(Kind::Conflict, format!("{} is collected by others", collection.id())))
    }

    /// One look and what follows from it; `None` if the floors that it chose are lower than another's by now.
    async fn round(
        &self,
        meter: &Meter,
        collection: &Arc<Collection>,
        newest: Arc<Manifest>,
        mark: &Mark,
        progress: Listener<'_>,
    ) -> Result<Option<Collected>> {
        let look = Look::at(meter, collection, &newest, Some(mark), &self.options).await?;
        let Some((fenced, committed)) = commit(meter, collection, newest, look.floors).await? else {
            return Ok(None);
        };
        let mut collected =
            Collected { version: fenced.version, floors: fenced.floors, committed, ..Collected::default() };
        if look.candidates.is_empty() {
            return Ok(Some(collected));
        }
        // Readers that were under way when the floors rose end, or notice.
        if committed || !look.fenced_before(self.options.grace) {
            self.wait(collection, progress).await;
        }
        // Whoever pins from now on sees the floors first; whoever pinned before them is listed now.
        let pins = collection.pins(meter).await?;
        // Every version that is retained, up to the one that fences: later ones refer to what that one refers to, and to
        // uploads that the floors spare.
        let kept = reach::kept(meter, collection, &look, look.floors.version, &fenced, &pins).await?;
        let going: Vec<&Candidate> = look.candidates.iter().filter(|c| look.goes(c, &kept, &pins)).collect();
        self.delete(meter, collection, &look, &pins, &going, progress, &mut collected).await?;
        Ok(Some(collected))
    }

    async fn wait(&self, collection: &Collection, progress: Listener<'_>) {
        let clock = &collection.client().seams().clock;
        let (start, total) = (clock.elapsed(), self.options.grace.as_secs());
        loop {
            let waited = clock.elapsed().saturating_sub(start);
            progress(Progress { stage: Stage::Wait, done: waited.as_secs(), total });
            let left = self.options.grace.saturating_sub(waited);
            if left.is_zero() {
                return;
            }
            clock.sleep(left.min(Duration::from_secs(1))).await;
        }
    }

    /// Stubs first: a version that is still a manifest has everything it refers to. Pins last: while one lies there, what
    /// it kept is looked for.
    #[expect(clippy::too_many_arguments, reason = "one call, the end of a round")]
    async fn delete(
        &self,
        meter: &Meter,
        collection: &Arc<Collection>,
        look: &Look,
        pins: &[Pin],
        going: &[&Candidate],
        progress: Listener<'_>,
        collected: &mut Collected,
    ) -> Result<()> {
        let (mut done, total) = (0, going.len() as u64);
        let mut tell = |collected: &mut Collected, items: &[&Candidate]| {
            done += items.len() as u64;
            collected.bytes += items.iter().map(|c| c.item.bytes).sum::<u64>();
            progress(Progress { stage: Stage::Delete, done, total });
        };
        let held = look.held(pins);
        let of = |stage: u8| going.iter().copied().filter(move |c| c.object.stage() == stage);
        // Those that an ended pin kept are far below the others.
        let unpinned = of(3).filter_map(|c| match c.object {
            Object::Pin(version) if look.is_below(version) && !held.contains(&version) => Some(version),
            _ => None,
        });
        let versions: BTreeSet<Version> = unpinned.chain(of(0).filter_map(|c| c.object.version())).collect();
        let versions: Vec<Version> = versions.into_iter().collect();
        // Oldest first, a group after the other: what a crash leaves is the newest of them, which the next listing has.
        for group in versions.chunks(IN_FLIGHT) {
            let stubs = group.iter().map(|version| {
                let meter = meter.fork();
                async move { collection.stub(&meter, *version).await }
            });
            let stubbed: Vec<bool> = together(stubs).await?;
            collected.stubbed += stubbed.into_iter().filter(|s| *s).count() as u64;
        }
        tell(collected, &of(0).collect::<Vec<_>>());
        for stage in 1..=3 {
            let items: Vec<&Candidate> = of(stage).collect();
            for group in items.chunks(IN_FLIGHT * 4) {
                let deletes = group.iter().map(|c| {
                    let (meter, client) = (meter.fork(), collection.client());
                    async move {
                        match c.object {
                            Object::Temporary => client.remove_temporary(&c.item.key).await,
                            _ => client.delete(&meter, &c.item.key).await,
                        }
                    }
                });
                together(deletes).await?;
                collected.deleted += group.len() as u64;
                tell(collected, group);
            }
        }
        Ok(())
    }
}

/// Commits floors if they are higher than those that stand: the manifest that has them, and whether this call did it.
async fn commit(
    meter: &Meter,
    collection: &Arc<Collection>,
    newest: Arc<Manifest>,
    floors: Floors,
) -> Result<Option<(Arc<Manifest>, bool)>> {
    if floors == newest.floors || newest.dropped {
        return Ok(Some((newest, false)));
    }
    match collection.collect(meter, &newest, floors).await? {
        Commit::Committed(manifest) => Ok(Some((manifest, true))),
        // Another collection committed the same floors, or higher ones.
        Commit::Refused { refusal: Refusal::Nothing, newest } => Ok(Some((newest, true))),
        Commit::Refused { newest: after, .. } if after.dropped || after.floors != newest.floors => Ok(None),
        Commit::Refused { refusal, .. } => Err(refusal.into_error()),
    }
}

/// Requests that are sent together.
async fn together<T, F: Future<Output = Result<T>>>(requests: impl IntoIterator<Item = F>) -> Result<Vec<T>> {
    let requests: Vec<F> = requests.into_iter().collect();
    stream::iter(requests).buffered(IN_FLIGHT).try_collect().await
}

/// Names of uploads that must stay.
type Kept = HashSet<esker_format::keys::Made>;

#[cfg(test)]
mod tests;
