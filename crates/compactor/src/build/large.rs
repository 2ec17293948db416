//! A segment of more rows than memory holds (INDEX §1), in passes over scratch files: leaves are trained on a sample and
//! improved by one pass over all rows; rows are parted into buckets of neighbouring leaves, each of which is put in order
//! in memory and written; codes, limits and attributes are made from the written rows.
//!
//! Beside parts of the memory allowed it takes up to 110 bytes a row at d = 384: codes (d/8 + 8), hashes of ids (8), the
//! order (4), and either the values of one column (16) or, last, the id map (36). Copies in second leaves take codes and
//! hashes once more, and 20 bytes.

use std::io::Write;
use std::sync::{Arc, Mutex};

use arrow::array::RecordBatch;
use bytes::Bytes;
use esker_format::head::CODES_BYTES;
use esker_format::segment::attributes::{Attributes, ColumnsWriter};
use esker_format::segment::index::{Calibration, IndexParts, IndexWriter, Spool};
use esker_format::segment::payload::{Payload, PayloadWriter};
use esker_format::segment::rows::{RowsLayout, RowsWriter, verify_layout};
use esker_format::{Error, Result};
use esker_index::{GROUP, Leaves, Moments, arrange, leaf_target, residual_square};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::calibration::Truth;
use super::codes::Coded;
use super::copies::Postings;
use super::order::{Source, floats};
use super::spill::{Blocks, Parts, Spill};
use super::vectors::{InFile, Vectors};
use super::{Blob, BuildOptions, Ids, Made, StopWatch, Target, metric};
use crate::parallel::{self, Task};
use crate::scratch::{Chunks, Scratch, ScratchFile, Spooling, broken, copy, range};

/// The vectors of a bucket take at most this share of the memory: they are held three times as it is put in order, while
/// the one before is written.
pub(super) const BUCKET_SHARE: u64 = 16;
/// Rows encoded as one task: whole groups.
pub(super) const ENCODE_ROWS: usize = 32 * GROUP;
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

/// Which rows go together: buckets of neighbouring leaves.
struct Buckets {
    /// Most rows of a bucket.
    capacity: usize,
    /// Bucket that takes the next row of each leaf.
    of_leaf: Vec<u32>,
    /// First leaf of each bucket.
    first_leaf: Vec<u32>,
    /// Number of rows of each.
    rows: Vec<usize>,
}

impl Buckets {
    /// Buckets that are three quarters full if the leaves get the rows that they expect.
    fn new(leaves: &Leaves, capacity: usize) -> Self {
        let (mut of_leaf, mut first_leaf, mut room) = (Vec::with_capacity(leaves.count()), Vec::new(), 0);
        for leaf in 0..leaves.count() {
            let expected = leaves.expected().get(leaf).map_or(0, |rows| *rows as usize);
            if first_leaf.is_empty() || expected > room {
                first_leaf.push(leaf as u32);
                room = capacity - capacity / 4;
            }
            of_leaf.push(first_leaf.len() as u32 - 1);
            room = room.saturating_sub(expected);
        }
        let rows = vec![0; first_leaf.len()];
        Buckets { capacity, of_leaf, first_leaf, rows }
    }

    /// The bucket of the next row of a leaf. Behind a full bucket another is opened for its leaves.
    fn place(&mut self, leaf: u32) -> u32 {
        let full = self.of_leaf[leaf as usize];
        if self.rows[full as usize] == self.capacity {
            let first = self.first_leaf[full as usize];
            let more = self.rows.len() as u32;
            self.first_leaf.push(first);
            self.rows.push(0);
            let same = self.of_leaf[first as usize..].iter_mut().take_while(|bucket| **bucket == full);
            same.for_each(|bucket| *bucket = more);
        }
        let bucket = self.of_leaf[leaf as usize];
        self.rows[bucket as usize] += 1;
        bucket
    }

    /// The buckets in the order of their leaves, which their rows are written in.
    fn in_order(&self) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.rows.len() as u32).collect();
        order.sort_by_key(|bucket| self.first_leaf[*bucket as usize]);
        order
    }

    /// Numbers of the rows of each bucket, ascending, given the bucket of each.
    fn inputs(&self, of_row: &[u32]) -> Vec<Vec<u32>> {
        let mut inputs: Vec<Vec<u32>> = self.rows.iter().map(|rows| Vec::with_capacity(*rows)).collect();
        for (row, bucket) in (0u32..).zip(of_row) {
            inputs[*bucket as usize].push(row);
        }
        inputs
    }
}

/// The rows of a bucket, not yet in order.
struct Part {
    /// Their numbers, ascending.
    inputs: Vec<u32>,
    /// Their leaves, from the bucket's first on.
    leaves: Vec<u32>,
    blocks: Blocks,
}

/// A bucket in order.
struct Arranged {
    order: Vec<u32>,
    /// Rows of each leaf.
    sizes: Vec<u32>,
    centroids: Vec<f32>,
    /// Squared residuals of all rows.
    square: f64,
    batches: Vec<RecordBatch>,
}

/// What is written bucket by bucket.
struct Written {
    order: Vec<u32>,
    leaf_starts: Vec<u32>,
    centroids: Vec<f32>,
    square: f64,
    ids: Ids,
    rows_file: Arc<dyn ScratchFile>,
    layout: RowsLayout,
    payload: Payload,
    blocks: (Arc<dyn ScratchFile>, u32),
}

impl Large<'_> {
    /// Builds a segment of all rows of `spill`. No rows make no segment.
    pub(crate) fn build(mut self, spill: Spill, progress: &dyn Fn(u64, u64)) -> Result<Option<Made>> {
        let rows = spill.rows();
        if rows == 0 {
            return Ok(None);
        }
        if u32::try_from(rows).is_err() {
            return Err(Error::internal(format!("{rows} rows are too many for one segment")));
        }
        let pass = |done: u64| progress(done * rows, PASSES * rows);
        pass(0);
        let parts = self.part(spill, &pass)?;
        let written = self.write(parts, rows as usize)?;
        pass(4);
        let settings = self.target.settings;
        let memory = self.memory;
        let threads = self.options.threads;
        let vectors =
            InFile { file: &*written.rows_file, layout: &written.layout, settings, memory, threads };
        verify_layout("the new rows file", &Chunks(Arc::clone(&written.rows_file)), &written.layout)?;
        let (coded, truth) = self.encode(&written, &vectors)?;
        pass(5);
        let calibration = truth.calibrate(&coded, &written.leaf_starts, self.options);
        drop(truth);
        self.watch.lap("calibrate");
        let made = self.index(written, coded, calibration)?;
        self.watch.lap("index");
        pass(6);
        Ok(Some(made))
    }

    /// Finds the leaf of every row and writes rows of neighbouring leaves beside each other.
    fn part(&mut self, mut spill: Spill, pass: &dyn Fn(u64)) -> Result<Vec<Part>> {
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
        let vectors = spill.read().map(|batch| floats(&batch?, settings));
        parallel::ahead(threads, vectors, |vectors| {
            moments.add(&vectors, &leaves.assign(&vectors, threads), threads);
            Ok(())
        })?;
        let leaves = leaves.refined(&moments, target, seed, threads);
        drop(moments);
        self.watch.lap("refine");
        pass(2);
        let capacity = (self.memory / BUCKET_SHARE / settings.stride() as u64) as usize;
        let mut buckets = Buckets::new(&leaves, capacity.max(target));
        let (mut assignment, mut of_row) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
        let mut parts = Parts::new(self.scratch)?;
        let batches = spill.read().map(|batch| {
            let batch = batch?;
            let found = leaves.assign(&floats(&batch, settings)?, threads);
            Ok((batch, found))
        });
        parallel::ahead(threads, batches, |(batch, found)| {
            let first = of_row.len();
            of_row.extend(found.iter().map(|leaf| buckets.place(*leaf)));
            assignment.extend(found);
            parts.push(&batch, &of_row[first..])
        })?;
        self.watch.lap("part");
        pass(3);
        let mut inputs = buckets.inputs(&of_row);
        let mut blocks: Vec<Option<Blocks>> = parts.finish().into_iter().map(Some).collect();
        let in_order = buckets.in_order().into_iter().filter_map(|bucket| {
            let inputs = std::mem::take(&mut inputs[bucket as usize]);
            let first = buckets.first_leaf[bucket as usize];
            let leaves = inputs.iter().map(|input| assignment[*input as usize] - first).collect();
            let blocks = blocks.get_mut(bucket as usize)?.take()?;
            (!inputs.is_empty()).then_some(Part { inputs, leaves, blocks })
        });
        Ok(in_order.collect())
    }

    /// Reads the rows of a bucket and puts them in order.
    fn arrange(&self, part: Part, target: usize) -> Result<Arranged> {
        let BuildOptions { seed, threads, .. } = self.options;
        let settings = self.target.settings;
        let (d, metric) = (settings.dimension as usize, metric(settings));
        let source = Source::gather(part.blocks.read().collect::<Result<_>>()?, settings)?;
        let arranged = arrange(source.vectors(), d, metric, part.leaves, target, seed, threads);
        let mut sizes = vec![0u32; arranged.leaves];
        arranged.assignment.iter().for_each(|leaf| sizes[*leaf as usize] += 1);
        let leaf = |row: usize| &arranged.centroids[arranged.assignment[row] as usize * d..][..d];
        let mut square = 0.0;
        residual_square(metric, d, source.vectors(), leaf, &mut square);
        let order = arranged.order.iter().map(|row| part.inputs[*row as usize]).collect();
        let batches = source.reorder(&arranged.order, &self.target, threads)?.batches;
        Ok(Arranged { order, sizes, centroids: arranged.centroids, square, batches })
    }

    /// Writes the rows and payload of bucket after bucket, while the next one is put in order.
    fn write(&mut self, parts: Vec<Part>, count: usize) -> Result<Written> {
        let threads = self.options.threads;
        let Target { settings, schema, collection } = self.target;
        let target = leaf_target(count as u64);
        let mut rows_out = Spooling::new(self.scratch)?;
        let mut blocks_out = Spooling::new(self.scratch)?;
        let mut rows = RowsWriter::new(&mut rows_out, settings, schema)?;
        let mut payload = PayloadWriter::new(settings, schema)?;
        let (mut order, mut ids) = (Vec::with_capacity(count), Ids::default());
        let (mut leaf_starts, mut centroids, mut square) = (vec![0], Vec::new(), 0.0);
        ids.hashes.reserve_exact(count);
        let this = &*self;
        let arranged = parts.into_iter().map(|part| this.arrange(part, target));
        parallel::ahead(threads, arranged, |bucket| {
            order.extend(bucket.order);
            for size in bucket.sizes {
                leaf_starts.push(leaf_starts[leaf_starts.len() - 1] + size);
            }
            centroids.extend(bucket.centroids);
            square += bucket.square;
            let batches = bucket.batches;
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
            square,
            ids,
            rows_file: rows_out.finish()?.0,
            layout,
            payload,
            blocks: blocks_out.finish()?,
        })
    }

    /// Encodes all rows, and copies of them in second leaves where these are worth it.
    fn encode(&mut self, written: &Written, vectors: &InFile<'_>) -> Result<(Coded, Truth)> {
        let settings = self.target.settings;
        let starts = written.leaf_starts.as_slice();
        let mut coded = Coded::new(settings, starts.len() - 1, &written.centroids, self.options.seed)?;
        coded.set_scale(written.square, vectors.rows());
        let truth = Truth::find(vectors, &coded, self.options)?;
        self.watch.lap("truth");
        coded.set_postings(Postings::choose(vectors, &coded, starts, &truth, self.options)?);
        self.watch.lap("copies");
        let mut groups = coded.new_groups(vectors.rows());
        if let Some(postings) = &coded.postings {
            self.encode_twice(&coded, postings, starts, vectors, &mut groups)?;
            coded.groups = groups;
            self.watch.lap("encode");
            return Ok((coded, truth));
        }
        let (d, stride, group_bytes) = (settings.dimension as usize, settings.stride(), coded.group_bytes);
        vectors.each_stored(|first, vectors, stored| {
            let rows = vectors.len() / d;
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
        coded: &Coded,
        postings: &Postings,
        starts: &[u32],
        vectors: &InFile<'_>,
        groups: &mut [u8],
    ) -> Result<()> {
        let (d, stride) = (coded.dimension(), self.target.settings.stride());
        let shared = Mutex::new(groups);
        vectors.each_stored(|first, vectors, stored| {
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
    fn attributes(&self, written: &Written) -> Result<(Attributes, Arc<dyn ScratchFile>, u32)> {
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

    fn index(&self, mut written: Written, coded: Coded, calibration: [Calibration; 4]) -> Result<Made> {
        let Target { settings, schema, .. } = self.target;
        let (attributes, section, section_crc) = self.attributes(&written)?;
        written.ids.hashes = coded.idplane(&written.leaf_starts, std::mem::take(&mut written.ids.hashes));
        let (blocks, blocks_crc) = &written.blocks;
        let copy_section = |sink: &mut dyn Write| copy(&*section, sink);
        let copy_blocks = |sink: &mut dyn Write| copy(&**blocks, sink);
        let parts = IndexParts {
            settings,
            schema,
            rows: &written.layout,
            seqs: written.ids.seqs,
            padded: coded.padded as u32,
            rotation_seed: coded.seed,
            scale: coded.scale,
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
        let header = range(&*index_file, 0, summary.header_len as usize).map_err(broken)?;
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
            copied: 0,
        })
    }
}
