//! What a write says, as one number: it tells the retry of a write from another one under the same name.

use std::fmt;

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::encode::branch;
use super::walk::{Fields, Item};
use crate::id::Content;
use crate::record::ValueRef;

/// Adds up what a write says. Of records: what validation keeps of them, so that their encoding does not matter.
#[derive(Clone)]
pub struct Contents {
    hash: Xxh3,
    /// Sum over the metadata entries of the record, which have no order.
    entries: u64,
    scratch: Vec<u8>,
}

impl Contents {
    /// Nothing yet, of a write of this kind.
    pub fn new(kind: &str) -> Self {
        let mut contents = Contents { hash: Xxh3::new(), entries: 0, scratch: Vec::new() };
        contents.text(kind);
        contents
    }

    /// The next part is this text.
    pub fn text(&mut self, text: &str) {
        self.number(text.len() as i64);
        self.hash.update(text.as_bytes());
    }

    /// The next part is this number.
    pub fn number(&mut self, number: i64) {
        self.hash.update(&number.to_le_bytes());
    }

    /// The next part is this number, or that there is none.
    pub fn optional(&mut self, number: Option<i64>) {
        self.hash.update(&[u8::from(number.is_some())]);
        self.number(number.unwrap_or(0));
    }

    /// The next part is this metadata value; a null counts.
    pub fn value(&mut self, key: &str, value: ValueRef<'_>) {
        self.text(key);
        match value {
            ValueRef::Null => self.number(branch::NULL),
            ValueRef::Bool(v) => [branch::BOOLEAN, i64::from(v)].into_iter().for_each(|n| self.number(n)),
            ValueRef::Int(v) => [branch::LONG, v].into_iter().for_each(|n| self.number(n)),
            ValueRef::Float(v) => {
                [branch::DOUBLE, v.to_bits() as i64].into_iter().for_each(|n| self.number(n));
            }
            ValueRef::String(v) => {
                self.number(branch::STRING);
                self.text(v);
            }
            ValueRef::Strings(items) => {
                [branch::STRINGS, items.len() as i64].into_iter().for_each(|n| self.number(n));
                items.iter().for_each(|item| self.text(item));
            }
        }
    }

    /// The next part is these elements of a vector, whose number is known otherwise.
    pub fn vector(&mut self, little_endian: &[u8]) {
        self.hash.update(little_endian);
    }

    /// One metadata entry of the record; [`Contents::fields`] ends them.
    pub(super) fn entry(&mut self, key: &str, value: Item<'_>) {
        let out = &mut self.scratch;
        out.clear();
        put(out, key.as_bytes());
        match value {
            // The same as leaving out the key.
            Item::Null => return,
            Item::Bool(v) => out.extend([branch::BOOLEAN as u8, u8::from(v)]),
            Item::Int(v) => {
                out.push(branch::LONG as u8);
                out.extend(v.to_le_bytes());
            }
            Item::Float(v) => {
                out.push(branch::DOUBLE as u8);
                out.extend(v.to_le_bytes());
            }
            Item::String(v) => {
                out.push(branch::STRING as u8);
                out.extend(v.as_bytes());
            }
            Item::Strings(items) => {
                out.push(branch::STRINGS as u8);
                items.for_each(|item| put(out, item.as_bytes()));
            }
        }
        self.entries = self.entries.wrapping_add(xxh3_64(out));
    }

    /// The end of a record, after its vector and its entries. What replaces a field, or says nothing, is left out.
    pub(super) fn fields(&mut self, fields: &Fields<'_>) {
        let entries = std::mem::take(&mut self.entries);
        self.number(entries as i64);
        self.text(fields.id);
        self.number(fields.timestamp);
        self.number(fields.created_at);
        self.optional(fields.expires_at);
        self.number(fields.version);
    }

    /// What it came to.
    pub fn finish(&self) -> Content {
        Content(self.hash.digest())
    }
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u64).to_le_bytes());
    out.extend(bytes);
}

impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.finish(), f)
    }
}
