//! Which batches of a group the log has already, by their tokens.

use std::sync::Arc;
use std::time::Duration;

use esker_format::manifest::Manifest;
use esker_format::record::Op;
use esker_format::wal::Batch;
use esker_format::{Error, Kind, Result, Seq, Token};

use super::{Appended, FIRST_WAIT, Group, Queued, STALE, forgotten};
use crate::client::together;
use crate::collection::{Collection, Known, Slot, live};
use crate::meter::Meter;
use crate::tail::TailEntry;

/// Most times the tail is looked for again after a compaction and a collection overtook the reading of it.
const RESTARTS: u32 = 8;

impl Collection {
    /// Answers batches whose tokens were used before. Read for this: every header of the tail above a manifest that was
    /// the newest a moment ago (collectors wait 60 s, so nothing above its watermark is gone), and that manifest's
    /// recent tokens. Slots after those are rivals that the claim runs into and reads.
    pub(super) async fn find_repeated(
        &self,
        meter: &Meter,
        group: &mut Group,
        known: Known,
    ) -> Result<Known> {
        let mut known = known;
        for _ in 0..RESTARTS {
            if known.probed.is_none_or(|at| self.since(at) >= STALE) {
                live(self.follow(meter, known.manifest.clone()).await?)?;
                known = self.known().ok_or_else(forgotten)?;
            }
            if self.read_headers(meter, &known).await? {
                known = self.known().ok_or_else(forgotten)?;
                group.acknowledge_folded(&known.manifest);
                if group.in_slots(&known) {
                    // Rare. A floor below the slot, read after it, proves that the entry is the log's.
                    let newest = live(self.follow(meter, known.manifest.clone()).await?)?;
                    group.acknowledge_slots(&known, newest.floors.wal);
                    group.acknowledge_folded(&newest);
                    known = self.known().ok_or_else(forgotten)?;
                }
                return Ok(known);
            }
            // Folded and collected: a newer manifest has its tokens.
            live(self.follow(meter, known.manifest).await?)?;
            self.list_log_again(meter).await?;
            known = self.known().ok_or_else(forgotten)?;
        }
        Err(Error::new(
            Kind::Unavailable,
            format!("the log of {} changes faster than it can be read", self.id()),
        ))
    }

    /// Reads the header of every slot of the tail that was not read yet; whether all are there.
    pub(super) async fn read_headers(&self, meter: &Meter, known: &Known) -> Result<bool> {
        let unread = |seq: &Seq| known.slots.get(seq).is_none_or(|slot| slot.batches.is_none());
        let slots: Vec<Seq> = (known.manifest.watermark + 1..=known.last()).filter(unread).collect();
        let reads = slots.iter().map(|seq| {
            let meter = meter.fork();
            async move { self.read_entry(&meter, *seq, None).await }
        });
        let read: Vec<Option<Arc<TailEntry>>> = together(reads).await?;
        let complete = read.iter().all(Option::is_some);
        let slots = read.into_iter().flatten().map(|e| (e.seq(), Slot::of(e)));
        self.learn(known.manifest.clone(), None, slots);
        Ok(complete)
    }

    async fn list_log_again(&self, meter: &Meter) -> Result<()> {
        let newest = self.last_seen().ok_or_else(forgotten)?;
        let listed = self.list_log(meter).await?;
        self.learn(newest, None, listed);
        Ok(())
    }
}

/// A batch that the log has.
struct Written {
    position: Seq,
    rows: u32,
    /// Not known of what was folded.
    op: Option<Op>,
    repeated: bool,
}

impl Group {
    pub(super) fn new(batches: Vec<Queued>, start: Duration) -> Self {
        Group {
            batches,
            start,
            target: None,
            body: None,
            sent: false,
            losses: 0,
            wait: FIRST_WAIT,
            guard: None,
        }
    }

    /// Nobody waits for its answer. What it sent may land: to the next leader it is a rival's.
    pub(super) fn is_abandoned(&self) -> bool {
        self.batches.iter().all(|q| q.reply.is_closed())
    }

    pub(super) fn bytes(&self) -> usize {
        self.batches.iter().map(|q| q.batch.bytes()).sum()
    }

    /// Whether every batch of the group is in this entry.
    pub(super) fn all_in(&self, entry: &TailEntry) -> bool {
        self.batches.iter().all(|q| find(&entry.entry.batches, q.batch.token).is_some())
    }

    /// Answers the batches that are in an entry which is proven to be in the log.
    pub(super) fn acknowledge(&mut self, entry: &TailEntry, repeated: bool) {
        self.answer(|queued| {
            let batch = find(&entry.entry.batches, queued.batch.token)?;
            Some(Written { position: entry.seq(), rows: batch.rows, op: Some(batch.op), repeated })
        });
    }

    /// Whether a slot that was read has a batch of the group.
    fn in_slots(&self, known: &Known) -> bool {
        self.batches.iter().any(|q| in_slots(known, q, 0).is_some())
    }

    /// Answers the batches that slots above a floor have.
    fn acknowledge_slots(&mut self, known: &Known, floor: Seq) {
        self.answer(|queued| in_slots(known, queued, floor));
    }

    /// Answers the batches that the manifest has.
    pub(super) fn acknowledge_folded(&mut self, manifest: &Manifest) {
        self.answer(|queued| {
            let recent = manifest.recent.iter().find(|r| r.token == queued.batch.token)?;
            Some(Written { position: recent.seq, rows: recent.rows, op: None, repeated: true })
        });
    }

    /// The slot is another's for good: what remains is encoded anew for a later one.
    pub(super) fn lose_slot(&mut self) {
        self.target = None;
        self.sent = false;
        self.losses += 1;
    }

    fn answer(&mut self, find: impl Fn(&Queued) -> Option<Written>) {
        for queued in std::mem::take(&mut self.batches) {
            match find(&queued) {
                Some(Written { position, rows, op, repeated }) => {
                    let reply = match u64::from(rows) == queued.batch.rows() {
                        true if op.is_some_and(|op| op != queued.batch.op) => Err(reused_by(queued.batch.op)),
                        true => Ok(Appended { position, rows, repeated }),
                        false => Err(reused(queued.batch.rows(), rows)),
                    };
                    // Nobody may wait any more.
                    let _ = queued.reply.send(reply);
                }
                None => self.batches.push(queued),
            }
        }
    }
}

pub(super) fn find(batches: &[Batch], token: Token) -> Option<&Batch> {
    batches.iter().find(|b| b.token == token)
}

fn in_slots(known: &Known, queued: &Queued, floor: Seq) -> Option<Written> {
    let of_slot = |(seq, slot): (&Seq, &Slot)| {
        let batch = find(slot.batches.as_deref()?, queued.batch.token)?;
        Some(Written { position: *seq, rows: batch.rows, op: Some(batch.op), repeated: true })
    };
    known.slots.range(floor + 1..).find_map(of_slot)
}

/// A token that names a write of another kind.
fn reused_by(op: Op) -> Error {
    let (other, this) = match op {
        Op::Upsert => ("a delete", "an upsert"),
        Op::Delete => ("an upsert", "a delete"),
    };
    Error::new(Kind::Conflict, format!("the idempotency key was used before, for {other}; this is {this}"))
        .with_hint("use a new key for new content")
}

/// A token that names a write of other content.
pub(super) fn reused(rows: u64, before: u32) -> Error {
    let message =
        format!("the idempotency key was used before, for a batch of {before} records; this one has {rows}");
    Error::new(Kind::Conflict, message).with_hint("use a new key for new content")
}
