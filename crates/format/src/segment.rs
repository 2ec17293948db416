//! The byte layout of a segment (INDEX §1 and §3): `rows.parquet`, which is at once the exact-vector file; the index
//! file over it; and the deletion bitmaps that follow. Everything is addressed by row ordinal = position in leaf order.

pub mod attributes;
pub mod deletes;
pub mod index;
pub mod payload;
pub mod rows;
mod wire;

#[cfg(test)]
pub(crate) mod fixture;

/// Rows of a vector page of `rows.parquet`.
pub const PAGE_ROWS: u32 = 256;
/// Postings of a code group.
pub const GROUP_POSTINGS: u32 = 32;
/// Rows of a payload block.
pub const BLOCK_ROWS: u32 = 32;
