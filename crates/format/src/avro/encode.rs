//! Records to Avro bytes.

use super::cursor::{put_bytes, put_long};
use crate::record::{Record, RecordRef, ValueRef};

/// Branches of the metadata union, in the order of the schema.
pub(super) mod branch {
    pub const NULL: i64 = 0;
    pub const BOOLEAN: i64 = 1;
    pub const INT: i64 = 2;
    pub const LONG: i64 = 3;
    pub const FLOAT: i64 = 4;
    pub const DOUBLE: i64 = 5;
    pub const STRING: i64 = 6;
    pub const STRINGS: i64 = 7;
}

/// Rank, score and distance as clients write them: the null branch.
const RESULTS: [u8; 3] = [0, 0, 0];

/// Appends one record; the fields that only results have are null. Nothing is checked here.
pub fn encode_record(out: &mut Vec<u8>, r: &RecordRef<'_>) {
    put_bytes(out, r.id.as_bytes());
    put_bytes(out, r.collection_id.as_bytes());
    put_vector(out, r.vector);
    if !r.metadata.is_empty() {
        put_long(out, r.metadata.len() as i64);
        for (key, value) in r.metadata {
            put_bytes(out, key.as_bytes());
            put_value(out, value);
        }
    }
    put_long(out, 0);
    put_long(out, r.timestamp);
    put_long(out, r.created_at);
    put_long(out, r.updated_at);
    match r.expires_at {
        None => put_long(out, 0),
        Some(at) => {
            put_long(out, 1);
            put_long(out, at);
        }
    }
    put_long(out, r.version);
    out.extend_from_slice(&RESULTS);
}

/// Appends the record that deletes `id`: empty vector, no metadata.
pub fn encode_tombstone(out: &mut Vec<u8>, id: &str) {
    encode_record(out, &RecordRef { id, ..RecordRef::default() });
}

impl Record {
    /// Appends the record as a client writes it: rank, score and distance are left out.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let metadata: Vec<_> = self.metadata.iter().map(|(k, v)| (k.as_str(), v.as_ref())).collect();
        let record = RecordRef {
            id: &self.id,
            collection_id: &self.collection_id,
            vector: &self.vector,
            metadata: &metadata,
            timestamp: self.timestamp,
            created_at: self.created_at,
            updated_at: self.updated_at,
            expires_at: self.expires_at,
            version: self.version,
        };
        encode_record(out, &record);
    }

    /// Appends the record as a result: with rank, score and distance.
    pub fn encode_result(&self, out: &mut Vec<u8>) {
        self.encode(out);
        // The null branches that end a record as clients write it.
        out.truncate(out.len() - RESULTS.len());
        let bytes = |v: Option<f32>| v.map(f32::to_le_bytes);
        put_long(out, i64::from(self.rank.is_some()));
        self.rank.iter().for_each(|rank| put_long(out, i64::from(*rank)));
        for value in [bytes(self.score), bytes(self.distance)] {
            put_long(out, i64::from(value.is_some()));
            value.iter().for_each(|v| out.extend_from_slice(v));
        }
    }
}

/// One array block of little-endian floats, then the end of the array.
fn put_vector(out: &mut Vec<u8>, vector: &[f32]) {
    if !vector.is_empty() {
        put_long(out, vector.len() as i64);
        let start = out.len();
        out.resize(start + vector.len() * 4, 0);
        for (to, v) in out[start..].chunks_exact_mut(4).zip(vector) {
            to.copy_from_slice(&v.to_le_bytes());
        }
    }
    put_long(out, 0);
}

fn put_value(out: &mut Vec<u8>, value: &ValueRef<'_>) {
    match *value {
        ValueRef::Null => put_long(out, branch::NULL),
        ValueRef::Bool(v) => {
            put_long(out, branch::BOOLEAN);
            out.push(u8::from(v));
        }
        ValueRef::Int(v) => {
            put_long(out, branch::LONG);
            put_long(out, v);
        }
        ValueRef::Float(v) => {
            put_long(out, branch::DOUBLE);
            out.extend_from_slice(&v.to_le_bytes());
        }
        ValueRef::String(v) => {
            put_long(out, branch::STRING);
            put_bytes(out, v.as_bytes());
        }
        ValueRef::Strings(items) => {
            put_long(out, branch::STRINGS);
            if !items.is_empty() {
                put_long(out, items.len() as i64);
                items.iter().for_each(|item| put_bytes(out, item.as_bytes()));
            }
            put_long(out, 0);
        }
    }
}
