//! One parser for every pass over a block: it checks what Avro itself demands and shows each part to a visitor.

use super::cursor::{Cursor, Wrong};
use super::encode::branch;

/// What is wrong with a record: the field and the problem.
#[derive(Debug)]
pub(crate) struct Fault(Box<FaultText>);

#[derive(Debug)]
pub(crate) struct FaultText {
    /// The field within the record, as in `metadata.topic`.
    pub field: String,
    /// The problem.
    pub message: String,
}

impl Fault {
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Fault(Box::new(FaultText { field: field.into(), message: message.into() }))
    }

    pub fn of_key(key: &str, message: impl Into<String>) -> Self {
        Fault::new(format!("metadata.{key}"), message)
    }

    pub fn text(&self) -> &FaultText {
        &self.0
    }
}

/// A metadata value inside a block.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Item<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    String(&'a str),
    Strings(Strings<'a>),
}

/// An array of strings that has been checked once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Strings<'a> {
    cursor: Cursor<'a>,
    left: u64,
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        if self.left == 0 {
            self.left = self.cursor.count().ok().filter(|n| *n > 0)?;
        }
        self.left -= 1;
        self.cursor.string().ok()
    }
}

/// Shown the parts of a record that are not of fixed size.
pub(crate) trait Visit<'a> {
    /// The bytes of some elements of the vector, four each, little-endian; called once per array block.
    fn floats(&mut self, bytes: &'a [u8]) -> Result<(), Fault>;
    /// One metadata entry.
    fn entry(&mut self, key: &'a str, value: Item<'a>) -> Result<(), Fault>;
}

/// The rest of a record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a> {
    pub id: &'a str,
    pub collection_id: &'a str,
    pub timestamp: i64,
    pub created_at: i64,
    pub expires_at: Option<i64>,
    pub version: i64,
    /// The first of rank, score and distance that is not null.
    pub result: Option<&'static str>,
}

/// Reads one record.
pub(crate) fn record<'a>(c: &mut Cursor<'a>, visit: &mut impl Visit<'a>) -> Result<Fields<'a>, Fault> {
    let at = |field: &'static str| move |m: Wrong| Fault::new(field, m);
    let id = c.string().map_err(at("id"))?;
    let collection_id = c.string().map_err(at("collection_id"))?;
    vector(c, visit)?;
    metadata(c, visit)?;
    let timestamp = c.long().map_err(at("timestamp"))?;
    let created_at = c.long().map_err(at("created_at"))?;
    c.long().map_err(at("updated_at"))?; // always replaced by the arrival
    let expires_at = optional(c, Cursor::long).map_err(at("expires_at"))?;
    let version = c.long().map_err(at("version"))?;
    let rank = optional(c, Cursor::int).map_err(at("rank"))?.map(|_| "rank");
    let score = optional(c, Cursor::float).map_err(at("score"))?.map(|_| "score");
    let distance = optional(c, Cursor::float).map_err(at("distance"))?.map(|_| "distance");
    let result = rank.or(score).or(distance);
    Ok(Fields { id, collection_id, timestamp, created_at, expires_at, version, result })
}

fn optional<'a, T>(
    c: &mut Cursor<'a>,
    read: impl FnOnce(&mut Cursor<'a>) -> Result<T, Wrong>,
) -> Result<Option<T>, Wrong> {
    match c.long()? {
        0 => Ok(None),
        1 => read(c).map(Some),
        _ => Err("a union branch that the schema does not have"),
    }
}

fn vector<'a>(c: &mut Cursor<'a>, visit: &mut impl Visit<'a>) -> Result<(), Fault> {
    let wrong = |m: Wrong| Fault::new("vector", m);
    loop {
        let n = c.count().map_err(wrong)?;
        if n == 0 {
            return Ok(());
        }
        let bytes = usize::try_from(n).ok().and_then(|n| n.checked_mul(4)).unwrap_or(usize::MAX);
        visit.floats(c.take(bytes).map_err(wrong)?)?;
    }
}

fn metadata<'a>(c: &mut Cursor<'a>, visit: &mut impl Visit<'a>) -> Result<(), Fault> {
    let wrong = |m: Wrong| Fault::new("metadata", m);
    loop {
        let n = c.count().map_err(wrong)?;
        if n == 0 {
            return Ok(());
        }
        for _ in 0..n {
            let key = c.string().map_err(wrong)?;
            let value = item(c).map_err(|m| Fault::of_key(key, m))?;
            visit.entry(key, value)?;
        }
    }
}

fn item<'a>(c: &mut Cursor<'a>) -> Result<Item<'a>, Wrong> {
    Ok(match c.long()? {
        branch::NULL => Item::Null,
        branch::BOOLEAN => Item::Bool(c.boolean()?),
        branch::INT => Item::Int(c.int()?.into()),
        branch::LONG => Item::Int(c.long()?),
        branch::FLOAT => Item::Float(c.float()?.into()),
        branch::DOUBLE => Item::Float(c.double()?),
        branch::STRING => Item::String(c.string()?),
        branch::STRINGS => {
            let strings = Strings { cursor: *c, left: 0 };
            loop {
                match c.count()? {
                    0 => break,
                    n => (0..n).try_for_each(|_| c.string().map(drop))?,
                }
            }
            Item::Strings(strings)
        }
        _ => return Err("a union branch that the schema does not have; nested values are not supported"),
    })
}

/// The ids of a block's records, in order; everything else is skipped.
pub fn ids(block: &[u8]) -> Ids<'_> {
    Ids { cursor: Cursor::new(block), row: 0 }
}

/// See [`ids`]. After an error the iterator is at its end.
#[derive(Debug)]
pub struct Ids<'a> {
    cursor: Cursor<'a>,
    row: u64,
}

struct Skip;

impl<'a> Visit<'a> for Skip {
    fn floats(&mut self, _: &'a [u8]) -> Result<(), Fault> {
        Ok(())
    }
    fn entry(&mut self, _: &'a str, _: Item<'a>) -> Result<(), Fault> {
        Ok(())
    }
}

impl<'a> Iterator for Ids<'a> {
    type Item = crate::Result<&'a str>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.cursor.is_empty() {
            return None;
        }
        let row = self.row;
        self.row += 1;
        Some(match record(&mut self.cursor, &mut Skip) {
            Ok(fields) => Ok(fields.id),
            Err(fault) => {
                self.cursor.rest = &[];
                Err(invalid(row, &fault))
            }
        })
    }
}

/// The fault as the caller's mistake.
pub(super) fn invalid(row: u64, fault: &Fault) -> crate::Error {
    crate::Error::invalid(format!("records[{row}].{}", fault.text().field), &fault.text().message)
}
