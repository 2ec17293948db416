//! Copies of rows in a second leaf (INDEX §1, [RFC 0011]): a search that cannot read all the leaves it should finds more in those
//! that it reads. Smaller segments have none.
//!
//! [RFC 0011]: ../../../../docs/rfcs/0011-warm-scan.md

use std::sync::{Mutex, PoisonError};

use esker_format::Result;
use esker_format::segment::index::ORDINALS_BYTES;
use esker_index::{GROUP, RowCode, Seconds, pack_row};

use super::calibration::Truth;
use super::codes::{Coded, leaf_of};
use super::vectors::Vectors;
use super::{BuildOptions, Choice};

/// Of codes up to this many bytes a cold search reads enough at first: there copies save it nothing and lie further apart. Measured
/// at 10 MB, where they cost requests, and at 104 MB, where they gain recall (RFC 0011).
const ENOUGH: usize = 32 << 20;
/// Copies are made if so many times fewer leaves have this share of the sample's neighbours.
const FEWER: (f64, f64) = (1.5, 0.98);
/// … which is in more leaves than this: so many are read whatever they cost.
const MANY: u32 = 8;

/// The posting lists of a segment: of each leaf its own rows, then copies of rows of others.
pub(super) struct Postings {
    /// First posting of each leaf, and the number of postings at the end.
    pub(super) starts: Vec<u32>,
    /// Row of each copy, in posting order.
    pub(super) ordinals: Vec<u32>,
    /// Leaf and posting of the copy of each row; [`Seconds::NONE`] of one that has none.
    places: Vec<(u32, u32)>,
}

impl Postings {
    /// Chooses a second leaf for each row. `None` where copies are not worth it.
    pub(super) fn choose(
        vectors: &dyn Vectors,
        coded: &Coded,
        leaf_starts: &[u32],
        truth: &Truth,
        options: BuildOptions,
    ) -> Result<Option<Postings>> {
        let BuildOptions { seed, threads, copies, .. } = options;
        let wanted = match copies {
            Choice::WhereWorth => coded.groups_len(vectors.rows()) > ENOUGH,
            Choice::Always => true,
            Choice::Never => false,
        };
        if !wanted || coded.centroids.leaves() < 2 {
            return Ok(None);
        }
        let (d, metric) = (coded.dimension(), coded.metric());
        let seconds = Seconds::new(coded.centroids.all_dequantised(), d, metric, seed, threads);
        let mut second = Vec::with_capacity(vectors.rows());
        vectors.each(&mut |first, vectors| {
            let own = own_leaves(leaf_starts, first, vectors.len() / d);
            second.extend(seconds.of(vectors, &own, threads));
            Ok(())
        })?;
        let (once, twice) = truth.leaves(coded, leaf_starts, &second, FEWER.1, threads);
        tracing::debug!(once, twice, "leaves that have the neighbours, without copies and with");
        let worth = once > MANY && f64::from(once) >= FEWER.0 * f64::from(twice);
        Ok((worth || copies == Choice::Always).then(|| Postings::new(leaf_starts, &second)))
    }

    /// The posting lists of leaves and of copies in the second leaf of each row.
    fn new(leaf_starts: &[u32], second: &[u32]) -> Postings {
        let leaves = leaf_starts.len() - 1;
        let mut copies = vec![0u32; leaves];
        second.iter().filter(|leaf| **leaf != Seconds::NONE).for_each(|leaf| copies[*leaf as usize] += 1);
        let mut starts = Vec::with_capacity(leaves + 1);
        // Next copy of each leaf, and how many copies of leaves before it.
        let (mut next, mut before) = (Vec::with_capacity(leaves), Vec::with_capacity(leaves));
        let mut sum = 0;
        for (leaf, count) in copies.into_iter().enumerate() {
            starts.push(leaf_starts[leaf] + sum);
            next.push(leaf_starts[leaf + 1] + sum);
            before.push(leaf_starts[leaf + 1]);
            sum += count;
        }
        starts.push(leaf_starts[leaves] + sum);
        let mut ordinals = vec![0; sum as usize];
        let mut place = |(ordinal, leaf): (u32, &u32)| {
            let Some(posting) = next.get_mut(*leaf as usize) else { return (*leaf, Seconds::NONE) };
            ordinals[(*posting - before[*leaf as usize]) as usize] = ordinal;
            *posting += 1;
            (*leaf, *posting - 1)
        };
        let places = (0u32..).zip(second).map(&mut place).collect();
        Postings { starts, ordinals, places }
    }

    /// How many.
    pub(super) fn count(&self) -> usize {
        self.places.len() + self.ordinals.len()
    }

    /// The posting of a row in its own leaf.
    pub(super) fn own(&self, leaf_starts: &[u32], leaf: usize, ordinal: usize) -> usize {
        self.starts[leaf] as usize + ordinal - leaf_starts[leaf] as usize
    }

    /// The second leaf of a row.
    pub(super) fn second(&self, ordinal: u32) -> Option<usize> {
        Some(self.places[ordinal as usize].0).filter(|leaf| *leaf != Seconds::NONE).map(|leaf| leaf as usize)
    }

    /// Something of each row, of each posting.
    pub(super) fn spread(&self, leaf_starts: &[u32], of_rows: &[u64]) -> Vec<u64> {
        let mut out = Vec::with_capacity(self.count());
        let mut copies = self.ordinals.iter();
        for (own, all) in leaf_starts.windows(2).zip(self.starts.windows(2)) {
            out.extend_from_slice(&of_rows[own[0] as usize..own[1] as usize]);
            let count = (all[1] - all[0]) - (own[1] - own[0]);
            out.extend(copies.by_ref().take(count as usize).map(|ordinal| of_rows[*ordinal as usize]));
        }
        out
    }
}

impl Coded {
    /// Encodes rows from ordinal `first` on into their postings, copies among them.
    pub(super) fn encode_twice(
        &self,
        postings: &Postings,
        (first, vectors, stored): (usize, &[f32], &[u8]),
        leaf_starts: &[u32],
        groups: &Mutex<&mut [u8]>,
    ) {
        let d = self.dimension();
        let rows = vectors.len() / d;
        let stride = stored.len() / rows.max(1);
        let own = own_leaves(leaf_starts, first, rows);
        let mut work: Vec<(u32, u32, usize)> = Vec::with_capacity(2 * rows);
        let mut codes: Vec<(u32, usize, RowCode)> = Vec::with_capacity(2 * rows);
        for (row, leaf) in own.iter().enumerate() {
            let posting = postings.own(leaf_starts, *leaf as usize, first + row) as u32;
            match self.copied_code(first + row) {
                Some(code) => codes.push((posting, row, code)),
                None => work.push((*leaf, posting, row)),
            }
            let (leaf, posting) = postings.places[first + row];
            if leaf != Seconds::NONE {
                work.push((leaf, posting, row));
            }
        }
        // Preparing a leaf costs as much as encoding a row.
        work.sort_unstable();
        let encoder = self.encoder();
        let turned = encoder.turn(vectors);
        let each = turned.len() / rows.max(1);
        for same in work.chunk_by(|a, b| a.0 == b.0) {
            let mut leaf = encoder.leaf(self.centroid(same[0].0 as usize));
            for (_, posting, row) in same {
                let mut code = RowCode::default();
                leaf.encode_turned(&vectors[row * d..][..d], &turned[row * each..][..each], &mut code);
                code.check = esker_index::check16(&stored[row * stride..][..stride]);
                codes.push((*posting, *row, code));
            }
        }
        let mut groups = groups.lock().unwrap_or_else(PoisonError::into_inner);
        for (posting, row, code) in codes {
            self.put(&mut groups, posting as usize, &code, (first + row) as u32);
        }
    }

    /// Marks the lanes behind the last posting.
    pub(super) fn mark_absent(&self, postings: usize, groups: &mut [u8]) {
        let absent = RowCode::absent(self.encoder().bits());
        for posting in postings..postings.next_multiple_of(GROUP) {
            self.put(groups, posting, &absent, 0);
        }
    }

    fn put(&self, groups: &mut [u8], posting: usize, code: &RowCode, ordinal: u32) {
        let (group, lane) = (posting / GROUP, posting % GROUP);
        let group = &mut groups[group * self.group_bytes..][..self.group_bytes];
        let (codes, ordinals) = group.split_at_mut(self.group_bytes - ORDINALS_BYTES as usize);
        pack_row(code, self.encoder().bits(), lane, codes);
        ordinals[4 * lane..][..4].copy_from_slice(&ordinal.to_le_bytes());
    }
}

/// The leaves of some rows from ordinal `first` on.
fn own_leaves(leaf_starts: &[u32], first: usize, rows: usize) -> Vec<u32> {
    let mut leaf = leaf_of(leaf_starts, first);
    let leaf_of = |ordinal: usize| {
        while leaf_starts[leaf + 1] as usize <= ordinal {
            leaf += 1;
        }
        leaf as u32
    };
    (first..first + rows).map(leaf_of).collect()
}

#[cfg(test)]
mod tests;
