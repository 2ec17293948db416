//! Finds the end of a record of a writer schema before apache-avro makes a tree of it: it allocates what lengths and counts
//! announce, so they must be true, and the tree must not be much larger than the bytes it comes from.

use std::collections::HashMap;

use apache_avro::Schema as Avro;
use apache_avro::schema::{InnerDecimalSchema, UuidSchema};

use crate::avro::cursor::{Cursor, Wrong};

/// What a node of a tree takes, without its text.
const NODE_BYTES: usize = 64;
/// What the tree of a record may take whatever its bytes are, …
const TREE_BYTES: usize = 1 << 20;
/// … and for each of them. A null in a union is two nodes in one byte.
const BYTES_PER_BYTE: usize = 192;

/// Named types of a schema, by simple name as in the check of its cost.
pub(super) type Named<'s> = HashMap<&'s str, &'s Avro>;

/// The types that a reference of `schema` may name.
pub(super) fn named(schema: &Avro) -> Named<'_> {
    let mut out = Named::new();
    collect(schema, &mut out);
    out
}

fn collect<'s>(schema: &'s Avro, out: &mut Named<'s>) {
    if let (Some(name), false) = (schema.name(), matches!(schema, Avro::Ref { .. })) {
        out.insert(name.name(), schema);
    }
    match schema {
        Avro::Array(a) => collect(&a.items, out),
        Avro::Map(m) => collect(&m.types, out),
        Avro::Union(u) => u.variants().iter().for_each(|variant| collect(variant, out)),
        Avro::Record(r) => r.fields.iter().for_each(|field| collect(&field.schema, out)),
        _ => {}
    }
}

/// The number of bytes of the record at the start of `bytes`.
pub(super) fn record(schema: &Avro, named: &Named<'_>, bytes: &[u8]) -> Result<usize, Wrong> {
    let mut skip = Skip { named, cursor: Cursor::new(bytes), length: bytes.len(), tree: 0 };
    skip.value(schema)?;
    Ok(skip.read())
}

struct Skip<'a> {
    named: &'a Named<'a>,
    cursor: Cursor<'a>,
    length: usize,
    /// What the tree so far takes.
    tree: usize,
}

impl Skip<'_> {
    fn read(&self) -> usize {
        self.length - self.cursor.rest.len()
    }

    /// Counts a node and a text that it repeats from the schema.
    fn node(&mut self, text: usize) -> Result<(), Wrong> {
        self.tree += NODE_BYTES + text;
        match self.tree > TREE_BYTES + BYTES_PER_BYTE * self.read() {
            true => Err("its schema makes much of few bytes"),
            false => Ok(()),
        }
    }

    fn value(&mut self, schema: &Avro) -> Result<(), Wrong> {
        self.node(0)?;
        match schema {
            Avro::Null => {}
            Avro::Boolean => _ = self.cursor.boolean()?,
            Avro::Int | Avro::Date | Avro::TimeMillis => _ = self.cursor.int()?,
            Avro::Long
            | Avro::TimeMicros
            | Avro::TimestampMillis
            | Avro::TimestampMicros
            | Avro::TimestampNanos
            | Avro::LocalTimestampMillis
            | Avro::LocalTimestampMicros
            | Avro::LocalTimestampNanos => _ = self.cursor.long()?,
            Avro::Float => _ = self.cursor.float()?,
            Avro::Double => _ = self.cursor.double()?,
            Avro::Bytes | Avro::String | Avro::BigDecimal => _ = self.cursor.bytes()?,
            Avro::Uuid(UuidSchema::Bytes | UuidSchema::String) => _ = self.cursor.bytes()?,
            Avro::Fixed(f) | Avro::Duration(f) | Avro::Uuid(UuidSchema::Fixed(f)) => {
                _ = self.cursor.take(f.size)?
            }
            Avro::Decimal(d) => match &d.inner {
                InnerDecimalSchema::Bytes => _ = self.cursor.bytes()?,
                InnerDecimalSchema::Fixed(f) => _ = self.cursor.take(f.size)?,
            },
            Avro::Enum(e) => {
                let at = usize::try_from(self.cursor.int()?).ok().and_then(|at| e.symbols.get(at));
                self.node(at.ok_or("an enum has no such symbol")?.len())?;
            }
            Avro::Array(a) => self.items(|skip| skip.value(&a.items))?,
            Avro::Map(m) => self.items(|skip| {
                skip.cursor.bytes()?;
                skip.node(0)?;
                skip.value(&m.types)
            })?,
            Avro::Union(u) => {
                let at = usize::try_from(self.cursor.long()?).ok();
                let variant = at.and_then(|at| u.variants().get(at));
                self.value(variant.ok_or("a union has no such type")?)?;
            }
            Avro::Record(r) => {
                for field in &r.fields {
                    self.node(field.name.len())?;
                    self.value(&field.schema)?;
                }
            }
            Avro::Ref { name } => {
                let schema = self.named.get(name.name()).copied();
                self.value(schema.ok_or("a type is referred to that is not there")?)?;
            }
        }
        Ok(())
    }

    /// The items of an array or a map, each of which takes a byte or more.
    fn items(&mut self, mut item: impl FnMut(&mut Self) -> Result<(), Wrong>) -> Result<(), Wrong> {
        loop {
            let count = self.cursor.count()?;
            if count == 0 {
                return Ok(());
            }
            if count > self.cursor.rest.len() as u64 {
                return Err("more items are announced than bytes are left");
            }
            for _ in 0..count {
                item(self)?;
            }
        }
    }
}
