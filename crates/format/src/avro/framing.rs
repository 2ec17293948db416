//! Payloads of binary transports: `schema version u32 | operation length u32 | operation | Avro data`, lengths
//! big-endian (WIRE §2).

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::record::{Op, SCHEMA_VERSION};

/// What errors call the payload.
const FIELD: &str = "avro_payload";
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
/// Invalid when the frame is cut short, or with the versions supported when the schema version is another.
pub fn decode(bytes: &Bytes) -> Result<Frame> {
    let wrong = |m: String| Error::invalid(FIELD, m);
    let (Some(version), Some(length)) = (u32_at(bytes, 0), u32_at(bytes, 4)) else {
        return Err(wrong(format!(
            "it has {} bytes, and starts with 8 of schema version and operation length",
            bytes.len()
        )));
    };
    if version != SCHEMA_VERSION {
        return Err(wrong(format!("schema version {version} is not supported"))
            .with_hint(format!("this server supports schema version {SCHEMA_VERSION}")));
    }
    let length = length as usize;
    if length > OPERATION_BYTES {
        return Err(wrong(format!("the operation has {length} bytes, the limit is {OPERATION_BYTES}")));
    }
    let Some(operation) = bytes.get(8..8 + length) else {
        return Err(wrong(format!("it ends within the operation, which has {length} bytes")));
    };
    let operation =
        std::str::from_utf8(operation).map_err(|_| wrong("the operation is not UTF-8".to_owned()))?;
    Ok(Frame { operation: operation.to_owned(), data: bytes.slice(8 + length..) })
}

impl Frame {
    /// The write that the frame names.
    ///
    /// # Errors
    /// Invalid when it names no write.
    pub fn write(&self) -> Result<Op> {
        [Op::Upsert, Op::Delete].into_iter().find(|op| op.as_str() == self.operation).ok_or_else(|| {
            let message = format!("the operation `{}` is no write", self.operation.escape_debug());
            Error::invalid(FIELD, message).with_hint("the writes are upsert and delete")
        })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
}

#[cfg(test)]
mod tests;
