//! A segment of more rows than memory holds, made in pieces each of which follows from those before it: what `Large` does
//! in one go, with the same functions (though leaves are improved by every row here), for who cannot go on for as long as that takes. No I/O: what comes and goes is
//! kept elsewhere. Equal rows give equal bytes however the work is cut.

mod coder;

use std::ops::Range;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::buffer::{Buffer, ScalarBuffer};
use arrow::compute::take_record_batch;
use bytes::Bytes;
use esker_format::segment::PAGE_ROWS;
use esker_format::segment::payload::{Payload, PayloadWriter};
use esker_format::segment::rows::{RowsLayout, RowsWriter, row_group_rows, verify_layout};
use esker_format::{Error, Result, Seq, SetHash};
use esker_index::{Leaves, Metric, Moments, SplitMix, Training, arrange, leaf_target, residual_square};
use parquet::errors::Result as ParquetResult;
use parquet::file::reader::{ChunkReader, Length};

use super::calibration;
use super::large::BUCKET_SHARE;
use super::order::{Source, Spare, floats};
use super::spill::{from_bytes, sample_rows, to_bytes};
use super::vectors::floats_of;
use super::{BuildOptions, Ids, Target, metric};
use crate::parallel::{self, Task};
pub(crate) use coder::{Coder, IndexOf, Needs, Stretch};

/// Slices of a bucket that is as large as it may be, about.
const SLICES: usize = 3;
/// Sets the draw of a sample apart from others.
const SAMPLE: u64 = 0x5A3B;

/// What is built, the same for every piece.
pub(crate) struct Frame<'a> {
    pub(crate) target: Target<'a>,
    pub(crate) options: BuildOptions,
    /// Bytes that the building of a piece may take.
    pub(crate) memory: u64,
    /// Rows, about: those that expired among them.
    pub(crate) rows: u64,
    /// Bytes of each in the inputs' files, on average.
    pub(crate) row_bytes: u64,
}

/// Rows of one input row group that go into one bucket together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) rows: u32,
    pub(crate) length: u64,
    pub(crate) crc: u32,
}

/// An input row group cut by slices of neighbouring leaves.
pub(crate) struct Parted {
    /// Its rows in the order of `data`, as numbers from 0.
    pub(crate) order: Vec<u32>,
    /// The leaf of each.
    pub(crate) leaves: Vec<u32>,
    /// By slice.
    pub(crate) cells: Vec<Cell>,
    pub(crate) data: Vec<u8>,
}

/// Rows that are put in order together: cells by (part, slice).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Bucket {
    pub(crate) cells: Vec<(usize, usize)>,
    pub(crate) rows: usize,
    /// What these take while they are put in order.
    bytes: u64,
}

/// The order of a bucket's rows.
pub(crate) struct Arrangement {
    /// Places among the rows as they came.
    pub(crate) order: Vec<u32>,
    /// Rows of each leaf.
    pub(crate) sizes: Vec<u32>,
    pub(crate) centroids: Vec<f32>,
    /// Squared residuals of all rows.
    pub(crate) square: f64,
}

/// An output row group.
pub(crate) struct Piece {
    pub(crate) layout: RowsLayout,
    pub(crate) file: Bytes,
    pub(crate) payload: Payload,
    pub(crate) hashes: Vec<u64>,
    pub(crate) seqs: (Seq, Seq),
    pub(crate) sum: SetHash,
    /// Vectors of the rows that are asked as queries.
    pub(crate) asked: Vec<f32>,
}

impl<'a> Frame<'a> {
    pub(crate) fn dimension(&self) -> usize {
        self.target.settings.dimension as usize
    }

    pub(crate) fn metric(&self) -> Metric {
        metric(self.target.settings)
    }

    /// Rows of every output row group but the last.
    pub(crate) fn group_rows(&self) -> u32 {
        row_group_rows(self.target.settings.stride() as u32)
    }

    /// Most rows of a bucket, unless those of one slice of one row group are more.
    pub(crate) fn capacity(&self) -> usize {
        let row = self.row_bytes.max(self.target.settings.stride() as u64) + self.more_bytes();
        ((self.memory / BUCKET_SHARE / row) as usize).max(leaf_target(self.rows))
    }

    /// Bytes of a row's vector as f32 beyond those that are stored.
    fn more_bytes(&self) -> u64 {
        (4 * self.dimension() - self.target.settings.stride()) as u64
    }

    /// Buckets of rows that are cut into `cells`, by input row group: of [`Frame::capacity`] rows at most, and of fewer where
    /// these are larger than in their files.
    pub(crate) fn buckets(&self, cells: &[&[Cell]]) -> Vec<Bucket> {
        let bytes_of = |cell: &Cell| cell.length + u64::from(cell.rows) * self.more_bytes();
        let all = cells.iter().copied().flatten();
        let (rows, bytes) = all.fold((0, 0), |(r, b), cell| (r + u64::from(cell.rows), b + bytes_of(cell)));
        let leaf = leaf_target(self.rows) as u64 * bytes / rows.max(1);
        buckets(cells, bytes_of, self.capacity(), (self.memory / BUCKET_SHARE).max(leaf))
    }

    /// What of a row group's vectors is trained on.
    pub(crate) fn sample(&self, group: usize, vectors: &[f32]) -> Vec<f32> {
        let d = self.dimension();
        let every = self.rows.div_ceil(sample_rows(self.target.settings, self.memory)).max(1) as usize;
        let mut random = SplitMix::new(self.options.seed ^ SAMPLE ^ (group as u64) << 32);
        let mut out = Vec::with_capacity((vectors.len() / every / d + 1) * d);
        for start in (0..vectors.len() / d).step_by(every) {
            let at = (start + random.below(every)) * d;
            out.extend(vectors.get(at..at + d).unwrap_or_default());
        }
        out
    }

    /// Leaves before the first round of training.
    pub(crate) fn training(&self, sample: &[f32]) -> Training {
        let rows_sampled = sample.len() / self.dimension();
        let target = leaf_target(self.rows) as u64;
        let wanted = self.rows.div_ceil(target).min((rows_sampled / 4).max(1) as u64) as usize;
        let BuildOptions { seed, threads, .. } = self.options;
        Training::new(sample, self.dimension(), self.metric(), wanted, seed, threads)
    }

    /// One round.
    pub(crate) fn train(&self, training: &mut Training, sample: &[f32]) {
        let BuildOptions { seed, threads, .. } = self.options;
        training.round(sample, self.dimension(), self.metric(), seed, threads);
    }

    pub(crate) fn leaves(&self, centroids: Vec<f32>, counts: Vec<u64>) -> Leaves {
        let BuildOptions { seed, threads, .. } = self.options;
        Leaves::from_parts(centroids, counts, self.dimension(), self.metric(), seed, threads)
    }

    /// Adds the rows of a row group (n·d values) to the sums of their leaves.
    pub(crate) fn note(&self, leaves: &Leaves, vectors: &[f32], moments: &mut Moments) {
        let threads = self.options.threads;
        moments.add(vectors, &leaves.assign(vectors, threads), threads);
    }

    pub(crate) fn refined(&self, leaves: Leaves, moments: &Moments) -> Leaves {
        let BuildOptions { seed, threads, .. } = self.options;
        leaves.refined(moments, leaf_target(self.rows), seed, threads)
    }

    /// The vectors of a batch: n·d values.
    pub(crate) fn floats(&self, batch: &RecordBatch) -> Result<ScalarBuffer<f32>> {
        floats(batch, self.target.settings)
    }

    /// The slice of each leaf: neighbouring leaves that expect a part of a bucket's rows.
    pub(crate) fn slices(&self, leaves: &Leaves) -> Vec<u32> {
        let full = (self.capacity() / SLICES).max(1) as u64;
        let (mut slice, mut rows) = (0, 0);
        let of = |expected: &u64| {
            if rows > 0 && rows + expected > full {
                (slice, rows) = (slice + 1, 0);
            }
            rows += expected;
            slice
        };
        leaves.expected().iter().map(of).collect()
    }

    /// Cuts the rows of a row group by the slices of their leaves.
    pub(crate) fn part(&self, batch: &RecordBatch, leaves: &Leaves, slices: &[u32]) -> Result<Parted> {
        let found = leaves.assign(&self.floats(batch)?, self.options.threads);
        let mut rows: Vec<Vec<u32>> = vec![Vec::new(); slices.last().map_or(0, |s| *s as usize + 1)];
        for (row, leaf) in (0u32..).zip(&found) {
            rows[slices[*leaf as usize] as usize].push(row);
        }
        let mut out = Parted { order: Vec::new(), leaves: Vec::new(), cells: Vec::new(), data: Vec::new() };
        for rows in rows {
            out.leaves.extend(rows.iter().map(|row| found[*row as usize]));
            out.order.extend(&rows);
            let mut cell = Cell { rows: rows.len() as u32, length: 0, crc: 0 };
            if !rows.is_empty() {
                let taken = take_record_batch(batch, &UInt32Array::from(rows));
                let taken = taken.map_err(|e| Error::internal("rows cannot be parted").with_source(e))?;
                let bytes = to_bytes(&taken)?;
                (cell.length, cell.crc) = (bytes.len() as u64, crc32c::crc32c(&bytes));
                out.data.extend_from_slice(&bytes);
            }
            out.cells.push(cell);
        }
        Ok(out)
    }

    /// The rows of a bucket, given its cells' bytes, which were checked.
    pub(crate) fn gather(&self, cells: Vec<(Bytes, usize)>) -> Result<Source> {
        let batches = cells.into_iter().map(|(bytes, rows)| from_bytes(Buffer::from(bytes), rows));
        Source::gather(batches.collect::<Result<_>>()?, self.target.settings, &Spare::default())
    }

    /// Puts the rows of a bucket in order, given the leaf of each.
    pub(crate) fn arrange(&self, source: &Source, leaves: Vec<u32>) -> Arrangement {
        let BuildOptions { seed, threads, .. } = self.options;
        let (d, metric, first) = (self.dimension(), self.metric(), leaves.iter().min().copied().unwrap_or(0));
        let leaves = leaves.into_iter().map(|leaf| leaf - first).collect();
        let arranged = arrange(source.vectors(), d, metric, leaves, leaf_target(self.rows), seed, threads);
        let mut sizes = vec![0u32; arranged.leaves];
        arranged.assignment.iter().for_each(|leaf| sizes[*leaf as usize] += 1);
        let leaf = |row: usize| &arranged.centroids[arranged.assignment[row] as usize * d..][..d];
        let mut square = 0.0;
        residual_square(metric, d, source.vectors(), leaf, &mut square);
        Arrangement { order: arranged.order, sizes, centroids: arranged.centroids, square }
    }

    /// The rows of a bucket in the order given.
    pub(crate) fn ordered(&self, source: Source, order: &[u32]) -> Result<Vec<RecordBatch>> {
        Ok(source.reorder(order, &self.target, self.options.threads, &Spare::default())?.batches)
    }

    /// Ordinals of the rows that are asked as queries, of so many.
    pub(crate) fn asked(&self, rows: usize) -> Vec<u32> {
        calibration::asked(rows, self.dimension(), self.options.seed)
    }

    /// Writes the row group whose first ordinal is `first`. `asked` are ordinals.
    pub(crate) fn piece(&self, first: u32, batches: &[RecordBatch], asked: &[u32]) -> Result<Piece> {
        let Target { settings, schema, collection } = self.target;
        let mut file = Vec::new();
        let (mut layout, mut payload, mut ids) = (None, None, Ids::default());
        let mut ids_done = Ok(());
        let tasks: Vec<Task<'_>> = vec![
            Box::new(|| {
                let mut write = || {
                    let mut writer = RowsWriter::from_page(&mut file, settings, schema, first / PAGE_ROWS)?;
                    batches.iter().try_for_each(|batch| writer.write(batch))?;
                    writer.finish()
                };
                layout = Some(write());
            }),
            Box::new(|| {
                let write = || {
                    let mut writer = PayloadWriter::from_row(settings, schema, first)?;
                    batches.iter().try_for_each(|batch| writer.push_batch(batch))?;
                    writer.finish()
                };
                payload = Some(write());
            }),
            Box::new(|| ids_done = batches.iter().try_for_each(|batch| ids.add(collection, batch))),
        ];
        parallel::run(self.options.threads, tasks);
        ids_done?;
        let ran = || Error::internal("a part of a row group was not made");
        let layout = layout.ok_or_else(ran)??;
        let file = Bytes::from(file);
        verify_layout("the new row group", &file, &layout)?;
        let range = vectors_range(&layout);
        let d = self.dimension();
        let stored = stored(&layout, &file[range.start as usize..range.end as usize]);
        let vectors = floats_of(&stored.as_slice().into(), settings);
        let rows = layout.address.rows as u32;
        let own = asked.iter().filter(|o| (first..first + rows).contains(o));
        let asked = own.flat_map(|o| &vectors[(o - first) as usize * d..][..d]).copied().collect();
        let Ids { hashes, seqs, sum } = ids;
        Ok(Piece { layout, file, payload: payload.ok_or_else(ran)??, hashes, seqs, sum, asked })
    }
}

/// Where the vector pages of a row group's own file lie.
pub(crate) fn vectors_range(layout: &RowsLayout) -> Range<u64> {
    let last = layout.address.pages().saturating_sub(1);
    layout.page_range(0).start..layout.page_range(last).end
}

/// Refuses vector pages, given the bytes of [`vectors_range`], that are not what was written.
pub(crate) fn check_vectors(object: &str, layout: &RowsLayout, bytes: &[u8]) -> Result<()> {
    let start = vectors_range(layout).start;
    (0..layout.address.pages()).try_for_each(|page| {
        let range = layout.page_range(page);
        let bytes = bytes.get((range.start - start) as usize..(range.end - start) as usize);
        layout.checks.check_page(object, page, bytes.unwrap_or_default())
    })
}

/// The vectors of these pages, one after the other.
pub(crate) fn stored(layout: &RowsLayout, bytes: &[u8]) -> Vec<u8> {
    let start = vectors_range(layout).start;
    let mut out = Vec::with_capacity(bytes.len());
    for page in 0..layout.address.pages() {
        let (from, to) = (layout.vector_range(page * PAGE_ROWS).start, layout.page_range(page).end);
        out.extend_from_slice(&bytes[(from - start) as usize..(to - start) as usize]);
    }
    out
}

/// The layout of the file that row groups make together.
pub(crate) fn joined(target: &Target<'_>, pieces: &[&RowsLayout]) -> Result<RowsLayout> {
    let mut writer = RowsWriter::new(std::io::sink(), target.settings, target.schema)?;
    pieces.iter().try_for_each(|piece| writer.append(piece, &Zeros))?;
    writer.finish()
}

/// Stands for bytes of which only the number counts.
struct Zeros;

impl Length for Zeros {
    fn len(&self) -> u64 {
        u64::MAX
    }
}

impl ChunkReader for Zeros {
    type T = std::io::Repeat;

    fn get_read(&self, _: u64) -> ParquetResult<Self::T> {
        Ok(std::io::repeat(0))
    }

    fn get_bytes(&self, _: u64, length: usize) -> ParquetResult<Bytes> {
        Ok(vec![0; length].into())
    }
}

/// What goes into one bucket together: slice after slice, up to so many rows and bytes.
fn buckets(
    cells: &[&[Cell]],
    bytes_of: impl Fn(&Cell) -> u64,
    most_rows: usize,
    most_bytes: u64,
) -> Vec<Bucket> {
    let slices = cells.iter().map(|part| part.len()).max().unwrap_or(0);
    let (mut out, mut open) = (Vec::new(), Bucket::default());
    let mut make_room = |open: &mut Bucket, (rows, bytes): (usize, u64)| {
        if open.rows > 0 && (open.rows + rows > most_rows || open.bytes + bytes > most_bytes) {
            out.push(std::mem::take(open));
        }
    };
    for slice in 0..slices {
        let of = |part: &&[Cell]| part.get(slice).map_or((0, 0), |cell| (cell.rows as usize, bytes_of(cell)));
        make_room(
            &mut open,
            cells.iter().map(of).fold((0, 0), |(r, b), (rows, bytes)| (r + rows, b + bytes)),
        );
        for (part, own) in cells.iter().map(of).enumerate().filter(|(_, (rows, _))| *rows > 0) {
            // A slice that is too large by itself is cut between row groups.
            make_room(&mut open, own);
            open.cells.push((part, slice));
            (open.rows, open.bytes) = (open.rows + own.0, open.bytes + own.1);
        }
    }
    if open.rows > 0 {
        out.push(open);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_full_by_its_rows_or_by_what_they_take() {
        let cell = |(rows, length)| Cell { rows, length, crc: 0 };
        let part = [(10, 100), (10, 100), (10, 900), (60, 100), (0, 0), (60, 100)].map(cell);
        let made = buckets(&[&part, &part[..4]], |cell| cell.length + u64::from(cell.rows), 100, 1000);
        let cells: Vec<_> = made.iter().map(|bucket| bucket.cells.as_slice()).collect();
        // Slices together while they fit; one that is too large by itself is cut between row groups.
        let expected: [&[(usize, usize)]; 6] =
            [&[(0, 0), (1, 0), (0, 1), (1, 1)], &[(0, 2)], &[(1, 2)], &[(0, 3)], &[(1, 3)], &[(0, 5)]];
        assert_eq!(cells, expected);
        assert_eq!(made.iter().map(|bucket| bucket.rows).sum::<usize>(), 40 + 20 + 120 + 60);
    }
}
