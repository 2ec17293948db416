//! FastScan: 32 codes against one query's look-up tables with byte shuffles.
//!
//! A code is D/4 nibbles, each the index into a 16-entry table of six-bit numbers. In a group, tables 2t and 2t + 1 share
//! 32 bytes: byte i (< 16) holds row i's nibble for table 2t in its low half and row i + 16's in its high half; bytes
//! 16..32 the same for table 2t + 1. One 32-byte shuffle then looks up two tables for sixteen rows. What is found is
//! added in bytes four times, which six bits allow, then in u16; these sums are flushed to u32 before they could overflow.
//! Tables of a learned basis come with steps that fall by powers of two: sums are shifted where they do.
//!
//! Source: André et al., arXiv 1704.07355 (Quick ADC); Faiss' "fast scan" layout.
#![allow(unsafe_code)]

use half::f16;

use crate::GROUP;

/// Greatest entry of a table: four of them fit a byte.
pub(crate) const MOST: u8 = 63;
/// Bytes of codes that belong to four look-ups of each row: eight tables, of which any code has a multiple.
const FOUR: usize = 128;
/// Tables that share a step.
pub(crate) const BLOCK: usize = FOUR / 16;
/// Bytes of codes whose look-ups a u16 can sum: 1,024 tables of entries up to 63, less than 2^16.
const FLUSH: usize = 128 * FOUR;

/// Puts the bits of one code into its lane of a zeroed group.
pub(crate) fn pack_bits(bits: &[u64], lane: usize, group: &mut [u8]) {
    let (byte, shift) = (lane % 16, 4 * (lane / 16));
    for (slot, out) in group.chunks_exact_mut(16).take(16 * bits.len()).enumerate() {
        let nibble = (bits[slot / 16] >> (4 * (slot % 16))) as u8 & 0xF;
        out[byte] |= nibble << shift;
    }
}

/// The inverse of [`pack_bits`]: `words` words of 64 bits.
pub(crate) fn unpack_bits(group: &[u8], lane: usize, words: usize) -> Vec<u64> {
    let (byte, shift) = (lane % 16, 4 * (lane / 16));
    let mut bits = vec![0u64; words];
    for (slot, codes) in group.chunks_exact(16).take(16 * words).enumerate() {
        bits[slot / 16] |= u64::from(codes[byte] >> shift & 0xF) << (4 * (slot % 16));
    }
    bits
}

/// One query's tables and the constants that turn table sums into estimates.
#[derive(Clone, Debug)]
pub(crate) struct Tables {
    /// A table of 16 entries for each four bits of a code.
    pub entries: Vec<u8>,
    /// By how many bits sums are shifted left before the entries from a multiple of [`BLOCK`] tables on are added; ascending. Sums
    /// fit 16 bits all the same where there are any, and there are up to 1,024 tables.
    pub shifts: Vec<(usize, u32)>,
    /// ⟨s, P·q⟩ = step · sum + bias.
    pub step: f32,
    pub bias: f32,
    /// Error of ⟨s, P·q⟩ from rounding the entries, in the measure of f_err.
    pub noise: f32,
    /// Units of f_add, and of f_rescale and f_err.
    pub add_unit: f32,
    pub unit: f32,
}

/// What a lane's leaf contributes, per lane.
#[derive(Clone, Debug)]
pub(crate) struct LaneTerms {
    pub add: [f32; GROUP],
    pub scale: [f32; GROUP],
    pub err: [f32; GROUP],
}

/// Estimates and errors of a group's lanes.
#[derive(Clone, Debug)]
pub(crate) struct Estimates {
    pub estimate: [f32; GROUP],
    pub err: [f32; GROUP],
}

/// `(group, tables, terms, slack, threshold, out) → lanes with estimate − slack·err < threshold`.
pub(crate) type Kernel = fn(&[u8], &Tables, &LaneTerms, f32, f32, &mut Estimates) -> u32;

/// The fastest kernel of this machine.
pub(crate) fn kernel() -> Kernel {
    #[cfg(target_arch = "x86_64")]
    if x86::available() {
        return x86::estimate_checked;
    }
    #[cfg(target_arch = "aarch64")]
    if std::arch::is_aarch64_feature_detected!("neon") {
        return neon::estimate_checked;
    }
    estimate_scalar
}

/// The scalar twin.
pub(crate) fn estimate_scalar(
    group: &[u8],
    tables: &Tables,
    terms: &LaneTerms,
    slack: f32,
    threshold: f32,
    out: &mut Estimates,
) -> u32 {
    let (codes, factors) = group.split_at(tables.entries.len());
    finish_scalar(
        &sums_scalar(codes, &tables.entries, &tables.shifts),
        factors,
        tables,
        terms,
        slack,
        threshold,
        out,
    )
}

/// Table sums of 32 rows, one look-up at a time.
pub(crate) fn sums_scalar(codes: &[u8], entries: &[u8], shifts: &[(usize, u32)]) -> [u32; GROUP] {
    let mut sums = [0u32; GROUP];
    let mut shifts = shifts.iter().peekable();
    for (number, (codes, table)) in codes.chunks_exact(16).zip(entries.chunks_exact(16)).enumerate() {
        if let Some((_, by)) = shifts.next_if(|(at, _)| *at == 16 * number) {
            sums.iter_mut().for_each(|sum| *sum <<= by);
        }
        for (lane, &byte) in codes.iter().enumerate() {
            sums[lane] += u32::from(table[usize::from(byte & 0xF)]);
            sums[lane + 16] += u32::from(table[usize::from(byte >> 4)]);
        }
    }
    sums
}

/// √2 − 1.
const OCTAGON: f32 = std::f32::consts::SQRT_2 - 1.0;

/// Two independent errors: the root of the sum of their squares, or up to a twelfth more.
fn together(a: f32, b: f32) -> f32 {
    if b < a { a + OCTAGON * b } else { b + OCTAGON * a }
}

#[allow(clippy::too_many_arguments)] // the kernel's own arguments plus the sums
fn finish_scalar(
    sums: &[u32; GROUP],
    factors: &[u8],
    tables: &Tables,
    terms: &LaneTerms,
    slack: f32,
    threshold: f32,
    out: &mut Estimates,
) -> u32 {
    let factor = |which: usize, lane: usize| {
        let at = 2 * (which * GROUP + lane);
        f16::from_le_bytes([factors[at], factors[at + 1]]).to_f32()
    };
    let mut passed = 0u32;
    for (lane, sum) in sums.iter().enumerate() {
        let signed = *sum as f32 * tables.step + tables.bias;
        let rescale = factor(1, lane) * tables.unit;
        let add = factor(0, lane) * tables.add_unit;
        out.estimate[lane] = terms.add[lane] + add * terms.scale[lane] - rescale * signed;
        out.err[lane] = together(factor(2, lane) * tables.unit * terms.err[lane], rescale * tables.noise);
        passed |= u32::from(out.estimate[lane] - slack * out.err[lane] < threshold) << lane;
    }
    passed
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::*;

    pub(super) fn available() -> bool {
        is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
    }

    /// Only reached through [`kernel`], after [`available`].
    pub(super) fn estimate_checked(
        group: &[u8],
        tables: &Tables,
        terms: &LaneTerms,
        slack: f32,
        threshold: f32,
        out: &mut Estimates,
    ) -> u32 {
        // The kernel reads by pointer: this is the one bounds check per group.
        assert!(group.len() == tables.entries.len() + 8 * GROUP && tables.entries.len().is_multiple_of(FOUR));
        debug_assert!(tables.shifts.is_empty() || tables.entries.len() <= FLUSH);
        // SAFETY: `kernel` hands this function out only where the features were detected; lengths checked above.
        unsafe { estimate(group, tables, terms, slack, threshold, out) }
    }

    /// # Safety
    /// `group` holds 16 bytes per table, then the four fields of 32 u16; the number of tables is a multiple of eight.
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn estimate(
        group: &[u8],
        tables: &Tables,
        terms: &LaneTerms,
        slack: f32,
        threshold: f32,
        out: &mut Estimates,
    ) -> u32 {
        let mut sums = [0u32; GROUP];
        let codes = tables.entries.len();
        // SAFETY: by this function's contract the codes fill the first 16 bytes per table.
        unsafe { sums_avx2(&group[..codes], &tables.entries, &tables.shifts, &mut sums) };
        let splat = |value: f32| _mm256_set1_ps(value);
        let mut passed = 0u32;
        for part in 0..4 {
            let at = 8 * part;
            // SAFETY: lanes at..at + 8 of arrays of 32, and of three u16 fields that follow the codes.
            unsafe {
                let factor = |which: usize| {
                    let field = group.as_ptr().add(codes + 2 * (which * GROUP + at));
                    _mm256_cvtph_ps(_mm_loadu_si128(field.cast()))
                };
                let sum = _mm256_cvtepi32_ps(_mm256_loadu_si256(sums.as_ptr().add(at).cast()));
                let signed = _mm256_fmadd_ps(sum, splat(tables.step), splat(tables.bias));
                let rescale = _mm256_mul_ps(factor(1), splat(tables.unit));
                let add = _mm256_mul_ps(factor(0), splat(tables.add_unit));
                let leaf = _mm256_loadu_ps(terms.add.as_ptr().add(at));
                let leaf = _mm256_fmadd_ps(add, _mm256_loadu_ps(terms.scale.as_ptr().add(at)), leaf);
                let estimate = _mm256_fnmadd_ps(rescale, signed, leaf);
                let spread = _mm256_mul_ps(splat(tables.unit), _mm256_loadu_ps(terms.err.as_ptr().add(at)));
                let rounding = _mm256_mul_ps(rescale, splat(tables.noise));
                let own = _mm256_mul_ps(factor(2), spread);
                // As in the twin, a NaN of the code stays one: these return their second argument.
                let (more, less) = (_mm256_max_ps(rounding, own), _mm256_min_ps(rounding, own));
                let err = _mm256_fmadd_ps(splat(OCTAGON), less, more);
                _mm256_storeu_ps(out.estimate.as_mut_ptr().add(at), estimate);
                _mm256_storeu_ps(out.err.as_mut_ptr().add(at), err);
                let low = _mm256_fnmadd_ps(splat(slack), err, estimate);
                let below = _mm256_cmp_ps::<_CMP_LT_OQ>(low, splat(threshold));
                passed |= (_mm256_movemask_ps(below) as u32) << at;
            }
        }
        passed
    }

    /// Adds the table sums of 32 rows to `sums`.
    ///
    /// # Safety
    /// `codes` and `entries` have the same length, a multiple of 128; no entry is above [`MOST`].
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn sums_avx2(
        codes: &[u8],
        entries: &[u8],
        shifts: &[(usize, u32)],
        sums: &mut [u32; GROUP],
    ) {
        let nibble = _mm256_set1_epi8(0xF);
        let mut shifts = shifts.iter();
        let mut shift = shifts.next();
        for (codes, entries) in codes.chunks(FLUSH).zip(entries.chunks(FLUSH)) {
            // Bytes are summed as u16 lanes of two rows at once: `pairs` holds even + 256·odd modulo 2^16, `odd` the
            // odd rows alone, which are taken out at the end.
            let [mut pairs_low, mut odd_low, mut pairs_high, mut odd_high] = [_mm256_setzero_si256(); 4];
            for at in (0..codes.len()).step_by(FOUR) {
                if let Some((_, by)) = shift.filter(|shift| shift.0 == at) {
                    // Modulo 2^16 a shift of `pairs` shifts both of its parts.
                    let by = _mm_cvtsi32_si128(*by as i32);
                    (pairs_low, odd_low) = (_mm256_sll_epi16(pairs_low, by), _mm256_sll_epi16(odd_low, by));
                    (pairs_high, odd_high) =
                        (_mm256_sll_epi16(pairs_high, by), _mm256_sll_epi16(odd_high, by));
                    shift = shifts.next();
                }
                let [mut low, mut high] = [_mm256_setzero_si256(); 2];
                for at in (at..at + FOUR).step_by(32) {
                    // SAFETY: at + 32 ≤ codes.len() = entries.len(), both multiples of 128.
                    let (code, table) = unsafe {
                        (
                            _mm256_loadu_si256(codes.as_ptr().add(at).cast()),
                            _mm256_loadu_si256(entries.as_ptr().add(at).cast()),
                        )
                    };
                    let upper = _mm256_and_si256(_mm256_srli_epi16::<4>(code), nibble);
                    low = _mm256_add_epi8(low, _mm256_shuffle_epi8(table, _mm256_and_si256(code, nibble)));
                    high = _mm256_add_epi8(high, _mm256_shuffle_epi8(table, upper));
                }
                pairs_low = _mm256_add_epi16(pairs_low, low);
                odd_low = _mm256_add_epi16(odd_low, _mm256_srli_epi16::<8>(low));
                pairs_high = _mm256_add_epi16(pairs_high, high);
                odd_high = _mm256_add_epi16(odd_high, _mm256_srli_epi16::<8>(high));
            }
            for (half, (pairs, odd)) in [(pairs_low, odd_low), (pairs_high, odd_high)].into_iter().enumerate()
            {
                let even = _mm256_sub_epi16(pairs, _mm256_slli_epi16::<8>(odd));
                let even = _mm_add_epi16(_mm256_castsi256_si128(even), _mm256_extracti128_si256::<1>(even));
                let odd = _mm_add_epi16(_mm256_castsi256_si128(odd), _mm256_extracti128_si256::<1>(odd));
                for (quarter, rows) in
                    [_mm_unpacklo_epi16(even, odd), _mm_unpackhi_epi16(even, odd)].into_iter().enumerate()
                {
                    // SAFETY: eight u32 at 16·half + 8·quarter ≤ 24 of 32.
                    unsafe {
                        let to = sums.as_mut_ptr().add(16 * half + 8 * quarter).cast();
                        let sum = _mm256_add_epi32(_mm256_loadu_si256(to), _mm256_cvtepu16_epi32(rows));
                        _mm256_storeu_si256(to, sum);
                    }
                }
            }
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use std::arch::aarch64::*;

    use super::*;

    /// Only reached through [`kernel`], after NEON was detected.
    pub(super) fn estimate_checked(
        group: &[u8],
        tables: &Tables,
        terms: &LaneTerms,
        slack: f32,
        threshold: f32,
        out: &mut Estimates,
    ) -> u32 {
        let (codes, factors) = group.split_at(tables.entries.len());
        let mut sums = [0u32; GROUP];
        // SAFETY: `kernel` hands this function out only where NEON was detected; the two lengths are equal.
        unsafe { sums_neon(codes, &tables.entries, &tables.shifts, &mut sums) };
        finish_scalar(&sums, factors, tables, terms, slack, threshold, out)
    }

    /// Adds the table sums of 32 rows to `sums`.
    ///
    /// # Safety
    /// `codes` and `entries` have the same length, a multiple of 128; no entry is above [`MOST`].
    #[target_feature(enable = "neon")]
    pub(super) unsafe fn sums_neon(
        codes: &[u8],
        entries: &[u8],
        shifts: &[(usize, u32)],
        sums: &mut [u32; GROUP],
    ) {
        let mut shifts = shifts.iter().peekable();
        for (codes, entries) in codes.chunks(FLUSH).zip(entries.chunks(FLUSH)) {
            let mut acc = [vdupq_n_u16(0); 4];
            for at in (0..codes.len()).step_by(FOUR / 2) {
                if let Some((_, by)) = shifts.next_if(|shift| shift.0 == at) {
                    acc = acc.map(|sums| vshlq_u16(sums, vdupq_n_s16(*by as i16)));
                }
                let [mut low, mut high] = [vdupq_n_u8(0); 2];
                for at in (at..at + FOUR / 2).step_by(16) {
                    // SAFETY: at + 16 ≤ codes.len() = entries.len(), both multiples of 128.
                    let (code, table) =
                        unsafe { (vld1q_u8(codes.as_ptr().add(at)), vld1q_u8(entries.as_ptr().add(at))) };
                    low = vaddq_u8(low, vqtbl1q_u8(table, vandq_u8(code, vdupq_n_u8(0xF))));
                    high = vaddq_u8(high, vqtbl1q_u8(table, vshrq_n_u8::<4>(code)));
                }
                acc[0] = vaddw_u8(acc[0], vget_low_u8(low));
                acc[1] = vaddw_high_u8(acc[1], low);
                acc[2] = vaddw_u8(acc[2], vget_low_u8(high));
                acc[3] = vaddw_high_u8(acc[3], high);
            }
            for (quarter, rows) in acc.into_iter().enumerate() {
                let mut values = [0u16; 8];
                // SAFETY: eight u16 are written into an array of eight.
                unsafe { vst1q_u16(values.as_mut_ptr(), rows) };
                for (lane, value) in values.into_iter().enumerate() {
                    sums[8 * quarter + lane] += u32::from(value);
                }
            }
        }
    }
}

/// Table sums by the fastest kernel, for comparing it with its twin.
#[cfg(test)]
pub(crate) fn sums_fast(codes: &[u8], entries: &[u8], shifts: &[(usize, u32)]) -> [u32; GROUP] {
    assert!(codes.len() == entries.len() && codes.len().is_multiple_of(FOUR));
    assert!(entries.iter().all(|entry| *entry <= MOST));
    #[allow(unused_mut)]
    let mut sums = [0u32; GROUP];
    #[cfg(target_arch = "x86_64")]
    if x86::available() {
        // SAFETY: features and lengths were checked.
        unsafe { x86::sums_avx2(codes, entries, shifts, &mut sums) };
        return sums;
    }
    #[cfg(target_arch = "aarch64")]
    {
        // SAFETY: NEON is part of every aarch64 target of ours; lengths were checked.
        unsafe { neon::sums_neon(codes, entries, shifts, &mut sums) };
        return sums;
    }
    #[allow(unreachable_code)]
    sums_scalar(codes, entries, shifts)
}

#[cfg(test)]
mod tests;
