//! Batches that a writer offers to others: `inbox/{~tail}-{token}`, an Avro container like an entry. Whoever puts the next
//! entry copies them into it, each once: [`crate::append::may_take`].
//!
//! | key | value |
//! |---|---|
//! | `esker.format`, `esker.features`, `esker.collection` | as in an entry |
//! | `esker.tail` | the slot after which they were offered: none of them is in the log up to there; decimal |
//! | `esker.offered` | JSON: the batches, in the order of the blocks |

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Batch, PendingBatch, blocks_of, check_blocks, check_common, common_meta, json, parse, text};
use crate::avro::container;
use crate::error::{Error, Result};
use crate::id::{CollectionId, Content, Seq, SetHash, Token};
use crate::keys::{Key, Keys, Part};
use crate::limits;
use crate::record::Op;

/// Metadata key of the slot after which the batches were offered.
pub const TAIL: &str = "esker.tail";
/// Metadata key of the batches.
pub const OFFERED: &str = "esker.offered";

/// A batch as an inbox object lists it: as in an entry, but for the hash, which depends on the entry.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Offered {
    token: Token,
    given: bool,
    content: Option<Content>,
    op: Op,
    rows: u32,
    blocks: u32,
    arrived_ms: i64,
}

/// Name and bytes of the object that offers `batches`, of which there is one at least, after the slot `tail`.
///
/// # Errors
/// Internal when there is no batch, or more than [`limits::INBOX_BYTES`]; Invalid when one has more rows than an entry can.
pub fn encode(collection: &CollectionId, tail: Seq, batches: &[PendingBatch]) -> Result<(String, Vec<u8>)> {
    let Some(first) = batches.first() else { return Err(Error::internal("nothing is offered")) };
    if batches.iter().map(PendingBatch::bytes).sum::<usize>() > limits::INBOX_BYTES {
        return Err(Error::internal("more is offered than may be"));
    }
    let offered = |b: &PendingBatch| {
        Ok(Offered {
            token: b.token,
            given: b.given,
            content: b.content,
            op: b.op,
            rows: u32::try_from(b.rows())
                .map_err(|_| Error::invalid("records", "too many records for one entry"))?,
            blocks: b.blocks.len() as u32,
            arrived_ms: b.arrived_ms,
        })
    };
    let offered: Vec<Offered> = batches.iter().map(offered).collect::<Result<_>>()?;
    let mut meta = common_meta(collection);
    meta.insert(TAIL.to_owned(), tail.to_string().into_bytes());
    meta.insert(OFFERED.to_owned(), json(&offered)?);
    Ok((Keys::new(collection).inbox(tail, first.token), container::write(&meta, &blocks_of(batches))))
}

/// The batches of an inbox object, verified; blocks are slices of `bytes`.
///
/// # Errors
/// Corrupt when the bytes are not those written under this key. Invalid when they are of a newer format.
pub fn decode(key: &str, bytes: &Bytes) -> Result<Vec<PendingBatch>> {
    let container = container::read_own(key, bytes)?;
    check_common(key, &container)?;
    let corrupt = |what: &str| Error::corrupt(key, what);
    let collection: CollectionId =
        text(key, &container, super::COLLECTION)?.parse().map_err(|e: Error| corrupt(&e.to_string()))?;
    let tail: Seq = text(key, &container, TAIL)?.parse().map_err(|_| corrupt("its tail is not a number"))?;
    let offered: Vec<Offered> = parse(key, &container, OFFERED)?;
    let first = offered.first().ok_or_else(|| corrupt("it offers nothing"))?;
    if Key::parse(key).ok() != Some(Key::Of(collection, Part::Inbox(tail, first.token))) {
        return Err(corrupt("it was written under another name"));
    }
    if container.blocks.iter().map(|b| b.data.len()).sum::<usize>() > limits::INBOX_BYTES {
        return Err(corrupt("it is larger than what may be offered"));
    }
    let listed: Vec<Batch> = offered.iter().map(Offered::as_batch).collect();
    check_blocks(key, &listed, &container.blocks)?;
    let mut blocks = container.blocks.into_iter();
    let pending = |o: &Offered| PendingBatch {
        token: o.token,
        given: o.given,
        content: o.content,
        op: o.op,
        arrived_ms: o.arrived_ms,
        blocks: blocks.by_ref().take(o.blocks as usize).collect(),
    };
    let pending: Vec<PendingBatch> = offered.iter().map(pending).collect();
    // An entry names each batch once, and its rows are counted as they are walked.
    for batch in &pending {
        super::walk_ids(&batch.blocks, tail, &mut 0, |_| {}).map_err(|e| Error::corrupt(key, e))?;
        let same = |other: &&PendingBatch| other.token == batch.token;
        if pending.iter().filter(same).nth(1).is_some() {
            return Err(corrupt("it offers a batch twice"));
        }
    }
    Ok(pending)
}

impl Offered {
    fn as_batch(&self) -> Batch {
        Batch {
            token: self.token,
            given: self.given,
            content: self.content,
            op: self.op,
            rows: self.rows,
            blocks: self.blocks,
            arrived_ms: self.arrived_ms,
            hash: SetHash::default(),
        }
    }
}

#[cfg(test)]
mod tests;
