//! Where the steps of a job keep what they made, and how long one goes on.
//!
//! Every result has a name that says what it is, and is created once: of two steps that make the same thing at once, the
//! first to put it wins, and both go on with what lies there. Large bytes go under a name with a token first, and the
//! result names that. So a step that dies leaves the results it made, and at most bytes that nothing names.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use esker_format::keys::Made;
use esker_format::{Error, Kind, Result, Token};
use esker_store::{Clock, Collection, CreateReply, Meter};
use futures::{StreamExt, TryStreamExt, stream};

use super::pack::{Pack, Unpack};

/// Requests of one result in flight.
const IN_FLIGHT: usize = 16;

/// Why a step ends before the job does.
pub(super) enum Stop {
    /// Its time is over.
    Time,
    /// What it sent is lost or too late: the next step sends it to another place.
    Again,
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(e: Error) -> Self {
        Stop::Failed(e)
    }
}

/// How long a step goes on.
pub(crate) struct Pace {
    clock: Arc<dyn Clock>,
    until: Duration,
    /// Less than this is left for no further piece of work.
    reserve: Duration,
    /// When the present piece began, and the longest one so far.
    begun: Duration,
    longest: Duration,
    /// Whether something was kept.
    kept: bool,
    /// Results that may still be kept; for tests.
    pub(super) left: Option<u32>,
}

impl Pace {
    /// Until the clock's `elapsed` is `until`, with at least a third of the time and 1.5 s kept for what takes longer than
    /// it seems.
    pub(crate) fn new(clock: Arc<dyn Clock>, until: Duration) -> Self {
        let begun = clock.elapsed();
        let reserve = (until.saturating_sub(begun) / 100 * 35).max(Duration::from_millis(1500));
        Pace { clock, until, reserve, begun, longest: Duration::ZERO, kept: false, left: None }
    }

    /// Whether there is time for another piece as long as the longest. Before the first result there always is: else a step
    /// whose preparations take long would never keep one.
    pub(super) fn turn(&mut self) -> Result<(), Stop> {
        let now = self.clock.elapsed();
        self.longest = self.longest.max(now.saturating_sub(self.begun));
        self.begun = now;
        let wanted = self.reserve.max(self.longest * 3 / 2);
        let late = self.until.saturating_sub(now) < wanted;
        let over = now >= self.until || self.kept && late;
        if self.left == Some(0) || over {
            return Err(Stop::Time);
        }
        Ok(())
    }
}

pub(super) struct Bench<'a> {
    pub(super) meter: &'a Meter,
    pub(super) collection: &'a Arc<Collection>,
    pub(super) made: Made,
    have: BTreeSet<String>,
    /// Results that were there when the step began.
    began_with: usize,
    pace: Pace,
    /// What is being made.
    pub(super) stage: &'static str,
}

impl<'a> Bench<'a> {
    /// `have` are the names of all objects of the job.
    pub(super) fn new(
        meter: &'a Meter,
        collection: &'a Arc<Collection>,
        made: Made,
        have: BTreeSet<String>,
        pace: Pace,
    ) -> Self {
        let mut bench = Bench { meter, collection, made, have, began_with: 0, pace, stage: "plan" };
        bench.began_with = bench.results();
        bench
    }

    /// Asks for time for another piece of work.
    pub(super) fn turn(&mut self) -> Result<(), Stop> {
        self.pace.turn()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.have.contains(name)
    }

    /// Results that are there: neither large bytes, nor counts, nor where files go, of which there may always be another.
    pub(super) fn results(&self) -> usize {
        let is_result = |name: &&String| {
            !["try-", "wake-", "place-", "lost-"].iter().any(|kind| name.starts_with(kind))
                && name.rsplit('-').next().is_none_or(|end| end.len() < 32)
        };
        self.have.iter().filter(is_result).count()
    }

    /// Results that this step made.
    pub(super) fn new_results(&self) -> usize {
        self.results() - self.began_with
    }

    /// The greatest number `n` of which `{name}-{n}` is there.
    pub(super) fn last(&self, name: &str) -> Option<usize> {
        let number = |have: &String| have.strip_prefix(name)?.strip_prefix('-')?.parse().ok();
        self.have.iter().filter_map(number).max()
    }

    /// A result that is there.
    pub(super) async fn load(&self, name: &str) -> Result<Option<Unpack>> {
        if !self.has(name) {
            return Ok(None);
        }
        self.get(self.meter, name).await.map(Some)
    }

    /// `{name}-{n}` of every `n` below `count`, all of which are there.
    pub(super) async fn load_all(&self, name: &str, count: usize) -> Result<Vec<Unpack>> {
        let loads = (0..count).map(|n| {
            let meter = self.meter.fork();
            async move { self.get(&meter, &format!("{name}-{n}")).await }
        });
        let loads: Vec<_> = loads.collect();
        stream::iter(loads).buffered(IN_FLIGHT).try_collect().await
    }

    /// `{name}-{n}`, which is there.
    pub(super) async fn load_last(&self, name: &str, n: usize) -> Result<Unpack> {
        self.get(self.meter, &format!("{name}-{n}")).await
    }

    async fn get(&self, meter: &Meter, name: &str) -> Result<Unpack> {
        let key = self.collection.keys().job(self.made, name);
        match self.collection.client().get(meter, &key).await? {
            Some((bytes, _)) => Unpack::open(&key, &bytes),
            None => Err(Error::new(Kind::NotFound, format!("{key} is gone"))),
        }
    }

    /// Keeps a result: what lies there now, which another step may have put first.
    pub(super) async fn keep(&mut self, name: &str, result: Pack) -> Result<Unpack> {
        self.pace.left = self.pace.left.map(|left| left.saturating_sub(1));
        self.pace.kept = true;
        let key = self.collection.keys().job(self.made, name);
        let bytes = result.seal();
        let created = self.collection.client().create(self.meter, &key, bytes.clone()).await;
        let unresolved = match created {
            CreateReply::Created => {
                self.have.insert(name.to_owned());
                return Unpack::open(&key, &bytes);
            }
            CreateReply::Refused(e) => return Err(e),
            CreateReply::Exists => None,
            CreateReply::Unresolved(e) => Some(e),
        };
        match (self.get(self.meter, name).await, unresolved) {
            (Ok(theirs), _) => {
                self.have.insert(name.to_owned());
                Ok(theirs)
            }
            (Err(_), Some(e)) | (Err(e), None) => Err(e),
        }
    }

    /// Puts a name that counts something.
    pub(super) async fn count(&mut self, name: &str) -> Result<()> {
        let key = self.collection.keys().job(self.made, name);
        self.collection.client().overwrite(self.meter, &key, Bytes::new()).await?;
        self.have.insert(name.to_owned());
        Ok(())
    }

    /// Keeps large bytes: the token that names them with `name`.
    pub(super) async fn keep_data(&self, name: &str, bytes: Bytes) -> Result<Token> {
        let token = self.collection.client().seams().token();
        let key = self.data_key(name, token);
        self.collection.client().put_immutable(self.meter, &key, bytes).await?;
        Ok(token)
    }

    pub(super) fn data_key(&self, name: &str, token: Token) -> String {
        self.collection.keys().job(self.made, &format!("{name}-{token}"))
    }

    /// Ranges of objects, in order.
    pub(super) async fn ranges(&self, ranges: Vec<(String, Range<u64>)>) -> Result<Vec<Bytes>> {
        let reads = ranges.into_iter().map(|(key, range)| {
            let meter = self.meter.fork();
            async move { self.collection.client().range(&meter, &key, range).await }
        });
        let reads: Vec<_> = reads.collect();
        stream::iter(reads).buffered(IN_FLIGHT).try_collect().await
    }
}
