//! Products of one query with many centroids, in integers.
#![allow(unsafe_code)]

/// Codes per [`Line`].
pub(super) const LINE: usize = 64;

/// A cache line of codes, aligned as one.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Line(pub [i8; LINE]);

impl Line {
    pub const ZERO: Line = Line([0; LINE]);
}

/// Largest magnitude of a rounded query: 64·high + low with both in i8, and 1,024 products with u8 below 2^31.
const RANGE: f32 = 8127.0;
/// Lines whose products are summed in i32.
const BLOCK: usize = 1024 / LINE;

/// A query in integers.
#[derive(Debug)]
pub(super) struct Rounded {
    /// 64·high + low is the coordinate.
    high: Vec<Line>,
    low: Vec<Line>,
    /// The sum of all coordinates.
    sum: i64,
}

/// Rounds to ±8,127, zeros up to whole lines; returns the step, too.
pub(super) fn round_query(query: &[f32]) -> (Rounded, f32) {
    let widest = query.iter().fold(0f32, |most, x| most.max(x.abs()));
    let step = if widest > 0.0 { widest / RANGE } else { 1.0 };
    let inverse = 1.0 / step;
    let lines = query.len().div_ceil(LINE);
    let mut rounded = Rounded { high: vec![Line::ZERO; lines], low: vec![Line::ZERO; lines], sum: 0 };
    let parts = rounded.high.iter_mut().zip(&mut rounded.low);
    for (values, (high, low)) in query.chunks(LINE).zip(parts) {
        for ((x, high), low) in values.iter().zip(&mut high.0).zip(&mut low.0) {
            let value = ((x * inverse + 16_384.5) as i32 - 16_384).clamp(-8_127, 8_127);
            let upper = (value + 32) >> 6;
            (*high, *low) = (upper as i8, (value - (upper << 6)) as i8);
            rounded.sum += i64::from(value);
        }
    }
    (rounded, step)
}

/// `out[i]` = Σ code · query over the lines of the i-th centroid.
pub(super) fn products<'a>(centroids: impl Iterator<Item = &'a [Line]>, query: &Rounded, out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vnni") {
            // SAFETY: the features were detected on this machine.
            unsafe { products_vnni(centroids, query, out) };
            return;
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the feature was detected on this machine.
            unsafe { products_avx2(centroids, query, out) };
            return;
        }
    }
    products_scalar(centroids, query, out);
}

/// The scalar twin: integers, so exact in all.
pub(super) fn products_scalar<'a>(
    centroids: impl Iterator<Item = &'a [Line]>,
    query: &Rounded,
    out: &mut [f32],
) {
    let coordinates: Vec<i32> = (query.high.iter().zip(&query.low))
        .flat_map(|(high, low)| {
            high.0.iter().zip(&low.0).map(|(high, low)| 64 * i32::from(*high) + i32::from(*low))
        })
        .collect();
    for (centroid, out) in centroids.zip(out) {
        let products = centroid.iter().zip(coordinates.chunks_exact(LINE)).map(|(line, query)| {
            line.0.iter().zip(query).map(|(code, query)| i32::from(*code) * query).sum::<i32>()
        });
        *out = products.map(i64::from).sum::<i64>() as f32;
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
pub(super) fn products_avx2<'a>(
    centroids: impl Iterator<Item = &'a [Line]>,
    query: &Rounded,
    out: &mut [f32],
) {
    use std::arch::x86_64::*;
    let widen = |line: &Line, part: usize| {
        // SAFETY: sixteen of the line's 64 codes, from 16·part with part < 4.
        _mm256_cvtepi8_epi16(unsafe { _mm_load_si128(line.0.as_ptr().add(16 * part).cast()) })
    };
    let mut coordinates = Vec::with_capacity(4 * query.high.len());
    for (high, low) in query.high.iter().zip(&query.low) {
        let joined = |part| _mm256_add_epi16(_mm256_slli_epi16::<6>(widen(high, part)), widen(low, part));
        coordinates.push([joined(0), joined(1), joined(2), joined(3)]);
    }
    for (centroid, out) in centroids.zip(out) {
        let mut total = 0i64;
        for (lines, coordinates) in centroid.chunks(BLOCK).zip(coordinates.chunks(BLOCK)) {
            let mut sums = _mm256_setzero_si256();
            for (line, coordinates) in lines.iter().zip(coordinates) {
                for (part, query) in coordinates.iter().enumerate() {
                    sums = _mm256_add_epi32(sums, _mm256_madd_epi16(widen(line, part), *query));
                }
            }
            let mut lanes = [0i32; 8];
            // SAFETY: eight i32 are written into an array of eight.
            unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), sums) };
            total += lanes.iter().map(|lane| i64::from(*lane)).sum::<i64>();
        }
        *out = total as f32;
    }
}

/// With byte products: codes are shifted to u8, which adds 128·Σ query.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn products_vnni<'a>(centroids: impl Iterator<Item = &'a [Line]>, query: &Rounded, out: &mut [f32]) {
    use std::arch::x86_64::*;
    // SAFETY: a line is 64 readable bytes, aligned to 64.
    let load = |line: &Line| unsafe { _mm512_load_si512(line.0.as_ptr().cast()) };
    let sign = _mm512_set1_epi8(i8::MIN);
    for (centroid, out) in centroids.zip(out) {
        let mut total = -128 * query.sum;
        let parts = query.high.chunks(BLOCK).zip(query.low.chunks(BLOCK));
        for (lines, (high, low)) in centroid.chunks(BLOCK).zip(parts) {
            let (mut high_sums, mut low_sums) = (_mm512_setzero_si512(), _mm512_setzero_si512());
            for ((line, high), low) in lines.iter().zip(high).zip(low) {
                let code = _mm512_xor_si512(load(line), sign);
                high_sums = _mm512_dpbusd_epi32(high_sums, code, load(high));
                low_sums = _mm512_dpbusd_epi32(low_sums, code, load(low));
            }
            let sums = _mm512_add_epi32(_mm512_slli_epi32::<6>(high_sums), low_sums);
            total += i64::from(_mm512_reduce_add_epi32(sums));
        }
        *out = total as f32;
    }
}
