//! Compactors and the collector: what follows the newest version, and what is deleted after it (DESIGN §2,
//! "Publish" and "Collect").

use super::state::{Late, Slots, State, Version, rows_of, segment, segment_token};
use super::{Protocol, Reply, Step, Weakening};
use esker_format::manifest::{Floors, Recent, RegisterEntry, Stub};
use esker_format::register::{self, Change, Publish, Settled};
use esker_format::{Seq, SetHash, Token, append};
use std::sync::Arc;

/// A compactor that publishes once.
#[derive(Clone, Debug, PartialEq, Hash, Default)]
pub(crate) enum Compactor {
    #[default]
    Idle,
    /// Knows the newest version, about to list the log.
    List {
        base: u8,
    },
    /// Chooses how much of its tail to fold, about to read the entries.
    Fold {
        base: u8,
        tail: Vec<Seq>,
    },
    Commit(Commit),
    /// Committed; about to overwrite `head`.
    Head {
        version: u8,
    },
    Done,
}

/// The collector: floors, then deletion.
#[derive(Clone, Debug, PartialEq, Hash, Default)]
pub(crate) enum Collector {
    #[default]
    Idle,
    Commit(Commit),
    /// About to delete `slot` and those after it, up to `floor`. `then` is to be committed afterwards (weakened).
    Delete {
        slot: u8,
        floor: u8,
        then: Option<Commit>,
    },
    Done,
}

/// A commit under way.
#[derive(Clone, Debug, PartialEq, Hash)]
pub(crate) struct Commit {
    wish: Wish,
    /// What the wish makes of the newest version its maker knows.
    wanted: Version,
    /// The put was answered by anything but "created": about to read the name.
    read_back: bool,
}

/// A change, as far as it is hashed.
#[derive(Clone, Debug, PartialEq, Hash)]
enum Wish {
    Fold { by: usize, base: u8, to: Seq, made: Token },
    Floors { wal: Seq, version: u64 },
}

enum Committing {
    Still(Commit),
    Committed(u8),
    Refused,
}

impl State {
    pub(crate) fn compactor_steps(&self, c: usize, mut may: impl FnMut(Step)) {
        match &self.compactors[c] {
            // With nothing in the log there is nothing to do.
            Compactor::Idle if self.listed().any(|seq| seq > self.newest().watermark) => may(Step::Head),
            Compactor::Idle | Compactor::Done => {}
            Compactor::List { .. } => may(Step::List),
            Compactor::Fold { tail, .. } => tail.iter().for_each(|seq| may(Step::Fold(*seq))),
            Compactor::Commit(commit) => self.commit_steps(commit, may),
            Compactor::Head { .. } => {
                let replies = [Reply::Sound, Reply::NotSent, Reply::Late];
                replies.into_iter().filter(|reply| self.may(*reply)).map(Step::Put).for_each(may);
            }
        }
    }

    pub(crate) fn compact(&mut self, _: &Protocol, c: usize, step: Step) {
        let next = match (std::mem::take(&mut self.compactors[c]), step) {
            (Compactor::Idle, Step::Head) => Compactor::List { base: self.newest_version() },
            (Compactor::List { base }, Step::List) => {
                match append::tail(self.version(base).watermark, self.listed()) {
                    tail if tail.is_empty() => Compactor::Done,
                    tail => Compactor::Fold { base, tail },
                }
            }
            (Compactor::Fold { base, tail }, Step::Fold(to)) => self.fold(c, base, &tail, to),
            (Compactor::Commit(commit), step) => match self.commit(commit, step) {
                Committing::Still(commit) => Compactor::Commit(commit),
                Committing::Committed(version) => Compactor::Head { version },
                Committing::Refused => Compactor::Done,
            },
            (Compactor::Head { version }, Step::Put(reply)) => {
                self.put(Late::Head(version), reply);
                Compactor::Done
            }
            (at, _) => at,
        };
        self.compactors[c] = next;
    }

    /// Reads the entries, uploads a segment of them (it is invisible, so that is no step), and starts the commit.
    fn fold(&self, c: usize, base: u8, tail: &[Seq], to: Seq) -> Compactor {
        let mut rows = Slots::default();
        for seq in tail.iter().take_while(|seq| **seq <= to) {
            match self.wal[*seq as usize] {
                0 => return Compactor::Done,
                batch => rows[*seq as usize] = batch,
            }
        }
        let wish = Wish::Fold { by: c, base, to, made: segment_token(c, rows) };
        self.start(wish, base).map_or(Compactor::Done, Compactor::Commit)
    }

    pub(crate) fn collector_steps(&self, protocol: &Protocol, mut may: impl FnMut(Step)) {
        match &self.collector {
            Collector::Idle => {
                if protocol.collections > 0 && self.newest().watermark > 0 {
                    may(Step::Head);
                }
            }
            Collector::Commit(commit) => self.commit_steps(commit, may),
            Collector::Delete { .. } => may(Step::Delete),
            Collector::Done => {}
        }
    }

    pub(crate) fn collect(&mut self, protocol: &Protocol, step: Step) {
        let first = protocol.is(Weakening::DeleteBeforeFloor);
        let next = match (std::mem::take(&mut self.collector), step) {
            (Collector::Idle, Step::Head) => {
                let (wal, version) = (self.newest().watermark, self.newest().version);
                match self.start(Wish::Floors { wal, version }, self.newest_version()) {
                    Some(then) if first => Collector::Delete { slot: 1, floor: wal as u8, then: Some(then) },
                    Some(commit) => Collector::Commit(commit),
                    None => Collector::Done,
                }
            }
            (Collector::Commit(commit), step) => match self.commit(commit, step) {
                Committing::Still(commit) => Collector::Commit(commit),
                Committing::Committed(version) if !first => {
                    Collector::Delete { slot: 1, floor: self.version(version).floors.wal as u8, then: None }
                }
                Committing::Committed(_) | Committing::Refused => Collector::Done,
            },
            (Collector::Delete { slot, floor, then }, Step::Delete) => {
                self.wal[usize::from(slot)] = 0;
                // Bodies go with the last slot that may name them.
                self.bodies[usize::from(slot)] = 0;
                if protocol.is(Weakening::UnnamedBodies) {
                    let named = self.wal.iter().fold(0, |named, batch| named | 1 << batch);
                    self.bodies.iter_mut().for_each(|bodies| *bodies &= named);
                }
                match then {
                    _ if slot < floor => Collector::Delete { slot: slot + 1, floor, then },
                    Some(commit) => Collector::Commit(commit),
                    None => Collector::Done,
                }
            }
            (at, _) => at,
        };
        self.collector = next;
    }

    /// A commit of `wish` after version `after`, if it can follow it.
    fn start(&self, wish: Wish, after: u8) -> Option<Commit> {
        let change = self.change(&wish);
        let token = wish.token();
        let wanted = register::next(self.version(after), token, 0, &change).ok()?;
        Some(Commit { wish, wanted: Version(Arc::new(wanted)), read_back: false })
    }

    fn change(&self, wish: &Wish) -> Change {
        match *wish {
            Wish::Floors { wal, version } => Change::Collect(Floors { wal, base: version, version }),
            Wish::Fold { base, to, made, .. } => {
                let from = self.version(base);
                let accepted = rows_of(made).map(|(slot, batch)| row_hash(slot, batch)).sum();
                let recent = rows_of(made).map(|(slot, batch)| Recent {
                    token: Token(u128::from(batch)),
                    seq: u64::from(slot),
                    rows: 1,
                    at_ms: 0,
                    given: true,
                    content: None,
                });
                Change::Publish(Box::new(Publish {
                    base: from.version,
                    fold: (from.watermark, to),
                    inputs: from.segments.clone(),
                    add: vec![segment(made, from.version, (from.watermark + 1, to))],
                    accepted,
                    recent: recent.collect(),
                    ..Publish::default()
                }))
            }
        }
    }

    fn commit_steps(&self, commit: &Commit, mut may: impl FnMut(Step)) {
        match commit.read_back {
            true => may(Step::Get),
            false => Reply::ALL.into_iter().filter(|r| self.may(*r)).map(Step::Put).for_each(may),
        }
    }

    fn commit(&mut self, commit: Commit, step: Step) -> Committing {
        let version = commit.wanted.0.version;
        if let Step::Put(reply) = step {
            return match self.put(Late::Version(commit.wanted.clone()), reply) {
                Some(true) => Committing::Committed(version as u8),
                _ => Committing::Still(Commit { read_back: true, ..commit }),
            };
        }
        match register::settle(commit.wish.token(), self.entry(version).as_ref()) {
            Settled::Committed => Committing::Committed(version as u8),
            Settled::PutAgain => Committing::Still(Commit { read_back: false, ..commit }),
            // The walk to the newest version is one step: all that matters is where it ended.
            Settled::Rebase => match self.start(commit.wish, self.newest_version()) {
                Some(commit) => Committing::Still(commit),
                None => Committing::Refused,
            },
        }
    }

    /// What `GET manifest/{version}` tells a committer.
    fn entry(&self, version: u64) -> Option<RegisterEntry> {
        let m = &self.register.get(version as usize - 1)?.0;
        Some(RegisterEntry::Stub(Stub { version, token: m.token, floors: m.floors }))
    }
}

impl Wish {
    fn token(&self) -> Token {
        match self {
            Wish::Fold { by, .. } => Token(100 + *by as u128),
            Wish::Floors { .. } => Token(200),
        }
    }
}

/// The hash of a batch's one row.
pub(crate) fn row_hash(slot: u8, batch: u8) -> SetHash {
    SetHash::of(["", "a", "b", "c", "d"][usize::from(batch)], u64::from(slot), 0)
}
