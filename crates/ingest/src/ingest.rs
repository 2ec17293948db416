//! Writes to the collections of a store: validate, widen the columns if need be, append.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use esker_format::avro::Summary;
use esker_format::avro::container::Block;
use esker_format::record::{Op, Record};
use esker_format::schema::Settings;
use esker_format::wal::PendingBatch;
use esker_format::{Error, Kind, Name, Result, Seq, Token, limits};
use esker_store::{Appended, Collection, Meter, Store};

use crate::batch::{Cut, Target};

mod body;
pub(crate) mod columns;
mod condition;
mod patch;
mod untouched;

pub use body::Body;
pub use condition::Condition;
pub use patch::Patch;
pub use untouched::Untouched;

/// A write is answered after this at the latest: before the 30 s after which gateways answer for us.
const DEADLINE: Duration = Duration::from_secs(28);

/// What a write came to: it is durable and visible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Ack {
    /// Reads at this position or later see the write.
    pub position: Seq,
    /// Records written: upserted, patched, or ids deleted.
    pub rows: u32,
    /// Of a delete that read the records first, because of its condition: how many there were. All of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deleted: Option<u32>,
    /// The write's name: writing again under it changes nothing.
    pub token: Token,
    /// A write of this name was there before; nothing was written now.
    pub duplicate: bool,
}

/// How a write is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WriteOptions {
    /// Names a write that may be tried again ([`Token::from_key`] of a client's idempotency key); without one, a fresh
    /// one is drawn. A name is known for 24 hours, unless 4,096 names came after it.
    pub token: Option<Token>,
    /// What must hold of every record of the write, or nothing is written.
    pub condition: Condition,
}

impl From<Option<Token>> for WriteOptions {
    fn from(token: Option<Token>) -> Self {
        WriteOptions { token, ..WriteOptions::default() }
    }
}

/// The writer of a store. Each call is one batch: all of its records become visible at once, or none.
#[derive(Debug, Clone)]
pub struct Ingest {
    store: Arc<Store>,
    drawn: Option<Token>,
}

/// One call, until it is answered.
struct Attempt {
    token: Token,
    /// The token is the caller's, and an earlier write may have it; else it was drawn for this call.
    given: bool,
    /// The log may hold the batch.
    sent: AtomicBool,
}

impl Ingest {
    /// A writer. No request is sent.
    pub fn new(store: Arc<Store>) -> Self {
        Ingest { store, drawn: None }
    }

    /// A writer for one write, which is called `drawn` if its client gave it no name: so that another knows its name, too.
    /// No earlier write may have it.
    #[must_use]
    pub fn drawing(&self, drawn: Option<Token>) -> Self {
        Ingest { store: self.store.clone(), drawn }
    }

    /// Inserts, replaces or deletes the records of `body`; of equal ids in the call the last wins.
    ///
    /// # Errors
    /// Invalid, naming `records[i].field`, when a record or the batch breaks a rule, and NotFound when there is no such
    /// collection: nothing was written. Conflict when the condition does not hold, naming the first record and what was
    /// found, or when the token names a write of other content, or, with a time to retry after, when other writers were
    /// faster again and again: nothing was written, too.
    /// Unknown, with the token, when the outcome could not be learnt: call again with that token. Busy when the log is at
    /// its limit until a compaction.
    pub async fn write(
        &self,
        meter: &Meter,
        name: &Name,
        op: Op,
        body: Body,
        options: &WriteOptions,
    ) -> Result<Ack> {
        self.batch(meter, name, options, &|target| body.cut(target, op)).await
    }

    /// Inserts or replaces whole records.
    ///
    /// # Errors
    /// As [`Ingest::write`].
    pub async fn upsert(
        &self,
        meter: &Meter,
        name: &Name,
        records: &[Record],
        token: Option<Token>,
    ) -> Result<Ack> {
        self.batch(meter, name, &token.into(), &|target| target.records(Op::Upsert, records)).await
    }

    /// Deletes records. Ids that are not there are no error, unless a condition says so.
    ///
    /// # Errors
    /// As [`Ingest::write`].
    pub async fn delete<S: AsRef<str> + Sync>(
        &self,
        meter: &Meter,
        name: &Name,
        ids: &[S],
        options: &WriteOptions,
    ) -> Result<Ack> {
        self.batch(meter, name, options, &|target| target.delete(ids)).await
    }

    /// A write of Avro blocks in our schema, which are stored byte for byte.
    ///
    /// # Errors
    /// As [`Ingest::write`].
    pub async fn blocks(
        &self,
        meter: &Meter,
        name: &Name,
        op: Op,
        blocks: &[Block],
        options: &WriteOptions,
    ) -> Result<Ack> {
        self.batch(meter, name, options, &|target| target.blocks(op, blocks.to_vec())).await
    }

    async fn batch(
        &self,
        meter: &Meter,
        name: &Name,
        options: &WriteOptions,
        cut: &(dyn Fn(&Target) -> Result<Cut> + Sync),
    ) -> Result<Ack> {
        let attempt = self.attempt(options.token)?;
        let write = async {
            let mut again = false;
            loop {
                let (collection, target) = self.open(meter, name).await?;
                let cut = cut(&target)?;
                let done = match options.condition {
                    Condition::None => self.append(meter, &collection, cut, &attempt).await,
                    condition => self.append_if(meter, &collection, cut, condition, &attempt).await,
                };
                match done {
                    // Dropped since this process last looked; the name may be another collection's by now.
                    Err(e) if e.kind() == Kind::Gone && !again => again = true,
                    done => return done,
                }
            }
        };
        self.in_time(&attempt, write).await
    }

    /// Appends whatever is there now.
    async fn append(&self, meter: &Meter, to: &Collection, cut: Cut, attempt: &Attempt) -> Result<Ack> {
        let now_ms = self.store.client().seams().clock.now_ms();
        let (batch, summary) = cut.into_pending(attempt.token, attempt.given, now_ms);
        widen(to, meter, attempt.token, &summary).await?;
        attempt.sent.store(true, Ordering::Relaxed);
        let done = to.append(meter, batch).await;
        attempt.sent.store(false, Ordering::Relaxed);
        Ok(attempt.ack(done?))
    }

    async fn open(&self, meter: &Meter, name: &Name) -> Result<(Arc<Collection>, Target)> {
        let collection = self.store.collection(meter, name).await?;
        let settings = settings(&collection, meter).await?;
        let target = Target { collection: collection.id().clone(), settings };
        Ok((collection, target))
    }

    fn attempt(&self, token: Option<Token>) -> Result<Attempt> {
        let seams = self.store.client().seams();
        // Forgotten one day, it would be taken for the newest of all that were.
        let latest = seams.clock.now_ms().saturating_add(limits::TOKEN_AHEAD_MS);
        if let Some(token) = token.filter(|t| t.drawn_ms().is_some_and(|at| at > latest)) {
            let message =
                format!("`{token}` has the form of a token that Esker drew, at a time that has not come");
            return Err(
                Error::invalid("Idempotency-Key", message).with_hint("nothing was written; use another key")
            );
        }
        let drawn = || self.drawn.unwrap_or_else(|| seams.batch_token());
        Ok(Attempt {
            token: token.unwrap_or_else(drawn),
            given: token.is_some(),
            sent: AtomicBool::new(false),
        })
    }

    /// Answers in time, whatever the store does. What was sent may still land.
    async fn in_time<T>(&self, attempt: &Attempt, write: impl Future<Output = Result<T>>) -> Result<T> {
        let late = self.store.client().seams().clock.sleep(DEADLINE);
        // On the heap: a caller's future holds a pointer instead of every state of the write.
        let write = Box::pin(write);
        tokio::select! {
            biased;
            done = write => done,
            () = late => Err(attempt.late()),
        }
    }
}

impl Attempt {
    fn ack(&self, done: Appended) -> Ack {
        let Appended { position, rows, repeated } = done;
        Ack { position, rows, deleted: None, token: self.token, duplicate: repeated }
    }

    fn late(&self) -> Error {
        let message = format!("the store did not answer within {} s", DEADLINE.as_secs());
        if !self.sent.load(Ordering::Relaxed) {
            return Error::new(Kind::Unavailable, format!("{message}; nothing was written"));
        }
        Error::new(Kind::Unknown, format!("whether the batch was written is unknown: {message}"))
            .with_hint(format!("retry with the token {}", self.token))
            .with_token(self.token)
    }
}

async fn settings(collection: &Collection, meter: &Meter) -> Result<Settings> {
    match collection.last_seen() {
        Some(manifest) => Ok(manifest.settings.clone()),
        None => Ok(collection.manifest(meter).await?.settings.clone()),
    }
}

/// Commits the wider schema first: an entry whose keys a reader cannot know would be unreadable.
async fn widen(collection: &Collection, meter: &Meter, token: Token, summary: &Summary) -> Result<()> {
    if summary.keys.is_empty() {
        return Ok(());
    }
    let keys = summary.keys.clone();
    let wider = collection
        .alter(meter, move |schema| schema.admit(keys.iter().map(|(k, seen)| (k.as_str(), seen))))
        .await;
    match wider {
        Ok(_) => Ok(()),
        // The batch was not sent, whatever became of the schema: its token is the one to call again with.
        Err(e) if e.kind() == Kind::Unknown => Err(e.with_token(token)),
        Err(e) => Err(e),
    }
}

/// Widens the schema and appends.
pub(crate) async fn append(
    collection: &Collection,
    meter: &Meter,
    batch: PendingBatch,
    summary: &Summary,
) -> Result<Appended> {
    widen(collection, meter, batch.token, summary).await?;
    collection.append(meter, batch).await
}

#[cfg(test)]
mod tests;
