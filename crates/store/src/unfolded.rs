//! What a compaction reads of a log: its entries without their rows, which it decodes one at a time and does not keep.

use std::sync::Arc;

use esker_format::avro::{Decoded, RowsBuilder};
use esker_format::head::Part;
use esker_format::manifest::Manifest;
use esker_format::schema::{Schema, Settings};
use esker_format::{Error, Kind, Result, Seq, append, wal};

use crate::client::together;
use crate::collection::{Collection, Slot, live};
use crate::meter::Meter;
use crate::snapshot::parts_of;
use crate::tail::TailEntry;

/// Most times a read starts again before it gives up.
const RESTARTS: u32 = 8;

/// The newest state of a collection, its tail not decoded.
#[derive(Debug, Clone)]
pub struct Unfolded {
    /// The segments.
    pub manifest: Arc<Manifest>,
    /// What opens each segment of the manifest, as far as `head` had it.
    pub parts: Vec<Option<Part>>,
    /// Columns: those of the newest manifest seen, which know every key in the tail.
    pub schema: Schema,
    /// Entries above the watermark, oldest first, without a gap.
    pub tail: Vec<Arc<TailEntry>>,
    /// The last of them; the watermark without one.
    pub position: Seq,
    /// Whether the log goes on above `position`.
    pub more: bool,
}

impl Collection {
    /// The newest state, proven as a strong read is, with the oldest entries of the tail whose objects have
    /// `most_bytes` together; at least one, if there is any.
    ///
    /// # Errors
    /// `Gone` if the collection was dropped.
    pub async fn unfolded(&self, meter: &Meter, most_bytes: u64) -> Result<Unfolded> {
        let mut start = match self.known() {
            Some(known) => known.manifest,
            None => self.read_head(meter).await?.0,
        };
        for _ in 0..RESTARTS {
            let manifest = live(self.follow(meter, start).await?)?;
            let listed = self.list_log(meter).await?;
            let mut wanted = append::tail(manifest.watermark, listed.iter().map(|(seq, _)| *seq));
            let all = wanted.len();
            wanted.truncate(within(&wanted, &listed, most_bytes));
            let (probe_meter, tail_meter) = (meter.fork(), meter.fork());
            let probe = self.follow(&probe_meter, manifest.clone());
            let tail = self.listed_entries(&tail_meter, &wanted, &listed);
            let (newest, tail) = futures::join!(probe, tail);
            let (newest, tail) = (newest?, tail?);
            let Some(tail) = tail.filter(|_| append::complete(manifest.watermark, &newest.floors)) else {
                start = newest;
                continue;
            };
            let slots = tail.iter().map(|e| (e.seq(), Slot::of(e.clone())));
            self.learn(newest.clone(), None, slots);
            let newest = live(newest)?;
            let head = self.known().and_then(|k| k.head);
            return Ok(Unfolded {
                parts: parts_of(&manifest, head.as_deref()),
                schema: newest.schema.clone(),
                position: manifest.watermark + tail.len() as Seq,
                more: wanted.len() < all,
                manifest,
                tail,
            });
        }
        Err(Error::new(Kind::Unavailable, format!("{} changes faster than it can be read", self.id())))
    }

    /// Listed entries, each only if it is still the one listed; `None` if one is gone.
    async fn listed_entries(
        &self,
        meter: &Meter,
        wanted: &[Seq],
        listed: &[(Seq, Slot)],
    ) -> Result<Option<Vec<Arc<TailEntry>>>> {
        let known = self.known();
        let reads = wanted.iter().map(|seq| {
            let kept = known.as_ref().and_then(|k| k.slots.get(seq)?.entry());
            let etag = listed.iter().find(|(s, _)| s == seq).and_then(|(_, slot)| slot.etag.as_ref());
            let meter = meter.fork();
            async move {
                match kept {
                    Some(entry) => Ok(Some(entry)),
                    None => self.read_entry(&meter, *seq, etag).await,
                }
            }
        });
        let read: Vec<Option<Arc<TailEntry>>> = together(reads).await?;
        Ok(read.into_iter().collect())
    }

    /// The rows and tombstones of one entry under `schema`, read past the cache and not kept.
    pub async fn entry_rows(
        &self,
        meter: &Meter,
        settings: &Settings,
        schema: &Schema,
        entry: &Arc<TailEntry>,
    ) -> Result<Arc<Decoded>> {
        let body = match entry.entry.body_key() {
            None => None,
            Some(key) => match self.client().get(meter, &key).await? {
                Some((bytes, _)) => Some(bytes),
                // What a missing body means is decided in one place.
                None => {
                    let decoded =
                        self.decode_tail(meter, settings, schema, std::slice::from_ref(entry)).await?;
                    return decoded.into_iter().next().ok_or_else(|| Error::internal("an entry is lost"));
                }
            },
        };
        let mut rows = RowsBuilder::new(settings, schema);
        wal::decode_rows(&entry.entry, body, &mut rows)?;
        Ok(Arc::new(rows.finish()?))
    }
}

/// How many of the oldest entries have `most_bytes` together; at least one.
fn within(wanted: &[Seq], listed: &[(Seq, Slot)], most_bytes: u64) -> usize {
    let mut bytes = 0;
    let size = |seq: &Seq| listed.iter().find(|(s, _)| s == seq).map_or(0, |(_, slot)| slot.bytes);
    let fits = |seq: &&Seq| {
        bytes += size(seq);
        bytes <= most_bytes
    };
    wanted.iter().take_while(fits).count().max(1)
}
