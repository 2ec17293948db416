//! Payloads of binary transports: `schema version u32 | operation length u32 | operation | Avro data`, lengths
//! big-endian (WIRE §2).

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::record::SCHEMA_VERSION;

/// Longest operation name.
const OPERATION_BYTES: usize = 64;

/// A framed payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// upsert, delete, search, …
    pub operation: String,
    /// Avro data in the schema of this version.
    pub data: Bytes,
}

/// Frames `data` under our schema version.
pub fn encode(operation: &str, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + operation.len() + data.len());
    out.extend_from_slice(&SCHEMA_VERSION.to_be_bytes());
    out.extend_from_slice(&(operation.len() as u32).to_be_bytes());
    out.extend_from_slice(operation.as_bytes());
    out.extend_from_slice(data);
    out
}

/// Takes a frame apart; the data is not copied.
///
/// # Errors
/// Invalid, with the versions supported when the schema version is another.
pub fn decode(bytes: &Bytes) -> Result<Frame> {
    let wrong = |m: &str| Error::invalid("avro_payload", m);
    let (Some(version), Some(length)) = (u32_at(bytes, 0), u32_at(bytes, 4)) else {
        return Err(wrong("a payload starts with 8 bytes of schema version and operation length"));
    };
    if version != SCHEMA_VERSION {
        return Err(Error::invalid("avro_payload", format!("schema version {version} is not supported"))
            .with_hint(format!("this server supports schema version {SCHEMA_VERSION}")));
    }
    let length = length as usize;
    if length > OPERATION_BYTES || bytes.len() - 8 < length {
        return Err(wrong("the operation's length is beyond the payload or 64 bytes"));
    }
    let operation =
        std::str::from_utf8(&bytes[8..8 + length]).map_err(|_| wrong("the operation is not UTF-8"))?;
    Ok(Frame { operation: operation.to_owned(), data: bytes.slice(8 + length..) })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
}

#[cfg(test)]
mod tests;
