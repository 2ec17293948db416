//! Hedged reads: of many ranges that were asked for together, one that is much later than the others is asked for once
//! more, and the first reply counts. Only ranges of immutable objects, so that both replies are the same.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use esker_format::{Error, Kind, Result};
use futures::future::{Either, select};
use tokio::sync::Notify;

use super::Client;
use crate::meter::Meter;
use crate::seams::Clock;

/// Replies that must have come before any request counts as late.
const REPLIES: usize = 8;
/// This share of the replies that came says what is usual …
const USUAL: f64 = 0.9;
/// … and so many times that is late …
const LATE: u32 = 3;
/// … but never sooner than this.
const SOONEST: Duration = Duration::from_millis(10);
/// One in so many requests may be sent again: a store that is slow for all must not get twice the requests.
const ONE_IN: usize = 8;

/// How fast the replies of requests that were sent together come.
#[derive(Debug)]
pub(crate) struct Pace {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    /// How long each reply took that came.
    took: Vec<Duration>,
    /// Requests that may still be sent again.
    left: usize,
}

impl Pace {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replied(&self, took: Duration) {
        self.lock().took.push(took);
        self.changed.notify_waiters();
    }

    /// How long a request may take, once that can be said.
    fn patience(&self) -> Option<Duration> {
        let mut took = self.lock().took.clone();
        let usual = took.len().checked_sub(1).filter(|_| took.len() >= REPLIES)?;
        let (_, usual, _) = took.select_nth_unstable((usual as f64 * USUAL) as usize);
        Some((*usual * LATE).max(SOONEST))
    }

    /// Whether a late request may be sent again.
    fn claim(&self) -> bool {
        let mut state = self.lock();
        let free = state.left > 0;
        state.left -= usize::from(free);
        free
    }

    /// Comes back when a request that was sent at `start` is late and may be sent again; else never.
    async fn late(&self, start: Duration) {
        loop {
            let changed = self.changed.notified();
            let Some(patience) = self.patience() else {
                changed.await;
                continue;
            };
            let waited = self.clock.elapsed() - start;
            if waited < patience {
                self.clock.sleep(patience - waited).await;
            } else if self.claim() {
                return;
            } else {
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Client {
    /// Sends reads of immutable ranges that are much later than those beside them once more.
    #[must_use]
    pub fn with_hedging(mut self) -> Self {
        self.hedging = true;
        self
    }

    /// The pace of as many requests, if late ones are to be sent again.
    pub(crate) fn pace(&self, requests: usize) -> Option<Arc<Pace>> {
        let state = State { took: Vec::new(), left: requests / ONE_IN };
        let pace =
            || Pace { clock: self.seams.clock.clone(), state: Mutex::new(state), changed: Notify::new() };
        (self.hedging && requests > REPLIES).then(|| Arc::new(pace()))
    }

    /// [`Client::range`], sent again when it falls behind its pace.
    pub(crate) async fn range_at(
        &self,
        meter: &Meter,
        key: &str,
        range: Range<u64>,
        pace: &Pace,
    ) -> Result<Bytes> {
        let start = pace.clock.elapsed();
        let first = Box::pin(self.range(meter, key, range.clone()));
        let first = match select(first, Box::pin(pace.late(start))).await {
            Either::Left((reply, _)) => {
                pace.replied(pace.clock.elapsed() - start);
                return reply;
            }
            Either::Right(((), first)) => first,
        };
        let meter = meter.hedging();
        let second = Box::pin(self.range(&meter, key, range));
        match select(first, second).await {
            Either::Left((Ok(bytes), _)) | Either::Right((Ok(bytes), _)) => Ok(bytes),
            Either::Left((Err(e), second)) if may_differ(&e) => second.await,
            Either::Right((Err(e), first)) if may_differ(&e) => first.await,
            Either::Left((failed, _)) | Either::Right((failed, _)) => failed,
        }
    }
}

/// Whether the other try may still fare better: what is gone or damaged is so for both.
fn may_differ(e: &Error) -> bool {
    matches!(e.kind(), Kind::Busy | Kind::Unavailable)
}

#[cfg(test)]
mod tests;
