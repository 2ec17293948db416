//! What answers filters.

use std::ops::Range;

use crate::error::Result;
use crate::schema::Schema;

/// The attributes of a segment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Part of the index header.
    pub directory: Vec<u8>,
    /// Cold section.
    pub section: Vec<u8>,
}

/// Where to find what answers filters.
#[derive(Debug, Clone)]
pub struct Directory {}

impl Directory {
    pub(super) fn decode(
        _object: &str,
        _bytes: &[u8],
        _section: Range<u64>,
        _schema: &Schema,
        _rows: u32,
    ) -> Result<Directory> {
        Ok(Directory {})
    }
}
