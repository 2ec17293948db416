//! What each action does to the shelf.

use esker_format::append::{self, Headers, Outcome, Probe, Slot};

use super::super::Reply;
use super::{At, Batches, Fate, Inbox, InboxAction, InboxWeakening, Late, REPLIES, SLOTS, Shelf, Since};

impl Shelf {
    pub(super) fn writer_actions(&self, w: usize, actions: &mut Vec<InboxAction>) {
        match self.writers[w] {
            At::Done => return,
            At::Put { slot, fresh, offered, .. } => {
                let replies = REPLIES.into_iter().filter(|reply| self.may(*reply));
                actions.extend(replies.map(|reply| InboxAction::Put(w, reply)));
                if fresh && offered.is_none() {
                    actions.push(InboxAction::Turn(w));
                    actions.extend((0..slot).map(|after| InboxAction::Carry(w, after)));
                }
            }
            At::Offer { .. } => {
                // That of an offer is not read: whether it is there or not, its writer waits.
                let replies = [Reply::Sound, Reply::NotSent, Reply::Late];
                let replies = replies.into_iter().filter(|reply| self.may(*reply));
                actions.extend(replies.map(|reply| InboxAction::Put(w, reply)));
            }
            At::Lead { floor, listed, .. } => {
                if floor.is_none() {
                    actions.push(InboxAction::Read(w));
                }
                if listed.is_none() {
                    actions.push(InboxAction::List(w));
                }
            }
            _ => actions.push(InboxAction::Read(w)),
        }
        let dies = matches!(self.writers[w], At::Wait(_) | At::Put { offered: Some(_), .. });
        if self.crashes > 0 && dies {
            actions.push(InboxAction::Die(w));
        }
    }

    pub(super) fn read(&mut self, model: &Inbox, w: usize) {
        let own = model.batch(w);
        self.writers[w] = match self.writers[w] {
            At::Learn => self.learn(model, w),
            At::ReadBack { slot, batches, offered } => {
                let entry = self.wal[usize::from(slot)];
                At::Probe { slot, entry, put: batches, offered }
            }
            At::Probe { slot, entry, put, offered } => {
                return self.settle(model, w, slot, entry, put, offered);
            }
            At::Wait(since) if usize::from(since.to) + 1 == SLOTS || since.to >= model.slots => {
                return self.end(w, Fate::OutOfSlots);
            }
            At::Wait(since) => {
                let slot = since.to + 1;
                match self.wal[usize::from(slot)] {
                    0 => At::Lead { since, offered: true, floor: None, listed: None },
                    entry if entry & own != 0 && model.is(InboxWeakening::AcknowledgeUnprobed) => {
                        return self.end(w, Fate::Acknowledged(slot));
                    }
                    entry if entry & own != 0 => At::Probe { slot, entry, put: 0, offered: Some(since) },
                    entry => At::Wait(Since { to: slot, named: since.named | entry, ..since }),
                }
            }
            At::Back { since, slot } => {
                let to = since.to + 1;
                return match self.wal[usize::from(to)] {
                    // Deleted: it takes nothing along.
                    0 => self.writers[w] = At::Put { slot, batches: own, offered: None, fresh: false },
                    entry => self.back(w, Since { to, named: since.named | entry, ..since }, slot),
                };
            }
            At::Lead { since, offered, listed, .. } => {
                return self.lead(model, w, since, offered, Some(self.floor), listed);
            }
            at => at,
        };
    }

    pub(super) fn list(&mut self, model: &Inbox, w: usize) {
        if let At::Lead { since, offered, floor, .. } = self.writers[w] {
            self.lead(model, w, since, offered, floor, Some(self.inbox));
        }
    }

    /// Reads the next header before `slot`, or looks who waits when it knows all of them.
    pub(super) fn back(&mut self, w: usize, since: Since, slot: u8) {
        self.writers[w] = match since.to + 1 == slot {
            true => At::Lead { since, offered: false, floor: None, listed: None },
            false => At::Back { since, slot },
        };
    }

    /// The first free slot as far as the log says; a retry finds what there is already, headers and folded tokens alike.
    pub(super) fn learn(&mut self, model: &Inbox, w: usize) -> At {
        let own = model.batch(w);
        let listed = (1..SLOTS).rev().find(|slot| self.wal[*slot] != 0).unwrap_or(0) as u8;
        let slot = append::next_slot(listed.into(), self.watermark.into()) as u8;
        let found = self.truth().find(|(_, batches)| batches & own != 0).map(|(slot, _)| slot);
        if let Some(slot) = found.filter(|_| model.retry) {
            self.end(w, Fate::Acknowledged(slot));
            return At::Done;
        }
        if slot > model.slots {
            self.end(w, Fate::OutOfSlots);
            return At::Done;
        }
        At::Put { slot, batches: own, offered: None, fresh: true }
    }

    /// Once both are known: the entry with what may be taken.
    pub(super) fn lead(
        &mut self,
        model: &Inbox,
        w: usize,
        since: Since,
        offered: bool,
        floor: Option<u8>,
        listed: Option<[Batches; SLOTS]>,
    ) {
        let (Some(at), Some(offers)) = (floor, listed) else {
            self.writers[w] = At::Lead { since, offered, floor, listed };
            return;
        };
        let read = Headers { after: since.tail.into(), to: since.to.into() };
        let may = |tail: u8| {
            let unasked = model.is(InboxWeakening::BeyondBound)
                || !offered && model.is(InboxWeakening::CarriedBeyondBound);
            let floor = if unasked { 0 } else { at.into() };
            let read = match model.is(InboxWeakening::HeadersUnread) {
                true => Headers { after: 0, ..read },
                false => read,
            };
            append::may_take(tail.into(), &read, floor)
        };
        let own = model.batch(w);
        if offered && !may(since.tail) {
            // The manifest may know: the retry, and its writer, look there as for any other.
            let folded = (1..SLOTS).find(|slot| self.folded[*slot] & own != 0);
            let fate = folded.map_or(Fate::Unknown, |slot| Fate::Acknowledged(slot as u8));
            return self.end(w, fate);
        }
        let taken = (0..SLOTS).filter(|tail| may(*tail as u8)).fold(0, |all, tail| all | offers[tail]);
        let batches = own | taken & !since.named;
        let offered = offered.then_some(since);
        self.writers[w] = At::Put { slot: since.to + 1, batches, offered, fresh: false };
    }

    pub(super) fn put(&mut self, model: &Inbox, w: usize, reply: Reply) {
        let own = model.batch(w);
        self.writers[w] = match self.writers[w] {
            At::Put { slot, batches, offered, .. } => {
                match self.answer(Late::Entry { slot, batches }, reply) {
                    Some(true) => At::Probe { slot, entry: batches, put: batches, offered },
                    _ if offered.is_none() && model.is(InboxWeakening::OfferUnresolved) => {
                        At::Offer { tail: slot }
                    }
                    _ => At::ReadBack { slot, batches, offered },
                }
            }
            At::Offer { tail } => {
                self.answer(Late::Offer { tail, batch: own }, reply);
                match w == 0 && model.is(InboxWeakening::DirectAfterOffer) {
                    true => At::Learn,
                    false => At::Wait(Since { tail, to: tail, named: 0 }),
                }
            }
            at => at,
        };
    }

    /// `put` is empty where the slot was only read.
    pub(super) fn settle(
        &mut self,
        model: &Inbox,
        w: usize,
        slot: u8,
        entry: Batches,
        put: Batches,
        offered: Option<Since>,
    ) {
        let own = model.batch(w);
        let found = match entry {
            0 => Slot::Absent,
            entry if entry & own != 0 => Slot::Mine,
            _ => Slot::Rival,
        };
        let probe = Probe { floor: self.floor.into(), dropped: false };
        self.writers[w] = match append::settle(slot.into(), found, &probe) {
            Outcome::Acknowledge => return self.end(w, Fate::Acknowledged(slot)),
            Outcome::Next => match offered {
                Some(since) => At::Wait(Since { to: slot, named: since.named | entry, ..since }),
                None if model.is(InboxWeakening::CarriedAgain) && slot < model.slots => {
                    At::Put { slot: slot + 1, batches: put, offered, fresh: false }
                }
                None => At::Offer { tail: slot },
            },
            Outcome::SameAgain => At::Put { slot, batches: put, offered, fresh: false },
            Outcome::Unknown | Outcome::Gone => {
                let folded = (1..SLOTS).find(|slot| self.folded[*slot] & own != 0);
                let fate = folded.map_or(Fate::Unknown, |slot| Fate::Acknowledged(slot as u8));
                return self.end(w, fate);
            }
        };
    }

    pub(super) fn end(&mut self, w: usize, fate: Fate) {
        self.writers[w] = At::Done;
        self.fates[w] = fate;
    }

    pub(super) fn may(&self, reply: Reply) -> bool {
        match reply {
            Reply::Sound => true,
            Reply::Lost | Reply::NotSent | Reply::Empty409 => self.faults > 0,
            Reply::Late => self.may_be_late > 0,
        }
    }

    pub(super) fn answer(&mut self, what: Late, reply: Reply) -> Option<bool> {
        match reply {
            Reply::Sound => {}
            Reply::Late => self.may_be_late -= 1,
            Reply::Lost | Reply::NotSent | Reply::Empty409 => self.faults -= 1,
        }
        match reply {
            Reply::Sound => Some(self.apply(what)),
            Reply::Lost => {
                self.apply(what);
                None
            }
            Reply::NotSent => None,
            Reply::Empty409 => Some(false),
            Reply::Late => {
                self.late.push(what);
                None
            }
        }
    }

    pub(super) fn apply(&mut self, what: Late) -> bool {
        match what {
            Late::Entry { slot, batches } => {
                let free = self.wal[usize::from(slot)] == 0;
                if free {
                    self.wal[usize::from(slot)] = batches;
                }
                free
            }
            Late::Offer { tail, batch } => {
                self.inbox[usize::from(tail)] |= batch;
                true
            }
        }
    }

    /// The end of the run of taken slots above the watermark.
    pub(super) fn run_end(&self) -> u8 {
        let listed = (1..SLOTS).rev().filter(|slot| self.wal[*slot] != 0).map(|slot| slot as u64);
        append::tail(self.watermark.into(), listed).last().map_or(self.watermark, |slot| *slot as u8)
    }

    /// What a reader of the newest state sees: what was folded, and the run above it.
    pub(super) fn truth(&self) -> impl Iterator<Item = (u8, Batches)> {
        let folded = (1..=self.watermark).map(|slot| (slot, self.folded[usize::from(slot)]));
        folded.chain((self.watermark + 1..=self.run_end()).map(|slot| (slot, self.wal[usize::from(slot)])))
    }

    pub(super) fn at_most_once(&self) -> bool {
        let mut seen = 0;
        self.truth().all(|(_, batches)| {
            let again = seen & batches != 0;
            seen |= batches;
            !again
        })
    }

    pub(super) fn acknowledged_are_there(&self, model: &Inbox) -> bool {
        (0..model.writers).all(|w| match self.fates[w] {
            Fate::Acknowledged(at) => {
                self.truth().any(|(slot, batches)| slot == at && batches & model.batch(w) != 0)
            }
            _ => true,
        })
    }

    pub(super) fn all_acknowledged(&self, model: &Inbox) -> bool {
        (0..model.writers).all(|w| matches!(self.fates[w], Fate::Acknowledged(_)))
    }
}
