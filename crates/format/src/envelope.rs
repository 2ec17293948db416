//! The 64 bytes in front of every object that is ours alone: what it is, which version, what a reader must
//! understand, how long it is, and checksums.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `ESKER\r\n\x1a` |
//! | 8 | 4 | kind, ASCII |
//! | 12 | 4 | format version, little-endian |
//! | 16 | 8 | required feature flags |
//! | 24 | 8 | payload length |
//! | 32 | 4 | CRC32C of the payload |
//! | 36 | 24 | zero |
//! | 60 | 4 | CRC32C of bytes 0 to 60 |

use bytes::Bytes;

use crate::error::{Error, Kind as ErrorKind, Result};

/// First bytes of every envelope. The line end and the control character catch text-mode transfers.
pub const MAGIC: [u8; 8] = *b"ESKER\r\n\x1a";
/// Bytes of an envelope.
pub const LENGTH: usize = 64;
/// The one format version there is.
pub const FORMAT_VERSION: u32 = 1;

/// What an enveloped object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A register entry.
    Manifest,
    /// A register entry no longer retained.
    Stub,
    /// The advisory copy of a manifest with index headers.
    Head,
    /// A name record.
    Name,
    /// An index file.
    Index,
    /// A deletion bitmap.
    Deletes,
    /// The store object.
    Store,
    /// A lease on a version.
    Pin,
    /// How far the commit of an upload is.
    Progress,
    /// Something that a step of a merge made.
    Work,
}

/// All kinds with their four letters.
pub const KINDS: [(Kind, [u8; 4]); 10] = [
    (Kind::Manifest, *b"MANI"),
    (Kind::Stub, *b"STUB"),
    (Kind::Head, *b"HEAD"),
    (Kind::Name, *b"NAME"),
    (Kind::Index, *b"INDX"),
    (Kind::Deletes, *b"DELS"),
    (Kind::Store, *b"STOR"),
    (Kind::Pin, *b"PINS"),
    (Kind::Progress, *b"PROG"),
    (Kind::Work, *b"WORK"),
];

/// A required feature: a reader that does not know a set bit refuses the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feature {
    /// The bit.
    pub bit: u64,
    /// Its name, for messages and the format pages.
    pub name: &'static str,
    /// Whether this build reads objects that have it.
    pub supported: bool,
}

/// Every feature flag that is given out.
pub const FEATURES: [Feature; 4] = [
    Feature { bit: 1 << 0, name: "spill", supported: true },
    Feature { bit: 1 << 1, name: "extension", supported: false },
    Feature { bit: 1 << 2, name: "combined", supported: false },
    Feature { bit: 1 << 3, name: "basis", supported: true },
];

/// Rows of other leaves are copied into posting lists.
pub const SPILL: u64 = FEATURES[0].bit;
/// 4-bit codes beside the 1-bit codes.
pub const EXTENSION: u64 = FEATURES[1].bit;
/// Log entries that combine batches of several processes.
pub const COMBINED: u64 = FEATURES[2].bit;

/// Codes are made along the directions of a learned basis.
pub const BASIS: u64 = FEATURES[3].bit;

/// An envelope's fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelope {
    /// What the object is.
    pub kind: Kind,
    /// Required features.
    pub features: u64,
    /// Bytes that follow the envelope and that `crc` covers. An index file continues after them.
    pub length: u64,
    /// CRC32C of these bytes.
    pub crc: u32,
}

/// Refuses flags that this build does not read, by name.
pub fn check_features(object: &str, flags: u64) -> Result<()> {
    let known = FEATURES.iter().filter(|f| f.supported).fold(0, |a, f| a | f.bit);
    let unknown = flags & !known;
    if unknown == 0 {
        return Ok(());
    }
    let names: Vec<String> = (0..64)
        .map(|i| 1u64 << i)
        .filter(|bit| unknown & bit != 0)
        .map(|bit| FEATURES.iter().find(|f| f.bit == bit).map_or(format!("{bit:#x}"), |f| f.name.to_owned()))
        .collect();
    let supported: Vec<&str> = FEATURES.iter().filter(|f| f.supported).map(|f| f.name).collect();
    Err(Error::new(
        ErrorKind::Invalid,
        format!("{object} requires the feature {}, which this build lacks", names.join(", ")),
    )
    .with_hint(format!(
        "this build supports format version {FORMAT_VERSION} with: {}; use a newer build",
        supported.join(", ")
    )))
}

/// An envelope in front of `payload`.
pub fn seal(kind: Kind, features: u64, payload: &[u8]) -> Vec<u8> {
    let envelope = Envelope { kind, features, length: payload.len() as u64, crc: crc32c::crc32c(payload) };
    let mut out = Vec::with_capacity(LENGTH + payload.len());
    out.extend_from_slice(&envelope.encode());
    out.extend_from_slice(payload);
    out
}

/// The payload of an object that is exactly an envelope and its payload, checked.
pub fn open(object: &str, kind: Kind, bytes: &Bytes) -> Result<Bytes> {
    let envelope = Envelope::decode(object, bytes)?;
    if envelope.kind != kind {
        return Err(Error::corrupt(object, format!("it is a {:?}, not a {kind:?}", envelope.kind)));
    }
    if (bytes.len() - LENGTH) as u64 != envelope.length {
        let message = format!("{} bytes follow the envelope, not {}", bytes.len() - LENGTH, envelope.length);
        return Err(Error::corrupt(object, message));
    }
    envelope.payload(object, bytes)
}

impl Envelope {
    /// The 64 bytes.
    pub fn encode(&self) -> [u8; LENGTH] {
        let mut out = [0; LENGTH];
        out[..8].copy_from_slice(&MAGIC);
        let letters = KINDS.iter().find(|(k, _)| *k == self.kind).map_or(*b"????", |(_, l)| *l);
        out[8..12].copy_from_slice(&letters);
        out[12..16].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        out[16..24].copy_from_slice(&self.features.to_le_bytes());
        out[24..32].copy_from_slice(&self.length.to_le_bytes());
        out[32..36].copy_from_slice(&self.crc.to_le_bytes());
        let crc = crc32c::crc32c(&out[..60]);
        out[60..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the first 64 of `bytes`: checks magic, its own checksum, version and features.
    pub fn decode(object: &str, bytes: &[u8]) -> Result<Envelope> {
        let Some(b) = bytes.first_chunk::<LENGTH>() else {
            return Err(Error::corrupt(object, format!("{} bytes are no envelope", bytes.len())));
        };
        let u32_at = |i: usize| u32::from_le_bytes([b[i], b[i + 1], b[i + 2], b[i + 3]]);
        let u64_at = |i: usize| u64::from(u32_at(i)) | u64::from(u32_at(i + 4)) << 32;
        if b[..8] != MAGIC {
            return Err(Error::corrupt(object, "it does not start with the magic of this format"));
        }
        if u32_at(60) != crc32c::crc32c(&b[..60]) {
            return Err(Error::corrupt(object, "the envelope fails its checksum"));
        }
        let version = u32_at(12);
        if version != FORMAT_VERSION {
            return Err(Error::new(ErrorKind::Invalid, format!("{object} has format version {version}"))
                .with_hint(format!("this build reads version {FORMAT_VERSION}; use a newer build")));
        }
        let Some((kind, _)) = KINDS.iter().find(|(_, l)| l[..] == b[8..12]) else {
            return Err(Error::corrupt(object, format!("unknown kind `{}`", b[8..12].escape_ascii())));
        };
        check_features(object, u64_at(16))?;
        Ok(Envelope { kind: *kind, features: u64_at(16), length: u64_at(24), crc: u32_at(32) })
    }

    /// The payload after the envelope at the start of `bytes`, checked against length and checksum.
    pub fn payload(&self, object: &str, bytes: &Bytes) -> Result<Bytes> {
        let end = (LENGTH as u64).checked_add(self.length).filter(|e| *e <= bytes.len() as u64);
        let Some(end) = end else {
            return Err(Error::corrupt(
                object,
                format!("{} bytes where {} were written", bytes.len(), self.length),
            ));
        };
        let payload = bytes.slice(LENGTH..end as usize);
        if crc32c::crc32c(&payload) != self.crc {
            return Err(Error::corrupt(object, "the payload fails its checksum"));
        }
        Ok(payload)
    }
}

#[cfg(test)]
mod tests;
