//! A segment of more rows than memory holds (INDEX §1), in passes over scratch files: leaves are trained on a sample and
//! improved by one pass over the rows; rows are parted into buckets of neighbouring leaves, each of which is put in order
//! in memory and written; codes, limits and attributes are made from the written rows.
//!
//! Around a base (`merge`) there is no training: one pass surveys how the rows fit its leaves, the next puts each into its
//! leaf. The base's codes are read where they are copied, from a scratch file.
//!
//! Beside parts of the memory allowed it takes up to 110 bytes a row at d = 384: codes (d/8 + 8), hashes of ids (8), the
//! order (4), around a base where a code was (4), and either the values of one column (16) or, last, the id map (36).
//! Copies in second leaves take codes and hashes once more, and 20 bytes.

use std::io::Write;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use esker_format::head::CODES_BYTES;
use esker_format::segment::attributes::{Attributes, ColumnsWriter};
use esker_format::segment::index::{Calibration, IndexParts, IndexWriter, Spool};
use esker_format::segment::payload::{Payload, PayloadWriter};
use esker_format::segment::rows::{RowsLayout, RowsWriter, verify_layout};
use esker_format::{Error, Result};
use esker_index::{
    GROUP, Leaves, Moments, Plan, SplitMix, Standing, Survey, arrange, leaf_target, residual_square,
};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::buckets::Part;
use super::calibration::Truth;
use super::codes::Coded;
use super::copies::Postings;
use super::merge::{self, Base};
use super::order::{Ordered, Source, Spare, floats};
use super::spill::{Parts, Spill};
use super::vectors::{InFile, Vectors};
use super::{Blob, BuildOptions, Ids, Made, StopWatch, Target, metric};
use crate::parallel::{self, Task};
use crate::scratch::{Chunks, Scratch, ScratchFile, Spooling, broken, copy};

/// The rows of a bucket take about this share of the memory at most, and those of one block more: they are held three times
/// as it is put in order, while the one before is written.
pub(super) const BUCKET_SHARE: u64 = 16;
/// Rows encoded as one task: whole groups.
pub(super) const ENCODE_ROWS: usize = 32 * GROUP;
/// Of how many rows the mean of a leaf is taken when leaves are improved, on average over the leaves: it is then off by a tenth of
/// what they scatter. Of twice as many rows every second is drawn, and so on.
const REFINE_ROWS: usize = 100;
/// Sets that draw apart from others.
const REFINE: u64 = 0x7265_6669;
/// Rows of a column read at once.
const COLUMN_ROWS: usize = 8192;
/// Passes over the rows that report progress.
const PASSES: u64 = 6;

/// How to build out of memory.
pub(crate) struct Large<'a> {
    pub(crate) target: Target<'a>,
    pub(crate) options: BuildOptions,
    /// Bytes that the build may take, without those per row.
    pub(crate) memory: u64,
    pub(crate) scratch: &'a dyn Scratch,
    pub(crate) watch: StopWatch<'a>,
}

/// A bucket in order.
struct Arranged {
    order: Vec<u32>,
    /// Rows of each leaf.
    sizes: Vec<u32>,
    centroids: Vec<f32>,
    /// Around a base: of each leaf the base's whose centroid it has.
    origin: Vec<Option<u32>>,
    /// Squared residuals of all rows.
    square: f64,
    rows: Ordered,
}

/// Attributes, the section they are written to, and its CRC32C.
type Spooled = (Attributes, Arc<dyn ScratchFile>, u32);

/// What is written bucket by bucket.
struct Written {
    order: Vec<u32>,
    leaf_starts: Vec<u32>,
    centroids: Vec<f32>,
    origin: Vec<Option<u32>>,
    square: f64,
    ids: Ids,
    rows_file: Arc<dyn ScratchFile>,
    layout: RowsLayout,
    payload: Payload,
    blocks: (Arc<dyn ScratchFile>, u32),
}

impl Large<'_> {
    /// Builds a segment of all rows of `spill`, around the input that has most of them if one has. No rows make no segment.
    /// `rows_written` hears of the rows file as soon as it is whole.
    pub(crate) fn build(
        mut self,
        spill: Spill,
        base: Option<Base<'_>>,
        progress: &dyn Fn(u64, u64),
        rows_written: &mut dyn FnMut(&Arc<dyn ScratchFile>),
    ) -> Result<Option<Made>> {
        let rows = spill.rows();
        if rows == 0 {
            return Ok(None);
        }
        if u32::try_from(rows).is_err() {
            return Err(Error::internal(format!("{rows} rows are too many for one segment")));
        }
        let pass = |done: u64| progress(done * rows, PASSES * rows);
        pass(0);
        let written = self.placed(spill, base.as_ref(), &pass)?;
        pass(4);
        let settings = self.target.settings;
        let memory = self.memory;
        let threads = self.options.threads;
        let vectors =
            InFile { file: &*written.rows_file, layout: &written.layout, settings, memory, threads };
        verify_layout("the new rows file", &Chunks(Arc::clone(&written.rows_file)), &written.layout)?;
        rows_written(&written.rows_file);
        let (coded, truth) = self.encode(&written, &vectors, base.as_ref())?;
        drop(base);
        pass(5);
        let (mut calibration, mut attributes) = (None, None);
        // Columns are read by one thread, which leaves the others to the calibration.
        let tasks: Vec<Task<'_>> = vec![
            Box::new(|| attributes = Some(self.attributes(&written))),
            Box::new(|| calibration = Some(truth.calibrate(&coded, &written.leaf_starts, self.options))),
        ];
        parallel::run(threads, tasks);
        drop(truth);
        self.watch.lap("calibrate");
        let (Some(calibration), Some(attributes)) = (calibration, attributes) else {
            return Err(Error::internal("a part of a segment was not made"));
        };
        let made = self.index(written, coded, calibration, attributes?)?;
        self.watch.lap("index");
        pass(6);
        Ok(Some(made))
    }

    /// Puts the rows in their order and writes them.
    fn placed(&mut self, spill: Spill, base: Option<&Base<'_>>, pass: &dyn Fn(u64)) -> Result<Written> {
        let rows = spill.rows() as usize;
        if let Some(base) = base {
            let (centroids, leaf_of) = (base.header.centroids(), base.leaf_of(rows)?);
            let standing = base.standing(&centroids, &leaf_of);
            if let Some((plan, parts)) = self.around(&spill, base, standing, pass)? {
                drop(spill);
                pass(3);
                return self.write(parts, Some(&plan), rows);
            }
        }
        let parts = self.anew(spill, pass)?;
        pass(3);
        self.write(parts, None, rows)
    }

    /// Leaves trained on the sample, and improved by a pass over the rows; rows parted by them.
    fn anew(&mut self, mut spill: Spill, pass: &dyn Fn(u64)) -> Result<Vec<Part>> {
        let BuildOptions { seed, threads, .. } = self.options;
        let settings = self.target.settings;
        let (d, rows) = (settings.dimension as usize, spill.rows() as usize);
        let target = leaf_target(spill.rows());
        let sample = spill.take_sample();
        let wanted = rows.div_ceil(target).min((sample.len() / d / 4).max(1));
        let leaves = Leaves::train(&sample, d, metric(settings), wanted, seed, threads);
        drop(sample);
        self.watch.lap("train");
        pass(1);
        let mut moments = Moments::new(&leaves);
        let every = (rows / REFINE_ROWS / leaves.count()).max(1);
        // One of every so many that follow each other, but not always the same: kinds of rows may come in turn.
        let is_drawn =
            |row: &usize| row % every == SplitMix::new(seed ^ REFINE ^ (row / every) as u64).below(every);
        let mut seen = 0;
        let vectors = spill.read().map(|batch| {
            let vectors = floats(&batch?, settings)?;
            let before = seen;
            seen += vectors.len() / d;
            let drawn = (before..seen).filter(is_drawn).map(|row| &vectors[(row - before) * d..][..d]);
            Ok(match every {
                1 => vectors,
                _ => drawn.collect::<Vec<_>>().concat().into(),
            })
        });
        parallel::ahead(threads, vectors, |vectors| {
            moments.add(&vectors, &leaves.assign(&vectors, threads), threads);
            Ok(())
        })?;
        let leaves = leaves.refined(&moments, target.div_ceil(every), seed, threads);
        drop(moments);
        let expected: Vec<u64> = leaves.expected().iter().map(|rows| rows * every as u64).collect();
        self.watch.lap("refine");
        pass(2);
        let size = (spill.rows(), spill.row_bytes());
        let (batches, parts) = spill.into_batches();
        let parts = self.part(size, batches, parts, (leaves.count(), &expected), |vectors| {
            leaves.assign(vectors, threads)
        })?;
        self.watch.lap("part");
        Ok(parts)
    }

    /// The leaves of a base where they still fit, and new ones; rows parted by them. `None` where a new clustering is
    /// better.
    fn around<'s>(
        &mut self,
        spill: &Spill,
        base: &Base<'_>,
        standing: Standing<'s>,
        pass: &dyn Fn(u64),
    ) -> Result<Option<(Plan<'s>, Vec<Part>)>> {
        let BuildOptions { seed, threads, .. } = self.options;
        let settings = self.target.settings;
        let (d, target) = (settings.dimension as usize, leaf_target(spill.rows()));
        let survey = Survey::new(standing, d, metric(settings), target, seed, threads);
        let mut survey = survey.map_err(|e| base.wrong(&e))?;
        let vectors = spill.read().map(|batch| floats(&batch?, settings));
        parallel::ahead(threads, vectors, |vectors| {
            survey.add(&vectors);
            Ok(())
        })?;
        self.watch.lap("survey");
        pass(1);
        let (sample, numbers) = spill.sample();
        let plan = survey.plan(sample, numbers).map_err(|e| base.wrong(&e))?;
        let Some(mut plan) = plan.filter(|plan| base.fits(plan.count(), d)) else { return Ok(None) };
        self.watch.lap("plan");
        let (count, expected) = (plan.count(), plan.expected().to_vec());
        let size = (spill.rows(), spill.row_bytes());
        let own = Parts::new(self.scratch)?;
        let parts = self.part(size, spill.read(), own, (count, &expected), |vectors| plan.assign(vectors))?;
        self.watch.lap("part");
        pass(2);
        Ok(plan.holds().then_some((plan, parts)))
    }

    /// Reads the rows of a bucket and puts them in order.
    fn arrange(&self, part: Part, plan: Option<&Plan<'_>>, target: usize, spare: &Spare) -> Result<Arranged> {
        let BuildOptions { seed, threads, .. } = self.options;
        let settings = self.target.settings;
        let (d, metric) = (settings.dimension as usize, metric(settings));
        let Part { inputs, first, leaves, blocks } = part;
        let source = Source::gather(blocks.into_all(threads)?, settings, spare)?;
        let vectors = source.vectors();
        let (arranged, origin) = match plan {
            None => (arrange(vectors, d, metric, leaves, target, seed, threads), Vec::new()),
            Some(plan) => {
                let adapted = plan.arrange(vectors, &inputs, first, leaves);
                (adapted.clustering, adapted.origin)
            }
        };
        let mut sizes = vec![0u32; arranged.leaves];
        arranged.assignment.iter().for_each(|leaf| sizes[*leaf as usize] += 1);
        let leaf = |row: usize| &arranged.centroids[arranged.assignment[row] as usize * d..][..d];
        let mut square = 0.0;
        residual_square(metric, d, vectors, leaf, &mut square);
        let order = arranged.order.iter().map(|row| inputs[*row as usize]).collect();
        let rows = source.reorder(&arranged.order, &self.target, threads, spare)?;
        Ok(Arranged { order, sizes, centroids: arranged.centroids, origin, square, rows })
    }

    /// Writes the rows and payload of bucket after bucket, while the next one is put in order.
    fn write(&mut self, parts: Vec<Part>, plan: Option<&Plan<'_>>, count: usize) -> Result<Written> {
        let threads = self.options.threads;
        let Target { settings, schema, collection } = self.target;
        let target = leaf_target(count as u64);
        let mut rows_out = Spooling::new(self.scratch)?;
        let mut blocks_out = Spooling::new(self.scratch)?;
        let mut rows = RowsWriter::new(&mut rows_out, settings, schema)?;
        let mut payload = PayloadWriter::new(settings, schema)?;
        let (mut order, mut ids) = (Vec::with_capacity(count), Ids::default());
        let (mut leaf_starts, mut centroids, mut origin, mut square) = (vec![0], Vec::new(), Vec::new(), 0.0);
        ids.hashes.reserve_exact(count);
        // What a bucket is gathered and put in order in, and what the one before is written from.
        let spare = Spare::keeping(3);
        let (this, spare) = (&*self, &spare);
        let arranged = parts.into_iter().map(|part| this.arrange(part, plan, target, spare));
        parallel::ahead(threads, arranged, |bucket| {
            order.extend(bucket.order);
            for size in bucket.sizes {
                leaf_starts.push(leaf_starts[leaf_starts.len() - 1] + size);
            }
            centroids.extend(bucket.centroids);
            origin.extend(bucket.origin);
            square += bucket.square;
            let batches = &bucket.rows.batches;
            let (mut rows_done, mut payload_done, mut ids_done) = (Ok(()), Ok(()), Ok(()));
            let tasks: Vec<Task<'_>> = vec![
                Box::new(|| rows_done = batches.iter().try_for_each(|batch| rows.write(batch))),
                Box::new(|| {
                    payload_done = batches.iter().try_for_each(|batch| payload.push_batch(batch));
                }),
                Box::new(|| ids_done = batches.iter().try_for_each(|batch| ids.add(collection, batch))),
            ];
            parallel::run(threads, tasks);
            rows_done.and(payload_done).and(ids_done)?;
            spare.put_back(bucket.rows);
            blocks_out.write_all(&payload.take_blocks()).map_err(broken)
        })?;
        let layout = rows.finish()?;
        let mut payload = payload.finish()?;
        blocks_out.write_all(&std::mem::take(&mut payload.blocks)).map_err(broken)?;
        self.watch.lap("write");
        Ok(Written {
            order,
            leaf_starts,
            centroids,
            origin,
            square,
            ids,
            rows_file: rows_out.finish()?.0,
            layout,
            payload,
            blocks: blocks_out.finish()?,
        })
    }

    /// What codes are made with.
    fn coded(&self, written: &Written, base: Option<&Base<'_>>) -> Result<Coded> {
        let (settings, Written { centroids, origin, leaf_starts, .. }) = (self.target.settings, written);
        let leaves = leaf_starts.len() - 1;
        if let Some(base) = base.filter(|_| origin.len() == leaves) {
            let new = merge::Leaves { centroids, origin, starts: leaf_starts };
            if let Some(kept) = base.kept(&new, &written.order, settings.dimension as usize)? {
                return Coded::kept(settings, leaves, kept);
            }
        }
        let mut coded = Coded::new(settings, leaves, centroids, self.options.seed)?;
        coded.set_scale(written.square, written.order.len());
        Ok(coded)
    }

    /// Encodes all rows but those whose codes are copied, and copies of rows in second leaves where these are worth it.
    fn encode(
        &mut self,
        written: &Written,
        vectors: &InFile<'_>,
        base: Option<&Base<'_>>,
    ) -> Result<(Coded, Truth)> {
        let settings = self.target.settings;
        let starts = written.leaf_starts.as_slice();
        let mut coded = self.coded(written, base)?;
        let truth = Truth::find(vectors, &coded, self.options)?;
        self.watch.lap("truth");
        coded.choose_basis(vectors, starts, &truth, self.options)?;
        self.watch.lap("basis");
        coded.set_postings(Postings::choose(vectors, &coded, starts, &truth, self.options)?);
        self.watch.lap("copies");
        let mut groups = coded.new_groups(vectors.rows());
        if let Some(postings) = coded.postings.take() {
            self.encode_twice(&mut coded, &postings, starts, vectors, &mut groups)?;
            (coded.postings, coded.groups) = (Some(postings), groups);
            self.watch.lap("encode");
            return Ok((coded, truth));
        }
        let (d, stride, group_bytes) = (settings.dimension as usize, settings.stride(), coded.group_bytes);
        vectors.each_stored(|first, vectors, stored| {
            let rows = vectors.len() / d;
            coded.fetch(first..first + rows)?;
            let out = &mut groups[first / GROUP * group_bytes..][..coded.groups_len(rows)];
            let parts = out.chunks_mut(ENCODE_ROWS / GROUP * group_bytes).enumerate();
            let coded = &coded;
            let tasks = parts.map(|(part, out)| {
                let at = part * ENCODE_ROWS;
                let end = (at + ENCODE_ROWS).min(rows);
                let (vectors, stored) = (&vectors[at * d..end * d], &stored[at * stride..end * stride]);
                Box::new(move || coded.encode(first + at, vectors, stored, starts, out)) as Task<'_>
            });
            parallel::run(self.options.threads, tasks.collect());
            Ok(())
        })?;
        coded.groups = groups;
        self.watch.lap("encode");
        Ok((coded, truth))
    }

    /// Encodes rows and their copies, wherever their leaves are.
    fn encode_twice(
        &self,
        coded: &mut Coded,
        postings: &Postings,
        starts: &[u32],
        vectors: &InFile<'_>,
        groups: &mut [u8],
    ) -> Result<()> {
        let (d, stride) = (coded.dimension(), self.target.settings.stride());
        let shared = Mutex::new(groups);
        vectors.each_stored(|first, vectors, stored| {
            coded.fetch(first..first + vectors.len() / d)?;
            let coded = &*coded;
            let parts = vectors.chunks(ENCODE_ROWS * d).zip(stored.chunks(ENCODE_ROWS * stride)).enumerate();
            let tasks = parts.map(|(part, (vectors, stored))| {
                let (rows, shared) = ((first + part * ENCODE_ROWS, vectors, stored), &shared);
                Box::new(move || coded.encode_twice(postings, rows, starts, shared)) as Task<'_>
            });
            parallel::run(self.options.threads, tasks.collect());
            Ok(())
        })
    }

    /// Attributes, column by column, from the written rows.
    fn attributes(&self, written: &Written) -> Result<Spooled> {
        let mut columns = ColumnsWriter::new(self.target.schema, self.options.seed, &written.layout);
        let mut section = Spooling::new(self.scratch)?;
        while let Some(column) = columns.next_column() {
            let wrong =
                |e: &dyn std::fmt::Display| Error::internal(format!("a new column does not read back: {e}"));
            let builder = ParquetRecordBatchReaderBuilder::try_new(Chunks(Arc::clone(&written.rows_file)))
                .map_err(|e| wrong(&e))?;
            let mask = ProjectionMask::roots(builder.parquet_schema(), [column]);
            let reader =
                builder.with_projection(mask).with_batch_size(COLUMN_ROWS).build().map_err(|e| wrong(&e))?;
            let parts = reader.map(|batch| batch.map(|b| b.column(0).clone()).map_err(|e| wrong(&e)));
            section.write_all(&columns.column(parts)?).map_err(broken)?;
        }
        let mut attributes = columns.finish();
        section.write_all(&std::mem::take(&mut attributes.section)).map_err(broken)?;
        let (file, crc) = section.finish()?;
        Ok((attributes, file, crc))
    }

    fn index(
        &self,
        mut written: Written,
        coded: Coded,
        calibration: [Calibration; 4],
        (attributes, section, section_crc): Spooled,
    ) -> Result<Made> {
        let Target { settings, schema, .. } = self.target;
        written.ids.hashes = coded.idplane(&written.leaf_starts, std::mem::take(&mut written.ids.hashes));
        let (blocks, blocks_crc) = &written.blocks;
        let copy_section = |sink: &mut dyn Write| copy(&*section, sink);
        let copy_blocks = |sink: &mut dyn Write| copy(&**blocks, sink);
        let parts = IndexParts {
            settings,
            schema,
            rows: &written.layout,
            seqs: written.ids.seqs,
            code_bits: coded.encoder().bits() as u32,
            rotation_seed: coded.seed,
            scale: coded.encoder().scale(),
            basis: coded.basis(),
            calibration,
            leaf_starts: &written.leaf_starts,
            centroid_bits: coded.centroid_bits,
            centroids: &coded.centroid_bytes,
            group_bytes: coded.group_bytes as u32,
            codes: &coded.groups,
            idplane: &written.ids.hashes,
            spill: coded.spill(),
            payload: &written.payload,
            attributes: &attributes,
            payload_spool: Some(Spool { length: blocks.length(), crc: *blocks_crc, copy: &copy_blocks }),
            attributes_spool: Some(Spool { length: section.length(), crc: section_crc, copy: &copy_section }),
        };
        let mut out = Spooling::new(self.scratch)?;
        let summary = IndexWriter::new(parts)?.write(&mut out)?;
        let index_file = out.finish()?.0;
        let header = index_file.range(0, summary.header_len as usize).map_err(broken)?;
        let copied = coded.copied();
        let codes = (coded.groups.len() as u64 <= CODES_BYTES).then(|| Bytes::from(coded.groups));
        Ok(Made {
            rows_file: Blob::Scratch(written.rows_file),
            index_file: Blob::Scratch(index_file),
            summary,
            header: header.into(),
            codes,
            order: written.order,
            leaf_starts: written.leaf_starts,
            seqs: written.ids.seqs,
            hash: written.ids.sum,
            copied,
        })
    }
}
