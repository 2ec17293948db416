//! Why something goes, as a sentence.

use std::fmt;

use esker_format::{Seq, Version};
use serde::Serialize;

/// Why an object goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Reason {
    /// A log entry below the floor.
    Entry {
        /// Its number.
        seq: Seq,
        /// The log floor.
        floor: Seq,
    },
    /// The rows of a log entry below the floor, or of an attempt at one.
    Body {
        /// The last slot that may name them.
        until: Seq,
        /// The log floor.
        floor: Seq,
    },
    /// Batches that were offered to other writers: nobody may take them any more.
    Offer {
        /// The slot after which they were offered.
        tail: Seq,
        /// The log floor.
        floor: Seq,
    },
    /// A file of a segment, or a deletion bitmap, that no retained version has.
    Unreachable {
        /// The version that its maker started from.
        base: Version,
        /// The upload floor.
        floor: Version,
    },
    /// What a compaction or a collection that is over left.
    Work {
        /// The version that it started from.
        base: Version,
    },
    /// Made by a merge in steps that nobody went on with for three days.
    Job,
    /// A manifest no longer retained.
    Version {
        /// Which.
        version: Version,
        /// The version floor.
        floor: Version,
    },
    /// A lease that has ended.
    Pin {
        /// On this version.
        version: Version,
        /// Who held it.
        owner: String,
        /// Its holder ended it; else its time is over.
        released: bool,
    },
    /// A temporary file of a put that died.
    Temporary,
    /// A body that a client put, a day ago.
    Upload,
    /// How far the commit of such a body went, two days ago.
    Progress,
    /// Of a collection that was dropped.
    Dropped,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Entry { seq, floor } => {
                write!(
                    f,
                    "log entry {seq} is at or below {floor}: every retained version has it in its segments"
                )
            }
            Reason::Body { until, floor } => {
                write!(
                    f,
                    "rows for slots up to {until} of the log, which is at or below {floor}: they are in the segments, or were never accepted"
                )
            }
            Reason::Offer { tail, floor } => {
                write!(
                    f,
                    "offered after entry {tail} of the log, below {floor}: nobody may put it into an entry any more"
                )
            }
            Reason::Unreachable { base, floor } => {
                write!(
                    f,
                    "made from version {base}, below {floor}, and no retained or pinned version refers to it"
                )
            }
            Reason::Work { base } => write!(f, "left by work that started from version {base} and is over"),
            Reason::Job => f.write_str("made by a merge in steps that nobody went on with for three days"),
            Reason::Version { version, floor } => {
                write!(f, "version {version} is below {floor} and not pinned: a stub takes its place")
            }
            Reason::Pin { version, owner, released } => {
                let how = if *released { "was released" } else { "has expired" };
                write!(f, "the pin of {owner} on version {version} {how}")
            }
            Reason::Temporary => f.write_str("a temporary file of a write that died"),
            Reason::Upload => {
                f.write_str("uploaded more than a day ago: its rows are in the log, or were never committed")
            }
            Reason::Progress => f.write_str("of the commit of a body that is gone"),
            Reason::Dropped => f.write_str("the collection was dropped"),
        }
    }
}
