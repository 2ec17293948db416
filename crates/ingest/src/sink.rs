//! Where validated batches go.

use async_trait::async_trait;
use esker_format::avro::Summary;
use esker_format::wal::PendingBatch;
use esker_format::{Result, Seq};

/// What an append came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The entry that holds the batch: the position to read it at.
    pub position: Seq,
    /// The batch's token was known: it was there before, and nothing was written.
    pub duplicate: bool,
}

/// Takes the batches of one collection, several at a time.
#[async_trait]
pub trait BatchSink: Send + Sync {
    /// Makes a batch durable and visible, widening the collection's columns first when `summary` asks for it. A batch
    /// whose token is known is answered as it was the first time.
    async fn append(&self, batch: PendingBatch, summary: &Summary) -> Result<Appended>;

    /// Makes room in the log when it nears its limits, waiting for a compaction that is already at it. Whether there
    /// is more room now.
    async fn maybe_compact(&self) -> Result<bool>;
}
