//! Reads payload blocks.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;

use zstd::zstd_safe::{DCtx, ResetDirective};

use super::batch::PayloadBatch;
use super::{FALSE, FLOAT, Head, INT, STRING, STRINGS, TRUE, head, row_count, text};
use crate::error::{Error, Kind, Result};
use crate::record::Value;
use crate::schema::{ColumnType, Schema};
use crate::segment::wire::Take;

/// A block is refused above this many bytes: 32 rows of the largest batches stay below.
const BLOCK_BYTES: u64 = 1 << 30;

/// The rows of a decoded block.
#[derive(Debug, Clone)]
pub struct PayloadRows {
    schema: Arc<Schema>,
    bytes: Vec<u8>,
    rows: Vec<Row>,
}

/// A row; text as ranges of the block.
#[derive(Debug, Clone)]
struct Row {
    id: Range<usize>,
    times: [i64; 3],
    expires_at: Option<i64>,
    version: i64,
    seq: i64,
    row: i32,
    /// Non-null values by column, ascending.
    values: Vec<(usize, At)>,
}

#[derive(Debug, Clone)]
enum At {
    Bool(bool),
    Int(i64),
    Float(f64),
    String(Range<usize>),
    Strings(Vec<Range<usize>>),
}

/// A metadata value of a decoded row, borrowed from its block.
#[derive(Debug, Clone, PartialEq)]
pub enum ValueAt<'a> {
    /// true or false.
    Bool(bool),
    /// A 64-bit signed whole number.
    Int(i64),
    /// A finite 64-bit floating point number.
    Float(f64),
    /// UTF-8 text.
    String(&'a str),
    /// A list of texts.
    Strings(Vec<&'a str>),
}

/// Decodes block number `block` of `object`. `schema` is the collection's, or any that the segment's was before:
/// columns the block does not know are null, and ints of a column that has become `Float` are widened.
pub fn decode_block(object: &str, block: u32, bytes: &[u8], schema: &Arc<Schema>) -> Result<PayloadRows> {
    let raw = decompress(object, block, bytes)?;
    let mut t = Take::new(object, "payload block", &raw);
    let rows = row_count(&mut t, block)?;
    let rows = (0..rows).map(|_| row(&mut t, schema)).collect::<Result<_>>()?;
    t.end()?;
    Ok(PayloadRows { schema: Arc::clone(schema), rows, bytes: raw })
}

thread_local! {
    /// Kept between blocks: making one costs as much as decompressing a block.
    static DECODER: RefCell<DCtx<'static>> = RefCell::new(DCtx::create());
}

pub(super) fn decompress(object: &str, block: u32, bytes: &[u8]) -> Result<Vec<u8>> {
    let failed =
        |e| Error::corrupt(object, format!("payload block {block} cannot be decompressed")).with_source(e);
    let mut raw = Vec::with_capacity(bytes.len().saturating_mul(8).min(1 << 20));
    DECODER.with_borrow_mut(|context| {
        // What was left of a block that could not be decompressed.
        let reset = context.reset(ResetDirective::SessionOnly);
        reset.map_err(|_| failed(std::io::Error::other("the decoder cannot be used again")))?;
        let decoder = zstd::stream::read::Decoder::with_context(bytes, context);
        decoder.take(BLOCK_BYTES + 1).read_to_end(&mut raw).map_err(failed)
    })?;
    if raw.len() as u64 > BLOCK_BYTES {
        return Err(Error::corrupt(object, format!("payload block {block} is too large")));
    }
    Ok(raw)
}

fn row(t: &mut Take<'_>, schema: &Schema) -> Result<Row> {
    let Head { id, times, expires_at, version } = head(t)?;
    let seq = t.signed()?;
    let row = i32::try_from(t.signed()?).map_err(|_| t.corrupt("a row number exceeds 32 bits"))?;
    let count = t.varint()?;
    let mut values: Vec<(usize, At)> = Vec::new();
    for _ in 0..count {
        let column = t.varint_u32()? as usize;
        if values.last().is_some_and(|(last, _)| *last >= column) {
            return Err(t.corrupt("the values of a row are out of order"));
        }
        let Some(kind) = schema.columns.get(column).map(|c| c.kind) else {
            let message = format!("the schema is stale: it has no column {column}");
            return Err(Error::new(Kind::Conflict, message).with_hint("read the manifest again"));
        };
        values.push((column, value(t, kind)?));
    }
    Ok(Row { id, times, expires_at, version, seq, row, values })
}

/// Passes over what follows the head of a row.
pub(super) fn skip_values(t: &mut Take<'_>) -> Result<()> {
    let (_seq, _row, count) = (t.signed()?, t.signed()?, t.varint()?);
    for _ in 0..count {
        let (_column, tag) = (t.varint_u32()?, t.u8()?);
        match tag {
            FALSE | TRUE => {}
            INT => drop(t.signed()?),
            FLOAT => drop(t.u64()?),
            STRING => drop(t.run()?),
            STRINGS => {
                for _ in 0..t.varint_u32()? {
                    t.run()?;
                }
            }
            tag => return Err(t.corrupt(format!("a value has tag {tag}"))),
        }
    }
    Ok(())
}

fn value(t: &mut Take<'_>, kind: ColumnType) -> Result<At> {
    Ok(match (t.u8()?, kind) {
        (FALSE, ColumnType::Boolean) => At::Bool(false),
        (TRUE, ColumnType::Boolean) => At::Bool(true),
        (INT, ColumnType::Int) => At::Int(t.signed()?),
        // Only a column of numbers that are exact as floats widens.
        (INT, ColumnType::Float) => At::Float(t.signed()? as f64),
        (FLOAT, ColumnType::Float) => At::Float(f64::from_bits(t.u64()?)),
        (STRING, ColumnType::String) => At::String(text(t)?),
        (STRINGS, ColumnType::Strings) => {
            let count = t.varint_u32()? as usize;
            At::Strings(t.many(count, 1, text)?)
        }
        (tag, kind) => {
            return Err(t.corrupt(format!("a value has tag {tag} in a column of {}", kind.as_str())));
        }
    })
}

impl PayloadRows {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn text(&self, range: &Range<usize>) -> &str {
        // Checked when the block was decoded; an empty text is unreachable.
        std::str::from_utf8(&self.bytes[range.clone()]).unwrap_or_default()
    }

    /// The id of row `i` of the block.
    pub fn id(&self, i: usize) -> &str {
        self.text(&self.rows[i].id)
    }

    /// Event time, creation and last write, in milliseconds.
    pub fn times(&self, i: usize) -> [i64; 3] {
        self.rows[i].times
    }

    /// After this instant the row is invisible.
    pub fn expires_at(&self, i: usize) -> Option<i64> {
        self.rows[i].expires_at
    }

    /// The client's own version.
    pub fn version(&self, i: usize) -> i64 {
        self.rows[i].version
    }

    /// Entry of the log and row of the entry.
    pub fn seq_row(&self, i: usize) -> (i64, i32) {
        (self.rows[i].seq, self.rows[i].row)
    }

    /// Position in the schema and value of each non-null metadata value.
    pub fn values(&self, i: usize) -> impl Iterator<Item = (usize, ValueAt<'_>)> {
        self.rows[i].values.iter().map(|(column, at)| (*column, self.value_at(at)))
    }

    /// The value of a column, or nothing when it is null.
    pub fn value(&self, i: usize, column: usize) -> Option<ValueAt<'_>> {
        let values = &self.rows[i].values;
        let at = values.binary_search_by_key(&column, |(c, _)| *c).ok()?;
        Some(self.value_at(&values[at].1))
    }

    fn value_at(&self, at: &At) -> ValueAt<'_> {
        match at {
            At::Bool(v) => ValueAt::Bool(*v),
            At::Int(v) => ValueAt::Int(*v),
            At::Float(v) => ValueAt::Float(*v),
            At::String(v) => ValueAt::String(self.text(v)),
            At::Strings(v) => ValueAt::Strings(v.iter().map(|r| self.text(r)).collect()),
        }
    }

    /// The non-null metadata of a row by key.
    pub fn metadata(&self, i: usize) -> BTreeMap<String, Value> {
        self.values(i).map(|(c, v)| (self.schema.columns[c].name.clone(), v.to_value())).collect()
    }

    /// Rows of the block as a batch with [`payload_schema`](super::payload_schema).
    pub fn to_batch(&self, rows: &[usize]) -> Result<RecordBatch> {
        let mut batch = PayloadBatch::new(&self.schema);
        rows.iter().for_each(|i| batch.push(self, *i));
        batch.finish()
    }
}

impl ValueAt<'_> {
    /// Copies the value.
    pub fn to_value(&self) -> Value {
        match self {
            ValueAt::Bool(v) => Value::Bool(*v),
            ValueAt::Int(v) => Value::Int(*v),
            ValueAt::Float(v) => Value::Float(*v),
            ValueAt::String(v) => Value::String((*v).to_owned()),
            ValueAt::Strings(v) => Value::Strings(v.iter().map(|s| (*s).to_owned()).collect()),
        }
    }
}
