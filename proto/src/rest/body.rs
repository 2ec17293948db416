//! JSON bodies: what is wrong with one is said by the path of the field.

use std::fmt;
use std::marker::PhantomData;

use esker_format::{Error, limits};
use serde::de::{Deserialize, DeserializeOwned, Deserializer, SeqAccess, Visitor};

/// Reads a JSON object.
///
/// # Errors
/// Invalid, naming the field by its path (`records[3].vector[0]`) and what is expected there.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    // A list would do for any object: serde takes its items for the fields in order.
    match bytes.iter().find(|b| !b.is_ascii_whitespace()) {
        Some(b'{') => {}
        None => return Err(Error::invalid("body", "the body is empty, it must be a JSON object")),
        Some(_) => return Err(Error::invalid("body", "the body is not a JSON object")),
    }
    match serde_json::from_slice(bytes) {
        Ok(value) => Ok(value),
        // Following the path costs time, which only wrong bodies take.
        Err(e) => Err(explain::<T>(bytes, &e)),
    }
}

fn explain<T: DeserializeOwned>(bytes: &[u8], plain: &serde_json::Error) -> Error {
    if !plain.is_data() {
        return Error::invalid("body", format!("the body is not JSON: {plain}"));
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let Err(e) = serde_path_to_error::deserialize::<_, T>(&mut reader) else {
        return Error::invalid("body", plain.to_string());
    };
    said(e.path(), e.inner())
}

/// What is wrong with the value at a path.
pub(super) fn said(path: &serde_path_to_error::Path, inner: &serde_json::Error) -> Error {
    let path = match path.to_string() {
        path if path == "." => String::new(),
        path => path,
    };
    let message = inner.to_string();
    let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message);
    match message.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`')) {
        Some((name, expected)) => {
            let field = inside(&path, name);
            let error = Error::invalid(&field, format!("unknown field `{name}`"));
            let expected = expected.trim_start_matches(", expected").trim().trim_start_matches("one of ");
            match expected.is_empty() || expected.starts_with("there are no") {
                true => error,
                false => error.with_hint(format!("fields are {}", expected.replace('`', ""))),
            }
        }
        None => {
            let field = match message.strip_prefix("missing field `").and_then(|m| m.strip_suffix('`')) {
                Some(name) => inside(&path, name),
                None if path.is_empty() => "body".to_owned(),
                None => path,
            };
            Error::invalid(field, message)
        }
    }
}

/// The path of a field inside the object at `path`, which may name the field already.
fn inside(path: &str, name: &str) -> String {
    match path {
        "" => name.to_owned(),
        path if path == name || path.ends_with(&format!(".{name}")) => path.to_owned(),
        path => format!("{path}.{name}"),
    }
}

/// A list of at most a batch's records: one that is longer is not read to its end, since a record of a few bytes of text
/// takes a hundred times as many in memory. For `#[serde(deserialize_with)]`.
///
/// # Errors
/// For a list that is longer.
pub fn batch<'de, T: Deserialize<'de>, D: Deserializer<'de>>(d: D) -> Result<Vec<T>, D::Error> {
    d.deserialize_seq(Batch(PhantomData))
}

/// As [`batch`], of a list that may be left out.
///
/// # Errors
/// For a list that is longer.
pub fn some_batch<'de, T: Deserialize<'de>, D: Deserializer<'de>>(d: D) -> Result<Option<Vec<T>>, D::Error> {
    struct Given<T>(Vec<T>);
    impl<'de, T: Deserialize<'de>> Deserialize<'de> for Given<T> {
        fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
            batch(d).map(Given)
        }
    }
    Ok(Option::deserialize(d)?.map(|Given(list)| list))
}

struct Batch<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Batch<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a sequence")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = seq.next_element()? {
            if list.len() == limits::BATCH_ROWS {
                let message =
                    format!("the list has more than {} items, which is the limit", limits::BATCH_ROWS);
                return Err(serde::de::Error::custom(message));
            }
            list.push(item);
        }
        Ok(list)
    }
}
