//! Reads the attribute directory.

use std::collections::HashMap;
use std::ops::Range;

use super::{
    KIND_BOOLEAN, KIND_FLOAT, KIND_INT, KIND_STRING, KIND_STRINGS, KIND_TEXT, SLOT_BITS, TRAILING_NUMBERS,
};
use crate::error::{Error, Result};
use crate::schema::Schema;
use crate::segment::wire::{Take, check, checked};

/// Where to find what answers filters. Places are offsets in the index file.
#[derive(Debug, Clone)]
pub struct Directory {
    pub(super) object: String,
    pub(super) seed: u64,
    pub(super) rows: u32,
    section: Range<u64>,
    names: HashMap<String, usize>,
    columns: Vec<Slot>,
}

/// A column's entry, or where to read it.
#[derive(Debug, Clone)]
enum Slot {
    Here(Column),
    Cold(Range<u64>),
}

/// What the directory says about a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// One of the kinds of the entry.
    pub(super) kind: u8,
    pub(super) nulls: Nulls,
    pub(super) lookup: Lookup,
    chunks: Vec<Chunk>,
}

/// A column's chunk in a row group of `rows.parquet`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Where it lies in the rows file.
    pub range: Range<u64>,
    crc: u32,
}

impl Chunk {
    /// Refuses bytes that are not what was written to rows file `object`.
    pub fn check(&self, object: &str, bytes: &[u8]) -> Result<()> {
        check(object, format_args!("the column chunk at {}", self.range.start), bytes, self.crc)
    }
}

/// Rows where a column is null.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Nulls {
    None,
    All,
    Some(Range<u64>),
}

/// How a column is looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Lookup {
    /// It is not.
    Text,
    Values {
        /// Hash, check and bitmap, by hash.
        big: Vec<(u64, u16, Range<u64>)>,
        /// Slots by hash: a power of two.
        slots: Vec<Range<u64>>,
    },
    Numbers(Numbers),
}

/// Bins of a column of numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Numbers {
    pub(super) float: bool,
    pub(super) bins: Vec<Bin>,
    /// A cumulative bitmap per this many bins.
    pub(super) stride: usize,
    /// Rows of all bins below bin `stride`, 2 · `stride` …
    pub(super) below: Vec<Range<u64>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bin {
    /// First and last key.
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) run: Range<u64>,
}

/// The slot of a hash among 2 to the `bits`.
pub(super) fn slot(hash: u64, bits: u32) -> u64 {
    hash.checked_shr(64 - bits).unwrap_or(0)
}

impl Directory {
    /// Decodes the directory. `section` is where the attributes section lies; `schema` the segment's.
    pub(in crate::segment) fn decode(
        object: &str,
        bytes: &[u8],
        section: Range<u64>,
        schema: &Schema,
        rows: u32,
    ) -> Result<Directory> {
        let mut t = Take::new(object, "attribute directory", bytes);
        let (seed, count) = (t.u64()?, t.varint_u32()? as usize);
        let names = schema.columns.iter().map(|c| c.name.as_str()).chain(TRAILING_NUMBERS);
        let names: HashMap<String, usize> = names.zip(0..).map(|(name, i)| (name.to_owned(), i)).collect();
        if count != names.len() {
            return Err(t.corrupt(format!("it has {count} columns where the segment has {}", names.len())));
        }
        let columns = t.many(count, 2, |t| {
            Ok(match t.u8()? {
                0 => {
                    let mut entry = Take::new(object, "attribute directory", t.run()?);
                    Slot::Here(Column::decode(&mut entry, &section, rows)?)
                }
                1 => Slot::Cold(place(t, &section)?),
                other => return Err(t.corrupt(format!("an entry starts with {other}"))),
            })
        })?;
        t.end()?;
        Ok(Directory { object: object.to_owned(), seed, rows, section, names, columns })
    }

    /// Number of columns: the segment's metadata columns and those of the record's own that are indexed.
    pub fn columns(&self) -> usize {
        self.columns.len()
    }

    /// What is known about a column: nothing when the segment does not have it, or when its entry is
    /// [`cold`](Directory::cold).
    pub fn column(&self, name: &str) -> Option<&Column> {
        match self.columns.get(*self.names.get(name)?)? {
            Slot::Here(column) => Some(column),
            Slot::Cold(_) => None,
        }
    }

    /// Whether the segment has the column. One that it does not have is null in every row.
    pub fn has(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// Where in the index file a column's entry must be read from, if it did not fit the header.
    pub fn cold(&self, name: &str) -> Option<Range<u64>> {
        match self.columns.get(*self.names.get(name)?)? {
            Slot::Here(_) => None,
            Slot::Cold(range) => Some(range.clone()),
        }
    }

    /// Takes a column's entry from the bytes of [`Directory::cold`].
    pub fn load(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let Some(at) = self.names.get(name) else {
            return Err(Error::internal(format!("{} has no column `{name}`", self.object)));
        };
        let body = checked(&self.object, format_args!("the attributes of column `{name}`"), bytes)?;
        let mut t = Take::new(&self.object, "attribute directory", body);
        self.columns[*at] = Slot::Here(Column::decode(&mut t, &self.section, self.rows)?);
        Ok(())
    }
}

impl Column {
    /// Chunks of the column in `rows.parquet`, one per row group.
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// Compressed bytes of the column in `rows.parquet`.
    pub fn compressed(&self) -> u64 {
        self.chunks.iter().map(|c| c.range.end - c.range.start).sum()
    }

    fn decode(t: &mut Take<'_>, section: &Range<u64>, rows: u32) -> Result<Column> {
        let kind = t.u8()?;
        let nulls = match t.varint()? {
            0 => Nulls::None,
            n if n == u64::from(rows) => Nulls::All,
            _ => Nulls::Some(place(t, section)?),
        };
        let groups = t.varint_u32()? as usize;
        let chunks = t.many(groups, 6, |t| {
            let (offset, length, crc) = (t.varint()?, t.varint()?, t.u32()?);
            let end = offset.checked_add(length).ok_or_else(|| t.corrupt("a column chunk has no end"))?;
            Ok(Chunk { range: offset..end, crc })
        })?;
        let lookup = match kind {
            KIND_TEXT => Lookup::Text,
            KIND_BOOLEAN | KIND_STRING | KIND_STRINGS => values(t, section)?,
            KIND_INT | KIND_FLOAT => Lookup::Numbers(numbers(t, section, kind == KIND_FLOAT)?),
            other => return Err(t.corrupt(format!("an entry has kind {other}"))),
        };
        t.end()?;
        Ok(Column { kind, nulls, lookup, chunks })
    }
}

/// A place in the section, as a place in the file.
fn place(t: &mut Take<'_>, section: &Range<u64>) -> Result<Range<u64>> {
    let offset = t.varint()?;
    let length = t.varint()?;
    within(t, section, offset, length)
}

fn within(t: &Take<'_>, section: &Range<u64>, offset: u64, length: u64) -> Result<Range<u64>> {
    let start = section.start.checked_add(offset);
    match start.and_then(|s| Some(s..s.checked_add(length)?)).filter(|r| r.end <= section.end) {
        Some(range) => Ok(range),
        None => Err(t.corrupt("a place lies outside the attributes")),
    }
}

/// `count` places that follow each other from a stored offset.
fn row(t: &mut Take<'_>, section: &Range<u64>, count: usize) -> Result<Vec<Range<u64>>> {
    let mut at = t.varint()?;
    t.many(count, 1, |t| {
        let length = t.varint()?;
        let range = within(t, section, at, length)?;
        at += length;
        Ok(range)
    })
}

fn values(t: &mut Take<'_>, section: &Range<u64>) -> Result<Lookup> {
    let count = t.varint_u32()? as usize;
    let big = t.many(count, 13, |t| {
        let (hash, check, _rows) = (t.u64()?, t.u16()?, t.varint()?);
        Ok((hash, check, place(t, section)?))
    })?;
    let bits = u32::from(t.u8()?);
    if bits > SLOT_BITS {
        return Err(t.corrupt(format!("a column has 2^{bits} slots")));
    }
    Ok(Lookup::Values { big, slots: row(t, section, 1 << bits)? })
}

fn numbers(t: &mut Take<'_>, section: &Range<u64>, float: bool) -> Result<Numbers> {
    let count = t.varint_u32()? as usize;
    let stride = usize::from(t.u8()?);
    if stride == 0 {
        return Err(t.corrupt("a cumulative bitmap per no bins"));
    }
    let mut last = 0u64;
    let keys = t.many(count, 2, |t| {
        let mut next = || {
            last = last.checked_add(t.varint()?).ok_or_else(|| t.corrupt("a key has more than 64 bits"))?;
            Ok(last)
        };
        Ok((next()?, next()?))
    })?;
    let runs = row(t, section, count)?;
    let bins = keys.into_iter().zip(runs).map(|((first, last), run)| Bin { first, last, run }).collect();
    let below = t.many(count.saturating_sub(1) / stride, 2, |t| place(t, section))?;
    Ok(Numbers { float, bins, stride, below })
}
