//! The entries of a tail, decoded: kept when they are small together, else read again for each pass, two at a time.

use std::sync::Arc;

use esker_format::avro::Decoded;
use esker_format::{Result, SetHash};
use esker_store::{Collection, Meter, Unfolded};
use futures::stream::{self, Stream};
use futures::{StreamExt, TryStreamExt};

use super::blocking;
use super::inputs::Gathered;
use crate::fold::Winners;

/// Entries that are read ahead, each of at most some 16 MiB.
const AHEAD: usize = 2;

pub(super) struct Tail<'a> {
    meter: &'a Meter,
    collection: &'a Arc<Collection>,
    unfolded: &'a Unfolded,
    decoded: Option<Vec<Arc<Decoded>>>,
}

impl<'a> Tail<'a> {
    /// Decodes the entries now if they have at most `most_bytes`.
    pub(super) async fn open(
        meter: &'a Meter,
        collection: &'a Arc<Collection>,
        unfolded: &'a Unfolded,
        most_bytes: u64,
    ) -> Result<Self> {
        let Unfolded { manifest, schema, tail, .. } = unfolded;
        let decoded = match tail.iter().map(|e| e.entry.bytes).sum::<u64>() <= most_bytes {
            true => Some(collection.decode_tail(meter, &manifest.settings, schema, tail).await?),
            false => None,
        };
        Ok(Tail { meter, collection, unfolded, decoded })
    }

    /// Rows and tombstones, as the headers count them.
    pub(super) fn writes(&self) -> usize {
        let batches = self.unfolded.tail.iter().flat_map(|e| &e.entry.batches);
        batches.map(|b| b.rows as usize).sum()
    }

    /// The entries with their numbers, oldest first.
    pub(super) fn read(&self) -> impl Stream<Item = Result<(usize, Arc<Decoded>)>> + '_ {
        let entries: Vec<usize> = (0..self.unfolded.tail.len()).collect();
        let read = entries.into_iter().map(move |number| async move {
            if let Some(decoded) = &self.decoded {
                return Ok((number, Arc::clone(&decoded[number])));
            }
            let Unfolded { manifest, schema, tail, .. } = self.unfolded;
            let meter = self.meter.fork();
            let entry = self.collection.entry_rows(&meter, &manifest.settings, schema, &tail[number]).await?;
            Ok((number, entry))
        });
        stream::iter(read).buffered(AHEAD)
    }

    /// The second pass: rows that survive go to `out`. The sum of their hashes.
    pub(super) async fn keep(&self, winners: &Winners, out: &mut Gathered<'_>) -> Result<SetHash> {
        let mut live = SetHash::default();
        let entries = self.read();
        futures::pin_mut!(entries);
        while let Some((number, entry)) = entries.try_next().await? {
            let (rows, hash) = blocking(|| winners.keep(number, &entry))?;
            live += hash;
            out.push(rows)?;
            if self.decoded.is_none()
                && let Some(key) = self.unfolded.tail[number].entry.body_key()
            {
                self.collection.client().evict(&key).await;
            }
        }
        Ok(live)
    }
}
