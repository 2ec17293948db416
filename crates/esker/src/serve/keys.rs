//! API keys: who may do what. A file holds names, scopes and hashes, never a key.
//!
//! A key is 256 random bits, so one round of SHA-256 is all the hashing it needs: there is nothing to guess.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::ValueEnum;
use esker_format::{Error, Kind, Name, Result};
use esker_store::Random;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

/// What every key starts with, so that scanners of leaked secrets know it.
const PREFIX: &str = "esk_";
/// Longest key that is looked at.
const LONGEST: usize = 256;
/// Longest name of a key.
const NAME_BYTES: usize = 64;

/// What a key may do; each scope includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Search, get, scan, count, SQL.
    Read,
    /// Also upsert, patch, delete, compact.
    Write,
    /// Also create and drop collections.
    Admin,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scope::Read => "read",
            Scope::Write => "write",
            Scope::Admin => "admin",
        })
    }
}

/// A line of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Unique in the file; appears in the log.
    pub name: String,
    /// What it may do.
    pub scope: Scope,
    /// The only collections it reaches; none = all of them, and the store as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collections: Option<Vec<Name>>,
    /// SHA-256 of the key, 64 lowercase hex digits.
    pub hash: String,
    /// When it was made, milliseconds since the epoch.
    pub created: i64,
}

/// A key that was presented and is known.
#[derive(Debug)]
pub struct Key {
    /// Its name.
    pub name: String,
    /// What it may do.
    pub scope: Scope,
    collections: Option<HashSet<Name>>,
}

impl Key {
    /// Whether it reaches a collection, `None` for the store as a whole. Names that cannot be are reached by none.
    pub fn reaches(&self, collection: Option<&str>) -> bool {
        match (&self.collections, collection) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(only), Some(name)) => only.iter().any(|n| n.as_str() == name),
        }
    }
}

/// The keys of a file, in memory.
#[derive(Debug, Default)]
pub struct Ring(Vec<(Arc<Key>, [u8; 32])>);

impl Ring {
    /// Reads a file's text.
    ///
    /// # Errors
    /// Invalid, naming the line.
    pub fn parse(text: &str) -> Result<Self> {
        let ring = entries(text)?.into_iter().map(|e| {
            let hash = unhex(&e.hash).unwrap_or_default();
            let collections = e.collections.map(HashSet::from_iter);
            (Arc::new(Key { name: e.name, scope: e.scope, collections }), hash)
        });
        Ok(Ring(ring.collect()))
    }

    /// The key that was presented, if it is one of these. Takes the same time whichever it is, or none.
    pub fn find(&self, presented: &str) -> Option<Arc<Key>> {
        if presented.len() > LONGEST {
            return None;
        }
        let hash: [u8; 32] = Sha256::digest(presented).into();
        let (mut found, mut at) = (Choice::from(0), 0u64);
        for (i, (_, known)) in self.0.iter().enumerate() {
            let same = known.ct_eq(&hash);
            at.conditional_assign(&(i as u64), same);
            found |= same;
        }
        bool::from(found).then(|| self.0[at as usize].0.clone())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// The keys of a server: those of the file as it is now.
#[derive(Debug)]
pub struct Keys {
    path: PathBuf,
    ring: RwLock<Arc<Ring>>,
    seen: RwLock<Option<Stamp>>,
}

/// What tells that a file changed.
type Stamp = (SystemTime, u64);

impl Keys {
    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read, or holds no key at all: nobody could use the server.
    pub fn open(path: &Path) -> Result<Self> {
        let seen = stamp(path);
        let ring = Ring::parse(&read(path)?)?;
        if ring.len() == 0 {
            return Err(Error::invalid("--keys", format!("{} holds no key", path.display()))
                .with_hint("make one with `esker key create NAME --scope admin --keys FILE`"));
        }
        Ok(Keys { path: path.to_owned(), ring: RwLock::new(Arc::new(ring)), seen: RwLock::new(seen) })
    }

    /// The keys as last read.
    pub fn ring(&self) -> Arc<Ring> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the file again if it changed. One that cannot be read leaves the keys as they are.
    pub fn refresh(&self) {
        let now = stamp(&self.path);
        let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
        if *seen == now {
            return;
        }
        *seen = now;
        match read(&self.path).and_then(|text| Ring::parse(&text)) {
            Ok(ring) => {
                tracing::info!(keys = ring.len(), "keys read again");
                *self.ring.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(ring);
            }
            Err(e) => tracing::error!(error = %e, "keys cannot be read again: those from before stay valid"),
        }
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len()))
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| {
        Error::invalid("--keys", format!("{} cannot be read: {e}", path.display())).with_source(e)
    })
}

/// The lines of a file of keys.
///
/// # Errors
/// Invalid, naming the line.
pub fn entries(text: &str) -> Result<Vec<Entry>> {
    let mut all: Vec<Entry> = Vec::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |problem: String| Error::invalid("--keys", format!("line {}: {problem}", at + 1));
        let entry: Entry = serde_json::from_str(line).map_err(|e| wrong(e.to_string()))?;
        if unhex(&entry.hash).is_none() {
            return Err(wrong("the hash is not 64 lowercase hex digits".to_owned()));
        }
        check_name(&entry.name).map_err(|e| wrong(e.to_string()))?;
        if all.iter().any(|e| e.name == entry.name) {
            return Err(wrong(format!("another key is called `{}`", entry.name)));
        }
        all.push(entry);
    }
    Ok(all)
}

fn check_name(name: &str) -> Result<()> {
    let ok = |c: char| c.is_ascii_alphanumeric() || "._-@".contains(c);
    match !name.is_empty() && name.len() <= NAME_BYTES && name.chars().all(ok) {
        true => Ok(()),
        false => Err(Error::invalid("name", "a key's name is 1 to 64 of A-Z, a-z, 0-9 and ._-@")),
    }
}

/// The entries of the file at `path`; none if there is no file.
///
/// # Errors
/// When it cannot be read.
pub fn load(path: &Path) -> Result<Vec<Entry>> {
    match path.exists() {
        true => entries(&read(path)?),
        false => Ok(Vec::new()),
    }
}

/// Makes a key and adds its entry to the file. The key itself is returned and kept nowhere.
///
/// # Errors
/// Conflict when there is one of this name.
pub fn create(
    path: &Path,
    name: &str,
    scope: Scope,
    collections: Option<Vec<Name>>,
    random: &dyn Random,
    now_ms: i64,
) -> Result<String> {
    check_name(name)?;
    let mut all = load(path)?;
    if all.iter().any(|e| e.name == name) {
        return Err(Error::new(Kind::Conflict, format!("there is a key called `{name}`")));
    }
    let mut bits = [0; 32];
    bits[..16].copy_from_slice(&random.bits().to_be_bytes());
    bits[16..].copy_from_slice(&random.bits().to_be_bytes());
    let key = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bits));
    let hash = Sha256::digest(&key).iter().map(|b| format!("{b:02x}")).collect();
    all.push(Entry { name: name.to_owned(), scope, collections, hash, created: now_ms });
    save(path, &all)?;
    Ok(key)
}

/// Removes a key from the file.
///
/// # Errors
/// `NotFound` when there is none of this name.
pub fn revoke(path: &Path, name: &str) -> Result<()> {
    let mut all = load(path)?;
    let before = all.len();
    all.retain(|e| e.name != name);
    match all.len() < before {
        true => save(path, &all),
        false => Err(Error::new(Kind::NotFound, format!("there is no key called `{name}`"))),
    }
}

/// Replaces the file at once; nobody else may read it.
fn save(path: &Path, all: &[Entry]) -> Result<()> {
    use std::io::Write;
    let failed = |e: std::io::Error| {
        Error::invalid("--keys", format!("{} cannot be written: {e}", path.display())).with_source(e)
    };
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Made readable by its owner alone.
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    for entry in all {
        let line = serde_json::to_string(entry).map_err(|e| Error::internal(e.to_string()))?;
        writeln!(file, "{line}").map_err(failed)?;
    }
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|e| failed(e.error))?;
    Ok(())
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let bytes = text.as_bytes();
    let mut out = [0; 32];
    if bytes.len() != 64 {
        return None;
    }
    for (pair, byte) in bytes.chunks_exact(2).zip(&mut out) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}

#[cfg(test)]
mod tests;
