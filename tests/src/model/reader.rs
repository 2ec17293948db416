//! A reader that takes cold, strong snapshots (DESIGN §2, "Strong snapshot").

use super::state::{Slots, State, folded};
use super::{Protocol, Step, Weakening};
use esker_format::append;

/// What the reader does next, and what it found wrong.
#[derive(Clone, Debug, PartialEq, Hash, Default)]
pub(crate) struct Reader {
    taken: u8,
    at: At,
    /// Batches that earlier snapshots saw, as bits.
    seen: u8,
    /// A snapshot was started over.
    pub restarted: bool,
    pub wrong: Wrong,
}

/// What a snapshot got wrong.
#[derive(Clone, Copy, Debug, PartialEq, Hash, Default)]
pub(crate) struct Wrong {
    /// INV-1, INV-10: a batch acknowledged, or seen by an earlier snapshot, before it began is missing.
    pub missing: bool,
    /// INV-5: a slot or a batch is there twice.
    pub twice: bool,
    /// INV-8: an entry was read that is not the first of its slot.
    pub reused: bool,
}

#[derive(Clone, Debug, PartialEq, Hash, Default)]
enum At {
    #[default]
    Idle,
    /// `GET head` and `LIST wal/` in any order.
    Wave1 { head: u8, listed: Option<Slots>, must: u8 },
    /// Tail entries and register probes in any order.
    Wave2 { base: u8, newest: u8, probed: bool, tail: Slots, next: u8, got: Slots, must: u8 },
}

impl State {
    pub(crate) fn reader_steps(&self, protocol: &Protocol, mut may: impl FnMut(Step)) {
        match &self.reader.at {
            At::Idle if self.reader.taken < protocol.reads => {
                may(Step::Head);
                may(Step::List);
            }
            At::Idle => {}
            At::Wave1 { head, listed, .. } => {
                if *head == 0 {
                    may(Step::Head);
                }
                if listed.is_none() {
                    may(Step::List);
                }
            }
            At::Wave2 { probed, next, .. } => {
                if !probed {
                    may(Step::Probe);
                }
                if *next != 0 {
                    may(Step::Get);
                }
            }
        }
    }

    pub(crate) fn read(&mut self, protocol: &Protocol, step: Step) {
        let mut at = std::mem::take(&mut self.reader.at);
        if matches!(at, At::Idle) {
            at = At::Wave1 { head: 0, listed: None, must: self.acknowledged() | self.reader.seen };
        }
        match &mut at {
            At::Idle => {}
            At::Wave1 { head, listed, must } => {
                match step {
                    Step::Head => *head = self.head,
                    _ => *listed = Some(self.wal),
                }
                if let (1.., Some(listed)) = (*head, *listed) {
                    at = self.second_wave(protocol, *head, listed, *must);
                }
            }
            At::Wave2 { newest, probed, tail, next, got, .. } => match step {
                Step::Probe if self.newest_version() > *newest => *newest += 1,
                Step::Probe => *probed = true,
                _ => {
                    let slot = usize::from(*next);
                    let found = self.wal[slot];
                    // If-Match of the listed tag; 404 and 412 alike end the reading and start it over.
                    let same = found == tail[slot] || protocol.is(Weakening::NoTailETag);
                    got[slot] = if same { found } else { 0 };
                    let more = got[slot] != 0 && tail.get(slot + 1).is_some_and(|tag| *tag != 0);
                    *next = if more { *next + 1 } else { 0 };
                }
            },
        }
        self.reader.at = self.finished(protocol, at);
    }

    fn second_wave(&self, protocol: &Protocol, base: u8, listed: Slots, must: u8) -> At {
        let watermark = self.version(base).watermark;
        let slots = (1..listed.len()).rev().filter(|slot| listed[*slot] != 0).map(|slot| slot as u64);
        let run = append::tail(watermark, slots);
        let mut tail = Slots::default();
        run.iter().for_each(|seq| tail[*seq as usize] = listed[*seq as usize]);
        let next = run.first().map_or(0, |seq| *seq as u8);
        let probed = protocol.is(Weakening::NoReaderProbe);
        At::Wave2 { base, newest: base, probed, tail, next, got: Slots::default(), must }
    }

    /// Ends the snapshot if nothing is left to be asked: it stands, or is started over.
    fn finished(&mut self, protocol: &Protocol, at: At) -> At {
        let At::Wave2 { base, newest, probed: true, tail, next: 0, got, must } = at else { return at };
        let watermark = self.version(base).watermark;
        let gone = (1..got.len()).any(|slot| tail[slot] != 0 && got[slot] == 0);
        if gone || !append::complete(watermark, &self.version(newest).floors) {
            self.reader.restarted = true;
            // Without a probe it has learnt of no newer version, and reads head again.
            let head = if protocol.is(Weakening::NoReaderProbe) { 0 } else { newest };
            return At::Wave1 { head, listed: None, must };
        }
        let tail = (1..got.len()).map(|slot| (slot as u8, got[slot])).filter(|(_, batch)| *batch != 0);
        let (mut slots, mut batches) = (0_u8, 0_u8);
        let rows: Vec<_> = folded(self.version(base)).chain(tail).collect();
        for (slot, batch) in rows {
            self.reader.wrong.twice |= slots & (1 << slot) != 0 || batches & (1 << batch) != 0;
            self.reader.wrong.reused |= self.first[usize::from(slot)] != batch;
            slots |= 1 << slot;
            batches |= 1 << batch;
        }
        self.reader.wrong.missing |= must & !batches != 0;
        self.reader.seen |= batches;
        self.reader.taken += 1;
        At::Idle
    }
}
