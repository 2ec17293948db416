//! What clients asked for, when, and what they were told.

use crate::truth::Version as Stored;
use esker_format::record::Record;
use esker_format::{Seq, Token, Version};
use std::collections::BTreeMap;
use std::fmt;

/// The content of a record, as far as it is compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cell {
    /// Bits of the vector: the number of its write, and the place in it.
    pub vector: [u32; 2],
    /// Says by which write it was; long in some.
    pub text: Option<String>,
    /// The number of the last write of the record.
    pub version: i64,
    /// When it stops being visible, in milliseconds.
    pub expires: Option<i64>,
}

impl Cell {
    /// Of a record as clients write and read it.
    pub fn of(record: &Record) -> Self {
        let text = match record.metadata.get(crate::truth::ledger::TEXT) {
            Some(esker_format::record::Value::String(text)) => Some(text.clone()),
            _ => None,
        };
        Cell { vector: bits(&record.vector), text, version: record.version, expires: record.expires_at }
    }

    /// Of a row as it is stored.
    pub fn stored(version: &Stored) -> Self {
        let Stored { row, version, expires, .. } = version;
        Cell { vector: bits(&row.vector), text: row.text.clone(), version: *version, expires: *expires }
    }
}

fn bits(vector: &[f32]) -> [u32; 2] {
    [0, 1].map(|i| vector.get(i).copied().unwrap_or(f32::NAN).to_bits())
}

/// What must hold for a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum If {
    Always,
    Absent,
    Version(i64),
}

/// A change of one record.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    Put(Cell),
    Remove,
    /// Replaces what is given, of a record that is there; the version always.
    Patch {
        vector: Option<[u32; 2]>,
        text: Option<String>,
        version: i64,
    },
}

impl Change {
    /// What it makes of a record; `None` if it cannot be.
    pub fn apply(&self, old: Option<&Cell>) -> Option<Option<Cell>> {
        match self {
            Change::Put(cell) => Some(Some(cell.clone())),
            Change::Remove => Some(None),
            Change::Patch { vector, text, version } => {
                let mut cell = old?.clone();
                cell.vector = vector.unwrap_or(cell.vector);
                cell.text = text.clone().or(cell.text);
                cell.version = *version;
                Some(Some(cell))
            }
        }
    }
}

/// What a client asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// All at once.
    Write {
        rows: Vec<(String, Change)>,
        condition: If,
    },
    Read(How),
    /// The end of the collection.
    Drop,
}

/// How fresh a read asked to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Strong { min: Seq },
    Eventual { min: Seq },
    AsOf { version: Version, pinned: bool },
}

/// What a read brought.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    pub position: Seq,
    pub version: Version,
    pub staleness_ms: u64,
    /// Of each id that was asked for.
    pub rows: BTreeMap<String, Option<Cell>>,
}

/// What a client was told.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Nothing yet, and for ever if it died.
    Open,
    Acknowledged {
        position: Seq,
    },
    /// The record of this id did not fit the condition: its version, if it was there at all.
    Refused {
        id: String,
        found: Option<i64>,
    },
    /// Nothing was done, and nothing ever will be.
    Failed,
    Unknown,
    Seen(View),
}

/// An operation of a client.
#[derive(Clone, Debug)]
pub struct Op {
    pub client: u64,
    pub ask: Ask,
    pub token: Option<Token>,
    pub invoked: u64,
    pub invoked_ms: i64,
    /// The client's own clock when it asked.
    pub wall_ms: i64,
    pub responded: Option<u64>,
    pub responded_ms: i64,
    pub outcome: Outcome,
}

/// Every operation, in the order in which they were begun.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub ops: Vec<Op>,
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.ask {
            Ask::Drop => write!(f, "drop"),
            Ask::Read(how) => write!(f, "read {how:?}"),
            Ask::Write { rows, condition } => {
                write!(f, "write {condition:?}")?;
                rows.iter().try_for_each(|(id, change)| match change {
                    Change::Put(cell) => write!(f, " {id}={}", cell.version),
                    Change::Remove => write!(f, " -{id}"),
                    Change::Patch { version, .. } => write!(f, " {id}~{version}"),
                })
            }
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Seen(view) => {
                let View { position, version, staleness_ms, rows } = view;
                write!(f, "at {position}, version {version}, {staleness_ms} ms old:")?;
                rows.iter().try_for_each(|(id, cell)| match cell {
                    Some(cell) => write!(f, " {id}={}", cell.version),
                    None => write!(f, " -{id}"),
                })
            }
            other => write!(f, "{other:?}"),
        }
    }
}
