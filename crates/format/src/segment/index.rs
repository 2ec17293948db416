//! The index file of a segment (INDEX §1): `[envelope 64 B][hot header][cold sections …]`.
//!
//! The hot header is what a query needs before it can ask for anything else; `head` carries a copy of it, byte for
//! byte. It starts with the section directory: `count u16`, then per section `kind u16 · flags u16 · offset u64 ·
//! length u64 · crc32c u32`, offsets from the start of the object. Its own length and checksum are the envelope's.
//! Integers are little-endian. Sections:
//!
//! | kind | name | where | contents |
//! |---|---|---|---|
//! | 1 | facts | header | see [`Facts`] |
//! | 2 | schema | header | JSON `{settings, columns}` |
//! | 3 | rows | header | addresses of `rows.parquet` |
//! | 4 | calibration | header | 4 × `min_recall f32 · b f32 · δ f32 · R u32` |
//! | 5 | leaves | header | arrays: first ordinal u32 (leaves + 1), [first posting u32 (leaves + 1)], CRC of codes u32, CRC of idplane u32, payload base u64; that in brackets with `spill` only |
//! | 6 | centroids | header | opaque, by `esker-index` |
//! | 7 | attribute directory | header | see `attributes` |
//! | 8 | id map directory | header | 65 × u32 positions, error below u32, above u32 |
//! | 9 | payload sizes | header | u32 per block, while ≤ 52 KiB |
//! | 10 | basis | header | with `basis` only: what codes are made with; opaque, by `esker-index` |
//! | 16 | codes | cold | groups of 32 postings; with `spill` each ends with 32 × ordinal u32 |
//! | 18 | idplane | cold | u64 hash of the id per posting |
//! | 19 | idmap | cold | pages of 341 × (hash u64 · ordinal u32) sorted by hash, and a CRC |
//! | 20 | payload size pages | cold | pages of 1,023 × u32 and a CRC, when the sizes are not in the header |
//! | 21 | payload | cold | zstd blocks of 32 rows |
//! | 22 | attributes | cold | see `attributes` |
//! | 23 | checks | cold | CRCs of vector pages and column chunks |
//! | 24 | footer | cold | the end of `rows.parquet` |
//! | 25 | extension | cold | reserved for 4-bit codes (feature `extension`) |

mod header;
mod idmap;
mod writer;

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::id::Seq;
use crate::schema::{Schema, Settings};
use crate::segment::GROUP_POSTINGS;
pub use header::Header;
pub use writer::{IndexParts, IndexSummary, IndexWriter, Spill, Spool};

/// Bytes of the ordinals at the end of a code group, where leaves have copies of rows of others.
pub const ORDINALS_BYTES: u32 = 4 * GROUP_POSTINGS;

/// Greatest size of the payload sizes and of the attribute directory in the header: what leaves a header of ten million
/// rows with copies, in a full `head`, below 1.3 MB.
pub const HOT_BYTES: usize = 52 << 10;

/// What a section is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
pub enum Section {
    /// Numbers fixed when the index was built.
    Facts = 1,
    /// Settings and columns as JSON.
    Schema = 2,
    /// Addresses of `rows.parquet`.
    Rows = 3,
    /// Probing and rerank limits per recall.
    Calibration = 4,
    /// Where each leaf starts, with checksums.
    Leaves = 5,
    /// Quantised centroids.
    Centroids = 6,
    /// Where to find what answers filters.
    AttributeDirectory = 7,
    /// How to find a hash in the id map.
    IdMapDirectory = 8,
    /// Size of each payload block.
    PayloadSizes = 9,
    /// The basis of codes that are not made with a random rotation.
    Basis = 10,
    /// Code groups.
    Codes = 16,
    /// Hash of the id of each posting.
    IdPlane = 18,
    /// Ordinal by hash of the id.
    IdMap = 19,
    /// Size of each payload block, when too many for the header.
    PayloadSizePages = 20,
    /// Rows as a search returns them.
    Payload = 21,
    /// Values, bitmaps and runs.
    Attributes = 22,
    /// Checksums of vector pages and column chunks.
    Checks = 23,
    /// The end of `rows.parquet`.
    Footer = 24,
    /// Reserved for 4-bit codes.
    Extension = 25,
}

/// Numbers fixed when the index was built. As bytes: the fields in this order, `rows` to `group_bytes` as u32,
/// `centroid_bits` as u8, the seqs last.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Facts {
    /// Bytes of the index file.
    pub file_size: u64,
    /// Rows of the segment.
    pub rows: u32,
    /// Postings: rows and spilled copies.
    pub postings: u32,
    /// Leaves.
    pub leaves: u32,
    /// Entries of the id map.
    pub id_hashes: u32,
    /// Bits of a code: the dimension rounded up to 64, or what a basis has.
    pub code_bits: u32,
    /// Bytes of a code group, its ordinals included.
    pub group_bytes: u32,
    /// Bits per element of the stored centroids.
    pub centroid_bits: u8,
    /// Seed of the rotation.
    pub rotation_seed: u64,
    /// The scale of the codes' corrections.
    pub scale: f32,
    /// Smallest and greatest seq of the rows.
    pub seqs: (Seq, Seq),
}

/// Probing and rerank limits that meet a recall on the segment's own sample (INDEX §2).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Calibration {
    /// The recall.
    pub min_recall: f32,
    /// Probe while a leaf's score is at least the k-th row's score minus this.
    pub b: f32,
    /// Cold: fetch leaves whose score is at least the best leaf's minus this.
    pub delta: f32,
    /// Rows to rerank.
    pub rerank: u32,
}

/// Position and checksums of a leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// Its own rows.
    pub ordinals: Range<u32>,
    /// Its postings: own rows first, then spilled copies.
    pub postings: Range<u32>,
    /// CRC32C of the code groups it touches.
    pub codes_crc: u32,
    /// CRC32C of its slice of the idplane.
    pub idplane_crc: u32,
    /// Where in the payload section the block of its first row starts.
    pub payload_base: u64,
}

/// Contents of the schema section.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Shape {
    settings: Settings,
    columns: Schema,
}

#[cfg(test)]
mod tests;
