//! Writes that depend on what is there: read, decide, claim the next slot; again when an id was touched between.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use esker_format::avro::ids;
use esker_format::record::Op;
use esker_format::wal::PendingBatch;
use esker_format::{Error, Kind, Result};
use esker_store::{Claimed, Collection, Found, Meter, Snapshot};

use super::patch::Patch;
use super::{Ack, Attempt, Ingest, widen};
use crate::batch::{Cut, Target};

/// What must hold of every record of a write when it takes effect. A record that has expired is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Condition {
    /// Nothing.
    #[default]
    None,
    /// There is no record of that id.
    IfAbsent,
    /// There is one, and this is its version. Whoever counts on it must write another one.
    IfVersion(i64),
}

impl Condition {
    /// As requests say it.
    ///
    /// # Errors
    /// Invalid when both are asked for.
    pub fn of(if_absent: bool, if_version: Option<i64>) -> Result<Self> {
        match (if_absent, if_version) {
            (false, None) => Ok(Condition::None),
            (true, None) => Ok(Condition::IfAbsent),
            (false, Some(version)) => Ok(Condition::IfVersion(version)),
            (true, Some(_)) => Err(Error::invalid(
                "if_version",
                "a record that must be absent has no version: give if_absent or if_version",
            )),
        }
    }
}

/// What a write makes of what it read.
pub(super) enum Decision<'a> {
    /// It is written as it is, if the condition holds.
    Batch(Cut),
    /// These are applied to the records.
    Patches(&'a [Patch], &'a Target),
}

/// What a write reads, before it decides.
struct Reads {
    ids: Vec<String>,
    hashes: Arc<HashSet<u64>>,
}

impl Ingest {
    /// Appends the batch if the condition holds of every record.
    pub(super) async fn append_if(
        &self,
        meter: &Meter,
        to: &Collection,
        cut: Cut,
        condition: Condition,
        attempt: &Attempt,
    ) -> Result<Ack> {
        if cut.op == Op::Delete && condition == Condition::IfAbsent {
            let message = "a delete cannot ask that its records are not there";
            return Err(Error::invalid("if_absent", message));
        }
        let ids = cut.blocks.iter().flat_map(|block| ids(&block.data)).map(|id| Ok(id?.to_owned()));
        let ids: Vec<String> = ids.collect::<Result<_>>()?;
        let delete = cut.op == Op::Delete;
        let ack = self.decide_and_append(meter, to, ids, Decision::Batch(cut), condition, attempt).await?;
        Ok(Ack { deleted: delete.then_some(ack.rows), ..ack })
    }

    /// Reads at a position, decides, and appends unless something touched the ids after it: then once more.
    pub(super) async fn decide_and_append(
        &self,
        meter: &Meter,
        to: &Collection,
        ids: Vec<String>,
        decision: Decision<'_>,
        condition: Condition,
        attempt: &Attempt,
    ) -> Result<Ack> {
        let hashes: HashSet<u64> = ids.iter().map(|id| to.id().hash_id(id)).collect();
        let reads = Reads { ids, hashes: Arc::new(hashes) };
        reads.check_unique()?;
        // Of patches what is asked for, not what it makes of the records: those change.
        let content = match &decision {
            Decision::Batch(cut) => cut.summary.content,
            Decision::Patches(patches, _) => super::patch::content(patches),
        };
        let clock = &self.store.client().seams().clock;
        let mut turn = None;
        loop {
            let now_ms = clock.now_ms();
            let (snapshot, found) = read(meter, to, &reads.ids, now_ms).await?;
            if attempt.given
                && let Some(done) = snapshot.written(attempt.token, content)?
            {
                return Ok(attempt.ack(done));
            }
            check(&reads.ids, &found, condition)?;
            let cut = match &decision {
                Decision::Batch(cut) => cut.clone(),
                Decision::Patches(patches, target) => {
                    super::patch::apply(meter, to, &snapshot, target, patches, &found).await?
                }
            };
            let (batch, summary) = cut.into_pending(attempt.token, attempt.given, now_ms);
            let batch = PendingBatch { content: Some(content), ..batch };
            widen(to, meter, attempt.token, &summary).await?;
            // Held from the first claim on: within this process nobody else comes between the next read and its claim.
            let turn = match &mut turn {
                Some(turn) => turn,
                none => none.insert(to.turn(meter).await),
            };
            attempt.sent.store(true, Ordering::Relaxed);
            let position = snapshot.position;
            let claimed = turn.append_at(meter, batch, position, &reads.hashes).await?;
            attempt.sent.store(false, Ordering::Relaxed);
            if let Claimed::Appended(done) = claimed {
                return Ok(attempt.ack(done));
            }
        }
    }
}

impl Reads {
    /// Of equal ids the last would win, and no condition could hold of both.
    fn check_unique(&self) -> Result<()> {
        let mut seen = HashSet::with_capacity(self.ids.len());
        match self.ids.iter().position(|id| !seen.insert(id.as_str())) {
            None => Ok(()),
            Some(row) => {
                let message = format!("`{}` is given twice", self.ids[row].escape_debug());
                Err(Error::invalid(format!("records[{row}].id"), message)
                    .with_hint("a conditional write or a patch has each id once"))
            }
        }
    }
}

/// A strong snapshot and the newest live versions of these ids in it.
async fn read(
    meter: &Meter,
    from: &Collection,
    ids: &[String],
    now_ms: i64,
) -> Result<(Snapshot, Vec<Option<Found>>)> {
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let snapshot = from.snapshot(meter).await?;
    match from.lookup(meter, &snapshot, &ids, now_ms).await {
        // An object of the snapshot was collected.
        Err(e) if e.kind() == Kind::NotFound => {
            let snapshot = from.snapshot_newest(meter).await?;
            let found = from.lookup(meter, &snapshot, &ids, now_ms).await?;
            Ok((snapshot, found))
        }
        found => Ok((snapshot, found?)),
    }
}

/// Whether the condition holds of every record.
fn check(ids: &[String], found: &[Option<Found>], condition: Condition) -> Result<()> {
    for (row, (id, found)) in ids.iter().zip(found).enumerate() {
        let is = match (condition, found) {
            (Condition::None, _) | (Condition::IfAbsent, None) => continue,
            (Condition::IfVersion(wanted), Some(found)) if found.version == wanted => continue,
            (Condition::IfAbsent, Some(found)) => format!("exists, with version {}", found.version),
            (Condition::IfVersion(wanted), Some(found)) => {
                format!("has version {}, not {wanted}", found.version)
            }
            (Condition::IfVersion(wanted), None) => format!("does not exist, and not with version {wanted}"),
        };
        let message = format!("records[{row}]: `{}` {is}", id.escape_debug());
        return Err(
            Error::new(Kind::Conflict, message).with_hint("nothing was written; read it and decide again")
        );
    }
    Ok(())
}
