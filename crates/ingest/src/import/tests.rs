//! Files of every format, generated, imported into a sink in memory and decoded again.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use esker_format::avro::{BlockContext, RowsBuilder, Summary};
use esker_format::schema::{Schema, Settings};
use esker_format::wal::PendingBatch;
use esker_format::{CollectionId, Error, Kind, Result, Token};
use esker_store::seams::SimulatedClock;
use tempfile::TempDir;

use super::*;
use crate::sink::{Appended, BatchSink};

mod arrow_roundtrip;
mod errors;
mod formats;
mod resume;

/// Keeps batches by token, as the log does.
#[derive(Default)]
struct MemorySink {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    schema: Schema,
    batches: Vec<PendingBatch>,
    positions: BTreeMap<Token, u64>,
    /// Appends until the sink "dies".
    left: Option<usize>,
    /// Entries that the log holds before it answers Busy.
    capacity: Option<usize>,
    compactions: usize,
    /// Batches land in another order than they are appended.
    reorders: bool,
    /// Batches that land while the answer is lost.
    lost: usize,
}

#[async_trait]
impl BatchSink for MemorySink {
    async fn append(&self, batch: PendingBatch, summary: &Summary) -> Result<Appended> {
        if self.state.lock().unwrap().reorders {
            tokio::task::yield_now().await;
        }
        let answer = self.take(batch, summary);
        tokio::task::yield_now().await;
        answer
    }

    async fn maybe_compact(&self) -> Result<bool> {
        let mut state = self.state.lock().unwrap();
        let full = state.capacity == Some(0);
        if full {
            state.capacity = Some(1);
            state.compactions += 1;
        }
        Ok(full)
    }
}

impl MemorySink {
    fn take(&self, batch: PendingBatch, summary: &Summary) -> Result<Appended> {
        let mut state = self.state.lock().unwrap();
        if let Some(position) = state.positions.get(&batch.token) {
            return Ok(Appended { position: *position, duplicate: true });
        }
        match &mut state.left {
            Some(0) => return Err(Error::new(Kind::Gone, "the store is gone")),
            Some(n) => *n -= 1,
            None => {}
        }
        match &mut state.capacity {
            Some(0) => return Err(Error::new(Kind::Busy, "the tail is full")),
            Some(n) => *n -= 1,
            None => {}
        }
        if let Some(wider) = state.schema.admit(summary.keys.iter().map(|(k, v)| (k.as_str(), v)))? {
            state.schema = wider;
        }
        let position = state.batches.len() as u64 + 1;
        state.positions.insert(batch.token, position);
        state.batches.push(batch);
        if state.lost > 0 {
            state.lost -= 1;
            return Err(Error::new(Kind::Unknown, "the answer was lost"));
        }
        Ok(Appended { position, duplicate: false })
    }

    /// All rows in log order.
    fn rows(&self, settings: &Settings) -> RecordBatch {
        let state = self.state.lock().unwrap();
        let mut builder = RowsBuilder::new(settings, &state.schema);
        for (i, batch) in state.batches.iter().enumerate() {
            let mut first_row = 0;
            for block in &batch.blocks {
                let context = BlockContext {
                    op: batch.op,
                    arrived_ms: batch.arrived_ms,
                    seq: i as u64 + 1,
                    first_row,
                    rows: block.rows,
                };
                builder.append_block(&block.data, &context).unwrap();
                first_row += block.rows as u32;
            }
        }
        builder.finish().unwrap().rows
    }
}

fn write(dir: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::File::create(&path).unwrap().write_all(bytes).unwrap();
    path
}

fn plan(path: &Path, overrides: &Overrides) -> Result<Plan> {
    let inspected = inspect(path, overrides)?;
    let settings = overrides.existing.clone().unwrap_or_else(|| inspected.inference.settings());
    Plan::new(path, inspected, collection(), settings)
}

fn collection() -> CollectionId {
    "notes-1".parse().unwrap()
}

fn import_plan(plan: Plan, sink: &MemorySink) -> Result<Report> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let clock = SimulatedClock::new(1_000);
        run(plan, sink, &clock, &|_| {}).await
    })
}

/// Imports the file with what is inferred; the rows, as the collection has them.
fn import(path: &Path, overrides: &Overrides) -> Result<(Report, RecordBatch)> {
    let (plan, sink) = (plan(path, overrides)?, MemorySink::default());
    let settings = plan.inspected().inference.settings();
    let report = import_plan(plan, &sink)?;
    Ok((report, sink.rows(&settings)))
}
