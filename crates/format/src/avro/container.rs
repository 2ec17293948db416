//! Avro object container files, by hand: `Obj\x01`, a map of metadata, a sync marker, then blocks of
//! `count | size | data | sync marker`.
//!
//! In containers of our own the marker is not random: it is the XXH3-128 (big-endian) of everything between the
//! magic and the end that is not a marker. The file stays plain Avro, and any flipped bit is detected.

use std::collections::BTreeMap;

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use super::cursor::{Cursor, Wrong, put_bytes, put_long};
use crate::error::{Error, Kind, Result};

/// First bytes of every container.
pub const MAGIC: [u8; 4] = *b"Obj\x01";
/// Metadata key of the writer schema.
pub const SCHEMA_KEY: &str = "avro.schema";
/// Metadata key of the codec.
pub const CODEC_KEY: &str = "avro.codec";

/// Records that lie together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Number of records.
    pub rows: u64,
    /// Their bytes; in a [`Container`], compressed by its codec.
    pub data: Bytes,
}

/// How the blocks of a container are compressed. We write `Null`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Not at all.
    Null,
    /// RFC 1951.
    Deflate,
    /// Snappy with a CRC32.
    Snappy,
    /// Zstandard.
    Zstandard,
}

/// A container taken apart. Nothing is copied: blocks are slices of the file.
#[derive(Debug, Clone)]
pub struct Container {
    /// The writer schema.
    pub schema_json: String,
    /// The codec of all blocks.
    pub codec: Codec,
    /// All metadata, `avro.` keys included.
    pub meta: BTreeMap<String, Vec<u8>>,
    /// The blocks in order.
    pub blocks: Vec<Block>,
}

/// A container of the record's schema with codec null and our marker. `meta` is completed by the two `avro.` keys;
/// its values should be UTF-8, or fastavro does not open the file.
pub fn write(meta: &BTreeMap<String, Vec<u8>>, blocks: &[(u64, &[u8])]) -> Vec<u8> {
    let mut meta = meta.clone();
    meta.insert(SCHEMA_KEY.to_owned(), crate::record::SCHEMA.as_bytes().to_vec());
    meta.insert(CODEC_KEY.to_owned(), b"null".to_vec());
    let mut header = Vec::new();
    put_long(&mut header, meta.len() as i64);
    for (key, value) in &meta {
        put_bytes(&mut header, key.as_bytes());
        put_bytes(&mut header, value);
    }
    put_long(&mut header, 0);
    let prefixes: Vec<Vec<u8>> = blocks.iter().map(|(rows, data)| block_prefix(*rows, data.len())).collect();

    let mut hash = Xxh3::new();
    hash.update(&header);
    for (prefix, (_, data)) in prefixes.iter().zip(blocks) {
        hash.update(prefix);
        hash.update(data);
    }
    let marker = hash.digest128().to_be_bytes();

    let size: usize = blocks.iter().map(|(_, data)| data.len() + 32).sum();
    let mut out = Vec::with_capacity(header.len() + size + 32);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&header);
    out.extend_from_slice(&marker);
    for (prefix, (_, data)) in prefixes.iter().zip(blocks) {
        out.extend_from_slice(prefix);
        out.extend_from_slice(data);
        out.extend_from_slice(&marker);
    }
    out
}

fn block_prefix(rows: u64, bytes: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(12);
    put_long(&mut out, rows as i64);
    put_long(&mut out, bytes as i64);
    out
}

/// Takes apart a container that someone else wrote.
///
/// # Errors
/// Invalid, saying what is wrong with the file.
pub fn read(bytes: &Bytes) -> Result<Container> {
    parse(bytes, &mut |_| {}).map(|(container, _)| container).map_err(|m| Error::invalid("records", m))
}

/// Takes apart a container that [`write()`] made, and verifies its marker.
///
/// # Errors
/// Corrupt, naming `object`, when one bit differs from what was written.
pub fn read_own(object: &str, bytes: &Bytes) -> Result<Container> {
    let mut hash = Xxh3::new();
    let parsed = parse(bytes, &mut |part| hash.update(part));
    let (container, marker) = parsed.map_err(|m| Error::corrupt(object, m))?;
    if hash.digest128().to_be_bytes() != marker {
        return Err(Error::corrupt(object, "its content does not match its sync marker"));
    }
    Ok(container)
}

/// Parses a container; `content` is shown every byte that is neither magic nor marker, in order.
fn parse(bytes: &Bytes, content: &mut impl FnMut(&[u8])) -> Result<(Container, [u8; 16]), String> {
    let Some(rest) = bytes.strip_prefix(&MAGIC) else {
        return Err("it is not an Avro object container file".to_owned());
    };
    let mut cursor = Cursor::new(rest);
    let meta = metadata(&mut cursor)?;
    let mut at = bytes.len() - cursor.rest.len();
    content(&bytes[MAGIC.len()..at]);
    let marker = marker(&mut cursor)?;
    let mut blocks = Vec::new();
    while !cursor.is_empty() {
        at = bytes.len() - cursor.rest.len();
        let rows = u64::try_from(cursor.long()?).map_err(|_| "a block has a negative number of records")?;
        let data = cursor.bytes()?;
        let end = bytes.len() - cursor.rest.len();
        content(&bytes[at..end]);
        blocks.push(Block { rows, data: bytes.slice(end - data.len()..end) });
        if self::marker(&mut cursor)? != marker {
            return Err("a block is not followed by the file's sync marker".to_owned());
        }
    }
    let schema = meta.get(SCHEMA_KEY).ok_or("the metadata has no avro.schema")?;
    let schema_json = String::from_utf8(schema.clone()).map_err(|_| "avro.schema is not UTF-8")?;
    let codec = codec(meta.get(CODEC_KEY).map(Vec::as_slice))?;
    Ok((Container { schema_json, codec, meta, blocks }, marker))
}

fn metadata(cursor: &mut Cursor<'_>) -> Result<BTreeMap<String, Vec<u8>>, String> {
    let mut meta = BTreeMap::new();
    loop {
        let n = cursor.count()?;
        if n == 0 {
            return Ok(meta);
        }
        for _ in 0..n {
            let key = cursor.string()?;
            if meta.insert(key.to_owned(), cursor.bytes()?.to_vec()).is_some() {
                return Err("a metadata key is given twice".to_owned());
            }
        }
    }
}

fn marker(cursor: &mut Cursor<'_>) -> Result<[u8; 16], Wrong> {
    let mut marker = [0; 16];
    marker.copy_from_slice(cursor.take(16)?);
    Ok(marker)
}

fn codec(name: Option<&[u8]>) -> Result<Codec, String> {
    match name {
        None | Some(b"null") => Ok(Codec::Null),
        Some(b"deflate") => Ok(Codec::Deflate),
        Some(b"snappy") => Ok(Codec::Snappy),
        Some(b"zstandard") => Ok(Codec::Zstandard),
        Some(other) => {
            let other = other.escape_ascii();
            Err(format!("the codec `{other}` is not supported; use null, deflate, snappy or zstandard"))
        }
    }
}

impl Codec {
    /// The records of a block, uncompressed; of codec null, the very bytes.
    ///
    /// # Errors
    /// Invalid when the block is damaged or would have more than `limit` bytes.
    pub fn decompress(self, block: &Block, limit: usize) -> Result<Bytes> {
        let too_large =
            || Error::invalid("records", format!("a block has more than {limit} bytes, which is the limit"));
        let damaged = |e: String| Error::invalid("records", format!("a compressed block is damaged: {e}"));
        let out = match self {
            Codec::Null if block.data.len() > limit => return Err(too_large()),
            Codec::Null => return Ok(block.data.clone()),
            Codec::Deflate => {
                use miniz_oxide::inflate::{TINFLStatus, decompress_to_vec_with_limit};
                decompress_to_vec_with_limit(&block.data, limit).map_err(|e| match e.status {
                    TINFLStatus::HasMoreOutput => too_large(),
                    _ => damaged(e.to_string()),
                })?
            }
            Codec::Snappy => {
                // The length that snappy will allocate is a plain varint in front.
                let length = snappy_length(&block.data).ok_or_else(|| damaged("no length".to_owned()))?;
                if length > limit as u64 {
                    return Err(too_large());
                }
                let mut data = block.data.to_vec();
                apache_avro::Codec::Snappy.decompress(&mut data).map_err(|e| damaged(e.to_string()))?;
                data
            }
            Codec::Zstandard => {
                use std::io::Read;
                let mut data = Vec::new();
                let stream = zstd::Decoder::new(&block.data[..]).map_err(|e| damaged(e.to_string()))?;
                let read = stream
                    .take(limit as u64 + 1)
                    .read_to_end(&mut data)
                    .map_err(|e| damaged(e.to_string()))?;
                if read > limit {
                    return Err(too_large());
                }
                data
            }
        };
        Ok(out.into())
    }
}

fn snappy_length(data: &[u8]) -> Option<u64> {
    let mut n = 0;
    for (i, &byte) in data.iter().take(5).enumerate() {
        n |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some(n);
        }
    }
    None
}

impl Container {
    /// Refuses a container that is not ours for a reason other than damage.
    pub(crate) fn require_our_schema(&self, object: &str) -> Result<()> {
        use crate::record::{FINGERPRINT, SCHEMA, fingerprint};
        if self.schema_json == SCHEMA || fingerprint(&self.schema_json).is_ok_and(|f| f == FINGERPRINT) {
            return Ok(());
        }
        Err(Error::new(Kind::Invalid, format!("{object} has another Avro schema than this build reads"))
            .with_hint(format!(
                "this build reads the schema of fingerprint {FINGERPRINT:016x}; use a newer build"
            )))
    }
}

#[cfg(test)]
mod tests;
