//! The register's entries: what is true of a collection, in one small object.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::envelope::{self, Envelope};
use crate::error::{Error, Result};
use crate::id::{CollectionId, Content, Seq, SetHash, Token, Version};
use crate::keys::Made;
use crate::limits;
use crate::schema::{Schema, Settings};
use crate::wal::Batch;

/// A committed state of a collection: envelope + JSON at `manifest/{~version}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Which collection.
    pub collection: CollectionId,
    /// Number of this entry in the register, from 1.
    pub version: Version,
    /// The attempt that wrote it: how its writer knows it again.
    pub token: Token,
    /// Token of version − 1; none in the first.
    pub parent: Option<Token>,
    /// When its writer's clock said it was. Informational: no decision rests on it.
    pub at_ms: i64,
    /// Fixed at creation.
    pub settings: Settings,
    /// Metadata columns.
    pub schema: Schema,
    /// Entries up to this one are in the segments; later ones are the tail.
    pub watermark: Seq,
    /// Disjoint sets of live rows, oldest first.
    pub segments: Vec<Segment>,
    /// Conservation of row versions up to the watermark.
    pub hashes: Hashes,
    /// Tokens of batches at or below the watermark, for idempotency, oldest first; bounded by [`Recent::keep`].
    pub recent: Vec<Recent>,
    /// The latest time of drawing among the drawn tokens that are no longer in `recent`; 0 before the first. Of those
    /// drawn later, and of no others, it is known whether they were folded.
    #[serde(default)]
    pub forgotten_ms: i64,
    /// What may have been deleted.
    pub floors: Floors,
    /// The collection is gone: no entry follows.
    pub dropped: bool,
}

/// Sets of row versions as additive hashes. Always `accepted = live + pruned`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hashes {
    /// Every row and tombstone of every entry up to the watermark.
    pub accepted: SetHash,
    /// The rows that a search may find.
    pub live: SetHash,
    /// Rows overwritten, deleted or expired, and tombstones.
    pub pruned: SetHash,
}

impl Hashes {
    /// Whether nothing was lost or made up.
    pub fn conserved(&self) -> bool {
        self.accepted == self.live + self.pruned
    }
}

/// Names at or below a floor may be gone; names above are whole. Floors only rise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Floors {
    /// Log entries with seq ≤ this may have been deleted.
    pub wal: Seq,
    /// Uploads `{base}-{token}` with base < this may have been deleted.
    pub base: Version,
    /// Manifests with version < this may be stubs.
    pub version: Version,
}

impl Floors {
    /// Whether every floor is at least that of `o`.
    pub fn at_least(&self, o: &Floors) -> bool {
        self.wal >= o.wal && self.base >= o.base && self.version >= o.version
    }
}

/// An immutable set of rows with its index, and the bitmap of those that no longer count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// Its name: `segment/{made}.parquet` and `.index`.
    pub made: Made,
    /// Rows in the files, dead ones included.
    pub rows: u64,
    /// Bytes of the rows file.
    pub rows_size: u64,
    /// Bytes of the index file.
    pub index_size: u64,
    /// Bytes at the start of the index file that open it (envelope included).
    pub header_size: u64,
    /// CRC32C of these bytes.
    pub header_crc: u32,
    /// Smallest and greatest seq of its rows.
    pub seqs: (Seq, Seq),
    /// Rows that were overwritten or deleted since.
    pub deletes: Option<Deletes>,
}

impl Segment {
    /// Rows that count.
    pub fn live(&self) -> u64 {
        self.rows - self.deletes.as_ref().map_or(0, |d| d.count.min(self.rows))
    }
}

/// Reference to a deletion bitmap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deletes {
    /// Its name: `deletes/{made}`.
    pub made: Made,
    /// Set bits.
    pub count: u64,
    /// Bytes of the object.
    pub size: u64,
}

/// A batch that was folded into segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recent {
    /// The batch's token.
    pub token: Token,
    /// Its entry.
    pub seq: Seq,
    /// Its rows, for the answer to a retry.
    pub rows: u32,
    /// Its arrival.
    pub at_ms: i64,
    /// As in [`Batch::given`].
    #[serde(default)]
    pub given: bool,
    /// As in [`Batch::content`].
    #[serde(default)]
    pub content: Option<Content>,
}

impl Recent {
    /// What is kept of a batch of the entry `seq`.
    pub fn of(seq: Seq, batch: &Batch) -> Self {
        let Batch { token, rows, arrived_ms, given, content, .. } = *batch;
        Recent { token, seq, rows, at_ms: arrived_ms, given, content }
    }

    /// Lets go of what is too old by the newest arrival `at_ms`, and of the oldest beyond the most that a manifest has.
    /// Returns when the last of the drawn tokens among these was drawn; 0 if there is none.
    pub fn keep(recent: &mut Vec<Recent>, at_ms: i64) -> i64 {
        let (mut given, mut drawn) = (limits::TOKENS, limits::DRAWN_TOKENS);
        let mut forgotten_ms = 0;
        recent.reverse();
        recent.retain(|r| {
            let (left, age) = match r.given {
                true => (&mut given, limits::TOKEN_RETENTION_MS),
                false => (&mut drawn, limits::DRAWN_RETENTION_MS),
            };
            let kept = *left > 0 && r.at_ms >= at_ms.saturating_sub(age);
            *left -= usize::from(kept);
            if !kept {
                forgotten_ms = forgotten_ms.max(r.token.drawn_ms().unwrap_or(0));
            }
            kept
        });
        recent.reverse();
        forgotten_ms
    }
}

/// What stands where a manifest no longer retained stood: the name stays taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stub {
    /// The version it stands for.
    pub version: Version,
    /// The token of that version.
    pub token: Token,
    /// The floors of that version.
    pub floors: Floors,
}

/// What `GET manifest/{v}` finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegisterEntry {
    /// A retained version.
    Manifest(Box<Manifest>),
    /// A version no longer retained.
    Stub(Stub),
}

impl RegisterEntry {
    /// The token of whoever committed this version.
    pub fn token(&self) -> Token {
        match self {
            RegisterEntry::Manifest(m) => m.token,
            RegisterEntry::Stub(s) => s.token,
        }
    }

    /// The floors as of this version.
    pub fn floors(&self) -> Floors {
        match self {
            RegisterEntry::Manifest(m) => m.floors,
            RegisterEntry::Stub(s) => s.floors,
        }
    }

    /// Decodes an object read at `manifest/{~version}`.
    pub fn decode(key: &str, version: Version, bytes: &Bytes) -> Result<Self> {
        let (entry, found) = match Envelope::decode(key, bytes)?.kind {
            envelope::Kind::Stub => {
                let stub: Stub = from_json(key, &envelope::open(key, envelope::Kind::Stub, bytes)?)?;
                let found = stub.version;
                (RegisterEntry::Stub(stub), found)
            }
            _ => {
                let manifest = Manifest::decode(key, bytes)?;
                let found = manifest.version;
                (RegisterEntry::Manifest(Box::new(manifest)), found)
            }
        };
        if found != version {
            return Err(Error::corrupt(key, format!("it holds version {found}")));
        }
        Ok(entry)
    }
}

impl Stub {
    /// Envelope + JSON.
    pub fn encode(&self) -> Result<Bytes> {
        Ok(envelope::seal(envelope::Kind::Stub, 0, &to_json(self)?).into())
    }
}

impl Manifest {
    /// Envelope + JSON.
    pub fn encode(&self) -> Result<Bytes> {
        Ok(envelope::seal(envelope::Kind::Manifest, 0, &to_json(self)?).into())
    }

    /// Reads and checks what [`Manifest::encode`] wrote.
    pub fn decode(key: &str, bytes: &Bytes) -> Result<Self> {
        let manifest: Manifest = from_json(key, &envelope::open(key, envelope::Kind::Manifest, bytes)?)?;
        manifest.check(key)?;
        Ok(manifest)
    }

    /// Refuses a manifest that breaks an invariant whatever wrote it.
    pub(crate) fn check(&self, key: &str) -> Result<()> {
        if !self.hashes.conserved() {
            return Err(Error::corrupt(key, "INV-6: accepted is not live + pruned"));
        }
        if self.floors.wal > self.watermark {
            return Err(Error::corrupt(key, "the log floor is above the watermark"));
        }
        Ok(())
    }

    /// What stands in its place once it is no longer retained.
    pub fn stub(&self) -> Stub {
        Stub { version: self.version, token: self.token, floors: self.floors }
    }

    /// Rows that count, over all segments.
    pub fn live_rows(&self) -> u64 {
        self.segments.iter().map(Segment::live).sum()
    }
}

/// An entry of a name's register at `names/{name}/{~n}`: envelope + JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NameRecord {
    /// Its number, from 1.
    pub n: u64,
    /// The attempt that wrote it.
    pub token: Token,
    /// When its writer's clock said it was.
    pub at_ms: i64,
    /// What the name means from here on.
    pub state: NameState,
}

/// What a name means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum NameState {
    /// A collection, with the content of its first manifest.
    Bound {
        /// Which.
        id: CollectionId,
        /// Its settings.
        settings: Settings,
        /// Columns declared at creation.
        schema: Schema,
    },
    /// No collection.
    Dropped,
}

impl NameRecord {
    /// Envelope + JSON.
    pub fn encode(&self) -> Result<Bytes> {
        Ok(envelope::seal(envelope::Kind::Name, 0, &to_json(self)?).into())
    }

    /// Reads and checks what [`NameRecord::encode`] wrote.
    pub fn decode(key: &str, bytes: &Bytes) -> Result<Self> {
        from_json(key, &envelope::open(key, envelope::Kind::Name, bytes)?)
    }

    /// The first manifest of the collection that this record binds. A function of the record alone: anyone who
    /// finds manifest/1 missing puts the same bytes.
    pub fn first_manifest(&self) -> Option<Manifest> {
        let NameState::Bound { id, settings, schema } = &self.state else { return None };
        Some(Manifest {
            collection: id.clone(),
            version: 1,
            token: self.token,
            parent: None,
            at_ms: self.at_ms,
            settings: settings.clone(),
            schema: schema.clone(),
            watermark: 0,
            segments: Vec::new(),
            hashes: Hashes::default(),
            recent: Vec::new(),
            forgotten_ms: 0,
            floors: Floors::default(),
            dropped: false,
        })
    }
}

/// JSON of a persisted type.
pub(crate) fn to_json<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::internal("cannot write JSON").with_source(e))
}

/// A persisted type from JSON whose checksum held.
pub(crate) fn from_json<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| Error::corrupt(key, e))
}

#[cfg(test)]
pub(crate) mod tests;
