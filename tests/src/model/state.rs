//! What is on storage, what every actor is about to do, and what was promised.

use super::commit::{Collector, Compactor};
use super::reader::Reader;
use super::writer::Writer;
use super::{Protocol, Reply};
use esker_format::manifest::{Manifest, NameRecord, NameState, Segment};
use esker_format::schema::{Metric, Schema, Settings, VectorType};
use esker_format::{CollectionId, Name, Token};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// A value for each slot; index 0 is not used.
pub(crate) type Slots = [u8; 4];

/// A committed version, or one that its maker wants committed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Version(pub Arc<Manifest>);

impl Hash for Version {
    fn hash<H: Hasher>(&self, to: &mut H) {
        let m = &self.0;
        (m.version, m.token, m.parent, m.watermark, m.hashes.accepted).hash(to);
        (m.floors.wal, m.floors.base, m.floors.version).hash(to);
        for segment in &m.segments {
            segment.made.hash(to);
        }
    }
}

/// A put under way.
#[derive(Clone, Debug, PartialEq, Hash)]
pub(crate) enum Late {
    Entry { slot: u8, batch: u8 },
    Version(Version),
    Head(u8),
}

/// What its writer was told about a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Fate {
    /// Nothing yet.
    #[default]
    Open,
    /// Acknowledged, in this slot.
    Acknowledged(u8),
    /// The outcome is unknown.
    Unknown,
    /// The model has no more slots; its outcome is left open.
    OutOfSlots,
}

/// Batches are numbered from 1: writer w's k-th is 2w + k + 1; 0 is an empty slot.
pub(crate) const BATCHES: usize = 4;

/// One state of the world.
#[derive(Clone, Debug, PartialEq, Hash)]
pub struct State {
    pub(crate) wal: Slots,
    /// Ghost: the batch that was first created in each slot.
    pub(crate) first: Slots,
    /// Bodies by the last slot that may name them: their batches, as bits.
    pub(crate) bodies: Slots,
    pub(crate) register: Vec<Version>,
    /// The version that `head` copies.
    pub(crate) head: u8,
    pub(crate) late: Vec<Late>,
    pub(crate) writers: [Writer; 2],
    pub(crate) fates: [Fate; BATCHES],
    pub(crate) compactors: [Compactor; 2],
    pub(crate) collector: Collector,
    pub(crate) reader: Reader,
    pub(crate) faults: u8,
    pub(crate) may_be_late: u8,
    pub(crate) head_back: u8,
}

impl State {
    pub(crate) fn new(protocol: &Protocol) -> Self {
        Self {
            wal: Slots::default(),
            first: Slots::default(),
            bodies: Slots::default(),
            register: vec![Version(Arc::new(first_manifest()))],
            head: 1,
            late: vec![],
            writers: std::array::from_fn(|w| Writer::new(protocol.batches[w])),
            fates: [Fate::Open; BATCHES],
            compactors: Default::default(),
            collector: Collector::default(),
            reader: Reader::default(),
            faults: protocol.faults,
            may_be_late: protocol.late,
            head_back: protocol.head_back,
        }
    }

    /// The committed version `v`.
    pub(crate) fn version(&self, v: u8) -> &Manifest {
        &self.register[usize::from(v) - 1].0
    }

    pub(crate) fn newest(&self) -> &Manifest {
        self.version(self.newest_version())
    }

    pub(crate) fn newest_version(&self) -> u8 {
        self.register.len() as u8
    }

    /// Creates an entry if its slot is empty; whether it was.
    pub(crate) fn create_entry(&mut self, slot: u8, batch: u8) -> bool {
        let at = usize::from(slot);
        if self.wal[at] != 0 {
            return false;
        }
        self.wal[at] = batch;
        if self.first[at] == 0 {
            self.first[at] = batch;
        }
        true
    }

    /// Creates a version if its name is free; whether it was.
    pub(crate) fn create_version(&mut self, version: Version) -> bool {
        let free = version.0.version == u64::from(self.newest_version()) + 1;
        if free {
            self.register.push(version);
        }
        free
    }

    /// Whether a put may still be answered so.
    pub(crate) fn may(&self, reply: Reply) -> bool {
        match reply {
            Reply::Sound => true,
            Reply::Lost | Reply::NotSent | Reply::Empty409 => self.faults > 0,
            Reply::Late => self.may_be_late > 0,
        }
    }

    /// Answers the put of `what` by `reply`: `Some(true)` for "created", `Some(false)` for "exists", `None` where
    /// nothing is heard.
    pub(crate) fn put(&mut self, what: Late, reply: Reply) -> Option<bool> {
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

    pub(crate) fn land(&mut self, nth: usize) {
        let what = self.late.remove(nth);
        self.apply(what);
    }

    fn apply(&mut self, what: Late) -> bool {
        match what {
            Late::Entry { slot, batch } => self.create_entry(slot, batch),
            Late::Version(version) => self.create_version(version),
            Late::Head(version) => {
                self.head = version;
                true
            }
        }
    }

    /// The listing of `wal/`, newest first.
    pub(crate) fn listed(&self) -> impl Iterator<Item = u64> {
        let wal = self.wal;
        (1..wal.len()).rev().filter(move |slot| wal[*slot] != 0).map(|slot| slot as u64)
    }

    /// The batches acknowledged so far, as bits.
    pub(crate) fn acknowledged(&self) -> u8 {
        let bits = self.fates.iter().enumerate().filter(|(_, fate)| matches!(fate, Fate::Acknowledged(_)));
        bits.map(|(n, _)| 1 << (n + 1)).sum()
    }
}

/// The (slot, batch) pairs that the segments of `m` hold.
pub(crate) fn folded(m: &Manifest) -> impl Iterator<Item = (u8, u8)> {
    m.segments.iter().flat_map(|segment| rows_of(segment.made.token))
}

/// A segment's name tells what is in it: the batch of slot n is byte n of its token, its maker byte 15.
pub(crate) fn segment_token(maker: usize, rows: Slots) -> Token {
    let mut bytes = [0; 16];
    bytes[..rows.len()].copy_from_slice(&rows);
    bytes[15] = maker as u8 + 1;
    Token(u128::from_le_bytes(bytes))
}

pub(crate) fn rows_of(token: Token) -> impl Iterator<Item = (u8, u8)> {
    let bytes = token.0.to_le_bytes();
    (1..Slots::default().len()).map(move |slot| (slot as u8, bytes[slot])).filter(|(_, batch)| *batch != 0)
}

pub(crate) fn segment(token: Token, base: u64, seqs: (u64, u64)) -> Segment {
    Segment {
        made: esker_format::keys::Made { base, token },
        rows: seqs.1 - seqs.0 + 1,
        rows_size: 0,
        index_size: 0,
        header_size: 0,
        header_crc: 0,
        seqs,
        deletes: None,
    }
}

fn first_manifest() -> Manifest {
    let name = Name::new("model").expect("a valid name");
    let state = NameState::Bound {
        id: CollectionId::new(name, 1),
        settings: Settings { dimension: 1, metric: Metric::Cosine, vector_type: VectorType::F32 },
        schema: Schema::default(),
    };
    let record = NameRecord { n: 1, token: Token(0), at_ms: 0, state };
    record.first_manifest().expect("the record of a bound name has a first manifest")
}
