//! A model of combined appends: writers that lose a slot offer their batch in the inbox, and one of them puts an entry with
//! the batches of many (docs/rfcs/0010-inbox.md). Explored exhaustively over `esker_format::append`.
//!
//! Beside the writers: one of them may be a second process under the first one's token, as a client's retry is; entries are
//! folded, the floor follows, and slots at or below it are deleted one by one. Offers stay, since nothing may depend on when
//! they go. Every action is one request.

use stateright::{Model, Property};

use super::Reply;

mod shelf;

/// A step of the protocol left out. Each must be caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InboxWeakening {
    /// A combiner takes what was offered before the headers that it read.
    HeadersUnread,
    /// A combiner does not ask whether the floor passed the tail of what it takes.
    BeyondBound,
    /// A writer that finds its batch in a slot acknowledges without probing the register.
    AcknowledgeUnprobed,
    /// A writer offers its batch after a slot that it did not find to be a rival's.
    OfferUnresolved,
    /// The first writer, with an offer, puts the slot after the last one listed, without the headers between.
    DirectAfterOffer,
    /// A writer that carries does not ask whether the floor passed the tail of what it takes along.
    CarriedBeyondBound,
    /// A writer that carries puts what it took along into the slot after one that it lost, too.
    CarriedAgain,
}

impl InboxWeakening {
    /// All seven.
    pub const ALL: [Self; 7] = [
        Self::HeadersUnread,
        Self::BeyondBound,
        Self::AcknowledgeUnprobed,
        Self::OfferUnresolved,
        Self::DirectAfterOffer,
        Self::CarriedBeyondBound,
        Self::CarriedAgain,
    ];
}

/// What is explored: how much of everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbox {
    /// Writers of one batch each, at most 3.
    pub writers: usize,
    /// The last writer's batch is the first one's, under the same token.
    pub retry: bool,
    /// Slots of the log, at most 4.
    pub slots: u8,
    /// Replies lost, requests lost and empty 409s, together.
    pub faults: u8,
    /// Puts of entries and offers that land late.
    pub late: u8,
    /// Writers that die with an offer.
    pub crashes: u8,
    /// Folds, each followed by a floor.
    pub folds: u8,
    /// What is left out, if anything.
    pub weakening: Option<InboxWeakening>,
}

impl Inbox {
    /// What the ordinary test explores of writers that fail.
    pub fn small_faults() -> Self {
        Self { writers: 2, retry: false, slots: 3, faults: 1, late: 1, crashes: 1, folds: 0, weakening: None }
    }

    /// What it explores of three writers, without faults.
    pub fn small_three() -> Self {
        Self { writers: 3, faults: 0, late: 0, ..Self::small_faults() }
    }

    /// What it explores of a retry by another process.
    pub fn small_retry() -> Self {
        Self { writers: 2, retry: true, folds: 1, ..Self::small_faults() }
    }

    /// What it explores of folds and deletion.
    pub fn small_floors() -> Self {
        Self { writers: 3, folds: 1, crashes: 0, faults: 0, late: 0, ..Self::small_faults() }
    }

    /// The smallest exploration in which `weakening` does harm.
    pub fn weakened(weakening: InboxWeakening) -> Self {
        let of = match weakening {
            InboxWeakening::HeadersUnread
            | InboxWeakening::DirectAfterOffer
            | InboxWeakening::CarriedAgain => Self::small_three(),
            InboxWeakening::BeyondBound
            | InboxWeakening::AcknowledgeUnprobed
            | InboxWeakening::CarriedBeyondBound => Self::small_floors(),
            InboxWeakening::OfferUnresolved => Self::small_faults(),
        };
        Self { weakening: Some(weakening), ..of }
    }

    fn is(&self, weakening: InboxWeakening) -> bool {
        self.weakening == Some(weakening)
    }
}

/// Batches as bits: writer w's is 1 << w.
type Batches = u8;

/// A put under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Late {
    Entry { slot: u8, batches: Batches },
    Offer { tail: u8, batch: Batches },
}

/// What its writer was told about a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Fate {
    Open,
    Acknowledged(u8),
    Unknown,
    Died,
    OutOfSlots,
}

/// What a writer does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    /// Reads the end of the log, and under a token given, whether the batch is there.
    Learn,
    /// About to create `slot`. `offered`: its batch is in the inbox, and what was read since. `fresh`: nothing was sent.
    Put {
        slot: u8,
        batches: Batches,
        offered: Option<Since>,
        fresh: bool,
    },
    /// Any reply but "created": about to read the slot.
    ReadBack {
        slot: u8,
        batches: Batches,
        offered: Option<Since>,
    },
    /// About to ask for the floor. `entry`: what the slot has. `put`: what was put there, if anything was.
    Probe {
        slot: u8,
        entry: Batches,
        put: Batches,
        offered: Option<Since>,
    },
    /// About to put its batch into the inbox.
    Offer {
        tail: u8,
    },
    /// About to read the slot after those that it read.
    Wait(Since),
    /// Wins its slots: about to read the headers before `slot` that it does not know, to take along what others offered.
    Back {
        since: Since,
        slot: u8,
    },
    /// The slot was free: about to list the inbox and to ask for the floor, in any order. `offered`: so was its own batch.
    Lead {
        since: Since,
        offered: bool,
        floor: Option<u8>,
        listed: Option<[Batches; SLOTS]>,
    },
    Done,
}

/// The headers read since an offer, and the batches that they name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Since {
    tail: u8,
    to: u8,
    named: Batches,
}

const SLOTS: usize = 5;

/// One state of the world. Index 0 of slots is not used; an offer's tail may be 0.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shelf {
    wal: [Batches; SLOTS],
    /// What compactors read in each slot.
    folded: [Batches; SLOTS],
    /// The batches offered after each slot.
    inbox: [Batches; SLOTS],
    watermark: u8,
    floor: u8,
    /// Slots deleted so far.
    deleted: u8,
    late: Vec<Late>,
    writers: [At; 3],
    fates: [Fate; 3],
    faults: u8,
    may_be_late: u8,
    crashes: u8,
    folds: u8,
}

/// What may happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InboxAction {
    /// A read of a writer, or the next of its reads in order.
    Read(usize),
    /// The other read that a writer may do first: the listing of the inbox, where it also asks for the floor.
    List(usize),
    /// A put of a writer.
    Put(usize, Reply),
    /// A writer turns to the inbox without having tried a slot.
    Turn(usize),
    /// A writer that was about to put a slot looks who waits, with the headers after this one.
    Carry(usize, u8),
    /// A writer dies, or answers that the outcome is unknown.
    Die(usize),
    /// Entries up to this one are folded.
    Fold(u8),
    /// The floor follows the watermark.
    Floor,
    /// What lies at the next slot up to the floor is deleted.
    Delete,
    /// The n-th late put lands.
    Land(usize),
}

const REPLIES: [Reply; 5] = [Reply::Sound, Reply::Lost, Reply::NotSent, Reply::Empty409, Reply::Late];

impl Model for Inbox {
    type State = Shelf;
    type Action = InboxAction;

    fn init_states(&self) -> Vec<Shelf> {
        let at = |w: usize| if w < self.writers { At::Learn } else { At::Done };
        vec![Shelf {
            wal: [0; SLOTS],
            folded: [0; SLOTS],
            inbox: [0; SLOTS],
            watermark: 0,
            floor: 0,
            deleted: 0,
            late: vec![],
            writers: [0, 1, 2].map(at),
            fates: [Fate::Open; 3],
            faults: self.faults,
            may_be_late: self.late,
            crashes: self.crashes,
            folds: self.folds,
        }]
    }

    fn actions(&self, s: &Shelf, actions: &mut Vec<InboxAction>) {
        for w in 0..self.writers {
            s.writer_actions(w, actions);
        }
        if s.folds > 0 {
            actions.extend((s.watermark + 1..=s.run_end()).map(InboxAction::Fold));
        }
        if s.floor < s.watermark {
            actions.push(InboxAction::Floor);
        }
        if s.deleted < s.floor {
            actions.push(InboxAction::Delete);
        }
        actions.extend((0..s.late.len()).map(InboxAction::Land));
    }

    fn next_state(&self, last: &Shelf, action: InboxAction) -> Option<Shelf> {
        let mut s = last.clone();
        match action {
            InboxAction::Read(w) => s.read(self, w),
            InboxAction::List(w) => s.list(self, w),
            InboxAction::Put(w, reply) => s.put(self, w, reply),
            InboxAction::Turn(w) => {
                if let At::Put { slot, .. } = s.writers[w] {
                    s.writers[w] = At::Offer { tail: slot - 1 };
                }
            }
            InboxAction::Carry(w, after) => {
                if let At::Put { slot, .. } = s.writers[w] {
                    s.back(w, Since { tail: after, to: after, named: 0 }, slot);
                }
            }
            InboxAction::Die(w) => {
                s.crashes -= 1;
                s.end(w, Fate::Died);
            }
            InboxAction::Fold(to) => {
                for slot in s.watermark + 1..=to {
                    s.folded[usize::from(slot)] = s.wal[usize::from(slot)];
                }
                s.watermark = to;
                s.folds -= 1;
            }
            InboxAction::Floor => s.floor = s.watermark,
            InboxAction::Delete => {
                s.deleted += 1;
                s.wal[usize::from(s.deleted)] = 0;
            }
            InboxAction::Land(nth) => {
                let late = s.late.remove(nth);
                s.apply(late);
            }
        }
        Some(s)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("INV-2 a batch is in one slot at most", |_, s: &Shelf| s.at_most_once()),
            Property::always("INV-1 an acknowledged batch is where its writer was told", |m, s: &Shelf| {
                s.acknowledged_are_there(m)
            }),
            Property::sometimes("a combined entry is acknowledged to all", |m: &Inbox, s: &Shelf| {
                m.retry || s.wal.iter().any(|b| b.count_ones() == m.writers as u32) && s.all_acknowledged(m)
            }),
            Property::sometimes(
                "the batch of a writer that died is written by another",
                |m: &Inbox, s: &Shelf| {
                    let died =
                        |w: usize| s.fates[w] == Fate::Died && s.truth().any(|(_, b)| b & m.batch(w) != 0);
                    m.crashes == 0 || (0..m.writers).any(died)
                },
            ),
            Property::sometimes(
                "what was offered is put by one that offered nothing",
                |m: &Inbox, s: &Shelf| {
                    let carries = |w: &usize| matches!(s.writers[*w], At::Put { batches, offered: None, .. } if batches != m.batch(*w));
                    m.retry || (0..m.writers).any(|w| carries(&w))
                },
            ),
            Property::sometimes("what was offered is past its bound", |m: &Inbox, s: &Shelf| {
                m.folds == 0 || m.retry || s.fates.contains(&Fate::Unknown)
            }),
            Property::sometimes("a retry is answered by what another put", |m: &Inbox, s: &Shelf| {
                !m.retry
                    || matches!(s.fates[m.writers - 1], Fate::Acknowledged(_)) && s.fates[0] == Fate::Died
            }),
        ]
    }
}

impl Inbox {
    fn batch(&self, w: usize) -> Batches {
        match self.retry && w + 1 == self.writers {
            true => 1,
            false => 1 << w,
        }
    }
}
