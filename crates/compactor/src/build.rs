//! Rows in, a segment out (INDEX §1), in memory or, for more rows, out of it (`large`): cluster, put the rows in leaf order, write `rows.parquet`, codes, payload and
//! attributes beside each other, calibrate, lay out the index. Sync, seeded, no I/O: equal rows, options and instruction
//! set give equal bytes whatever the number of threads.

mod basis;
mod buckets;
mod calibration;
mod codes;
mod copies;
mod large;
mod merge;
mod order;
mod spill;
pub(crate) mod units;
mod vectors;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::RecordBatch;
use bytes::Bytes;
use esker_format::head::CODES_BYTES;
use esker_format::schema::{Schema, Settings, arrow_schema};
use esker_format::segment::attributes::{Attributes, AttributesBuilder};
use esker_format::segment::index::{IndexParts, IndexSummary, IndexWriter};
use esker_format::segment::payload::{Payload, PayloadWriter};
use esker_format::segment::rows::{RowsLayout, RowsWriter, verify_layout};
use esker_format::{CollectionId, Error, Result, Seq, SetHash};
use esker_index::{Clustering, Metric, cluster, leaf_target};
use esker_store::Clock;

use crate::parallel::{self, Task};
use crate::scratch::{Scratch, ScratchFile};
use crate::versions::versions;
use calibration::Truth;
use codes::Coded;
use copies::Postings;
pub(crate) use large::Large;
pub(crate) use merge::{Base, BaseCodes};
use order::Ordered;
#[cfg(test)]
pub(crate) use order::floats as floats_of_batch;
pub(crate) use spill::{Spill, bytes_of};
use vectors::Whole;

/// What the rows belong to.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The collection, which keys the hashes of ids.
    pub collection: &'a CollectionId,
    /// Dimension, metric and element type.
    pub settings: &'a Settings,
    /// The metadata columns of the rows.
    pub schema: &'a Schema,
}

/// How to build.
#[derive(Debug, Clone, Copy)]
pub struct BuildOptions {
    /// Decides clustering, rotation and sampling; the rotation's is stored.
    pub seed: u64,
    /// Most threads at once.
    pub threads: usize,
    /// Whether rows get copies in second leaves: their codes once more, so that a search which reads some of the leaves finds
    /// its neighbours in fewer. Worth it where codes take more than 32 MiB and a sample of queries needs far fewer leaves then.
    pub copies: Choice,
    /// Whether codes are made with a learned basis, of half as many bits rounded up to 64. Worth it where cold searches read some of the codes and a
    /// sample's estimates are better.
    pub basis: Choice,
}

/// Whether to make what not every segment is better for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// Where a sample says that it is.
    #[default]
    WhereWorth,
    /// Wherever it can be made.
    Always,
    /// Nowhere.
    Never,
}

/// A segment's two files and what a manifest and `head` say about them.
#[derive(Debug, Clone)]
pub struct BuiltSegment {
    /// `rows.parquet`.
    pub rows_file: Bytes,
    /// The index file.
    pub index_file: Bytes,
    /// Sizes and the checksum of the part that opens the index.
    pub summary: IndexSummary,
    /// The codes section of the index file, for `head`.
    pub codes: Bytes,
    /// Input row of each ordinal, rows of all batches counted on.
    pub order: Vec<u32>,
    /// First ordinal of each leaf, and the number of rows at the end.
    pub leaf_starts: Vec<u32>,
    /// Smallest and greatest seq of the rows.
    pub seqs: (Seq, Seq),
    /// Sum of the rows' hashes.
    pub hash: SetHash,
    /// Rows whose codes were copied from another segment.
    pub copied: u64,
}

/// The bytes of a new object.
pub(crate) enum Blob {
    Memory(Bytes),
    Scratch(Arc<dyn ScratchFile>),
    /// So many, which are in the store already.
    Placed(u64),
}

impl Blob {
    pub(crate) fn len(&self) -> u64 {
        match self {
            Blob::Memory(bytes) => bytes.len() as u64,
            Blob::Scratch(file) => file.length(),
            Blob::Placed(length) => *length,
        }
    }
}

/// A segment that is made, wherever its files are.
pub(crate) struct Made {
    pub(crate) rows_file: Blob,
    pub(crate) index_file: Blob,
    pub(crate) summary: IndexSummary,
    pub(crate) header: Bytes,
    /// The codes, if `head` may carry them.
    pub(crate) codes: Option<Bytes>,
    pub(crate) order: Vec<u32>,
    pub(crate) leaf_starts: Vec<u32>,
    pub(crate) seqs: (Seq, Seq),
    pub(crate) hash: SetHash,
    pub(crate) copied: u64,
}

impl Made {
    /// Number of rows.
    pub(crate) fn rows(&self) -> u64 {
        self.order.len() as u64
    }
}

impl From<BuiltSegment> for Made {
    fn from(built: BuiltSegment) -> Self {
        Made {
            header: built.header(),
            codes: (built.codes.len() as u64 <= CODES_BYTES).then_some(built.codes),
            rows_file: Blob::Memory(built.rows_file),
            index_file: Blob::Memory(built.index_file),
            summary: built.summary,
            order: built.order,
            leaf_starts: built.leaf_starts,
            seqs: built.seqs,
            hash: built.hash,
            copied: built.copied,
        }
    }
}

impl BuiltSegment {
    /// Number of rows.
    pub fn rows(&self) -> u64 {
        self.order.len() as u64
    }

    /// The start of the index file that opens it.
    pub fn header(&self) -> Bytes {
        self.index_file.slice(..self.summary.header_len as usize)
    }
}

/// Builds a segment of `rows`, all live, with `arrow_schema(settings, schema)` and in any order. No rows make no
/// segment. `progress` hears clustering work done and its total. Memory stays below three times the vectors as f32.
///
/// # Errors
/// Internal when the rows are not what they should be, or a file does not read back as it was written.
pub fn build_segment(
    rows: Vec<RecordBatch>,
    target: Target<'_>,
    options: BuildOptions,
    clock: &dyn Clock,
    progress: &dyn Fn(u64, u64),
) -> Result<Option<BuiltSegment>> {
    build_merged(rows, None, target, options, clock, progress)
}

/// [`build_segment`] around the leaves and codes of the input that has most of the rows, if one has.
pub(crate) fn build_merged(
    rows: Vec<RecordBatch>,
    base: Option<Base<'_>>,
    target: Target<'_>,
    options: BuildOptions,
    clock: &dyn Clock,
    progress: &dyn Fn(u64, u64),
) -> Result<Option<BuiltSegment>> {
    let arrow = arrow_schema(target.settings, target.schema);
    if rows.iter().any(|b| b.schema().fields() != arrow.fields()) {
        return Err(Error::internal("rows for a segment do not have the collection's schema"));
    }
    let count: usize = rows.iter().map(RecordBatch::num_rows).sum();
    if count == 0 {
        return Ok(None);
    }
    if u32::try_from(count).is_err() {
        return Err(Error::internal(format!("{count} rows are too many for one segment")));
    }
    let build = Build { target, options, watch: StopWatch::new(clock) };
    build.run(rows, base, progress).map(Some)
}

/// The files of a segment that was built in scratch files.
pub struct BuiltFiles {
    /// `rows.parquet`.
    pub rows_file: Arc<dyn ScratchFile>,
    /// The index file.
    pub index_file: Arc<dyn ScratchFile>,
    /// Sizes and the checksum of the part that opens the index.
    pub summary: IndexSummary,
    /// That part.
    pub header: Bytes,
}

/// [`build_segment`] of rows that come one batch after the other and need not fit `memory` (bytes): a compaction does the
/// same where a third of its memory is too little for them.
///
/// # Errors
/// As [`build_segment`], and Unavailable when the scratch files fail.
pub fn build_segment_in_scratch(
    rows: impl Iterator<Item = Result<RecordBatch>> + Send,
    target: Target<'_>,
    options: BuildOptions,
    memory: u64,
    scratch: &dyn Scratch,
    clock: &dyn Clock,
    progress: &dyn Fn(u64, u64),
) -> Result<Option<BuiltFiles>> {
    let mut watch = StopWatch::new(clock);
    let mut spill = Spill::new(target.settings, memory, options.seed, options.threads, scratch)?;
    parallel::ahead(options.threads, rows, |batch| spill.push(&batch))?;
    watch.lap("spill");
    let built =
        Large { target, options, memory, scratch, watch }.build(spill, None, progress, &mut |_| {})?;
    Ok(built.and_then(|made| match (made.rows_file, made.index_file) {
        (Blob::Scratch(rows_file), Blob::Scratch(index_file)) => {
            Some(BuiltFiles { rows_file, index_file, summary: made.summary, header: made.header })
        }
        _ => None,
    }))
}

/// The metric in the words of the index.
pub(crate) fn metric(settings: &Settings) -> Metric {
    match settings.metric {
        esker_format::schema::Metric::Cosine => Metric::Cosine,
        esker_format::schema::Metric::L2 => Metric::L2,
        esker_format::schema::Metric::Dot => Metric::Dot,
    }
}

struct Build<'a> {
    target: Target<'a>,
    options: BuildOptions,
    watch: StopWatch<'a>,
}

/// What is made beside each other once the order is known.
struct Files {
    rows: (Bytes, RowsLayout),
    payload: Payload,
    attributes: Attributes,
    coded: Coded,
    ids: Ids,
}

/// What the rows' ids, seqs and numbers give.
struct Ids {
    /// By ordinal, then by posting.
    hashes: Vec<u64>,
    seqs: (Seq, Seq),
    sum: SetHash,
}

impl Default for Ids {
    fn default() -> Self {
        Ids { hashes: Vec::new(), seqs: (Seq::MAX, 0), sum: SetHash::default() }
    }
}

impl Ids {
    /// Adds the rows of a batch.
    fn add(&mut self, collection: &CollectionId, batch: &RecordBatch) -> Result<()> {
        for version in versions(batch)? {
            self.hashes.push(collection.hash_id(version.id));
            self.seqs = (self.seqs.0.min(version.seq), self.seqs.1.max(version.seq));
            self.sum += version.hash();
        }
        Ok(())
    }
}

impl Build<'_> {
    fn run(
        mut self,
        rows: Vec<RecordBatch>,
        base: Option<Base<'_>>,
        progress: &dyn Fn(u64, u64),
    ) -> Result<BuiltSegment> {
        let settings = self.target.settings;
        let spare = order::Spare::default();
        let source = order::Source::gather(rows, settings, &spare)?;
        self.watch.lap("gather");
        let kept = match &base {
            Some(base) => base.keep(source.vectors(), settings, self.options)?,
            None => None,
        };
        let (clustering, kept) = match kept {
            Some((clustering, kept)) => (clustering, Some(kept)),
            None => (self.cluster(source.vectors(), progress), None),
        };
        self.watch.lap("cluster");
        let leaf_starts = leaf_starts(&clustering);
        let ordered = source.reorder(&clustering.order, &self.target, self.options.threads, &spare)?;
        self.watch.lap("reorder");
        let mut coded = self.coded(&ordered, &clustering, &leaf_starts, kept)?;
        let copied = coded.copied();
        let vectors = Whole { vectors: &ordered.vectors, d: settings.dimension as usize };
        let truth = Truth::find(&vectors, &coded, self.options)?;
        self.watch.lap("truth");
        coded.choose_basis(&vectors, &leaf_starts, &truth, self.options)?;
        self.watch.lap("basis");
        coded.set_postings(Postings::choose(&vectors, &coded, &leaf_starts, &truth, self.options)?);
        self.watch.lap("copies");
        let files = self.files(coded, &ordered, &leaf_starts)?;
        self.watch.lap("files");
        let calibration = truth.calibrate(&files.coded, &leaf_starts, self.options);
        self.watch.lap("calibrate");
        let (summary, index_file) = self.index(&files, calibration, &leaf_starts)?;
        self.watch.lap("index");
        Ok(BuiltSegment {
            rows_file: files.rows.0,
            index_file,
            summary,
            codes: files.coded.groups.into(),
            order: clustering.order,
            leaf_starts,
            seqs: files.ids.seqs,
            hash: files.ids.sum,
            copied,
        })
    }

    fn cluster(&self, vectors: &[f32], progress: &dyn Fn(u64, u64)) -> Clustering {
        let settings = self.target.settings;
        let d = settings.dimension as usize;
        let rows = vectors.len() / d;
        let target = leaf_target(rows as u64);
        let total = esker_index::cluster_work(rows, target);
        let done = std::cell::Cell::new(0);
        let heard = |more: u64| {
            done.set(done.get() + more);
            progress(done.get(), total);
        };
        cluster(vectors, d, metric(settings), target, self.options.seed, self.options.threads, &heard)
    }

    /// What codes are made with.
    fn coded(
        &self,
        ordered: &Ordered,
        clustering: &Clustering,
        leaf_starts: &[u32],
        kept: Option<merge::Kept>,
    ) -> Result<Coded> {
        let settings = self.target.settings;
        if let Some(kept) = kept {
            return Coded::kept(settings, clustering.leaves, kept);
        }
        let mut coded = Coded::new(settings, clustering.leaves, &clustering.centroids, self.options.seed)?;
        let mut total = 0.0;
        coded.add_residuals(0, &ordered.vectors, leaf_starts, &mut total);
        coded.set_scale(total, ordered.rows());
        Ok(coded)
    }

    /// Everything that depends on the order alone, on all threads.
    fn files(&self, mut coded: Coded, ordered: &Ordered, leaf_starts: &[u32]) -> Result<Files> {
        let Target { settings, .. } = self.target;
        let mut groups = coded.new_groups(ordered.rows());
        let shared;
        let (mut rows, mut payload, mut ids) = (None, None, None);
        let mut tasks: Vec<Task<'_>> = vec![
            Box::new(|| rows = Some(self.rows_and_attributes(&ordered.batches))),
            Box::new(|| payload = Some(self.payload(&ordered.batches))),
            Box::new(|| ids = Some(self.ids(&ordered.batches))),
        ];
        match &coded.postings {
            None => tasks.extend(coded.tasks(ordered, leaf_starts, settings, &mut groups)),
            Some(p) => {
                shared = Mutex::new(groups.as_mut_slice());
                tasks.extend(coded.tasks_twice(p, ordered, leaf_starts, settings, &shared));
            }
        }
        parallel::run(self.options.threads, tasks);
        coded.groups = groups;
        let ran = || Error::internal("a part of a segment was not made");
        let (rows, attributes) = rows.ok_or_else(ran)??;
        let mut ids = ids.ok_or_else(ran)??;
        ids.hashes = coded.idplane(leaf_starts, ids.hashes);
        Ok(Files { rows, attributes, payload: payload.ok_or_else(ran)??, ids, coded })
    }

    fn rows_and_attributes(&self, batches: &[RecordBatch]) -> Result<((Bytes, RowsLayout), Attributes)> {
        let Target { settings, schema, .. } = self.target;
        let vectors: usize = batches.iter().map(|b| b.num_rows() * settings.stride()).sum();
        // Pages, levels and the other columns are a small part of most files; too small a guess costs a copy.
        let mut file = Vec::with_capacity(vectors + vectors / 8 + (64 << 10));
        let mut writer = RowsWriter::new(&mut file, settings, schema)?;
        let mut attributes = AttributesBuilder::new(settings, schema, self.options.seed);
        for batch in batches {
            writer.write(batch)?;
            attributes.push_batch(batch)?;
        }
        let layout = writer.finish()?;
        let attributes = attributes.finish(&layout)?;
        Ok(((file.into(), layout), attributes))
    }

    fn payload(&self, batches: &[RecordBatch]) -> Result<Payload> {
        let mut writer = PayloadWriter::new(self.target.settings, self.target.schema)?;
        batches.iter().try_for_each(|batch| writer.push_batch(batch))?;
        writer.finish()
    }

    fn ids(&self, batches: &[RecordBatch]) -> Result<Ids> {
        let mut out = Ids::default();
        batches.iter().try_for_each(|batch| out.add(self.target.collection, batch))?;
        Ok(out)
    }

    fn index(
        &self,
        files: &Files,
        calibration: [esker_format::segment::index::Calibration; 4],
        leaf_starts: &[u32],
    ) -> Result<(IndexSummary, Bytes)> {
        let Target { settings, schema, .. } = self.target;
        let (rows_file, layout) = &files.rows;
        verify_layout("the new rows file", rows_file, layout)?;
        let coded = &files.coded;
        let parts = IndexParts {
            settings,
            schema,
            rows: layout,
            seqs: files.ids.seqs,
            code_bits: coded.encoder().bits() as u32,
            rotation_seed: coded.seed,
            scale: coded.encoder().scale(),
            basis: coded.basis(),
            calibration,
            leaf_starts,
            centroid_bits: coded.centroid_bits,
            centroids: &coded.centroid_bytes,
            group_bytes: coded.group_bytes as u32,
            codes: &coded.groups,
            idplane: &files.ids.hashes,
            spill: coded.spill(),
            payload: &files.payload,
            attributes: &files.attributes,
            payload_spool: None,
            attributes_spool: None,
        };
        let cold = coded.groups.len() + files.payload.blocks.len() + files.attributes.section.len();
        let mut file = Vec::with_capacity(cold + coded.centroid_bytes.len() + files.ids.hashes.len() * 24);
        let summary = IndexWriter::new(parts)?.write(&mut file)?;
        Ok((summary, file.into()))
    }
}

/// First ordinal of each leaf, and the number of rows.
fn leaf_starts(clustering: &Clustering) -> Vec<u32> {
    let mut starts = vec![0u32; clustering.leaves + 1];
    clustering.assignment.iter().for_each(|leaf| starts[*leaf as usize + 1] += 1);
    (1..starts.len()).for_each(|i| starts[i] += starts[i - 1]);
    starts
}

/// Reports how long each stage took, by the caller's clock.
pub(crate) struct StopWatch<'a> {
    clock: &'a dyn Clock,
    start: Duration,
}

impl<'a> StopWatch<'a> {
    pub(crate) fn new(clock: &'a dyn Clock) -> Self {
        StopWatch { clock, start: clock.elapsed() }
    }

    fn lap(&mut self, stage: &'static str) {
        let now = self.clock.elapsed();
        tracing::debug!(stage, ms = (now - self.start).as_millis() as u64, "segment build");
        self.start = now;
    }
}

#[cfg(test)]
mod tests;
