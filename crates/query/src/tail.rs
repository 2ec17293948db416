//! The tail of a snapshot as a search uses it: per id the newest version, rows scanned exactly.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, FixedSizeListArray, RecordBatch};
use arrow::datatypes::{Float16Type, Float32Type, Int32Type, Int64Type, TimestampMillisecondType};
use esker_format::avro::Decoded;
use esker_format::{CollectionId, Error, Result};
use esker_index::Exact;

use crate::filter::Resolved;

/// A row of the tail: entry of the snapshot and row of its batch.
pub(crate) type TailRow = (u32, u32);

/// Entries above the watermark, decoded.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    entries: Vec<Arc<Decoded>>,
    newest: HashMap<Box<str>, Newest>,
    hashes: Vec<u64>,
    bytes: u64,
}

/// What an id takes beside its own bytes: its entry and its hash.
const ID_BYTES: usize = size_of::<(Box<str>, Newest)>() + 16;

#[derive(Debug, Clone, Copy)]
struct Newest {
    /// Entry of the log and row of the entry.
    order: (i64, i32),
    /// Where the row is; nothing if the id was deleted.
    at: Option<TailRow>,
}

impl Tail {
    /// Finds the newest version of each id: the highest (seq, row) wins, deletes in the same order.
    pub fn new(collection: &CollectionId, entries: &[Arc<Decoded>]) -> Result<Tail> {
        let mut newest: HashMap<Box<str>, Newest> = HashMap::new();
        let mut offer = |id: &str, order: (i64, i32), at: Option<TailRow>| match newest.get_mut(id) {
            Some(old) if old.order > order => {}
            Some(old) => *old = Newest { order, at },
            None => drop(newest.insert(id.into(), Newest { order, at })),
        };
        for (entry, decoded) in (0u32..).zip(entries) {
            let rows = &decoded.rows;
            let ids = column(rows, "id")?.as_string::<i32>();
            let seqs = column(rows, "_seq")?.as_primitive::<Int64Type>();
            let numbers = column(rows, "_row")?.as_primitive::<Int32Type>();
            for row in 0..rows.num_rows() {
                let order = (seqs.value(row), numbers.value(row));
                offer(ids.value(row), order, Some((entry, row as u32)));
            }
            for t in &decoded.tombstones {
                offer(&t.id, (t.seq as i64, t.row as i32), None);
            }
        }
        let mut hashes: Vec<u64> = newest.keys().map(|id| collection.hash_id(id)).collect();
        hashes.sort_unstable();
        let rows: usize = entries.iter().map(|e| e.rows.get_array_memory_size()).sum();
        let ids: usize = newest.keys().map(|id| id.len() + ID_BYTES).sum();
        Ok(Tail { entries: entries.to_vec(), newest, hashes, bytes: (rows + ids) as u64 })
    }

    /// Bytes that it takes in memory.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Number of ids that the tail wrote or deleted: each supersedes at most one live row of the segments.
    pub fn ids(&self) -> usize {
        self.newest.len()
    }

    /// The ids with their hashes.
    pub fn touched(&self) -> impl Iterator<Item = &str> {
        self.newest.keys().map(|id| id.as_ref())
    }

    /// Whether the tail wrote or deleted this id.
    pub fn touches(&self, id: &str) -> bool {
        self.newest.contains_key(id)
    }

    /// Whether the tail may have touched an id of this hash.
    pub fn may_touch(&self, hash: u64) -> bool {
        self.hashes.binary_search(&hash).is_ok()
    }

    /// The newest version of an id: not in the tail, deleted there, or this row.
    pub fn get(&self, id: &str) -> Option<Option<TailRow>> {
        self.newest.get(id).map(|n| n.at)
    }

    /// The batch of an entry.
    pub fn batch(&self, entry: u32) -> &RecordBatch {
        &self.entries[entry as usize].rows
    }

    /// The newest rows that pass the filter and have not expired, oldest first.
    pub fn rows(&self, filter: Option<&Resolved>, now_ms: i64) -> Result<Vec<TailRow>> {
        let masks = match filter {
            Some(f) => {
                Some(self.entries.iter().map(|e| f.mask(&e.rows)).collect::<Result<Vec<BooleanArray>>>()?)
            }
            None => None,
        };
        let mut rows = Vec::new();
        for (entry, row) in self.newest.values().filter_map(|n| n.at) {
            let passes = masks.as_ref().is_none_or(|m| m[entry as usize].value(row as usize));
            if passes && !self.expired((entry, row), now_ms)? {
                rows.push((entry, row));
            }
        }
        rows.sort_unstable();
        Ok(rows)
    }

    /// Whether a row is invisible by now.
    pub fn expired(&self, (entry, row): TailRow, now_ms: i64) -> Result<bool> {
        let times = column(self.batch(entry), "_expires_at")?.as_primitive::<TimestampMillisecondType>();
        Ok(times.is_valid(row as usize) && times.value(row as usize) < now_ms)
    }

    /// Exact distance of a row.
    pub fn distance(&self, (entry, row): TailRow, exact: &Exact) -> Result<f32> {
        let (list, at) = (vectors(self.batch(entry))?, row as usize);
        let width = list.value_length() as usize;
        let values = list.values();
        Ok(match values.as_primitive_opt::<Float32Type>() {
            Some(v) => exact.f32(&v.values()[at * width..(at + 1) * width]),
            None => exact.f16(&values.as_primitive::<Float16Type>().values()[at * width..(at + 1) * width]),
        })
    }

    /// The vector of a row.
    pub fn vector(&self, (entry, row): TailRow) -> Result<Vec<f32>> {
        let (list, at) = (vectors(self.batch(entry))?, row as usize);
        let width = list.value_length() as usize;
        let values = list.values();
        Ok(match values.as_primitive_opt::<Float32Type>() {
            Some(v) => v.values()[at * width..(at + 1) * width].to_vec(),
            None => {
                let v = values.as_primitive::<Float16Type>();
                v.values()[at * width..(at + 1) * width].iter().map(|h| h.to_f32()).collect()
            }
        })
    }
}

/// A column that every decoded batch has.
pub(crate) fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a dyn Array> {
    match batch.column_by_name(name) {
        Some(column) => Ok(column.as_ref()),
        None => Err(Error::internal(format!("a batch of rows has no column {name}"))),
    }
}

fn vectors(batch: &RecordBatch) -> Result<&FixedSizeListArray> {
    Ok(column(batch, "vector")?.as_fixed_size_list())
}
