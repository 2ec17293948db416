//! What a verification says.

use std::collections::BTreeMap;

use esker_format::{CollectionId, Seq, SetHash, Version};
use serde::Serialize;

/// What an object is for. Every byte of a listing is in exactly one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Reachable from the newest manifest.
    Live,
    /// Log entries above the watermark, with their bodies.
    Tail,
    /// Reachable from an older version that is retained or pinned, or a log entry that is folded and above the floor.
    Retained,
    /// Register entries and `head`.
    Register,
    /// At or below a floor, or of a dropped collection: waits for a collection.
    Garbage,
    /// Uploaded, not committed, and above the floor: under way, or left over from a crash.
    Orphan,
    /// Batches that were offered to other writers, whether an entry has them by now or not.
    Inbox,
    /// State of compactions that resume.
    Work,
    /// Leases on versions.
    Pins,
    /// Bodies that clients put, and how far their commits are: they go a day later, and two.
    Uploads,
    /// "There is work" marks.
    Dirty,
    /// Name records and the store object.
    Names,
    /// No object of this format.
    Unknown,
}

impl Class {
    /// The name used in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Class::Live => "live",
            Class::Tail => "tail",
            Class::Retained => "retained",
            Class::Register => "register",
            Class::Garbage => "garbage",
            Class::Orphan => "orphan",
            Class::Inbox => "inbox",
            Class::Work => "work",
            Class::Pins => "pins",
            Class::Uploads => "uploads",
            Class::Dirty => "dirty",
            Class::Names => "names",
            Class::Unknown => "unknown",
        }
    }
}

/// Objects of a class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Sum {
    /// How many.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Sum {
    pub(super) fn add(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes += bytes;
    }
}

/// Something that is not as the format says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// Key of the object.
    pub object: String,
    /// The invariant that is broken, or `format`.
    pub invariant: &'static str,
    /// What is wrong.
    pub message: String,
}

/// Live rows, expired ones included. Rows of the tail are told apart from older ones by the hash of their id.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Rows {
    /// In the segments of the newest manifest, without those that its bitmaps mark.
    pub segments: u64,
    /// Of the tail: the newest version of each id that it does not delete.
    pub tail: u64,
    /// What a strong read sees: those of the segments that the tail does not touch, and those of the tail.
    pub live: u64,
}

/// What the newest manifest states, and what the rows of its segments add up to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Hashes {
    /// As stored.
    pub manifest: esker_format::manifest::Hashes,
    /// Sum over every live row; none when a segment could not be read whole.
    pub derived_live: Option<SetHash>,
}

/// A verified collection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Which.
    pub collection: CollectionId,
    /// Its newest version, the state that was examined.
    pub version: Version,
    /// Entries up to this one are in the segments.
    pub watermark: Seq,
    /// The last entry of the log.
    pub last: Seq,
    /// Whether the collection was dropped: then only its register is examined.
    pub dropped: bool,
    /// Objects of the listing.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The same by class.
    pub classes: BTreeMap<Class, Sum>,
    /// Rows.
    pub rows: Rows,
    /// Conservation.
    pub hashes: Hashes,
    /// How often the examination began again because objects were collected meanwhile.
    pub restarts: u32,
    /// What is wrong. Empty: the collection is sound.
    pub findings: Vec<Finding>,
    /// Findings that are left out because there are many alike.
    pub more: u64,
}

impl Report {
    pub(super) fn new(id: &CollectionId, restarts: u32) -> Self {
        Report {
            collection: id.clone(),
            version: 0,
            watermark: 0,
            last: 0,
            dropped: false,
            objects: 0,
            bytes: 0,
            classes: BTreeMap::new(),
            rows: Rows::default(),
            hashes: Hashes::default(),
            restarts,
            findings: Vec::new(),
            more: 0,
        }
    }

    /// All findings there are.
    pub fn count(&self) -> u64 {
        self.findings.len() as u64 + self.more
    }
}

/// A verified store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoreReport {
    /// Every collection that has objects, dropped ones too.
    pub collections: Vec<Report>,
    /// Objects outside of collections by class.
    pub classes: BTreeMap<Class, Sum>,
    /// What is wrong outside of collections.
    pub findings: Vec<Finding>,
    /// Findings that are left out because there are many alike.
    pub more: u64,
}

/// How far a verification is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub stage: &'static str,
    /// Done of it.
    pub done: u64,
    /// All of it.
    pub total: u64,
}
