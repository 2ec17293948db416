//! Strong snapshots: any committed manifest and every later entry of the log.
//!
//! The newest manifest is not needed for truth, only the proof that nothing above the watermark was deleted.
//! A read *begins* with what is known or with one wave, and *finishes* with one more that runs beside the reader's own:
//! only what [`Collection::finish`] returns may be answered from.

use std::sync::Arc;
use std::time::Duration;

use esker_format::avro::Decoded;
use esker_format::head::{Head, Part};
use esker_format::manifest::{Manifest, RegisterEntry};
use esker_format::schema::Schema;
use esker_format::{Error, Kind, Result, Seq, Version, append};

use crate::client::together;
use crate::collection::{Collection, Instant, Known, Slot, live};
use crate::meter::Meter;
use crate::tail::TailEntry;

/// Most entries that are read ahead of the last known one at once.
const READ_AHEAD: u64 = 64;
/// Collectors wait 60 s between a floor and the first delete. A warm wave sends its probe with its reads instead of
/// after them, so one that took longer than this proves nothing and is repeated.
const WAVE: Duration = Duration::from_secs(10);
/// Most times a read starts again before it gives up.
const RESTARTS: u32 = 8;

/// The beginning of a read. Nothing in it is proven yet.
#[derive(Debug, Clone)]
pub struct Begun {
    /// The manifest that the snapshot will most likely have.
    pub manifest: Arc<Manifest>,
    head: Option<Arc<Head>>,
    how: How,
}

#[derive(Debug, Clone)]
enum How {
    /// From what this process knows.
    Warm(Box<Known>),
    /// From the first wave: the log's listing, sent at this instant or later.
    Cold(Instant, Vec<(Seq, Slot)>),
}

/// A state of a collection that a read may answer from.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The segments.
    pub manifest: Arc<Manifest>,
    /// What opens each segment of the manifest, as far as `head` had it; a missing one is read from its index file.
    pub parts: Vec<Option<Part>>,
    /// Columns: those of the newest manifest seen, which know every key in the tail.
    pub schema: Schema,
    /// Entries above the watermark, oldest first, without a gap.
    pub tail: Vec<Arc<TailEntry>>,
    /// Their rows and tombstones under `schema`.
    pub rows: Vec<Arc<Decoded>>,
    /// The last entry that it has.
    pub position: Seq,
    /// How often the read had to start again from a newer manifest.
    pub restarts: u32,
    /// Milliseconds that it may be behind; 0 if strong.
    pub staleness_ms: u64,
}

impl Collection {
    /// Begins a strong read: from memory if anything is known, else with one wave.
    pub async fn begin(&self, meter: &Meter) -> Result<Begun> {
        match self.known() {
            Some(known) => Ok(Begun {
                manifest: known.manifest.clone(),
                head: known.head.clone(),
                how: How::Warm(Box::new(known)),
            }),
            None => self.begin_cold(meter).await,
        }
    }

    /// Begins a strong read with the first cold wave: GET head ‖ LIST wal/.
    pub(crate) async fn begin_cold(&self, meter: &Meter) -> Result<Begun> {
        let (head_meter, log_meter) = (meter.fork(), meter.fork());
        let sent = self.now();
        let (head, log) = futures::join!(self.read_head(&head_meter), self.list_log(&log_meter));
        let ((manifest, head), listed) = (head?, log?);
        self.learn(manifest.clone(), head.clone(), listed.iter().cloned());
        Ok(Begun { manifest, head, how: How::Cold(sent, listed) })
    }

    /// Takes over what another handle of the same collection began with.
    pub(crate) fn learn_begun(&self, begun: &Begun) {
        let listed = match &begun.how {
            How::Cold(_, listed) => listed.clone(),
            How::Warm(_) => Vec::new(),
        };
        self.learn(begun.manifest.clone(), begun.head.clone(), listed);
    }

    /// Finishes a strong read: one wave when nothing interferes. The snapshot's manifest is newer than `begun`'s if
    /// that one proved too old; what was read beside this call for another manifest is then of no use.
    ///
    /// # Errors
    /// `Gone` if the collection was dropped.
    pub async fn finish(&self, meter: &Meter, begun: Begun) -> Result<Snapshot> {
        let mut begun = begun;
        for restarts in 0..RESTARTS {
            let (start, attempt) = match &begun.how {
                How::Warm(known) => (self.now(), self.finish_warm(meter, known).await?),
                // What was listed is as old as the listing, however long ago that was.
                How::Cold(sent, listed) => (*sent, self.finish_cold(meter, &begun.manifest, listed).await?),
            };
            match attempt {
                Attempt::Proven { manifest, newest, tail } => {
                    let slots = tail.iter().map(|e| (e.seq(), Slot::of(e.clone())));
                    self.learn(newest.clone(), begun.head.clone(), slots);
                    live(newest.clone())?;
                    let head = begun.head.clone();
                    match self.snapshot_of(meter, manifest, &newest, head, tail, restarts).await {
                        // A body that was collected with its entry: the newest manifest has its rows.
                        Err(e) if e.kind() == Kind::NotFound => {
                            begun = self.begin_newest(meter, newest).await?
                        }
                        // An entry of wave 2 was written under a schema that the probe beside it came too early for.
                        Err(e) if e.kind() == Kind::Conflict => {
                            let newest = self.follow(meter, newest).await?;
                            begun = self.begin_newest(meter, newest).await?
                        }
                        Err(e) => return Err(e),
                        Ok(snapshot) => {
                            self.prove(start);
                            return Ok(snapshot);
                        }
                    }
                }
                Attempt::TooOld { newest } => begun = self.begin_newest(meter, newest).await?,
                Attempt::TooSlow => {}
            }
        }
        Err(Error::new(Kind::Unavailable, format!("{} changes faster than it can be read", self.id())))
    }

    /// A strong read in one call.
    pub async fn snapshot(&self, meter: &Meter) -> Result<Snapshot> {
        let begun = self.begin(meter).await?;
        self.finish(meter, begun).await
    }

    /// A strong read from the newest manifest, for a reader that found an object of its snapshot collected.
    pub async fn snapshot_newest(&self, meter: &Meter) -> Result<Snapshot> {
        let start = match self.known() {
            Some(known) => known.manifest,
            None => self.read_head(meter).await?.0,
        };
        let newest = self.follow(meter, start).await?;
        let begun = self.begin_newest(meter, newest).await?;
        self.finish(meter, begun).await
    }

    /// Begins again from the newest manifest, listing the log anew.
    async fn begin_newest(&self, meter: &Meter, newest: Arc<Manifest>) -> Result<Begun> {
        let manifest = live(newest)?;
        let sent = self.now();
        let listed = self.list_log(meter).await?;
        let head = self.known().and_then(|k| k.head);
        Ok(Begun { manifest, head, how: How::Cold(sent, listed) })
    }

    /// What this process knows if that was proven at most `staleness` ago and has `min_position`; else a strong read.
    pub async fn eventual(&self, meter: &Meter, staleness: Duration, min_position: Seq) -> Result<Snapshot> {
        if let Some(known) = self.known() {
            let age = known.proven.map_or(Duration::MAX, |at| self.since(at));
            let end = known.run_end(&known.manifest);
            let tail = known.entries(known.manifest.watermark, end);
            if age <= staleness
                && end >= min_position
                && let Some(tail) = tail
            {
                live(known.manifest.clone())?;
                let manifest = known.manifest.clone();
                match self.snapshot_of(meter, manifest.clone(), &manifest, known.head, tail, 0).await {
                    // An entry is of a schema that this process has not seen yet.
                    Err(e) if e.kind() == Kind::Conflict => return self.snapshot(meter).await,
                    snapshot => {
                        let staleness_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
                        return Ok(Snapshot { staleness_ms, ..snapshot? });
                    }
                }
            }
        }
        self.snapshot(meter).await
    }

    /// The state at the watermark of a version, without tail: the same at every call.
    ///
    /// # Errors
    /// `NotFound` if there is no such version, `Gone` if it is no longer retained, naming the oldest that is.
    pub async fn as_of(&self, meter: &Meter, version: Version) -> Result<Snapshot> {
        match self.read_version(meter, version).await? {
            Some(RegisterEntry::Manifest(manifest)) => {
                let manifest: Arc<Manifest> = Arc::from(manifest);
                self.snapshot_of(meter, manifest.clone(), &manifest, None, Vec::new(), 0).await
            }
            Some(RegisterEntry::Stub(_)) => Err(self.gone_version(meter, version).await?),
            None => Err(Error::new(Kind::NotFound, format!("{} has no version {version}", self.id()))),
        }
    }

    /// Wave 2 of a cold read: the listed entries, each only if it is still the one listed ‖ the register probe. The
    /// probe comes after the listing, so floor ≤ watermark proves that the listing was complete.
    async fn finish_cold(
        &self,
        meter: &Meter,
        manifest: &Arc<Manifest>,
        listed: &[(Seq, Slot)],
    ) -> Result<Attempt> {
        let wanted = append::tail(manifest.watermark, listed.iter().map(|(seq, _)| *seq));
        let (probe_meter, tail_meter) = (meter.fork(), meter.fork());
        let probe = self.follow(&probe_meter, manifest.clone());
        let known = self.known();
        let reads = wanted.iter().map(|seq| {
            let kept = known.as_ref().and_then(|k| k.slots.get(seq)?.entry());
            let etag = listed.iter().find(|(s, _)| s == seq).and_then(|(_, slot)| slot.etag.as_ref());
            let meter = tail_meter.fork();
            async move {
                match kept {
                    Some(entry) => Ok(Some(entry)),
                    None => self.read_entry(&meter, *seq, etag).await,
                }
            }
        });
        let reads = together(reads);
        let (newest, tail) = futures::join!(probe, reads);
        let (newest, tail) = (newest?, tail?);
        let complete: Option<Vec<Arc<TailEntry>>> = tail.into_iter().collect();
        match complete {
            Some(tail) if append::complete(manifest.watermark, &newest.floors) => {
                Ok(Attempt::Proven { manifest: manifest.clone(), newest, tail })
            }
            _ => Ok(Attempt::TooOld { newest }),
        }
    }

    /// The warm wave: GET the slot after the last known ‖ GET the next version. Further entries, if there are any, are
    /// read in growing groups up to the first slot that is missing.
    async fn finish_warm(&self, meter: &Meter, known: &Known) -> Result<Attempt> {
        let start: Instant = self.now();
        let manifest = &known.manifest;
        let end = known.run_end(manifest);
        let (probe_meter, tail_meter, new_meter) = (meter.fork(), meter.fork(), meter.fork());
        let probe = self.follow(&probe_meter, manifest.clone());
        let old = self.kept_entries(&tail_meter, known, manifest.watermark, end);
        let new = self.entries_after(&new_meter, end);
        let (newest, old, new) = futures::join!(probe, old, new);
        let (newest, old, new) = (newest?, old?, new?);
        if self.since(start) > WAVE {
            return Ok(Attempt::TooSlow);
        }
        match old {
            Some(mut tail) if append::complete(manifest.watermark, &newest.floors) => {
                tail.extend(new);
                Ok(Attempt::Proven { manifest: manifest.clone(), newest, tail })
            }
            _ => Ok(Attempt::TooOld { newest }),
        }
    }

    /// Known slots in `(from, to]`, reading those whose entries are not kept; `None` if one is gone.
    pub(crate) async fn kept_entries(
        &self,
        meter: &Meter,
        known: &Known,
        from: Seq,
        to: Seq,
    ) -> Result<Option<Vec<Arc<TailEntry>>>> {
        let reads = (from + 1..=to).map(|seq| {
            let slot = known.slots.get(&seq);
            let kept = slot.and_then(|s| s.entry());
            let etag = slot.and_then(|s| s.etag.clone());
            let meter = meter.fork();
            async move {
                match kept {
                    Some(entry) => Ok(Some(entry)),
                    None => self.read_entry(&meter, seq, etag.as_ref()).await,
                }
            }
        });
        let read: Vec<Option<Arc<TailEntry>>> = together(reads).await?;
        Ok(read.into_iter().collect())
    }

    async fn entries_after(&self, meter: &Meter, last: Seq) -> Result<Vec<Arc<TailEntry>>> {
        let (mut tail, mut group) = (Vec::new(), 1);
        loop {
            let from = last + tail.len() as Seq;
            let reads = (from + 1..=from + group).map(|seq| {
                let meter = meter.fork();
                async move { self.read_entry(&meter, seq, None).await }
            });
            let found: Vec<Option<_>> = together(reads).await?;
            let dense: Vec<_> = found.into_iter().map_while(|e| e).collect();
            let ended = (dense.len() as u64) < group;
            tail.extend(dense);
            if ended {
                return Ok(tail);
            }
            group = (group * 2).min(READ_AHEAD);
        }
    }

    async fn snapshot_of(
        &self,
        meter: &Meter,
        manifest: Arc<Manifest>,
        newest: &Manifest,
        head: Option<Arc<Head>>,
        tail: Vec<Arc<TailEntry>>,
        restarts: u32,
    ) -> Result<Snapshot> {
        let schema = newest.schema.clone();
        let rows = self.decode_tail(meter, &manifest.settings, &schema, &tail).await?;
        Ok(Snapshot {
            parts: parts_of(&manifest, head.as_deref()),
            position: manifest.watermark + tail.len() as Seq,
            manifest,
            schema,
            tail,
            rows,
            restarts,
            staleness_ms: 0,
        })
    }
}

/// What the second wave showed.
enum Attempt {
    /// The tail is every entry above the manifest's watermark.
    Proven { manifest: Arc<Manifest>, newest: Arc<Manifest>, tail: Vec<Arc<TailEntry>> },
    /// Something above the watermark may have been deleted.
    TooOld { newest: Arc<Manifest> },
    /// A warm wave that took so long that it proves nothing.
    TooSlow,
}

impl Begun {
    /// What opens each segment of the manifest, as far as `head` had it.
    pub fn parts(&self) -> Vec<Option<Part>> {
        parts_of(&self.manifest, self.head.as_deref())
    }

    /// Bytes of the listed entries above the watermark: what the tail will cost. 0 when warm.
    pub fn tail_bytes(&self) -> u64 {
        match &self.how {
            How::Warm(_) => 0,
            How::Cold(_, listed) => {
                listed.iter().filter(|(seq, _)| *seq > self.manifest.watermark).map(|(_, s)| s.bytes).sum()
            }
        }
    }
}

impl Known {
    /// Entries in `(from, to]` if all are kept.
    fn entries(&self, from: Seq, to: Seq) -> Option<Vec<Arc<TailEntry>>> {
        (from + 1..=to).map(|seq| self.slots.get(&seq)?.entry()).collect()
    }
}

/// The head's parts in the order of the manifest's segments. Headers and codes never change; a deletion bitmap counts
/// only where the manifest refers to the same one.
pub(crate) fn parts_of(manifest: &Manifest, head: Option<&Head>) -> Vec<Option<Part>> {
    let part = |segment: &esker_format::manifest::Segment| {
        let head = head?;
        let part = head.parts.iter().find(|p| p.made == segment.made)?;
        let theirs = head.manifest.segments.iter().find(|s| s.made == segment.made)?;
        let mut part = part.clone();
        if theirs.deletes != segment.deletes {
            part.deletes = None;
        }
        Some(part)
    };
    manifest.segments.iter().map(part).collect()
}

#[cfg(test)]
mod tests;
