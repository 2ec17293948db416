//! The random rotation that makes one-bit codes unbiased.
#![allow(unsafe_code)]

use crate::codes::padded;
use crate::seed::SplitMix;

/// Rounds of sign flips, Hadamard transform and Kac step.
const ROUNDS: usize = 4;

/// An orthonormal map from d dimensions into D (d rounded up to 64), rebuilt from its seed: each of four rounds flips
/// signs, applies a fast Hadamard transform to the leading (odd rounds: trailing) 2^⌊log2 D⌋ coordinates and, where D is
/// not a power of two, one Kac step that mixes coordinate i with i + D/2. Costs O(D log D).
///
/// Source: the reference implementation of RaBitQ (arXiv 2405.12497), "FhtKac".
#[derive(Clone, Debug)]
pub struct Rotation {
    d: usize,
    padded: usize,
    /// ±1 per round and coordinate.
    signs: Vec<f32>,
}

impl Rotation {
    /// The rotation of `seed` for d dimensions.
    pub fn new(seed: u64, d: usize) -> Self {
        let padded = padded(d);
        let mut random = SplitMix::new(seed);
        let mut signs = Vec::with_capacity(ROUNDS * padded);
        while signs.len() < ROUNDS * padded {
            let bits = random.next_u64();
            signs.extend((0..64).map(|bit| if bits >> bit & 1 == 1 { 1.0 } else { -1.0 }));
        }
        Self { d, padded, signs }
    }

    /// D: the length of what [`Rotation::apply`] writes.
    pub fn padded(&self) -> usize {
        self.padded
    }

    /// Rotates `x` (d values; missing ones count as zero, further ones are ignored) into the first D values of `out`,
    /// which must hold that many.
    pub fn apply(&self, x: &[f32], out: &mut [f32]) {
        let out = &mut out[..self.padded];
        let filled = x.len().min(self.d);
        out[..filled].copy_from_slice(&x[..filled]);
        out[filled..].fill(0.0);
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the feature was detected on this machine.
            unsafe { rotate_avx2(&self.signs, out) };
            return;
        }
        rotate(&self.signs, out);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn rotate_avx2(signs: &[f32], x: &mut [f32]) {
    rotate(signs, x);
}

/// The scalar twin; compiled once more with wide vectors, which changes no bit since additions keep their order.
#[inline(always)]
fn rotate(signs: &[f32], x: &mut [f32]) {
    let block = 1usize << x.len().ilog2();
    let norm = 1.0 / (block as f32).sqrt();
    for (round, signs) in signs.chunks_exact(x.len()).enumerate() {
        for (value, sign) in x.iter_mut().zip(signs) {
            *value *= sign;
        }
        let from = if round % 2 == 0 { 0 } else { x.len() - block };
        let part = &mut x[from..from + block];
        hadamard(part);
        part.iter_mut().for_each(|value| *value *= norm);
        if block < x.len() {
            kac(x);
        }
    }
}

/// The unnormalised fast Walsh–Hadamard transform of a power of two ≥ 8 values, in place.
#[inline(always)]
fn hadamard(x: &mut [f32]) {
    for eight in x.chunks_exact_mut(8) {
        let [a, b, c, d, e, f, g, h] =
            [eight[0], eight[1], eight[2], eight[3], eight[4], eight[5], eight[6], eight[7]];
        let (a, b, c, d, e, f, g, h) = (a + b, a - b, c + d, c - d, e + f, e - f, g + h, g - h);
        let (a, b, c, d, e, f, g, h) = (a + c, b + d, a - c, b - d, e + g, f + h, e - g, f - h);
        eight.copy_from_slice(&[a + e, b + f, c + g, d + h, a - e, b - f, c - g, d - h]);
    }
    let mut half = 8;
    while half < x.len() {
        for pair in x.chunks_exact_mut(2 * half) {
            let (low, high) = pair.split_at_mut(half);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
}

/// One Kac step: a rotation by 45° in each plane (i, i + D/2).
#[inline(always)]
fn kac(x: &mut [f32]) {
    let (low, high) = x.split_at_mut(x.len() / 2);
    for (a, b) in low.iter_mut().zip(high) {
        (*a, *b) = ((*a + *b) * std::f32::consts::FRAC_1_SQRT_2, (*a - *b) * std::f32::consts::FRAC_1_SQRT_2);
    }
}

#[cfg(test)]
mod tests;
