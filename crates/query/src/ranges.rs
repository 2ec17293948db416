//! Reads of byte ranges of immutable objects: coalesced, through the cache, asked for once more when a checksum fails.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use esker_format::{Error, Kind, Result};
use esker_store::cache::Piece;
use esker_store::{Client, Meter};
use futures::stream::{self, StreamExt, TryStreamExt};

/// Ranges of codes, vectors and payload that are at most this far apart are read as one (INDEX §2).
pub(crate) const GAP: u64 = 32 << 10;
/// Bytes of a request of what is read to be held.
const HELD_RANGE: u64 = 8 << 20;
/// Runs that are read to be held at once: each is in memory twice while it is put together.
const HELD_AT_ONCE: usize = 4;

/// How wanted ranges become requests.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shape {
    /// One request per range.
    AsGiven,
    /// Ranges at most so many bytes apart are one request.
    Gap(u64),
    /// With the gap that [`Thrift::gap`] finds for these ranges alone.
    Few(Thrift),
}

/// How many requests ranges are to become, and what may be read for it that nobody wants.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Thrift {
    /// Requests; more where fewer would waste too much.
    pub requests: usize,
    /// Bytes of the gaps that are read, those of [`GAP`] not counted.
    pub waste: u64,
}

impl Thrift {
    /// The gap under which ranges of several files, a list each, are together as few requests as were asked for.
    ///
    /// INDEX §2 doubles the gap; closing the smallest gaps one by one comes to as few and reads less.
    pub fn gap<'a>(self, files: impl IntoIterator<Item = &'a [Range<u64>]>) -> u64 {
        self.plan(files).0
    }

    /// How many requests they are then.
    pub fn requests<'a>(self, files: impl IntoIterator<Item = &'a [Range<u64>]>) -> usize {
        self.plan(files).1
    }

    fn plan<'a>(self, files: impl IntoIterator<Item = &'a [Range<u64>]>) -> (u64, usize) {
        let (mut count, mut gaps) = (0, Vec::new());
        for wanted in files {
            let near = merge(&sorted(wanted), GAP);
            count += near.len();
            gaps.extend(near.windows(2).map(|pair| pair[1].start - pair[0].end));
        }
        gaps.sort_unstable();
        let surplus = count.saturating_sub(self.requests.max(1));
        let mut waste = 0;
        let closed = gaps.iter().take(surplus).take_while(|gap| {
            waste += **gap;
            waste <= self.waste
        });
        closed.fold((GAP, count), |(_, count), gap| (*gap, count - 1))
    }
}

/// An immutable object, some of whose bytes may be held in memory for as long as it is open.
#[derive(Debug)]
pub(crate) struct File {
    key: Arc<str>,
    held: OnceLock<Pieces>,
}

/// Bytes that were read, by position in their object.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pieces(Vec<(Range<u64>, Bytes)>);

impl File {
    pub fn new(key: String) -> Self {
        File { key: key.into(), held: OnceLock::new() }
    }

    pub fn key(&self) -> &str {
        &self.key
    }

    /// What is held in memory.
    pub fn held(&self) -> Option<&Pieces> {
        self.held.get()
    }

    /// Reads `runs` past the cache and holds them, each as one piece of memory, if `check` has nothing against them; twice
    /// if it has.
    pub async fn read_to_hold(
        &self,
        client: &Client,
        meter: &Meter,
        runs: &[Range<u64>],
        check: impl Fn(&Pieces) -> Result<()>,
    ) -> Result<()> {
        if self.held.get().is_some() {
            return Ok(());
        }
        let read = |run: &Range<u64>| {
            let (run, meter) = (run.clone(), meter.fork());
            async move {
                let starts = (run.start..run.end).step_by(HELD_RANGE as usize);
                let requests: Vec<(&str, Range<u64>)> =
                    starts.map(|start| (&*self.key, start..(start + HELD_RANGE).min(run.end))).collect();
                let bytes = client.ranges(&meter, &requests).await?;
                let pieces = Pieces(requests.into_iter().map(|(_, r)| r).zip(bytes).collect());
                let whole = pieces.bytes(&run)?;
                Ok::<_, Error>((run, whole))
            }
        };
        let mut tries = 0;
        loop {
            tries += 1;
            let whole = stream::iter(runs.iter().map(read)).buffered(HELD_AT_ONCE).try_collect().await?;
            let whole = Pieces(whole);
            match check(&whole) {
                Err(e) if e.kind() == Kind::Corrupt && tries == 1 => {
                    tracing::warn!(key = &*self.key, error = %e, "checksum failed, reading once more");
                }
                Err(e) => return Err(e),
                Ok(()) => {
                    // Only the first is kept: both hold the same bytes.
                    let _ = self.held.set(whole);
                    return Ok(());
                }
            }
        }
    }

    /// Makes the cache forget what [`File::read`] asked for.
    pub async fn forget(&self, client: &Client, wanted: &[Range<u64>], shape: Shape) {
        for range in requests(wanted, shape) {
            client.cache().forget(&Piece::of(self.key.clone(), range)).await;
        }
    }

    /// Reads `wanted` in one wave and gives the pieces to `take`, which checks and decodes. When it finds them
    /// corrupt, what the cache had is forgotten and everything is read once more.
    pub async fn read<T>(
        &self,
        client: &Client,
        meter: &Meter,
        wanted: &[Range<u64>],
        shape: Shape,
        take: impl Fn(&Pieces) -> Result<T>,
    ) -> Result<T> {
        if let Some(held) = self.held.get()
            && wanted.iter().all(|r| held.covers(r))
        {
            meter.cache_hit(wanted.iter().map(|r| r.end - r.start).sum());
            return take(held);
        }
        let requests: Vec<Piece> =
            requests(wanted, shape).into_iter().map(|r| Piece::of(self.key.clone(), r)).collect();
        match take(&fetch(client, meter, &requests).await?) {
            Err(e) if e.kind() == Kind::Corrupt => {
                tracing::warn!(key = &*self.key, error = %e, "checksum failed, reading once more");
                self.forget(client, wanted, shape).await;
                take(&fetch(client, meter, &requests).await?)
            }
            done => done,
        }
    }
}

async fn fetch(client: &Client, meter: &Meter, requests: &[Piece]) -> Result<Pieces> {
    let bytes = client.cached_ranges(meter, requests).await?;
    Ok(Pieces(requests.iter().map(|p| p.range.clone()).zip(bytes).collect()))
}

impl Pieces {
    /// One run of bytes that starts at `start`.
    pub fn one(start: u64, bytes: Bytes) -> Self {
        Pieces(vec![(start..start + bytes.len() as u64, bytes)])
    }

    /// Runs, ascending and disjoint.
    pub fn of(runs: Vec<(Range<u64>, Bytes)>) -> Self {
        Pieces(runs)
    }

    /// Bytes of all runs.
    pub fn len(&self) -> u64 {
        self.0.iter().map(|(_, bytes)| bytes.len() as u64).sum()
    }

    /// The runs, ascending.
    pub fn runs(&self) -> &[(Range<u64>, Bytes)] {
        &self.0
    }

    /// Position of the run that holds the start of `range`.
    fn find(&self, range: &Range<u64>) -> Option<usize> {
        let at = self.0.partition_point(|(r, _)| r.start <= range.start).checked_sub(1)?;
        (self.0[at].0.end > range.start).then_some(at)
    }

    /// Whether all bytes of `range` are here.
    pub fn covers(&self, range: &Range<u64>) -> bool {
        if range.is_empty() {
            return true;
        }
        let Some(first) = self.find(range) else { return false };
        let mut end = self.0[first].0.end;
        for (r, _) in &self.0[first + 1..] {
            if end >= range.end || r.start > end {
                break;
            }
            end = r.end;
        }
        end >= range.end
    }

    /// The bytes of a range; copied only where it spans runs.
    pub fn bytes(&self, range: &Range<u64>) -> Result<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let missing = || Error::internal(format!("bytes {range:?} were not read"));
        let first = self.find(range).ok_or_else(missing)?;
        let (run, bytes) = &self.0[first];
        let cut = |run: &Range<u64>, bytes: &Bytes, part: Range<u64>| {
            bytes.slice((part.start - run.start) as usize..(part.end - run.start) as usize)
        };
        if range.end <= run.end {
            return Ok(cut(run, bytes, range.clone()));
        }
        let mut out = BytesMut::with_capacity((range.end - range.start) as usize);
        let mut at = range.start;
        for (run, bytes) in &self.0[first..] {
            if run.start > at || at >= range.end {
                break;
            }
            let end = run.end.min(range.end);
            if end > at {
                out.extend_from_slice(&cut(run, bytes, at..end));
                at = end;
            }
        }
        if at < range.end { Err(missing()) } else { Ok(out.freeze()) }
    }
}

/// The ranges to ask for.
fn requests(wanted: &[Range<u64>], shape: Shape) -> Vec<Range<u64>> {
    match shape {
        Shape::AsGiven => sorted(wanted),
        Shape::Gap(gap) => merge(&sorted(wanted), gap),
        Shape::Few(thrift) => merge(&sorted(wanted), thrift.gap([wanted])),
    }
}

/// Ranges in their order, each once, without the empty ones.
fn sorted(wanted: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut sorted: Vec<Range<u64>> = wanted.iter().filter(|r| !r.is_empty()).cloned().collect();
    sorted.sort_unstable_by_key(|r| (r.start, r.end));
    sorted.dedup();
    sorted
}

/// Merges sorted ranges that are at most `gap` apart.
fn merge(sorted: &[Range<u64>], gap: u64) -> Vec<Range<u64>> {
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in sorted {
        match merged.last_mut() {
            Some(last) if range.start <= last.end.saturating_add(gap) => last.end = last.end.max(range.end),
            _ => merged.push(range.clone()),
        }
    }
    merged
}

#[cfg(test)]
mod tests;
