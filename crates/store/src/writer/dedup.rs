//! Which batches of a group the log has already, by their tokens.

use std::sync::Arc;
use std::time::Duration;

use esker_format::manifest::{Manifest, Recent};
use esker_format::record::Op;
use esker_format::wal::{Batch, PendingBatch};
use esker_format::{Content, Error, Kind, Result, Seq, Token};

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
                if !unread(&known).is_empty() {
                    // A reader of this process listed more meanwhile.
                    continue;
                }
                group.acknowledge_folded(&known.manifest);
                if group.in_slots(&known) {
                    // Rare. A floor below the slot, read after it, proves that the entry is the log's.
                    let newest = live(self.follow(meter, known.manifest.clone()).await?)?;
                    group.acknowledge_slots(&known, newest.floors.wal);
                    group.acknowledge_folded(&newest);
                    known = self.known().ok_or_else(forgotten)?;
                }
                group.refuse_forgotten(&known.manifest);
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
        let slots = unread(known);
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

/// The slots of the tail whose header was not read.
fn unread(known: &Known) -> Vec<Seq> {
    let unread = |seq: &Seq| known.slots.get(seq).is_none_or(|slot| slot.batches.is_none());
    (known.manifest.watermark + 1..=known.last()).filter(unread).collect()
}

/// A batch that the log has, or had.
pub(super) struct Written {
    position: Seq,
    rows: u32,
    /// Not known of what was folded.
    op: Option<Op>,
    content: Option<Content>,
}

impl Written {
    pub(super) fn in_log(seq: Seq, batch: &Batch) -> Self {
        Written { position: seq, rows: batch.rows, op: Some(batch.op), content: batch.content }
    }

    pub(super) fn folded(recent: &Recent) -> Self {
        Written { position: recent.seq, rows: recent.rows, op: None, content: recent.content }
    }

    /// The answer to a write under its token of this content, where that is known.
    pub(super) fn answer(&self, token: Token, content: Option<Content>, repeated: bool) -> Result<Appended> {
        match (self.content, content) {
            (Some(was), Some(is)) if was != is => Err(reused(token)),
            _ => Ok(Appended { position: self.position, rows: self.rows, repeated }),
        }
    }

    /// The answer to a batch that its caller asks for as it is.
    fn answer_batch(&self, batch: &PendingBatch, repeated: bool) -> Result<Appended> {
        let known = self.content.is_some() && batch.content.is_some();
        let same_shape = u64::from(self.rows) == batch.rows() && self.op.is_none_or(|op| op == batch.op);
        match known || same_shape {
            true => self.answer(batch.token, batch.content, repeated),
            false => Err(reused(batch.token)),
        }
    }
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
            offer: None,
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
            Some((Written::in_log(entry.seq(), batch), repeated))
        });
    }

    /// Whether a slot that was read has a batch of the group.
    fn in_slots(&self, known: &Known) -> bool {
        self.batches.iter().any(|q| in_slots(known, q, 0).is_some())
    }

    /// Answers the batches that slots above a floor have.
    fn acknowledge_slots(&mut self, known: &Known, floor: Seq) {
        self.answer(|queued| Some((in_slots(known, queued, floor)?, true)));
    }

    /// Answers the batches that the manifest has.
    pub(super) fn acknowledge_folded(&mut self, manifest: &Manifest) {
        self.answer(|queued| {
            let recent = manifest.recent.iter().find(|r| r.token == queued.batch.token)?;
            Some((Written::folded(recent), true))
        });
    }

    /// Refuses the batches of which no one can tell any more whether an earlier write has them.
    fn refuse_forgotten(&mut self, manifest: &Manifest) {
        for queued in std::mem::take(&mut self.batches) {
            match forgotten_token(manifest, queued.batch.token) {
                Some(e) if queued.batch.given => drop(queued.reply.send(Err(e))),
                _ => self.batches.push(queued),
            }
        }
    }

    /// The slot is another's for good: what remains is encoded anew for a later one.
    pub(super) fn lose_slot(&mut self) {
        self.target = None;
        self.sent = false;
        self.losses += 1;
    }

    fn answer(&mut self, find: impl Fn(&Queued) -> Option<(Written, bool)>) {
        for queued in std::mem::take(&mut self.batches) {
            match find(&queued) {
                Some((written, repeated)) => {
                    let reply = written.answer_batch(&queued.batch, repeated);
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
        Some(Written::in_log(*seq, batch))
    };
    known.slots.range(floor + 1..).find_map(of_slot)
}

/// What to say of a write that was tried before under this token, if the manifest may have forgotten it.
pub(super) fn forgotten_token(manifest: &Manifest, token: Token) -> Option<Error> {
    token.drawn_ms().filter(|at| *at <= manifest.forgotten_ms).map(|_| {
        let message =
            format!("whether the write of token {token} was done can no longer be told: it was too long ago");
        Error::new(Kind::Conflict, message)
            .with_hint("nothing was written now; read the records, and write what is missing under a new key")
    })
}

/// A token that names another write.
fn reused(token: Token) -> Error {
    let message = format!("the idempotency key, of token {token}, was used before for another write");
    Error::new(Kind::Conflict, message).with_hint("nothing was written; use a new key for new content")
}
