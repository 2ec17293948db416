//! A JSON body of records that is too long to be held: each record is given away as it is read.

use std::fmt;
use std::io::Read;
use std::marker::PhantomData;

use esker_format::Error;
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_path_to_error::Track;

use super::body::said;

/// Reads `{"records": […]}` to its end and gives each item to `take`.
///
/// # Errors
/// Invalid as of [`super::parse`], naming `records[i].field`; what `take` said.
pub fn each_record<T: DeserializeOwned>(
    reader: impl Read,
    take: &mut dyn FnMut(T) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut refused = None;
    let mut json = serde_json::Deserializer::from_reader(reader);
    let mut track = Track::new();
    let seed = Whole(Records { take, refused: &mut refused, kind: PhantomData });
    let read = seed.deserialize(serde_path_to_error::Deserializer::new(&mut json, &mut track));
    let wrong = match read.and_then(|()| json.end()) {
        Ok(()) => return Ok(()),
        Err(e) => e,
    };
    Err(match refused {
        Some(refused) => refused,
        None if wrong.is_data() => said(&track.path(), &wrong),
        None => Error::invalid("body", format!("the body is not JSON: {wrong}")),
    })
}

/// The list.
struct Records<'t, T> {
    take: &'t mut dyn FnMut(T) -> Result<(), Error>,
    /// What `take` said, which is no error of serde's.
    refused: &'t mut Option<Error>,
    kind: PhantomData<T>,
}

/// The object around it.
struct Whole<'t, T>(Records<'t, T>);

impl<'de, T: DeserializeOwned> DeserializeSeed<'de> for Whole<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de, T: DeserializeOwned> Visitor<'de> for Whole<'_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `records`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut list = Some(self.0);
        while let Some(key) = map.next_key::<String>()? {
            match (key.as_str(), list.take()) {
                ("records", Some(records)) => map.next_value_seed(records)?,
                ("records", None) => return Err(de::Error::duplicate_field("records")),
                (name, _) => return Err(de::Error::unknown_field(name, &["records"])),
            }
        }
        match list {
            None => Ok(()),
            Some(_) => Err(de::Error::missing_field("records")),
        }
    }
}

impl<'de, T: DeserializeOwned> DeserializeSeed<'de> for Records<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_seq(self)
    }
}

impl<'de, T: DeserializeOwned> Visitor<'de> for Records<'_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a sequence")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(record) = seq.next_element()? {
            if let Err(e) = (self.take)(record) {
                *self.refused = Some(e);
                return Err(de::Error::custom("refused"));
            }
        }
        Ok(())
    }
}
