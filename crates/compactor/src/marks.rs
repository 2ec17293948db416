//! Which live rows of older segments a tail overwrote or deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use esker_format::schema::Schema;
use esker_format::segment::BLOCK_ROWS;
use esker_format::{Error, Result, Seq, SetHash};
use esker_store::{Meter, SegmentReader};
use futures::TryStreamExt;

use crate::fold::Winners;
use crate::versions::{RowVersion, Versions};

/// Candidates are confirmed by payload blocks up to this share of the blocks, above it by whole columns …
const BLOCKS_SHARE: usize = 8;
/// … but always by this few, and never by more than this many.
const BLOCKS: (usize, usize) = (64, 1024);

/// Rows of a segment that are dead from now on: their hashes by ordinal.
pub(crate) type Marks = BTreeMap<u32, SetHash>;

/// The sum of the hashes of marked rows.
pub(crate) fn hash_of(marks: &Marks) -> SetHash {
    marks.values().copied().sum()
}

/// The live rows of `segment` that the tail touched, whose hashes of ids are `hashes`. Ids are found by hash and confirmed
/// as text.
pub(crate) async fn find(
    meter: &Meter,
    segment: &SegmentReader,
    schema: &Arc<Schema>,
    winners: &Winners,
    hashes: &[u64],
) -> Result<Marks> {
    let mut found: Vec<u32> = segment.find(meter, hashes).await?.into_iter().map(|(_, o)| o).collect();
    // Ids of equal hash find the same rows.
    found.sort_unstable();
    found.dedup();
    let blocks: BTreeSet<u32> = found.iter().map(|ordinal| ordinal / BLOCK_ROWS).collect();
    let all = segment.header().facts().rows.div_ceil(BLOCK_ROWS) as usize;
    match blocks.len() > (all / BLOCKS_SHARE).clamp(BLOCKS.0, BLOCKS.1) {
        true => by_columns(meter, segment, schema, winners, &found).await,
        false => by_payload(meter, segment, schema, winners, &found).await,
    }
}

async fn by_payload(
    meter: &Meter,
    segment: &SegmentReader,
    schema: &Arc<Schema>,
    winners: &Winners,
    found: &[u32],
) -> Result<Marks> {
    let blocks = segment.payload(meter, schema, found.iter().copied()).await?;
    let mut marks = Marks::new();
    for ordinal in found {
        let row = (ordinal % BLOCK_ROWS) as usize;
        let Some(block) = blocks.get(&(ordinal / BLOCK_ROWS)).filter(|b| row < b.len()) else {
            return Err(Error::corrupt(
                segment.header().object(),
                format!("it has no payload of row {ordinal}"),
            ));
        };
        // Another id may have the same hash.
        if winners.touch(block.id(row)) {
            let (seq, row_of_entry) = block.seq_row(row);
            let version = RowVersion { id: block.id(row), seq: seq as Seq, row: row_of_entry as u32 };
            marks.insert(*ordinal, version.hash());
        }
    }
    Ok(marks)
}

async fn by_columns(
    meter: &Meter,
    segment: &SegmentReader,
    schema: &Schema,
    winners: &Winners,
    found: &[u32],
) -> Result<Marks> {
    let columns = [0, 2 + schema.columns.len() + 5, 2 + schema.columns.len() + 6];
    let rows = segment.rows(meter).await?;
    let live = rows.live(meter, schema, &columns);
    futures::pin_mut!(live);
    let mut marks = Marks::new();
    while let Some(rows) = live.try_next().await? {
        let versions = Versions::of(&rows.batch)?;
        for (i, ordinal) in rows.ordinals.iter().enumerate().filter(|(_, o)| found.binary_search(o).is_ok()) {
            let version = versions.get(i);
            if winners.touch(version.id) {
                marks.insert(*ordinal, version.hash());
            }
        }
    }
    Ok(marks)
}
