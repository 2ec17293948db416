//! The pass that decides whether a client's bytes may be stored as they are.

use std::collections::BTreeMap;

use super::content::Contents;
use super::cursor::Cursor;
use super::walk::{self, Fault, Fields, Item, Visit};
use crate::error::{Error, Result};
use crate::id::{CollectionId, Content};
use crate::limits;
use crate::record::{Op, TIMES_MS};
use crate::schema::{ColumnType, Observed, Settings, VectorType, check_key};

/// What the records of a batch must obey.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// The collection written to. A record names it by name, by id or not at all.
    pub collection: &'a CollectionId,
    /// What the batch does.
    pub op: Op,
    /// Dimension, metric and element type.
    pub settings: &'a Settings,
}

/// What one pass learnt about a valid batch.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Summary {
    /// Records.
    pub rows: u32,
    /// [`CollectionId::hash_id`] of each record's id, in order.
    pub ids: Vec<u64>,
    /// Metadata keys that hold at least one value that is not null; for [`crate::schema::Schema::admit`].
    pub keys: BTreeMap<String, Observed>,
    /// What the records say: equal for equal records, however they were encoded.
    pub content: Content,
}

/// Validates one block: see [`Validator`].
pub fn validate(block: &[u8], expect_rows: Option<u64>, rules: &Rules<'_>) -> Result<Summary> {
    let mut validator = Validator::new(rules);
    validator.block(block, expect_rows)?;
    Ok(validator.finish())
}

/// Validates the blocks of one batch. Errors name `records[i].field`, i counted over all blocks.
#[derive(Debug)]
pub struct Validator<'a> {
    rules: Rules<'a>,
    id: String,
    bytes: usize,
    ids: Vec<u64>,
    keys: Keys<'a>,
    contents: Contents,
}

impl<'a> Validator<'a> {
    /// A validator that has seen no record.
    pub fn new(rules: &Rules<'a>) -> Self {
        Validator {
            rules: *rules,
            id: rules.collection.to_string(),
            bytes: 0,
            ids: Vec::new(),
            keys: Keys::default(),
            contents: Contents::new(rules.op.as_str()),
        }
    }

    /// Reads one block. After an error the batch must be refused.
    ///
    /// # Errors
    /// Invalid: the first problem of the first bad record, or a limit of DESIGN §4.
    pub fn block(&mut self, block: &'a [u8], expect_rows: Option<u64>) -> Result<()> {
        self.bytes = self.bytes.saturating_add(block.len());
        if self.bytes > limits::BATCH_BYTES {
            let message =
                format!("the batch has {} bytes or more, the limit is {}", self.bytes, limits::BATCH_BYTES);
            return Err(Error::invalid("records", message));
        }
        let mut cursor = Cursor::new(block);
        let first = self.ids.len();
        while !cursor.is_empty() {
            let row = self.ids.len();
            if expect_rows == Some((row - first) as u64) {
                let message = format!("{} bytes follow the last record", cursor.rest.len());
                return Err(Error::invalid("records", message));
            }
            if row == limits::BATCH_ROWS {
                let message =
                    format!("the batch has more than {} records, which is the limit", limits::BATCH_ROWS);
                return Err(Error::invalid("records", message));
            }
            self.record(&mut cursor, row as u32).map_err(|fault| walk::invalid(row as u64, &fault))?;
        }
        let rows = (self.ids.len() - first) as u64;
        match expect_rows {
            Some(n) if n != rows => {
                Err(Error::invalid("records", format!("{n} records are announced and {rows} are there")))
            }
            _ => Ok(()),
        }
    }

    /// What was learnt.
    pub fn finish(self) -> Summary {
        let rows = self.ids.len() as u32;
        Summary { rows, ids: self.ids, keys: self.keys.observed(), content: self.contents.finish() }
    }

    fn record(&mut self, cursor: &mut Cursor<'a>, row: u32) -> Result<(), Fault> {
        self.keys.next_row(row);
        let (keys, contents) = (&mut self.keys, &mut self.contents);
        let mut visit = Check { op: self.rules.op, keys, contents, elements: 0, peak: 0 };
        let fields = walk::record(cursor, &mut visit)?;
        let (elements, peak) = (visit.elements, visit.peak);
        self.check_names(&fields)?;
        if self.rules.op == Op::Upsert {
            check_vector(elements, peak, self.rules.settings)?;
        }
        if let Some(field) = fields.result {
            return Err(Fault::new(field, "this field is set in results and must be null in writes"));
        }
        check_times(&fields)?;
        self.ids.push(self.rules.collection.hash_id(fields.id));
        self.contents.fields(&fields);
        Ok(())
    }

    fn check_names(&self, fields: &Fields<'_>) -> Result<(), Fault> {
        if !(1..=limits::ID_BYTES).contains(&fields.id.len()) {
            let message = format!("an id has 1 to {} bytes, this one {}", limits::ID_BYTES, fields.id.len());
            return Err(Fault::new("id", message));
        }
        let (given, name) = (fields.collection_id, self.rules.collection.name().as_str());
        if given.is_empty() || given == name || given == self.id {
            return Ok(());
        }
        let given: String = given.chars().take(limits::NAME_BYTES).flat_map(char::escape_debug).collect();
        Err(Fault::new("collection_id", format!("the record is for `{given}`, the request for `{name}`")))
    }
}

/// Times are those of the calendar, which results write with four digits of year.
fn check_times(fields: &Fields<'_>) -> Result<(), Fault> {
    let times = [
        ("timestamp", Some(fields.timestamp)),
        ("created_at", Some(fields.created_at)),
        ("expires_at", fields.expires_at),
    ];
    match times.iter().find(|(_, time)| time.is_some_and(|t| !TIMES_MS.contains(&t))) {
        None => Ok(()),
        Some((field, time)) => Err(Fault::new(
            *field,
            format!(
                "{} is no time from 0001-01-01 to 9999-12-31: {} to {} milliseconds since 1970",
                time.unwrap_or_default(),
                TIMES_MS.start(),
                TIMES_MS.end()
            ),
        )),
    }
}

/// Checks a vector by its number of elements and the bits of its greatest magnitude, whose order is that of
/// the magnitudes themselves.
fn check_vector(elements: usize, peak: u32, settings: &Settings) -> Result<(), Fault> {
    let wrong = |m: String| Err(Fault::new("vector", m));
    if elements != settings.dimension as usize {
        return wrong(format!("{elements} dimensions, the collection has {}", settings.dimension));
    }
    let greatest = f32::from_bits(peak);
    if !greatest.is_finite() {
        return wrong("a number that is not finite".to_owned());
    }
    let half = settings.vector_type == VectorType::F16;
    if half && greatest >= HALF_OVERFLOW {
        return wrong(format!("{greatest} is beyond what an f16 collection can hold (±65504)"));
    }
    let stored = if half && greatest <= HALF_UNDERFLOW { 0.0 } else { greatest };
    settings.check_greatest(stored).or_else(wrong)
}

/// From here on rounding to f16 gives infinity.
const HALF_OVERFLOW: f32 = 65520.0;
/// Up to here rounding to f16 gives zero: half of the least subnormal, 2^-25.
const HALF_UNDERFLOW: f32 = 1.0 / (1u32 << 25) as f32;

struct Check<'k, 'a> {
    op: Op,
    keys: &'k mut Keys<'a>,
    contents: &'k mut Contents,
    elements: usize,
    peak: u32,
}

impl<'a> Visit<'a> for Check<'_, 'a> {
    fn floats(&mut self, bytes: &'a [u8]) -> Result<(), Fault> {
        if self.op == Op::Delete {
            return Err(Fault::new("vector", "a delete carries an id and no vector"));
        }
        self.contents.vector(bytes);
        self.elements += bytes.len() / 4;
        let magnitude = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) & 0x7fff_ffff;
        self.peak = bytes.chunks_exact(4).map(magnitude).fold(self.peak, u32::max);
        Ok(())
    }

    fn entry(&mut self, key: &'a str, value: Item<'a>) -> Result<(), Fault> {
        if self.op == Op::Delete {
            return Err(Fault::new("metadata", "a delete carries an id and no metadata"));
        }
        self.contents.entry(key, value);
        let (kind, inexact) = match value {
            Item::Null => return self.keys.see(key, None),
            Item::Bool(_) => (ColumnType::Boolean, None),
            Item::Int(v) => {
                (ColumnType::Int, (v.unsigned_abs() > limits::EXACT_INT.unsigned_abs()).then_some(v))
            }
            Item::Float(v) if !v.is_finite() => {
                return Err(Fault::of_key(key, "a number that is not finite"));
            }
            Item::Float(_) => (ColumnType::Float, None),
            Item::String(_) => (ColumnType::String, None),
            Item::Strings(_) => (ColumnType::Strings, None),
        };
        self.keys.see(key, Some((kind, inexact)))
    }
}

/// The metadata keys of a batch. Allocates only when a key is first seen.
#[derive(Debug, Default)]
struct Keys<'a> {
    by_name: BTreeMap<&'a str, usize>,
    slots: Vec<Slot<'a>>,
    row: u32,
    /// The slot after the one last used: records of one writer mostly have their keys in one order.
    guess: usize,
}

#[derive(Debug)]
struct Slot<'a> {
    key: &'a str,
    last_row: Option<u32>,
    seen: Option<Observed>,
}

impl<'a> Keys<'a> {
    fn next_row(&mut self, row: u32) {
        self.row = row;
        self.guess = 0;
    }

    fn slot(&mut self, key: &'a str) -> Result<usize, Fault> {
        if self.slots.get(self.guess).is_some_and(|s| s.key == key) {
            return Ok(self.guess);
        }
        if let Some(at) = self.by_name.get(key) {
            return Ok(*at);
        }
        check_key(key).map_err(|e| Fault::of_key(key, e.to_string()))?;
        self.by_name.insert(key, self.slots.len());
        self.slots.push(Slot { key, last_row: None, seen: None });
        Ok(self.slots.len() - 1)
    }

    fn see(&mut self, key: &'a str, value: Option<(ColumnType, Option<i64>)>) -> Result<(), Fault> {
        use ColumnType::{Float, Int};
        let (at, row) = (self.slot(key)?, self.row);
        self.guess = at + 1;
        let slot = &mut self.slots[at];
        if slot.last_row.replace(row) == Some(row) {
            return Err(Fault::of_key(key, "the key is given twice"));
        }
        let Some((kind, inexact)) = value else { return Ok(()) };
        let inexact = inexact.map(|v| (row, v));
        let Some(seen) = &mut slot.seen else {
            slot.seen = Some(Observed { kind, row, inexact });
            return Ok(());
        };
        match (seen.kind, kind) {
            (a, b) if a == b => {}
            (Int, Float) => (seen.kind, seen.row) = (Float, row),
            (Float, Int) => {}
            (a, b) => {
                let message = format!("{} here and {} in records[{}]", b.as_str(), a.as_str(), seen.row);
                return Err(Fault::of_key(key, message));
            }
        }
        seen.inexact = seen.inexact.or(inexact);
        Ok(())
    }

    fn observed(self) -> BTreeMap<String, Observed> {
        self.slots.into_iter().filter_map(|s| Some((s.key.to_owned(), s.seen?))).collect()
    }
}

#[cfg(test)]
mod tests;
