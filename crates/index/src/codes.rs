//! One-bit codes of rows and their layout in groups of 32.

use half::f16;

use crate::fastscan::{pack_bits, unpack_bits};
use crate::sums::{dot, norm};
use crate::{Metric, Rotation};

/// Standard errors in one `err`: 98 % of rows then lie within ±1.9·err of their estimate, the doubt that search allows.
pub(crate) const ERR: f64 = 1.25;

/// Postings per group.
pub const GROUP: usize = 32;

/// D: the dimension rounded up to a multiple of 64.
pub fn padded(d: usize) -> usize {
    d.max(1).next_multiple_of(64)
}

/// Bytes of one group of 32 codes: 32·D/8 of bits, then f_add, f_rescale, f_err as f16 and the u16 checks.
pub fn group_bytes(d: usize) -> usize {
    GROUP * padded(d) / 8 + 4 * 2 * GROUP
}

/// The code of one row: the signs of its rotated residual and three factors that turn ⟨sign, P·q⟩ into an estimate.
///
/// With r = row − centroid, P the rotation, s = sign(P·r), F = ‖r‖² / ‖P·r‖₁ and σ the segment's rms scale:
///
/// | factor | cosine, dot | l2 | unit |
/// |---|---|---|---|
/// | f_rescale | F | 2F | σ/√D |
/// | f_add | F⟨s, P·c⟩ − ⟨c, r⟩ | ‖r‖² + 2F⟨s, P·c⟩ | σ² |
/// | f_err | 1.25 standard errors of F⟨s, P·v⟩ for ‖v‖ = 1 | twice that | σ/√D |
///
/// Source: RaBitQ, arXiv 2405.12497 (estimator and its error), 2409.09913.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowCode {
    /// D bits: bit j is set where coordinate j of the rotated residual has no minus sign.
    pub bits: Vec<u64>,
    /// Additive factor.
    pub f_add: f16,
    /// Multiplier of ⟨sign, P·q⟩.
    pub f_rescale: f16,
    /// Error of the estimate; infinite marks a row whose factors exceed f16 (always reranked).
    pub f_err: f16,
    /// [`check16`](crate::check16) of the row's stored vector, set by the caller.
    pub check: u16,
}

impl RowCode {
    /// What fills the lanes behind the last posting: never emitted by a scan.
    pub fn absent(d: usize) -> Self {
        let nan = f16::NAN;
        Self { bits: vec![0; padded(d) / 64], f_add: nan, f_rescale: f16::ZERO, f_err: nan, check: 0 }
    }

    /// Whether this is [`RowCode::absent`].
    pub fn is_absent(&self) -> bool {
        self.f_err.is_nan()
    }

    /// Whether the factors did not fit, so that the row has no estimate and must be reranked.
    pub fn is_saturated(&self) -> bool {
        self.f_err.is_infinite()
    }
}

/// The rms norm of the residuals of rows (`rows`: n·d values) to their centroids (`leaf` gives a row's dequantised
/// centroid): the stored scale σ. Never zero, so that it can divide.
pub fn residual_scale<'a>(metric: Metric, d: usize, rows: &[f32], leaf: impl Fn(usize) -> &'a [f32]) -> f32 {
    let mut total = 0.0;
    residual_square(metric, d, rows, leaf, &mut total);
    scale_of(total, rows.len() / d.max(1))
}

/// Adds the squared norms of the residuals of rows to `total`: [`residual_scale`] for rows that come in parts.
pub fn residual_square<'a>(
    metric: Metric,
    d: usize,
    rows: &[f32],
    leaf: impl Fn(usize) -> &'a [f32],
    total: &mut f64,
) {
    let mut residual = vec![0f32; d];
    for (index, row) in rows.chunks_exact(d.max(1)).enumerate() {
        let inverse = inverse_norm(metric, row);
        residual.iter_mut().zip(row).zip(leaf(index)).for_each(|((r, x), c)| *r = x * inverse - c);
        *total += dot(&residual, &residual);
    }
}

/// The scale of `rows` residuals whose squared norms add up to `total`.
pub fn scale_of(total: f64, rows: usize) -> f32 {
    sane_scale((total / rows.max(1) as f64).sqrt() as f32)
}

pub(crate) fn sane_scale(scale: f32) -> f32 {
    if scale.is_normal() && scale > 0.0 { scale } else { 1.0 }
}

/// What a row is multiplied with before anything else: 1/‖row‖ under cosine, else 1.
pub(crate) fn inverse_norm(metric: Metric, row: &[f32]) -> f32 {
    if metric != Metric::Cosine {
        return 1.0;
    }
    let norm = norm(row);
    if norm > 0.0 { (1.0 / norm) as f32 } else { 0.0 }
}

/// Encodes the rows of one segment.
#[derive(Clone, Debug)]
pub struct Encoder {
    metric: Metric,
    d: usize,
    rotation: Rotation,
    scale: f32,
}

impl Encoder {
    /// `scale` is [`residual_scale`], stored with the segment; `seed` that of the segment's rotation.
    pub fn new(metric: Metric, d: usize, seed: u64, scale: f32) -> Self {
        Self { metric, d, rotation: Rotation::new(seed, d), scale: sane_scale(scale) }
    }

    /// Prepares to encode rows of one leaf: `centroid` is the *stored* one, dequantised.
    pub fn leaf<'a>(&'a self, centroid: &'a [f32]) -> LeafEncoder<'a> {
        let mut rotated_centroid = vec![0.0; self.rotation.padded()];
        self.rotation.apply(centroid, &mut rotated_centroid);
        LeafEncoder {
            encoder: self,
            centroid,
            rotated_centroid,
            residual: vec![0.0; self.d],
            rotated: vec![0.0; self.rotation.padded()],
        }
    }

    /// Encodes one row; for many rows of a leaf [`Encoder::leaf`] saves rotating the centroid each time.
    pub fn encode(&self, row: &[f32], centroid: &[f32], out: &mut RowCode) {
        self.leaf(centroid).encode(row, out);
    }
}

/// An [`Encoder`] at one leaf.
pub struct LeafEncoder<'a> {
    encoder: &'a Encoder,
    centroid: &'a [f32],
    rotated_centroid: Vec<f32>,
    residual: Vec<f32>,
    rotated: Vec<f32>,
}

impl LeafEncoder<'_> {
    /// Encodes a row of d finite values, as stored (normalised here under cosine). Leaves `out.check` alone.
    pub fn encode(&mut self, row: &[f32], out: &mut RowCode) {
        let Encoder { metric, rotation, scale, .. } = self.encoder;
        let inverse = inverse_norm(*metric, row);
        self.residual.iter_mut().zip(row).zip(self.centroid).for_each(|((r, x), c)| *r = x * inverse - c);
        let square = dot(&self.residual, &self.residual);
        let along = dot(&self.residual, self.centroid);
        rotation.apply(&self.residual, &mut self.rotated);
        let (l1, signed_centroid) = self.take_signs(out);

        let dims = self.rotated.len() as f64;
        let twice = if *metric == Metric::L2 { 2.0 } else { 1.0 };
        let (scale, unit) = (f64::from(*scale), f64::from(*scale) / dims.sqrt());
        let factor = if l1 > 0.0 { square / l1 } else { 0.0 };
        out.f_rescale = f16::from_f64(twice * factor / unit);
        // f_add uses the factor as rounded, so that its error cancels between the query's and the centroid's part.
        let rounded = f64::from(out.f_rescale) * unit;
        let add = match metric {
            Metric::L2 => square + rounded * signed_centroid,
            Metric::Cosine | Metric::Dot => rounded * signed_centroid - along,
        };
        out.f_add = f16::from_f64(add / (scale * scale));
        // α = ⟨s/√D, P·r/‖r‖⟩; the standard error is ‖r‖·√((1 − α²)/α²)/√(D − 1) for a unit query.
        let alpha_square = if square > 0.0 { (l1 * l1 / (dims * square)).clamp(1e-9, 1.0) } else { 1.0 };
        let error = (square * (1.0 - alpha_square) / alpha_square / (dims - 1.0)).sqrt();
        out.f_err = f16::from_f64(ERR * twice * error / unit);
        if !(out.f_add.is_finite() && out.f_rescale.is_finite() && out.f_err.is_finite()) {
            (out.f_add, out.f_rescale, out.f_err) = (f16::ZERO, f16::ZERO, f16::INFINITY);
        }
    }

    /// Writes the signs of the rotated residual; returns ‖P·r‖₁ and ⟨s, P·c⟩.
    fn take_signs(&self, out: &mut RowCode) -> (f64, f64) {
        out.bits.clear();
        let (mut l1, mut signed_centroid) = (0f64, 0f64);
        for (values, centroid) in self.rotated.chunks_exact(64).zip(self.rotated_centroid.chunks_exact(64)) {
            let mut word = 0u64;
            let (mut sum, mut signed) = ([0f32; 16], [0f32; 16]);
            for (part, (r, c)) in values.chunks_exact(16).zip(centroid.chunks_exact(16)).enumerate() {
                for lane in 0..16 {
                    let sign = r[lane].to_bits() & 0x8000_0000;
                    sum[lane] += r[lane].abs();
                    signed[lane] += f32::from_bits(c[lane].to_bits() ^ sign);
                    word |= u64::from(sign == 0) << (16 * part + lane);
                }
            }
            out.bits.push(word);
            l1 += f64::from(sum.iter().sum::<f32>());
            signed_centroid += f64::from(signed.iter().sum::<f32>());
        }
        (l1, signed_centroid)
    }
}

/// Appends one group: up to 32 codes (further ones are ignored), the rest marked absent.
pub fn pack_group(rows: &[RowCode], d: usize, out: &mut Vec<u8>) {
    let absent = RowCode::absent(d);
    let start = out.len();
    out.resize(start + group_bytes(d), 0);
    for lane in 0..GROUP {
        pack_row(rows.get(lane).unwrap_or(&absent), d, lane, &mut out[start..]);
    }
}

/// Puts one code into a lane of a group that has nothing there but zeros. A group of another length than [`group_bytes`],
/// or a lane that no group has, stays as it is.
pub fn pack_row(row: &RowCode, d: usize, lane: usize, group: &mut [u8]) {
    if group.len() != group_bytes(d) || lane >= GROUP {
        return;
    }
    let (bits, fields) = group.split_at_mut(GROUP * padded(d) / 8);
    pack_bits(&row.bits, lane, bits);
    let values = [row.f_add.to_bits(), row.f_rescale.to_bits(), row.f_err.to_bits(), row.check];
    for (which, value) in values.into_iter().enumerate() {
        fields[2 * (which * GROUP + lane)..][..2].copy_from_slice(&value.to_le_bytes());
    }
}

/// Reads one group back: 32 codes, absent ones included. Bytes of another length than [`group_bytes`] give an empty list.
pub fn unpack_group(group: &[u8], d: usize) -> Vec<RowCode> {
    (0..GROUP).map_while(|lane| unpack_row(group, d, lane)).collect()
}

/// Reads one code of a group back, so that a merge copies it without encoding again. Nothing from bytes of another length
/// than [`group_bytes`], or a lane that no group has.
pub fn unpack_row(group: &[u8], d: usize, lane: usize) -> Option<RowCode> {
    if group.len() != group_bytes(d) || lane >= GROUP {
        return None;
    }
    let (bits, fields) = group.split_at(GROUP * padded(d) / 8);
    let field = |which: usize| {
        let at = 2 * (which * GROUP + lane);
        u16::from_le_bytes([fields[at], fields[at + 1]])
    };
    Some(RowCode {
        bits: unpack_bits(bits, lane, padded(d) / 64),
        f_add: f16::from_bits(field(0)),
        f_rescale: f16::from_bits(field(1)),
        f_err: f16::from_bits(field(2)),
        check: field(3),
    })
}

#[cfg(test)]
mod tests;
