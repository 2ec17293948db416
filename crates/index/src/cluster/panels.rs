//! Nearest centroids of many rows: a matrix product that keeps only the best of each row.
//!
//! Centroids are packed in panels of 32, coordinate by coordinate; a tile multiplies a few rows with a panel in registers.
//! Rows are read where they lie. The product never reaches memory.
#![allow(unsafe_code)]

use super::Rows;
use crate::sums::dot;

/// Centroids per panel.
const WIDTH: usize = 32;
/// Rows that stay in the second-level cache while all panels pass.
const BLOCK: usize = 240;

/// The K best leaves of a row by −½‖row − c‖² (up to a constant of the row), best first; ties keep the lower leaf.
#[derive(Clone, Copy, Debug)]
pub(super) struct Best<const K: usize>([(f32, u32); K]);

impl<const K: usize> Best<K> {
    pub(super) const NONE: Self = Self([(f32::NEG_INFINITY, 0); K]);

    pub(super) fn value(&self, rank: usize) -> f32 {
        self.0[rank].0
    }

    pub(super) fn leaf(&self, rank: usize) -> u32 {
        self.0[rank].1
    }

    /// Values and numbers found, best first.
    pub(super) fn entries(&self) -> impl Iterator<Item = (f32, u32)> + '_ {
        self.0.iter().filter(|(value, _)| *value > f32::NEG_INFINITY).copied()
    }

    /// The leaves found, which are fewer than K where there are fewer.
    pub(super) fn leaves(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().filter(|(value, _)| *value > f32::NEG_INFINITY).map(|(_, leaf)| *leaf)
    }

    #[inline(always)]
    pub(super) fn offer(&mut self, values: &[f32], first: usize) {
        let most =
            values.iter().fold(f32::NEG_INFINITY, |most, value| if *value > most { *value } else { most });
        if most <= self.0[K - 1].0 {
            return;
        }
        for (index, &value) in values.iter().enumerate() {
            if value > self.0[K - 1].0 {
                let mut rank = K - 1;
                while rank > 0 && value > self.0[rank - 1].0 {
                    self.0[rank] = self.0[rank - 1];
                    rank -= 1;
                }
                self.0[rank] = (value, (first + index) as u32);
            }
        }
    }
}

/// Packed centroids.
pub(super) struct Panels {
    d: usize,
    /// Number of the first centroid.
    first: u32,
    /// Per panel d·32 values: coordinate by coordinate, zeros behind the last centroid.
    packed: Vec<f32>,
    /// ½‖c‖², infinite behind the last centroid so that padding never wins.
    half: Vec<f32>,
}

impl Panels {
    pub(super) fn new<'c>(centroids: impl Iterator<Item = &'c [f32]>, d: usize) -> Self {
        Self::of(d, centroids.map(|centroid| (centroid, 1.0, (dot(centroid, centroid) / 2.0) as f32)))
    }

    /// Points with what each is multiplied with, and what is taken off its products.
    pub(super) fn of<'c>(d: usize, points: impl Iterator<Item = (&'c [f32], f32, f32)>) -> Self {
        let (mut packed, mut half) = (Vec::new(), Vec::new());
        for (index, (point, scale, less)) in points.enumerate() {
            if index % WIDTH == 0 {
                packed.resize(packed.len() + WIDTH * d, 0.0);
                half.resize(half.len() + WIDTH, f32::INFINITY);
            }
            let panel = &mut packed[index / WIDTH * WIDTH * d..];
            for (coordinate, value) in point.iter().enumerate() {
                panel[coordinate * WIDTH + index % WIDTH] = *value * scale;
            }
            half[index] = less;
        }
        Self { d, first: 0, packed, half }
    }

    /// The same points, numbered from `first` on.
    pub(super) fn numbered(self, first: u32) -> Self {
        Self { first, ..self }
    }

    /// Finds the best leaves of each of `ids`, one entry of `best` each, which it improves.
    pub(super) fn nearest<const K: usize>(&self, rows: &Rows<'_>, ids: &[u32], best: &mut [Best<K>]) {
        assert!(rows.d == self.d && ids.len() == best.len());
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                // SAFETY: the feature was detected on this machine.
                unsafe { self.nearest_avx512(rows, ids, best) };
                return;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                // SAFETY: the features were detected on this machine.
                unsafe { self.nearest_avx2(rows, ids, best) };
                return;
            }
        }
        self.nearest_in_tiles::<K, 4, 8, { cfg!(target_arch = "aarch64") }>(rows, ids, best);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    fn nearest_avx512<const K: usize>(&self, rows: &Rows<'_>, ids: &[u32], best: &mut [Best<K>]) {
        self.nearest_in_tiles::<K, 12, 32, true>(rows, ids, best);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn nearest_avx2<const K: usize>(&self, rows: &Rows<'_>, ids: &[u32], best: &mut [Best<K>]) {
        self.nearest_in_tiles::<K, 6, 16, true>(rows, ids, best);
    }

    /// Tiles of R rows by N centroids; compiled once per instruction set. FMA only where it is an instruction.
    #[inline(always)]
    pub(super) fn nearest_in_tiles<const K: usize, const R: usize, const N: usize, const FMA: bool>(
        &self,
        rows: &Rows<'_>,
        ids: &[u32],
        best: &mut [Best<K>],
    ) {
        for (ids, best) in ids.chunks(BLOCK).zip(best.chunks_mut(BLOCK)) {
            for (panel, values) in self.packed.chunks_exact(WIDTH * self.d).enumerate() {
                for (ids, best) in ids.chunks(R).zip(best.chunks_mut(R)) {
                    // A short tile repeats its last row.
                    let tile: [&[f32]; R] = std::array::from_fn(|r| rows.row(ids[r.min(ids.len() - 1)]));
                    for part in (0..WIDTH).step_by(N) {
                        let products = multiply::<R, N, FMA>(&tile, values, part, self.d);
                        let half = &self.half[panel * WIDTH + part..][..N];
                        for ((row, best), id) in products.iter().zip(best.iter_mut()).zip(ids) {
                            let inverse = rows.inverse(*id);
                            let scored: [f32; N] = std::array::from_fn(|j| row[j] * inverse - half[j]);
                            best.offer(&scored, self.first as usize + panel * WIDTH + part);
                        }
                    }
                }
            }
        }
    }
}

/// R rows times N centroids of a panel, from its column `part`.
#[inline(always)]
fn multiply<const R: usize, const N: usize, const FMA: bool>(
    rows: &[&[f32]; R],
    panel: &[f32],
    part: usize,
    d: usize,
) -> [[f32; N]; R] {
    assert!(part + N <= WIDTH && panel.len() >= d * WIDTH && rows.iter().all(|row| row.len() >= d));
    let mut sums = [[0f32; N]; R];
    for at in 0..d {
        // SAFETY: at < d, so the panel has WIDTH values from at·WIDTH, of which part..part + N are read.
        let column = unsafe { panel.get_unchecked(at * WIDTH + part..at * WIDTH + part + N) };
        for (sums, row) in sums.iter_mut().zip(rows) {
            // SAFETY: at < d ≤ row.len().
            let x = unsafe { *row.get_unchecked(at) };
            for (sum, c) in sums.iter_mut().zip(column) {
                *sum = if FMA { x.mul_add(*c, *sum) } else { *sum + x * c };
            }
        }
    }
    sums
}
