//! A merge around the input that holds most of its rows: leaves of it that still fit stand, and the codes of their rows
//! are copied, lane by lane (INDEX §4).

use std::sync::Arc;

use bytes::Bytes;
use esker_format::schema::Settings;
use esker_format::segment::index::Header;
use esker_format::{Error, Result};
use esker_index::{
    Adapted, Centroids, Clustering, GROUP, Origin, RowCode, Standing, adapt, leaf_target, pick_bits,
    unpack_row,
};

use super::{BuildOptions, metric};

/// An input is the base of a merge if it has at least one in so many of the rows.
const SHARE: u64 = 2;

/// The input of a merge whose leaves may stand.
pub(crate) struct Base<'a> {
    /// Its opened index.
    pub(crate) header: &'a Arc<Header>,
    /// Its codes, checked.
    pub(crate) codes: Bytes,
    /// Ordinals of its rows that move, ascending.
    pub(crate) moved: &'a [u32],
    /// Input row of the first of them; the others follow.
    pub(crate) first: usize,
}

/// What a new segment has from its base.
pub(super) struct Kept {
    /// Bits per element of the centroids.
    pub(super) bits: u8,
    /// The centroids as stored.
    pub(super) centroids: Vec<u8>,
    /// Seed of the rotation.
    pub(super) seed: u64,
    pub(super) scale: f32,
    pub(super) copies: Moved,
}

/// Codes of a base that stay as they are.
pub(super) struct Moved {
    d: usize,
    /// Bytes from a group to the next, and those of its codes.
    group_bytes: (usize, usize),
    /// The base's.
    groups: Bytes,
    /// Posting of the base, by ordinal of the new segment; [`Moved::NONE`] where there is none.
    from: Vec<u32>,
}

impl Base<'_> {
    /// Whether a segment of `rows` rows may be made around an input that has `moved` of them.
    pub(crate) fn carries(moved: u64, rows: u64) -> bool {
        moved > 0 && moved * SHARE >= rows
    }

    /// Clusters the rows (n·d values in input order) around the base's leaves. `None` where a new clustering is better.
    pub(super) fn keep(
        &self,
        vectors: &[f32],
        settings: &Settings,
        options: BuildOptions,
    ) -> Result<Option<(Clustering, Kept)>> {
        let (facts, d) = (*self.header.facts(), settings.dimension as usize);
        let rows = vectors.len() / d;
        let mut leaf_of = vec![Standing::NEW; rows];
        let moved = leaf_of.get_mut(self.first..self.first + self.moved.len());
        let moved = moved.ok_or_else(|| Error::internal("a merge has fewer rows than its base"))?;
        moved.iter_mut().zip(self.moved).for_each(|(leaf, ordinal)| *leaf = self.header.leaf_of(*ordinal));
        let stored = self.header.centroids();
        let standing = Standing {
            leaves: facts.leaves as usize,
            bits: facts.centroid_bits,
            centroids: &stored,
            scale: facts.scale,
            leaf_of: &leaf_of,
        };
        let target = leaf_target(rows as u64);
        let adapted = adapt(vectors, d, metric(settings), standing, target, options.seed, options.threads);
        let Some(adapted) = adapted.map_err(|e| self.wrong(&e))? else { return Ok(None) };
        if pick_bits(adapted.clustering.leaves, d) != facts.centroid_bits {
            return Ok(None);
        }
        let from = self.copied(&adapted, &standing);
        let Adapted { clustering, origin } = adapted;
        let origins: Vec<Origin<'_>> = origin
            .iter()
            .zip(clustering.centroids.chunks_exact(d))
            .map(|(origin, mean)| origin.map_or(Origin::Mean(mean), Origin::Stored))
            .collect();
        let centroids = Centroids::extend(facts.centroid_bits, d, &stored, &origins);
        let centroids = centroids.map_err(|e| self.wrong(&e))?;
        let group_bytes = (facts.group_bytes as usize, self.header.bare_group_bytes() as usize);
        let copies = Moved { d, group_bytes, groups: self.codes.clone(), from };
        let (seed, scale) = (facts.rotation_seed, facts.scale);
        Ok(Some((clustering, Kept { bits: facts.centroid_bits, centroids, seed, scale, copies })))
    }

    /// The posting of the base whose code each new ordinal has.
    fn copied(&self, adapted: &Adapted, standing: &Standing<'_>) -> Vec<u32> {
        let (starts, postings) = (self.header.leaf_starts(), self.header.posting_starts());
        let posting = |row: &u32| {
            let row = *row as usize;
            if !adapted.stands(standing, row) {
                return Moved::NONE;
            }
            let leaf = standing.leaf_of[row] as usize;
            // A leaf's own rows come before what spilled into it.
            postings[leaf] + self.moved[row - self.first] - starts[leaf]
        };
        adapted.clustering.order.iter().map(posting).collect()
    }

    fn wrong(&self, what: &str) -> Error {
        Error::corrupt(self.header.object(), what)
    }
}

impl Moved {
    const NONE: u32 = u32::MAX;

    /// The code of an ordinal, if it is copied.
    pub(super) fn get(&self, ordinal: usize) -> Option<RowCode> {
        let posting = *self.from.get(ordinal)? as usize;
        let (step, bare) = self.group_bytes;
        let group = self.groups.get(posting / GROUP * step..)?.get(..bare)?;
        unpack_row(group, self.d, posting % GROUP)
    }

    /// How many rows have a code that is copied.
    pub(super) fn count(&self) -> u64 {
        self.from.iter().filter(|posting| **posting != Moved::NONE).count() as u64
    }
}

#[cfg(test)]
mod tests;
