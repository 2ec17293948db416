//! Rows on their way to scratch files: who reads them does not wait until they are written.

use std::panic::resume_unwind;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

use arrow::array::RecordBatch;
use esker_format::{Error, Result};

use super::blocking;
use crate::build::Spill;
use crate::scratch::broken;

/// A thread that writes what it is given. Dropped, it has ended, and what it wrote is gone.
pub(crate) struct Spilling {
    /// There until all rows are handed over.
    rows: Option<SyncSender<RecordBatch>>,
    /// There until it has ended.
    writer: Option<JoinHandle<Result<Box<Spill>>>>,
}

impl Spilling {
    pub(super) fn new(mut spill: Box<Spill>) -> Result<Self> {
        // Without room between them only one batch waits.
        let (rows, received) = sync_channel(0);
        let write = move || {
            received.into_iter().try_for_each(|batch: RecordBatch| spill.push(&batch))?;
            Ok(spill)
        };
        let writer = Builder::new().name("spill".into()).spawn(write).map_err(broken)?;
        Ok(Spilling { rows: Some(rows), writer: Some(writer) })
    }

    /// Hands rows over. Fails if those before could not be written.
    pub(super) fn push(&mut self, batch: RecordBatch) -> Result<()> {
        let sent = self.rows.as_ref().is_some_and(|rows| blocking(|| rows.send(batch).is_ok()));
        match sent {
            true => Ok(()),
            false => self.end().and_then(|_| Err(ended())),
        }
    }

    /// Waits until all rows are written.
    pub(super) fn finish(mut self) -> Result<Box<Spill>> {
        self.end()
    }

    fn end(&mut self) -> Result<Box<Spill>> {
        self.rows = None;
        let writer = self.writer.take().ok_or_else(ended)?;
        blocking(|| writer.join()).unwrap_or_else(|panic| resume_unwind(panic))
    }
}

impl Drop for Spilling {
    fn drop(&mut self) {
        self.rows = None;
        self.writer.take().map(JoinHandle::join);
    }
}

fn ended() -> Error {
    Error::internal("rows came after those that could not be kept aside")
}

#[cfg(test)]
mod tests;
