//! Codes, limits and the index file of a segment that is made in pieces.

use std::cell::RefCell;
use std::io::Write;
use std::ops::Range;

use bytes::Bytes;
use esker_format::head::CODES_BYTES;
use esker_format::segment::attributes::Attributes;
use esker_format::segment::index::{Calibration, IndexParts, IndexSummary, IndexWriter, Spool};
use esker_format::segment::payload::Payload;
use esker_format::segment::rows::RowsLayout;
use esker_format::{Result, Seq};
use esker_index::{GROUP, Neighbours, RECALLS};

use super::super::Target;
use super::super::calibration::{self, Need, Truth};
use super::super::codes::Coded;
use super::super::large::ENCODE_ROWS;
use super::super::vectors::floats_of;
use super::Frame;
use crate::parallel::{self, Task};

/// Encodes rows, and measures what their codes are good for, once the leaves are known.
pub(crate) struct Coder<'a> {
    frame: &'a Frame<'a>,
    coded: Coded,
    /// First ordinal of each leaf, and the number of rows.
    pub(crate) starts: Vec<u32>,
}

/// Queries and their neighbours.
pub(crate) struct Asked(Truth);

/// What queries need, three numbers each.
pub(crate) type Needs = Vec<(f32, f32, u32)>;

/// A stretch of an index file.
pub(crate) enum Stretch {
    Bytes(Bytes),
    /// All payload blocks.
    Payload,
    /// What the columns of attributes laid out.
    Attributes,
}

/// What an index is made of, beside the codes.
pub(crate) struct IndexOf<'a> {
    pub(crate) layout: &'a RowsLayout,
    pub(crate) seqs: (Seq, Seq),
    pub(crate) hashes: &'a [u64],
    /// Sizes of the payload blocks.
    pub(crate) payload: &'a Payload,
    /// Bytes and CRC32C of all blocks.
    pub(crate) blocks: (u64, u32),
    /// The directory, and what follows the columns in the section.
    pub(crate) attributes: &'a Attributes,
    /// Bytes and CRC32C of what the columns laid out.
    pub(crate) columns: (u64, u32),
    pub(crate) calibration: [Calibration; 4],
}

impl<'a> Coder<'a> {
    /// `square` is the sum of the squared residuals of all rows.
    pub(crate) fn new(
        frame: &'a Frame<'a>,
        starts: Vec<u32>,
        centroids: &[f32],
        square: f64,
    ) -> Result<Self> {
        let leaves = starts.len().saturating_sub(1);
        let mut coded = Coded::new(frame.target.settings, leaves, centroids, frame.options.seed)?;
        coded.set_scale(square, starts.last().map_or(0, |rows| *rows as usize));
        Ok(Coder { frame, coded, starts })
    }

    /// The code groups of the rows from `first` on, which starts one, given their vectors as stored.
    pub(crate) fn encode(&self, first: usize, stored: &[u8]) -> Vec<u8> {
        let settings = self.frame.target.settings;
        let (d, stride, group_bytes) = (self.frame.dimension(), settings.stride(), self.coded.group_bytes);
        let vectors = floats_of(&stored.into(), settings);
        let rows = vectors.len() / d;
        let mut groups = vec![0; self.coded.groups_len(rows)];
        let parts = groups.chunks_mut(ENCODE_ROWS / GROUP * group_bytes).enumerate();
        let (coded, starts, vectors) = (&self.coded, self.starts.as_slice(), &*vectors);
        let tasks = parts.map(|(part, out)| {
            let at = part * ENCODE_ROWS;
            let end = (at + ENCODE_ROWS).min(rows);
            let (vectors, stored) = (&vectors[at * d..end * d], &stored[at * stride..end * stride]);
            Box::new(move || coded.encode(first + at, vectors, stored, starts, out)) as Task<'_>
        });
        parallel::run(self.frame.options.threads, tasks.collect());
        groups
    }

    /// The nearest of these rows to each query.
    pub(crate) fn nearest(&self, queries: &[f32], first: usize, stored: &[u8]) -> Vec<(f32, u32)> {
        let vectors = floats_of(&stored.into(), self.frame.target.settings);
        let mut found = Neighbours::new(self.frame.metric(), self.frame.dimension(), queries);
        found.offer(first as u32, &vectors, self.frame.options.threads);
        found.found().collect()
    }

    /// Takes all codes.
    pub(crate) fn set_codes(&mut self, groups: Vec<u8>) {
        self.coded.groups = groups;
    }

    /// What is asked, and its neighbours among all rows: `found` is that of each row group, in order.
    pub(crate) fn asked(&self, queries: Vec<f32>, found: &[Vec<(f32, u32)>]) -> Asked {
        let (metric, d) = (self.frame.metric(), self.frame.dimension());
        let mut neighbours = Neighbours::new(metric, d, &queries);
        found.iter().for_each(|found| neighbours.add(found));
        let rows = self.starts.last().map_or(0, |rows| *rows as usize);
        Asked(Truth::of(metric, self.frame.asked(rows), queries, neighbours))
    }

    /// What some of the queries need.
    pub(crate) fn needs(&self, asked: &Asked, queries: Range<usize>) -> Needs {
        let needs = asked.0.needs(&self.coded, &self.starts, queries, self.frame.options);
        needs.into_iter().map(|need| (need.margin, need.reach, need.rank)).collect()
    }

    /// Limits that meet what all queries need.
    pub(crate) fn calibration(needs: &Needs) -> [Calibration; 4] {
        let needs: Vec<Need> = needs
            .iter()
            .map(|(margin, reach, rank)| Need { margin: *margin, reach: *reach, rank: *rank })
            .collect();
        RECALLS.map(|min_recall| calibration::limits(&needs, min_recall))
    }

    /// The codes, if `head` may carry them.
    pub(crate) fn codes(&self) -> Option<Bytes> {
        let groups = &self.coded.groups;
        (groups.len() as u64 <= CODES_BYTES).then(|| Bytes::copy_from_slice(groups))
    }

    /// Lays the index file out.
    pub(crate) fn index(&self, of: &IndexOf<'_>) -> Result<(IndexSummary, Vec<Stretch>)> {
        let Target { settings, schema, .. } = self.frame.target;
        let out = Recorder(RefCell::new((Vec::new(), Vec::new())));
        let blocks = |_: &mut dyn Write| out.mark(Stretch::Payload);
        // Columns, and behind them entries that are too large for the directory.
        let section = |sink: &mut dyn Write| {
            out.mark(Stretch::Attributes)?;
            sink.write_all(&of.attributes.section)
        };
        let length = of.columns.0 + of.attributes.section.len() as u64;
        let crc = crc32c::crc32c_append(of.columns.1, &of.attributes.section);
        let parts = IndexParts {
            settings,
            schema,
            rows: of.layout,
            seqs: of.seqs,
            code_bits: self.coded.encoder().bits() as u32,
            rotation_seed: self.coded.seed,
            scale: self.coded.encoder().scale(),
            basis: self.coded.basis(),
            calibration: of.calibration,
            leaf_starts: &self.starts,
            centroid_bits: self.coded.centroid_bits,
            centroids: &self.coded.centroid_bytes,
            group_bytes: self.coded.group_bytes as u32,
            codes: &self.coded.groups,
            idplane: of.hashes,
            spill: None,
            payload: of.payload,
            attributes: of.attributes,
            payload_spool: Some(Spool { length: of.blocks.0, crc: of.blocks.1, copy: &blocks }),
            attributes_spool: Some(Spool { length, crc, copy: &section }),
        };
        let summary = IndexWriter::new(parts)?.write(&mut &out)?;
        Ok((summary, out.finish()))
    }
}

/// A file as it is laid out: bytes, and marks of what is kept elsewhere.
struct Recorder(RefCell<(Vec<Stretch>, Vec<u8>)>);

impl Recorder {
    fn mark(&self, stretch: Stretch) -> std::io::Result<()> {
        let (stretches, bytes) = &mut *self.0.borrow_mut();
        stretches.push(Stretch::Bytes(std::mem::take(bytes).into()));
        stretches.push(stretch);
        Ok(())
    }

    fn finish(self) -> Vec<Stretch> {
        let (mut stretches, bytes) = self.0.into_inner();
        stretches.push(Stretch::Bytes(bytes.into()));
        stretches
    }
}

impl Write for &Recorder {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.borrow_mut().1.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
