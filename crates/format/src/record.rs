//! The record: one row as clients write and read it (WIRE §1), and its Avro schema.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

mod json;

/// The Avro schema of the record, as written into every container.
pub const SCHEMA: &str = include_str!("record.avsc");
/// CRC-64-AVRO (Rabin) of the schema's parsing canonical form.
pub const FINGERPRINT: u64 = 0xb000_cf72_97d3_d1c5;
/// The times that a record may have, in milliseconds: those that four digits of year can write.
pub const TIMES_MS: std::ops::RangeInclusive<i64> = -62_135_596_800_000..=253_402_300_799_999;
/// Version of the schema that both sides of a binary transport state.
pub const SCHEMA_VERSION: u32 = 1;

/// CRC-64-AVRO of an Avro schema's parsing canonical form, which has no defaults, aliases or documentation: schemas
/// of equal fingerprint lay records out in equal bytes.
///
/// # Errors
/// Invalid when the text is not an Avro schema.
pub fn fingerprint(schema_json: &str) -> Result<u64> {
    let schema = apache_avro::Schema::parse_str(schema_json)
        .map_err(|e| Error::invalid("avro.schema", format!("it is not an Avro schema: {e}")))?;
    let mut bytes = [0; 8];
    let digest = schema.fingerprint::<apache_avro::rabin::Rabin>().bytes;
    bytes.iter_mut().zip(digest).for_each(|(to, b)| *to = b);
    Ok(u64::from_le_bytes(bytes))
}

/// What a batch does with its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    /// Insert, or replace the record of the same id.
    Upsert,
    /// Write a tombstone: records carry an id and nothing else.
    Delete,
}

impl Op {
    /// `upsert` or `delete`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Op::Upsert => "upsert",
            Op::Delete => "delete",
        }
    }
}

/// A metadata value. As JSON it is the plain value: whole numbers are `Int`, other numbers `Float`.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Value {
    /// No value: the same as leaving out the key.
    #[default]
    Null,
    /// true or false.
    Bool(bool),
    /// A 64-bit signed whole number.
    Int(i64),
    /// A finite 64-bit floating point number.
    Float(f64),
    /// UTF-8 text.
    String(String),
    /// A list of texts.
    Strings(Vec<String>),
}

/// A borrowed [`Value`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ValueRef<'a> {
    /// No value.
    Null,
    /// true or false.
    Bool(bool),
    /// A 64-bit signed whole number.
    Int(i64),
    /// A finite 64-bit floating point number.
    Float(f64),
    /// UTF-8 text.
    String(&'a str),
    /// A list of texts.
    Strings(&'a [String]),
}

impl Value {
    /// Borrows the value.
    pub fn as_ref(&self) -> ValueRef<'_> {
        match self {
            Value::Null => ValueRef::Null,
            Value::Bool(v) => ValueRef::Bool(*v),
            Value::Int(v) => ValueRef::Int(*v),
            Value::Float(v) => ValueRef::Float(*v),
            Value::String(v) => ValueRef::String(v),
            Value::Strings(v) => ValueRef::Strings(v),
        }
    }
}

impl ValueRef<'_> {
    /// Copies the value.
    pub fn to_value(&self) -> Value {
        match *self {
            ValueRef::Null => Value::Null,
            ValueRef::Bool(v) => Value::Bool(v),
            ValueRef::Int(v) => Value::Int(v),
            ValueRef::Float(v) => Value::Float(v),
            ValueRef::String(v) => Value::String(v.to_owned()),
            ValueRef::Strings(v) => Value::Strings(v.to_owned()),
        }
    }
}

/// A record, owned. All times are milliseconds since the epoch, UTC.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// 1 to 256 bytes, unique in its collection.
    pub id: String,
    /// Name or id of the collection; empty takes the request's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub collection_id: String,
    /// `dimension` finite values; empty in deletes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vector: Vec<f32>,
    /// Typed columns by key.
    #[serde(default, deserialize_with = "json::metadata")]
    pub metadata: BTreeMap<String, Value>,
    /// Event time given by the client; 0 is the arrival of the write.
    #[serde(default)]
    pub timestamp: i64,
    /// As given; 0 is the arrival of this write.
    #[serde(default)]
    pub created_at: i64,
    /// Always the arrival of the last write.
    #[serde(default)]
    pub updated_at: i64,
    /// After this instant the record is invisible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
    /// The client's own version; operand of conditional writes.
    #[serde(default = "first_version")]
    pub version: i64,
    /// In results: position from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<i32>,
    /// In results: higher is better.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f32>,
    /// In results: the metric's own distance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distance: Option<f32>,
}

const fn first_version() -> i64 {
    1
}

impl Default for Record {
    /// Every field at the default of the Avro schema, or empty.
    fn default() -> Self {
        Record {
            id: String::new(),
            collection_id: String::new(),
            vector: Vec::new(),
            metadata: BTreeMap::new(),
            timestamp: 0,
            created_at: 0,
            updated_at: 0,
            expires_at: None,
            version: first_version(),
            rank: None,
            score: None,
            distance: None,
        }
    }
}

/// A record to be written, borrowed. Result fields do not exist in writes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RecordRef<'a> {
    /// See [`Record::id`].
    pub id: &'a str,
    /// See [`Record::collection_id`].
    pub collection_id: &'a str,
    /// See [`Record::vector`].
    pub vector: &'a [f32],
    /// Keys with their values, each key once.
    pub metadata: &'a [(&'a str, ValueRef<'a>)],
    /// See [`Record::timestamp`].
    pub timestamp: i64,
    /// See [`Record::created_at`].
    pub created_at: i64,
    /// See [`Record::updated_at`]; ignored on arrival.
    pub updated_at: i64,
    /// See [`Record::expires_at`].
    pub expires_at: Option<i64>,
    /// See [`Record::version`].
    pub version: i64,
}

impl Default for RecordRef<'_> {
    fn default() -> Self {
        RecordRef {
            id: "",
            collection_id: "",
            vector: &[],
            metadata: &[],
            timestamp: 0,
            created_at: 0,
            updated_at: 0,
            expires_at: None,
            version: first_version(),
        }
    }
}

#[cfg(test)]
mod tests;
