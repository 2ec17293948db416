//! A compaction under a limit of time: folds what a slow core folds in it, and leaves merges that take longer to jobs, which
//! go on from one invocation to the next.

use std::sync::Arc;
use std::time::Duration;

use esker_format::Result;
use esker_format::keys::{self, Made};
use esker_format::manifest::{Manifest, Segment};
use esker_store::{Collection, Meter, Unfolded};

use super::{Compactor, Listener, ROW_BYTES, Report, plan};
use crate::job::{self, Ended, Pace, Steps};

/// Bytes of rows that a slow core folds in a second.
const RATE: u64 = 6 << 20;
/// A further fold is begun with at least this much time.
const LEAST: Duration = Duration::from_secs(3);
/// A merge waits until the log is folded, but not once there are so many segments.
const MANY_SEGMENTS: usize = 128;

/// What one commit may do.
pub(super) struct Limit {
    /// Most bytes of rows that it takes from the log, and that it merges.
    bytes: u64,
    /// Segments that a job is merging.
    spared: Vec<Made>,
}

impl Limit {
    /// Keeps the oldest entries that are few enough; one at least.
    pub(super) fn cut(&self, unfolded: &mut Unfolded) {
        let mut bytes = 0;
        let fits = unfolded.tail.iter().take_while(|entry| {
            bytes += entry.entry.bytes;
            bytes <= self.bytes
        });
        let keep = fits.count().max(1);
        if keep < unfolded.tail.len() {
            unfolded.tail.truncate(keep);
            unfolded.position = unfolded.tail[keep - 1].seq();
            unfolded.more = true;
        }
    }

    /// Of the segments to merge with `fresh` rows leaves out those of a job, and the larger ones from where they are too many.
    pub(super) fn spare(&self, manifest: &Manifest, fresh: u64, merges: &mut [bool]) {
        let row = manifest.settings.stride() as u64 + ROW_BYTES;
        let mut bytes = fresh * row;
        for i in plan::smallest_first(&manifest.segments) {
            let segment = &manifest.segments[i];
            let own = size(segment).max(segment.live() * row);
            merges[i] &= !self.spared.contains(&segment.made) && bytes.saturating_add(own) <= self.bytes;
            bytes += if merges[i] { own } else { 0 };
        }
    }
}

/// Bytes of the rows that count.
pub(super) fn size(segment: &Segment) -> u64 {
    (u128::from(segment.rows_size) * u128::from(segment.live()) / u128::from(segment.rows.max(1))) as u64
}

impl Compactor {
    /// [`Compactor::compact`] for who has time until the clock's `elapsed` is `until`. A merge that takes longer is made in
    /// steps: what is left of it, if there is something left, another call goes on with, of any process. A mark stands while
    /// there is, and a step that came further puts one anew, which wakes who goes on. Such a merge is begun if the call
    /// `begins` any, and left to who is woken then: with all of their time, and again should they fail.
    ///
    /// # Errors
    /// As [`Compactor::compact`].
    pub async fn compact_until(
        &self,
        meter: &Meter,
        collection: &Arc<Collection>,
        until: Duration,
        begins: bool,
        progress: Listener<'_>,
    ) -> Result<(Report, Option<Steps>)> {
        self.compact_at(RATE, meter, collection, until, begins, progress).await
    }

    /// The same at so many bytes a second.
    pub(crate) async fn compact_at(
        &self,
        rate: u64,
        meter: &Meter,
        collection: &Arc<Collection>,
        until: Duration,
        begins: bool,
        progress: Listener<'_>,
    ) -> Result<(Report, Option<Steps>)> {
        let clock = &collection.client().seams().clock;
        let found = job::find(meter, collection).await?;
        let mut all: Option<Report> = None;
        let (more, newest) = loop {
            // Behind writers that do not stop a job would never end: it has every other call to itself, by chance.
            if found.is_some() && collection.client().seams().random.unit() < 0.5 {
                break (true, None);
            }
            let left = until.saturating_sub(clock.elapsed());
            if all.is_some() && left < LEAST {
                break (true, None);
            }
            let spared = found.iter().flat_map(|found| found.inputs()).collect();
            let bytes = u128::from(rate) * left.as_millis() * 2 / 3 / 1000;
            let limit = Limit { bytes: u64::try_from(bytes).unwrap_or(u64::MAX), spared };
            let (report, more) = self.commit(meter, collection, Some(&limit), progress).await?;
            let committed = report.committed;
            all = Some(match all {
                None => report,
                Some(all) => all.and(report),
            });
            if found.is_some() {
                break (more, None);
            }
            if !more {
                // What was folded may have hollowed a segment, or be one too many.
                let manifest = collection.manifest(meter).await?;
                let mut merges = plan::merges(&manifest.segments, 0);
                limit.spare(&manifest, 0, &mut merges);
                if !committed || !merges.contains(&true) {
                    break (false, Some(manifest));
                }
            }
        };
        let manifest = match newest {
            Some(newest) => newest,
            None => collection.manifest(meter).await?,
        };
        let Some(found) = found else {
            let due = begins && (!more || manifest.segments.len() >= MANY_SEGMENTS);
            let steps = if due { self.begin(meter, collection, &manifest).await? } else { None };
            if more && steps.is_none() {
                mark(meter, collection, &manifest).await;
            }
            return Ok((all.unwrap_or_default(), steps));
        };
        if !found.is_marked() {
            mark(meter, collection, &manifest).await;
        }
        let pace = Pace::new(clock.clone(), until);
        match found.run(meter, collection, &self.options, pace, progress).await? {
            Ended::Paused(steps) => Ok((all.unwrap_or_default(), Some(steps))),
            Ended::Committed(merged) => {
                let manifest = collection.manifest(meter).await?;
                if more {
                    mark(meter, collection, &manifest).await;
                }
                let steps = self.begin(meter, collection, &manifest).await?;
                let report = match all {
                    None => merged,
                    Some(all) => all.and(merged),
                };
                Ok((report, steps))
            }
        }
    }

    /// Begins a job of the segments that are due, if there are any, and leaves it to who is woken.
    async fn begin(
        &self,
        meter: &Meter,
        collection: &Arc<Collection>,
        manifest: &Arc<Manifest>,
    ) -> Result<Option<Steps>> {
        let merges = plan::merges(&manifest.segments, 0);
        let inputs = manifest.segments.iter().zip(&merges).filter(|(_, merges)| **merges);
        let inputs: Vec<Segment> = inputs.map(|(s, _)| s.clone()).collect();
        if inputs.is_empty() {
            return Ok(None);
        }
        // For the next tick, should the job not get one of its own …
        mark(meter, collection, manifest).await;
        // … which merges at once what has no live row at all.
        if inputs.iter().all(|s| s.live() == 0) {
            return Ok(None);
        }
        let begun = job::begin(meter, collection, manifest, inputs, &self.options).await?;
        begun.leave(meter, collection, &self.options).await.map(Some)
    }
}

#[cfg(test)]
impl Compactor {
    /// Folds an entry at a time, and merges nothing.
    pub(crate) async fn only_fold(&self, meter: &Meter, collection: &Arc<Collection>) -> Result<()> {
        let limit = Limit { bytes: 1, spared: Vec::new() };
        while self.commit(meter, collection, Some(&limit), &|_| {}).await?.1 {}
        Ok(())
    }
}

/// Puts a mark that stands until something is committed. Failing costs time: a sweep finds the work.
async fn mark(meter: &Meter, collection: &Arc<Collection>, manifest: &Manifest) {
    let key = keys::dirty(collection.id(), manifest.watermark);
    if let Err(e) = collection.client().overwrite(meter, &key, bytes::Bytes::new()).await {
        tracing::warn!(collection = %collection.id(), error = %e, "a merge in steps has no mark");
    }
}
