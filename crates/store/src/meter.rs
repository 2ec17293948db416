//! Counts what one operation asks of the store: waves, requests and bytes.
//!
//! Every request has depth 1 + the greatest depth of requests of the same operation that completed before it
//! started; waves = greatest depth. Requests sent together share a wave whatever order they finish in.

use std::fmt;
use std::ops::{AddAssign, Range};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

/// S3 Standard, us-east-1 list price of one GET, in dollars.
pub const USD_PER_GET: f64 = 0.0004 / 1000.0;
/// S3 Standard, us-east-1 list price of one PUT or LIST, in dollars. DELETE is free.
pub const USD_PER_PUT_OR_LIST: f64 = 0.005 / 1000.0;

/// What an operation cost so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Io {
    /// Dependent rounds of requests.
    pub waves: u32,
    /// GET requests, retries included.
    pub gets: u64,
    /// GET requests that were sent again because the first was late, beside `gets`.
    pub hedges: u64,
    /// LIST requests: each page is one.
    pub lists: u64,
    /// PUT requests: each part of a multipart upload is one, its start and its completion too.
    pub puts: u64,
    /// DELETE requests.
    pub deletes: u64,
    /// Bytes of bodies received.
    pub bytes_read: u64,
    /// Bytes of bodies sent.
    pub bytes_written: u64,
    /// Bytes that the cache had.
    pub cache_hit_bytes: u64,
}

impl Io {
    /// Price of the requests in dollars, by S3's list prices.
    pub fn usd(&self) -> f64 {
        (self.gets + self.hedges) as f64 * USD_PER_GET + (self.puts + self.lists) as f64 * USD_PER_PUT_OR_LIST
    }
}

impl AddAssign for Io {
    /// One after the other: waves add up.
    fn add_assign(&mut self, o: Io) {
        self.waves += o.waves;
        self.gets += o.gets;
        self.hedges += o.hedges;
        self.lists += o.lists;
        self.puts += o.puts;
        self.deletes += o.deletes;
        self.bytes_read += o.bytes_read;
        self.bytes_written += o.bytes_written;
        self.cache_hit_bytes += o.cache_hit_bytes;
    }
}

/// Kind of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// A read of an object or a range of one.
    Get,
    /// One page of a listing.
    List,
    /// A put that succeeds only where nothing is.
    Create,
    /// A put that replaces; also what belongs to a multipart upload.
    Put,
    /// A delete.
    Delete,
}

/// One request, for the snapshot tests of request lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Kind.
    pub method: Method,
    /// Key relative to the store's prefix; of a LIST its prefix.
    pub key: String,
    /// Bytes asked for; `None` = all. The end of a suffix read is `u64::MAX`, its start the length wanted.
    pub range: Option<Range<u64>>,
    /// The wave it belongs to, from 1.
    pub depth: u32,
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let method = match self.method {
            Method::Get => "GET",
            Method::List => "LIST",
            Method::Create => "CREATE",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
        };
        write!(f, "{} {method} {}", self.depth, self.key)?;
        match &self.range {
            None => Ok(()),
            Some(r) if r.end == u64::MAX => write!(f, " last {}", r.start),
            Some(r) => write!(f, " {}..{}", r.start, r.end),
        }
    }
}

/// The count of one operation. Clones share it; pass it to every call that belongs to the operation.
///
/// Calls that are sent together get one [`Meter::fork`] each: a store that answers at once would otherwise look as
/// if each had waited for the one before.
#[derive(Debug, Clone, Default)]
pub struct Meter {
    count: Arc<Mutex<Count>>,
    branch: Arc<Branch>,
    hedging: bool,
}

#[derive(Debug, Default)]
struct Count {
    io: Io,
    requests: Option<Vec<Request>>,
}

/// What a line of dependent requests has waited for.
#[derive(Debug, Default)]
struct Branch {
    /// Greatest depth among the completed requests that a new one may depend on.
    completed: AtomicU32,
    parent: Option<Arc<Branch>>,
}

impl Meter {
    /// Counts from zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// Also keeps the list of requests.
    pub fn recording() -> Self {
        let count = Count { requests: Some(Vec::new()), ..Count::default() };
        Meter { count: Arc::new(Mutex::new(count)), ..Meter::default() }
    }

    /// The same count, for a call that is sent now: it depends on what completed until now and on its own requests,
    /// not on those of other forks. What it completes counts for this meter.
    pub fn fork(&self) -> Meter {
        let completed = AtomicU32::new(self.branch.completed.load(Ordering::Relaxed));
        let branch = Branch { completed, parent: Some(self.branch.clone()) };
        Meter { count: self.count.clone(), branch: Arc::new(branch), hedging: self.hedging }
    }

    /// The same, counting GETs as hedges.
    pub(crate) fn hedging(&self) -> Meter {
        Meter { hedging: true, ..self.clone() }
    }

    /// The count so far.
    pub fn io(&self) -> Io {
        self.count().io
    }

    /// The requests so far in the order they started; empty unless recording.
    pub fn requests(&self) -> Vec<Request> {
        self.count().requests.clone().unwrap_or_default()
    }

    /// Bytes that came from the cache instead of the store.
    pub fn cache_hit(&self, bytes: u64) {
        self.count().io.cache_hit_bytes += bytes;
    }

    /// A request starts now, sending `sent` bytes of body.
    pub fn start(&self, method: Method, key: &str, range: Option<Range<u64>>, sent: u64) -> Ticket {
        let depth = self.branch.completed.load(Ordering::Relaxed) + 1;
        let mut count = self.count();
        let io = &mut count.io;
        io.waves = io.waves.max(depth);
        io.bytes_written += sent;
        match method {
            Method::Get if self.hedging => io.hedges += 1,
            Method::Get => io.gets += 1,
            Method::List => io.lists += 1,
            Method::Create | Method::Put => io.puts += 1,
            Method::Delete => io.deletes += 1,
        }
        if let Some(requests) = &mut count.requests {
            requests.push(Request { method, key: key.to_owned(), range, depth });
        }
        drop(count);
        Ticket { meter: self.clone(), depth }
    }

    fn count(&self) -> MutexGuard<'_, Count> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request under way. Dropped without [`Ticket::finish`] it was given up: nothing later depends on it.
#[derive(Debug)]
pub struct Ticket {
    meter: Meter,
    depth: u32,
}

impl Ticket {
    /// The reply is complete, `received` bytes of body with it.
    pub fn finish(self, received: u64) {
        self.meter.count().io.bytes_read += received;
        let mut branch = Some(&self.meter.branch);
        while let Some(b) = branch {
            b.completed.fetch_max(self.depth, Ordering::Relaxed);
            branch = b.parent.as_ref();
        }
    }
}

#[cfg(test)]
mod tests;
