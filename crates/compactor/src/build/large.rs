//! A segment of more rows than memory holds (INDEX §1), in passes over scratch files: leaves are trained on a sample and
//! improved by one pass over all rows; rows are parted into buckets of neighbouring leaves, each of which is put in order
//! in memory and written; codes, limits and attributes are made from the written rows.
//!
//! Beside parts of the memory allowed it takes up to 110 bytes a row at d = 384: codes (d/8 + 8), hashes of ids (8), the
//! order (4), and either the values of one column (16) or, last, the id map (36).

use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use esker_format::head::CODES_BYTES;
use esker_format::segment::attributes::{Attributes, ColumnsWriter};
use esker_format::segment::index::{Calibration, IndexParts, IndexWriter, Spool};
use esker_format::segment::payload::{Payload, PayloadWriter};
use esker_format::segment::rows::{RowsLayout, RowsWriter, verify_layout};
use esker_format::{Error, Result};
use esker_index::{GROUP, Leaves, Moments, arrange, leaf_target};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::codes::Coded;
use super::order::{Source, floats};
use super::spill::{Blocks, Spill};
use super::vectors::{InFile, Vectors};
use super::{Blob, BuildOptions, Ids, Made, StopWatch, Target, calibration, metric};
use crate::parallel::{self, Task};
use crate::scratch::{Chunks, Scratch, ScratchFile, Spooling, broken, copy, range};

/// The vectors of a bucket take at most this share of the memory: they are held three times as it is put in order.
const BUCKET_SHARE: u64 = 16;
/// The estimates of calibration take at most this share.
const SCAN_SHARE: u64 = 8;
/// Rows encoded as one task: whole groups.
const ENCODE_ROWS: usize = 32 * GROUP;
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

/// Which rows go together, once every row has a leaf.
struct Buckets {
    /// Bucket of each row, by its number.
    of_row: Vec<u32>,
    /// First leaf of each bucket.
    first_leaf: Vec<u32>,
    /// Number of rows of each.
    rows: Vec<usize>,
}

impl Buckets {
    /// Buckets of neighbouring leaves, at most `capacity` rows each; a leaf of more rows is divided in their order.
    fn new(assignment: &[u32], leaves: usize, capacity: usize) -> Self {
        let mut counts = vec![0usize; leaves];
        assignment.iter().for_each(|leaf| counts[*leaf as usize] += 1);
        let (mut first_leaf, mut first_bucket, mut room) = (Vec::new(), Vec::with_capacity(leaves), 0);
        for (leaf, count) in counts.iter().enumerate() {
            if first_leaf.is_empty() || *count > room {
                // What a large leaf leaves free of its last bucket stays free.
                first_bucket.push(first_leaf.len() as u32);
                first_leaf.extend(vec![leaf as u32; count.div_ceil(capacity).max(1)]);
                room = if *count > capacity { 0 } else { capacity - count };
            } else {
                first_bucket.push(first_leaf.len() as u32 - 1);
                room -= count;
            }
        }
        let mut seen = vec![0usize; leaves];
        let mut rows = vec![0; first_leaf.len()];
        let of_row = assignment.iter().map(|leaf| {
            let leaf = *leaf as usize;
            let bucket = first_bucket[leaf] + (seen[leaf] / capacity) as u32;
            seen[leaf] += 1;
            rows[bucket as usize] += 1;
            bucket
        });
        let of_row = of_row.collect();
        Buckets { of_row, first_leaf, rows }
    }

    /// Numbers of the rows of each bucket, ascending, one bucket after the other.
    fn inputs(&self) -> Vec<u32> {
        let mut ends: Vec<usize> =
            self.rows.iter().scan(0, |at, rows| Some(std::mem::replace(at, *at + rows))).collect();
        let mut inputs = vec![0; self.of_row.len()];
        for (row, bucket) in (0u32..).zip(&self.of_row) {
            inputs[ends[*bucket as usize]] = row;
            ends[*bucket as usize] += 1;
        }
        inputs
    }
}

/// What is written bucket by bucket.
struct Written {
    order: Vec<u32>,
    leaf_starts: Vec<u32>,
    centroids: Vec<f32>,
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
        let (buckets, assignment, parted) = self.part(spill, &pass)?;
        let written = self.write(&buckets, &assignment, parted)?;
        drop((buckets, assignment));
        pass(4);
        let settings = self.target.settings;
        let memory = self.memory;
        let vectors = InFile { file: &*written.rows_file, layout: &written.layout, settings, memory };
        verify_layout("the new rows file", &Chunks(Arc::clone(&written.rows_file)), &written.layout)?;
        let coded = self.encode(&written, &vectors)?;
        pass(5);
        let scans = (self.memory / SCAN_SHARE / (4 * rows)).max(1) as usize;
        let calibration = calibration::calibrate(
            &vectors,
            &coded,
            &written.leaf_starts,
            metric(settings),
            self.options,
            scans,
        )?;
        self.watch.lap("calibrate");
        let made = self.index(written, coded, calibration)?;
        self.watch.lap("index");
        pass(6);
        Ok(Some(made))
    }

    /// Finds the leaf of every row and writes rows of neighbouring leaves beside each other.
    fn part(&mut self, mut spill: Spill, pass: &dyn Fn(u64)) -> Result<(Buckets, Vec<u32>, Vec<Blocks>)> {
        let BuildOptions { seed, threads } = self.options;
        let settings = self.target.settings;
        let (d, target) = (settings.dimension as usize, leaf_target(spill.rows()));
        let sample = spill.take_sample();
        let wanted = (spill.rows() as usize).div_ceil(target).min((sample.len() / d / 4).max(1));
        let leaves = Leaves::train(&sample, d, metric(settings), wanted, seed, threads);
        drop(sample);
        self.watch.lap("train");
        pass(1);
        let mut moments = Moments::new(&leaves);
        for batch in spill.read() {
            let vectors = floats(&batch?, settings)?;
            moments.add(&vectors, &leaves.assign(&vectors, threads));
        }
        let leaves = leaves.refined(&moments, target, seed, threads);
        drop(moments);
        self.watch.lap("refine");
        pass(2);
        let mut assignment = Vec::with_capacity(spill.rows() as usize);
        for batch in spill.read() {
            assignment.extend(leaves.assign(&floats(&batch?, settings)?, threads));
        }
        let capacity = (self.memory / BUCKET_SHARE / settings.stride() as u64) as usize;
        let buckets = Buckets::new(&assignment, leaves.count(), capacity.max(target));
        drop(leaves);
        self.watch.lap("assign");
        pass(3);
        let parted = spill.part(&buckets.of_row, buckets.rows.len(), self.scratch)?;
        self.watch.lap("part");
        Ok((buckets, assignment, parted))
    }

    /// Puts bucket after bucket in order and writes its rows and payload.
    fn write(&mut self, buckets: &Buckets, assignment: &[u32], parted: Vec<Blocks>) -> Result<Written> {
        let BuildOptions { seed, threads } = self.options;
        let Target { settings, schema, collection } = self.target;
        let (d, target) = (settings.dimension as usize, leaf_target(assignment.len() as u64));
        let mut order = buckets.inputs();
        let mut rows_out = Spooling::new(self.scratch)?;
        let mut blocks_out = Spooling::new(self.scratch)?;
        let mut rows = RowsWriter::new(&mut rows_out, settings, schema)?;
        let mut payload = PayloadWriter::new(settings, schema)?;
        let (mut leaf_starts, mut centroids, mut ids) = (vec![0], Vec::new(), Ids::default());
        ids.hashes.reserve_exact(order.len());
        let mut rest = order.as_mut_slice();
        for (bucket, blocks) in parted.iter().enumerate() {
            let (inputs, after) = std::mem::take(&mut rest).split_at_mut(buckets.rows[bucket]);
            rest = after;
            if inputs.is_empty() {
                continue;
            }
            let source = Source::gather(blocks.read().collect::<Result<_>>()?, settings)?;
            let first = buckets.first_leaf[bucket];
            let local = inputs.iter().map(|input| assignment[*input as usize] - first).collect();
            let arranged = arrange(source.vectors(), d, metric(settings), local, target, seed, threads);
            let mut sizes = vec![0u32; arranged.leaves];
            arranged.assignment.iter().for_each(|leaf| sizes[*leaf as usize] += 1);
            for size in sizes {
                leaf_starts.push(leaf_starts[leaf_starts.len() - 1] + size);
            }
            centroids.extend_from_slice(&arranged.centroids);
            let by_number = inputs.to_vec();
            inputs.iter_mut().zip(&arranged.order).for_each(|(to, from)| *to = by_number[*from as usize]);
            let batches = source.reorder(&arranged.order, &self.target, threads)?.batches;
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
            blocks_out.write_all(&payload.take_blocks()).map_err(broken)?;
        }
        let layout = rows.finish()?;
        let mut payload = payload.finish()?;
        blocks_out.write_all(&std::mem::take(&mut payload.blocks)).map_err(broken)?;
        self.watch.lap("write");
        Ok(Written {
            order,
            leaf_starts,
            centroids,
            ids,
            rows_file: rows_out.finish()?.0,
            layout,
            payload,
            blocks: blocks_out.finish()?,
        })
    }

    /// Measures the residuals, then encodes all rows.
    fn encode(&mut self, written: &Written, vectors: &InFile<'_>) -> Result<Coded> {
        let settings = self.target.settings;
        let starts = written.leaf_starts.as_slice();
        let mut coded = Coded::new(settings, starts.len() - 1, &written.centroids, self.options.seed)?;
        let mut total = 0.0;
        vectors.each_stored(|first, vectors, _| {
            coded.add_residuals(first, vectors, starts, &mut total);
            Ok(())
        })?;
        coded.set_scale(total, vectors.rows());
        let mut groups = vec![0; coded.groups_len(vectors.rows())];
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
        Ok(coded)
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

    fn index(&self, written: Written, coded: Coded, calibration: [Calibration; 4]) -> Result<Made> {
        let Target { settings, schema, .. } = self.target;
        let (attributes, section, section_crc) = self.attributes(&written)?;
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
            spill: None,
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
        })
    }
}
