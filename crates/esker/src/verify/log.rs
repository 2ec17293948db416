//! The log: dense above the floor, every entry and body readable, every set-hash derived again from the stored ids.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use arrow::array::{Array, AsArray};
use bytes::Bytes;
use esker_format::avro::RowsBuilder;
use esker_format::manifest::Manifest;
use esker_format::wal::{self, Entry};
use esker_format::{Kind, Seq, SetHash};
use futures::{StreamExt, stream};

use super::Listing;
use super::chain::{follow, moved};
use super::source::{At, Source, Stop, broken};

/// Missing slots of one gap that are looked for one by one.
const LOOKED_FOR: u64 = 16;
/// Entries that are read ahead, without their bodies.
const AHEAD: usize = 16;

/// What the entries above the floor say.
#[derive(Debug, Default)]
pub struct Log {
    /// The last entry of the run without a gap.
    pub last: Seq,
    /// What an entry adds to `accepted`; none where it cannot be read.
    hashes: BTreeMap<Seq, Option<SetHash>>,
    /// Keys of the bodies that entries name.
    pub bodies: BTreeMap<String, Seq>,
    /// Ids that the tail touches, by hash: whether the newest write of it leaves a row.
    tail: HashMap<u64, bool>,
}

impl Log {
    /// Sum of the entries in `(from, to]`; none when one is not there any more.
    pub fn accepted(&self, from: Seq, to: Seq) -> Option<SetHash> {
        if to.saturating_sub(from) > self.hashes.len() as u64 || to < from {
            return None;
        }
        (from + 1..=to).map(|seq| self.hashes.get(&seq).copied().flatten()).sum()
    }

    /// Rows of the tail that a read sees, and how many of `live`, sorted hashes of ids, they replace or delete.
    pub fn fold(&self, live: &[u64]) -> (u64, u64) {
        let rows = self.tail.values().filter(|leaves| **leaves).count();
        let touched = self.tail.keys().filter(|hash| live.binary_search(hash).is_ok()).count();
        (rows as u64, touched as u64)
    }
}

/// Reads every entry above the floor. `first` was there before the listing.
pub async fn check(
    source: &Source<'_>,
    listing: &Listing,
    first: &Manifest,
    newest: &Manifest,
) -> Result<Log, Stop> {
    let mut seqs: BTreeSet<Seq> =
        listing.entries.range(newest.floors.wal.saturating_add(1)..).copied().collect();
    let mut log = Log { last: newest.watermark, ..Log::default() };
    // Names above the floor are whole at least up to the watermark.
    let sentinel = (seqs.last() < Some(&newest.watermark)).then_some(newest.watermark.saturating_add(1));
    let (mut expected, mut whole) = (newest.floors.wal.saturating_add(1), true);
    for seq in seqs.clone().into_iter().chain(sentinel) {
        if seq > expected {
            let found = gap(source, first, newest, expected, seq).await?;
            whole &= found.len() as u64 == seq - expected;
            seqs.extend(found);
        }
        if whole && seq > newest.watermark && Some(seq) != sentinel {
            log.last = seq;
        }
        expected = seq.saturating_add(1);
    }
    let total = seqs.len() as u64;
    let mut read = stream::iter(seqs.into_iter().map(|seq| async move {
        let bytes = source.get(&source.keys.wal(seq)).await;
        (seq, bytes)
    }))
    .buffered(AHEAD)
    .enumerate();
    while let Some((done, (seq, bytes))) = read.next().await {
        source.stage("log", done as u64, total);
        let read = source.settle(entry(source, newest, seq, bytes?, &mut log).await)?;
        if read.is_none() {
            log.hashes.insert(seq, None);
        }
    }
    Ok(log)
}

/// Slots from `from` to below `to` that the listing lacks: which of them are there.
async fn gap(
    source: &Source<'_>,
    first: &Manifest,
    newest: &Manifest,
    from: Seq,
    to: Seq,
) -> Result<Vec<Seq>, Stop> {
    let mut there = Vec::new();
    for seq in from..to.min(from.saturating_add(LOOKED_FOR)) {
        let key = source.keys.wal(seq);
        if source.get(&key).await?.is_some() {
            there.push(seq);
            if seq <= first.watermark {
                source.found(&key, "listing", "it is there and the listing leaves it out");
            }
        } else if moved(source, newest, |now| seq > now.floors.wal).await? {
            return Err(Stop::Moved);
        } else {
            let message = match seq <= newest.watermark {
                true => format!("it is missing, and the floor is {}", newest.floors.wal),
                false => "it is missing, and later entries are there".to_owned(),
            };
            source.found(&key, "INV-1", message);
        }
    }
    if to - from > LOOKED_FOR {
        let message = format!("entries from {from} to {} are missing", to - 1);
        source.found(&source.keys.wal(from), "INV-1", message);
    }
    Ok(there)
}

/// One entry, its body and its rows.
async fn entry(
    source: &Source<'_>,
    newest: &Manifest,
    seq: Seq,
    bytes: Option<Bytes>,
    log: &mut Log,
) -> Result<(), Stop> {
    let key = source.keys.wal(seq);
    let Some(bytes) = bytes else {
        return match moved(source, newest, |now| seq > now.floors.wal).await? {
            true => Err(Stop::Moved),
            false => broken(&key, "INV-1", "it is listed and missing"),
        };
    };
    let entry = wal::decode(&key, bytes).at(&key, "INV-3")?;
    if entry.collection != *source.id {
        return broken(&key, "format", format!("it is of collection {}", entry.collection));
    }
    let is_tail = seq > newest.watermark && seq <= log.last;
    let body = body(source, newest, &entry).await?;
    log.bodies.extend(entry.body_key().map(|body| (body, seq)));
    let stored = entry.body_key().unwrap_or_else(|| key.clone());
    wal::verify_hashes(&entry, body.clone()).at(&stored, "INV-6")?;
    log.hashes.insert(seq, Some(entry.batches.iter().map(|b| b.hash).sum()));
    let mut rows = RowsBuilder::new(&newest.settings, &newest.schema);
    let decoded = wal::decode_rows(&entry, body, &mut rows).and_then(|()| rows.finish());
    let decoded = match decoded {
        Err(e) if e.kind() == Kind::Internal => {
            // A key that was first seen after the register was read.
            if follow(source, newest.clone()).await?.schema != newest.schema {
                return Err(Stop::Moved);
            }
            return broken(&key, "format", e);
        }
        decoded => decoded.at(&stored, "INV-3")?,
    };
    if is_tail {
        let ids = decoded.rows.column(0).as_string::<i32>();
        let numbers = decoded.rows.column(decoded.rows.num_columns() - 1);
        let numbers = numbers.as_primitive::<arrow::datatypes::Int32Type>();
        let rows = (0..ids.len()).map(|i| (numbers.value(i) as u32, ids.value(i), true));
        let deletes = decoded.tombstones.iter().map(|t| (t.row, t.id.as_str(), false));
        let mut writes: Vec<_> = rows.chain(deletes).collect();
        writes.sort_unstable_by_key(|(row, ..)| *row);
        log.tail.extend(writes.into_iter().map(|(_, id, leaves)| (source.id.hash_id(id), leaves)));
    }
    Ok(())
}

/// The body of an entry that has one. It goes with its last slot, so above the floor it is there.
async fn body(source: &Source<'_>, newest: &Manifest, entry: &Entry) -> Result<Option<Bytes>, Stop> {
    let Some(key) = entry.body_key() else { return Ok(None) };
    if let Some(bytes) = source.get(&key).await? {
        return Ok(Some(bytes));
    }
    match moved(source, newest, |now| entry.seq > now.floors.wal).await? {
        true => Err(Stop::Moved),
        false => broken(&key, "INV-3", format!("it is missing and entry {} names it", entry.seq)),
    }
}
