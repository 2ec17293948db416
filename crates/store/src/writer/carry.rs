//! A writer that wins its slots takes along what others offered (docs/rfcs/0010-inbox.md).
//!
//! Whoever puts one entry after the other loses no slot, so it would never learn that others wait; and they would be
//! late for every slot. So it lists the inbox beside the probe of some of its writes, and puts what few others offer
//! into its next entry, without an offer of its own. Where many wait, it joins them.

use std::collections::HashSet;
use std::time::Duration;

use esker_format::keys::{Key, Part};
use esker_format::wal::PendingBatch;
use esker_format::{Seq, Token, limits};
use futures::join;

use super::Group;
use super::inbox::{LASTS, LEADER, OTHERS, Offer};
use crate::client::{Listed, together};
use crate::collection::{Collection, Known, Slot};
use crate::meter::Meter;

/// After so many writes, if they took no longer than this, a writer looks whether others wait.
const UNRIVALLED: (u32, Duration) = (8, Duration::from_secs(4));
/// How long a write waits for the listing beside its probe.
const BESIDE: Duration = Duration::from_millis(100);
/// Names that such a listing has: the newest. Where more wait, entries are put in turns.
const NAMES: usize = 64;
/// Headers that are read to learn whether the log has what was offered before those that are known.
const BACK: Seq = 16;

/// What a process that wins its slots knows of those who wait.
#[derive(Debug, Default)]
pub(super) struct Others {
    /// Slots put by this process for itself since it last looked, and when that was.
    alone: (u32, Duration),
    /// When it took something along: it looks beside each write for a while.
    waited: Option<Duration>,
    /// The names in the inbox beside its last write, and when that was.
    listed: Option<(Vec<Listed>, Duration)>,
    /// Offers among them that the log has. A fold lets go of the headers that say so.
    there: HashSet<Token>,
}

/// Who waits for the next slot.
pub(super) enum Waiting {
    /// So few that their batches can be taken along.
    Few(Vec<PendingBatch>),
    /// So many that entries are best put in turns, which the group is fit for.
    Many,
    /// The log moved past the slot after those known.
    Past,
}

impl Collection {
    /// Whether this write is one beside which the inbox is listed.
    pub(super) fn looks(&self, group: &Group) -> bool {
        let now = self.client().seams().clock.elapsed();
        let mut contention = self.queue.contention();
        if group.offer.is_some() || !group.has_room() || contention.refused {
            return false;
        }
        let others = &mut contention.others;
        if others.waited.is_some_and(|at| now.saturating_sub(at) < LASTS) {
            return true;
        }
        let (slots, since) = others.alone;
        if slots + 1 < UNRIVALLED.0 {
            others.alone.0 += 1;
            return false;
        }
        others.alone = (0, now);
        now.saturating_sub(since) <= UNRIVALLED.1
    }

    /// Lists the inbox, for the next write. Whatever becomes of it changes nothing for this one.
    pub(super) async fn look_beside(&self, meter: &Meter) {
        let prefix = self.keys().inbox_prefix();
        let listed = tokio::select! {
            biased;
            page = self.client().list_page(meter, &prefix, None, NAMES) => page.map(|page| page.objects),
            () = self.client().seams().clock.sleep(BESIDE) => return,
        };
        match listed {
            Ok(objects) => {
                let now = self.client().seams().clock.elapsed();
                self.queue.contention().others.listed = Some((objects, now));
            }
            Err(e) => tracing::debug!(error = %e, "the inbox was not listed"),
        }
    }

    /// What others offered, as far as the last write saw, for the slot after those known. What cannot be read is left to
    /// its writer.
    pub(super) async fn waiting(&self, meter: &Meter, group: &mut Group, known: &Known) -> Waiting {
        let nobody = Waiting::Few(Vec::new());
        if !group.has_room() {
            return nobody;
        }
        let clock = &self.client().seams().clock;
        let now = clock.elapsed();
        let listed = self.queue.contention().others.listed.take();
        let recent = listed.filter(|(_, at)| now.saturating_sub(*at) < LASTS);
        let Some((mut listed, _)) = recent else { return nobody };
        // Of all names: those that are left may be of the dead alone. Its own clock says so where they are all there is.
        let newest_ms = listed.iter().map(|l| l.modified_ms).fold(clock.now_ms(), i64::max);
        let there = std::mem::take(&mut self.queue.contention().others.there);
        let mut offer = Offer::new(known, 1, 1);
        let there: HashSet<Token> = listed
            .iter()
            .filter_map(token)
            .filter(|t| there.contains(t) || offer.named.contains(t))
            .collect();
        listed.retain(|l| token(l).is_some_and(|t| !there.contains(&t)));
        let floor = known.manifest.floors.wal;
        self.read_back(meter, &mut offer, &listed, floor, newest_ms).await;
        let found = listed.iter().filter_map(token).filter(|t| offer.named.contains(t));
        self.queue.contention().others.there = there.into_iter().chain(found).collect();

        let own: HashSet<Token> = group.batches.iter().map(|q| q.batch.token).collect();
        let left = limits::INLINE_BYTES.saturating_sub(group.bytes());
        let chosen = offer.choose(&listed, &own, floor, left, newest_ms);
        if chosen.is_empty() {
            return nobody;
        }
        if chosen.len() >= OTHERS {
            self.queue.contention().seen = Some((1 + chosen.len() as u32, now));
            // By now it does, unless it is too large.
            return if self.turns_to_inbox(group) { Waiting::Many } else { nobody };
        }
        // The probe follows the reading of all headers: it proves them.
        let (probe_meter, read_meter) = (meter.fork(), meter.fork());
        let (newest, read) =
            join!(self.follow(&probe_meter, known.manifest.clone()), self.read_offers(&read_meter, chosen));
        let (Ok(newest), Ok(read)) = (newest, read) else { return nobody };
        let floor = newest.floors.wal;
        self.learn(newest, None, offer.unproven.drain(..));
        if floor > known.last() {
            return Waiting::Past;
        }
        offer.pool = read;
        let others = offer.take(own, floor, left);
        if !others.is_empty() {
            self.queue.contention().others.waited = Some(now);
        }
        Waiting::Few(others)
    }

    /// Reads the headers before those known, if something was offered before them a few slots ago.
    async fn read_back(
        &self,
        meter: &Meter,
        offer: &mut Offer,
        listed: &[Listed],
        floor: Seq,
        newest_ms: i64,
    ) {
        let after = offer.read.after;
        offer.read.after = after.saturating_sub(BACK);
        let older = offer.choose(listed, &HashSet::new(), floor, limits::INLINE_BYTES, newest_ms);
        offer.read.after = after;
        let oldest = older.iter().map(|(tail, _)| *tail).min().unwrap_or(after).min(after);
        let reads = (oldest + 1..=after).map(|seq| {
            let meter = meter.fork();
            async move { self.read_entry(&meter, seq, None).await }
        });
        let Ok(read) = together(reads).await else { return };
        let Some(entries) = read.into_iter().collect::<Option<Vec<_>>>() else { return };
        for entry in entries {
            offer.named.extend(entry.entry.batches.iter().map(|b| b.token));
            offer.unproven.push((entry.seq(), Slot::of(entry)));
        }
        offer.read.after = oldest;
    }
}

/// The token of an offer; none of what is no offer.
fn token(listed: &Listed) -> Option<Token> {
    match Key::parse(&listed.key) {
        Ok(Key::Of(_, Part::Inbox(_, token))) if token != LEADER => Some(token),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
