//! Deleting what a reader found, unless it changed since.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use esker_format::avro::Contents;
use esker_format::wal::PendingBatch;
use esker_format::{Error, Name, Result, Seq, Token, limits};
use esker_store::{Claimed, Meter};

use super::{Ack, Attempt, Ingest};

/// What became of ids that were read at a position.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Untouched {
    /// The delete of those that nobody wrote since; `None` if there were none.
    pub ack: Option<Ack>,
    /// Those written or deleted since: read them again and decide.
    pub touched: Vec<String>,
}

impl Ingest {
    /// Deletes those of `ids` that no entry after `since` wrote or deleted: what a filter matched at `since`, it still
    /// matches. Under a token that was used before nothing is written, and the earlier delete is acknowledged.
    ///
    /// # Errors
    /// As [`Ingest::write`]. Gone when the collection that `since` is a position of was dropped.
    pub async fn delete_untouched(
        &self,
        meter: &Meter,
        name: &Name,
        ids: &[String],
        since: Seq,
        token: Option<Token>,
    ) -> Result<Untouched> {
        if ids.is_empty() || ids.len() > limits::BATCH_ROWS {
            let message = format!("{} ids; 1 to {} are possible", ids.len(), limits::BATCH_ROWS);
            return Err(Error::invalid("ids", message));
        }
        let attempt = self.attempt(token)?;
        self.in_time(&attempt, self.tombstones(meter, name, ids, since, &attempt)).await
    }

    async fn tombstones(
        &self,
        meter: &Meter,
        name: &Name,
        ids: &[String],
        since: Seq,
        attempt: &Attempt,
    ) -> Result<Untouched> {
        // Not opened again when it was dropped: the position is of that collection.
        let (collection, target) = self.open(meter, name).await?;
        let mut contents = Contents::new("delete untouched");
        ids.iter().for_each(|id| contents.text(id));
        let content = contents.finish();
        if attempt.given
            && let Some(done) = collection.snapshot(meter).await?.written(attempt.token, content)?
        {
            let ack = Ack { deleted: Some(done.rows), ..attempt.ack(done) };
            return Ok(Untouched { ack: Some(ack), touched: Vec::new() });
        }
        let clock = &self.store.client().seams().clock;
        let hashes: Vec<u64> = ids.iter().map(|id| collection.id().hash_id(id)).collect();
        let all: HashSet<u64> = hashes.iter().copied().collect();
        let mut turn = collection.turn(meter).await;
        loop {
            let Some((read_at, touched)) = collection.touched_since(meter, since, &all).await? else {
                return Ok(Untouched { ack: None, touched: ids.to_vec() });
            };
            let (touched, rest): (Vec<_>, Vec<_>) =
                ids.iter().zip(&hashes).partition(|(_, hash)| touched.contains(hash));
            let touched: Vec<String> = touched.into_iter().map(|(id, _)| id.clone()).collect();
            if rest.is_empty() {
                return Ok(Untouched { ack: None, touched });
            }
            let (rest, of): (Vec<&String>, HashSet<u64>) = rest.into_iter().unzip();
            let cut = target.delete(&rest)?;
            let (batch, _) = cut.into_pending(attempt.token, attempt.given, clock.now_ms());
            let batch = PendingBatch { content: Some(content), ..batch };
            attempt.sent.store(true, Ordering::Relaxed);
            let claimed = turn.append_at(meter, batch, read_at, &Arc::new(of)).await?;
            attempt.sent.store(false, Ordering::Relaxed);
            if let Claimed::Appended(done) = claimed {
                let ack = Ack { deleted: Some(done.rows), ..attempt.ack(done) };
                return Ok(Untouched { ack: Some(ack), touched });
            }
        }
    }
}
