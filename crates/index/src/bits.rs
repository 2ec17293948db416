//! Bit masks over postings, 32 to a group.

use crate::GROUP;

/// The lanes of group `group` that hold postings `first..end`, as a mask.
pub fn lanes(first: usize, end: usize, group: usize) -> u32 {
    let low = first.saturating_sub(group * GROUP).min(GROUP);
    let high = end.saturating_sub(group * GROUP).min(GROUP);
    if low >= high {
        return 0;
    }
    (u32::MAX >> (GROUP - (high - low))) << low
}

/// A set of postings of known size, read a group at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bitset {
    groups: Vec<u32>,
    len: usize,
}

impl Bitset {
    /// An empty set over `len` postings.
    pub fn new(len: usize) -> Self {
        Self { groups: vec![0; len.div_ceil(GROUP)], len }
    }

    /// The full set over `len` postings.
    pub fn full(len: usize) -> Self {
        Self { groups: (0..len.div_ceil(GROUP)).map(|group| lanes(0, len, group)).collect(), len }
    }

    /// Adds a posting; one outside the set's size is ignored.
    pub fn insert(&mut self, posting: usize) {
        if posting < self.len {
            self.groups[posting / GROUP] |= 1 << (posting % GROUP);
        }
    }

    /// Takes a posting out.
    pub fn remove(&mut self, posting: usize) {
        if posting < self.len {
            self.groups[posting / GROUP] &= !(1 << (posting % GROUP));
        }
    }

    /// Whether the posting is in the set.
    pub fn contains(&self, posting: usize) -> bool {
        posting < self.len && self.groups[posting / GROUP] >> (posting % GROUP) & 1 == 1
    }

    /// The mask of a group; 0 beyond the end.
    pub fn group(&self, group: usize) -> u32 {
        self.groups.get(group).copied().unwrap_or(0)
    }

    /// Bytes of memory that it takes.
    pub fn bytes(&self) -> usize {
        4 * self.groups.len()
    }

    /// How many groups have one of its postings.
    pub fn groups(&self) -> usize {
        self.groups.iter().filter(|group| **group != 0).count()
    }

    /// How many postings the set holds.
    pub fn count(&self) -> usize {
        self.groups.iter().map(|group| group.count_ones() as usize).sum()
    }
}

#[cfg(test)]
mod tests;
