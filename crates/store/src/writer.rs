//! Appending to the log: the four steps, and group commit.
//!
//! Callers queue their batches; one of them, the leader, commits whatever has queued as one entry. The group under way
//! belongs to the collection and not to its leader: when a leader is cancelled, the next one goes on with it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use esker_format::append::{self, Outcome, Probe, Slot as Found};
use esker_format::keys;
use esker_format::manifest::Manifest;
use esker_format::wal::{self, BodyRef, EntryParts, PendingBatch};
use esker_format::{Error, Kind, Result, Seq, Token, limits};
use futures::future::OptionFuture;
use tokio::sync::oneshot;

use crate::client::CreateReply;
use crate::collection::{Collection, Known, Slot, gone};
use crate::meter::Meter;
use crate::tail::TailEntry;

mod carry;
mod conditional;
mod dedup;
mod inbox;

use carry::Waiting;
use conditional::Guard;
pub use conditional::{Claimed, Turn};

/// An append gives up resolving its outcome after this.
const DEADLINE: Duration = Duration::from_secs(25);
/// What is known is looked at again before an append when it is older than this: a slot that a collector may have
/// reached by now could only end as unknown.
const STALE: Duration = Duration::from_secs(60);
/// Bytes of the batches of one entry, unless a single batch has more.
const GROUP_BYTES: usize = limits::BATCH_BYTES;
/// Upper bound of the first wait after a slot was lost or stayed absent.
const FIRST_WAIT: Duration = Duration::from_millis(10);
/// Greatest upper bound of a wait for a slot that stays absent: the store is in trouble.
const MOST_WAIT: Duration = Duration::from_secs(1);
/// Greatest upper bound of the wait after a lost slot, a commit or two long: who waits longer than those who win is
/// never in time, and starves.
const MOST_RIVAL_WAIT: Duration = Duration::from_millis(100);
/// When to try again where compactions have to make room, about as long as one takes.
const ROOM_AFTER: Duration = Duration::from_secs(5);
/// When to try again where other writers were faster.
const CONTENDED_AFTER: Duration = Duration::from_secs(1);

/// A durable, visible batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The collection's position from which on reads see the batch.
    pub position: Seq,
    /// Records of the batch.
    pub rows: u32,
    /// An earlier write with the same token had done it; nothing was written now.
    pub repeated: bool,
}

/// Batches that wait for a leader, and the group under way.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: Mutex<VecDeque<Queued>>,
    leader: tokio::sync::Mutex<Option<Group>>,
    contention: Mutex<inbox::Contention>,
}

/// A batch and who waits for it.
#[derive(Debug)]
struct Queued {
    batch: PendingBatch,
    reply: oneshot::Sender<Result<Appended>>,
}

/// Batches that become one entry.
#[derive(Debug)]
struct Group {
    batches: Vec<Queued>,
    start: Duration,
    /// The slot tried and what is put there. Stays until the slot is resolved.
    target: Option<Target>,
    /// What was uploaded last of its rows.
    body: Option<Uploaded>,
    /// A put was sent, so the group may be in the log.
    sent: bool,
    /// Slots lost to rivals.
    losses: u32,
    wait: Duration,
    /// Of a conditional write: what the entries before its own must not touch.
    guard: Option<Guard>,
    /// It lies in the inbox, so that others may put it.
    offer: Option<Box<inbox::Offer>>,
}

/// How the leading of a group ended, beyond the answers given.
#[derive(Debug, Clone, Copy, Default)]
struct Ended {
    /// Slots lost to rivals.
    losses: u32,
    /// An entry before its own touched a conditional write, which was not written and has no answer.
    touched: bool,
}

#[derive(Debug, Clone)]
struct Target {
    seq: Seq,
    bytes: Bytes,
}

/// A body in the store.
#[derive(Debug)]
struct Uploaded {
    body: BodyRef,
    /// The batches in it.
    tokens: Vec<Token>,
    /// Slots that it serves beyond its first.
    reach: u64,
}

/// Slots beyond its first that the next body serves: none without a rival, so that it is collected with its entry; more
/// each time, so that small writes which are faster than an upload do not shut a large one out.
fn reach(last: Option<&Uploaded>) -> u64 {
    last.map_or(0, |u| (u.reach * 4).clamp(16, limits::BODY_REACH))
}

impl Collection {
    /// Appends a batch; returns when it is durable and visible. A token that its caller gave is looked for in the log first.
    ///
    /// Several calls that wait together become one entry, whose requests count on one of their meters.
    ///
    /// # Errors
    /// `Unknown` with the token if the outcome could not be learnt: retry with that token. `Busy` if the tail is at its
    /// limit. `Gone` if the collection was dropped. `Conflict` if its token names a write of other content. After every kind but `Unknown` nothing was written.
    pub async fn append(&self, meter: &Meter, batch: PendingBatch) -> Result<Appended> {
        let token = batch.token;
        let (reply, mut answer) = oneshot::channel();
        self.queue.waiting().push_back(Queued { batch, reply });
        loop {
            let mut group = tokio::select! {
                biased;
                answered = &mut answer => return answered.unwrap_or_else(|_| Err(lost(token))),
                leader = self.queue.leader.lock() => leader,
            };
            if let Ok(answered) = answer.try_recv() {
                return answered;
            }
            if group.as_ref().is_none_or(Group::is_abandoned) {
                // Calls that began with this one wait by then, such as those of one event.
                tokio::task::yield_now().await;
                *group = self.queue.take(self.client().seams().clock.elapsed());
            }
            if group.is_some() {
                self.lead(meter, &mut group).await;
            }
        }
    }

    /// Commits the group in `under_way` and answers everyone who waits for it.
    async fn lead(&self, meter: &Meter, under_way: &mut Option<Group>) -> Ended {
        let Some(group) = under_way.as_mut() else { return Ended::default() };
        let clock = &self.client().seams().clock;
        let left = DEADLINE.saturating_sub(clock.elapsed() - group.start);
        let failed = tokio::select! {
            biased;
            // Boxed: its frames would be part of every write's future.
            done = Box::pin(self.commit_group(meter, group)) => done.err(),
            // The store may not answer at all. What was sent may still land, which the next leader finds out.
            () = clock.sleep(left) => Some(late()),
        };
        let Some(group) = under_way.take() else { return Ended::default() };
        let touched = failed.is_none() && group.guard.as_ref().is_some_and(Guard::is_touched);
        let ended = Ended { losses: group.losses, touched };
        for queued in group.batches {
            if touched {
                break;
            }
            let sent = group.sent || group.offer.is_some();
            let cause = match &failed {
                Some(e) if e.kind() == Kind::Unavailable && !sent && group.losses > 0 => contended(),
                Some(e) => e.copied(),
                None => Error::internal("a group ended with a batch left over"),
            };
            let error = if sent { unknown(cause, queued.batch.token) } else { cause };
            // Nobody may wait any more.
            let _ = queued.reply.send(Err(error));
        }
        ended
    }

    /// Runs the four steps until every batch of the group is answered; those that are not are in the group on an error.
    async fn commit_group(&self, meter: &Meter, group: &mut Group) -> Result<()> {
        loop {
            // Step 1: learn the newest version and the last slot.
            let known = self.known_to_append(meter).await?;
            let Some(target) = self.claim(meter, group, known).await? else { return Ok(()) };

            // Step 2: create the slot. On any reply but "created" read it: mine, a rival's or absent.
            let (found, entry) = self.put_slot(meter, group, &target).await?;

            // Step 3: whatever step 2 said, probe the register *now*. Deletion follows a committed floor, so a floor
            // below the slot proves that its name was never deleted before and that my create was its first.
            let looks = found == Found::Mine && self.looks(group);
            let newest = self.probe_after(meter, target.seq, looks).await?;

            // Step 4: nothing but the reply may follow an acknowledgement.
            match append::settle(target.seq, found, &Probe::of_manifest(&newest)) {
                Outcome::Acknowledge => {
                    let carried = entry.is_some();
                    let entry = match entry {
                        Some(entry) => entry,
                        None => TailEntry::new(wal::decode(&self.keys().wal(target.seq), target.bytes)?),
                    };
                    if group.offer.is_some() {
                        let own = group.batches.len();
                        self.note_contention(&entry, own, own, carried);
                    }
                    group.acknowledge(&entry, false);
                    self.learn(newest, None, [(target.seq, Slot::of(entry))]);
                    return Ok(());
                }
                Outcome::Next => {
                    // The slot is a rival's for good: ours can never land there.
                    if let Some(rival) = entry {
                        group.acknowledge(&rival, group.offer.is_none());
                        match &mut group.offer {
                            Some(offer) => offer.pass(&rival),
                            None => self.note_contention(&rival, 0, group.batches.len(), false),
                        }
                        if let Some(guard) = &mut group.guard {
                            guard.pass(&rival)?;
                        }
                        self.learn(newest, None, [(target.seq, Slot::of(rival))]);
                    }
                    group.lose_slot();
                    if group.guard.as_ref().is_some_and(Guard::is_touched) || group.gives_up() {
                        return group.evaluate_again();
                    }
                    if group.losses > 1 && group.offer.is_none() {
                        self.back_off(group, MOST_RIVAL_WAIT).await;
                        self.refresh(meter).await?;
                    }
                }
                // A put that timed out may still land here: the same slot, never the next.
                Outcome::SameAgain => self.back_off(group, MOST_WAIT).await,
                Outcome::Unknown => {
                    // Folded and collected long ago, or put under a name that was: the manifest may still know.
                    group.acknowledge_folded(&newest);
                    return match group.batches.is_empty() {
                        true => Ok(()),
                        false => Err(Error::new(Kind::Unknown, "the log moved past this write")),
                    };
                }
                Outcome::Gone => return Err(gone(self.id())),
            }
        }
    }

    /// The newest version and the last slot, as of a moment ago.
    async fn known_to_append(&self, meter: &Meter) -> Result<Known> {
        match self.known().filter(|k| self.since(k.seen) < STALE) {
            Some(known) => Ok(known),
            None => self.refresh(meter).await,
        }
    }

    /// Lists the log beside head: the last slot, and a version to probe from.
    async fn refresh(&self, meter: &Meter) -> Result<Known> {
        let begun = self.begin_cold(meter).await?;
        if begun.manifest.dropped {
            return Err(gone(self.id()));
        }
        self.known().ok_or_else(forgotten)
    }

    /// The slot that is still unresolved, or the next one with the group encoded for it and its body, if it has one,
    /// uploaded. `None` if the log has every batch already.
    async fn claim(&self, meter: &Meter, group: &mut Group, known: Known) -> Result<Option<Target>> {
        if let Some(target) = &group.target {
            return Ok(Some(target.clone()));
        }
        // Boxed, as what few writes need: else every write's future would have room for it.
        if group.offer.is_some() {
            return Box::pin(self.combine(meter, group)).await;
        }
        let mut known = self.within_limits(meter, known).await?;
        if group.batches.iter().any(|q| q.batch.given) {
            known = self.find_repeated(meter, group, known).await?;
        }
        if group.batches.is_empty() {
            return Ok(None);
        }
        let waiting = match self.turns_to_inbox(group) {
            true => Waiting::Many,
            false => Box::pin(self.waiting(meter, group, &known)).await,
        };
        let others = match waiting {
            Waiting::Few(batches) => batches,
            Waiting::Many if Box::pin(self.offer(meter, group, &known)).await? => {
                return Box::pin(self.combine(meter, group)).await;
            }
            Waiting::Many => Vec::new(),
            Waiting::Past => {
                let known = self.known().ok_or_else(forgotten)?;
                return Box::pin(self.claim(meter, group, known)).await;
            }
        };
        let seq = append::next_slot(known.last(), known.manifest.watermark);
        if !self.passes(meter, group, &known, seq).await? {
            return Ok(None);
        }
        let mut batches: Vec<PendingBatch> = group.batches.iter().map(|q| q.batch.clone()).collect();
        batches.extend(others);
        let body = match group.bytes() > limits::INLINE_BYTES {
            true => Some(self.body_for(meter, group, seq, &batches).await?),
            false => None,
        };
        let parts = EntryParts { collection: self.id(), seq, batches: &batches, body };
        let target = Target { seq, bytes: wal::encode(&parts)?.into() };
        group.target = Some(target.clone());
        Ok(Some(target))
    }

    /// The rows of a large entry for the slot `seq`: those uploaded before, if that slot may name them, or uploaded now.
    async fn body_for(
        &self,
        meter: &Meter,
        group: &mut Group,
        seq: Seq,
        batches: &[PendingBatch],
    ) -> Result<BodyRef> {
        let tokens: Vec<Token> = batches.iter().map(|b| b.token).collect();
        if let Some(last) = &group.body
            && last.body.until >= seq
            && last.tokens == tokens
        {
            return Ok(last.body);
        }
        let reach = reach(group.body.as_ref());
        let (until, token) = (seq + reach, self.client().seams().token());
        let bytes = Bytes::from(wal::encode_body(self.id(), batches));
        self.client().put_immutable(meter, &self.keys().body(until, token), bytes.clone()).await?;
        let body = BodyRef::new(until, token, &bytes);
        group.body = Some(Uploaded { body, tokens, reach });
        Ok(body)
    }

    /// Refuses to grow a tail that is at its limit, after making sure that it still is.
    async fn within_limits(&self, meter: &Meter, known: Known) -> Result<Known> {
        if known.tail_bytes_at_most() >= limits::TAIL_BYTES {
            // A listing tells nothing of bodies: the headers do.
            self.read_headers(meter, &known).await?;
        }
        let full = |k: &Known| {
            k.last() - k.manifest.watermark >= limits::TAIL_ENTRIES || k.tail_bytes() >= limits::TAIL_BYTES
        };
        let Some(known) = self.known() else { return Err(forgotten()) };
        if !full(&known) {
            return Ok(known);
        }
        self.follow(meter, known.manifest.clone()).await?;
        match self.known().filter(|k| !full(k)) {
            Some(known) => Ok(known),
            None => Err(Error::new(Kind::Busy, "the tail of the log is at its limit until a compaction")
                .with_hint(format!("run `esker compact {}`", self.name()))
                .with_retry_after(ROOM_AFTER)),
        }
    }

    /// Step 2.
    async fn put_slot(
        &self,
        meter: &Meter,
        group: &mut Group,
        target: &Target,
    ) -> Result<(Found, Option<Arc<TailEntry>>)> {
        let first = !group.sent;
        group.sent = true;
        let key = self.keys().wal(target.seq);
        match self.client().create(meter, &key, target.bytes.clone()).await {
            CreateReply::Created => return Ok((Found::Mine, None)),
            CreateReply::Refused(e) if first => {
                group.sent = false;
                return Err(e);
            }
            CreateReply::Exists => {}
            CreateReply::Refused(e) | CreateReply::Unresolved(e) => {
                tracing::debug!(key, error = %e, "no reply to a create that can be trusted");
            }
        }
        Ok(match self.read_entry(meter, target.seq, None).await? {
            None => (Found::Absent, None),
            Some(entry) if group.all_in(&entry) => (Found::Mine, Some(entry)),
            Some(entry) => (Found::Rival, Some(entry)),
        })
    }

    /// Step 3. Beside it the mark that there is work, by the append that finds the tail empty and by each 16th; and a look
    /// at who waits, if it `looks`.
    async fn probe_after(&self, meter: &Meter, seq: Seq, looks: bool) -> Result<Arc<Manifest>> {
        let from = self.last_seen().ok_or_else(forgotten)?;
        let depth = seq.saturating_sub(from.watermark);
        let marks = depth == 1 || depth % limits::FOLD_ENTRIES == 0;
        if !marks && !looks {
            return self.follow(meter, from).await;
        }
        let (probe_meter, mark_meter, look_meter) = (meter.fork(), meter.fork(), meter.fork());
        let mark = async {
            let mark = keys::dirty(self.id(), seq);
            // A mark is a hint; the daily sweep finds what it misses.
            if let CreateReply::Unresolved(e) | CreateReply::Refused(e) =
                self.client().create(&mark_meter, &mark, Bytes::new()).await
            {
                tracing::debug!(mark, error = %e, "a mark was not put");
            }
        };
        let (newest, ..) = futures::join!(
            self.follow(&probe_meter, from),
            OptionFuture::from(marks.then_some(mark)),
            OptionFuture::from(looks.then(|| self.look_beside(&look_meter))),
        );
        newest
    }

    async fn back_off(&self, group: &mut Group, most: Duration) {
        let seams = self.client().seams();
        seams.clock.sleep(seams.jitter(group.wait.min(most))).await;
        group.wait = MOST_WAIT.min(group.wait * 2);
    }
}

impl Queue {
    fn waiting(&self) -> std::sync::MutexGuard<'_, VecDeque<Queued>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn contention(&self) -> std::sync::MutexGuard<'_, inbox::Contention> {
        self.contention.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a group has no room for waits again, before all others.
    fn put_back(&self, batches: Vec<Queued>) {
        let mut waiting = self.waiting();
        batches.into_iter().rev().for_each(|queued| waiting.push_front(queued));
    }

    /// The next group: what waits, up to a size, without those that nobody waits for any more. A token that is in the
    /// group already waits for the next, where it is found to be repeated.
    fn take(&self, start: Duration) -> Option<Group> {
        let mut waiting = self.waiting();
        let mut batches: Vec<Queued> = Vec::new();
        let mut bytes = 0;
        while let Some(next) = waiting.front() {
            let twice = batches.iter().any(|q| q.batch.token == next.batch.token);
            bytes += next.batch.bytes();
            if twice || (!batches.is_empty() && bytes > GROUP_BYTES) {
                break;
            }
            batches.extend(waiting.pop_front().filter(|q| !q.reply.is_closed()));
        }
        (!batches.is_empty()).then(|| Group::new(batches, start))
    }
}

/// An outcome that could not be learnt; safe to retry with the token.
fn unknown(cause: Error, token: Token) -> Error {
    // A dropped collection has no log that the batch could be in.
    if cause.kind() == Kind::Gone {
        return cause;
    }
    Error::new(Kind::Unknown, format!("whether the batch was written is unknown: {cause}"))
        .with_hint(format!("retry with the token {token}"))
        .with_token(token)
        .with_source(cause)
}

fn forgotten() -> Error {
    Error::internal("what was learnt was forgotten")
}

fn lost(token: Token) -> Error {
    unknown(Error::internal("its group was lost"), token)
}

fn late() -> Error {
    let message = format!("the store did not answer within {} s", DEADLINE.as_secs());
    Error::new(Kind::Unavailable, message)
}

fn contended() -> Error {
    Error::new(Kind::Busy, "other writers took every slot of the log that was tried")
        .with_retry_after(CONTENDED_AFTER)
}

#[cfg(test)]
mod tests;
