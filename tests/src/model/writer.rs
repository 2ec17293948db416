//! A writer: learn, claim a slot, read back, probe the register, settle (DESIGN §2, "Append").

use super::state::{Fate, Late, State};
use super::{Protocol, Reply, Step, Weakening};
use esker_format::append::{self, Outcome, Probe, Slot};

/// What a writer does next.
#[derive(Clone, Debug, PartialEq, Hash)]
pub(crate) struct Writer {
    /// Batches it has not settled; the current one is the first of them.
    left: u8,
    /// The last slot that may name the body it uploaded for the current batch; 0 without one.
    until: u8,
    at: At,
}

#[derive(Clone, Copy, Debug, PartialEq, Hash)]
enum At {
    /// Cold: `GET head` and `LIST wal/` in any order. 0 stands for a head not read yet.
    Learn { head: u8, last: Option<u8> },
    /// About to upload a body for `slot` and those after it that it reaches.
    Upload { slot: u8, known: u8 },
    /// About to create the entry in `slot`; `known` is the newest version it knows.
    Claim { slot: u8, known: u8 },
    /// Any reply but "created": about to read the slot.
    ReadBack { slot: u8, known: u8 },
    /// About to look for the version after `known`.
    Probe { slot: u8, known: u8, found: Found },
}

/// [`Slot`] as far as it is hashed.
type Found = Slot;

const COLD: At = At::Learn { head: 0, last: None };

impl Writer {
    pub(crate) fn new(batches: u8) -> Self {
        Self { left: batches, until: 0, at: COLD }
    }
}

impl State {
    pub(crate) fn writer_steps(&self, protocol: &Protocol, w: usize, mut may: impl FnMut(Step)) {
        let writer = &self.writers[w];
        if writer.left == 0 {
            return;
        }
        match writer.at {
            At::Learn { head, last } => {
                if head == 0 {
                    may(Step::Head);
                }
                if last.is_none() {
                    may(Step::List);
                }
            }
            At::Claim { slot, .. } => {
                for reply in Reply::ALL.into_iter().filter(|reply| self.may(*reply)) {
                    // Of a put that finds its slot taken there is only one loss.
                    if reply != Reply::Lost
                        || self.wal[usize::from(slot)] == 0
                        || protocol.weakening.is_some()
                    {
                        may(Step::Put(reply));
                    }
                }
            }
            At::Upload { .. } => may(Step::Put(Reply::Sound)),
            At::ReadBack { .. } => may(Step::Get),
            At::Probe { .. } => may(Step::Probe),
        }
    }

    pub(crate) fn write(&mut self, protocol: &Protocol, w: usize, step: Step) {
        let batch = self.batch(protocol, w);
        let next = match (self.writers[w].at, step) {
            (At::Learn { last, .. }, Step::Head) => self.learnt(self.head, last),
            (At::Learn { head, .. }, Step::List) => {
                self.learnt(head, Some(self.listed().next().unwrap_or(0) as u8))
            }
            (At::Upload { slot, known }, _) => {
                let until = (slot + protocol.reach).min(protocol.slots);
                self.bodies[usize::from(until)] |= 1 << batch;
                self.writers[w].until = until;
                At::Claim { slot, known }
            }
            (At::Claim { slot, known }, Step::Put(reply)) => {
                let told = self.put(Late::Entry { slot, batch }, reply);
                self.claimed(protocol, w, slot, known, told)
            }
            (At::ReadBack { slot, known }, Step::Get) => {
                let found = match self.wal[usize::from(slot)] {
                    0 => Slot::Absent,
                    other if other == batch => Slot::Mine,
                    _ => Slot::Rival,
                };
                let blind = protocol.is(Weakening::NoFloorCheck)
                    || protocol.is(Weakening::ReadBackWithoutFloorCheck) && found == Slot::Mine;
                match blind {
                    true => self.settle(protocol, w, slot, known, found, &Probe::default()),
                    false => At::Probe { slot, known, found },
                }
            }
            (At::Probe { slot, known, found }, Step::Probe) => {
                if self.newest_version() > known {
                    At::Probe { slot, known: known + 1, found }
                } else {
                    let probe = Probe::of_manifest(self.version(known));
                    self.settle(protocol, w, slot, known, found, &probe)
                }
            }
            (at, _) => at,
        };
        let until = self.writers[w].until;
        self.writers[w].at = match next {
            At::Claim { slot, known } if protocol.bodies && w == 0 && slot > until => {
                At::Upload { slot, known }
            }
            next => next,
        };
    }

    fn batch(&self, protocol: &Protocol, w: usize) -> u8 {
        2 * w as u8 + 1 + protocol.batches[w] - self.writers[w].left
    }

    fn learnt(&self, head: u8, last: Option<u8>) -> At {
        match last {
            Some(last) if head != 0 => {
                let slot = append::next_slot(u64::from(last), self.version(head).watermark) as u8;
                At::Claim { slot, known: head }
            }
            last => At::Learn { head, last },
        }
    }

    fn claimed(&mut self, protocol: &Protocol, w: usize, slot: u8, known: u8, told: Option<bool>) -> At {
        if told == Some(true) {
            return match protocol.is(Weakening::NoFloorCheck) {
                true => self.settle(protocol, w, slot, known, Slot::Mine, &Probe::default()),
                false => At::Probe { slot, known, found: Slot::Mine },
            };
        }
        if protocol.is(Weakening::NoReadBack) {
            let found = if told.is_some() { Slot::Rival } else { Slot::Absent };
            return At::Probe { slot, known, found };
        }
        At::ReadBack { slot, known }
    }

    fn settle(
        &mut self,
        protocol: &Protocol,
        w: usize,
        slot: u8,
        known: u8,
        found: Slot,
        probe: &Probe,
    ) -> At {
        let outcome = match append::settle(u64::from(slot), found, probe) {
            Outcome::SameAgain if protocol.is(Weakening::AbsentTakesNextSlot) => Outcome::Next,
            outcome => outcome,
        };
        match outcome {
            Outcome::Next if slot < protocol.slots => At::Claim { slot: slot + 1, known },
            Outcome::SameAgain => At::Claim { slot, known },
            Outcome::Acknowledge => {
                self.answer(protocol, w, Fate::Acknowledged(slot));
                match slot < protocol.slots {
                    // Warm: the next batch goes to the slot after the last one seen.
                    true => At::Claim { slot: slot + 1, known },
                    false => {
                        self.writers[w].left = 0;
                        COLD
                    }
                }
            }
            Outcome::Next => {
                self.answer(protocol, w, Fate::OutOfSlots);
                self.writers[w].left = 0;
                COLD
            }
            Outcome::Unknown | Outcome::Gone => {
                self.answer(protocol, w, Fate::Unknown);
                COLD
            }
        }
    }

    /// Settles the current batch. A writer that has no more is at rest, whatever it last knew.
    fn answer(&mut self, protocol: &Protocol, w: usize, fate: Fate) {
        let batch = self.batch(protocol, w);
        self.fates[usize::from(batch) - 1] = fate;
        self.writers[w].left -= 1;
        self.writers[w].until = 0;
    }
}
