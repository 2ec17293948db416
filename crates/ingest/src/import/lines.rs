//! NDJSON: one object a line.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::io::{BufRead, Read};

use esker_format::record::{RecordRef, Value};
use esker_format::{Error, Result, limits};
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value as Json;

use super::convert::parse_vector;
use super::infer::{FIELDS, Inference};
use super::sample::SAMPLE_ROWS;
use crate::batch::{Batcher, Cut};

/// Longest line: what a batch can hold, written at length.
const LINE_BYTES: u64 = 4 * limits::BATCH_BYTES as u64;

/// Reads lines that hold something.
pub(crate) struct Lines<R> {
    reader: R,
    buffer: Vec<u8>,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    pub(crate) fn new(reader: R) -> Self {
        Lines::after(reader, 0)
    }

    /// As if so many had been read.
    pub(crate) fn after(reader: R, lines: u64) -> Self {
        Lines { reader, buffer: Vec::new(), number: lines }
    }

    /// The next line with its number, from 1.
    pub(crate) fn next(&mut self) -> Result<Option<(u64, &[u8])>> {
        loop {
            self.buffer.clear();
            self.number += 1;
            let read = (&mut self.reader)
                .take(LINE_BYTES)
                .read_until(b'\n', &mut self.buffer)
                .map_err(|e| super::file::unreadable(e, "line", self.number))?;
            if read == 0 {
                return Ok(None);
            }
            if read as u64 == LINE_BYTES && self.buffer.last() != Some(&b'\n') {
                let message = format!("line {} has more than {LINE_BYTES} bytes", self.number);
                return Err(Error::invalid("file", message));
            }
            if self.number == 1 && self.buffer.starts_with(b"\xef\xbb\xbf") {
                self.buffer.drain(..3);
            }
            if !self.buffer.trim_ascii().is_empty() {
                break;
            }
        }
        Ok(Some((self.number, self.buffer.trim_ascii())))
    }
}

/// The first lines, each as its members in order.
pub(crate) fn sample(reader: impl BufRead) -> Result<Vec<Vec<(String, Json)>>> {
    let (mut lines, mut out) = (Lines::new(reader), Vec::new());
    while out.len() < SAMPLE_ROWS
        && let Some((number, line)) = lines.next()?
    {
        let mut json = serde_json::Deserializer::from_slice(line);
        let members = json
            .deserialize_map(Members)
            .and_then(|members| json.end().map(|()| members))
            .map_err(|e| bad_line(out.len() as u64, number, &e))?;
        out.push(members);
    }
    Ok(out)
}

/// Encodes every line, giving each cut to `emit`.
///
/// # Errors
/// Invalid, with `records[i]` counted over the file and the line named in the message.
pub(crate) fn encode(
    reader: impl BufRead,
    inference: &Inference,
    batcher: &mut Batcher,
    emit: &mut dyn FnMut(Cut) -> Result<()>,
) -> Result<()> {
    let roles = Roles::new(inference);
    let mut lines = Lines::new(reader);
    while let Some((number, line)) = lines.next()? {
        let at = batcher.next_row();
        let mut json = serde_json::Deserializer::from_slice(line);
        let row = roles
            .deserialize(&mut json)
            .and_then(|row| json.end().map(|()| row))
            .map_err(|e| bad_line(at, number, &e))?;
        let missing = |field: &str| {
            Err(Error::invalid(
                format!("records[{at}].{field}"),
                format!("line {number}: there is no {field}"),
            ))
        };
        let id = match (row.id, &inference.id_column) {
            (Some(id), _) => id,
            (None, None) => at.to_string(),
            (None, Some(_)) => return missing("id"),
        };
        let Some(vector) = row.vector else { return missing("vector") };
        let metadata: Vec<_> = row.metadata.iter().map(|(k, v)| (k.as_ref(), v.as_ref())).collect();
        let record = RecordRef {
            id: &id,
            vector: &vector,
            metadata: &metadata,
            timestamp: row.fields[0].unwrap_or(0),
            created_at: row.fields[1].unwrap_or(0),
            expires_at: row.fields[2],
            version: row.fields[3].unwrap_or(1),
            ..RecordRef::default()
        };
        if let Some(cut) = batcher.record(&record)? {
            emit(cut)?;
        }
    }
    Ok(())
}

fn bad_line(row: u64, number: u64, e: &serde_json::Error) -> Error {
    let text = e.to_string();
    // serde_json sees each line as a text of its own; only the column means anything.
    let message = match text.rsplit_once(" at line 1 column ") {
        Some((what, column)) => format!("line {number}: {what} (character {column})"),
        None => format!("line {number}: {text}"),
    };
    Error::invalid(format!("records[{row}]"), message)
}

/// What to do with each member.
struct Roles<'i> {
    by_name: HashMap<&'i str, Role>,
}

#[derive(Clone, Copy)]
enum Role {
    Id,
    Vector,
    Field(usize),
    Skip,
}

impl<'i> Roles<'i> {
    fn new(inference: &'i Inference) -> Self {
        let mut by_name: HashMap<&str, Role> =
            FIELDS.iter().enumerate().map(|(at, name)| (*name, Role::Field(at))).collect();
        by_name.extend(inference.skipped.iter().map(|name| (name.as_str(), Role::Skip)));
        by_name.extend(inference.id_column.as_deref().map(|name| (name, Role::Id)));
        by_name.insert(&inference.vector_column, Role::Vector);
        Roles { by_name }
    }
}

#[derive(Default)]
struct Row<'de> {
    id: Option<String>,
    vector: Option<Vec<f32>>,
    metadata: Vec<(Cow<'de, str>, Value)>,
    fields: [Option<i64>; 4],
}

impl<'de> DeserializeSeed<'de> for &Roles<'_> {
    type Value = Row<'de>;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Row<'de>, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &Roles<'_> {
    type Value = Row<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Row<'de>, A::Error> {
        let mut row = Row::default();
        while let Some(Text(key)) = map.next_key()? {
            let role = self.by_name.get(key.as_ref()).copied();
            let read = match role {
                Some(Role::Id) => map.next_value::<Id>().map(|v| row.id = v.0),
                Some(Role::Vector) => map.next_value::<Vector>().map(|v| row.vector = v.0),
                Some(Role::Field(at)) => map.next_value().map(|v| row.fields[at] = v),
                Some(Role::Skip) => map.next_value::<IgnoredAny>().map(drop),
                None => map.next_value::<Value>().map(|v| {
                    if v != Value::Null {
                        row.metadata.push((key.clone(), v));
                    }
                }),
            };
            read.map_err(|e| de::Error::custom(format_args!("column `{key}`: {e}")))?;
        }
        Ok(row)
    }
}

/// A key, borrowed from the line unless it has escapes.
struct Text<'de>(Cow<'de, str>);

impl<'de> de::Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_str<E>(self, v: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(v)))
            }
            fn visit_str<E>(self, v: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(v.to_owned())))
            }
        }
        d.deserialize_str(V)
    }
}

/// An id: text or a whole number.
struct Id(Option<String>);

impl<'de> de::Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match Value::deserialize(d)? {
            Value::String(s) => Ok(Id(Some(s))),
            Value::Int(v) => Ok(Id(Some(v.to_string()))),
            Value::Null => Ok(Id(None)),
            _ => Err(de::Error::custom("an id is text or a whole number")),
        }
    }
}

/// A vector: an array of numbers, or a text that is one.
struct Vector(Option<Vec<f32>>);

impl<'de> de::Deserialize<'de> for Vector {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Vector;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of numbers")
            }
            fn visit_unit<E>(self) -> Result<Vector, E> {
                Ok(Vector(None))
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Vector, E> {
                parse_vector(v).map(|v| Vector(Some(v))).map_err(E::custom)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vector, A::Error> {
                let mut out = Vec::with_capacity(items.size_hint().unwrap_or(512));
                while let Some(v) = items.next_element()? {
                    out.push(v);
                }
                Ok(Vector(Some(out)))
            }
        }
        d.deserialize_any(V)
    }
}

/// The members of an object in order.
struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Vec<(String, Json)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut out = Vec::new();
        while let Some(member) = map.next_entry()? {
            out.push(member);
        }
        Ok(out)
    }
}
