//! Changing parts of records.

use std::collections::BTreeMap;

use esker_format::avro::Contents;
use esker_format::record::{Op, Record, Value};
use esker_format::{Content, Error, Kind, Name, Result, limits};
use esker_store::{Collection, Found, Meter, Snapshot};

use super::condition::Decision;
use super::{Ack, Condition, Ingest, WriteOptions};
use crate::batch::{Cut, Target};

/// A change to a record that is there.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Patch {
    /// Which record.
    pub id: String,
    /// Merged into the metadata: a null removes its key.
    pub metadata: Option<BTreeMap<String, Value>>,
    /// Replaces the vector.
    pub vector: Option<Vec<f32>>,
    /// Replaces the event time, in milliseconds; 0 is the arrival of the patch.
    pub timestamp: Option<i64>,
    /// Replaces the time of expiry, in milliseconds; `Some(None)` removes it.
    pub expires_at: Option<Option<i64>>,
    /// Replaces the client's version.
    pub version: Option<i64>,
}

impl Ingest {
    /// Changes records that are there: what a patch gives is replaced, metadata merged, the rest kept, the time of
    /// creation with it. Serialisable: no other write of a record comes between its read and its write.
    ///
    /// # Errors
    /// As [`Ingest::write`]; NotFound, naming the first id that is not there: nothing was written.
    pub async fn patch(
        &self,
        meter: &Meter,
        name: &Name,
        patches: &[Patch],
        options: &WriteOptions,
    ) -> Result<Ack> {
        if options.condition == Condition::IfAbsent {
            return Err(Error::invalid("if_absent", "a patch needs records that are there"));
        }
        if patches.is_empty() || patches.len() > limits::BATCH_ROWS {
            let message = format!("{} patches; 1 to {} are possible", patches.len(), limits::BATCH_ROWS);
            return Err(Error::invalid("records", message));
        }
        let attempt = self.attempt(options.token)?;
        let write = async {
            let mut again = false;
            loop {
                let (collection, target) = self.open(meter, name).await?;
                let ids = patches.iter().map(|p| p.id.clone()).collect();
                let decision = Decision::Patches(patches, &target);
                let done = self
                    .decide_and_append(meter, &collection, ids, decision, options.condition, &attempt)
                    .await;
                match done {
                    Err(e) if e.kind() == Kind::Gone && !again => again = true,
                    done => return done,
                }
            }
        };
        self.in_time(&attempt, write).await
    }
}

/// What the patches say.
pub(super) fn content(patches: &[Patch]) -> Content {
    let mut contents = Contents::new("patch");
    for patch in patches {
        contents.text(&patch.id);
        contents.optional(patch.metadata.as_ref().map(|metadata| metadata.len() as i64));
        patch.metadata.iter().flatten().for_each(|(key, value)| contents.value(key, value.as_ref()));
        contents.optional(patch.vector.as_ref().map(|vector| vector.len() as i64));
        let bytes: Vec<u8> = patch.vector.iter().flatten().flat_map(|v| v.to_le_bytes()).collect();
        contents.vector(&bytes);
        contents.optional(patch.timestamp);
        contents.optional(patch.expires_at.map(|at| i64::from(at.is_some())));
        contents.optional(patch.expires_at.flatten());
        contents.optional(patch.version);
    }
    contents.finish()
}

/// The patched records as one batch.
pub(super) async fn apply(
    meter: &Meter,
    from: &Collection,
    snapshot: &Snapshot,
    target: &Target,
    patches: &[Patch],
    found: &[Option<Found>],
) -> Result<Cut> {
    let found: Vec<&Found> = patches
        .iter()
        .zip(found)
        .enumerate()
        .map(|(row, (patch, found))| found.as_ref().ok_or_else(|| missing(row, &patch.id)))
        .collect::<Result<_>>()?;
    let kept: Vec<&Found> =
        patches.iter().zip(&found).filter(|(p, _)| p.vector.is_none()).map(|(_, f)| *f).collect();
    let mut vectors = from.vectors(meter, snapshot, &kept).await?.into_iter();
    let mut records = Vec::with_capacity(patches.len());
    for (patch, found) in patches.iter().zip(found) {
        let record = found.record(&snapshot.schema)?;
        let vector = match &patch.vector {
            Some(vector) => vector.clone(),
            None => vectors.next().ok_or_else(|| Error::internal("a vector was not read"))?,
        };
        records.push(patched(Record { vector, ..record }, patch));
    }
    target.records(Op::Upsert, &records)
}

fn missing(row: usize, id: &str) -> Error {
    let message = format!("records[{row}]: `{}` does not exist", id.escape_debug());
    Error::new(Kind::NotFound, message)
        .with_hint("nothing was written; a patch needs every record to be there")
}

fn patched(mut record: Record, patch: &Patch) -> Record {
    for (key, value) in patch.metadata.iter().flatten() {
        match value {
            Value::Null => drop(record.metadata.remove(key)),
            value => drop(record.metadata.insert(key.clone(), value.clone())),
        }
    }
    record.timestamp = patch.timestamp.unwrap_or(record.timestamp);
    record.expires_at = patch.expires_at.unwrap_or(record.expires_at);
    record.version = patch.version.unwrap_or(record.version);
    record
}
