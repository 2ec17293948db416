//! The pipeline: one blocking thread reads and encodes, a bounded channel, several appends in flight.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use esker_format::{Error, Kind, Result, Token};
use esker_store::Clock;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;

use super::plan::Plan;
use crate::batch::Cut;
use crate::sink::{Appended, BatchSink};

/// Times a batch is offered to a log that is full.
const OFFERS: usize = 8;
/// Offers again to a store that does not answer.
const OUTAGES: u32 = 4;
/// Wait before the first of these; doubles with each.
const OUTAGE_WAIT: Duration = Duration::from_secs(1);

/// How far an import is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Rows that are in the collection, those of an earlier run included.
    pub rows: u64,
    /// Of them, rows that an earlier run had brought in.
    pub skipped: u64,
    /// Encoded bytes of the rows.
    pub bytes: u64,
    /// Bytes of the file that have been read; an estimate for Parquet.
    pub file_read: u64,
    /// Size of the file.
    pub file_bytes: u64,
    /// Rows of the file, where the format says so.
    pub total_rows: Option<u64>,
}

/// What an import did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Report {
    /// Rows of the file, all of which are in the collection.
    pub rows: u64,
    /// Of them, rows that an earlier run had brought in.
    pub skipped: u64,
    /// Batches.
    pub batches: u64,
    /// Encoded bytes of the rows.
    pub bytes: u64,
    /// The highest position of a batch.
    pub position: u64,
}

/// Streams the file of `plan` into `sink`. Of equal ids the last row wins. Safe to run again after a kill, with the
/// same plan: each batch is named after the file, its number and its content, and `sink` skips a name it knows.
///
/// # Errors
/// Invalid, naming the file's row and column, for the first bad row; else what `sink` answered. Either way the
/// message says how many rows are in the collection.
pub async fn run(
    plan: Plan,
    sink: &dyn BatchSink,
    clock: &dyn Clock,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Report> {
    let (inspected, in_flight) = (plan.inspected(), plan.in_flight());
    let mut now = Progress { file_bytes: inspected.bytes, total_rows: inspected.rows, ..Progress::default() };
    let read = Arc::new(AtomicU64::new(0));
    let (send, mut receive) = mpsc::channel::<Named>(plan.in_flight());
    let again = clock.now_ms();
    let counter = read.clone();
    let reader = tokio::task::spawn_blocking(move || {
        let (fingerprint, mut number) = (plan.fingerprint()?, 0u64);
        plan.encode(&counter, &mut |cut| {
            let (token, again) =
                (token(fingerprint, number, 0, &cut), token(fingerprint, number, again, &cut));
            number += 1;
            send.blocking_send(Named { number: number - 1, token, again, cut }).map_err(|_| stopped())
        })
    });

    let (mut report, mut failed) = (Report::default(), None);
    let mut appends = FuturesUnordered::new();
    let mut flying = Flying { most: in_flight, ids: Vec::new() };
    let mut waiting: Option<Named> = None;
    // The first batch that was not in the collection before.
    let mut first_new: Option<u64> = None;
    let mut open = true;
    loop {
        if let Some(batch) = waiting.take_if(|batch| flying.admits(&batch.cut)) {
            flying.start(&batch.cut);
            // A killed run left no more batches out than were in flight. One so far before this batch was forgotten, so it
            // was written again, after this one: to keep the file's order so is this.
            let behind = first_new.is_some_and(|first| batch.number >= first + in_flight as u64);
            appends.push(append(sink, batch, behind, clock));
        }
        let room = failed.is_none() && open && waiting.is_none() && appends.len() < in_flight;
        tokio::select! {
            biased;
            next = receive.recv(), if room => match next {
                Some(next) => waiting = Some(next),
                None => open = false,
            },
            Some(done) = appends.next(), if !appends.is_empty() => match done {
                Ok(done) => {
                    flying.end(done.first_row);
                    if !done.appended.duplicate {
                        first_new = Some(first_new.map_or(done.number, |first| first.min(done.number)));
                    }
                    done.count(&mut report);
                    now = Progress { rows: report.rows, skipped: report.skipped, bytes: report.bytes, ..now };
                    now.file_read = read.load(Ordering::Relaxed);
                    progress(now);
                }
                // The others may land all the same: they are waited for, so that the count is true.
                Err(e) => {
                    failed.get_or_insert(e);
                    (open, waiting) = (false, None);
                    receive.close();
                }
            },
            else => break,
        }
    }
    drop(receive);
    let read = reader
        .await
        .map_err(|e| Error::invalid("file", "the file is damaged: its decoder panicked").with_source(e));
    let end = failed.map_or(read.and_then(|r| r), Err);
    match end {
        Ok(()) => Ok(report),
        Err(e) => Err(e.context(format!("stopped, with {} rows in the collection", report.rows))),
    }
}

/// What the reader says when nobody takes its batches; the reason is known where they were taken.
fn stopped() -> Error {
    Error::internal("the import was stopped")
}

/// A batch under its name, and under the one by which this run alone writes it.
struct Named {
    number: u64,
    token: Token,
    again: Token,
    cut: Cut,
}

/// Names a batch: equal for equal content at the same place of the same file, in runs of equal `run`.
fn token(fingerprint: Token, number: u64, run: i64, cut: &Cut) -> Token {
    let mut key = Vec::with_capacity(32 + 24 * cut.blocks.len());
    key.extend_from_slice(&fingerprint.0.to_le_bytes());
    key.extend_from_slice(&number.to_le_bytes());
    if run != 0 {
        key.extend_from_slice(&run.to_le_bytes());
    }
    for block in &cut.blocks {
        key.extend_from_slice(&block.rows.to_le_bytes());
        key.extend_from_slice(&Token::of_key(&block.data).0.to_le_bytes());
    }
    Token::of_key(&key)
}

/// A batch that is in the collection.
struct Done {
    number: u64,
    first_row: u64,
    rows: u64,
    bytes: u64,
    appended: Appended,
}

impl Done {
    fn count(&self, report: &mut Report) {
        report.rows += self.rows;
        report.batches += 1;
        report.bytes += self.bytes;
        report.position = report.position.max(self.appended.position);
        if self.appended.duplicate {
            report.skipped += self.rows;
        }
    }
}

/// Appends a batch, then makes room for the next; while there is none, offers it again. So it does where the store does
/// not answer or the outcome is unknown: under its token a batch is there once. One that is there already is written again
/// if it is `behind` others.
async fn append(sink: &dyn BatchSink, named: Named, behind: bool, clock: &dyn Clock) -> Result<Done> {
    let Named { number, token, again, cut } = named;
    let (first_row, rows, bytes) = (cut.first_row, cut.rows(), cut.bytes() as u64);
    let (mut batch, summary) = cut.into_pending(token, true, clock.now_ms());
    let (mut offers, mut outages) = (0, 0);
    let mut appended = loop {
        offers += 1;
        match sink.append(batch.clone(), &summary).await {
            Err(e) if e.kind() == Kind::Busy && offers < OFFERS && sink.maybe_compact().await? => {}
            Err(e) if matches!(e.kind(), Kind::Unknown | Kind::Unavailable) && outages < OUTAGES => {
                tracing::warn!(error = %e, "the store did not take a batch, which is offered again");
                clock.sleep(OUTAGE_WAIT * (1 << outages)).await;
                outages += 1;
            }
            Ok(done) if done.duplicate && behind && batch.token == token => batch.token = again,
            answer => break answer?,
        }
    };
    // What an earlier offer of this run wrote is no repetition.
    appended.duplicate &= outages == 0;
    // A compaction needs the room.
    drop((batch, summary));
    // The batch is in either way; a log that stays full says so at a later append.
    if let Err(e) = sink.maybe_compact().await {
        tracing::warn!(error = %e, "the log could not be compacted");
    }
    Ok(Done { number, first_row, rows, bytes, appended })
}

/// The ids of the batches in flight. Their order in the log is open, so a batch that repeats one of their ids waits:
/// then the file's order holds for every id, also between a killed run and the next.
struct Flying {
    most: usize,
    /// By the first row of each.
    ids: Vec<(u64, HashSet<u64>)>,
}

impl Flying {
    fn admits(&self, cut: &Cut) -> bool {
        self.ids.len() < self.most
            && !self.ids.iter().any(|(_, ids)| cut.summary.ids.iter().any(|id| ids.contains(id)))
    }

    fn start(&mut self, cut: &Cut) {
        self.ids.push((cut.first_row, cut.summary.ids.iter().copied().collect()));
    }

    fn end(&mut self, first_row: u64) {
        self.ids.retain(|(row, _)| *row != first_row);
    }
}
