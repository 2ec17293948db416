//! Codes of the tail's rows, so that a long tail is not measured row by row: made a chunk at a time while searches go on,
//! and kept as long as the log has the rows. They never decide what counts: every row that a scan emits is looked up in
//! the tail at hand and measured.
//!
//! Rows are put under the leaves of the largest segment, and searches that trust its limits pass over leaves by them. The
//! limits were learnt from its own rows: a row that is much further from its leaf than those are is looked at by every
//! search. Without such a segment the first chunk is clustered, and nothing is passed over.

use std::sync::Arc;

use esker_format::Seq;
use esker_format::keys::Made;
use esker_format::segment::index::Calibration;
use esker_index::{
    Bound, Centroids, Codes, Encoder, GROUP, Metric, RowCode, Run, cluster, group_bytes, pack_group,
    residual_scale, residual_square, unpack_row,
};

use crate::search::{Asked, limits};
use crate::segment::{Leaves, Segment};

/// Rows of a leaf that the first chunk aims at where it is clustered, and most leaves.
const LEAF_ROWS: usize = 128;
const LEAVES: usize = 32;
/// Of the clustering, and of the rotation where a segment has none. Nothing of them is stored.
const SEED: u64 = 0x7461_696c;
/// Most rows of a chunk …
const CHUNK_ROWS: usize = 4096;
/// … and bytes of their vectors.
const CHUNK_BYTES: usize = 12 << 20;
/// A row is far from its leaf if the square of its distance is more than so many times that of the segment's rows, in the mean.
const FAR: f64 = 1.5;

/// A row of the log: entry and row of the entry.
pub(crate) type At = (Seq, u32);

/// Codes of consecutive rows of the log.
#[derive(Debug, Clone)]
pub(crate) struct TailCodes {
    shared: Arc<Shared>,
    /// Oldest first, each beginning where the one before ends. The fewer, the more rows of a leaf are side by side.
    chunks: Vec<Arc<Chunk>>,
}

/// What all chunks refer to.
#[derive(Debug)]
struct Shared {
    leaves: Arc<Leaves>,
    /// The middle of the leaves, which codes of rows far from them refer to.
    centre: Leaves,
    /// The segment that they are of; nothing if they were learnt from the first chunk.
    made: Option<Made>,
    /// How far to probe; nothing to look at every code.
    limits: Vec<Calibration>,
    encoder: Encoder,
}

#[derive(Debug)]
struct Chunk {
    first: At,
    /// One past the last row.
    end: At,
    /// The row of each posting: entries after that of `first`, row.
    rows: Vec<(u32, u32)>,
    groups: Vec<u8>,
    /// How many of the postings are of rows far from all leaves: the first ones.
    far: usize,
    /// One past the last posting of each leaf that has any, and the leaf.
    leaves: Vec<(usize, u32)>,
}

/// Rows to encode.
pub(crate) struct Batch<'a> {
    /// Where each lies, in the log's order.
    pub rows: &'a [At],
    /// One past the last of them.
    pub end: At,
    /// Their vectors, one after the other.
    pub vectors: &'a [f32],
}

/// Rows of a chunk of vectors with so many dimensions.
pub(crate) fn chunk_rows(dimension: usize) -> usize {
    (CHUNK_BYTES / (4 * dimension.max(1))).clamp(LEAF_ROWS, CHUNK_ROWS)
}

/// Bytes that the codes of so many rows take.
pub(crate) fn code_bytes(dimension: usize, rows: usize) -> u64 {
    let groups = rows.div_ceil(GROUP) * group_bytes(dimension);
    (groups + rows * (size_of::<(u32, u32)>() + size_of::<(usize, u32)>())) as u64
}

/// The segment whose leaves serve the tail: the one with the most rows, if it has enough leaves.
pub(crate) fn anchor<'a>(segments: impl Iterator<Item = &'a Arc<Segment>>) -> Option<&'a Arc<Segment>> {
    let largest = segments.max_by_key(|s| (s.row_count(), s.made));
    largest.filter(|s| s.leaves.count() >= LEAVES)
}

impl TailCodes {
    /// No codes yet, for rows under the leaves of a segment.
    pub fn under(segment: &Segment) -> Option<TailCodes> {
        segment.leaves.hold_coarse();
        let limits = segment.header.calibration().to_vec();
        TailCodes::of(segment.leaves.clone(), Some(segment.made), limits)
    }

    /// No codes yet, for rows under leaves that are learnt from those of the first chunk. Nothing if it has no rows.
    pub fn learn(metric: Metric, dimension: usize, batch: &Batch<'_>) -> Option<TailCodes> {
        let target = LEAF_ROWS.max(batch.rows.len().div_ceil(LEAVES));
        let found = cluster(batch.vectors, dimension, metric, target, SEED, 1, &|_| {});
        if found.leaves == 0 {
            return None;
        }
        let stored = Centroids::encode(8, found.leaves, dimension, &found.centroids);
        let centroids = Centroids::decode(8, found.leaves, dimension, &stored).ok()?;
        let means = centroids.all_dequantised();
        let leaf = |row: usize| &means[found.assignment[row] as usize * dimension..][..dimension];
        let scale = residual_scale(metric, dimension, batch.vectors, leaf);
        let encoder = Encoder::new(metric, dimension, SEED, scale);
        TailCodes::of(Arc::new(Leaves::new(centroids, encoder)), None, Vec::new())
    }

    fn of(leaves: Arc<Leaves>, made: Option<Made>, limits: Vec<Calibration>) -> Option<TailCodes> {
        // A basis was learned from other rows: of these its errors are not known.
        let encoder = match leaves.encoder.basis() {
            None => leaves.encoder.clone(),
            Some(_) => Encoder::new(leaves.metric, leaves.dimension(), SEED, leaves.encoder.scale()),
        };
        let centre = leaves.centre()?;
        let shared = Arc::new(Shared { leaves, centre, made, limits, encoder });
        Some(TailCodes { shared, chunks: Vec::new() })
    }

    /// Whether these are to go on, where rows would be put under the leaves of this segment (of none, under leaves of their
    /// own) if none had a code: they are under these, or too many to make them anew.
    pub fn serve(&self, anchor: Option<&Arc<Segment>>) -> bool {
        let rows: usize = self.chunks.iter().map(|c| c.rows.len()).sum();
        self.shared.made == anchor.map(|s| s.made) || rows > CHUNK_ROWS
    }

    /// With the codes of rows that begin where these end.
    pub fn with(&self, batch: &Batch<'_>) -> TailCodes {
        let mut codes = self.clone();
        let Some(first) = batch.rows.first() else { return codes };
        let (d, mut coded, mut first) = (self.shared.leaves.dimension(), self.shared.encode(batch), *first);
        while let Some(last) = codes.chunks.pop_if(|last| last.rows.len() < 2 * coded.len()) {
            coded.extend(last.coded(d, last.first));
            first = last.first;
        }
        codes.chunks.push(Arc::new(Chunk::of(d, first, batch.end, coded)));
        codes
    }

    /// Whether some of them lie in entries up to `watermark`.
    pub fn begins_before(&self, watermark: Seq) -> bool {
        self.chunks.first().is_some_and(|c| c.first < (watermark + 1, 0))
    }

    /// Without what lies in entries up to `watermark`.
    pub fn above(&self, watermark: Seq) -> TailCodes {
        let (shared, first) = (self.shared.clone(), (watermark + 1, 0));
        let d = shared.leaves.dimension();
        let left = self.chunks.iter().filter(|c| c.end > first);
        let chunks = left.map(|c| match c.first < first {
            true => Arc::new(Chunk::of(d, first, c.end, c.coded(d, first).collect())),
            false => c.clone(),
        });
        TailCodes { chunks: chunks.collect(), shared }
    }

    /// The first row that has a code, and one past the last; nothing if none has.
    pub fn covered(&self) -> Option<(At, At)> {
        Some((self.chunks.first()?.first, self.chunks.last()?.end))
    }

    /// Bytes that it takes in memory.
    pub fn bytes(&self) -> u64 {
        let chunk = |c: &Arc<Chunk>| {
            c.groups.len() + size_of_val(c.rows.as_slice()) + size_of_val(c.leaves.as_slice())
        };
        let leaves = self.shared.leaves.count() * self.shared.leaves.dimension();
        (leaves + self.chunks.iter().map(chunk).sum::<usize>()) as u64
    }

    /// Scans the codes that the limits for a recall ask for, all without one. `emit` gets each row whose estimate leaves it a chance below the
    /// threshold and returns the next. Returns how many codes there were.
    pub fn scan(
        &self,
        asked: &Asked,
        min_recall: Option<f32>,
        bound: Bound,
        mut emit: impl FnMut(At) -> f32,
    ) -> u64 {
        let leaves = &self.shared.leaves;
        let query = self.shared.encoder.query(&asked.vector);
        let kth = leaves.metric.score(leaves.metric.estimate_to_distance(bound.threshold));
        let margin = min_recall.map_or(f32::INFINITY, |r| limits(&self.shared.limits, r).b);
        let scores = leaves.scoring(asked, &query, kth - margin);
        let term = |of: &Leaves, score: f32, leaf: usize| query.term(score, of.centroids.norm(leaf));
        let centre = &self.shared.centre;
        let far = term(centre, centre.centroids.scores(centre.metric, &asked.vector)[0], 0);
        let (mut threshold, mut scanned) = (bound.threshold, 0);
        let mut runs: Vec<Run> = Vec::new();
        for chunk in &self.chunks {
            runs.clear();
            runs.push(Run { first: 0, end: chunk.far, term: far });
            let mut first = chunk.far;
            for (end, leaf) in &chunk.leaves {
                let score = scores[*leaf as usize];
                if !score.is_nan() {
                    runs.push(Run { first, end: *end, term: term(leaves, score, *leaf as usize) });
                }
                first = *end;
            }
            scanned += runs.iter().map(|run| (run.end - run.first) as u64).sum::<u64>();
            let codes = Codes { groups: &chunk.groups, first_group: 0, beside: 0 };
            let bound = Bound { threshold, slack: bound.slack };
            query.scan(codes, &runs, |_| u32::MAX, bound, &mut |posting, _, _| {
                threshold = emit(chunk.at(posting));
                threshold
            });
        }
        scanned
    }
}

/// A row and its code.
struct Coded {
    /// Its leaf, if it is not far from it.
    leaf: Option<u32>,
    at: At,
    code: RowCode,
}

impl Shared {
    fn encode(&self, batch: &Batch<'_>) -> Vec<Coded> {
        let (leaves, d) = (&*self.leaves, self.leaves.dimension());
        let vector = |row: usize| &batch.vectors[row * d..(row + 1) * d];
        let nearest = |row: usize| leaves.nearest(&Asked::new(leaves.metric, vector(row)));
        let mut order: Vec<(u32, usize)> = (0..batch.rows.len()).map(|row| (nearest(row), row)).collect();
        order.sort_unstable();
        let (mut centre, mut centroid) = (vec![0.0; d], vec![0.0; d]);
        self.centre.centroids.dequantised(0, &mut centre);
        let mut at_centre = self.encoder.leaf(&centre);
        let mut coded = Vec::with_capacity(order.len());
        for same in order.chunk_by(|a, b| a.0 == b.0) {
            let leaf = same[0].0;
            leaves.centroids.dequantised(leaf as usize, &mut centroid);
            let mut at_leaf = self.encoder.leaf(&centroid);
            for (_, row) in same {
                let (mut code, mut square) = (RowCode::default(), 0.0);
                residual_square(leaves.metric, d, vector(*row), |_| &centroid, &mut square);
                let far = square > FAR * f64::from(leaves.encoder.scale()).powi(2);
                match far {
                    true => at_centre.encode(vector(*row), &mut code),
                    false => at_leaf.encode(vector(*row), &mut code),
                }
                coded.push(Coded { leaf: (!far).then_some(leaf), at: batch.rows[*row], code });
            }
        }
        coded
    }
}

impl Chunk {
    /// The rows between two places.
    fn of(d: usize, first: At, end: At, mut coded: Vec<Coded>) -> Chunk {
        coded.sort_unstable_by_key(|row| (row.leaf, row.at));
        let far = coded.partition_point(|row| row.leaf.is_none());
        let mut leaves: Vec<(usize, u32)> = Vec::new();
        for same in coded[far..].chunk_by(|a, b| a.leaf == b.leaf) {
            let start = leaves.last().map_or(far, |(end, _)| *end);
            leaves.extend(same[0].leaf.map(|leaf| (start + same.len(), leaf)));
        }
        let rows = coded.iter().map(|row| ((row.at.0 - first.0) as u32, row.at.1)).collect();
        let mut groups = Vec::with_capacity(coded.len().div_ceil(GROUP) * group_bytes(d));
        let codes: Vec<RowCode> = coded.into_iter().map(|row| row.code).collect();
        codes.chunks(GROUP).for_each(|group| pack_group(group, d, &mut groups));
        Chunk { first, end, rows, groups, far, leaves }
    }

    /// Its rows from one place on, and their codes.
    fn coded(&self, d: usize, from: At) -> impl Iterator<Item = Coded> {
        let mut leaves = self.leaves.iter().peekable();
        (0..self.rows.len()).filter_map(move |posting| {
            while leaves.next_if(|(end, _)| *end <= posting).is_some() {}
            let leaf = leaves.peek().filter(|_| posting >= self.far).map(|(_, leaf)| *leaf);
            let at = Some(self.at(posting)).filter(|at| *at >= from)?;
            let group = self.groups.chunks_exact(group_bytes(d)).nth(posting / GROUP)?;
            Some(Coded { leaf, at, code: unpack_row(group, d, posting % GROUP)? })
        })
    }

    /// Where the row of a posting lies.
    fn at(&self, posting: usize) -> At {
        let (entry, row) = self.rows[posting];
        (self.first.0 + Seq::from(entry), row)
    }
}

#[cfg(test)]
mod tests;
