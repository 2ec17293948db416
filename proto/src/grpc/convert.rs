//! Records as messages and as `avro_payload`.

use std::collections::BTreeMap;

use bytes::Bytes;
use esker_format::avro::framing;
use esker_format::record::{self, Record, SCHEMA_VERSION};
use esker_format::{Error, Result, limits};
use prost_types::value::Kind as ProtoKind;

use crate::v1;

/// Refuses clients whose record schema this server does not know. 0 stands for the first version.
///
/// # Errors
/// Invalid, with the versions supported.
pub fn schema_version(given: u32) -> Result<()> {
    if given <= SCHEMA_VERSION {
        return Ok(());
    }
    Err(Error::invalid("schema_version", format!("schema version {given} is not supported"))
        .with_hint(format!("this server supports schema version {SCHEMA_VERSION}")))
}

/// A metadata value. `field` is its name in errors.
///
/// # Errors
/// Invalid for what a column cannot hold: an object, or a list of anything but texts.
pub fn value(field: &str, value: prost_types::Value) -> Result<record::Value> {
    let wrong = |message: &str| Error::invalid(field, message);
    Ok(match value.kind {
        None | Some(ProtoKind::NullValue(_)) => record::Value::Null,
        Some(ProtoKind::BoolValue(v)) => record::Value::Bool(v),
        Some(ProtoKind::NumberValue(v)) if is_whole(v) => record::Value::Int(v as i64),
        Some(ProtoKind::NumberValue(v)) => record::Value::Float(v),
        Some(ProtoKind::StringValue(v)) => record::Value::String(v),
        Some(ProtoKind::ListValue(list)) => {
            let texts = list.values.into_iter().map(|item| match item.kind {
                Some(ProtoKind::StringValue(text)) => Ok(text),
                _ => Err(wrong("a list may hold only strings")),
            });
            record::Value::Strings(texts.collect::<Result<_>>()?)
        }
        Some(ProtoKind::StructValue(_)) => return Err(wrong("nested values are not supported")),
    })
}

/// A value as JSON. Whole numbers that a double holds exactly are whole numbers.
///
/// # Errors
/// Invalid for a number that JSON does not have.
pub fn json(field: &str, value: prost_types::Value) -> Result<serde_json::Value> {
    use serde_json::Value as Json;
    Ok(match value.kind {
        None | Some(ProtoKind::NullValue(_)) => Json::Null,
        Some(ProtoKind::BoolValue(v)) => Json::Bool(v),
        Some(ProtoKind::NumberValue(v)) if is_whole(v) => Json::from(v as i64),
        Some(ProtoKind::NumberValue(v)) => match serde_json::Number::from_f64(v) {
            Some(v) => Json::Number(v),
            None => return Err(Error::invalid(field, format!("{v} is not a finite number"))),
        },
        Some(ProtoKind::StringValue(v)) => Json::String(v),
        Some(ProtoKind::ListValue(list)) => {
            let items = list.values.into_iter().map(|item| json(field, item));
            Json::Array(items.collect::<Result<_>>()?)
        }
        Some(ProtoKind::StructValue(object)) => {
            let fields = object.fields.into_iter().map(|(key, v)| Ok((key, json(field, v)?)));
            Json::Object(fields.collect::<Result<_>>()?)
        }
    })
}

/// The message knows doubles only; a whole number that a double holds exactly is one.
fn is_whole(v: f64) -> bool {
    v.fract() == 0.0 && v.abs() <= limits::EXACT_INT as f64
}

/// A metadata value as a message. A whole number that a double cannot hold exactly is written as text, as protobuf's own
/// JSON mapping writes 64-bit numbers: rounding it would be a wrong answer.
pub fn to_value(value: record::Value) -> prost_types::Value {
    let kind = match value {
        record::Value::Null => ProtoKind::NullValue(0),
        record::Value::Bool(v) => ProtoKind::BoolValue(v),
        record::Value::Int(v) if v.unsigned_abs() > limits::EXACT_INT as u64 => {
            ProtoKind::StringValue(v.to_string())
        }
        record::Value::Int(v) => ProtoKind::NumberValue(v as f64),
        record::Value::Float(v) => ProtoKind::NumberValue(v),
        record::Value::String(v) => ProtoKind::StringValue(v),
        record::Value::Strings(v) => {
            let values = v.into_iter().map(|s| prost_types::Value { kind: Some(ProtoKind::StringValue(s)) });
            ProtoKind::ListValue(prost_types::ListValue { values: values.collect() })
        }
    };
    prost_types::Value { kind: Some(kind) }
}

/// Metadata, each value named `{at}.metadata.{key}` in errors.
pub(crate) fn metadata(
    at: &str,
    given: BTreeMap<String, prost_types::Value>,
) -> Result<BTreeMap<String, record::Value>> {
    let one = |(key, v): (String, prost_types::Value)| {
        let v = value(&format!("{at}.metadata.{key}"), v)?;
        Ok((key, v))
    };
    given.into_iter().map(one).collect()
}

impl v1::RecordPatch {
    /// The metadata to merge, if any is given. `at` is the patch's name in errors.
    ///
    /// # Errors
    /// As [`value`].
    pub fn take_metadata(&mut self, at: &str) -> Result<Option<BTreeMap<String, record::Value>>> {
        let given = std::mem::take(&mut self.metadata);
        if given.is_empty() { Ok(None) } else { metadata(at, given).map(Some) }
    }
}

/// A record from its message; `at` is its name in errors. The version of a record that does not say is 1, as in Avro.
///
/// # Errors
/// As [`value`].
pub fn record(at: &str, r: v1::Record) -> Result<Record> {
    Ok(Record {
        id: r.id,
        collection_id: r.collection_id,
        vector: r.vector,
        metadata: metadata(at, r.metadata)?,
        timestamp: r.timestamp,
        created_at: r.created_at,
        updated_at: r.updated_at,
        expires_at: r.expires_at,
        version: if r.version == 0 { Record::default().version } else { r.version },
        rank: r.rank,
        score: r.score,
        distance: r.distance,
    })
}

impl From<Record> for v1::Record {
    fn from(r: Record) -> Self {
        v1::Record {
            id: r.id,
            collection_id: r.collection_id,
            vector: r.vector,
            metadata: r.metadata.into_iter().map(|(k, v)| (k, to_value(v))).collect(),
            timestamp: r.timestamp,
            created_at: r.created_at,
            updated_at: r.updated_at,
            expires_at: r.expires_at,
            version: r.version,
            rank: r.rank,
            score: r.score,
            distance: r.distance,
        }
    }
}

/// Records in the framing of WIRE §2, results' fields included.
pub fn avro<'a>(operation: &str, records: impl IntoIterator<Item = &'a Record>) -> Bytes {
    let mut data = framing::encode(operation, &[]);
    records.into_iter().for_each(|r| r.encode_result(&mut data));
    data.into()
}
