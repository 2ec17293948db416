//! What a job merges, and how its rows are read.

use std::sync::Arc;

use arrow::array::{Array, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use esker_format::manifest::{Manifest, Segment};
use esker_format::schema::{Schema, Settings};
use esker_format::segment::rows::{VECTOR_COLUMN, row_group_rows};
use esker_format::{Error, Kind, Result, SetHash, Version};
use esker_store::segment::all_columns;
use esker_store::{Collection, Meter, SegmentReader};
use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

use super::pack::{Pack, Unpack};
use crate::fold::{expiries, is_expired};
use crate::versions::Versions;

/// Goes up when results of the same name become something else: a job of another build is given up.
pub(super) const RESULTS: u32 = 2;

/// What a job is about: never changed once it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Plan {
    /// [`RESULTS`] of the build that began it.
    #[serde(default)]
    pub(super) results: u32,
    /// The version it was made from.
    pub(super) version: Version,
    /// The segments that it merges, as they were in that version.
    pub(super) inputs: Vec<Segment>,
    pub(super) settings: Settings,
    pub(super) schema: Schema,
    pub(super) seed: u64,
    pub(super) memory: u64,
    /// Rows that expired by then are left out.
    pub(super) now_ms: i64,
    /// The rows that all segments had, if these are all.
    pub(super) live: Option<SetHash>,
}

impl Plan {
    /// Rows, those that expired among them.
    pub(super) fn rows(&self) -> u64 {
        self.inputs.iter().map(Segment::live).sum()
    }

    /// Bytes of a row in the files, on average.
    pub(super) fn row_bytes(&self) -> u64 {
        let sum = |of: fn(&Segment) -> u64| self.inputs.iter().map(of).sum::<u64>();
        sum(|s| s.rows_size) / sum(|s| s.rows).max(1)
    }

    /// Whether this build may go on, and the inputs are still there.
    pub(super) fn stands(&self, manifest: &Manifest) -> bool {
        self.results == RESULTS
            && self.inputs.iter().all(|input| manifest.segments.iter().any(|s| s.made == input.made))
    }
}

/// An input row group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Group {
    /// Which input, and which of its row groups.
    pub(super) input: usize,
    pub(super) group: usize,
    first: u32,
    rows: u32,
}

/// Some rows that move.
pub(super) struct Moved {
    pub(super) batch: RecordBatch,
    /// Expired ones that do not: ordinal and hash.
    pub(super) dropped: Vec<(u32, SetHash)>,
    /// Sum of the hashes of those that do.
    pub(super) hash: SetHash,
}

pub(super) struct Sources<'a> {
    collection: &'a Arc<Collection>,
    pub(super) plan: Arc<Plan>,
    /// Of each input the rows that were dead in the plan's version.
    pub(super) deleted: Vec<RoaringBitmap>,
    pub(super) groups: Vec<Group>,
    readers: Vec<OnceCell<SegmentReader>>,
}

impl<'a> Sources<'a> {
    /// Reads what is dead of each input of a new plan.
    pub(super) async fn of_plan(meter: &Meter, collection: &'a Arc<Collection>, plan: Plan) -> Result<Self> {
        let mut deleted = Vec::with_capacity(plan.inputs.len());
        for input in &plan.inputs {
            let reader = SegmentReader::open(collection, meter, input, None).await?;
            deleted.push(reader.deleted().clone());
        }
        Ok(Sources::new(collection, plan, deleted))
    }

    pub(super) fn new(collection: &'a Arc<Collection>, plan: Plan, deleted: Vec<RoaringBitmap>) -> Self {
        let in_group = row_group_rows(plan.settings.stride() as u32);
        let groups = plan.inputs.iter().enumerate().flat_map(|(input, segment)| {
            let rows = segment.rows as u32;
            let firsts = (0..rows).step_by(in_group as usize).enumerate();
            firsts.map(move |(group, first)| Group { input, group, first, rows: in_group.min(rows - first) })
        });
        let (groups, readers) = (groups.collect(), plan.inputs.iter().map(|_| OnceCell::new()).collect());
        Sources { collection, plan: Arc::new(plan), deleted, groups, readers }
    }

    pub(super) fn pack(&self) -> Result<Pack> {
        let mut pack = Pack::default().json(&*self.plan)?;
        for deleted in &self.deleted {
            let mut bytes = Vec::new();
            let wrong = |e| Error::internal("a bitmap cannot be written").with_source(e);
            deleted.serialize_into(&mut bytes).map_err(wrong)?;
            pack = pack.bytes(&bytes);
        }
        Ok(pack)
    }

    pub(super) fn unpack(collection: &'a Arc<Collection>, mut kept: Unpack) -> Result<Self> {
        let plan: Plan = kept.json()?;
        let mut deleted = Vec::with_capacity(plan.inputs.len());
        for input in &plan.inputs {
            let bitmap = RoaringBitmap::deserialize_from(&kept.bytes()?[..]);
            let bitmap = bitmap.ok().filter(|dead| dead.len() == input.rows - input.live());
            deleted
                .push(bitmap.ok_or_else(|| Error::corrupt(kept.key(), "a bitmap is not that of its input"))?);
        }
        Ok(Sources::new(collection, plan, deleted))
    }

    pub(super) async fn reader(&self, meter: &Meter, input: usize) -> Result<&SegmentReader> {
        let open = || async {
            // Bitmaps that others made since are not asked for: what was dead then is known.
            let segment = Segment { deletes: None, ..self.plan.inputs[input].clone() };
            Ok(SegmentReader::open(self.collection, meter, &segment, None).await?.uncached())
        };
        self.readers[input].get_or_try_init(open).await
    }

    /// Ordinals of the rows of a group that were not dead, ascending.
    pub(super) fn ordinals(&self, group: Group) -> impl Iterator<Item = u32> + '_ {
        let dead = &self.deleted[group.input];
        (group.first..group.first + group.rows).filter(move |ordinal| !dead.contains(*ordinal))
    }

    /// The vectors of the rows of a group that were not dead.
    pub(super) async fn vectors(&self, meter: &Meter, group: Group) -> Result<RecordBatch> {
        // Ids come along: vectors are the second column.
        self.columns(meter, group, &[0, VECTOR_COLUMN]).await
    }

    /// The rows of a group that move.
    pub(super) async fn rows(&self, meter: &Meter, group: Group) -> Result<Moved> {
        let batch = self.columns(meter, group, &all_columns(&self.plan.schema)).await?;
        let (mut keeps, mut dropped, mut hash) = (Vec::new(), Vec::new(), SetHash::default());
        {
            let (versions, expiries) = (Versions::of(&batch)?, expiries(&batch)?);
            for (i, ordinal) in self.ordinals(group).enumerate() {
                let version = versions.get(i);
                if expiries.is_valid(i) && is_expired(expiries.value(i), self.plan.now_ms) {
                    dropped.push((ordinal, version.hash()));
                } else {
                    keeps.push(i as u32);
                    hash += version.hash();
                }
            }
        }
        let batch = if dropped.is_empty() { batch } else { take(&batch, keeps)? };
        Ok(Moved { batch, dropped, hash })
    }

    async fn columns(&self, meter: &Meter, group: Group, columns: &[usize]) -> Result<RecordBatch> {
        let reader = self.reader(meter, group.input).await?;
        let all = reader.rows(meter).await?.group(meter, group.group, &self.plan.schema, columns).await?;
        if all.num_rows() != group.rows as usize {
            return Err(Error::new(Kind::Corrupt, "a row group has other rows than its segment says"));
        }
        let ordinals: Vec<u32> = self.ordinals(group).map(|ordinal| ordinal - group.first).collect();
        if ordinals.len() == all.num_rows() { Ok(all) } else { take(&all, ordinals) }
    }
}

fn take(batch: &RecordBatch, rows: Vec<u32>) -> Result<RecordBatch> {
    let taken = take_record_batch(batch, &UInt32Array::from(rows));
    taken.map_err(|e| Error::internal("rows cannot be taken out").with_source(e))
}
