//! Rows as a search returns them: id, metadata, times, version, seq and row, row-major in zstd blocks (with frame
//! checksum) of [`BLOCK_ROWS`](super::BLOCK_ROWS) rows in ordinal order.
//!
//! A block, uncompressed: `first ordinal u32 · rows varint`, then per row, integers as zigzag varints unless stated:
//! id (length varint, UTF-8) · timestamp · created_at − timestamp · updated_at − created_at · u8 1 and expires_at −
//! updated_at, or u8 0 · version · seq · row · number of values (varint), then per non-null metadata value in column
//! order its column (varint), a tag byte and the value:
//!
//! | tag | value |
//! |---|---|
//! | 0 | false |
//! | 1 | true |
//! | 2 | int: zigzag varint |
//! | 3 | float: 8 bytes |
//! | 4 | string: length varint, UTF-8 |
//! | 5 | strings: count varint, then each as a string |

mod batch;
mod read;
mod write;

pub use batch::{PayloadBatch, payload_schema};
pub use read::{PayloadRows, ValueAt, decode_block};
pub use write::PayloadWriter;

/// The payload of a segment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Payload {
    /// All blocks, one after the other.
    pub blocks: Vec<u8>,
    /// Bytes of each.
    pub sizes: Vec<u32>,
}

const FALSE: u8 = 0;
const TRUE: u8 = 1;
const INT: u8 = 2;
const FLOAT: u8 = 3;
const STRING: u8 = 4;
const STRINGS: u8 = 5;

#[cfg(test)]
mod tests;
