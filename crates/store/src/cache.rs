//! A cache of immutable bytes, weighed in bytes. Coordination reads never come here.

use std::collections::{HashMap, VecDeque};
use std::fmt::Debug;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use esker_format::{Error, Result};
use futures::future::BoxFuture;

use crate::client::{Client, Pace, together};
use crate::meter::Meter;

/// Bytes of bookkeeping per cached piece, so that many small ones count.
const OVERHEAD: u64 = 128;

/// A piece of an immutable object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Piece {
    /// The object's key.
    pub key: Arc<str>,
    /// Which bytes; `0..u64::MAX` is the whole object.
    pub range: Range<u64>,
}

impl Piece {
    /// All bytes of an object.
    pub fn whole(key: impl Into<Arc<str>>) -> Self {
        Piece { key: key.into(), range: 0..u64::MAX }
    }

    /// Some bytes of an object.
    pub fn of(key: impl Into<Arc<str>>, range: Range<u64>) -> Self {
        Piece { key: key.into(), range }
    }
}

/// A cache of pieces. Simulation uses a deterministic one.
#[async_trait]
pub trait RangeCache: Debug + Send + Sync + 'static {
    /// The piece, if it is here.
    async fn get(&self, piece: &Piece) -> Option<Bytes>;

    /// The piece from here, or from `fetch`, which runs once however many ask for the piece meanwhile. The flag
    /// says whether this call's `fetch` brought it.
    async fn get_or_fetch(&self, piece: Piece, fetch: BoxFuture<'_, Result<Bytes>>) -> Result<(Bytes, bool)>;

    /// Forgets a piece whose checksum failed, so that it is fetched once more.
    async fn forget(&self, piece: &Piece);
}

/// The production cache: moka's TinyLFU, single-flight.
#[derive(Debug)]
pub struct MokaCache(moka::future::Cache<Piece, Bytes>);

impl MokaCache {
    /// A cache of at most `bytes`.
    pub fn new(bytes: u64) -> Self {
        let weigh = |piece: &Piece, bytes: &Bytes| u32::try_from(weight(piece, bytes)).unwrap_or(u32::MAX);
        MokaCache(moka::future::Cache::builder().max_capacity(bytes).weigher(weigh).build())
    }
}

#[async_trait]
impl RangeCache for MokaCache {
    async fn get(&self, piece: &Piece) -> Option<Bytes> {
        self.0.get(piece).await
    }

    async fn get_or_fetch(&self, piece: Piece, fetch: BoxFuture<'_, Result<Bytes>>) -> Result<(Bytes, bool)> {
        let entry = self.0.entry(piece).or_try_insert_with(fetch).await.map_err(shared)?;
        let fetched = entry.is_fresh();
        Ok((entry.into_value(), fetched))
    }

    async fn forget(&self, piece: &Piece) {
        self.0.invalidate(piece).await;
    }
}

/// The failed fetch of another call: the same kind and message.
fn shared(e: Arc<Error>) -> Error {
    match Arc::try_unwrap(e) {
        Ok(e) => e,
        Err(e) => {
            let copy = Error::new(e.kind(), e.to_string());
            match e.hint() {
                Some(hint) => copy.with_hint(hint),
                None => copy,
            }
        }
    }
}

/// First in, first out: what is here depends on the calls alone. Fetches of one piece that overlap each run.
#[derive(Debug)]
pub struct SimpleCache {
    capacity: u64,
    state: Mutex<Simple>,
}

#[derive(Debug, Default)]
struct Simple {
    pieces: HashMap<Piece, Bytes>,
    order: VecDeque<Piece>,
    bytes: u64,
}

impl SimpleCache {
    /// A cache of at most `bytes`.
    pub fn new(bytes: u64) -> Self {
        SimpleCache { capacity: bytes, state: Mutex::default() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, Simple> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, piece: Piece, bytes: Bytes) {
        let mut state = self.state();
        let added = weight(&piece, &bytes);
        if added > self.capacity || state.pieces.contains_key(&piece) {
            return;
        }
        while state.bytes + added > self.capacity {
            let Some(oldest) = state.order.pop_front() else { break };
            if let Some(gone) = state.pieces.remove(&oldest) {
                state.bytes -= weight(&oldest, &gone);
            }
        }
        state.bytes += added;
        state.order.push_back(piece.clone());
        state.pieces.insert(piece, bytes);
    }
}

#[async_trait]
impl RangeCache for SimpleCache {
    async fn get(&self, piece: &Piece) -> Option<Bytes> {
        self.state().pieces.get(piece).cloned()
    }

    async fn get_or_fetch(&self, piece: Piece, fetch: BoxFuture<'_, Result<Bytes>>) -> Result<(Bytes, bool)> {
        if let Some(bytes) = self.get(&piece).await {
            return Ok((bytes, false));
        }
        let bytes = fetch.await?;
        self.insert(piece, bytes.clone());
        Ok((bytes, true))
    }

    async fn forget(&self, piece: &Piece) {
        let mut state = self.state();
        if let Some(gone) = state.pieces.remove(piece) {
            state.bytes -= weight(piece, &gone);
            state.order.retain(|p| p != piece);
        }
    }
}

fn weight(piece: &Piece, bytes: &Bytes) -> u64 {
    (bytes.len() + piece.key.len()) as u64 + OVERHEAD
}

impl Client {
    /// A piece of an immutable object, from the cache if it is there. `NotFound` if the object is gone.
    pub async fn cached(&self, meter: &Meter, piece: &Piece) -> Result<Bytes> {
        self.cached_at(meter, piece, None).await
    }

    async fn cached_at(&self, meter: &Meter, piece: &Piece, pace: Option<&Pace>) -> Result<Bytes> {
        if let Some(bytes) = self.cache().get(piece).await {
            meter.cache_hit(bytes.len() as u64);
            return Ok(bytes);
        }
        check_immutable(&piece.key)?;
        let fetch = Box::pin(self.fetch(meter, piece, pace));
        let (bytes, fetched) = self.cache().get_or_fetch(piece.clone(), fetch).await?;
        if !fetched {
            meter.cache_hit(bytes.len() as u64);
        }
        Ok(bytes)
    }

    /// Some bytes of an immutable object through the cache.
    pub async fn cached_range(&self, meter: &Meter, key: &str, range: Range<u64>) -> Result<Bytes> {
        self.cached(meter, &Piece::of(key, range)).await
    }

    /// Many pieces at once through the cache, in the order asked for.
    pub async fn cached_ranges(&self, meter: &Meter, pieces: &[Piece]) -> Result<Vec<Bytes>> {
        let pace = self.pace(pieces.len());
        let reads = pieces.iter().map(|piece| {
            let (meter, pace) = (meter.fork(), pace.as_deref());
            async move { self.cached_at(&meter, piece, pace).await }
        });
        together(reads).await
    }

    async fn fetch(&self, meter: &Meter, piece: &Piece, pace: Option<&Pace>) -> Result<Bytes> {
        if piece.range != (0..u64::MAX) {
            let range = piece.range.clone();
            return match pace {
                Some(pace) => self.range_at(meter, &piece.key, range, pace).await,
                None => self.range(meter, &piece.key, range).await,
            };
        }
        match self.get(meter, &piece.key).await? {
            Some((bytes, _)) => Ok(bytes),
            None => Err(Error::new(esker_format::Kind::NotFound, format!("{} does not exist", piece.key))),
        }
    }
}

/// Only names that never change their content may be cached.
fn check_immutable(key: &str) -> Result<()> {
    match ["/segment/", "/deletes/", "/body/"].iter().any(|folder| key.contains(folder)) {
        true => Ok(()),
        false => Err(Error::internal(format!("{key} may change and was asked of the cache"))),
    }
}

#[cfg(test)]
mod tests;
