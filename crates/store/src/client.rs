//! The one way every crate touches storage: every request is counted, retried where that is safe, and its errors
//! are mapped once.
//!
//! Reads, overwrites of content that does not depend on what was there, and deletes are retried here, each try
//! counted. A create never is: its outcome is the caller's to resolve by reading back.

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use esker_format::Result;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStoreExt, PutMode, PutPayload};

use crate::cache::{RangeCache, SimpleCache};
use crate::meter::{Meter, Method};
use crate::open::Backend;
use crate::seams::Seams;

mod error;
mod hedge;
mod list;
mod parts;
mod put_by;
mod upload;

use error::{Failure, failed, generic, missing};
pub(crate) use hedge::Pace;
pub use list::{Listed, Page};
pub use upload::Upload;

/// Requests of one call that are in flight at once.
const IN_FLIGHT: usize = 64;
/// Cache of a client that was given none.
const DEFAULT_CACHE_BYTES: u64 = 256 << 20;

/// Names the content of an object. Empty where the store gave none.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ETag(pub String);

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reply to a create-if-absent put.
#[derive(Debug)]
pub enum CreateReply {
    /// This call created the object.
    Created,
    /// The store says that something is there: a rival's, an earlier try of ours, or (an empty 409) nothing. Read.
    Exists,
    /// No reply that can be trusted: the put may have landed, may land later, or never. Read.
    Unresolved(esker_format::Error),
    /// The store will not have it (credentials, no conditional puts): nothing was written; do not try again.
    Refused(esker_format::Error),
}

/// Reply to a read of an object that must still be the one that was listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IfMatch {
    /// Its bytes.
    Some(Bytes),
    /// It is another object now, or none.
    Gone,
}

/// How long to wait and how often to ask again.
#[derive(Debug, Clone, Copy)]
pub struct Retry {
    /// Most tries of one request.
    pub tries: u32,
    /// Upper bound of the first wait; doubles with every further one. The wait is a uniform share of the bound.
    pub first: Duration,
    /// Greatest upper bound of a wait.
    pub most: Duration,
    /// No try starts later than this after the first.
    pub deadline: Duration,
    /// A try without a complete reply after this, and one second per MiB of body, has failed.
    pub reply: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Retry {
            tries: 6,
            first: Duration::from_millis(50),
            most: Duration::from_secs(5),
            deadline: Duration::from_secs(30),
            reply: Duration::from_secs(10),
        }
    }
}

/// Storage. Cheap to clone; keys are relative to the store's prefix and cannot leave it.
#[derive(Debug, Clone)]
pub struct Client {
    backend: Backend,
    seams: Seams,
    retry: Retry,
    cache: Arc<dyn RangeCache>,
    hedging: bool,
}

impl Client {
    /// A client of `backend` with the default retries and a plain cache.
    pub fn new(backend: Backend, seams: Seams) -> Self {
        let cache = Arc::new(SimpleCache::new(DEFAULT_CACHE_BYTES));
        Client { backend, seams, retry: Retry::default(), cache, hedging: false }
    }

    /// Uses `cache` for immutable bytes.
    #[must_use]
    pub fn with_cache(mut self, cache: Arc<dyn RangeCache>) -> Self {
        self.cache = cache;
        self
    }

    /// Uses other retries.
    #[must_use]
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Clock and randomness.
    pub fn seams(&self) -> &Seams {
        &self.seams
    }

    /// The cache of immutable bytes.
    pub fn cache(&self) -> &Arc<dyn RangeCache> {
        &self.cache
    }

    /// A whole object, or `None` if nothing has that name. Never cached.
    pub async fn get(&self, meter: &Meter, key: &str) -> Result<Option<(Bytes, ETag)>> {
        match self.read(meter, key, GetOptions::new()).await {
            Ok(read) => Ok(Some((read.bytes, read.etag))),
            Err(e) if missing(&e) => Ok(None),
            Err(e) => Err(failed("GET", key, e)),
        }
    }

    /// A whole object if it is still the one with this tag.
    pub async fn get_if_match(&self, meter: &Meter, key: &str, etag: &ETag) -> Result<IfMatch> {
        if etag.0.is_empty() {
            return Err(failed("GET", key, Failure::Store(error::no_etags())));
        }
        let options = GetOptions::new().with_if_match(Some(etag.0.clone()));
        match self.read(meter, key, options).await {
            Ok(read) => Ok(IfMatch::Some(read.bytes)),
            Err(e) if missing(&e) => Ok(IfMatch::Gone),
            Err(Failure::Store(object_store::Error::Precondition { .. })) => Ok(IfMatch::Gone),
            Err(e) => Err(failed("GET", key, e)),
        }
    }

    /// Exactly these bytes of an object that must exist and be that long: otherwise `NotFound` or `Corrupt`.
    pub async fn range(&self, meter: &Meter, key: &str, range: Range<u64>) -> Result<Bytes> {
        let wanted = range.end.saturating_sub(range.start);
        if wanted == 0 {
            return Ok(Bytes::new());
        }
        let options = GetOptions::new().with_range(Some(GetRange::Bounded(range.clone())));
        let read = self.read(meter, key, options).await.map_err(|e| failed("GET", key, e))?;
        if read.bytes.len() as u64 != wanted {
            return Err(error::too_short(key, &range, read.size));
        }
        Ok(read.bytes)
    }

    /// Many ranges, of any objects, at once.
    pub async fn ranges<K: AsRef<str>>(
        &self,
        meter: &Meter,
        pieces: &[(K, Range<u64>)],
    ) -> Result<Vec<Bytes>> {
        let reads = pieces.iter().map(|(key, range)| {
            let meter = meter.fork();
            async move { self.range(&meter, key.as_ref(), range.clone()).await }
        });
        together(reads).await
    }

    /// The last `length` bytes of an object (all, if it is shorter) and the object's size.
    pub async fn suffix(&self, meter: &Meter, key: &str, length: u64) -> Result<(Bytes, u64)> {
        let options = GetOptions::new().with_range(Some(GetRange::Suffix(length)));
        let read = self.read(meter, key, options).await.map_err(|e| failed("GET", key, e))?;
        Ok((read.bytes, read.size))
    }

    /// Puts `bytes` under a name that nothing has. One try.
    pub async fn create(&self, meter: &Meter, key: &str, bytes: Bytes) -> CreateReply {
        let put = self.put_once(meter, key, bytes, PutMode::Create);
        match put.await {
            Ok(()) => CreateReply::Created,
            Err(Failure::Store(object_store::Error::AlreadyExists { .. })) => CreateReply::Exists,
            Err(e) if e.is_refusal() => CreateReply::Refused(failed("PUT", key, e)),
            Err(e) => CreateReply::Unresolved(failed("PUT", key, e)),
        }
    }

    /// Puts `bytes`, replacing what is there. Retried: the same call twice leaves the same object.
    pub async fn overwrite(&self, meter: &Meter, key: &str, bytes: Bytes) -> Result<()> {
        self.retrying(|| self.put_once(meter, key, bytes.clone(), PutMode::Overwrite))
            .await
            .map_err(|e| failed("PUT", key, e))
    }

    /// Removes an object; removing what is not there succeeds.
    pub async fn delete(&self, meter: &Meter, key: &str) -> Result<()> {
        let once = || async {
            let path = self.path(key)?;
            let ticket = meter.start(Method::Delete, key, None, 0);
            let deleted = self.in_time(0, self.backend.objects.delete(&path)).await;
            ticket.finish(0);
            deleted
        };
        match self.retrying(once).await {
            Err(e) if !missing(&e) => Err(failed("DELETE", key, e)),
            _ => Ok(()),
        }
    }

    /// Temporary files below a folder that puts into a directory are writing or have left behind; none elsewhere, where
    /// a lifecycle rule removes the parts of incomplete uploads. No request to a store.
    pub async fn temporary(&self, folder: &str) -> Result<Vec<Listed>> {
        let Some(directory) = &self.backend.directory else { return Ok(Vec::new()) };
        let found = directory.temporary(folder).await;
        let found = found.map_err(|e| failed("LIST", folder, Failure::Store(e)))?;
        let listed = |(key, size, modified_ms)| Listed { key, size, etag: ETag(String::new()), modified_ms };
        Ok(found.into_iter().map(listed).collect())
    }

    /// Removes a temporary file that [`Client::temporary`] found.
    pub async fn remove_temporary(&self, name: &str) -> Result<()> {
        let Some(directory) = &self.backend.directory else { return Ok(()) };
        directory.remove_temporary(name).await.map_err(|e| failed("DELETE", name, Failure::Store(e)))
    }

    /// Says that an object is not read again soon. Of a directory its pages go, and take what is written next: new ones may
    /// cost more than what is copied to them, in a virtual machine most of all. No request to a store.
    pub async fn evict(&self, key: &str) {
        if let (Some(directory), Ok(path)) = (&self.backend.directory, self.path(key)) {
            directory.evict(&path).await;
        }
    }

    async fn put_once(&self, meter: &Meter, key: &str, bytes: Bytes, mode: PutMode) -> Result<(), Failure> {
        let path = self.path(key)?;
        let method = if matches!(mode, PutMode::Create) { Method::Create } else { Method::Put };
        let length = bytes.len() as u64;
        let ticket = meter.start(method, key, None, length);
        let payload = PutPayload::from_bytes(bytes);
        let put = self.in_time(length, self.backend.objects.put_opts(&path, payload, mode.into())).await;
        ticket.finish(0);
        put.map(drop)
    }

    async fn read(&self, meter: &Meter, key: &str, options: GetOptions) -> Result<Read, Failure> {
        let (shown, expected) = match &options.range {
            Some(GetRange::Bounded(r)) => (Some(r.clone()), r.end - r.start),
            Some(GetRange::Suffix(n)) => (Some(*n..u64::MAX), *n),
            // Length unknown: as patient as with the longest object that is ever read whole.
            Some(GetRange::Offset(_)) | None => (None, 16 << 20),
        };
        let path = self.path(key)?;
        self.retrying(|| async {
            let ticket = meter.start(Method::Get, key, shown.clone(), 0);
            let read = self.in_time(expected, self.read_once(&path, options.clone())).await;
            ticket.finish(read.as_ref().map_or(0, |r| r.bytes.len() as u64));
            read
        })
        .await
    }

    async fn read_once(&self, path: &Path, options: GetOptions) -> object_store::Result<Read> {
        let reply = self.backend.objects.get_opts(path, options).await?;
        let etag = ETag(reply.meta.e_tag.clone().unwrap_or_default());
        let size = reply.meta.size;
        Ok(Read { bytes: reply.bytes().await?, etag, size })
    }

    /// Gives up on a reply that does not come. What was asked for may still happen.
    async fn in_time<T>(
        &self,
        body: u64,
        reply: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, Failure> {
        let limit = self.retry.reply + Duration::from_millis(body * 1000 / (1 << 20));
        let late = self.seams.clock.sleep(limit);
        tokio::select! {
            biased;
            reply = reply => reply.map_err(Failure::Store),
            () = late => Err(Failure::Store(generic(format!("no reply in {} s", limit.as_secs())))),
        }
    }

    /// Asks again while that can help, with exponential backoff and full jitter.
    async fn retrying<T, F: Future<Output = Result<T, Failure>>>(
        &self,
        mut once: impl FnMut() -> F,
    ) -> Result<T, Failure> {
        let start = self.seams.clock.elapsed();
        let mut bound = self.retry.first;
        for _ in 1..self.retry.tries {
            match once().await {
                Err(e) if e.is_transient() => tracing::debug!(error = %e, "request failed, asking again"),
                done => return done,
            }
            self.seams.clock.sleep(self.seams.jitter(bound)).await;
            if self.seams.clock.elapsed() - start >= self.retry.deadline {
                break;
            }
            bound = self.retry.most.min(bound * 2);
        }
        once().await
    }

    /// The object's full path. Refuses what could leave the prefix.
    fn path(&self, key: &str) -> Result<Path, Failure> {
        let relative = Path::parse(key).map_err(|e| Failure::Key(e.to_string()))?;
        if key.is_empty() || relative.as_ref() != key {
            return Err(Failure::Key(format!("`{key}` is not in its plain form")));
        }
        Ok(self.backend.prefix.parts().chain(relative.parts()).collect())
    }
}

/// Requests that are sent together, at most 64 in flight: their results in order, or the first error.
///
/// Not lazy: a stream that kept the closure which makes the requests would not be `Send`.
pub(crate) fn together<T, F: Future<Output = Result<T>>>(
    requests: impl IntoIterator<Item = F>,
) -> impl Future<Output = Result<Vec<T>>> {
    let requests: Vec<F> = requests.into_iter().collect();
    stream::iter(requests).buffered(IN_FLIGHT).try_collect()
}

/// What a read brought.
struct Read {
    bytes: Bytes,
    etag: ETag,
    size: u64,
}

#[cfg(test)]
mod tests;
