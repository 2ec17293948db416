//! Coordinates of sixteen bits, of which one instruction of x86-64 multiplies and adds twice as many as of f32.
//!
//! A vector is as long as 2¹⁵ − 1, so that products of any two, and of any of their coordinates, fit an i32 (Cauchy–Schwarz)
//! and are exact, the same with every instruction set. Rounding moves a product by some 10⁻⁵ of ‖a‖·‖b‖.
#![allow(unsafe_code)]

use super::{Best, Coordinate, Packed, PanelsOf, WIDTH};
use crate::sums::norm;

/// Two coordinates of sixteen bits, the first in the lower half.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(transparent)]
pub(crate) struct Pair(i32);

/// Length of a vector in sixteen bits.
const LENGTH: f32 = i16::MAX as f32;
/// Added to a number of less than 2²² it leaves the nearest whole one in the low bits.
const ROUND: f32 = (3 << 22) as f32;

impl Pair {
    fn halves(self) -> [i32; 2] {
        [i32::from(self.0 as i16), self.0 >> 16]
    }
}

impl Coordinate for Pair {
    const HELD: usize = 2;
    type Sum = i32;

    fn pack(vector: &[f32], out: &mut [Pair]) -> f32 {
        let norm = norm(vector) as f32;
        // None of the vectors that are too short for this is far from another.
        let scale = if norm > f32::MIN_POSITIVE * LENGTH { LENGTH / norm } else { 0.0 };
        // No coordinate is more than the length but for its last bits.
        let round = |x: &f32| (((x * scale).clamp(-LENGTH, LENGTH) + ROUND).to_bits()) as u16;
        let (pairs, rest) = vector.as_chunks::<2>();
        for ([low, high], out) in pairs.iter().zip(&mut *out) {
            *out = Pair((u32::from(round(low)) | u32::from(round(high)) << 16) as i32);
        }
        if let ([low], Some(out)) = (rest, out.last_mut()) {
            *out = Pair(i32::from(round(low)));
        }
        norm / LENGTH
    }

    fn value(sum: i32) -> f32 {
        sum as f32
    }

    fn compare<const K: usize>(
        panels: &PanelsOf<Pair>,
        rows: &Packed<Pair>,
        places: &[u32],
        best: &mut [Best<K>],
    ) {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the feature was detected on this machine.
            unsafe { compare_avx2(panels, rows, places, best) };
            return;
        }
        compare_scalar(panels, rows, places, best);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn compare_avx2<const K: usize>(
    panels: &PanelsOf<Pair>,
    rows: &Packed<Pair>,
    places: &[u32],
    best: &mut [Best<K>],
) {
    use std::arch::x86_64::*;
    const ROWS: usize = 6;
    panels.in_tiles::<K, ROWS>(rows, places, best, |rows, panel| {
        // SAFETY: eight values of four bytes, from 0 or 8 on of sixteen.
        let load = |values: *const __m256i| unsafe { _mm256_loadu_si256(values) };
        assert!(rows.iter().all(|row| row.len() == panel.len()));
        let mut tile = [[_mm256_setzero_si256(); 2]; ROWS];
        for (at, centroids) in panel.iter().enumerate() {
            let [left, right] = [load(centroids.as_ptr().cast()), load(centroids[8..].as_ptr().cast())];
            for (sums, row) in tile.iter_mut().zip(rows) {
                // SAFETY: each row has as many values as the panel.
                let x = _mm256_set1_epi32(unsafe { row.get_unchecked(at) }.0);
                sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(x, left));
                sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(x, right));
            }
        }
        let mut sums = [[0; WIDTH]; ROWS];
        for (tile, sums) in tile.iter().zip(&mut sums) {
            for (tile, sums) in tile.iter().zip(sums.chunks_exact_mut(8)) {
                // SAFETY: eight values are written to eight.
                unsafe { _mm256_storeu_si256(sums.as_mut_ptr().cast(), *tile) };
            }
        }
        sums
    });
}

/// The scalar twin.
pub(super) fn compare_scalar<const K: usize>(
    panels: &PanelsOf<Pair>,
    rows: &Packed<Pair>,
    places: &[u32],
    best: &mut [Best<K>],
) {
    panels.in_tiles::<K, 4>(rows, places, best, |rows, panel| {
        let mut tile = [[0; WIDTH]; 4];
        for (at, centroids) in panel.iter().enumerate() {
            for (sums, row) in tile.iter_mut().zip(rows) {
                let [x, y] = row[at].halves();
                for (sum, centroid) in sums.iter_mut().zip(centroids) {
                    let [c, d] = centroid.halves();
                    *sum += x * c + y * d;
                }
            }
        }
        tile
    });
}
