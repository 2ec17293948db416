//! The segments that a compaction reads: those it rewrites, and those in which it marks what the tail overwrote.

use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use esker_format::head::Part;
use esker_format::manifest::Segment;
use esker_format::segment::index::Section;
use esker_format::{Result, SetHash};
use esker_index::GROUP;
use esker_store::segment::all_columns;
use esker_store::{Collection, Meter, SegmentReader, Unfolded};
use futures::{StreamExt, TryStreamExt, stream};
use roaring::RoaringBitmap;

use super::spilling::Spilling;
use super::{Listener, Progress, Stage, blocking};
use crate::build::{Base, BaseCodes, Spill, bytes_of};
use crate::fold::{Winners, expiries, is_expired, keep};
use crate::marks::{self, Marks, hash_of};
use crate::scratch::{Scratch, ScratchFile, broken};
use crate::versions::Versions;

/// Bytes of codes that are read at once where they do not stay in memory.
const CODES_AT_ONCE: u32 = 8 << 20;

/// What a compaction read of older segments.
pub(crate) struct Inputs {
    /// Every segment that the commit depends on, as in the manifest it started from.
    pub(crate) segments: Vec<Segment>,
    pub(crate) merged: Vec<Merged>,
    pub(crate) kept: Vec<Kept>,
    /// Rows of merged segments that had expired.
    pub(crate) expired: u64,
}

/// Where rows wait until they are built: in memory while they are few.
pub(super) enum Gathered<'a> {
    Memory { rows: Vec<RecordBatch>, room: u64, spill: Spilled<'a> },
    Scratch(Spilling),
}

/// Begins to keep rows in scratch files.
type Spilled<'a> = Box<dyn Fn() -> Result<Box<Spill>> + Send + Sync + 'a>;

impl<'a> Gathered<'a> {
    /// In memory while they take no more than `room` bytes there.
    pub(super) fn new(room: u64, spill: Spilled<'a>) -> Self {
        Gathered::Memory { rows: Vec::new(), room, spill }
    }

    pub(super) fn push(&mut self, batch: RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        match self {
            Gathered::Memory { rows, room, spill } => {
                if let Some(left) = room.checked_sub(bytes_of(&batch)) {
                    *room = left;
                    rows.push(batch);
                    return Ok(());
                }
                let rows = std::mem::take(rows);
                let mut spilling = Spilling::new(spill()?)?;
                rows.into_iter().chain([batch]).try_for_each(|batch| spilling.push(batch))?;
                *self = Gathered::Scratch(spilling);
            }
            Gathered::Scratch(spilling) => spilling.push(batch)?,
        }
        Ok(())
    }

    /// Segments read at once.
    fn at_once(&self) -> usize {
        match self {
            Gathered::Memory { .. } => 8,
            Gathered::Scratch(_) => 1,
        }
    }
}

/// A segment that is rewritten.
pub(crate) struct Merged {
    pub(crate) reader: SegmentReader,
    /// Rows that were dead when the others were read.
    pub(crate) deleted: RoaringBitmap,
    /// Ordinals of the rows that move, ascending.
    pub(crate) moved: Vec<u32>,
    /// Input row of the first of them; the others follow.
    pub(crate) first: usize,
    /// Live rows that do not: overwritten, deleted or expired.
    pub(crate) dropped: Marks,
    /// Sum of the hashes of the rows that move.
    pub(crate) hash: SetHash,
}

/// A segment that stays, some of whose rows are dead from now on.
pub(crate) struct Kept {
    pub(super) reader: SegmentReader,
    pub(super) marks: Marks,
    /// What `head` had of it.
    pub(super) part: Option<Part>,
}

impl Inputs {
    /// Reads what the fold needs of older segments; the rows that move go to `out`.
    #[allow(clippy::too_many_arguments, reason = "one call of one caller")]
    pub(super) async fn read(
        meter: &Meter,
        collection: &Arc<Collection>,
        snapshot: &Unfolded,
        winners: &Winners,
        merges: &[bool],
        now_ms: i64,
        out: &mut Gathered<'_>,
        progress: Listener<'_>,
    ) -> Result<Self> {
        let segments = &snapshot.manifest.segments;
        let folds = !snapshot.tail.is_empty();
        let known = segments.iter().zip(merges).filter(|(_, merge)| folds || **merge);
        let mut inputs = Inputs {
            segments: known.map(|(s, _)| s.clone()).collect(),
            merged: Vec::new(),
            kept: Vec::new(),
            expired: 0,
        };
        let total = winners.live_rows
            + segments.iter().zip(merges).filter(|(_, m)| **m).map(|(s, _)| s.live()).sum::<u64>();
        let mut done = 0;
        progress(Progress { stage: Stage::Read, done, total });
        let mut first = 0;
        for (i, segment) in segments.iter().enumerate().filter(|(i, _)| merges[*i]) {
            let part = snapshot.parts.get(i).and_then(Option::as_ref);
            let reader = SegmentReader::open(collection, meter, segment, part).await?.uncached();
            let merged = inputs.merge(meter, reader, snapshot, winners, first, now_ms, out).await?;
            first += merged.moved.len();
            inputs.merged.push(merged);
            done += segment.live();
            progress(Progress { stage: Stage::Read, done, total });
        }
        let hashes = &winners.hashes();
        if hashes.is_empty() {
            return Ok(inputs);
        }
        let schema = Arc::new(snapshot.schema.clone());
        let kept = segments.iter().enumerate().filter(|(i, _)| !merges[*i]).map(|(i, segment)| {
            let (meter, schema) = (meter.fork(), &schema);
            let part = snapshot.parts.get(i).and_then(Option::as_ref);
            async move {
                let reader = SegmentReader::open(collection, &meter, segment, part).await?;
                let marks = marks::find(&meter, &reader, schema, winners, hashes).await?;
                Ok::<_, esker_format::Error>(Kept { reader, marks, part: part.cloned() })
            }
        });
        let kept: Vec<_> = kept.collect();
        inputs.kept = stream::iter(kept).buffered(out.at_once()).try_collect().await?;
        inputs.kept.retain(|k| !k.marks.is_empty());
        Ok(inputs)
    }

    /// Reads the live rows of a segment exactly, and drops those that the tail touched or that expired.
    #[allow(clippy::too_many_arguments, reason = "one call of one caller")]
    async fn merge(
        &mut self,
        meter: &Meter,
        reader: SegmentReader,
        snapshot: &Unfolded,
        winners: &Winners,
        first: usize,
        now_ms: i64,
        out: &mut Gathered<'_>,
    ) -> Result<Merged> {
        let (mut moved, mut dropped, mut hash) = (Vec::new(), Marks::new(), SetHash::default());
        {
            let columns = all_columns(&snapshot.schema);
            let rows = reader.rows(meter).await?;
            let live = rows.live(meter, &snapshot.schema, &columns);
            futures::pin_mut!(live);
            while let Some(live) = live.try_next().await? {
                let (versions, expiries) = (Versions::of(&live.batch)?, expiries(&live.batch)?);
                let mut keeps = Vec::with_capacity(live.ordinals.len());
                for (i, ordinal) in live.ordinals.iter().enumerate() {
                    let version = versions.get(i);
                    let expired = expiries.is_valid(i) && is_expired(expiries.value(i), now_ms);
                    let overwritten = winners.touch(version.id);
                    keeps.push(!expired && !overwritten);
                    if expired || overwritten {
                        dropped.insert(*ordinal, version.hash());
                        self.expired += u64::from(!overwritten);
                    } else {
                        moved.push(*ordinal);
                        hash += version.hash();
                    }
                }
                out.push(keep(&live.batch, keeps)?)?;
            }
        }
        let deleted = reader.deleted().clone();
        Ok(Merged { reader, deleted, moved, first, dropped, hash })
    }

    /// The input around whose leaves the new segment is built, if one has most of its rows. `fresh` is the number of
    /// the tail's.
    pub(super) async fn base(
        &self,
        meter: &Meter,
        snapshot: &Unfolded,
        fresh: u64,
        rows: &Gathered<'_>,
        scratch: &dyn Scratch,
    ) -> Result<Option<Base<'_>>> {
        let largest = self.merged.iter().max_by_key(|m| m.moved.len());
        let Some(Merged { reader, moved, first, .. }) = largest else { return Ok(None) };
        if !Base::carries(moved.len() as u64, self.moved_rows() + fresh) {
            return Ok(None);
        }
        // `head` may have the codes.
        let made = reader.segment().made;
        let held = snapshot.parts.iter().flatten().find(|part| part.made == made);
        let held = held.and_then(|part| part.codes.clone());
        let held = held.filter(|codes| reader.header().check_section(Section::Codes, codes).is_ok());
        let codes = match (held, rows) {
            (Some(codes), _) => BaseCodes::Memory(codes),
            (None, Gathered::Memory { .. }) => {
                BaseCodes::Memory(reader.section(meter, Section::Codes).await?)
            }
            (None, Gathered::Scratch(_)) => {
                BaseCodes::Scratch(codes_aside(meter, reader, scratch, CODES_AT_ONCE).await?)
            }
        };
        Ok(Some(Base { header: reader.header(), codes, moved, first: *first }))
    }

    /// Number of rows that move.
    pub(crate) fn moved_rows(&self) -> u64 {
        self.merged.iter().map(|m| m.moved.len() as u64).sum()
    }

    /// Sum of the hashes of rows that move.
    pub(crate) fn moved(&self) -> SetHash {
        self.merged.iter().map(|m| m.hash).sum()
    }

    /// Number of rows that were live and are dead from now on.
    pub(crate) fn marked(&self) -> u64 {
        let dropped = self.merged.iter().map(|m| m.dropped.len());
        dropped.chain(self.kept.iter().map(|k| k.marks.len())).sum::<usize>() as u64
    }

    /// Sum of their hashes.
    pub(crate) fn pruned(&self) -> SetHash {
        let dropped = self.merged.iter().map(|m| hash_of(&m.dropped));
        dropped.chain(self.kept.iter().map(|k| hash_of(&k.marks))).sum()
    }
}

/// The codes of a segment in a file: some leaves at a time are read, of up to `at_once` bytes or one, and checked.
async fn codes_aside(
    meter: &Meter,
    reader: &SegmentReader,
    scratch: &dyn Scratch,
    at_once: u32,
) -> Result<Arc<dyn ScratchFile>> {
    let file = scratch.file().map_err(broken)?;
    let facts = reader.header().facts();
    let postings = reader.header().posting_starts();
    let most = (at_once / facts.group_bytes.max(1)).saturating_mul(GROUP as u32);
    let mut first = 0;
    while first < facts.leaves {
        let start = postings[first as usize];
        let fit = postings.partition_point(|posting| *posting <= start.saturating_add(most)) as u32 - 1;
        let end = fit.clamp(first + 1, facts.leaves);
        let codes = reader.codes(meter, first..end).await?;
        // The first group may hold postings of the leaf before, too.
        let at = u64::from(start / GROUP as u32) * u64::from(facts.group_bytes);
        let new = codes.get(file.length().saturating_sub(at) as usize..).unwrap_or_default();
        blocking(|| file.append(new)).map_err(broken)?;
        first = end;
    }
    Ok(file)
}

#[cfg(test)]
mod tests;
