//! Admission: how much is worked on at once. What is over a limit is refused at once and waits for nothing.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use esker_store::Clock;
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::refusal::Refusal;

/// Bodies are accounted for in pieces of this many bytes.
const PIECE: u64 = 16 << 10;
/// A body of which nothing arrives for this long is given up.
const BODY_STALL: Duration = Duration::from_secs(10);
/// What is read of a body whose request was refused, so that the client gets to see the answer.
const DRAIN_BYTES: u64 = 4 << 20;
/// See [`DRAIN_BYTES`].
const DRAIN_TIME: Duration = Duration::from_millis(500);

/// The limits of a server, and what is left of them.
#[derive(Debug)]
pub struct Admission {
    requests: Arc<Semaphore>,
    pieces: Arc<Semaphore>,
    max_body: u64,
}

/// A request that was let in, until it is dropped.
#[derive(Debug)]
pub struct Admitted {
    _request: OwnedSemaphorePermit,
    body: Option<OwnedSemaphorePermit>,
}

impl Admission {
    /// Limits: requests at once, bytes of bodies at once, bytes of one body.
    pub fn new(requests: usize, body_bytes: u64, max_body: u64) -> Self {
        let pieces = usize::try_from(body_bytes.div_ceil(PIECE)).unwrap_or(usize::MAX);
        Admission {
            requests: Arc::new(Semaphore::new(requests)),
            pieces: Arc::new(Semaphore::new(pieces.min(Semaphore::MAX_PERMITS))),
            max_body,
        }
    }

    /// Lets a request in.
    ///
    /// # Errors
    /// 429 when as many are worked on as may be.
    pub fn admit(&self) -> Result<Admitted, Refusal> {
        match self.requests.clone().try_acquire_owned() {
            Ok(permit) => Ok(Admitted { _request: permit, body: None }),
            Err(_) => {
                metrics::counter!("esker_rejected_total", "limit" => "requests").increment(1);
                Err(Refusal::busy("requests at once"))
            }
        }
    }

    /// Accounts for `bytes` more of the request's body.
    ///
    /// # Errors
    /// 429 when bodies hold as much memory as they may.
    pub fn reserve(&self, admitted: &mut Admitted, bytes: u64) -> Result<(), Refusal> {
        let pieces = u32::try_from(bytes.div_ceil(PIECE)).unwrap_or(u32::MAX);
        match self.pieces.clone().try_acquire_many_owned(pieces) {
            Ok(more) => match &mut admitted.body {
                Some(body) => body.merge(more),
                None => admitted.body = Some(more),
            },
            Err(_) => {
                metrics::counter!("esker_rejected_total", "limit" => "bodies").increment(1);
                return Err(Refusal::busy("bytes of bodies at once"));
            }
        }
        Ok(())
    }

    /// Reads a body whole, accounted for as it arrives.
    ///
    /// # Errors
    /// 413 when it is too long, 408 when it does not come, 429 when there is no memory for it, 400 when it breaks off.
    pub async fn collect(
        &self,
        admitted: &mut Admitted,
        mut body: Body,
        announced: Option<u64>,
        clock: &dyn Clock,
    ) -> Result<Bytes, Refusal> {
        if announced.is_some_and(|length| length > self.max_body) {
            drain(body, clock).await;
            return Err(Refusal::too_large(self.max_body));
        }
        let mut gathered = Gathered::default();
        let (mut length, mut reserved) = (0u64, 0u64);
        loop {
            let frame = tokio::select! {
                biased;
                frame = body.frame() => frame,
                () = clock.sleep(BODY_STALL) => return Err(Refusal::body_late()),
            };
            let data = match frame {
                None => return Ok(gathered.finish()),
                Some(Err(_)) => return Err(Refusal::body_broken()),
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            };
            length += data.len() as u64;
            let refused = match () {
                () if length > self.max_body => Some(Refusal::too_large(self.max_body)),
                () if length > reserved => {
                    let more = (length - reserved).div_ceil(PIECE) * PIECE;
                    reserved += more;
                    self.reserve(admitted, more).err()
                }
                () => None,
            };
            if let Some(refused) = refused {
                drop(gathered);
                drain(body, clock).await;
                return Err(refused);
            }
            gathered.push(data, announced);
        }
    }
}

/// The pieces of a body; a single one is not copied.
#[derive(Default)]
struct Gathered {
    first: Bytes,
    rest: BytesMut,
}

impl Gathered {
    fn push(&mut self, data: Bytes, announced: Option<u64>) {
        if self.first.is_empty() && self.rest.is_empty() {
            self.first = data;
            return;
        }
        if !self.first.is_empty() {
            // What was announced is not believed beyond what a client could send in one go.
            let announced = announced.and_then(|n| usize::try_from(n).ok()).unwrap_or(0).min(1 << 20);
            self.rest.reserve(announced.max(self.first.len() + data.len()));
            self.rest.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.rest.extend_from_slice(&data);
    }

    fn finish(self) -> Bytes {
        match self.rest.is_empty() {
            true => self.first,
            false => self.rest.freeze(),
        }
    }
}

/// Reads on for a moment: a client that is still sending would otherwise lose the answer with its connection.
pub async fn drain(mut body: Body, clock: &dyn Clock) {
    let mut left = DRAIN_BYTES;
    let read = async {
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, |d| d.len() as u64);
            match left.checked_sub(length) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    tokio::select! {
        () = read => {}
        () = clock.sleep(DRAIN_TIME) => {}
    }
}
