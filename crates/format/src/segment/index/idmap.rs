//! The id map: (hash, ordinal) sorted by hash in checksummed pages. Hashes are close to uniform, so the place of one
//! is guessed from it; the greatest error of any guess is stored, which makes the range that is read certain to hold
//! every entry of that hash whatever the hashes are.

use std::ops::Range;

use super::super::wire::{Put, Take, checked};
use crate::error::{Error, Result};

/// Bytes of a page.
pub(super) const PAGE: usize = 4096;
/// Entries of a page: what fits beside the CRC.
const PAGE_ENTRIES: usize = (PAGE - 4) / ENTRY;
const ENTRY: usize = 12;
/// The hash space is cut into this many equal parts, between which the guess is a straight line.
const PARTS: usize = 64;
const PART_BITS: u32 = PARTS.trailing_zeros();

/// How to find a hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct IdMap {
    entries: u32,
    /// Entries below each part's start; the last is the number of entries.
    knots: Vec<u32>,
    /// Greatest distance of an entry below and above its guess.
    below: u32,
    above: u32,
}

impl IdMap {
    /// Sorts the entries and lays them out: the directory and the pages.
    pub(super) fn build(mut entries: Vec<(u64, u32)>) -> (IdMap, Vec<u8>) {
        entries.sort_unstable();
        let knots = (0..=PARTS as u128).map(|part| {
            let start = part << (64 - PART_BITS);
            entries.partition_point(|(hash, _)| u128::from(*hash) < start) as u32
        });
        let mut map = IdMap { entries: entries.len() as u32, knots: knots.collect(), below: 0, above: 0 };
        for (i, (hash, _)) in (0u32..).zip(&entries) {
            let guess = map.guess(*hash);
            map.below = map.below.max(guess.saturating_sub(i));
            map.above = map.above.max(i.saturating_sub(guess));
        }
        let mut out = Vec::with_capacity(entries.len().div_ceil(PAGE_ENTRIES) * PAGE);
        for page in entries.chunks(PAGE_ENTRIES) {
            let start = out.len();
            for (hash, ordinal) in page {
                out.put_u64(*hash);
                out.put_u32(*ordinal);
            }
            out.resize(start + PAGE - 4, 0);
            let crc = crc32c::crc32c(&out[start..]);
            out.put_u32(crc);
        }
        (map, out)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity((PARTS + 3) * 4);
        self.knots.iter().for_each(|k| out.put_u32(*k));
        out.put_u32(self.below);
        out.put_u32(self.above);
        out
    }

    pub(super) fn decode(t: &mut Take<'_>, entries: u32) -> Result<Self> {
        let knots = t.many(PARTS + 1, 4, Take::u32)?;
        let map = IdMap { entries, knots, below: t.u32()?, above: t.u32()? };
        if !map.knots.is_sorted() || map.knots[0] != 0 || map.knots[PARTS] != entries {
            return Err(t.corrupt("positions do not ascend to the number of entries"));
        }
        Ok(map)
    }

    /// Bytes of the whole map.
    pub(super) fn length(&self) -> u64 {
        u64::from(self.entries).div_ceil(PAGE_ENTRIES as u64) * PAGE as u64
    }

    fn guess(&self, hash: u64) -> u32 {
        let part = (hash >> (64 - PART_BITS)) as usize;
        let (from, to) = (self.knots[part], self.knots[part + 1]);
        from + ((u128::from(hash << PART_BITS) * u128::from(to - from)) >> 64) as u32
    }

    /// Bytes, from the start of the map, of the pages that hold every entry of `hash`.
    pub(super) fn pages(&self, hash: u64) -> Range<u64> {
        let Some(last) = self.entries.checked_sub(1) else { return 0..0 };
        let guess = self.guess(hash).min(last);
        let from = u64::from(guess.saturating_sub(self.below)) / PAGE_ENTRIES as u64;
        // A guess of `entries` was cut to the last entry, which only widens what follows.
        let to = u64::from(guess.saturating_add(self.above).min(last)) / PAGE_ENTRIES as u64 + 1;
        from * PAGE as u64..to * PAGE as u64
    }

    /// The entries on whole, checked pages, the first of which starts at byte `start` of the map.
    pub(super) fn read(&self, object: &str, start: u64, bytes: &[u8]) -> Result<Vec<(u64, u32)>> {
        let aligned = bytes.len().is_multiple_of(PAGE) && start.is_multiple_of(PAGE as u64);
        if !aligned || start + bytes.len() as u64 > self.length() {
            return Err(Error::corrupt(object, "the id map is not read in whole pages"));
        }
        let mut out = Vec::with_capacity(bytes.len() / ENTRY);
        for (number, page) in (start / PAGE as u64..).zip(bytes.chunks_exact(PAGE)) {
            let body = checked(object, format_args!("page {number} of the id map"), page)?;
            let count =
                (u64::from(self.entries) - number * PAGE_ENTRIES as u64).min(PAGE_ENTRIES as u64) as usize;
            let mut t = Take::new(object, "id map", body);
            out.extend(t.many(count, ENTRY, |t| Ok((t.u64()?, t.u32()?)))?);
        }
        Ok(out)
    }
}
