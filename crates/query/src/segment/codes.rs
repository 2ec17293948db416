//! Codes of a segment: which of them to read, and where those that were read lie.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use esker_format::Result;
use esker_format::segment::GROUP_POSTINGS;
use esker_format::segment::index::{Header, Section};
use esker_index::{Bound, CodeQuery, Run};
use esker_store::{Client, Meter};
use roaring::RoaringBitmap;

use super::{Mask, Segment};
use crate::ranges::{GAP, Pieces, Shape, Thrift};

/// Ranges that whole codes are read in: one connection is slower than the store.
const WHOLE_RANGES: u32 = 4;
/// Codes up to this many bytes are one range.
const ONE_RANGE: u64 = 512 << 10;
/// Requests for groups of single rows.
const GROUPS: Thrift = Thrift { requests: 24, waste: 1 << 20 };

/// Which codes to read.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Want<'a> {
    /// Those of every leaf.
    All,
    /// Those of these leaves; they were chosen so that few requests bring them.
    Leaves(&'a [u32]),
}

/// Whole groups of codes that were read and checked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Codes {
    /// Number of the first group, and the groups; ascending, disjoint.
    spans: Vec<(u32, Bytes)>,
    /// Leaves whose groups are all here, ascending.
    leaves: Vec<u32>,
    group_bytes: usize,
    /// Bytes of a group that are of its codes; the ordinals of its postings follow, if leaves have copies.
    bare: usize,
}

/// Hashes of the ids of postings, by leaf.
#[derive(Debug, Clone, Default)]
pub(crate) struct IdPlane(Vec<(u32, Vec<u64>)>);

impl Segment {
    /// Bytes of all codes.
    pub fn code_bytes(&self) -> u64 {
        self.header.section(Section::Codes).map_or(0, |r| r.end - r.start)
    }

    /// All codes, if they were read before.
    pub fn held_codes(&self) -> Option<&Arc<Codes>> {
        self.codes.get()
    }

    /// Takes the whole codes section from memory.
    pub fn hold_codes(&self, section: Bytes) -> Result<()> {
        let range = self.header.section(Section::Codes).unwrap_or(0..0);
        if section.len() as u64 != range.end - range.start {
            return Err(self.corrupt("its codes are shorter than was written"));
        }
        let codes = Codes::of(&self.header, &Pieces::one(range.start, section))?;
        let _ = self.codes.set(Arc::new(codes));
        Ok(())
    }

    /// Reads codes in one wave; whole codes are kept.
    pub async fn read_codes(&self, client: &Client, meter: &Meter, want: Want<'_>) -> Result<Arc<Codes>> {
        if let Some(all) = self.codes.get() {
            return Ok(all.clone());
        }
        let (ranges, shape) = match want {
            Want::All => (self.whole_ranges(), Shape::AsGiven),
            Want::Leaves(leaves) => {
                let of = |l: &u32| self.header.codes_range(self.header.leaf_groups(*l));
                (leaves.iter().map(of).collect::<Vec<_>>(), Shape::Gap(GAP))
            }
        };
        let take = |pieces: &Pieces| Ok(Arc::new(Codes::of(&self.header, pieces)?));
        let codes = self.index.read(client, meter, &ranges, shape, take).await?;
        if matches!(want, Want::All) {
            let _ = self.codes.set(codes.clone());
        }
        Ok(codes)
    }

    /// Reads the groups of single rows: for their checks.
    pub async fn read_groups(&self, client: &Client, meter: &Meter, ordinals: &[u32]) -> Result<Arc<Codes>> {
        if let Some(all) = self.codes.get() {
            return Ok(all.clone());
        }
        let take = |pieces: &Pieces| Ok(Arc::new(Codes::spans_of(&self.header, pieces)));
        self.index.read(client, meter, &self.group_ranges(ordinals), Shape::Few(GROUPS), take).await
    }

    /// Makes the cache forget what [`Segment::read_groups`] asked for.
    pub async fn forget_groups(&self, client: &Client, ordinals: &[u32]) {
        self.index.forget(client, &self.group_ranges(ordinals), Shape::Few(GROUPS)).await;
    }

    fn group_ranges(&self, ordinals: &[u32]) -> Vec<Range<u64>> {
        let of = |o: &u32| {
            let group = self.own_posting(*o) / GROUP_POSTINGS;
            self.header.codes_range(group..group + 1)
        };
        ordinals.iter().map(of).collect()
    }

    /// Hashes of the ids in the posting lists of leaves, or of all leaves.
    pub async fn read_idplane(&self, client: &Client, meter: &Meter, want: Want<'_>) -> Result<IdPlane> {
        let all: Vec<u32>;
        let leaves = match want {
            Want::Leaves(leaves) => leaves,
            Want::All => {
                all = (0..self.header.leaf_count()).collect();
                &all
            }
        };
        let of = |l: &u32| self.header.idplane_range(self.header.leaf(*l).postings);
        let ranges: Vec<Range<u64>> = leaves.iter().map(of).collect();
        let take = |pieces: &Pieces| {
            let hashes = |(leaf, range): (&u32, &Range<u64>)| {
                Ok((*leaf, self.header.leaf_hashes(*leaf, &pieces.bytes(range)?)?))
            };
            Ok(IdPlane(leaves.iter().zip(&ranges).map(hashes).collect::<Result<_>>()?))
        };
        self.index.read(client, meter, &ranges, Shape::Gap(GAP), take).await
    }

    /// Rows whose id hash `touched` says yes to, as far as their leaves are in `plane`.
    pub fn suspects(&self, plane: &IdPlane, codes: &Codes, touched: impl Fn(u64) -> bool) -> RoaringBitmap {
        let mut suspects = RoaringBitmap::new();
        for (leaf, hashes) in &plane.0 {
            let leaf = self.header.leaf(*leaf);
            for (nth, _) in (0u32..).zip(hashes).filter(|(_, hash)| touched(**hash)) {
                match nth < leaf.ordinals.len() as u32 {
                    true => suspects.extend([leaf.ordinals.start + nth]),
                    false => suspects.extend(self.ordinal(leaf.postings.start + nth, codes)),
                }
            }
        }
        suspects
    }

    fn whole_ranges(&self) -> Vec<Range<u64>> {
        let facts = self.header.facts();
        let groups = facts.postings.div_ceil(GROUP_POSTINGS);
        let parts = if self.code_bytes() <= ONE_RANGE { 1 } else { WHOLE_RANGES };
        let cut = |i: u32| (u64::from(groups) * u64::from(i) / u64::from(parts)) as u32;
        (0..parts).map(|i| self.header.codes_range(cut(i)..cut(i + 1))).collect()
    }

    /// The row of a posting. `codes` must hold the leaf.
    pub fn ordinal(&self, posting: u32, codes: &Codes) -> Option<u32> {
        if !self.spilled() {
            return Some(posting);
        }
        let lane = (posting % GROUP_POSTINGS) as usize;
        let bytes = codes.group(posting)?.get(codes.bare + 4 * lane..)?.first_chunk()?;
        Some(u32::from_le_bytes(*bytes)).filter(|ordinal| *ordinal < self.row_count())
    }
}

impl Codes {
    fn spans_of(header: &Header, pieces: &Pieces) -> Codes {
        let start = header.section(Section::Codes).map_or(0, |r| r.start);
        let group_bytes = header.facts().group_bytes as usize;
        let span = |(run, bytes): &(Range<u64>, Bytes)| {
            (((run.start - start) / group_bytes.max(1) as u64) as u32, bytes.clone())
        };
        Codes {
            spans: pieces.runs().iter().map(span).collect(),
            leaves: Vec::new(),
            group_bytes,
            bare: header.bare_group_bytes() as usize,
        }
    }

    /// Codes from `pieces` of their section; every leaf that lies wholly in them is checked.
    fn of(header: &Header, pieces: &Pieces) -> Result<Codes> {
        let mut codes = Codes::spans_of(header, pieces);
        for leaf in 0..header.leaf_count() {
            let range = header.codes_range(header.leaf_groups(leaf));
            if pieces.covers(&range) {
                header.check_leaf_codes(leaf, &pieces.bytes(&range)?)?;
                codes.leaves.push(leaf);
            }
        }
        Ok(codes)
    }

    /// Bytes of the groups.
    pub fn bytes(&self) -> u64 {
        self.spans.iter().map(|(_, groups)| groups.len() as u64).sum()
    }

    /// Leaves that can be scanned, ascending.
    pub fn leaves(&self) -> &[u32] {
        &self.leaves
    }

    /// Scans runs (ascending, disjoint) of postings of leaves that are here: see [`CodeQuery::scan`], also for
    /// what it returns.
    pub fn scan(
        &self,
        query: &CodeQuery,
        runs: &[Run],
        mask: &Mask,
        bound: Bound,
        mut emit: impl FnMut(u32, f32, f32) -> f32,
    ) -> u64 {
        let lanes = GROUP_POSTINGS as usize;
        let (mut threshold, mut counted) = (bound.threshold, 0);
        for (first_group, groups) in &self.spans {
            let first = *first_group as usize * lanes;
            let end = first + groups.len() / self.group_bytes.max(1) * lanes;
            let from = runs.partition_point(|r| r.end <= first);
            let to = runs.partition_point(|r| r.first < end);
            if from >= to {
                continue;
            }
            let beside = self.group_bytes - self.bare;
            let codes = esker_index::Codes { groups, first_group: *first_group as usize, beside };
            let bound = Bound { threshold, slack: bound.slack };
            let mut emit = |posting: usize, estimate, err| {
                threshold = emit(posting as u32, estimate, err);
                threshold
            };
            counted += query.scan(codes, &runs[from..to], |g| mask.lanes(g), bound, &mut emit);
        }
        counted
    }

    /// The stored check of a posting's vector.
    pub fn check(&self, posting: u32) -> Option<u16> {
        let lanes = GROUP_POSTINGS as usize;
        let checks = self.group(posting)?.get(self.bare.checked_sub(2 * lanes)?..)?;
        checks.get(2 * (posting as usize % lanes)..)?.first_chunk().map(|check| u16::from_le_bytes(*check))
    }

    /// The group of a posting, and what lies behind it.
    fn group(&self, posting: u32) -> Option<&[u8]> {
        let group = posting / GROUP_POSTINGS;
        let at = self.spans.partition_point(|(first, _)| *first <= group).checked_sub(1)?;
        let (first, bytes) = &self.spans[at];
        bytes.get((group - first) as usize * self.group_bytes..)
    }
}
