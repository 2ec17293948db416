//! Coordinates to bits, and what the bits say: AVX2, and a scalar twin that is equal to the bit.
#![allow(unsafe_code)]

use super::{FOUR, ONE, TWO};

/// Of the coordinates of as many bits, those that are added up apart: every fourth.
const LANES: usize = 4;

/// What is known of each coordinate of unit residuals.
#[derive(Clone, Copy)]
pub(super) struct Coordinates<'a> {
    /// How many have four bits, and how many two after them; the others have one.
    pub counts: [usize; 2],
    pub deviations: &'a [f32],
    /// 1 over these; 0 of 0.
    pub inverses: &'a [f32],
    pub variances: &'a [f32],
}

/// Sums over the coordinates; in doubles, as they are of products of small variances.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sums {
    /// Of the variance times the square of the decoded coordinate …
    pub square: f64,
    /// … times the decoded and the true one …
    pub along: f64,
    /// … and times the square of the true one.
    pub own: f64,
    /// Of the squares of the true ones.
    pub kept: f64,
    /// Of the decoded ones times those of the centroid.
    pub turned: f64,
}

/// Each of the sums, in lanes.
type Lanes = [[f64; LANES]; 5];

/// Magnitudes of levels, and where one ends and the next begins.
type Quantiser<'a> = (&'a [f32], &'a [f32]);

impl Coordinates<'_> {
    /// Quantises the coordinates of `residual` times `inverse`, its length's, into `bits`, which are zeros.
    pub fn quantise(&self, residual: &[f32], inverse: f32, centroid: &[f32], bits: &mut [u64]) -> Sums {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            return self.parts(residual, inverse, centroid, bits, |part, by, put, lanes| {
                // SAFETY: the feature was detected on this machine.
                unsafe { part.quantise_avx2(by, put, lanes) }
            });
        }
        self.quantise_scalar(residual, inverse, centroid, bits)
    }

    fn quantise_scalar(&self, residual: &[f32], inverse: f32, centroid: &[f32], bits: &mut [u64]) -> Sums {
        self.parts(residual, inverse, centroid, bits, |part, by, put, lanes| part.quantise(by, put, lanes))
    }

    fn parts(
        &self,
        residual: &[f32],
        inverse: f32,
        centroid: &[f32],
        bits: &mut [u64],
        quantise: impl Fn(&Part<'_>, Quantiser<'_>, &mut Put<'_>, &mut Lanes),
    ) -> Sums {
        let ([four, two], mut lanes, mut start) = (self.counts, Lanes::default(), 0);
        let mut put = Put { bits, at: 0 };
        let quantisers: [Quantiser<'_>; 3] = [(&FOUR.0, &FOUR.1), (&TWO.0, &TWO.1), (&[ONE], &[])];
        for (end, by) in [four, four + two, residual.len()].into_iter().zip(quantisers) {
            let part = Part {
                inverse,
                residual: &residual[start..end],
                centroid: &centroid[start..end],
                deviations: &self.deviations[start..end],
                inverses: &self.inverses[start..end],
                variances: &self.variances[start..end],
            };
            quantise(&part, by, &mut put, &mut lanes);
            start = end;
        }
        let [square, along, own, kept, turned] = lanes.map(|lanes| lanes.iter().sum());
        Sums { square, along, own, kept, turned }
    }
}

/// The coordinates of as many bits.
struct Part<'a> {
    inverse: f32,
    residual: &'a [f32],
    centroid: &'a [f32],
    deviations: &'a [f32],
    inverses: &'a [f32],
    variances: &'a [f32],
}

impl Part<'_> {
    /// Each coordinate's bits: the number of its level, and above it whether it is positive.
    fn quantise(&self, (levels, bounds): Quantiser<'_>, put: &mut Put<'_>, lanes: &mut Lanes) {
        for (i, r) in self.residual.iter().enumerate() {
            let unit = r * self.inverse;
            let magnitude = (unit * self.inverses[i]).abs();
            let level = bounds.iter().filter(|bound| magnitude > **bound).count();
            let positive = u64::from(unit.to_bits() >> 31 == 0);
            put.put(positive << (width(levels) - 1) | level as u64, width(levels));
            let decoded = f64::from((levels[level] * self.deviations[i]).copysign(unit));
            let (unit, variance) = (f64::from(unit), f64::from(self.variances[i]));
            let (decoded_part, own_part) = (variance * decoded, variance * unit);
            let terms = [
                decoded_part * decoded,
                decoded_part * unit,
                own_part * unit,
                unit * unit,
                decoded * f64::from(self.centroid[i]),
            ];
            lanes.iter_mut().zip(terms).for_each(|(lanes, term)| lanes[i % LANES] += term);
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn quantise_avx2(&self, (levels, bounds): Quantiser<'_>, put: &mut Put<'_>, lanes: &mut Lanes) {
        use std::arch::x86_64::*;
        // SAFETY: eight values, or four, lie where the reference says.
        let load = |values: &[f32; 8]| unsafe { _mm256_loadu_ps(values.as_ptr()) };
        let load_sums = |sums: &[f64; LANES]| unsafe { _mm256_loadu_pd(sums.as_ptr()) };
        let halves = |x: __m256| {
            [_mm256_cvtps_pd(_mm256_castps256_ps128(x)), _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(x))]
        };
        let width = width(levels);
        let table = load(&eight(levels, 0));
        // As many for all, so that the loop over them is none.
        let bounds: [__m256; 7] =
            std::array::from_fn(|at| _mm256_set1_ps(bounds.get(at).copied().unwrap_or(f32::INFINITY)));
        let sign = _mm256_set1_ps(-0.0);
        let inverse = _mm256_set1_ps(self.inverse);
        let mut sums: [__m256d; 5] = std::array::from_fn(|sum| load_sums(&lanes[sum]));
        for start in (0..self.residual.len()).step_by(8) {
            let unit = _mm256_mul_ps(load(&eight(self.residual, start)), inverse);
            let magnitude = _mm256_andnot_ps(sign, _mm256_mul_ps(unit, load(&eight(self.inverses, start))));
            let mut level = _mm256_setzero_si256();
            for bound in bounds {
                let above = _mm256_cmp_ps::<_CMP_GT_OQ>(magnitude, bound);
                level = _mm256_sub_epi32(level, _mm256_castps_si256(above));
            }
            let value = _mm256_permutevar8x32_ps(table, level);
            let value = _mm256_mul_ps(value, load(&eight(self.deviations, start)));
            // No magnitude is negative.
            let decoded = halves(_mm256_or_ps(value, _mm256_and_ps(sign, unit)));
            let variance = halves(load(&eight(self.variances, start)));
            let centroid = halves(load(&eight(self.centroid, start)));
            let units = halves(unit);
            for half in 0..2 {
                let (unit, decoded) = (units[half], decoded[half]);
                let decoded_part = _mm256_mul_pd(variance[half], decoded);
                let own_part = _mm256_mul_pd(variance[half], unit);
                let terms = [
                    _mm256_mul_pd(decoded_part, decoded),
                    _mm256_mul_pd(decoded_part, unit),
                    _mm256_mul_pd(own_part, unit),
                    _mm256_mul_pd(unit, unit),
                    _mm256_mul_pd(decoded, centroid[half]),
                ];
                for (sum, term) in sums.iter_mut().zip(terms) {
                    *sum = _mm256_add_pd(*sum, term);
                }
            }
            // The lowest byte of each level, four to a half.
            let lowest = _mm256_set1_epi32(0x0c_08_04_00);
            let codes = _mm256_shuffle_epi8(level, lowest);
            let [low, high] = [_mm256_extract_epi32::<0>(codes), _mm256_extract_epi32::<4>(codes)];
            let codes = u64::from(low as u32) | u64::from(high as u32) << 32;
            let positive = !_mm256_movemask_ps(unit) as u8;
            let count = (self.residual.len() - start).min(8);
            put.put(side_by_side(codes, positive, width), width * count);
        }
        for (lanes, sum) in lanes.iter_mut().zip(sums) {
            // SAFETY: there is room for four values.
            unsafe { _mm256_storeu_pd(lanes.as_mut_ptr(), sum) };
        }
    }
}

/// Bits of a coordinate: its sign's and its level's.
fn width(levels: &[f32]) -> usize {
    1 + levels.len().ilog2() as usize
}

/// Eight values from `start` on, zeros behind the last.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn eight(values: &[f32], start: usize) -> [f32; 8] {
    match values[start..].first_chunk() {
        Some(all) => *all,
        None => std::array::from_fn(|at| values.get(start + at).copied().unwrap_or(0.0)),
    }
}

/// Eight codes of `width` bits (1, 2 or 4), each of a byte of `levels` below a bit of `positive`; the first lies lowest.
#[cfg(target_arch = "x86_64")]
fn side_by_side(levels: u64, positive: u8, width: usize) -> u64 {
    // A bit to each byte, in the place above a level.
    let spread = (u64::from(positive) * 0x0101_0101_0101_0101) & 0x8040_2010_0804_0201;
    let bits = ((spread + 0x7f7f_7f7f_7f7f_7f7f) | spread) >> 7 & 0x0101_0101_0101_0101;
    let mut word = levels | bits << (width - 1);
    // Neighbours come together: first codes, then pairs of them, then fours.
    for (codes, every) in [(2, 16), (4, 32), (8, 64)] {
        let mask = u64::MAX / (u64::MAX >> (64 - every)) * ((1 << (codes * width)) - 1);
        word = (word | word >> (every / 2 - codes / 2 * width)) & mask;
    }
    word
}

/// Bits that are written one after the other.
struct Put<'a> {
    bits: &'a mut [u64],
    at: usize,
}

impl Put<'_> {
    /// Writes the lowest `count` bits of a word, up to 32, which may end in the next.
    #[inline(always)]
    fn put(&mut self, word: u64, count: usize) {
        let word = word & ((1 << count) - 1);
        let (at, shift) = (self.at / 64, self.at % 64);
        self.bits[at] |= word << shift;
        if shift + count > 64 {
            self.bits[at + 1] |= word >> (64 - shift);
        }
        self.at += count;
    }
}

#[cfg(test)]
mod tests;
