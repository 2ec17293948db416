//! Bodies of writes in their encodings.

use std::collections::BTreeMap;

use bytes::Bytes;
use esker_format::record::{Record, Value};
use esker_format::{Error, Result, ipc, limits};
use esker_proto::rest::{self, Encoding, RecordSchema};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;

use super::records::When;
use crate::ingest::{Body, Patch};

/// What records may be encoded as.
pub(crate) const TAKEN: [Encoding; 5] =
    [Encoding::Json, Encoding::Ndjson, Encoding::Avro, Encoding::FramedAvro, Encoding::Arrow];

/// Most bytes of an Arrow stream when it is decompressed: vectors may be of f64.
pub(crate) const ARROW_BYTES: u64 = 4 * limits::BATCH_BYTES as u64;

/// Most bytes of a body. A batch has 16 MiB when it is encoded; as text a float takes up to three times its size, as f64
/// in Arrow twice.
pub(super) fn limit(encoding: Encoding) -> usize {
    match encoding {
        Encoding::Json | Encoding::Ndjson => 4 * limits::BATCH_BYTES,
        _ => 2 * limits::BATCH_BYTES + (1 << 20),
    }
}

/// Records to write.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Records {
    /// At most 10,000.
    #[serde(deserialize_with = "rest::batch")]
    #[schema(value_type = Vec<RecordSchema>, min_items = 1, max_items = 10000)]
    records: Vec<Record>,
    /// Only if there is no record of any of the ids.
    #[serde(default)]
    if_absent: bool,
    /// Only if all of the records are there in this version.
    if_version: Option<i64>,
}

/// Parts of records to change.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Patches {
    /// At most 10,000.
    #[serde(deserialize_with = "rest::batch")]
    #[schema(min_items = 1, max_items = 10000)]
    records: Vec<Change>,
    /// Refused in patches, which are of records that are there.
    #[serde(default)]
    if_absent: bool,
    /// Only if all of the records have this version.
    if_version: Option<i64>,
}

/// What to change of a record: what is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Patch)]
pub(super) struct Change {
    /// Which record.
    #[schema(min_length = 1, max_length = 256)]
    id: String,
    /// Merged into the metadata: a null removes its key.
    #[schema(value_type = Option<BTreeMap<String, Object>>)]
    metadata: Option<BTreeMap<String, Value>>,
    /// Replaces the vector.
    vector: Option<Vec<f32>>,
    /// Replaces the event time.
    timestamp: Option<i64>,
    /// Replaces the instant of expiry; null removes it.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>)]
    expires_at: Option<Option<i64>>,
    /// Replaces the client's version.
    version: Option<i64>,
}

/// Tells a null from a field that is left out.
fn given<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Option<i64>>, D::Error> {
    Option::deserialize(d).map(Some)
}

impl From<Change> for Patch {
    fn from(c: Change) -> Self {
        Patch {
            id: c.id,
            metadata: c.metadata,
            vector: c.vector,
            timestamp: c.timestamp,
            expires_at: c.expires_at,
            version: c.version,
        }
    }
}

/// The records of a body, and its condition.
pub(super) fn upsert(encoding: Encoding, bytes: Bytes) -> Result<(Body, When)> {
    let body = match encoding {
        Encoding::Ndjson => Body::Records(lines(&bytes)?),
        Encoding::Avro => Body::Container(bytes),
        Encoding::FramedAvro => Body::Framed(bytes),
        Encoding::Arrow => Body::Arrow(ipc::read(&bytes, ARROW_BYTES)?),
        _ => {
            let Records { records, if_absent, if_version } = rest::parse(&bytes)?;
            return Ok((Body::Records(records), When { if_absent, if_version }));
        }
    };
    Ok((body, When::default()))
}

/// The patches of a body, and its condition.
pub(super) fn patches(encoding: Encoding, bytes: &Bytes) -> Result<(Vec<Patch>, When)> {
    let (changes, when) = match encoding {
        Encoding::Ndjson => (lines::<Change>(bytes)?, When::default()),
        _ => {
            let Patches { records, if_absent, if_version } = rest::parse(bytes)?;
            (records, When { if_absent, if_version })
        }
    };
    Ok((changes.into_iter().map(Patch::from).collect(), when))
}

/// NDJSON: what is wrong is named as in `records` of a JSON body.
fn lines<T: DeserializeOwned>(bytes: &[u8]) -> Result<Vec<T>> {
    let lines = bytes.split(|b| *b == b'\n').filter(|line| !line.trim_ascii().is_empty());
    // One more than there may be is enough to be refused.
    lines.take(limits::BATCH_ROWS + 1).enumerate().map(|(i, l)| line(i as u64, l)).collect()
}

/// One line, the i-th record.
pub(crate) fn line<T: DeserializeOwned>(i: u64, line: &[u8]) -> Result<T> {
    rest::parse::<T>(line).map_err(|e| {
        let field = match e.field() {
            Some("body") | None => format!("records[{i}]"),
            Some(field) => format!("records[{i}].{field}"),
        };
        let wrong = Error::invalid(field, e.to_string());
        match e.hint() {
            Some(hint) => wrong.with_hint(hint),
            None => wrong,
        }
    })
}
