//! Writes that depend on what was read: an entry of their own, in the first slot after the read before which nothing
//! touches their ids.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use esker_format::append::{self, Between, Claim};
use esker_format::wal::PendingBatch;
use esker_format::{Content, Error, Kind, Result, Seq, Token};
use tokio::sync::{MutexGuard, oneshot};

use super::dedup::{Written, find, forgotten_token};
use super::{Appended, CONTENDED_AFTER, Group, Queued, lost};
use crate::collection::{Collection, Known, Slot, live};
use crate::meter::Meter;
use crate::snapshot::Snapshot;
use crate::tail::TailEntry;

/// The right to append next in this process: appends of others wait until it is dropped. The time that a write may take
/// counts from here.
#[derive(Debug)]
pub struct Turn<'c> {
    collection: &'c Collection,
    under_way: MutexGuard<'c, Option<Group>>,
    start: Duration,
    losses: u32,
}

/// How a conditional append ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claimed {
    /// Durable and visible, and nothing touched its ids between the read and it.
    Appended(Appended),
    /// Nothing was written: an id was touched after the read. Read again, decide again.
    Touched,
}

/// What a conditional write depends on.
#[derive(Debug)]
pub(super) struct Guard {
    /// Entries up to here were read by the caller, or leave the ids alone.
    read_at: Seq,
    /// Hashes of the ids.
    ids: Arc<HashSet<u64>>,
    between: Between,
}

impl Collection {
    /// Waits for the appends of this process that are under way, and holds back others.
    pub async fn turn(&self, meter: &Meter) -> Turn<'_> {
        let mut under_way = self.queue.leader.lock().await;
        if under_way.as_ref().is_some_and(|group| !group.is_abandoned()) {
            // What a cancelled leader left to others.
            self.lead(meter, &mut under_way).await;
        }
        *under_way = None;
        let start = self.client().seams().clock.elapsed();
        Turn { collection: self, under_way, start, losses: 0 }
    }

    /// Which of these ids the entries after `since` wrote or deleted, and the last of these entries; `None` when not
    /// all of them are there any more.
    pub async fn touched_since(
        &self,
        meter: &Meter,
        since: Seq,
        ids: &HashSet<u64>,
    ) -> Result<Option<(Seq, HashSet<u64>)>> {
        let known = match self.known() {
            Some(known) => known,
            None => self.refresh(meter).await?,
        };
        let last = known.last().max(since);
        let Some(entries) = self.proven_between(meter, &known, since, last).await? else { return Ok(None) };
        let mut touched = HashSet::new();
        for entry in entries {
            touched.extend(entry.id_hashes()?.into_iter().filter(|id| ids.contains(id)));
        }
        Ok(Some((last, touched)))
    }

    /// Whether the entries before `seq` leave the ids of the group alone, if it depends on any.
    pub(super) async fn passes(
        &self,
        meter: &Meter,
        group: &mut Group,
        known: &Known,
        seq: Seq,
    ) -> Result<bool> {
        let Some(guard) = &mut group.guard else { return Ok(true) };
        if guard.read_at + 1 < seq {
            match self.proven_between(meter, known, guard.read_at, seq - 1).await? {
                None => guard.between = Between::Touched,
                Some(entries) => entries.iter().try_for_each(|entry| guard.pass(entry))?,
            }
        }
        if guard.is_touched() {
            // As good as a slot lost: others were faster.
            group.losses += 1;
            group.evaluate_again()?;
            return Ok(false);
        }
        Ok(true)
    }

    /// The entries in `(from, to]`, if they are the log's own for certain.
    async fn proven_between(
        &self,
        meter: &Meter,
        known: &Known,
        from: Seq,
        to: Seq,
    ) -> Result<Option<Vec<Arc<TailEntry>>>> {
        if from >= to {
            return Ok(Some(Vec::new()));
        }
        let entries = self.kept_entries(meter, known, from, to).await?;
        // After the reads: a name that was free to be put again by then is at or below the floor by now.
        let newest = live(self.follow(meter, known.manifest.clone()).await?)?;
        let proven = append::between(from, newest.floors.wal, entries.is_some(), false);
        let Some(entries) = entries.filter(|_| proven == Between::Untouched) else { return Ok(None) };
        self.learn(newest, None, entries.iter().map(|e| (e.seq(), Slot::of(e.clone()))));
        Ok(Some(entries))
    }
}

impl Turn<'_> {
    /// Appends a batch as an entry of its own, if no entry after `read_at` and before it touches one of `ids` (hashes of
    /// record ids).
    ///
    /// # Errors
    /// As [`Collection::append`]. `Conflict`, with a time to retry after, if other writers were faster eight times.
    pub async fn append_at(
        &mut self,
        meter: &Meter,
        batch: PendingBatch,
        read_at: Seq,
        ids: &Arc<HashSet<u64>>,
    ) -> Result<Claimed> {
        let token = batch.token;
        let (reply, mut answer) = oneshot::channel();
        let mut group = Group::new(vec![Queued { batch, reply }], self.start);
        group.losses = self.losses;
        group.guard = Some(Guard { read_at, ids: ids.clone(), between: Between::Untouched });
        *self.under_way = Some(group);
        let ended = self.collection.lead(meter, &mut self.under_way).await;
        self.losses = ended.losses;
        match answer.try_recv() {
            Ok(answered) => answered.map(Claimed::Appended),
            Err(_) if ended.touched => Ok(Claimed::Touched),
            Err(_) => Err(lost(token)),
        }
    }
}

impl Guard {
    pub(super) fn is_touched(&self) -> bool {
        self.between == Between::Touched
    }

    /// Looks at the next entry.
    pub(super) fn pass(&mut self, entry: &TailEntry) -> Result<()> {
        // What was read is what the caller decided by.
        if entry.seq() <= self.read_at {
            return Ok(());
        }
        match entry.id_hashes()?.iter().any(|id| self.ids.contains(id)) {
            true => self.between = Between::Touched,
            false => self.read_at = entry.seq(),
        }
        Ok(())
    }
}

impl Group {
    pub(super) fn gives_up(&self) -> bool {
        self.guard.as_ref().is_some_and(|g| append::claim(g.between, self.losses) == Claim::GiveUp)
    }

    /// Ends a conditional write without an answer, so that its caller evaluates again; or for good.
    pub(super) fn evaluate_again(&self) -> Result<()> {
        match self.gives_up() && !self.batches.is_empty() {
            false => Ok(()),
            true => {
                let message = format!("other writers were faster {} times in a row", self.losses);
                Err(Error::new(Kind::Conflict, message)
                    .with_hint("nothing was written; try again after a while")
                    .with_retry_after(CONTENDED_AFTER))
            }
        }
    }
}

impl Snapshot {
    /// What became of an earlier write under this token, in the tail or folded a while ago.
    ///
    /// # Errors
    /// `Conflict` if that was a write of other content, or may have been forgotten.
    pub fn written(&self, token: Token, content: Content) -> Result<Option<Appended>> {
        let in_tail = self
            .tail
            .iter()
            .find_map(|entry| Some(Written::in_log(entry.seq(), find(&entry.entry.batches, token)?)));
        let folded = || self.manifest.recent.iter().find(|r| r.token == token).map(Written::folded);
        match in_tail.or_else(folded) {
            Some(written) => written.answer(token, Some(content), true).map(Some),
            None => forgotten_token(&self.manifest, token).map_or(Ok(None), Err),
        }
    }
}

#[cfg(test)]
mod tests;
