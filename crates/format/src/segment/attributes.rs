//! What answers filters without reading columns (INDEX §3): exact row sets for =, IN, ranges, contains and IS NULL.
//!
//! **Directory** (index header, at most 52 KiB): `seed u64 · columns varint`, then per column, in the order of
//! [`Directory::columns`], `u8 0` and its entry with a length, or `u8 1` and where in the attributes section the entry
//! and its CRC lie. Largest entries leave the header first. Places are `offset varint · length varint`, from the start
//! of the attributes section; every place ends with the CRC32C of what is before it.
//!
//! **Entry**: `kind u8 · nulls varint · [place of the bitmap of nulls, unless none or all are] · row groups varint`, per row
//! group `offset varint · length varint · crc u32` of the column's chunk in `rows.parquet`, then by kind:
//!
//! | kind | column | rest |
//! |---|---|---|
//! | 0 | text of over 128 bytes a value | nothing |
//! | 1, 4, 5 | boolean, string, strings | big values: count varint, each `hash u64 · check u16 · rows varint · place` of a bitmap; then `slots u8` (power of two), offset varint, length of each slot varint |
//! | 2 | int | numbers |
//! | 3 | float | numbers |
//!
//! *Values* are looked up by the upper 64 bits of the seeded XXH3-128 of their bytes, confirmed by its lower 16. A slot
//! is an equal part of the hash space: `hash u64 · check u16 · rows varint · ordinals`, sorted by hash; ordinals are
//! varints, each less the one before. A value whose ordinals take over 4 KiB is a big value.
//!
//! *Numbers* are order-preserving u64 keys, cut into some 64 bins of equal size at distinct values: `bins varint ·
//! stride u8`, the first and the last key of each bin (varints, each less the one before), `offset varint` and the
//! length of each bin's run, then the place of one cumulative bitmap per `stride` bins: the rows of all bins below
//! bin `stride`, 2 · `stride` … A run is, by ascending key, `key varint (less the one before) · rows × 2 varint`, and the ordinals
//! as above; or rows × 2 + 1, and they are a bitmap with its length.

mod build;
mod directory;
mod number;
mod plan;

pub use build::{AttributesBuilder, ColumnsWriter};
pub use directory::{Chunk, Column, Directory};
pub use plan::Plan;

use std::ops::Bound;

use xxhash_rust::xxh3::xxh3_128_with_seed;

/// The attributes of a segment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Part of the index header.
    pub directory: Vec<u8>,
    /// Cold section.
    pub section: Vec<u8>,
}

/// A constant of a filter.
#[derive(Debug, Clone, PartialEq)]
pub enum Literal {
    /// true or false.
    Bool(bool),
    /// A whole number; also milliseconds for the columns of times.
    Int(i64),
    /// A floating point number.
    Float(f64),
    /// Text.
    String(String),
}

/// One term of a filter. Null satisfies none but `IsNull`. Numbers compare by value, whatever their types.
#[derive(Debug, Clone, PartialEq)]
pub enum Predicate {
    /// The column equals the literal.
    Eq(String, Literal),
    /// The column equals one of the literals.
    In(String, Vec<Literal>),
    /// The number lies between the bounds.
    Range {
        /// The column.
        column: String,
        /// Lower bound.
        low: Bound<Literal>,
        /// Upper bound.
        high: Bound<Literal>,
    },
    /// The list of texts has this element.
    Contains(String, String),
    /// The column is null.
    IsNull(String),
}

impl Predicate {
    /// The column it is about.
    pub fn column(&self) -> &str {
        match self {
            Predicate::Eq(column, _)
            | Predicate::In(column, _)
            | Predicate::Range { column, .. }
            | Predicate::Contains(column, _)
            | Predicate::IsNull(column) => column,
        }
    }
}

/// The record's own columns that are indexed like int columns, after the metadata.
const TRAILING_NUMBERS: [&str; 5] = ["_timestamp", "_created_at", "_updated_at", "_expires_at", "_version"];

/// Columns whose values average more bytes are not indexed: text is not looked up by equality.
const TEXT_BYTES: u64 = 128;
/// A value whose ordinals take more bytes has a bitmap of its own.
const LIST_BYTES: usize = 4 << 10;
/// The hash space of a column has at most 2 to this many slots.
const SLOT_BITS: u32 = 8;

const KIND_TEXT: u8 = 0;
const KIND_BOOLEAN: u8 = 1;
const KIND_INT: u8 = 2;
const KIND_FLOAT: u8 = 3;
const KIND_STRING: u8 = 4;
const KIND_STRINGS: u8 = 5;

/// Hash of a value and the check beside it.
fn hash(seed: u64, value: &[u8]) -> (u64, u16) {
    let h = xxh3_128_with_seed(value, seed);
    ((h >> 64) as u64, h as u16)
}

/// The bytes under which a boolean is hashed.
fn bool_bytes(v: bool) -> [u8; 1] {
    [u8::from(v)]
}

#[cfg(test)]
pub(crate) mod tests;
