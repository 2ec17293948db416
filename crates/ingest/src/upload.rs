//! Bodies too large for a request: their clients put them into the store, then commit them (docs/format/upload.md).
//!
//! A commit reads the body piece by piece, cuts it into batches and appends them one after the other, each under a token that
//! follows from the upload's: a commit that is sent again, or twice at once, writes nothing twice. It goes on in the body where the
//! last one was, so that it ends, however little time each has.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use esker_format::upload::{Progress, Resume};
use esker_format::{Error, Kind, Name, Result, Token, limits};
use esker_proto::rest::Encoding;
use esker_store::{Client, Collection, ETag, IfMatch, Meter, Store};
use futures::{Stream, StreamExt};
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};

use crate::batch::{Cut, Target};
use crate::ingest::append;

mod place;
mod read;

use place::Chunks;

/// How long a URL is good for: a body must begin to arrive within it.
pub const URL_VALID: Duration = Duration::from_secs(60 * 60);
/// Bytes of the body that are read at once.
const CHUNK: u64 = 4 << 20;
/// Commits at once: each holds pieces of its body and batches, up to 250 MiB.
const COMMITS: usize = 2;
/// Bodies that are taken at once: each holds parts of 50 MiB.
const PUTS: usize = 4;
/// When to try again while there are more.
const LATER: Duration = Duration::from_secs(2);
/// Chunks, and batches, that wait for the next stage.
const AHEAD: usize = 1;
/// This share of the time, the last, is left to what is under way.
const RESERVE: u32 = 4;

/// A name for a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The upload.
    pub token: Token,
    /// Where the store takes it by a PUT; `None` if it takes none from others.
    pub url: Option<String>,
}

/// What a commit came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Rows of the body that are in the collection.
    pub rows: u64,
    /// Reads at this position or later see them.
    pub position: u64,
    /// All of the body is; else the time was over, and the commit is to be sent again.
    pub done: bool,
    /// It was all there before.
    pub duplicate: bool,
}

/// How a body is to be committed.
#[derive(Debug, Clone, Copy)]
pub struct CommitOptions {
    /// How it is encoded.
    pub encoding: Encoding,
    /// Names the rows in place of the upload's token, so that two uploads of the same rows are one.
    pub key: Option<Token>,
    /// By the clock's `elapsed`: said how far it is before then.
    pub until: Option<Duration>,
}

/// The uploads of a store.
#[derive(Debug, Clone)]
pub struct Uploads {
    store: Arc<Store>,
    commits: Arc<Semaphore>,
    puts: Arc<Semaphore>,
}

impl Uploads {
    /// Of this store. No request is sent.
    pub fn new(store: Arc<Store>) -> Self {
        let slots = |n: usize| Arc::new(Semaphore::new(n));
        Uploads { store, commits: slots(COMMITS), puts: slots(PUTS) }
    }

    /// A name for a body, and where it is to be put.
    ///
    /// # Errors
    /// NotFound when there is no such collection.
    pub async fn create(&self, meter: &Meter, name: &Name) -> Result<Place> {
        let collection = self.store.collection(meter, name).await?;
        let client = collection.client();
        let token = client.seams().token();
        Ok(Place { token, url: client.signed_put(&collection.keys().upload(token), URL_VALID).await? })
    }

    /// Puts a body for a client that has no URL; its length.
    ///
    /// # Errors
    /// NotFound when there is no such collection; Invalid when the body is too long or breaks off: nothing is there then; Busy
    /// when others are taken.
    pub async fn put<E: std::error::Error + Send + Sync + 'static>(
        &self,
        meter: &Meter,
        name: &Name,
        token: Token,
        mut body: impl Stream<Item = std::result::Result<Bytes, E>> + Unpin,
    ) -> Result<u64> {
        let _slot = slot(&self.puts)?;
        let collection = self.store.collection(meter, name).await?;
        let mut upload = collection.client().upload(meter, &collection.keys().upload(token));
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|e| Error::invalid("body", "the body broke off").with_source(e))?;
            if upload.length() + piece.len() as u64 > limits::UPLOAD_BYTES {
                return Err(too_large());
            }
            upload.write(piece).await?;
        }
        if upload.length() == 0 {
            return Err(Error::invalid("body", "the body is empty"));
        }
        upload.finish().await
    }

    /// Writes the records of a body. Of equal ids the last wins.
    ///
    /// # Errors
    /// NotFound when there is no such collection, or no body. Invalid, naming `records[i].field` counted over the body, for the
    /// first bad record: those of the batches before it are in the collection, and the message says how many. Conflict when the
    /// body is not the one, or not in the encoding, that a commit began with. Unavailable, Busy: commit again.
    pub async fn commit(
        &self,
        meter: &Meter,
        name: &Name,
        token: Token,
        options: &CommitOptions,
    ) -> Result<Committed> {
        let _slot = slot(&self.commits)?;
        let collection = self.store.collection(meter, name).await?;
        let (client, key) = (collection.client(), collection.keys().progress(token));
        let base = options.key.unwrap_or(token);
        let known = match client.get(meter, &key).await? {
            Some((bytes, _)) => Some(Progress::decode(&key, &bytes)?),
            None => None,
        };
        if let Some(known) = &known {
            check(known, base, options.encoding)?;
        }
        let body = Body::find(meter, &collection, token).await;
        if let Some(known) = known.as_ref().filter(|known| known.done) {
            return match body {
                Ok(body) if body.etag.0 != known.etag => Err(replaced()),
                _ => {
                    Ok(Committed { rows: known.rows, position: known.position, done: true, duplicate: true })
                }
            };
        }
        let body = body?;
        let begun = known.unwrap_or_else(|| Progress {
            base,
            content_type: options.encoding.media_type().to_owned(),
            etag: body.etag.0.clone(),
            rows: 0,
            batches: 0,
            position: 0,
            done: false,
            resume: Resume::default(),
        });
        if begun.etag != body.etag.0 {
            return Err(replaced());
        }
        if begun.resume.at > body.bytes {
            return Err(Error::corrupt(&key, "it goes on behind the body's end"));
        }
        let settings = collection.manifest(meter).await?.settings.clone();
        let target = Target { collection: collection.id().clone(), settings };
        let mut run = Run {
            collection: &collection,
            meter,
            key: &key,
            begun: begun.batches,
            number: begun.resume.batch,
            progress: begun,
            new: false,
            until: options.until,
        };
        let ended = run.pump(options.encoding, target, &body).await;
        let Run { mut progress, new, .. } = run;
        if matches!(ended, Ok(true)) {
            progress.done = true;
            record(meter, client, &key, &progress).await?;
        }
        let done = ended.map_err(|e| match progress.rows {
            0 => e,
            rows => e.context(format!("stopped, with {rows} rows in the collection")),
        })?;
        Ok(Committed { rows: progress.rows, position: progress.position, done, duplicate: done && !new })
    }
}

/// A body that was put.
struct Body {
    key: String,
    bytes: u64,
    etag: ETag,
}

impl Body {
    async fn find(meter: &Meter, collection: &Collection, token: Token) -> Result<Body> {
        let key = collection.keys().upload(token);
        let (bytes, etag) = collection.client().stat(meter, &key).await?.ok_or_else(missing)?;
        match bytes {
            0 => Err(Error::invalid("body", "the body is empty")),
            _ if bytes > limits::UPLOAD_BYTES => Err(too_large()),
            _ => Ok(Body { key, bytes, etag }),
        }
    }

    /// Sends the body from there piece by piece to whoever parses it, until that one has enough.
    async fn fetch(
        &self,
        meter: Meter,
        client: &Client,
        from: Resume,
        to: mpsc::Sender<Bytes>,
    ) -> Result<()> {
        for part in [0..from.head, from.at..self.bytes] {
            let mut at = part.start;
            while at < part.end {
                let end = part.end.min(at + CHUNK);
                match client.range_if_match(&meter, &self.key, at..end, &self.etag).await? {
                    IfMatch::Some(bytes) => {
                        if to.send(bytes).await.is_err() {
                            return Ok(());
                        }
                    }
                    IfMatch::Gone => return Err(replaced()),
                }
                at = end;
            }
        }
        Ok(())
    }
}

/// A commit under way.
struct Run<'c> {
    collection: &'c Collection,
    meter: &'c Meter,
    /// Of the progress.
    key: &'c str,
    /// What is in the collection.
    progress: Progress,
    /// Batches of which that was known before.
    begun: u64,
    /// The next batch of the body.
    number: u64,
    /// A batch was written that was not there.
    new: bool,
    until: Option<Duration>,
}

impl Run<'_> {
    /// Reads, parses and appends, each stage a little ahead of the next. Whether the body was read to its end.
    async fn pump(&mut self, encoding: Encoding, target: Target, body: &Body) -> Result<bool> {
        let (chunks, from_chunks) = mpsc::channel(AHEAD);
        let (cuts, from_cuts) = mpsc::channel(AHEAD);
        let start = self.progress.resume;
        let bytes = start.head + (body.bytes - start.at);
        let parser = tokio::task::spawn_blocking(move || {
            let mut give = |cut, next| {
                cuts.blocking_send((cut, next)).map_err(|_| Error::internal("the commit has ended"))
            };
            read::records(encoding, Chunks::new(from_chunks, bytes), target, start, &mut give)
        });
        let fetch = body.fetch(self.meter.fork(), self.collection.client(), start, chunks);
        let (fetched, appended) = futures::join!(fetch, self.append_all(from_cuts));
        let parsed = parser.await.map_err(|e| {
            Error::invalid("body", "the body is damaged: its decoder panicked").with_source(e)
        })?;
        // What ended the one before ended the one after.
        match (appended?, fetched, parsed) {
            (false, ..) => Ok(false),
            (true, Err(e), _) | (true, Ok(()), Err(e)) => Err(e),
            (true, Ok(()), Ok(())) if self.number == 0 => {
                Err(Error::invalid("records", "the batch has no records"))
            }
            (true, Ok(()), Ok(())) => Ok(true),
        }
    }

    /// Whether all that came was appended; else the time is over.
    async fn append_all(&mut self, mut cuts: mpsc::Receiver<(Cut, Option<Resume>)>) -> Result<bool> {
        let clock = &self.collection.client().seams().clock;
        let stop = self.until.map(|until| {
            let now = clock.elapsed();
            now + until.saturating_sub(now) / RESERVE * (RESERVE - 1)
        });
        loop {
            // One batch at least: else a commit that is sent again never ends.
            let stop = stop.filter(|_| self.number > self.begun);
            let left = stop.map_or(Duration::MAX, |stop| stop.saturating_sub(clock.elapsed()));
            if left.is_zero() {
                return Ok(matches!(cuts.try_recv(), Err(mpsc::error::TryRecvError::Disconnected)));
            }
            let next = tokio::select! {
                biased;
                next = cuts.recv() => next,
                () = clock.sleep(left), if stop.is_some() => return Ok(false),
            };
            let Some((cut, next)) = next else { return Ok(true) };
            self.append_next(cut, next).await?;
        }
    }

    /// Appends a batch; the one after it begins at `next`.
    async fn append_next(&mut self, cut: Cut, next: Option<Resume>) -> Result<()> {
        let (number, rows) = (self.number, cut.rows());
        self.number += 1;
        if number < self.begun {
            return Ok(());
        }
        let token = token(self.progress.base, number);
        let now_ms = self.collection.client().seams().clock.now_ms();
        let (batch, summary) = cut.into_pending(token, true, now_ms);
        let done =
            append(self.collection, self.meter, batch, &summary).await.map_err(|e| match e.kind() {
                // The commit resolves it: nobody else knows the batch's token.
                Kind::Unknown => {
                    Error::new(Kind::Unavailable, e.to_string()).with_hint("commit again").with_source(e)
                }
                _ => e,
            })?;
        self.new |= !done.repeated;
        self.progress.rows += rows;
        self.progress.batches = number + 1;
        self.progress.position = self.progress.position.max(done.position);
        self.progress.resume = next.unwrap_or(self.progress.resume);
        // At once: tokens are forgotten, and a commit that is sent again must not put old rows behind newer ones.
        record(self.meter, self.collection.client(), self.key, &self.progress).await
    }
}

/// Puts what is done of a commit, unless another one that is under way has come further.
async fn record(meter: &Meter, client: &Client, key: &str, progress: &Progress) -> Result<()> {
    if let Some((bytes, _)) = client.get(meter, key).await? {
        let there = Progress::decode(key, &bytes)?;
        if there.done || there.batches > progress.batches {
            return Ok(());
        }
    }
    client.overwrite(meter, key, progress.encode()?).await?;
    Ok(())
}

fn slot(slots: &Semaphore) -> Result<SemaphorePermit<'_>> {
    slots
        .try_acquire()
        .map_err(|_| Error::new(Kind::Busy, "other uploads are under way").with_retry_after(LATER))
}

/// Names a batch of a body.
fn token(base: Token, number: u64) -> Token {
    let mut key = base.0.to_le_bytes().to_vec();
    key.extend_from_slice(&number.to_le_bytes());
    Token::of_key(&key)
}

/// Refuses to go on with a commit as another one.
fn check(known: &Progress, base: Token, encoding: Encoding) -> Result<()> {
    let began = match () {
        () if known.content_type != encoding.media_type() => format!("as {}", known.content_type),
        () if known.base != base => "under another idempotency key".to_owned(),
        () => return Ok(()),
    };
    Err(Error::new(Kind::Conflict, format!("the commit of this upload began {began}"))
        .with_hint("commit it as before, or upload the body again"))
}

fn missing() -> Error {
    Error::new(Kind::NotFound, "there is no body under this token")
        .with_hint("put it to the upload's URL first; a body is kept for a day")
}

fn replaced() -> Error {
    Error::new(Kind::Conflict, "the body was put again, or deleted, after its commit began")
        .with_hint("make an upload for each body")
}

fn too_large() -> Error {
    let message = format!("the body has more than {} bytes, which is the limit", limits::UPLOAD_BYTES);
    Error::invalid("body", message).with_hint("make several uploads")
}

#[cfg(test)]
mod tests;
