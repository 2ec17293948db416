//! Codes of the tail's rows, so that a long tail is not measured row by row: made a chunk at a time while searches go on,
//! and kept as long as the log has the rows. They never decide what counts: every row that a scan emits is looked up in
//! the tail at hand and measured.

use std::sync::Arc;

use esker_format::Seq;
use esker_index::{
    Bound, Centroids, CodeQuery, Codes, Encoder, GROUP, Metric, Rotation, RowCode, Run, cluster, group_bytes,
    pack_group, residual_scale,
};

/// Rows of a leaf that the first chunk aims at, and most leaves.
const LEAF_ROWS: usize = 128;
const LEAVES: usize = 32;
/// Of the clustering and of the rotation. Nothing of them is stored.
const SEED: u64 = 0x7461_696c;
/// Most rows of a chunk …
const CHUNK_ROWS: usize = 4096;
/// … and bytes of their vectors.
const CHUNK_BYTES: usize = 12 << 20;

/// A row of the log: entry and row of the entry.
pub(crate) type At = (Seq, u32);

/// Codes of consecutive rows of the log.
#[derive(Debug, Clone)]
pub(crate) struct TailCodes {
    shared: Arc<Shared>,
    /// Oldest first, each beginning where the one before ends.
    chunks: Vec<Arc<Chunk>>,
}

/// What all chunks refer to, learnt from the first.
#[derive(Debug)]
struct Shared {
    metric: Metric,
    dimension: usize,
    scale: f32,
    centroids: Centroids,
    /// The same, as rows are encoded against them.
    means: Vec<f32>,
    encoder: Encoder,
    rotation: Rotation,
}

#[derive(Debug)]
struct Chunk {
    first: At,
    /// One past the last row.
    end: At,
    /// The row of each posting: entries after that of `first`, row.
    rows: Vec<(u32, u32)>,
    groups: Vec<u8>,
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
    (groups + rows * size_of::<(u32, u32)>() + LEAVES * 16) as u64
}

impl TailCodes {
    /// Learns from the rows of the first chunk, which is not among the codes yet. Nothing if it has no rows.
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
        let (encoder, rotation) =
            (Encoder::new(metric, dimension, SEED, scale), Rotation::new(SEED, dimension));
        let shared = Shared { metric, dimension, scale, centroids, means, encoder, rotation };
        Some(TailCodes { shared: Arc::new(shared), chunks: Vec::new() })
    }

    /// With the codes of rows that begin where these end.
    pub fn with(&self, batch: &Batch<'_>) -> TailCodes {
        let mut codes = self.clone();
        if let Some(first) = batch.rows.first() {
            codes.chunks.push(Arc::new(self.shared.encode(*first, batch)));
        }
        codes
    }

    /// Whether some of them lie wholly in entries up to `watermark`.
    pub fn begins_before(&self, watermark: Seq) -> bool {
        self.chunks.first().is_some_and(|c| c.end <= (watermark + 1, 0))
    }

    /// Without what lies wholly in entries up to `watermark`.
    pub fn above(&self, watermark: Seq) -> TailCodes {
        let gone = self.chunks.iter().take_while(|c| c.end <= (watermark + 1, 0)).count();
        TailCodes { shared: self.shared.clone(), chunks: self.chunks[gone..].to_vec() }
    }

    /// The first row that has a code, and one past the last; nothing if none has.
    pub fn covered(&self) -> Option<(At, At)> {
        Some((self.chunks.first()?.first, self.chunks.last()?.end))
    }

    /// Bytes that it takes in memory.
    pub fn bytes(&self) -> u64 {
        let chunk = |c: &Arc<Chunk>| c.groups.len() + size_of_val(c.rows.as_slice()) + c.leaves.len() * 16;
        let means = self.shared.means.len() * 5;
        (means + self.chunks.iter().map(chunk).sum::<usize>()) as u64
    }

    /// Scans all codes for a query (d values). `emit` gets each row whose estimate leaves it a chance below the threshold
    /// and returns the next. Returns how many codes there were.
    pub fn scan(&self, query: &[f32], bound: Bound, mut emit: impl FnMut(At) -> f32) -> u64 {
        let s = &self.shared;
        let prepared = CodeQuery::new(s.metric, s.dimension, &s.rotation, s.scale, query);
        let scores = s.centroids.scores(s.metric, query);
        let terms: Vec<_> =
            (0..scores.len()).map(|leaf| prepared.term(scores[leaf], s.centroids.norm(leaf))).collect();
        let (mut threshold, mut scanned) = (bound.threshold, 0);
        let mut runs: Vec<Run> = Vec::with_capacity(LEAVES);
        for chunk in &self.chunks {
            runs.clear();
            let mut first = 0;
            for (end, leaf) in &chunk.leaves {
                runs.push(Run { first, end: *end, term: terms[*leaf as usize] });
                first = *end;
            }
            scanned += first as u64;
            let codes = Codes { groups: &chunk.groups, first_group: 0, beside: 0 };
            let bound = Bound { threshold, slack: bound.slack };
            prepared.scan(codes, &runs, |_| u32::MAX, bound, &mut |posting, _, _| {
                let (entry, row) = chunk.rows[posting];
                threshold = emit((chunk.first.0 + Seq::from(entry), row));
                threshold
            });
        }
        scanned
    }
}

impl Shared {
    fn encode(&self, first: At, batch: &Batch<'_>) -> Chunk {
        let d = self.dimension;
        let vector = |row: usize| &batch.vectors[row * d..(row + 1) * d];
        let nearest = |row: usize| {
            let scores = self.centroids.scores(self.metric, vector(row));
            let best = (0u32..).zip(&scores).max_by(|a, b| a.1.total_cmp(b.1));
            best.map_or(0, |(leaf, _)| leaf)
        };
        let mut order: Vec<(u32, usize)> = (0..batch.rows.len()).map(|row| (nearest(row), row)).collect();
        order.sort_unstable();
        let (mut rows, mut codes, mut leaves) = (Vec::new(), Vec::new(), Vec::new());
        for same in order.chunk_by(|a, b| a.0 == b.0) {
            let leaf = same[0].0;
            let mut encoder = self.encoder.leaf(&self.means[leaf as usize * d..][..d]);
            for (_, row) in same {
                let mut code = RowCode::default();
                encoder.encode(vector(*row), &mut code);
                codes.push(code);
                let (seq, number) = batch.rows[*row];
                rows.push(((seq - first.0) as u32, number));
            }
            leaves.push((rows.len(), leaf));
        }
        let mut groups = Vec::with_capacity(codes.len().div_ceil(GROUP) * group_bytes(d));
        codes.chunks(GROUP).for_each(|group| pack_group(group, d, &mut groups));
        Chunk { first, end: batch.end, rows, groups, leaves }
    }
}

#[cfg(test)]
mod tests;
