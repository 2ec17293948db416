//! Identities: tokens, collection names and ids, and the hashes of record ids.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128};

use crate::error::{Error, Result};
use crate::limits;

/// Position of an entry in a collection's log. Dense, from 1; 0 means "before the first".
pub type Seq = u64;
/// Number of a manifest in a collection's register. Dense, from 1.
pub type Version = u64;

/// 128 random bits that name one attempt to write something; 32 lowercase hex digits as text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u128);

/// The first two bytes of a drawn token.
const DRAWN: u128 = 0xE5CE;

impl Token {
    /// A token for a batch that its caller gave none: it tells when it was drawn, so that a collection which forgets such
    /// tokens by age can still tell what it may have forgotten. 64 of `bits` are taken.
    pub fn drawn(bits: u128, now_ms: i64) -> Self {
        let ms = u128::try_from(now_ms).unwrap_or(0) & 0xFFFF_FFFF_FFFF;
        Token(DRAWN << 112 | ms << 64 | bits & u128::from(u64::MAX))
    }

    /// When it was drawn, by the clock of its writer, in milliseconds since the epoch; `None` of another token.
    pub fn drawn_ms(self) -> Option<i64> {
        let ms = (self.0 >> 64) as i64 & 0xFFFF_FFFF_FFFF;
        (self.0 >> 112 == DRAWN).then_some(ms)
    }

    /// A token for a caller's idempotency key: equal keys give equal tokens, and none gives a drawn one.
    pub fn of_key(key: &[u8]) -> Self {
        let hash = xxh3_128(key);
        Token(if hash >> 112 == DRAWN { !hash } else { hash })
    }

    /// The token that a client's text stands for: itself if it is one (32 lowercase hex digits, as in an error's
    /// `token`), else [`Token::of_key`] of its bytes. Two texts that are not tokens never stand for one by chance: the
    /// hash has 128 bits. It is no defence against a client who wants its own keys to collide.
    pub fn from_key(key: &str) -> Self {
        key.parse().unwrap_or_else(|_| Token::of_key(key.as_bytes()))
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Token {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        let hex = s.len() == 32 && s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        match u128::from_str_radix(s, 16) {
            Ok(n) if hex => Ok(Token(n)),
            _ => Err(Error::invalid("token", format!("`{s}` is not a token of 32 lowercase hex digits"))),
        }
    }
}

impl Serialize for Token {
    fn serialize<S: serde::Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What a write says, as a hash of 64 bits; 16 lowercase hex digits as text. See [`crate::avro::Contents`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Content(pub u64);

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Serialize for Content {
    fn serialize<S: serde::Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        s.collect_str(&format_args!("{:016x}", self.0))
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        let s = String::deserialize(d)?;
        u64::from_str_radix(&s, 16).map(Content).map_err(serde::de::Error::custom)
    }
}

/// The name of a collection: `[a-z0-9_-]{1,64}`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Debug)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// Checks the characters and the length.
    pub fn new(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        let ok = (1..=limits::NAME_BYTES).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-');
        if ok {
            return Ok(Name(name));
        }
        Err(Error::invalid("collection", format!("`{}` is not a collection name", name.escape_debug()))
            .with_hint("use 1 to 64 of a-z, 0-9, _ and -"))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = Error;
    fn try_from(s: String) -> Result<Self> {
        Name::new(s)
    }
}

impl From<Name> for String {
    fn from(n: Name) -> String {
        n.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One life of a name: `{name}-{n}`, n from 1. A dropped and re-created collection gets the next n.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Debug)]
#[serde(try_from = "String", into = "String")]
pub struct CollectionId {
    name: Name,
    life: u64,
}

impl CollectionId {
    /// The `life`-th collection of this name, from 1.
    pub fn new(name: Name, life: u64) -> Self {
        CollectionId { name, life }
    }

    /// The collection's name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Which collection of that name, from 1.
    pub fn life(&self) -> u64 {
        self.life
    }

    /// Hash of a record id as the index stores it: keyed by the collection, so that ids chosen to collide in
    /// one collection do not collide in another.
    pub fn hash_id(&self, id: &str) -> u64 {
        let key = xxh3_64_with_seed(self.name.as_str().as_bytes(), self.life);
        xxh3_64_with_seed(id.as_bytes(), key)
    }
}

impl fmt::Display for CollectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.name, self.life)
    }
}

impl FromStr for CollectionId {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        let wrong =
            || Error::invalid("collection_id", format!("`{}` is not a collection id", s.escape_debug()));
        let (name, life) = s.rsplit_once('-').ok_or_else(wrong)?;
        let n: u64 = life.parse().map_err(|_| wrong())?;
        if n == 0 || n.to_string() != life {
            return Err(wrong());
        }
        Ok(CollectionId { name: Name::new(name)?, life: n })
    }
}

impl TryFrom<String> for CollectionId {
    type Error = Error;
    fn try_from(s: String) -> Result<Self> {
        s.parse()
    }
}

impl From<CollectionId> for String {
    fn from(id: CollectionId) -> String {
        id.to_string()
    }
}

/// Additive hash over a set of row versions (id, seq, row). Adding and removing commute, so what a compaction
/// must conserve is an equation of sums. Not a defence against an adversary who chooses ids.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct SetHash(pub u128);

impl SetHash {
    /// The hash of one row version: the `row`-th row of entry `seq`.
    pub fn of(id: &str, seq: Seq, row: u32) -> Self {
        let mut buf = Vec::with_capacity(id.len() + 12);
        buf.extend_from_slice(id.as_bytes());
        buf.extend_from_slice(&seq.to_le_bytes());
        buf.extend_from_slice(&row.to_le_bytes());
        SetHash(xxh3_128(&buf))
    }
}

impl std::ops::Add for SetHash {
    type Output = Self;
    fn add(self, o: Self) -> Self {
        SetHash(self.0.wrapping_add(o.0))
    }
}

impl std::ops::AddAssign for SetHash {
    fn add_assign(&mut self, o: Self) {
        *self = *self + o;
    }
}

impl std::ops::Sub for SetHash {
    type Output = Self;
    fn sub(self, o: Self) -> Self {
        SetHash(self.0.wrapping_sub(o.0))
    }
}

impl std::iter::Sum for SetHash {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(SetHash::default(), |a, b| a + b)
    }
}

impl fmt::Debug for SetHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl Serialize for SetHash {
    fn serialize<S: serde::Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        s.collect_str(&format_args!("{:032x}", self.0))
    }
}

impl<'de> Deserialize<'de> for SetHash {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        let s = String::deserialize(d)?;
        u128::from_str_radix(&s, 16).map(SetHash).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
