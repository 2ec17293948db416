//! What remains of a tail: per id the write with the highest (seq, row) wins, a delete like an upsert, and rows long
//! expired go. Pure, in two passes over the entries: the first notes every write in 32 bytes, the second keeps the rows
//! that won.

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch, TimestampMillisecondArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::TimestampMillisecondType;
use esker_format::avro::Decoded;
use esker_format::{CollectionId, Error, Result, SetHash, limits};
use roaring::RoaringBitmap;
use sha2::{Digest, Sha256};

use crate::versions::{Versions, versions};

/// Low bits of a write's place: what it is.
const FATE_BITS: u32 = 2;
const UPSERT: u32 = 0;
const EXPIRED: u32 = 1;
const DELETE: u32 = 2;

/// A write of the tail. Ids are told apart by 128 bits of their SHA-256, which nobody can make collide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Write {
    hash: u64,
    digest: [u64; 2],
    /// Number of the entry in the tail.
    entry: u32,
    /// Row within the entry, and above it what the write is.
    place: u32,
}

impl Write {
    fn id(&self) -> (u64, [u64; 2]) {
        (self.hash, self.digest)
    }

    fn fate(&self) -> u32 {
        self.place & ((1 << FATE_BITS) - 1)
    }

    fn at(&self) -> (u32, u32) {
        (self.entry, self.place >> FATE_BITS)
    }
}

fn digest(id: &str) -> [u64; 2] {
    let digest = Sha256::digest(id.as_bytes());
    let part = |at: usize| digest[at..at + 8].iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
    [part(0), part(8)]
}

/// The first pass over a tail.
#[derive(Debug)]
pub struct Fold<'a> {
    collection: &'a CollectionId,
    now_ms: i64,
    writes: Vec<Write>,
    out: Winners,
}

/// Who won: what the second pass keeps, and which ids of older segments are dead.
#[derive(Debug, Clone)]
pub struct Winners {
    collection: CollectionId,
    /// The last write of each id, sorted by hash, then digest.
    writes: Vec<Write>,
    /// Of each entry the rows that survive.
    survivors: Vec<RoaringBitmap>,
    /// All rows and tombstones of each entry, in order.
    pub accepted: Vec<SetHash>,
    /// How many rows survive.
    pub live_rows: u64,
    /// Rows that were overwritten or deleted by later ones of the tail.
    pub superseded: u64,
    /// Rows that won and are expired.
    pub expired: u64,
    /// Deletes.
    pub tombstones: u64,
}

impl<'a> Fold<'a> {
    /// A fold as of `now_ms` of entries that have about as many writes.
    pub fn new(collection: &'a CollectionId, now_ms: i64, writes: usize) -> Self {
        let out = Winners {
            collection: collection.clone(),
            writes: Vec::new(),
            survivors: Vec::new(),
            accepted: Vec::new(),
            live_rows: 0,
            superseded: 0,
            expired: 0,
            tombstones: 0,
        };
        Fold { collection, now_ms, writes: Vec::with_capacity(writes), out }
    }

    /// Notes the writes of the next entry, oldest first.
    ///
    /// # Errors
    /// Internal when the rows lack a column, or an entry has more than 2^30.
    pub fn note(&mut self, entry: &Decoded) -> Result<()> {
        let Decoded { rows, tombstones } = entry;
        let number = self.out.accepted.len() as u32;
        let mut accepted = SetHash::default();
        let collection = self.collection;
        let writes = &mut self.writes;
        let mut write = |id: &str, row: u32, fate: u32| {
            if row >> (32 - FATE_BITS) != 0 {
                return Err(Error::internal("an entry has more rows than can be folded"));
            }
            let place = row << FATE_BITS | fate;
            writes.push(Write { hash: collection.hash_id(id), digest: digest(id), entry: number, place });
            Ok(())
        };
        let expiries = expiries(rows)?;
        for (i, v) in versions(rows)?.enumerate() {
            accepted += v.hash();
            let expired = expiries.is_valid(i) && is_expired(expiries.value(i), self.now_ms);
            write(v.id, v.row, if expired { EXPIRED } else { UPSERT })?;
        }
        for t in tombstones {
            accepted += SetHash::of(&t.id, t.seq, t.row);
            write(&t.id, t.row, DELETE)?;
        }
        self.out.accepted.push(accepted);
        self.out.tombstones += tombstones.len() as u64;
        Ok(())
    }

    /// Decides who won.
    pub fn settle(self) -> Winners {
        let Fold { mut writes, mut out, .. } = self;
        let all = writes.len() as u64;
        // By id, then in the order of the log: the last of an id is its newest.
        writes.sort_unstable();
        writes.reverse();
        writes.dedup_by_key(|w| w.id());
        writes.reverse();
        let won = |fate| writes.iter().filter(|w| w.fate() == fate).count() as u64;
        (out.live_rows, out.expired) = (won(UPSERT), won(EXPIRED));
        out.superseded = all - out.tombstones - out.live_rows - out.expired;
        out.survivors = vec![RoaringBitmap::new(); out.accepted.len()];
        for (entry, row) in writes.iter().filter(|w| w.fate() == UPSERT).map(Write::at) {
            out.survivors[entry as usize].insert(row);
        }
        out.writes = writes;
        out
    }
}

impl Winners {
    /// The rows of entry `number` that survive, and the sum of their hashes; the batch itself when all do.
    ///
    /// # Errors
    /// Internal when the rows lack a column, or there was no entry of this number.
    pub fn keep(&self, number: usize, entry: &Decoded) -> Result<(RecordBatch, SetHash)> {
        let survivors = self.survivors.get(number);
        let survivors = survivors.ok_or_else(|| Error::internal("an entry was not noted"))?;
        let (versions, mut live) = (Versions::of(&entry.rows)?, SetHash::default());
        let mut keeps = Vec::with_capacity(versions.len());
        for i in 0..versions.len() {
            let version = versions.get(i);
            let keeps_it = survivors.contains(version.row);
            if keeps_it {
                live += version.hash();
            }
            keeps.push(keeps_it);
        }
        Ok((keep(&entry.rows, keeps)?, live))
    }

    /// Whether the tail wrote or deleted the id: whatever older segments have of it is dead.
    pub fn touch(&self, id: &str) -> bool {
        self.last(id).is_some()
    }

    /// [`CollectionId::hash_id`] of every id that the tail touches, ascending.
    pub fn hashes(&self) -> Vec<u64> {
        self.writes.iter().map(|w| w.hash).collect()
    }

    fn last(&self, id: &str) -> Option<&Write> {
        let hash = self.collection.hash_id(id);
        let from = self.writes.partition_point(|w| w.hash < hash);
        let same = self.writes[from..].iter().take_while(|w| w.hash == hash);
        let mut same = same.peekable();
        // Most ids that are asked for were not written.
        same.peek()?;
        let digest = digest(id);
        same.find(|w| w.digest == digest)
    }
}

/// Whether a row that expires at `expires_at` may be dropped.
pub(crate) fn is_expired(expires_at: i64, now_ms: i64) -> bool {
    expires_at.saturating_add(limits::EXPIRY_GRACE_MS) <= now_ms
}

/// The column of expiry instants.
pub(crate) fn expiries(batch: &RecordBatch) -> Result<&TimestampMillisecondArray> {
    let column = batch.column_by_name("_expires_at");
    column
        .and_then(|c| c.as_primitive_opt::<TimestampMillisecondType>())
        .ok_or_else(|| Error::internal("rows have no _expires_at"))
}

/// The rows of a batch that are kept; the batch itself when all are.
pub(crate) fn keep(rows: &RecordBatch, keeps: Vec<bool>) -> Result<RecordBatch> {
    if keeps.iter().all(|keep| *keep) {
        return Ok(rows.clone());
    }
    filter_record_batch(rows, &BooleanArray::from(keeps))
        .map_err(|e| Error::internal("rows cannot be filtered").with_source(e))
}

#[cfg(test)]
mod tests;
