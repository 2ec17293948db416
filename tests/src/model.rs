//! A model of the storage protocol (DESIGN §2), explored exhaustively over the real transition functions of
//! `esker_format::append` and `esker_format::register`.
//!
//! Two writers append batches of one row, two compactors publish, one collector raises floors and deletes, one
//! reader takes cold snapshots. Every action is one request, so any two requests may interleave. Replies are lost, a
//! create answers 409 though nothing landed, a put lands late, and `head` goes backwards.

mod commit;
mod inbox;
mod properties;
mod reader;
mod state;
mod writer;

pub use inbox::{Inbox, InboxAction, InboxWeakening};
pub use state::{Fate, State};

use esker_format::Seq;
use stateright::{Model, Property};

/// A step of the protocol left out. Each must be caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Weakening {
    /// A writer never probes the register after its create.
    NoFloorCheck,
    /// A writer takes "exists" for a rival's entry and a failure for nothing, without looking.
    NoReadBack,
    /// A writer whose read-back found its own entry acknowledges without probing the register.
    ReadBackWithoutFloorCheck,
    /// A writer whose read-back found nothing goes on to the next slot.
    AbsentTakesNextSlot,
    /// The collector deletes first and commits the floor afterwards.
    DeleteBeforeFloor,
    /// A reader does not probe the register.
    NoReaderProbe,
    /// A reader takes whatever entry is in a listed slot.
    NoTailETag,
    /// The collector deletes every body that no entry names, whether or not its slot is taken.
    UnnamedBodies,
}

impl Weakening {
    /// All eight.
    pub const ALL: [Self; 8] = [
        Self::NoFloorCheck,
        Self::NoReadBack,
        Self::ReadBackWithoutFloorCheck,
        Self::AbsentTakesNextSlot,
        Self::DeleteBeforeFloor,
        Self::NoReaderProbe,
        Self::NoTailETag,
        Self::UnnamedBodies,
    ];
}

/// What is explored: how much of everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protocol {
    /// Batches each writer appends, at most 2.
    pub batches: [u8; 2],
    /// Slots of the log, at most 3; a writer that would need another gives up.
    pub slots: u8,
    /// Compactors, at most 2, each publishing once.
    pub publishes: u8,
    /// Collections, at most 1.
    pub collections: u8,
    /// Cold snapshots the reader takes, one after the other.
    pub reads: u8,
    /// Replies lost, requests lost and empty 409s, together.
    pub faults: u8,
    /// Puts that land late.
    pub late: u8,
    /// Times that `head` is set back to an older version.
    pub head_back: u8,
    /// The first writer's batches are large: it uploads a body for a slot before it creates the entry.
    pub bodies: bool,
    /// Slots after that one which may name the body as well.
    pub reach: u8,
    /// What is left out, if anything.
    pub weakening: Option<Weakening>,
}

impl Protocol {
    /// What the ordinary test explores of the writers' and compactors' side: no reader.
    pub fn small_log() -> Self {
        Self {
            batches: [1, 1],
            slots: 3,
            publishes: 1,
            collections: 1,
            reads: 0,
            faults: 1,
            late: 1,
            head_back: 1,
            bodies: false,
            reach: 0,
            weakening: None,
        }
    }

    /// What the ordinary test explores of the reader's side.
    pub fn small_read() -> Self {
        Self { reads: 1, faults: 0, late: 0, ..Self::small_log() }
    }

    /// What the ordinary test explores of bodies.
    pub fn small_bodies() -> Self {
        Self { faults: 0, late: 0, head_back: 0, bodies: true, ..Self::small_log() }
    }

    /// The same with bodies that the slot after theirs may name too.
    pub fn small_reach() -> Self {
        Self { reach: 1, ..Self::small_bodies() }
    }

    /// The log in full: 2 writers, 3 slots, 2 publishes, 1 collection, lost replies, empty 409s, a late put and a
    /// `head` that goes backwards.
    pub fn full_log() -> Self {
        Self { batches: [2, 1], publishes: 2, ..Self::small_log() }
    }

    /// A reader beside all of it, over a log of one batch per writer.
    pub fn full_read() -> Self {
        Self { reads: 1, ..Self::small_log() }
    }

    /// The smallest exploration in which `weakening` does harm.
    pub fn weakened(weakening: Weakening) -> Self {
        match weakening {
            Weakening::NoReaderProbe | Weakening::NoTailETag => {
                Self { weakening: Some(weakening), ..Self::small_read() }
            }
            Weakening::UnnamedBodies => Self { weakening: Some(weakening), ..Self::small_bodies() },
            _ => Self { weakening: Some(weakening), ..Self::small_log() },
        }
    }

    pub(crate) fn is(&self, weakening: Weakening) -> bool {
        self.weakening == Some(weakening)
    }
}

/// How a put is answered, and whether it took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reply {
    /// As it was: created, or "exists".
    Sound,
    /// Applied, but nothing is heard of it.
    Lost,
    /// Not applied, and nothing is heard of it.
    NotSent,
    /// Not applied, and "exists" is answered.
    Empty409,
    /// Nothing is heard of it, and it lands at some later time.
    Late,
}

impl Reply {
    const ALL: [Self; 5] = [Self::Sound, Self::Lost, Self::NotSent, Self::Empty409, Self::Late];
}

/// One request of an actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// `GET head`, or for a compactor or collector the newest version.
    Head,
    /// `LIST wal/`.
    List,
    /// `GET` of the slot, the listed entries or the version in question.
    Get,
    /// The listed entries up to this one are folded: `GET` of each.
    Fold(Seq),
    /// `GET` of the next version.
    Probe,
    /// The put in question.
    Put(Reply),
    /// `DELETE` of the next slot.
    Delete,
}

/// What may happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A request of writer 0 or 1.
    Writer(usize, Step),
    /// A request of compactor 0 or 1.
    Compactor(usize, Step),
    /// A request of the collector.
    Collector(Step),
    /// A request of the reader.
    Reader(Step),
    /// The n-th late put lands.
    Land(usize),
    /// `head` is this older version again.
    HeadBack(u8),
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(self)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for w in 0..2 {
            state.writer_steps(self, w, |step| actions.push(Action::Writer(w, step)));
        }
        for c in 0..usize::from(self.publishes) {
            state.compactor_steps(c, |step| actions.push(Action::Compactor(c, step)));
        }
        state.collector_steps(self, |step| actions.push(Action::Collector(step)));
        state.reader_steps(self, |step| actions.push(Action::Reader(step)));
        actions.extend((0..state.late.len()).map(Action::Land));
        if state.head_back > 0 {
            actions.extend((1..state.head).map(Action::HeadBack));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Writer(w, step) => state.write(self, w, step),
            Action::Compactor(c, step) => state.compact(self, c, step),
            Action::Collector(step) => state.collect(self, step),
            Action::Reader(step) => state.read(self, step),
            Action::Land(nth) => state.land(nth),
            Action::HeadBack(version) => {
                state.head = version;
                state.head_back -= 1;
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}
