//! Containers of another writer schema: resolved by Avro's rules and written again in ours.
//!
//! The schema is resolved field by field (apache-avro's compatibility rules), so that a refusal names the field;
//! values are then read through apache-avro's value trees. A schema that could make a small file cost much (recursive,
//! exploding by repetition, arrays of items of no bytes) is refused before a value is read.

use std::collections::HashMap;

use apache_avro::Schema as Avro;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::schema_compatibility::SchemaCompatibility;
use apache_avro::types::Value as Tree;
use bytes::Bytes;

use super::container::{Block, Container};
use super::walk::{Fault, invalid};
use crate::error::{Error, Result};
use crate::record::{FINGERPRINT, Record, SCHEMA, Value, fingerprint};

mod skip;

/// Types that one record of a writer schema may have, references followed.
const SCHEMA_WEIGHT: u32 = 4_096;
/// Types within types.
const SCHEMA_DEPTH: u32 = 16;
/// What apache-avro may allocate for one value.
const VALUE_BYTES: usize = 64 << 20;

/// The blocks of a container in our schema, uncompressed. Blocks that are so already are kept byte for byte.
///
/// # Errors
/// Invalid, naming the field that cannot be resolved, or when a block has more than `limit` bytes.
pub fn normalise(container: &Container, limit: usize) -> Result<Vec<Block>> {
    let normaliser = Normaliser::new(&container.schema_json)?;
    let (mut out, mut bytes, mut rows) = (Vec::with_capacity(container.blocks.len()), 0, 0);
    for block in &container.blocks {
        let data = container.codec.decompress(block, limit - bytes)?;
        let block = normaliser.block(&Block { rows: block.rows, data }, rows)?;
        rows = rows.saturating_add(block.rows);
        bytes += block.data.len();
        if bytes > limit {
            return Err(Error::invalid("records", format!("more than {limit} bytes, which is the limit")));
        }
        out.push(block);
    }
    Ok(out)
}

/// Brings blocks of one writer schema into ours.
#[derive(Debug)]
pub struct Normaliser {
    /// `None` for our own schema.
    writer: Option<Avro>,
}

impl Normaliser {
    /// Resolves the writer schema against ours.
    ///
    /// # Errors
    /// Invalid, naming the field of ours that the schema lacks or has with a type that cannot be read.
    pub fn new(schema_json: &str) -> Result<Self> {
        if schema_json == SCHEMA || fingerprint(schema_json)? == FINGERPRINT {
            return Ok(Normaliser { writer: None });
        }
        let parse = |json| Avro::parse_str(json).map_err(|e| Error::invalid("avro.schema", e.to_string()));
        let writer = parse(schema_json)?;
        check_cost(&writer)?;
        check_fields(&writer, &parse(SCHEMA)?)?;
        Ok(Normaliser { writer: Some(writer) })
    }

    /// Whether blocks are kept as they are.
    pub fn keeps_bytes(&self) -> bool {
        self.writer.is_none()
    }

    /// One uncompressed block. `first_row` is the number of its first record, for messages.
    pub fn block(&self, block: &Block, first_row: u64) -> Result<Block> {
        let Some(writer) = &self.writer else { return Ok(block.clone()) };
        apache_avro::util::max_allocation_bytes(VALUE_BYTES);
        let undecodable = |row: u64, e: apache_avro::Error| {
            Error::invalid(format!("records[{row}]"), format!("it cannot be decoded by its Avro schema: {e}"))
        };
        let reader = GenericDatumReader::builder(writer).build().map_err(|e| undecodable(first_row, e))?;
        let named = skip::named(writer);
        let (mut rest, mut out) = (&block.data[..], Vec::with_capacity(block.data.len()));
        for row in first_row..first_row.saturating_add(block.rows) {
            let broken = |what: &str| {
                let message = format!("it cannot be decoded by its Avro schema: {what}");
                Error::invalid(format!("records[{row}]"), message)
            };
            let length = skip::record(writer, &named, rest).map_err(broken)?;
            let (mut own, after) = rest.split_at(length);
            rest = after;
            let tree = reader.read_value(&mut own).map_err(|e| undecodable(row, e))?;
            if !own.is_empty() {
                return Err(broken("its length is not that of its fields"));
            }
            record(tree).map_err(|fault| invalid(row, &fault))?.encode(&mut out);
        }
        if !rest.is_empty() {
            return Err(Error::invalid("records", format!("{} bytes follow the last record", rest.len())));
        }
        Ok(Block { rows: block.rows, data: Bytes::from(out) })
    }
}

fn check_fields(writer: &Avro, ours: &Avro) -> Result<()> {
    let (Avro::Record(writer), Avro::Record(ours)) = (writer, ours) else {
        return Err(Error::invalid("avro.schema", "it is not the schema of a record"));
    };
    for field in &ours.fields {
        let Some(theirs) = writer.fields.iter().find(|f| f.name == field.name) else {
            if field.default.is_some() {
                continue;
            }
            return Err(Error::invalid(
                &field.name,
                "the writer schema lacks this field, which has no default",
            ));
        };
        if SchemaCompatibility::can_read(&theirs.schema, &field.schema).is_err() {
            let message = format!(
                "the writer schema's {} cannot be read as {}",
                name(&theirs.schema),
                name(&field.schema)
            );
            return Err(Error::invalid(&field.name, message));
        }
    }
    Ok(())
}

/// A type in words.
fn name(schema: &Avro) -> String {
    match schema {
        Avro::Array(a) => format!("array of {}", name(&a.items)),
        Avro::Map(m) => format!("map of {}", name(&m.types)),
        Avro::Union(u) => format!("[{}]", u.variants().iter().map(name).collect::<Vec<_>>().join(", ")),
        other => other.to_string().to_lowercase(),
    }
}

/// Refuses a schema of which a small file may cost much, for whoever reads its values in another way. One that only others
/// can parse is left to them.
///
/// # Errors
/// Invalid, saying what it has.
pub fn check_schema(schema_json: &str) -> Result<()> {
    Avro::parse_str(schema_json).map_or(Ok(()), |schema| check_cost(&schema))
}

fn check_cost(schema: &Avro) -> Result<()> {
    let refuse = |m| Error::invalid("avro.schema", m);
    match Cost::default().of(schema, 0).map_err(refuse)? {
        Size { weight, .. } if weight <= SCHEMA_WEIGHT => Ok(()),
        _ => Err(refuse("it has more types than can be read")),
    }
}

/// What reading a value of a type takes.
#[derive(Debug, Clone, Copy)]
struct Size {
    /// Types visited, references followed.
    weight: u32,
    /// Whether a value may have no bytes at all.
    empty: bool,
}

/// Sizes of the named types defined so far. A reference to a type that is not among them is a recursion.
#[derive(Default)]
struct Cost {
    named: HashMap<String, Size>,
}

impl Cost {
    fn of(&mut self, schema: &Avro, depth: u32) -> Result<Size, &'static str> {
        if depth > SCHEMA_DEPTH {
            return Err("its types are nested too deeply");
        }
        let mut size = Size { weight: 1, empty: matches!(schema, Avro::Null) };
        match schema {
            Avro::Array(a) => {
                let items = self.of(&a.items, depth + 1)?;
                if items.empty {
                    return Err("it has an array whose items take no bytes");
                }
                size.weight = size.weight.saturating_add(items.weight);
            }
            Avro::Map(m) => size.weight = size.weight.saturating_add(self.of(&m.types, depth + 1)?.weight),
            Avro::Union(u) => {
                for variant in u.variants() {
                    size.weight = size.weight.saturating_add(self.of(variant, depth + 1)?.weight);
                }
            }
            Avro::Record(r) => {
                size.empty = true;
                for field in &r.fields {
                    let of = self.of(&field.schema, depth + 1)?;
                    size.weight = size.weight.saturating_add(of.weight);
                    size.empty &= of.empty;
                }
            }
            Avro::Fixed(f) => size.empty = f.size == 0,
            Avro::Ref { name } => return self.named.get(name.name()).copied().ok_or("it is recursive"),
            _ => {}
        }
        if let Some(name) = schema.name() {
            // By simple name: of two types of one name in different namespaces the larger counts.
            let known = self.named.get(name.name()).copied().unwrap_or(size);
            let size = Size { weight: known.weight.max(size.weight), empty: known.empty | size.empty };
            self.named.insert(name.name().to_owned(), size);
        }
        Ok(size)
    }
}

/// A record of ours from a tree of any schema that [`check_fields`] passed. Fields that are not ours are dropped.
fn record(tree: Tree) -> Result<Record, Fault> {
    let Tree::Record(fields) = tree else { return Err(Fault::new("id", "it is not a record")) };
    let mut out = Record::default();
    for (name, value) in fields {
        let value = plain(value);
        let wrong = || Fault::new(&name, "the value cannot be read as this field's type");
        match name.as_str() {
            "id" => out.id = text(value).ok_or_else(wrong)?,
            "collection_id" => out.collection_id = text(value).ok_or_else(wrong)?,
            "vector" => out.vector = floats(value).ok_or_else(wrong)?,
            "metadata" => {
                let Tree::Map(entries) = value else { return Err(wrong()) };
                for (key, value) in entries {
                    let nested =
                        || Fault::of_key(&key, "nested values and values of this type are not supported");
                    let value = metadata(plain(value)).ok_or_else(nested)?;
                    out.metadata.insert(key, value);
                }
            }
            "timestamp" => out.timestamp = millis(value).ok_or_else(wrong)?,
            "created_at" => out.created_at = millis(value).ok_or_else(wrong)?,
            "updated_at" => out.updated_at = millis(value).ok_or_else(wrong)?,
            "expires_at" if matches!(value, Tree::Null) => out.expires_at = None,
            "expires_at" => out.expires_at = Some(millis(value).ok_or_else(wrong)?),
            "version" => out.version = whole(&value).ok_or_else(wrong)?,
            "rank" | "score" | "distance" if !matches!(value, Tree::Null) => {
                return Err(Fault::new(name, "this field is set in results and must be null in writes"));
            }
            _ => {}
        }
    }
    Ok(out)
}

/// The value without the unions around it.
fn plain(mut value: Tree) -> Tree {
    while let Tree::Union(_, inner) = value {
        value = *inner;
    }
    value
}

fn text(value: Tree) -> Option<String> {
    match value {
        Tree::String(s) => Some(s),
        Tree::Bytes(b) => String::from_utf8(b).ok(),
        Tree::Uuid(u) => Some(u.to_string()),
        _ => None,
    }
}

/// Whole numbers, those of logical types in their own unit.
fn whole(value: &Tree) -> Option<i64> {
    match *value {
        Tree::Int(v) | Tree::Date(v) | Tree::TimeMillis(v) => Some(v.into()),
        Tree::Long(v)
        | Tree::TimeMicros(v)
        | Tree::TimestampMillis(v)
        | Tree::TimestampMicros(v)
        | Tree::TimestampNanos(v)
        | Tree::LocalTimestampMillis(v)
        | Tree::LocalTimestampMicros(v)
        | Tree::LocalTimestampNanos(v) => Some(v),
        _ => None,
    }
}

/// Times in our unit, if the writer schema says which one they have.
fn millis(value: Tree) -> Option<i64> {
    match value {
        Tree::TimestampMicros(v) | Tree::LocalTimestampMicros(v) => Some(v.div_euclid(1_000)),
        Tree::TimestampNanos(v) | Tree::LocalTimestampNanos(v) => Some(v.div_euclid(1_000_000)),
        other => whole(&other),
    }
}

fn floats(value: Tree) -> Option<Vec<f32>> {
    let Tree::Array(items) = value else { return None };
    let float = |v| match plain(v) {
        Tree::Float(v) => Some(v),
        other => whole(&other).map(|v| v as f32),
    };
    items.into_iter().map(float).collect()
}

fn metadata(value: Tree) -> Option<Value> {
    Some(match value {
        Tree::Null => Value::Null,
        Tree::Boolean(v) => Value::Bool(v),
        Tree::Float(v) => Value::Float(v.into()),
        Tree::Double(v) => Value::Float(v),
        Tree::Array(items) => {
            Value::Strings(items.into_iter().map(|v| text(plain(v))).collect::<Option<_>>()?)
        }
        other => match whole(&other) {
            Some(v) => Value::Int(v),
            None => Value::String(text(other)?),
        },
    })
}

#[cfg(test)]
mod tests;
