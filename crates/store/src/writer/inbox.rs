//! Writers of different processes share an entry: group commit through the store (docs/rfcs/0010-inbox.md).
//!
//! A writer that loses slots offers its batches once, as an object of the inbox, and reads the slots that follow. One of
//! those who find the next slot free, the leader, puts an entry with every batch that is offered; the others find
//! theirs in it. What a leader may take is decided by [`append::may_take`]; who leads is only a matter of cost.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use esker_format::append::{self, Headers, Outcome, Probe, Slot as Found};
use esker_format::keys::{Key, Part};
use esker_format::manifest::Manifest;
use esker_format::wal::{self, EntryParts, PendingBatch, inbox};
use esker_format::{Error, Kind, Result, Seq, Token, limits};

use super::{Group, Queued, Target, forgotten, late};
use crate::client::{CreateReply, Listed, together};
use crate::collection::{Collection, Known, Slot, gone, live};
use crate::meter::Meter;
use crate::tail::TailEntry;

/// How long a put is waited for on whose outcome nothing depends.
const PATIENCE: Duration = Duration::from_secs(2);
/// Slots lost before a group is offered: two writers get along without.
const LOSSES: u32 = 2;
/// How long others that were seen combined make a writer offer at once.
pub(super) const LASTS: Duration = Duration::from_secs(2);
/// Batches of others in an entry that make it so. With fewer, one that wins its slots takes along those of the others.
pub(super) const OTHERS: usize = 4;
/// Names of the inbox that a leader looks at: the newest.
pub(super) const PAGE: usize = 1000;
/// Objects that a leader reads at most.
const TAKEN: usize = 512;
/// An offer that lies there this much longer than the newest object was answered long ago, as unknown: it is left alone, so
/// that a write that its client gave up does not appear after others. By the store's clock.
pub(super) const ANSWERED_MS: i64 = 30_000;
/// Entries read before the register is asked whether they are the log's.
const UNPROVEN: usize = 16;
/// Bounds of what is taken for the time of a request.
const REQUEST: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(250));
/// A leader waits for others as long as a request takes, once for so many writers: all that it just answered write again.
const GATHERED: u32 = 25;
/// Writers that it counts at most.
const GATHERED_AT_MOST: u32 = 400;
/// Of those who wait about this many want to lead.
const CANDIDATES: f64 = 4.0;
/// Slots found free in a row before one that was carried wants to lead.
const PATIENT: u32 = 2;
/// How long to wait, from and over how much, in rounds (figures of docs/rfcs/0010-inbox.md): after an offer, so that the round
/// that takes it is over,
const OFFERED: (f64, f64) = (0.9, 0.3);
/// after a slot that others took, when a round has begun,
const TAKEN_BY_OTHERS: (f64, f64) = (0.5, 0.5);
/// and after one that is still free.
const FREE: (f64, f64) = (0.15, 0.35);
/// Slots that one lets pass which takes long to be carried: whoever was to take it along does not.
const PASSED: Seq = 4;
/// The token in the name of the object that says who leads.
pub(super) const LEADER: Token = Token(0);

/// A group that lies in the inbox.
#[derive(Debug)]
pub(super) struct Offer {
    /// The slot after which it was offered.
    tail: Seq,
    /// Headers that were read, up to the last slot known.
    pub(super) read: Headers,
    /// The batches that they name.
    pub(super) named: HashSet<Token>,
    /// Entries that were read and that no probe has proven yet.
    pub(super) unproven: Vec<(Seq, Slot)>,
    /// Batches of others, with the slot after which they were offered.
    pub(super) pool: Vec<(Seq, PendingBatch)>,
    /// It leads until its batches are written.
    leads: bool,
    /// Few others write, and one of them was seen to take it along: it lets that one go ahead.
    patient: bool,
    /// Another leads for this slot, noticed at this time.
    led: Option<(Seq, Duration)>,
    /// Times in a row that the next slot was free.
    misses: u32,
    /// Writers that compete, as far as entries tell.
    writers: u32,
    /// Batches that are taken for one writer's: as many as the group had.
    each: usize,
    /// The time of a request.
    request: Duration,
}

/// What this process learnt of other writers.
#[derive(Debug, Default)]
pub(crate) struct Contention {
    /// This many writers compete, as the last entry told at this time.
    pub(super) seen: Option<(u32, Duration)>,
    /// The store does not let this process write to the inbox.
    pub(super) refused: bool,
    /// What it knows of those who wait while it wins its slots.
    pub(super) others: super::carry::Others,
}

impl Collection {
    /// Whether a group goes through the inbox from now on. No slot of it is unresolved. What is too much for one offer waits
    /// for the next group.
    pub(super) fn turns_to_inbox(&self, group: &mut Group) -> bool {
        let now = self.client().seams().clock.elapsed();
        let contention = self.queue.contention();
        let seen = contention.seen.is_some_and(|(_, at)| now.saturating_sub(at) < LASTS);
        let turns = !contention.refused && group.guard.is_none() && (group.losses >= LOSSES || seen);
        drop(contention);
        if turns {
            self.queue.put_back(group.beyond_inbox());
        }
        turns && group.fits_inbox()
    }

    /// Puts the group into the inbox: it is in no slot up to the last one known, and cannot land there any more. `false`
    /// if the store does not let it.
    pub(super) async fn offer(&self, meter: &Meter, group: &mut Group, known: &Known) -> Result<bool> {
        let clock = &self.client().seams().clock;
        let batches: Vec<PendingBatch> = group.batches.iter().map(|q| q.batch.clone()).collect();
        let (key, bytes) = inbox::encode(self.id(), known.last(), &batches)?;
        let seen = self.queue.contention().seen.map_or(0, |(writers, _)| writers);
        let mut offered = Offer::new(known, seen.max(group.losses), batches.len());
        offered.patient = seen > 1 && offered.writers as usize <= OTHERS;
        let began = clock.elapsed();
        // From here on it may be there, whatever becomes of the put.
        group.offer = Some(Box::new(offered));
        if let CreateReply::Refused(e) = self.put_aside(meter, &key, bytes.into()).await {
            tracing::warn!(key, error = %e, "writers of other processes cannot be combined with");
            self.queue.contention().refused = true;
            group.offer = None;
            return Ok(false);
        }
        if let Some(offer) = &mut group.offer {
            offer.request = (clock.elapsed().saturating_sub(began)).clamp(REQUEST.0, REQUEST.1);
        }
        Ok(true)
    }

    /// The next slot with this group and those of others encoded for it, once this one leads; `None` when all of
    /// the group's batches were found in the log.
    pub(super) async fn combine(&self, meter: &Meter, group: &mut Group) -> Result<Option<Target>> {
        let clock = &self.client().seams().clock;
        let (mut taken, mut rest) = (0, OFFERED);
        loop {
            let Some(offer) = &group.offer else { return Ok(None) };
            if offer.leads {
                // Whoever puts one slot after the other alone is faster than a leader that asks at each who waits.
                while !group.batches.is_empty() && self.look(meter, group).await? {}
                if group.batches.is_empty() {
                    return Ok(None);
                }
                return self.gather(meter, group).await;
            }
            // Who does not want to lead need not know at once whether the next slot is free.
            let candidate = self.unit() < offer.chance(CANDIDATES);
            // Whoever is carried by one that puts a slot at a time reads them as fast.
            let behind = taken >= if offer.patient { 1 } else { 3 };
            if !candidate && !behind || offer.misses > 0 {
                clock.sleep(offer.round().mul_f64(rest.0 + self.unit() * rest.1)).await;
            }
            let free = !self.look(meter, group).await?;
            let Some(offer) = group.offer.as_deref_mut().filter(|_| !group.batches.is_empty()) else {
                return Ok(None);
            };
            if !free {
                (taken, rest) = (taken + 1, TAKEN_BY_OTHERS);
                continue;
            }
            if candidate && self.leads(meter, offer).await {
                return self.gather(meter, group).await;
            }
            offer.misses += 1;
            (taken, rest) = (0, FREE);
        }
    }

    /// Reads the next slot and answers the batches found there; whether it is taken.
    async fn look(&self, meter: &Meter, group: &mut Group) -> Result<bool> {
        let Some(slot) = group.offer.as_ref().map(|offer| offer.read.to + 1) else { return Ok(false) };
        let Some(entry) = self.read_entry(meter, slot, None).await? else { return Ok(false) };
        let found = group.is_in(&entry);
        // One that has the group's own batches is passed when they are answered: whoever goes on for a leader that was
        // cancelled must find it again.
        if !found {
            let Some(offer) = &mut group.offer else { return Ok(true) };
            offer.pass(&entry);
            if offer.unproven.len() < UNPROVEN {
                return Ok(true);
            }
        }
        // After the read, as after a put: only a floor below the slot says that this entry is the log's.
        let newest = self.follow(meter, self.last_seen().ok_or_else(forgotten)?).await?;
        let found = if found { Found::Mine } else { Found::Rival };
        match append::settle(slot, found, &Probe::of_manifest(&newest)) {
            Outcome::Acknowledge => {
                let (before, each) =
                    (group.batches.len(), group.offer.as_ref().map_or(1, |offer| offer.each));
                group.acknowledge(&entry, false);
                if let Some(offer) = &mut group.offer {
                    offer.pass(&entry);
                }
                self.note_contention(&entry, before - group.batches.len(), each, true);
            }
            Outcome::Next | Outcome::SameAgain => {}
            Outcome::Unknown => return passed(group, &newest).map(|()| true),
            Outcome::Gone => return Err(gone(self.id())),
        }
        if let Some(offer) = &mut group.offer {
            self.learn(newest, None, offer.unproven.drain(..));
        }
        Ok(true)
    }

    /// Whether this writer is the one to put the next slot. That several do is harmless and costs requests.
    async fn leads(&self, meter: &Meter, offer: &mut Offer) -> bool {
        let now = self.client().seams().clock.elapsed();
        let slot = offer.read.to + 1;
        if let Some((_, since)) = offer.led.filter(|(led, _)| *led == slot) {
            // Who was to lead is late, or dead.
            let late = now.saturating_sub(since) > offer.round() * 4;
            offer.leads = late && self.unit() < offer.chance(1.0);
            return offer.leads;
        }
        let key = self.keys().inbox(offer.read.to, LEADER);
        match self.put_aside(meter, &key, Bytes::new()).await {
            CreateReply::Created | CreateReply::Refused(_) => offer.leads = true,
            CreateReply::Exists | CreateReply::Unresolved(_) => offer.led = Some((slot, now)),
        }
        offer.leads
    }

    /// The next slot, with what is offered by then.
    async fn gather(&self, meter: &Meter, group: &mut Group) -> Result<Option<Target>> {
        let Some(offer) = group.offer.as_deref_mut() else { return Ok(None) };
        let clock = &self.client().seams().clock;
        if offer.pool.is_empty() {
            clock.sleep(offer.gathering()).await;
        }
        // The probe follows the reading of all headers: it proves them.
        let (prefix, from) = (self.keys().inbox_prefix(), self.last_seen().ok_or_else(forgotten)?);
        let (list_meter, probe_meter) = (meter.fork(), meter.fork());
        let (listed, newest) = futures::join!(
            self.client().list_page(&list_meter, &prefix, None, PAGE),
            self.follow(&probe_meter, from)
        );
        let newest = live(newest?)?;
        let floor = newest.floors.wal;
        if !append::may_take(offer.tail, &offer.read, floor) {
            return passed(group, &newest).map(|()| None);
        }
        self.learn(newest, None, offer.unproven.drain(..));
        self.within_limits(meter, self.known().ok_or_else(forgotten)?).await?;
        let objects = match listed {
            Ok(page) => page.objects,
            Err(e) => {
                tracing::debug!(error = %e, "the inbox was not listed");
                Vec::new()
            }
        };
        let own: HashSet<Token> = group.batches.iter().map(|q| q.batch.token).collect();
        if !own.is_disjoint(&offer.named) {
            return Err(Error::internal("a header names a batch that was not answered"));
        }
        let left = limits::INLINE_BYTES.saturating_sub(group.batches.iter().map(|q| q.batch.bytes()).sum());
        let Some(offer) = group.offer.as_deref_mut() else { return Ok(None) };
        let newest_ms = objects.iter().map(|l| l.modified_ms).max().unwrap_or(0);
        let chosen = offer.choose(&objects, &own, floor, left, newest_ms);
        offer.pool.extend(self.read_offers(meter, chosen).await?);
        let seq = offer.read.to + 1;
        let mut batches: Vec<PendingBatch> = group.batches.iter().map(|q| q.batch.clone()).collect();
        batches.extend(offer.take(own, floor, left));
        let parts = EntryParts { collection: self.id(), seq, batches: &batches, body: None };
        let target = Target { seq, bytes: wal::encode(&parts)?.into() };
        group.target = Some(target.clone());
        Ok(Some(target))
    }

    /// The batches of objects of the inbox, each with the slot after which it was offered.
    pub(super) async fn read_offers(
        &self,
        meter: &Meter,
        chosen: Vec<(Seq, String)>,
    ) -> Result<Vec<(Seq, PendingBatch)>> {
        let reads =
            chosen.into_iter().map(|(tail, key)| {
                let meter = meter.fork();
                async move {
                    Ok(self.read_offer(&meter, &key).await.into_iter().flatten().map(move |b| (tail, b)))
                }
            });
        Ok(together(reads).await?.into_iter().flatten().collect())
    }

    /// What an object of the inbox offers. One that cannot be read is left to its writer.
    async fn read_offer(&self, meter: &Meter, key: &str) -> Option<Vec<PendingBatch>> {
        let (bytes, _) = self.client().get(meter, key).await.ok().flatten()?;
        inbox::decode(key, &bytes)
            .inspect_err(|e| tracing::debug!(key, error = %e, "an offer cannot be read"))
            .ok()
    }

    /// A create that need not have been answered to go on.
    async fn put_aside(&self, meter: &Meter, key: &str, bytes: Bytes) -> CreateReply {
        tokio::select! {
            biased;
            reply = self.client().create(meter, key, bytes) => reply,
            () = self.client().seams().clock.sleep(PATIENCE) => CreateReply::Unresolved(late()),
        }
    }

    /// Learns from an entry that has `own` batches of this process how many others compete, if they write `each` at once.
    /// Whoever was `carried` by another offers at once for a while: the other is there before it.
    pub(super) fn note_contention(&self, entry: &TailEntry, own: usize, each: usize, carried: bool) {
        let others = entry.entry.batches.len().saturating_sub(own).div_ceil(each.max(1));
        let now = self.client().seams().clock.elapsed();
        self.queue.contention().seen = (others >= OTHERS || carried).then_some((others as u32 + 1, now));
    }

    fn unit(&self) -> f64 {
        self.client().seams().random.unit()
    }
}

/// The log moved past what a group offered: the manifest may still know its batches.
fn passed(group: &mut Group, newest: &Manifest) -> Result<()> {
    group.acknowledge_folded(newest);
    match group.batches.is_empty() {
        true => Ok(()),
        false => Err(Error::new(Kind::Unknown, "the log moved past this write")),
    }
}

impl Offer {
    /// Offered after the last slot known, with the headers known before it.
    pub(super) fn new(known: &Known, writers: u32, each: usize) -> Self {
        let (tail, mut named) = (known.last(), HashSet::new());
        let mut after = tail;
        while let Some(batches) = known.slots.get(&after).and_then(|slot| slot.batches.as_ref()) {
            if tail - after >= limits::INBOX_REACH {
                break;
            }
            named.extend(batches.iter().map(|b| b.token));
            after -= 1;
        }
        let last = known.slots.get(&tail).and_then(|slot| slot.batches.as_ref());
        Offer {
            tail,
            read: Headers { after, to: tail },
            named,
            unproven: Vec::new(),
            pool: Vec::new(),
            leads: false,
            patient: false,
            led: None,
            misses: 0,
            writers: writers.max(last.map_or(1, |batches| batches.len().div_ceil(each) as u32)),
            each,
            request: REQUEST.0,
        }
    }

    /// Adds the next slot to what was read.
    pub(super) fn pass(&mut self, entry: &std::sync::Arc<TailEntry>) {
        if entry.seq() != self.read.to + 1 {
            return;
        }
        self.read.to = entry.seq();
        self.named.extend(entry.entry.batches.iter().map(|b| b.token));
        self.unproven.push((entry.seq(), Slot::of(entry.clone())));
        self.misses = 0;
        self.patient &= self.read.to - self.tail <= PASSED;
        // Falls by half with each entry, so that one that was put alone does not make it forgotten.
        self.writers = (self.writers / 2).max(entry.entry.batches.len().div_ceil(self.each) as u32);
    }

    /// How long a leader lets others come.
    fn gathering(&self) -> Duration {
        self.request * self.writers.min(GATHERED_AT_MOST) / GATHERED
    }

    /// How long it takes from one combined entry to the next: claim, listing, reads and put, with the gathering.
    fn round(&self) -> Duration {
        self.gathering() + self.request * 4
    }

    /// The share of those who wait that should go ahead so that about `candidates` do, more each time that nobody did.
    fn chance(&self, candidates: f64) -> f64 {
        if self.patient && self.misses < PATIENT {
            return 0.0;
        }
        candidates * f64::from(1_u32 << self.misses.min(16)) / f64::from(self.writers.max(1))
    }

    /// Objects to be read, the oldest first, within the bounds of one entry. `newest_ms`: when the newest of all that lie
    /// there was put.
    pub(super) fn choose(
        &self,
        listed: &[Listed],
        own: &HashSet<Token>,
        floor: Seq,
        mut left: usize,
        newest_ms: i64,
    ) -> Vec<(Seq, String)> {
        let mut chosen = Vec::new();
        let oldest_ms = newest_ms.saturating_sub(ANSWERED_MS);
        for object in listed.iter().rev().filter(|l| l.modified_ms >= oldest_ms) {
            let Ok(Key::Of(_, Part::Inbox(tail, token))) = Key::parse(&object.key) else { continue };
            let known = token == LEADER || own.contains(&token) || self.named.contains(&token);
            let pooled = || self.pool.iter().any(|(_, b)| b.token == token);
            let bytes = usize::try_from(object.size).unwrap_or(usize::MAX);
            if known || pooled() || !append::may_take(tail, &self.read, floor) || bytes > left {
                continue;
            }
            left -= bytes;
            chosen.push((tail, object.key.clone()));
            if chosen.len() == TAKEN {
                break;
            }
        }
        chosen
    }

    /// What goes beside this group's own batches into the slot after the headers read.
    pub(super) fn take(&mut self, own: HashSet<Token>, floor: Seq, mut left: usize) -> Vec<PendingBatch> {
        let mut tokens = own;
        let (named, read) = (&self.named, &self.read);
        self.pool.retain(|(tail, batch)| {
            !named.contains(&batch.token)
                && append::may_take(*tail, read, floor)
                && tokens.insert(batch.token)
        });
        let fits = |batch: &&PendingBatch| {
            let bytes = batch.bytes();
            let fits = bytes <= left;
            left -= if fits { bytes } else { 0 };
            fits
        };
        self.pool.iter().map(|(_, batch)| batch).filter(fits).cloned().collect()
    }
}

impl Group {
    /// Whether others may put it: not what depends on the slots before its own, and not what is large.
    pub(super) fn fits_inbox(&self) -> bool {
        self.guard.is_none() && self.bytes() <= limits::INBOX_BYTES
    }

    /// Takes out what is too much to be offered of a few batches. What would need a body stays together.
    fn beyond_inbox(&mut self) -> Vec<Queued> {
        if self.bytes() > limits::INLINE_BYTES {
            return Vec::new();
        }
        let mut bytes = 0;
        let fits = |q: &&Queued| {
            bytes += q.batch.bytes();
            bytes <= limits::INBOX_BYTES
        };
        match self.batches.iter().take_while(fits).count() {
            0 => Vec::new(),
            fit => self.batches.split_off(fit),
        }
    }

    /// Whether others' batches find room beside its own.
    pub(super) fn has_room(&self) -> bool {
        self.guard.is_none() && self.bytes() + limits::INBOX_BYTES <= limits::INLINE_BYTES
    }

    /// Whether an entry has a batch of the group.
    fn is_in(&self, entry: &TailEntry) -> bool {
        self.batches.iter().any(|q| super::dedup::find(&entry.entry.batches, q.batch.token).is_some())
    }
}

#[cfg(test)]
pub(super) mod tests;
