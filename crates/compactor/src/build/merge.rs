//! A merge around the input that holds most of its rows: leaves of it that still fit stand, and the codes of their rows
//! are copied, lane by lane (INDEX §4). In memory the whole clustering is decided here, out of memory by `large`.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use esker_format::schema::Settings;
use esker_format::segment::index::Header;
use esker_format::{Error, Result};
use esker_index::{
    Adapted, Centroids, Clustering, Encoder, GROUP, Origin, RowCode, Standing, adapt, leaf_target, pick_bits,
    unpack_row,
};

use super::{BuildOptions, leaf_starts, metric};
use crate::scratch::{ScratchFile, broken};

/// An input is the base of a merge if it has at least so many of so many of the rows. Among twice as many rows as it has,
/// most of its leaves would be split, and the survey that says so is a pass over all rows.
const SHARE: (u64, u64) = (3, 5);

/// The input of a merge whose leaves may stand.
#[derive(Clone)]
pub(crate) struct Base<'a> {
    /// Its opened index.
    pub(crate) header: &'a Arc<Header>,
    pub(crate) codes: BaseCodes,
    /// Ordinals of its rows that move, ascending.
    pub(crate) moved: &'a [u32],
    /// Input row of the first of them; the others follow.
    pub(crate) first: usize,
}

/// The codes of a base, checked: where rows are out of memory they are in a file, unless `head` has them.
#[derive(Clone)]
pub(crate) enum BaseCodes {
    Memory(Bytes),
    Scratch(Arc<dyn ScratchFile>),
}

/// What a new segment has from its base.
pub(super) struct Kept {
    /// Bits per element of the centroids.
    pub(super) bits: u8,
    /// The centroids as stored.
    pub(super) centroids: Vec<u8>,
    /// Seed of the rotation.
    pub(super) seed: u64,
    /// What its codes are made with.
    pub(super) encoder: Encoder,
    pub(super) copies: Moved,
}

/// The leaves of a new segment.
pub(super) struct Leaves<'a> {
    /// leaves·d values.
    pub(super) centroids: &'a [f32],
    /// Of each the base's whose centroid it has.
    pub(super) origin: &'a [Option<u32>],
    /// First ordinal of each, and the number of rows at the end.
    pub(super) starts: &'a [u32],
}

/// Codes of a base that stay as they are.
pub(super) struct Moved {
    /// Of a code.
    bits: usize,
    /// Bytes from a group to the next, and those of its codes.
    group_bytes: (usize, usize),
    codes: BaseCodes,
    /// Of codes in a file, groups that were read, and where each run of them starts.
    window: Vec<u8>,
    runs: Vec<(Range<usize>, usize)>,
    /// Posting of the base, by ordinal of the new segment; [`Moved::NONE`] where there is none.
    from: Vec<u32>,
}

impl Base<'_> {
    /// Whether a segment of `rows` rows may be made around an input that has `moved` of them.
    pub(crate) fn carries(moved: u64, rows: u64) -> bool {
        moved > 0 && moved * SHARE.1 >= rows * SHARE.0
    }

    /// The base's leaf of each of `rows` input rows.
    pub(super) fn leaf_of(&self, rows: usize) -> Result<Vec<u32>> {
        let mut leaf_of = vec![Standing::NEW; rows];
        let moved = leaf_of.get_mut(self.first..self.first + self.moved.len());
        let moved = moved.ok_or_else(|| Error::internal("a merge has fewer rows than its base"))?;
        moved.iter_mut().zip(self.moved).for_each(|(leaf, ordinal)| *leaf = self.header.leaf_of(*ordinal));
        Ok(leaf_of)
    }

    /// Its leaves, given its centroids and what [`Base::leaf_of`] said.
    pub(super) fn standing<'a>(&self, centroids: &'a [u8], leaf_of: &'a [u32]) -> Standing<'a> {
        let facts = self.header.facts();
        Standing {
            leaves: facts.leaves as usize,
            bits: facts.centroid_bits,
            centroids,
            scale: facts.scale,
            leaf_of,
        }
    }

    /// Clusters the rows (n·d values in input order) around the base's leaves. `None` where a new clustering is better.
    pub(super) fn keep(
        &self,
        vectors: &[f32],
        settings: &Settings,
        options: BuildOptions,
    ) -> Result<Option<(Clustering, Kept)>> {
        let d = settings.dimension as usize;
        let rows = vectors.len() / d;
        let (stored, leaf_of) = (self.header.centroids(), self.leaf_of(rows)?);
        let (standing, target) = (self.standing(&stored, &leaf_of), leaf_target(rows as u64));
        let adapted = adapt(vectors, d, metric(settings), standing, target, options.seed, options.threads);
        let Some(Adapted { clustering, origin }) = adapted.map_err(|e| self.wrong(&e))? else {
            return Ok(None);
        };
        let starts = leaf_starts(&clustering);
        let leaves = Leaves { centroids: &clustering.centroids, origin: &origin, starts: &starts };
        let kept = self.kept(&leaves, &clustering.order, d)?;
        Ok(kept.map(|kept| (clustering, kept)))
    }

    /// What a segment has from it, given its leaves and the input row of each ordinal. `None` where so many leaves have
    /// centroids of other bits.
    pub(super) fn kept(&self, leaves: &Leaves<'_>, order: &[u32], d: usize) -> Result<Option<Kept>> {
        let facts = self.header.facts();
        if !self.fits(leaves.origin.len(), d) {
            return Ok(None);
        }
        let origins: Vec<Origin<'_>> = leaves
            .origin
            .iter()
            .zip(leaves.centroids.chunks_exact(d))
            .map(|(origin, mean)| origin.map_or(Origin::Mean(mean), Origin::Stored))
            .collect();
        let centroids = Centroids::extend(facts.centroid_bits, d, &self.header.centroids(), &origins);
        let copies = Moved {
            bits: facts.code_bits as usize,
            group_bytes: (facts.group_bytes as usize, self.header.bare_group_bytes() as usize),
            codes: self.codes.clone(),
            window: Vec::new(),
            runs: Vec::new(),
            from: self.postings(leaves, order),
        };
        Ok(Some(Kept {
            bits: facts.centroid_bits,
            centroids: centroids.map_err(|e| self.wrong(&e))?,
            seed: facts.rotation_seed,
            encoder: self.encoder(d)?,
            copies,
        }))
    }

    /// What its codes are made with.
    fn encoder(&self, d: usize) -> Result<Encoder> {
        let (facts, basis) = (self.header.facts(), self.header.basis());
        let metric = metric(self.header.settings());
        let encoder = Encoder::stored(metric, d, facts.rotation_seed, facts.scale, basis.as_deref());
        let encoder = encoder.map_err(|e| self.wrong(e))?;
        let (bits, bytes) = (facts.code_bits as usize, self.header.bare_group_bytes() as usize);
        if (bits, bytes) != (encoder.bits(), encoder.group_bytes()) {
            return Err(self.wrong("its codes are not those of its dimension or basis"));
        }
        Ok(encoder)
    }

    /// Whether the centroids of so many leaves are stored as its own are.
    pub(super) fn fits(&self, leaves: usize, d: usize) -> bool {
        pick_bits(leaves, d) == self.header.facts().centroid_bits
    }

    /// Its posting whose code each new ordinal has: that of a row which is in the leaf in which it was, and that stands.
    fn postings(&self, leaves: &Leaves<'_>, order: &[u32]) -> Vec<u32> {
        let (starts, postings) = (self.header.leaf_starts(), self.header.posting_starts());
        let mut from = vec![Moved::NONE; order.len()];
        for (own, origin) in leaves.starts.windows(2).zip(leaves.origin) {
            let (Some(leaf), own) = (*origin, own[0] as usize..own[1] as usize) else { continue };
            let was = starts[leaf as usize]..starts[leaf as usize + 1];
            for (input, from) in order[own.clone()].iter().zip(&mut from[own]) {
                let moved = (*input as usize).checked_sub(self.first).and_then(|row| self.moved.get(row));
                // A leaf's own rows come before what spilled into it.
                let copied = moved.filter(|ordinal| was.contains(ordinal));
                copied.iter().for_each(|o| *from = postings[leaf as usize] + **o - was.start);
            }
        }
        from
    }

    pub(super) fn wrong(&self, what: &str) -> Error {
        Error::corrupt(self.header.object(), what)
    }
}

impl Moved {
    const NONE: u32 = u32::MAX;

    /// Reads what [`Moved::get`] needs for some ordinals, if it is in a file.
    pub(super) fn fetch(&mut self, ordinals: Range<usize>) -> Result<()> {
        let BaseCodes::Scratch(file) = &self.codes else { return Ok(()) };
        let copied = self.from[ordinals].iter().filter(|posting| **posting != Moved::NONE);
        let mut groups: Vec<usize> = copied.map(|posting| *posting as usize / GROUP).collect();
        groups.sort_unstable();
        groups.dedup();
        self.window.clear();
        self.runs.clear();
        let step = self.group_bytes.0;
        for run in groups.chunk_by(|a, b| a + 1 == *b) {
            let (first, at) = (run[0], self.window.len());
            self.window.resize(at + run.len() * step, 0);
            file.read((first * step) as u64, &mut self.window[at..]).map_err(broken)?;
            self.runs.push((first..first + run.len(), at));
        }
        Ok(())
    }

    /// The code of an ordinal, if it is copied.
    pub(super) fn get(&self, ordinal: usize) -> Option<RowCode> {
        let posting = *self.from.get(ordinal).filter(|posting| **posting != Moved::NONE)? as usize;
        let group = self.group(posting / GROUP)?.get(..self.group_bytes.1)?;
        unpack_row(group, self.bits, posting % GROUP)
    }

    /// The bytes from a group of the base on.
    fn group(&self, number: usize) -> Option<&[u8]> {
        let step = self.group_bytes.0;
        match &self.codes {
            BaseCodes::Memory(groups) => groups.get(number * step..),
            BaseCodes::Scratch(_) => {
                let run = self.runs.partition_point(|(run, _)| run.end <= number);
                let (run, at) = self.runs.get(run).filter(|(run, _)| run.contains(&number))?;
                self.window.get(at + (number - run.start) * step..)
            }
        }
    }

    /// How many rows have a code that is copied.
    pub(super) fn count(&self) -> u64 {
        self.from.iter().filter(|posting| **posting != Moved::NONE).count() as u64
    }
}

#[cfg(test)]
mod tests;
