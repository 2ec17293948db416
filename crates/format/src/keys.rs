//! Every object key, built and parsed here and nowhere else. Keys are relative to the store's prefix.
//!
//! Numbers that grow are written as `{~n}` = `u64::MAX − n` in 20 digits, so that every listing is newest first.

use std::fmt;

use crate::error::{Error, Result};
use crate::id::{CollectionId, Name, Seq, Token, Version};

/// Store-wide objects: the format version and `doctor`'s verdict.
pub const STORE: &str = "store";
/// What a directory or bucket listing of collections starts from.
pub const NAMES: &str = "names/";
/// All "there is work" marks.
pub const DIRTY: &str = "dirty/";
/// All objects of collections.
pub const COLLECTIONS: &str = "c/";
/// Where `doctor` races the store.
pub const DOCTOR: &str = "doctor/";

/// `{~n}`: newest first in every listing.
pub fn descending(n: u64) -> String {
    format!("{:020}", u64::MAX - n)
}

/// The number that [`descending`] wrote, if `s` is one.
pub fn parse_descending(s: &str) -> Option<u64> {
    (s.len() == 20 && s.bytes().all(|b| b.is_ascii_digit()))
        .then(|| s.parse::<u64>().ok())
        .flatten()
        .map(|n| u64::MAX - n)
}

/// `{base}-{token}`: names what was made from manifest version `base` by the attempt `token`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Made {
    /// The manifest version that the maker started from.
    pub base: Version,
    /// The attempt.
    pub token: Token,
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:020}-{}", self.base, self.token)
    }
}

impl fmt::Debug for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Made {
    fn parse(s: &str) -> Option<Self> {
        let (base, token) = s.split_once('-')?;
        if base.len() != 20 || !base.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        Some(Made { base: base.parse().ok()?, token: token.parse().ok()? })
    }
}

/// Keys of one collection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    /// The keys under `c/{id}/`.
    pub fn new(id: &CollectionId) -> Self {
        Keys { prefix: format!("{COLLECTIONS}{id}/") }
    }
    /// `c/{id}/`.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
    /// `wal/`: all entries, newest first.
    pub fn wal_prefix(&self) -> String {
        format!("{}wal/", self.prefix)
    }
    /// `wal/{~seq}.avro`.
    pub fn wal(&self, seq: Seq) -> String {
        format!("{}wal/{}.avro", self.prefix, descending(seq))
    }
    /// `manifest/`: the register, newest first.
    pub fn manifest_prefix(&self) -> String {
        format!("{}manifest/", self.prefix)
    }
    /// `manifest/{~version}`.
    pub fn manifest(&self, version: Version) -> String {
        format!("{}manifest/{}", self.prefix, descending(version))
    }
    /// `head`: the advisory copy.
    pub fn head(&self) -> String {
        format!("{}head", self.prefix)
    }
    /// `segment/{base}-{token}.parquet`: the rows of a segment.
    pub fn rows(&self, made: Made) -> String {
        format!("{}segment/{made}.parquet", self.prefix)
    }
    /// `segment/{base}-{token}.index`: the index over them.
    pub fn index(&self, made: Made) -> String {
        format!("{}segment/{made}.index", self.prefix)
    }
    /// `deletes/{base}-{token}`: a deletion bitmap.
    pub fn deletes(&self, made: Made) -> String {
        format!("{}deletes/{made}", self.prefix)
    }
    /// `body/{~until}-{token}.avro`: the rows of a large entry. `until` is the last slot that may name it, and it goes
    /// with that slot.
    pub fn body(&self, until: Seq, token: Token) -> String {
        format!("{}body/{}-{token}.avro", self.prefix, descending(until))
    }
    /// `inbox/{~tail}-{token}`: contended batches of one writer that wait to be combined, named after the first of them; or,
    /// with the token 0, an empty object: who made it combines what waits into the slot after `tail`.
    pub fn inbox(&self, tail: Seq, token: Token) -> String {
        format!("{}inbox/{}-{token}", self.prefix, descending(tail))
    }
    /// `upload/`: bodies that clients put there themselves.
    pub fn upload_prefix(&self) -> String {
        format!("{}upload/", self.prefix)
    }
    /// `upload/{token}`: a body as its client sent it, before it is committed and after.
    pub fn upload(&self, token: Token) -> String {
        format!("{}upload/{token}", self.prefix)
    }
    /// `upload/{token}.progress`: how far its commit is.
    pub fn progress(&self, token: Token) -> String {
        format!("{}upload/{token}.progress", self.prefix)
    }
    /// `segment/`: rows and indexes.
    pub fn segment_prefix(&self) -> String {
        format!("{}segment/", self.prefix)
    }
    /// `deletes/`: deletion bitmaps.
    pub fn deletes_prefix(&self) -> String {
        format!("{}deletes/", self.prefix)
    }
    /// `body/`: rows of large entries, newest first.
    pub fn body_prefix(&self) -> String {
        format!("{}body/", self.prefix)
    }
    /// `inbox/`: contended batches.
    pub fn inbox_prefix(&self) -> String {
        format!("{}inbox/", self.prefix)
    }
    /// `work/`: what crashed or running collections and compactions left.
    pub fn work_prefix(&self) -> String {
        format!("{}work/", self.prefix)
    }
    /// `pins/`: leases, by version.
    pub fn pins_prefix(&self) -> String {
        format!("{}pins/", self.prefix)
    }
    /// `pins/{version}-{token}`: a durable lease.
    pub fn pin(&self, version: Version, token: Token) -> String {
        format!("{}pins/{version:020}-{token}", self.prefix)
    }
    /// `work/{base}-{token}`: the mark by which a collection learns the store's time.
    pub fn work(&self, made: Made) -> String {
        format!("{}work/{made}", self.prefix)
    }
    /// `work/{base}-{token}/`: everything that a merge in steps made so far.
    pub fn job_prefix(&self, made: Made) -> String {
        format!("{}work/{made}/", self.prefix)
    }
    /// `work/{base}-{token}/{name}`: something that a step of a merge made. Names are of `a` to `z`, digits and `-`.
    pub fn job(&self, made: Made, name: &str) -> String {
        format!("{}work/{made}/{name}", self.prefix)
    }
}

/// `names/{name}/{~n}`: the n-th record of a name's register.
pub fn name_record(name: &Name, n: u64) -> String {
    format!("{NAMES}{name}/{}", descending(n))
}

/// `dirty/{id}/{~seq}`: "there is work up to seq".
pub fn dirty(id: &CollectionId, seq: Seq) -> String {
    format!("{DIRTY}{id}/{}", descending(seq))
}

/// `dirty/{id}/{base}-{token}`: "this merge in steps waits to be gone on with".
pub fn dirty_job(id: &CollectionId, made: Made) -> String {
    format!("{DIRTY}{id}/{made}")
}

/// `dirty/{id}/`.
pub fn dirty_prefix(id: &CollectionId) -> String {
    format!("{DIRTY}{id}/")
}

/// What a key names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// The store object.
    Store,
    /// A name record.
    Name(Name, u64),
    /// A dirty mark.
    Dirty(CollectionId, Seq),
    /// That of a merge in steps.
    DirtyJob(CollectionId, Made),
    /// A file of `doctor`.
    Doctor,
    /// An object of a collection.
    Of(CollectionId, Part),
}

/// An object of a collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// A log entry.
    Wal(Seq),
    /// A register entry.
    Manifest(Version),
    /// The advisory copy.
    Head,
    /// Rows of a segment.
    Rows(Made),
    /// Index of a segment.
    Index(Made),
    /// Deletion bitmap.
    Deletes(Made),
    /// Rows of a large entry, for this slot or one shortly before it.
    Body(Seq, Token),
    /// A batch waiting to be combined.
    Inbox(Seq, Token),
    /// A lease.
    Pin(Version, Token),
    /// A collection's mark, or something of a merge in steps.
    Work(Made),
    /// A body that a client put.
    Upload(Token),
    /// How far its commit is.
    Progress(Token),
}

impl Key {
    /// Parses a key. A key that no function here builds is an error: something else wrote into the prefix.
    pub fn parse(key: &str) -> Result<Key> {
        parse(key).ok_or_else(|| {
            Error::invalid("key", format!("`{}` is not a key of this format", key.escape_debug()))
        })
    }
}

fn parse(key: &str) -> Option<Key> {
    if key == STORE {
        return Some(Key::Store);
    }
    if key.starts_with(DOCTOR) {
        return Some(Key::Doctor);
    }
    if let Some(rest) = key.strip_prefix(NAMES) {
        let (name, n) = rest.split_once('/')?;
        return Some(Key::Name(Name::new(name).ok()?, parse_descending(n)?));
    }
    if let Some(rest) = key.strip_prefix(DIRTY) {
        let (id, seq) = rest.split_once('/')?;
        let id = id.parse().ok()?;
        return match parse_descending(seq) {
            Some(seq) => Some(Key::Dirty(id, seq)),
            None => Some(Key::DirtyJob(id, Made::parse(seq)?)),
        };
    }
    let (id, rest) = key.strip_prefix(COLLECTIONS)?.split_once('/')?;
    let id: CollectionId = id.parse().ok()?;
    if rest == "head" {
        return Some(Key::Of(id, Part::Head));
    }
    let (folder, name) = rest.split_once('/')?;
    let pair = |s: &str| s.split_once('-').map(|(a, b)| (a.to_owned(), b.to_owned()));
    let part = match folder {
        "wal" => Part::Wal(parse_descending(name.strip_suffix(".avro")?)?),
        "manifest" => Part::Manifest(parse_descending(name)?),
        "segment" => match name.strip_suffix(".parquet") {
            Some(made) => Part::Rows(Made::parse(made)?),
            None => Part::Index(Made::parse(name.strip_suffix(".index")?)?),
        },
        "deletes" => Part::Deletes(Made::parse(name)?),
        "body" => {
            let (seq, token) = pair(name.strip_suffix(".avro")?)?;
            Part::Body(parse_descending(&seq)?, token.parse().ok()?)
        }
        "work" => {
            let (made, of_job) = name.split_once('/').map_or((name, None), |(made, name)| (made, Some(name)));
            let is_name = |name: &str| {
                !name.is_empty()
                    && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            };
            of_job.is_none_or(is_name).then_some(Part::Work(Made::parse(made)?))?
        }
        "upload" => match name.strip_suffix(".progress") {
            Some(token) => Part::Progress(token.parse().ok()?),
            None => Part::Upload(name.parse().ok()?),
        },
        "inbox" => {
            let (tail, token) = pair(name)?;
            Part::Inbox(parse_descending(&tail)?, token.parse().ok()?)
        }
        "pins" => {
            let made = Made::parse(name)?;
            Part::Pin(made.base, made.token)
        }
        _ => return None,
    };
    Some(Key::Of(id, part))
}

#[cfg(test)]
mod tests;
