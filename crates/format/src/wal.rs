//! A log entry: one object at `wal/{~seq}.avro`, an ordinary Avro container. What the server knows is in the
//! container's metadata; the blocks are the clients' bytes.
//!
//! | key | value |
//! |---|---|
//! | `esker.format` | `1` |
//! | `esker.features` | required feature flags, 16 hex digits |
//! | `esker.collection` | collection id |
//! | `esker.seq` | the entry's number, decimal |
//! | `esker.batches` | JSON: the batches, in the order of the rows |
//! | `esker.body` | JSON, when the rows are in a body object: the last slot that may name it, its token, length and CRC32C |
//! | `esker.ids` | with a body: the rows' id hashes, 8 bytes each, little-endian, in base64 |
//! | `avro.schema`, `avro.codec` | as in any container; the codec is `null` |
//!
//! All values are text, because fastavro refuses a file of which one is not UTF-8.
//!
//! A body is written for a slot or a few, the last of which is in its name: no entry of a later slot ever refers to it. It
//! is a container of the same blocks with `esker.format`, `esker.features` and `esker.collection`.

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::avro::container::{self, Block, Codec, Container};
use crate::avro::{BlockContext, RowsBuilder, ids};
use crate::envelope::{FORMAT_VERSION, check_features};
use crate::error::{Error, Kind, Result};
use crate::id::{CollectionId, Content, Seq, SetHash, Token};
use crate::keys::{Key, Keys, Part};
use crate::limits;
use crate::record::Op;

pub mod inbox;

/// Metadata key of the format version.
pub const FORMAT: &str = "esker.format";
/// Metadata key of the required feature flags.
pub const FEATURES: &str = "esker.features";
/// Metadata key of the collection id.
pub const COLLECTION: &str = "esker.collection";
/// Metadata key of the entry's seq.
pub const SEQ: &str = "esker.seq";
/// Metadata key of the batches.
pub const BATCHES: &str = "esker.batches";
/// Metadata key of the body.
pub const BODY: &str = "esker.body";
/// Metadata key of the id hashes.
pub const IDS: &str = "esker.ids";

/// Rows that were acknowledged together, as an entry's header lists them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    /// The write.
    pub token: Token,
    /// The token is its caller's, who may use it again; else it was drawn.
    #[serde(default)]
    pub given: bool,
    /// What the caller asked for, where that is known.
    #[serde(default)]
    pub content: Option<Content>,
    /// What it does.
    pub op: Op,
    /// Its records.
    pub rows: u32,
    /// Its blocks, which follow those of the batch before.
    pub blocks: u32,
    /// When it arrived.
    pub arrived_ms: i64,
    /// Sum of [`SetHash::of`] over its rows, tombstones too.
    pub hash: SetHash,
}

/// Where the rows of a large entry are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BodyRef {
    /// The last slot that may name the object: this entry's or a later one. See [`limits::BODY_REACH`].
    pub until: Seq,
    /// Names the object, with `until`: [`Keys::body`].
    pub token: Token,
    /// Bytes of the object.
    pub length: u64,
    /// CRC32C of the object.
    pub crc32c: u32,
}

impl BodyRef {
    /// Refers to the body object `bytes`.
    pub fn new(until: Seq, token: Token, bytes: &[u8]) -> Self {
        BodyRef { until, token, length: bytes.len() as u64, crc32c: crc32c::crc32c(bytes) }
    }
}

/// A validated batch that waits for its place in the log.
#[derive(Debug, Clone)]
pub struct PendingBatch {
    /// The write.
    pub token: Token,
    /// The token is its caller's, and an earlier write may have it; else it was drawn for this one.
    pub given: bool,
    /// What the caller asked for: under one token, the same again is a retry, and anything else refused.
    pub content: Option<Content>,
    /// What it does.
    pub op: Op,
    /// When it arrived.
    pub arrived_ms: i64,
    /// Uncompressed blocks of our schema, as the client sent them.
    pub blocks: Vec<Block>,
}

impl PendingBatch {
    /// Records.
    pub fn rows(&self) -> u64 {
        self.blocks.iter().map(|b| b.rows).sum()
    }

    /// Bytes of its blocks: what decides between an inline entry and a body.
    pub fn bytes(&self) -> usize {
        self.blocks.iter().map(|b| b.data.len()).sum()
    }
}

/// What an entry is made of. After a lost slot, encode again with the next seq.
#[derive(Debug, Clone, Copy)]
pub struct EntryParts<'a> {
    /// The collection.
    pub collection: &'a CollectionId,
    /// The slot to claim.
    pub seq: Seq,
    /// The batches, in the order of the rows.
    pub batches: &'a [PendingBatch],
    /// The body that holds the rows, from [`encode_body`]; none for an inline entry.
    pub body: Option<BodyRef>,
}

/// A decoded entry.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The object's key.
    pub key: String,
    /// The collection.
    pub collection: CollectionId,
    /// Its number.
    pub seq: Seq,
    /// Required feature flags.
    pub features: u64,
    /// The batches, in the order of the rows.
    pub batches: Vec<Batch>,
    /// Where the rows are, if not in `blocks`.
    pub body: Option<BodyRef>,
    /// With a body: [`CollectionId::hash_id`] of each row's id.
    pub ids: Option<Vec<u64>>,
    /// The rows of an inline entry; slices of the object.
    pub blocks: Vec<Block>,
    /// Bytes of the entry and of its body.
    pub bytes: u64,
}

impl Entry {
    /// Records of all batches, tombstones counted.
    pub fn rows(&self) -> u64 {
        self.batches.iter().map(|b| u64::from(b.rows)).sum()
    }

    /// Key of the body, if there is one.
    pub fn body_key(&self) -> Option<String> {
        self.body.map(|b| Keys::new(&self.collection).body(b.until, b.token))
    }
}

/// The bytes of an entry.
///
/// # Errors
/// Invalid when a block is not what its batch announces.
pub fn encode(parts: &EntryParts<'_>) -> Result<Vec<u8>> {
    let (mut batches, mut hashes, mut row) = (Vec::with_capacity(parts.batches.len()), Vec::new(), 0);
    for pending in parts.batches {
        let first = row;
        let hash = walk_ids(&pending.blocks, parts.seq, &mut row, |id| {
            if parts.body.is_some() {
                hashes.extend_from_slice(&parts.collection.hash_id(id).to_le_bytes());
            }
        })?;
        batches.push(Batch {
            token: pending.token,
            given: pending.given,
            content: pending.content,
            op: pending.op,
            rows: row - first,
            blocks: pending.blocks.len() as u32,
            arrived_ms: pending.arrived_ms,
            hash,
        });
    }
    let mut meta = common_meta(parts.collection);
    meta.insert(SEQ.to_owned(), parts.seq.to_string().into_bytes());
    meta.insert(BATCHES.to_owned(), json(&batches)?);
    let Some(body) = &parts.body else {
        return Ok(container::write(&meta, &blocks_of(parts.batches)));
    };
    meta.insert(BODY.to_owned(), json(body)?);
    meta.insert(IDS.to_owned(), BASE64.encode(hashes).into_bytes());
    Ok(container::write(&meta, &[]))
}

/// The bytes of a body object; its name depends on the slot, they do not.
pub fn encode_body(collection: &CollectionId, batches: &[PendingBatch]) -> Vec<u8> {
    container::write(&common_meta(collection), &blocks_of(batches))
}

/// Takes an entry apart and verifies it; blocks are slices of `bytes`.
///
/// # Errors
/// Corrupt when the bytes are not those written under this key. Invalid when they are of a newer format, naming
/// what is not supported.
pub fn decode(key: &str, bytes: Bytes) -> Result<Entry> {
    let container = container::read_own(key, &bytes)?;
    let features = check_common(key, &container)?;
    let corrupt = |what: String| Error::corrupt(key, what);
    let collection: CollectionId =
        text(key, &container, COLLECTION)?.parse().map_err(|e: Error| corrupt(e.to_string()))?;
    let seq: Seq =
        text(key, &container, SEQ)?.parse().map_err(|_| corrupt(format!("{SEQ} is not a number")))?;
    if Key::parse(key).ok() != Some(Key::Of(collection.clone(), Part::Wal(seq))) {
        return Err(corrupt(format!("it is entry {seq} of collection {collection}")));
    }
    let batches: Vec<Batch> = parse(key, &container, BATCHES)?;
    let body: Option<BodyRef> =
        container.meta.contains_key(BODY).then(|| parse(key, &container, BODY)).transpose()?;
    if let Some(body) = &body
        && !(seq..=seq.saturating_add(limits::BODY_REACH)).contains(&body.until)
    {
        return Err(corrupt(format!("its body is for slots up to {}", body.until)));
    }
    let rows = check_rows(&batches).ok_or_else(|| corrupt("its batches have too many rows".to_owned()))?;
    let ids = container.meta.get(IDS).map(|text| parse_ids(text));
    let ids = match (&body, ids) {
        (Some(_), Some(Some(ids))) if ids.len() as u64 == rows => Some(ids),
        (None, None) => None,
        _ => return Err(corrupt(format!("{IDS} does not fit its batches"))),
    };
    match body {
        Some(_) if !container.blocks.is_empty() => {
            return Err(corrupt("it has both a body and rows".to_owned()));
        }
        None => check_blocks(key, &batches, &container.blocks)?,
        Some(_) => {}
    }
    let bytes = bytes.len() as u64 + body.map_or(0, |b| b.length);
    Ok(Entry {
        key: key.to_owned(),
        collection,
        seq,
        features,
        batches,
        body,
        ids,
        blocks: container.blocks,
        bytes,
    })
}

/// The blocks of an entry's body object, verified against the entry.
///
/// # Errors
/// Corrupt when `bytes` is not the body the entry refers to.
pub fn decode_body(entry: &Entry, bytes: &Bytes) -> Result<Vec<Block>> {
    let (Some(body), Some(key)) = (entry.body, entry.body_key()) else {
        return Err(Error::internal(format!("{} has no body", entry.key)));
    };
    if bytes.len() as u64 != body.length || crc32c::crc32c(bytes) != body.crc32c {
        return Err(Error::corrupt(key, format!("it is not the body of {}", entry.key)));
    }
    let container = container::read_own(&key, bytes)?;
    check_common(&key, &container)?;
    if text(&key, &container, COLLECTION)? != entry.collection.to_string() {
        return Err(Error::corrupt(key, format!("it is not of collection {}", entry.collection)));
    }
    check_blocks(&key, &entry.batches, &container.blocks)?;
    Ok(container.blocks)
}

/// Appends an entry's rows and tombstones to `builder`. `body` is the body object of an entry that has one.
///
/// # Errors
/// Corrupt, naming the object; Conflict when the builder's schema is stale.
pub fn decode_rows(entry: &Entry, body: Option<Bytes>, builder: &mut RowsBuilder) -> Result<()> {
    let (blocks, key) = stored_blocks(entry, body)?;
    let (mut blocks, mut first_row) = (blocks.iter(), 0);
    for batch in &entry.batches {
        for block in blocks.by_ref().take(batch.blocks as usize) {
            let context = BlockContext {
                op: batch.op,
                arrived_ms: batch.arrived_ms,
                seq: entry.seq,
                first_row,
                rows: block.rows,
            };
            builder.append_block(&block.data, &context).map_err(|e| match e.kind() {
                Kind::Corrupt => Error::corrupt(&key, e),
                _ => e.context(&key),
            })?;
            first_row += block.rows as u32;
        }
    }
    Ok(())
}

/// Derives each batch's hash again from the stored ids and compares: `verify`'s check of an entry.
///
/// # Errors
/// Corrupt, naming the object whose ids are not those of the header.
pub fn verify_hashes(entry: &Entry, body: Option<Bytes>) -> Result<()> {
    let (blocks, key) = stored_blocks(entry, body)?;
    let (mut rest, mut row, mut at) = (&blocks[..], 0, 0);
    for batch in &entry.batches {
        let (own, after) = rest.split_at_checked(batch.blocks as usize).unwrap_or((rest, &[]));
        let (mut same, first) = (true, row);
        let hash = walk_ids(own, entry.seq, &mut row, |id| {
            same &= entry.ids.as_ref().is_none_or(|ids| ids.get(at) == Some(&entry.collection.hash_id(id)));
            at += 1;
        })
        .map_err(|e| Error::corrupt(&key, e))?;
        if hash != batch.hash || !same || row - first != batch.rows {
            return Err(Error::corrupt(
                &key,
                format!("the ids of batch {} are not those of its header", batch.token),
            ));
        }
        rest = after;
    }
    Ok(())
}

/// The blocks of an entry and the key of the object they are in.
fn stored_blocks(entry: &Entry, body: Option<Bytes>) -> Result<(Vec<Block>, String)> {
    match (entry.body_key(), body) {
        (Some(key), Some(bytes)) => Ok((decode_body(entry, &bytes)?, key)),
        (Some(key), None) => {
            Err(Error::internal(format!("the rows of {} are in {key}, which was not read", entry.key)))
        }
        (None, _) => Ok((entry.blocks.clone(), entry.key.clone())),
    }
}

/// Visits the ids of a batch's blocks; `row` goes on from the batch before. Returns the sum of the rows' hashes.
fn walk_ids(blocks: &[Block], seq: Seq, row: &mut u32, mut visit: impl FnMut(&str)) -> Result<SetHash> {
    let mut hash = SetHash::default();
    for block in blocks {
        let first = *row;
        for id in ids(&block.data) {
            let id = id?;
            visit(id);
            hash += SetHash::of(id, seq, *row);
            *row = row
                .checked_add(1)
                .ok_or_else(|| Error::invalid("records", "too many records for one entry"))?;
        }
        if u64::from(*row - first) != block.rows {
            let message = format!("a block of {} records announces {}", *row - first, block.rows);
            return Err(Error::invalid("records", message));
        }
    }
    Ok(hash)
}

fn blocks_of(batches: &[PendingBatch]) -> Vec<(u64, &[u8])> {
    batches.iter().flat_map(|b| &b.blocks).map(|b| (b.rows, &b.data[..])).collect()
}

fn common_meta(collection: &CollectionId) -> BTreeMap<String, Vec<u8>> {
    BTreeMap::from([
        (FORMAT.to_owned(), FORMAT_VERSION.to_string().into_bytes()),
        (FEATURES.to_owned(), format!("{:016x}", 0).into_bytes()),
        (COLLECTION.to_owned(), collection.to_string().into_bytes()),
    ])
}

/// Checks what entries and bodies have in common; returns the feature flags.
fn check_common(key: &str, container: &Container) -> Result<u64> {
    let version = text(key, container, FORMAT)?;
    if version != FORMAT_VERSION.to_string() {
        return Err(Error::new(
            Kind::Invalid,
            format!("{key} has format version {}", version.escape_debug()),
        )
        .with_hint(format!("this build reads version {FORMAT_VERSION}; use a newer build")));
    }
    let flags = u64::from_str_radix(text(key, container, FEATURES)?, 16)
        .map_err(|_| Error::corrupt(key, format!("{FEATURES} is not a hex number")))?;
    check_features(key, flags)?;
    container.require_our_schema(key)?;
    if container.codec != Codec::Null {
        return Err(Error::corrupt(key, "its blocks are compressed"));
    }
    Ok(flags)
}

fn parse_ids(text: &[u8]) -> Option<Vec<u64>> {
    let bytes = BASE64.decode(text).ok()?;
    let (ids, rest) = bytes.as_chunks();
    rest.is_empty().then(|| ids.iter().map(|b| u64::from_le_bytes(*b)).collect())
}

/// The number of rows, if an entry can have that many.
fn check_rows(batches: &[Batch]) -> Option<u64> {
    let rows = batches.iter().try_fold(0u32, |n, b| n.checked_add(b.rows))?;
    i32::try_from(rows).ok().map(|_| rows.into())
}

/// Whether the blocks are those that the batches announce.
fn check_blocks(key: &str, batches: &[Batch], blocks: &[Block]) -> Result<()> {
    let mut rest = blocks;
    for batch in batches {
        let Some((own, after)) = rest.split_at_checked(batch.blocks as usize) else {
            return Err(Error::corrupt(key, "it has fewer blocks than its batches"));
        };
        let rows = own.iter().try_fold(0u64, |n, b| n.checked_add(b.rows));
        if rows != Some(batch.rows.into()) {
            return Err(Error::corrupt(
                key,
                format!("the blocks of batch {} have other rows than it", batch.token),
            ));
        }
        rest = after;
    }
    if rest.is_empty() { Ok(()) } else { Err(Error::corrupt(key, "it has more blocks than its batches")) }
}

fn text<'c>(key: &str, container: &'c Container, name: &str) -> Result<&'c str> {
    let value = container.meta.get(name).ok_or_else(|| Error::corrupt(key, format!("it lacks {name}")))?;
    std::str::from_utf8(value).map_err(|_| Error::corrupt(key, format!("{name} is not UTF-8")))
}

fn parse<T: for<'de> Deserialize<'de>>(key: &str, container: &Container, name: &str) -> Result<T> {
    serde_json::from_str(text(key, container, name)?).map_err(|e| Error::corrupt(key, format!("{name}: {e}")))
}

fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value)
        .map_err(|e| Error::internal("a header cannot be written as JSON").with_source(e))
}

#[cfg(test)]
mod tests;
