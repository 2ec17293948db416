//! Centroids and codes of a segment in ordinal order.

use std::ops::Range;
use std::sync::Mutex;

use esker_format::schema::Settings;
use esker_format::segment::index::{ORDINALS_BYTES, Spill};
use esker_format::{Error, Result};
use esker_index::{
    Centroids, Encoder, GROUP, Metric, RowCode, check16, group_bytes, pack_group, pick_bits, residual_square,
    scale_of,
};

use super::copies::Postings;
use super::merge::{Kept, Moved};
use super::metric;
use super::order::{CHUNK, Ordered, stored_bytes};
use crate::parallel::Task;

/// What the index stores of centroids and codes.
pub(super) struct Coded {
    pub(super) centroids: Centroids,
    pub(super) centroid_bits: u8,
    /// The centroids as stored.
    pub(super) centroid_bytes: Vec<u8>,
    /// Seed of the rotation.
    pub(super) seed: u64,
    encoder: Encoder,
    /// The encoder's basis as it is stored.
    basis: Option<Vec<u8>>,
    pub(super) group_bytes: usize,
    /// Code groups, once encoded.
    pub(super) groups: Vec<u8>,
    metric: Metric,
    /// Every centroid as stored: codes refer to these.
    dequantised: Vec<f32>,
    /// Codes that are copied from another segment.
    copies: Option<Moved>,
    /// Where leaves have copies of rows of others.
    pub(super) postings: Option<Postings>,
}

impl Coded {
    /// Quantises the centroids (leaves·d values). The scale is the caller's to measure.
    pub(super) fn new(settings: &Settings, leaves: usize, centroids: &[f32], seed: u64) -> Result<Self> {
        let d = settings.dimension as usize;
        let centroid_bits = pick_bits(leaves, d);
        let centroid_bytes = Centroids::encode(centroid_bits, leaves, d, centroids);
        Coded::of(settings, leaves, centroid_bits, centroid_bytes, seed)
    }

    /// What a merge keeps of its base, the scale included.
    pub(super) fn kept(settings: &Settings, leaves: usize, kept: Kept) -> Result<Self> {
        let Kept { bits, centroids, seed, encoder, copies } = kept;
        let mut coded = Coded::of(settings, leaves, bits, centroids, seed)?;
        coded.set_encoder(encoder);
        Ok(Coded { copies: Some(copies), ..coded })
    }

    fn of(
        settings: &Settings,
        leaves: usize,
        centroid_bits: u8,
        centroid_bytes: Vec<u8>,
        seed: u64,
    ) -> Result<Self> {
        let (metric, d) = (metric(settings), settings.dimension as usize);
        let centroids = Centroids::decode(centroid_bits, leaves, d, &centroid_bytes)
            .map_err(|e| Error::internal(format!("centroids do not read back: {e}")))?;
        let dequantised = centroids.all_dequantised();
        Ok(Coded {
            centroids,
            centroid_bits,
            centroid_bytes,
            seed,
            encoder: Encoder::new(metric, d, seed, 1.0),
            basis: None,
            group_bytes: group_bytes(d),
            groups: Vec::new(),
            metric,
            dequantised,
            copies: None,
            postings: None,
        })
    }

    /// Adds the squared norms of the residuals of rows from ordinal `first` on.
    pub(super) fn add_residuals(&self, first: usize, vectors: &[f32], leaf_starts: &[u32], total: &mut f64) {
        let d = self.centroids.dimension();
        let mut leaf = leaf_of(leaf_starts, first);
        let leaves: Vec<usize> = (first..first + vectors.len() / d)
            .map(|ordinal| {
                while leaf_starts[leaf + 1] as usize <= ordinal {
                    leaf += 1;
                }
                leaf
            })
            .collect();
        residual_square(self.metric, d, vectors, |row| &self.dequantised[leaves[row] * d..][..d], total);
    }

    /// What the codes are scaled with, once the residuals of `rows` rows are added up.
    pub(super) fn set_scale(&mut self, total: f64, rows: usize) {
        self.set_encoder(Encoder::new(self.metric, self.dimension(), self.seed, scale_of(total, rows)));
    }

    /// What codes are made with; before anything is encoded.
    pub(super) fn set_encoder(&mut self, encoder: Encoder) {
        self.basis = encoder.basis().map(|basis| basis.encode());
        self.group_bytes = encoder.group_bytes();
        self.encoder = encoder;
    }

    /// The basis of the codes as it is stored, if they have one.
    pub(super) fn basis(&self) -> Option<&[u8]> {
        self.basis.as_deref()
    }

    /// Values of a vector.
    pub(super) fn dimension(&self) -> usize {
        self.centroids.dimension()
    }

    pub(super) fn metric(&self) -> Metric {
        self.metric
    }

    pub(super) fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// The centroid of a leaf as it is stored.
    pub(super) fn centroid(&self, leaf: usize) -> &[f32] {
        let d = self.dimension();
        &self.dequantised[leaf * d..][..d]
    }

    /// Whether codes are those of another segment, as far as their rows stand.
    pub(super) fn is_kept(&self) -> bool {
        self.copies.is_some()
    }

    /// The code of a row that another segment had.
    pub(super) fn copied_code(&self, ordinal: usize) -> Option<RowCode> {
        self.copies.as_ref()?.get(ordinal)
    }

    /// Reads what the encoding of some rows needs of another segment.
    pub(super) fn fetch(&mut self, ordinals: Range<usize>) -> Result<()> {
        self.copies.as_mut().map_or(Ok(()), |copies| copies.fetch(ordinals))
    }

    /// Gives rows copies; before anything is encoded.
    pub(super) fn set_postings(&mut self, postings: Option<Postings>) {
        if postings.is_some() {
            self.group_bytes = self.encoder.group_bytes() + ORDINALS_BYTES as usize;
        }
        self.postings = postings;
    }

    /// Room for the codes of so many rows.
    pub(super) fn new_groups(&self, rows: usize) -> Vec<u8> {
        let postings = self.postings.as_ref().map_or(rows, Postings::count);
        let mut groups = vec![0; self.groups_len(postings)];
        if self.postings.is_some() {
            self.mark_absent(postings, &mut groups);
        }
        groups
    }

    /// What the index says of copies.
    pub(super) fn spill(&self) -> Option<Spill<'_>> {
        self.postings.as_ref().map(|p| Spill { starts: &p.starts, ordinals: &p.ordinals })
    }

    /// The hash of each posting's id, given those of rows.
    pub(super) fn idplane(&self, leaf_starts: &[u32], hashes: Vec<u64>) -> Vec<u64> {
        match &self.postings {
            None => hashes,
            Some(postings) => postings.spread(leaf_starts, &hashes),
        }
    }

    /// How many rows have a copied code.
    pub(super) fn copied(&self) -> u64 {
        self.copies.as_ref().map_or(0, Moved::count)
    }

    /// Bytes of the groups of that many postings.
    pub(super) fn groups_len(&self, postings: usize) -> usize {
        postings.div_ceil(GROUP) * self.group_bytes
    }

    /// Tasks that fill `groups` of rows that have copies, one per ordered batch.
    pub(super) fn tasks_twice<'a>(
        &'a self,
        postings: &'a Postings,
        ordered: &'a Ordered,
        leaf_starts: &'a [u32],
        settings: &'a Settings,
        groups: &'a Mutex<&'a mut [u8]>,
    ) -> Vec<Task<'a>> {
        let d = self.centroids.dimension();
        let batches = ordered.batches.iter().enumerate();
        let tasks = batches.map(|(chunk, batch)| {
            Box::new(move || {
                let first = chunk * CHUNK;
                let vectors = &ordered.vectors[first * d..][..batch.num_rows() * d];
                let rows = (first, vectors, stored_bytes(batch, settings));
                self.encode_twice(postings, rows, leaf_starts, groups);
            }) as Task<'a>
        });
        tasks.collect()
    }

    /// Tasks that fill `groups`, one per ordered batch: these start where a group does.
    pub(super) fn tasks<'a>(
        &'a self,
        ordered: &'a Ordered,
        leaf_starts: &'a [u32],
        settings: &'a Settings,
        groups: &'a mut [u8],
    ) -> Vec<Task<'a>> {
        let chunk_bytes = CHUNK / GROUP * self.group_bytes;
        let d = self.centroids.dimension();
        let encode = move |chunk: usize, out: &mut [u8]| {
            let first = chunk * CHUNK;
            let batch = &ordered.batches[chunk];
            let vectors = &ordered.vectors[first * d..][..batch.num_rows() * d];
            self.encode(first, vectors, stored_bytes(batch, settings), leaf_starts, out);
        };
        let parts = groups.chunks_mut(chunk_bytes).enumerate();
        parts.map(|(chunk, out)| Box::new(move || encode(chunk, out)) as Task<'a>).collect()
    }

    /// Encodes the rows from ordinal `first` on, which starts a group, into `out`.
    pub(super) fn encode(
        &self,
        first: usize,
        vectors: &[f32],
        stored: &[u8],
        leaf_starts: &[u32],
        out: &mut [u8],
    ) {
        let d = self.centroids.dimension();
        let rows = vectors.len() / d;
        let stride = stored.len() / rows.max(1);
        let encoder = self.encoder();
        // All at once where all are encoded, which is faster.
        let turned = if self.is_kept() { Vec::new() } else { encoder.turn(vectors) };
        let each = turned.len() / rows.max(1);
        let (mut leaf, mut leaf_encoder) = (usize::MAX, None);
        let mut group = Vec::with_capacity(self.group_bytes);
        let mut codes = vec![RowCode::default(); GROUP];
        for (number, out) in out.chunks_exact_mut(self.group_bytes).enumerate() {
            let start = number * GROUP;
            let lanes = GROUP.min(rows - start);
            for (lane, code) in codes[..lanes].iter_mut().enumerate() {
                let row = start + lane;
                if let Some(copy) = self.copied_code(first + row) {
                    *code = copy;
                    continue;
                }
                if leaf_encoder.is_none() || leaf_starts[leaf + 1] as usize <= first + row {
                    leaf = leaf_of(leaf_starts, first + row);
                    leaf_encoder = Some(encoder.leaf(self.centroid(leaf)));
                }
                if let Some(encoder) = &mut leaf_encoder {
                    let values = &vectors[row * d..][..d];
                    match each {
                        0 => encoder.encode(values, code),
                        _ => encoder.encode_turned(values, &turned[row * each..][..each], code),
                    }
                }
                code.check = check16(&stored[row * stride..][..stride]);
            }
            group.clear();
            pack_group(&codes[..lanes], encoder.bits(), &mut group);
            out.copy_from_slice(&group);
        }
    }
}

/// The leaf of an ordinal.
pub(super) fn leaf_of(leaf_starts: &[u32], ordinal: usize) -> usize {
    leaf_starts.partition_point(|start| *start as usize <= ordinal) - 1
}
