//! What remains of a tail: per id the write with the highest (seq, row) wins, a delete like an upsert, and rows long
//! expired go. Pure.

use std::borrow::Borrow;
use std::collections::HashMap;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch, TimestampMillisecondArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::TimestampMillisecondType;
use esker_format::avro::Decoded;
use esker_format::{CollectionId, Error, Result, Seq, SetHash, limits};

use crate::versions::{Versions, versions};

/// An id that the tail wrote or deleted: whatever older segments have of it is dead.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Touched {
    /// [`CollectionId::hash_id`] of the id.
    pub hash: u64,
    /// The id.
    pub id: String,
}

/// A folded tail.
#[derive(Debug, Clone, Default)]
pub struct Folded {
    /// The rows that survive, in log order; empty batches are left out.
    pub rows: Vec<RecordBatch>,
    /// Every id of the tail once, sorted by hash, then id.
    pub touched: Vec<Touched>,
    /// All rows and tombstones of each entry, in order.
    pub accepted: Vec<SetHash>,
    /// Rows that are in `rows`.
    pub live: SetHash,
    /// Rows that are not, and every tombstone.
    pub pruned: SetHash,
    /// How many survive.
    pub live_rows: u64,
    /// Rows that were overwritten or deleted by later ones of the tail.
    pub superseded: u64,
    /// Rows that won and are expired.
    pub expired: u64,
    /// Deletes.
    pub tombstones: u64,
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

/// Folds decoded entries, oldest first, as of `now_ms`.
pub fn fold<D: Borrow<Decoded>>(collection: &CollectionId, tail: &[D], now_ms: i64) -> Result<Folded> {
    let mut out = Folded::default();
    let newest = winners(tail, &mut out)?;
    let mut touched: Vec<Touched> =
        newest.keys().map(|id| Touched { hash: collection.hash_id(id), id: (*id).to_owned() }).collect();
    touched.sort_unstable();
    out.touched = touched;
    for decoded in tail {
        let rows = &decoded.borrow().rows;
        let (versions, expiries) = (Versions::of(rows)?, expiries(rows)?);
        let mut keeps = Vec::with_capacity(rows.num_rows());
        for i in 0..rows.num_rows() {
            let version = versions.get(i);
            let wins = newest.get(version.id) == Some(&(version.seq, version.row));
            let expired = expiries.is_valid(i) && is_expired(expiries.value(i), now_ms);
            match (wins, expired) {
                (false, _) => out.superseded += 1,
                (true, true) => out.expired += 1,
                (true, false) => out.live += version.hash(),
            }
            keeps.push(wins && !expired);
        }
        let kept = keep(rows, keeps)?;
        out.live_rows += kept.num_rows() as u64;
        if kept.num_rows() > 0 {
            out.rows.push(kept);
        }
    }
    out.pruned = out.accepted.iter().copied().sum::<SetHash>() - out.live;
    Ok(out)
}

/// The last write of each id, and the hash of every entry.
fn winners<'a, D: Borrow<Decoded>>(tail: &'a [D], out: &mut Folded) -> Result<HashMap<&'a str, (Seq, u32)>> {
    let writes: usize = tail.iter().map(|d| d.borrow().rows.num_rows() + d.borrow().tombstones.len()).sum();
    let mut newest: HashMap<&str, (Seq, u32)> = HashMap::with_capacity(writes);
    for decoded in tail {
        let Decoded { rows, tombstones } = decoded.borrow();
        let mut hash = SetHash::default();
        let mut write = |id: &'a str, at: (Seq, u32)| {
            hash += SetHash::of(id, at.0, at.1);
            let last = newest.entry(id).or_insert(at);
            *last = (*last).max(at);
        };
        versions(rows)?.for_each(|v| write(v.id, (v.seq, v.row)));
        tombstones.iter().for_each(|t| write(&t.id, (t.seq, t.row)));
        out.accepted.push(hash);
        out.tombstones += tombstones.len() as u64;
    }
    Ok(newest)
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
