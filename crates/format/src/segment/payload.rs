//! Rows as a search returns them: id, metadata, times, version, seq and row, row-major in zstd blocks (with frame
//! checksum) of [`BLOCK_ROWS`] rows in ordinal order.
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

use std::ops::Range;

use super::BLOCK_ROWS;
use super::wire::Take;
use crate::error::Result;

mod batch;
mod heads;
mod read;
mod write;

pub use batch::{PayloadBatch, payload_schema};
pub use heads::{RowHead, RowHeads};
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

/// What a row begins with, its id as a range of the block.
struct Head {
    id: Range<usize>,
    times: [i64; 3],
    expires_at: Option<i64>,
    version: i64,
}

/// The beginning of a block: how many rows follow.
fn row_count(t: &mut Take<'_>, block: u32) -> Result<u64> {
    let (first, rows) = (t.u32()?, t.varint()?);
    match u64::from(first) == u64::from(block) * u64::from(BLOCK_ROWS) && rows <= u64::from(BLOCK_ROWS) {
        true => Ok(rows),
        false => Err(
            t.corrupt(format!("it starts at row {first} and has {rows} rows, where block {block} should be"))
        ),
    }
}

fn head(t: &mut Take<'_>) -> Result<Head> {
    let id = text(t)?;
    let timestamp = t.signed()?;
    let created = t.signed()?.wrapping_add(timestamp);
    let updated = t.signed()?.wrapping_add(created);
    let expires_at = match t.u8()? {
        0 => None,
        1 => Some(t.signed()?.wrapping_add(updated)),
        other => return Err(t.corrupt(format!("an expiry starts with {other}"))),
    };
    Ok(Head { id, times: [timestamp, created, updated], expires_at, version: t.signed()? })
}

/// A text, checked, as its range.
fn text(t: &mut Take<'_>) -> Result<Range<usize>> {
    let length = t.text()?.len();
    Ok(t.at() - length..t.at())
}

#[cfg(test)]
mod tests;
