//! Gathers the attributes of a segment and lays them out.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int64Type, SchemaRef, TimestampMillisecondType};
use roaring::RoaringBitmap;

use super::number::{float_key, int_key};
use super::{
    Attributes, KIND_BOOLEAN, KIND_FLOAT, KIND_INT, KIND_STRING, KIND_STRINGS, KIND_TEXT, LIST_BYTES,
    SLOT_BITS, TEXT_BYTES, TRAILING_NUMBERS, bool_bytes, hash,
};
use crate::error::{Error, Result};
use crate::schema::{ColumnType, Schema, Settings, TRAILING, arrow_schema};
use crate::segment::index::HOT_BYTES;
use crate::segment::rows::RowsLayout;
use crate::segment::wire::Put;

/// Bins of a column of numbers, about.
const BINS: usize = 64;
/// A bin has at least this many entries while there are fewer than [`BINS`] times as many.
const BIN_ENTRIES: usize = 512;
/// Bins per cumulative bitmap.
const STRIDE: usize = 4;
/// Slots are made until one takes about this many bytes.
const SLOT_BYTES: usize = 4 << 10;

/// Gathers rows in ordinal order.
pub struct AttributesBuilder {
    arrow: SchemaRef,
    seed: u64,
    rows: u32,
    columns: Vec<Gather>,
}

/// What is gathered of a column.
struct Gather {
    kind: ColumnType,
    /// Position in the rows file.
    file_column: usize,
    nulls: RoaringBitmap,
    /// Hash, check and ordinal of every value.
    values: Vec<(u64, u16, u32)>,
    /// Bytes of all values.
    bytes: u64,
    /// Key and ordinal of every number.
    numbers: Vec<(u64, u32)>,
}

impl AttributesBuilder {
    /// A builder for rows with `arrow_schema(settings, schema)`. `seed` keys the hashes of values.
    pub fn new(settings: &Settings, schema: &Schema, seed: u64) -> Self {
        let arrow = arrow_schema(settings, schema);
        AttributesBuilder { arrow, seed, rows: 0, columns: gathers(schema) }
    }

    /// Adds rows; batches may have any size.
    pub fn push_batch(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.schema().fields() != self.arrow.fields() {
            return Err(Error::internal("a batch of rows does not have the segment's schema"));
        }
        for column in &mut self.columns {
            column.push(self.seed, self.rows, batch.column(column.file_column));
        }
        let rows = self.rows as usize + batch.num_rows();
        self.rows = u32::try_from(rows).map_err(|_| Error::internal("a segment has more than 2^32 rows"))?;
        Ok(())
    }

    /// Lays the attributes out. `rows` says where the columns' chunks lie.
    pub fn finish(self, rows: &RowsLayout) -> Result<Attributes> {
        if rows.address.rows != u64::from(self.rows) {
            return Err(Error::internal("attributes and rows of a segment differ in number"));
        }
        let mut section = Section::default();
        let mut entries = Vec::with_capacity(self.columns.len());
        for column in self.columns {
            entries.push(column.entry(self.rows, rows, &mut section)?);
        }
        let directory = directory(self.seed, entries, &mut section);
        Ok(Attributes { directory, section: section.bytes })
    }
}

/// What is gathered, in the order of the directory.
fn gathers(schema: &Schema) -> Vec<Gather> {
    let mut columns: Vec<Gather> =
        schema.columns.iter().enumerate().map(|(i, c)| Gather::new(c.kind, 2 + i)).collect();
    for name in TRAILING_NUMBERS {
        let at = TRAILING.iter().position(|t| *t == name).unwrap_or_default();
        columns.push(Gather::new(ColumnType::Int, 2 + schema.columns.len() + at));
    }
    columns
}

/// Lays attributes out one column after the other, for who cannot hold the values of all at once: 16 bytes a value of
/// the present column. Gives the same bytes as [`AttributesBuilder`].
pub struct ColumnsWriter {
    seed: u64,
    rows: RowsLayout,
    waiting: std::vec::IntoIter<Gather>,
    entries: Vec<Vec<u8>>,
    section: Section,
}

impl ColumnsWriter {
    /// A writer for the rows of `rows`, by ordinal. `seed` keys the hashes of values.
    pub fn new(schema: &Schema, seed: u64, rows: &RowsLayout) -> Self {
        let rows = rows.clone();
        ColumnsWriter {
            seed,
            rows,
            waiting: gathers(schema).into_iter(),
            entries: Vec::new(),
            section: Section::default(),
        }
    }

    /// The writer that others left after `entries`, with a section of `length` bytes: what they gave as
    /// [`ColumnsWriter::last_entry`], and the bytes of all columns together.
    pub fn resume(schema: &Schema, seed: u64, rows: &RowsLayout, entries: Vec<Vec<u8>>, length: u64) -> Self {
        let mut writer = ColumnsWriter::new(schema, seed, rows);
        writer.waiting.by_ref().take(entries.len()).for_each(drop);
        ColumnsWriter { entries, section: Section { taken: length, bytes: Vec::new() }, ..writer }
    }

    /// What the directory says of the last column that was laid out.
    pub fn last_entry(&self) -> &[u8] {
        self.entries.last().map_or(&[], Vec::as_slice)
    }

    /// Position in the rows file of the column that comes next, if there is one.
    pub fn next_column(&self) -> Option<usize> {
        self.waiting.as_slice().first().map(|c| c.file_column)
    }

    /// Lays out the next column, whose values are in `parts` by ordinal, and gives the bytes of the section that it adds.
    ///
    /// # Errors
    /// Internal when the parts do not have the rows; else what `parts` gives.
    pub fn column(&mut self, parts: impl Iterator<Item = Result<ArrayRef>>) -> Result<Vec<u8>> {
        let Some(mut gather) = self.waiting.next() else { return Ok(Vec::new()) };
        let rows = self.rows.address.rows as u32;
        gather.reserve(rows as usize);
        let mut first = 0;
        for part in parts {
            let part = part?;
            gather.push(self.seed, first, &part);
            first += part.len() as u32;
        }
        if first != rows {
            return Err(Error::internal("attributes and rows of a segment differ in number"));
        }
        self.entries.push(gather.entry(rows, &self.rows, &mut self.section)?);
        Ok(self.section.take())
    }

    /// The directory, and the end of the section.
    pub fn finish(mut self) -> Attributes {
        let directory = directory(self.seed, self.entries, &mut self.section);
        Attributes { directory, section: self.section.bytes }
    }
}

/// The directory; entries that make it too large for the header go to the section, largest first.
fn directory(seed: u64, entries: Vec<Vec<u8>>, section: &mut Section) -> Vec<u8> {
    // Seed, count, and per entry its mark and length, or its place.
    let overhead = 8 + 10 + entries.len() * 24;
    let mut size = overhead + entries.iter().map(Vec::len).sum::<usize>();
    let mut order: Vec<usize> = (0..entries.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(entries[*i].len()));
    let mut cold = vec![false; entries.len()];
    for i in order {
        if size <= HOT_BYTES {
            break;
        }
        cold[i] = true;
        size -= entries[i].len();
    }
    let mut out = Vec::with_capacity(size);
    out.put_u64(seed);
    out.put_varint(entries.len() as u64);
    for (entry, cold) in entries.iter().zip(cold) {
        out.put(&[u8::from(cold)]);
        if cold {
            section.place(entry, &mut out);
        } else {
            out.put_bytes(entry);
        }
    }
    out
}

/// The attributes section as it grows.
#[derive(Default)]
struct Section {
    /// Bytes that were taken away.
    taken: u64,
    bytes: Vec<u8>,
}

impl Section {
    /// Where the next bytes go.
    fn at(&self) -> u64 {
        self.taken + self.bytes.len() as u64
    }

    /// Appends bytes and their CRC, and says to `entry` where.
    fn place(&mut self, bytes: &[u8], entry: &mut Vec<u8>) {
        entry.put_varint(self.at());
        entry.put_varint(self.append(bytes));
    }

    /// Takes away what was appended so far.
    fn take(&mut self) -> Vec<u8> {
        self.taken += self.bytes.len() as u64;
        std::mem::take(&mut self.bytes)
    }

    /// Appends bytes and their CRC: how many.
    fn append(&mut self, bytes: &[u8]) -> u64 {
        self.bytes.put(bytes);
        self.bytes.put_u32(crc32c::crc32c(bytes));
        bytes.len() as u64 + 4
    }
}

impl Gather {
    fn new(kind: ColumnType, file_column: usize) -> Self {
        Gather {
            kind,
            file_column,
            nulls: RoaringBitmap::new(),
            values: Vec::new(),
            bytes: 0,
            numbers: Vec::new(),
        }
    }

    /// Makes room for one value per row, so that nothing is moved as they come.
    fn reserve(&mut self, rows: usize) {
        match self.kind {
            ColumnType::Int | ColumnType::Float => self.numbers.reserve_exact(rows),
            _ => self.values.reserve_exact(rows),
        }
    }

    fn push(&mut self, seed: u64, first: u32, array: &ArrayRef) {
        let times = array.as_primitive_opt::<TimestampMillisecondType>();
        for (i, ordinal) in (0..array.len()).zip(first..) {
            if array.is_null(i) {
                self.nulls.insert(ordinal);
                continue;
            }
            match self.kind {
                ColumnType::Boolean => self.value(seed, &bool_bytes(array.as_boolean().value(i)), ordinal),
                ColumnType::String => self.value(seed, array.as_string::<i32>().value(i).as_bytes(), ordinal),
                ColumnType::Strings => {
                    let items = array.as_list::<i32>().value(i);
                    let items = items.as_string::<i32>();
                    (0..items.len()).for_each(|j| self.value(seed, items.value(j).as_bytes(), ordinal));
                }
                ColumnType::Int => {
                    let v = times.map_or_else(|| array.as_primitive::<Int64Type>().value(i), |t| t.value(i));
                    self.numbers.push((int_key(v), ordinal));
                }
                ColumnType::Float => {
                    self.numbers.push((float_key(array.as_primitive::<Float64Type>().value(i)), ordinal));
                }
            }
        }
    }

    fn value(&mut self, seed: u64, bytes: &[u8], ordinal: u32) {
        let (hash, check) = hash(seed, bytes);
        self.values.push((hash, check, ordinal));
        self.bytes += bytes.len() as u64;
    }

    fn entry(self, rows: u32, layout: &RowsLayout, section: &mut Section) -> Result<Vec<u8>> {
        let is_text = self.bytes > self.values.len() as u64 * TEXT_BYTES;
        let kind = match self.kind {
            ColumnType::Int => KIND_INT,
            ColumnType::Float => KIND_FLOAT,
            _ if is_text => KIND_TEXT,
            ColumnType::Boolean => KIND_BOOLEAN,
            ColumnType::String => KIND_STRING,
            ColumnType::Strings => KIND_STRINGS,
        };
        let mut out = vec![kind];
        out.put_varint(self.nulls.len());
        if !self.nulls.is_empty() && self.nulls.len() < u64::from(rows) {
            section.place(&bitmap_bytes(self.nulls)?, &mut out);
        }
        let chunks = layout.checks.chunks.iter().filter(|c| usize::from(c.column) == self.file_column);
        out.put_varint(chunks.clone().count() as u64);
        for chunk in chunks {
            out.put_varint(chunk.offset);
            out.put_varint(chunk.length);
            out.put_u32(chunk.crc);
        }
        match kind {
            KIND_TEXT => {}
            KIND_INT | KIND_FLOAT => numbers(self.numbers, section, &mut out)?,
            _ => values(self.values, section, &mut out)?,
        }
        Ok(out)
    }
}

/// Appends the bytes of a bitmap.
fn bitmap_bytes(mut bits: RoaringBitmap) -> Result<Vec<u8>> {
    bits.optimize();
    let mut out = Vec::with_capacity(bits.serialized_size());
    bits.serialize_into(&mut out)
        .map_err(|e| Error::internal("a bitmap cannot be written").with_source(e))?;
    Ok(out)
}

/// Appends ascending ordinals, each less the one before.
fn put_ordinals(ordinals: impl Iterator<Item = u32>, out: &mut Vec<u8>) {
    ordinals.fold(0, |last, o| {
        out.put_varint(u64::from(o - last));
        o
    });
}

/// Lays out looked-up values: big ones with a bitmap each, the rest in slots by hash.
fn values(mut postings: Vec<(u64, u16, u32)>, section: &mut Section, out: &mut Vec<u8>) -> Result<()> {
    postings.sort_unstable();
    postings.dedup();
    let (mut big, mut bigs) = (Vec::new(), 0u64);
    // Hash and end of each small value in `small`.
    let (mut small, mut ends) = (Vec::new(), Vec::new());
    for same in postings.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
        let (hash, check, _) = same[0];
        let ordinals = || same.iter().map(|p| p.2);
        let start = small.len();
        small.put_u64(hash);
        small.put_u16(check);
        small.put_varint(same.len() as u64);
        put_ordinals(ordinals(), &mut small);
        if small.len() - start <= LIST_BYTES {
            ends.push((hash, small.len()));
            continue;
        }
        small.truncate(start);
        bigs += 1;
        big.put_u64(hash);
        big.put_u16(check);
        big.put_varint(same.len() as u64);
        section.place(&bitmap_bytes(ordinals().collect())?, &mut big);
    }
    out.put_varint(bigs);
    out.put(&big);

    let slot_bits = (0..SLOT_BITS).find(|bits| small.len() >> bits <= SLOT_BYTES).unwrap_or(SLOT_BITS);
    out.put(&[slot_bits as u8]);
    out.put_varint(section.at());
    let (mut start, mut next) = (0, 0);
    for slot in 0..1u64 << slot_bits {
        let count =
            ends[next..].partition_point(|(hash, _)| super::directory::slot(*hash, slot_bits) <= slot);
        next += count;
        let end = if count == 0 { start } else { ends[next - 1].1 };
        out.put_varint(if start == end { 0 } else { section.append(&small[start..end]) });
        start = end;
    }
    Ok(())
}

/// Lays out numbers: runs by bin, and cumulative bitmaps.
fn numbers(mut entries: Vec<(u64, u32)>, section: &mut Section, out: &mut Vec<u8>) -> Result<()> {
    entries.sort_unstable();
    let bins = bins(&entries);
    out.put_varint(bins.len() as u64);
    out.put(&[STRIDE as u8]);
    let mut last = 0;
    for bin in &bins {
        for key in [bin[0].0, bin[bin.len() - 1].0] {
            out.put_varint(key - last);
            last = key;
        }
    }
    out.put_varint(section.at());
    for bin in &bins {
        out.put_varint(section.append(&run(bin)?));
    }
    let mut below = RoaringBitmap::new();
    for (i, bin) in bins.iter().enumerate() {
        if i > 0 && i % STRIDE == 0 {
            section.place(&bitmap_bytes(below.clone())?, out);
        }
        below.extend(bin.iter().map(|(_, ordinal)| *ordinal));
    }
    Ok(())
}

/// Cuts sorted entries into some [`BINS`] bins at distinct keys. A key with many entries gets a bin of its own.
fn bins(entries: &[(u64, u32)]) -> Vec<&[(u64, u32)]> {
    let target = entries.len().div_ceil(BINS).max(BIN_ENTRIES);
    let (mut out, mut start, mut at) = (Vec::new(), 0, 0);
    for same in entries.chunk_by(|a, b| a.0 == b.0) {
        let full = at - start >= target || same.len() >= target;
        if full && at > start {
            out.push(&entries[start..at]);
            start = at;
        }
        at += same.len();
    }
    if at > start {
        out.push(&entries[start..at]);
    }
    out
}

fn run(bin: &[(u64, u32)]) -> Result<Vec<u8>> {
    let (mut out, mut last) = (Vec::new(), 0);
    for same in bin.chunk_by(|a, b| a.0 == b.0) {
        let ordinals = || same.iter().map(|(_, o)| *o);
        out.put_varint(same[0].0 - last);
        last = same[0].0;
        let mut list = Vec::with_capacity(same.len() * 2);
        put_ordinals(ordinals(), &mut list);
        if list.len() <= LIST_BYTES {
            out.put_varint((same.len() as u64) << 1);
            out.put(&list);
        } else {
            out.put_varint((same.len() as u64) << 1 | 1);
            out.put_bytes(&bitmap_bytes(ordinals().collect())?);
        }
    }
    Ok(out)
}
