//! The tail of a snapshot as a search uses it: per id the newest version, rows measured exactly. It grows with the log: a
//! new entry costs what it has, not what the tail has.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{Float16Type, Float32Type, Int32Type, Int64Type, TimestampMillisecondType};
use esker_format::avro::Decoded;
use esker_format::{CollectionId, Error, Result, Seq};
use esker_index::Exact;
use esker_store::tail::TailEntry;
use half::f16;
use roaring::RoaringBitmap;

use crate::filter::Resolved;

pub(crate) mod codes;
pub(crate) mod nearest;

use codes::At;

/// A row of the tail: entry of the snapshot and row of its batch.
pub(crate) type TailRow = (u32, u32);

/// Entries above the watermark, decoded. Rows are numbered through all entries.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    watermark: Seq,
    entries: Vec<Entry>,
    /// Keeps what the store would otherwise read again.
    sources: Vec<Arc<TailEntry>>,
    /// Newest versions, of older entries first: each of a stretch of them.
    layers: Vec<Arc<Layer>>,
    /// The newest row of each id that was not deleted.
    live: Arc<RoaringBitmap>,
    /// Rows that expire at some time.
    expiring: RoaringBitmap,
    ids: usize,
    bytes: u64,
}

#[derive(Debug, Clone)]
struct Entry {
    decoded: Arc<Decoded>,
    vectors: Vectors,
    dimension: usize,
    /// Number of its first row.
    first: u32,
}

#[derive(Debug, Clone)]
enum Vectors {
    F32(ScalarBuffer<f32>),
    F16(ScalarBuffer<f16>),
}

/// What some consecutive entries did to ids.
#[derive(Debug, Clone, Default)]
struct Layer {
    newest: HashMap<Box<str>, Newest>,
    /// Of the ids, ascending.
    hashes: Vec<u64>,
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
    /// The tail of the entries after `watermark`: per id the highest (seq, row) wins, deletes in the same order.
    pub fn new(
        collection: &CollectionId,
        watermark: Seq,
        entries: &[Arc<Decoded>],
        sources: &[Arc<TailEntry>],
    ) -> Result<Tail> {
        Tail { watermark, ..Tail::default() }.extended(collection, entries, sources)
    }

    /// Whether these are the entries of the tail, and perhaps further ones.
    pub fn begins(&self, watermark: Seq, entries: &[Arc<Decoded>]) -> bool {
        let same = |(own, given): (&Entry, &Arc<Decoded>)| Arc::ptr_eq(&own.decoded, given);
        watermark == self.watermark
            && entries.len() >= self.entries.len()
            && self.entries.iter().zip(entries).all(same)
    }

    /// The same with the further ones of `entries`, which [`Tail::begins`] was true of.
    pub fn extended(
        &self,
        collection: &CollectionId,
        entries: &[Arc<Decoded>],
        sources: &[Arc<TailEntry>],
    ) -> Result<Tail> {
        let mut own = self.entries.clone();
        let (mut live, mut expiring, mut bytes) =
            (RoaringBitmap::clone(&self.live), self.expiring.clone(), self.bytes);
        let mut layer = Layer::default();
        for decoded in &entries[own.len().min(entries.len())..] {
            let entry = Entry::new(decoded, own.last())?;
            layer.offer(own.len() as u32, decoded)?;
            let times = column(&decoded.rows, "_expires_at")?;
            expiring.extend(
                (0..times.len()).filter(|row| times.is_valid(*row)).map(|row| entry.first + row as u32),
            );
            bytes += decoded.rows.get_array_memory_size() as u64;
            own.push(entry);
        }
        let inline = sources.iter().skip(self.sources.len()).filter(|s| s.entry.body.is_none());
        bytes += inline.map(|s| s.entry.bytes).sum::<u64>();
        let mut ids = self.ids;
        for (id, newest) in &layer.newest {
            match self.newest(id).map(|before| before.at) {
                None => ids += 1,
                Some(Some((entry, row))) => drop(live.remove(own[entry as usize].first + row)),
                Some(None) => {}
            }
            live.extend(newest.at.map(|(entry, row)| own[entry as usize].first + row));
            bytes += (id.len() + ID_BYTES) as u64;
        }
        layer.hashes = layer.newest.keys().map(|id| collection.hash_id(id)).collect();
        layer.hashes.sort_unstable();
        let mut layers = self.layers.clone();
        if !layer.newest.is_empty() {
            push_layer(&mut layers, layer);
        }
        let (live, sources, watermark) = (Arc::new(live), sources.to_vec(), self.watermark);
        Ok(Tail { watermark, entries: own, sources, layers, live, expiring, ids, bytes })
    }

    /// Bytes that it takes in memory.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Number of ids that the tail wrote or deleted: each supersedes at most one live row of the segments.
    pub fn ids(&self) -> usize {
        self.ids
    }

    /// Number of entries.
    pub fn entries(&self) -> usize {
        self.entries.len()
    }

    /// The ids that the entries from number `first` on wrote or deleted; some more than once.
    pub fn touched_from(&self, first: usize) -> Result<Vec<&str>> {
        let mut ids = Vec::new();
        for entry in self.entries.iter().skip(first) {
            let rows = column(&entry.decoded.rows, "id")?.as_string::<i32>();
            ids.extend((0..rows.len()).map(|row| rows.value(row)));
            ids.extend(entry.decoded.tombstones.iter().map(|t| t.id.as_str()));
        }
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    fn newest(&self, id: &str) -> Option<&Newest> {
        self.layers.iter().rev().find_map(|layer| layer.newest.get(id))
    }

    /// Whether the tail wrote or deleted this id.
    pub fn touches(&self, id: &str) -> bool {
        self.newest(id).is_some()
    }

    /// Whether the tail may have touched an id of this hash.
    pub fn may_touch(&self, hash: u64) -> bool {
        self.layers.iter().any(|layer| layer.hashes.binary_search(&hash).is_ok())
    }

    /// The newest version of an id: not in the tail, deleted there, or this row.
    pub fn get(&self, id: &str) -> Option<Option<TailRow>> {
        self.newest(id).map(|n| n.at)
    }

    /// The batch of an entry.
    pub fn batch(&self, entry: u32) -> &RecordBatch {
        &self.entries[entry as usize].decoded.rows
    }

    /// The numbers of the newest rows that pass the filter and have not expired.
    pub fn passing(&self, filter: Option<&Resolved>, now_ms: i64) -> Result<Arc<RoaringBitmap>> {
        let mut expired = RoaringBitmap::new();
        for number in &self.expiring {
            if self.expired(self.row(number), now_ms)? {
                expired.insert(number);
            }
        }
        let Some(filter) = filter else {
            return Ok(match expired.is_empty() {
                true => self.live.clone(),
                false => Arc::new(&*self.live - &expired),
            });
        };
        let mut passing = RoaringBitmap::new();
        for entry in &self.entries {
            let own = entry.numbers();
            if self.live.range_cardinality(own.clone()) == 0 {
                continue;
            }
            let mask: BooleanArray = filter.mask(&entry.decoded.rows)?;
            passing.extend(self.live.range(own).filter(|n| mask.value((n - entry.first) as usize)));
        }
        Ok(Arc::new(passing - expired))
    }

    /// The newest rows that pass the filter and have not expired, oldest first.
    pub fn rows(&self, filter: Option<&Resolved>, now_ms: i64) -> Result<Vec<TailRow>> {
        let passing = self.passing(filter, now_ms)?;
        let mut rows = Vec::with_capacity(passing.len() as usize);
        for (number, entry) in (0u32..).zip(&self.entries) {
            rows.extend(passing.range(entry.numbers()).map(|n| (number, n - entry.first)));
        }
        Ok(rows)
    }

    /// Whether a row is invisible by now.
    pub fn expired(&self, (entry, row): TailRow, now_ms: i64) -> Result<bool> {
        let times = column(self.batch(entry), "_expires_at")?.as_primitive::<TimestampMillisecondType>();
        Ok(times.is_valid(row as usize) && times.value(row as usize) < now_ms)
    }

    /// Exact distance of a row.
    #[inline]
    pub fn distance(&self, (entry, row): TailRow, exact: &Exact) -> f32 {
        let entry = &self.entries[entry as usize];
        let own = entry.elements(row);
        match &entry.vectors {
            Vectors::F32(v) => exact.f32(&v[own]),
            Vectors::F16(v) => exact.f16(&v[own]),
        }
    }

    /// The vector of a row.
    pub fn vector(&self, row: TailRow) -> Vec<f32> {
        let mut vector = Vec::new();
        self.append_vector(row, &mut vector);
        vector
    }

    fn append_vector(&self, (entry, row): TailRow, out: &mut Vec<f32>) {
        let entry = &self.entries[entry as usize];
        let own = entry.elements(row);
        match &entry.vectors {
            Vectors::F32(v) => out.extend_from_slice(&v[own]),
            Vectors::F16(v) => out.extend(v[own].iter().map(|h| h.to_f32())),
        }
    }

    /// Rows of all entries, those that are not the newest included.
    fn total(&self) -> u32 {
        self.entries.last().map_or(0, |last| last.numbers().end)
    }

    /// The row of a number, which must be less than [`Tail::total`].
    fn row(&self, number: u32) -> TailRow {
        let entry = self.entries.partition_point(|e| e.first <= number).saturating_sub(1);
        (entry as u32, number - self.entries.get(entry).map_or(0, |e| e.first))
    }

    /// The number of a row of the log, if the tail has it.
    fn number(&self, (seq, row): At) -> Option<(u32, TailRow)> {
        let entry = usize::try_from(seq.checked_sub(self.watermark + 1)?).ok()?;
        let own = self.entries.get(entry)?;
        (row < own.rows()).then(|| (own.first + row, (entry as u32, row)))
    }

    /// The number of the first row that is not before a place in the log.
    fn floor(&self, (seq, row): At) -> u32 {
        let Some(entry) = seq.checked_sub(self.watermark + 1) else { return 0 };
        match self.entries.get(usize::try_from(entry).unwrap_or(usize::MAX)) {
            Some(own) => own.first + row.min(own.rows()),
            None => self.total(),
        }
    }

    /// Where the row of a number lies in the log; for [`Tail::total`] the place after the last.
    fn place(&self, number: u32) -> At {
        match number < self.total() {
            true => {
                let (entry, row) = self.row(number);
                (self.watermark + 1 + Seq::from(entry), row)
            }
            false => (self.watermark + 1 + self.entries.len() as Seq, 0),
        }
    }

    /// Vectors and places of rows by number, for [`codes`].
    fn gather(&self, numbers: Range<u32>) -> (Vec<At>, At, Vec<f32>) {
        let (mut rows, mut vectors) = (Vec::with_capacity(numbers.len()), Vec::new());
        for number in numbers.clone() {
            rows.push(self.place(number));
            self.append_vector(self.row(number), &mut vectors);
        }
        (rows, self.place(numbers.end), vectors)
    }

    /// The dimension of its vectors, if there are any.
    fn dimension(&self) -> Option<usize> {
        self.entries.first().map(|e| e.dimension)
    }
}

impl Entry {
    fn new(decoded: &Arc<Decoded>, before: Option<&Entry>) -> Result<Entry> {
        let list = column(&decoded.rows, "vector")?.as_fixed_size_list();
        let values = list.values();
        let vectors = match values.as_primitive_opt::<Float32Type>() {
            Some(v) => Vectors::F32(v.values().clone()),
            None => Vectors::F16(values.as_primitive::<Float16Type>().values().clone()),
        };
        let dimension = list.value_length() as usize;
        let first = before.map_or(0, |e| e.numbers().end);
        Ok(Entry { decoded: decoded.clone(), vectors, dimension, first })
    }

    fn rows(&self) -> u32 {
        self.decoded.rows.num_rows() as u32
    }

    /// The numbers of its rows.
    fn numbers(&self) -> Range<u32> {
        self.first..self.first + self.rows()
    }

    fn elements(&self, row: u32) -> Range<usize> {
        row as usize * self.dimension..(row as usize + 1) * self.dimension
    }
}

impl Layer {
    /// Adds what entry number `entry` did.
    fn offer(&mut self, entry: u32, decoded: &Decoded) -> Result<()> {
        let mut offer = |id: &str, order: (i64, i32), at: Option<TailRow>| match self.newest.get_mut(id) {
            Some(old) if old.order > order => {}
            Some(old) => *old = Newest { order, at },
            None => drop(self.newest.insert(id.into(), Newest { order, at })),
        };
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
        Ok(())
    }

    /// The same with what later entries did.
    fn followed_by(&self, later: &Layer) -> Layer {
        let mut newest = self.newest.clone();
        newest.extend(later.newest.iter().map(|(id, n)| (id.clone(), *n)));
        let mut hashes = [self.hashes.as_slice(), &later.hashes].concat();
        hashes.sort_unstable();
        hashes.dedup();
        Layer { newest, hashes }
    }
}

/// Adds the newest layer; those that are not much larger are made one with it, so that there are few.
fn push_layer(layers: &mut Vec<Arc<Layer>>, newest: Layer) {
    let mut newest = Arc::new(newest);
    while let Some(last) = layers.pop_if(|last| last.newest.len() < 2 * newest.newest.len()) {
        newest = Arc::new(last.followed_by(&newest));
    }
    layers.push(newest);
}

/// A column that every decoded batch has.
pub(crate) fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a dyn Array> {
    match batch.column_by_name(name) {
        Some(column) => Ok(column.as_ref()),
        None => Err(Error::internal(format!("a batch of rows has no column {name}"))),
    }
}

#[cfg(test)]
mod tests;
