//! Codes of rows and their layout in groups of 32.

use std::sync::Arc;

use half::f16;

use crate::basis::{Basis, Weight};

use crate::fastscan::{pack_bits, unpack_bits};
use crate::sums::{dot, norm};
use crate::{Metric, Rotation};

/// Standard errors in one `err`: 98 % of rows then lie within ±1.9·err of their estimate, the doubt that search allows.
pub(crate) const ERR: f64 = 1.25;

/// Postings per group.
pub const GROUP: usize = 32;

/// D: the dimension, or the bits of a code, rounded up to a multiple of 64.
pub fn padded(d: usize) -> usize {
    d.max(1).next_multiple_of(64)
}

/// Bytes of one group of 32 codes of so many bits, rounded up to a multiple of 64: first the bits, then f_add, f_rescale,
/// f_err as f16 and the u16 checks.
pub fn group_bytes(bits: usize) -> usize {
    GROUP * padded(bits) / 8 + 4 * 2 * GROUP
}

/// The code of one row: its residual along some axes, in few bits, and three factors that turn ⟨s, P·q⟩ into an estimate.
///
/// With r = row − centroid, P the axes, s what the code says of P·r, F how much of it is r, and σ the segment's rms scale:
///
/// | factor | cosine, dot | l2 | unit |
/// |---|---|---|---|
/// | f_rescale | F | 2F | u |
/// | f_add | F⟨s, P·c⟩ − ⟨c, r⟩ | ‖r‖² + 2F⟨s, P·c⟩ | σ² |
/// | f_err | 1.25 standard errors of F⟨s, P·v⟩ for ‖v‖ = 1 | twice that | u |
///
/// With a random rotation s = sign(P·r), one bit of each of D coordinates, F = ‖r‖² / ‖P·r‖₁ and u = σ/√D. With a learned
/// [`Basis`], s is the unit residual as decoded and u = σ.
///
/// Source: RaBitQ, arXiv 2405.12497 (estimator and its error), 2409.09913.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowCode {
    /// Of a rotation: bit j is set where coordinate j of the rotated residual has no minus sign. Of a basis: the coordinates'
    /// codes one after another.
    pub bits: Vec<u64>,
    /// Additive factor.
    pub f_add: f16,
    /// Multiplier of ⟨s, P·q⟩.
    pub f_rescale: f16,
    /// Error of the estimate; infinite marks a row whose factors exceed f16 (always reranked).
    pub f_err: f16,
    /// [`check16`](crate::check16) of the row's stored vector, set by the caller.
    pub check: u16,
}

impl RowCode {
    /// What fills the lanes behind the last posting: never emitted by a scan.
    pub fn absent(bits: usize) -> Self {
        let nan = f16::NAN;
        Self { bits: vec![0; padded(bits) / 64], f_add: nan, f_rescale: f16::ZERO, f_err: nan, check: 0 }
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
    let mut found = vec![0f32; d];
    for (index, row) in rows.chunks_exact(d.max(1)).enumerate() {
        residual(metric, row, leaf(index), &mut found);
        *total += dot(&found, &found);
    }
}

/// The residual of a row to its centroid, of d values each; returns what the row was multiplied with first: 1/‖row‖ under
/// cosine, else 1.
pub fn residual(metric: Metric, row: &[f32], centroid: &[f32], out: &mut [f32]) -> f32 {
    let inverse = inverse_norm(metric, row);
    out.iter_mut().zip(row).zip(centroid).for_each(|((r, x), c)| *r = x * inverse - c);
    inverse
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

/// What turns residuals into coordinates.
#[derive(Clone, Debug)]
pub(crate) enum Axes {
    Random(Rotation),
    Learned(Arc<Basis>),
}

/// What the codes of one segment are made with, and read with: [`Encoder::query`].
#[derive(Clone, Debug)]
pub struct Encoder {
    pub(crate) metric: Metric,
    d: usize,
    pub(crate) axes: Axes,
    pub(crate) scale: f32,
}

impl Encoder {
    /// One bit of each coordinate of a random rotation. `scale` is [`residual_scale`], stored with the segment; `seed` that of
    /// the rotation.
    pub fn new(metric: Metric, d: usize, seed: u64, scale: f32) -> Self {
        Self { metric, d, axes: Axes::Random(Rotation::new(seed, d)), scale: sane_scale(scale) }
    }

    /// With a basis that was learned from the segment's residuals.
    pub fn learned(metric: Metric, basis: Arc<Basis>, scale: f32) -> Self {
        Self { metric, d: basis.dimension(), axes: Axes::Learned(basis), scale: sane_scale(scale) }
    }

    /// As a segment stores it: with its basis ([`Basis::encode`]) where it has one, else with the rotation of `seed`.
    pub fn stored(
        metric: Metric,
        d: usize,
        seed: u64,
        scale: f32,
        basis: Option<&[u8]>,
    ) -> Result<Self, &'static str> {
        Ok(match basis {
            None => Self::new(metric, d, seed, scale),
            Some(bytes) => Self::learned(metric, Basis::decode(d, bytes)?.into(), scale),
        })
    }

    /// Values of a vector.
    pub fn dimension(&self) -> usize {
        self.d
    }

    /// What distances are by.
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// The rms norm of residuals.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// The basis, if one was learned.
    pub fn basis(&self) -> Option<&Arc<Basis>> {
        match &self.axes {
            Axes::Random(_) => None,
            Axes::Learned(basis) => Some(basis),
        }
    }

    /// Bits of a code: a multiple of 64.
    pub fn bits(&self) -> usize {
        match &self.axes {
            Axes::Random(rotation) => rotation.padded(),
            Axes::Learned(basis) => basis.bits(),
        }
    }

    /// Bytes that its basis takes in memory.
    pub fn bytes(&self) -> u64 {
        self.basis().map_or(0, |basis| basis.bytes() as u64)
    }

    /// Bytes of a group of codes.
    pub fn group_bytes(&self) -> usize {
        group_bytes(self.bits())
    }

    /// Unit of f_rescale and f_err.
    pub(crate) fn unit(&self) -> f64 {
        match &self.axes {
            Axes::Random(rotation) => f64::from(self.scale) / (rotation.padded() as f64).sqrt(),
            Axes::Learned(_) => f64::from(self.scale),
        }
    }

    /// The coordinates of some vectors (n·d values), one after another.
    pub(crate) fn project(&self, vectors: &[f32]) -> Vec<f32> {
        match &self.axes {
            Axes::Learned(basis) => basis.project(vectors),
            Axes::Random(rotation) => {
                let mut out = vec![0.0; vectors.len() / self.d.max(1) * rotation.padded()];
                let rows = vectors.chunks_exact(self.d.max(1));
                rows.zip(out.chunks_exact_mut(rotation.padded())).for_each(|(x, out)| rotation.apply(x, out));
                out
            }
        }
    }

    /// Prepares to encode rows of one leaf: `centroid` is the *stored* one, dequantised.
    pub fn leaf<'a>(&'a self, centroid: &'a [f32]) -> LeafEncoder<'a> {
        let turned_centroid = self.project(centroid);
        let turned = vec![0.0; turned_centroid.len()];
        LeafEncoder { encoder: self, centroid, turned_centroid, residual: vec![0.0; self.d], turned }
    }

    /// Encodes one row; for many rows of a leaf [`Encoder::leaf`] saves turning the centroid each time.
    pub fn encode(&self, row: &[f32], centroid: &[f32], out: &mut RowCode) {
        self.leaf(centroid).encode(row, out);
    }

    /// What [`LeafEncoder::encode_turned`] takes of each of some rows (n·d values); nothing where it needs nothing.
    pub fn turn(&self, rows: &[f32]) -> Vec<f32> {
        match &self.axes {
            Axes::Random(_) => Vec::new(),
            Axes::Learned(basis) => basis.project(rows),
        }
    }
}

/// An [`Encoder`] at one leaf.
pub struct LeafEncoder<'a> {
    encoder: &'a Encoder,
    centroid: &'a [f32],
    turned_centroid: Vec<f32>,
    residual: Vec<f32>,
    /// Its coordinates.
    turned: Vec<f32>,
}

impl LeafEncoder<'_> {
    /// Encodes a row of d finite values, as stored (normalised here under cosine). Leaves `out.check` alone.
    pub fn encode(&mut self, row: &[f32], out: &mut RowCode) {
        self.encode_turned(row, &self.encoder.turn(row), out);
    }

    /// Encodes a row whose part of [`Encoder::turn`] is `coordinates`: for rows that are encoded in several leaves, or together.
    pub fn encode_turned(&mut self, row: &[f32], coordinates: &[f32], out: &mut RowCode) {
        let Encoder { metric, axes, scale, .. } = self.encoder;
        let inverse = residual(*metric, row, self.centroid, &mut self.residual);
        let square = dot(&self.residual, &self.residual);
        let along = dot(&self.residual, self.centroid);
        let Weight { factor, error, centroid } = match axes {
            Axes::Random(rotation) => {
                rotation.apply(&self.residual, &mut self.turned);
                self.take_signs(square, out)
            }
            Axes::Learned(basis) => {
                let parts = self.turned.iter_mut().zip(coordinates).zip(&self.turned_centroid);
                parts.for_each(|((r, x), c)| *r = x * inverse - c);
                basis.weigh(&self.turned, square.sqrt(), &self.turned_centroid, &mut out.bits)
            }
        };
        let twice = if *metric == Metric::L2 { 2.0 } else { 1.0 };
        let (scale, unit) = (f64::from(*scale), self.encoder.unit());
        out.f_rescale = f16::from_f64(twice * factor / unit);
        // f_add uses the factor as rounded, so that its error cancels between the query's and the centroid's part.
        let rounded = f64::from(out.f_rescale) * unit;
        let add = match metric {
            Metric::L2 => square + rounded * centroid,
            Metric::Cosine | Metric::Dot => rounded * centroid - along,
        };
        out.f_add = f16::from_f64(add / (scale * scale));
        out.f_err = f16::from_f64(ERR * twice * error / unit);
        if !(out.f_add.is_finite() && out.f_rescale.is_finite() && out.f_err.is_finite()) {
            (out.f_add, out.f_rescale, out.f_err) = (f16::ZERO, f16::ZERO, f16::INFINITY);
        }
    }

    /// Writes the signs of the rotated residual, the sum of whose squares is `square`, and weighs them.
    fn take_signs(&self, square: f64, out: &mut RowCode) -> Weight {
        out.bits.clear();
        let (mut l1, mut signed_centroid) = (0f64, 0f64);
        for (values, centroid) in self.turned.chunks_exact(64).zip(self.turned_centroid.chunks_exact(64)) {
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
        let dims = self.turned.len() as f64;
        // α = ⟨s/√D, P·r/‖r‖⟩; the standard error is ‖r‖·√((1 − α²)/α²)/√(D − 1) for a unit query.
        let alpha_square = if square > 0.0 { (l1 * l1 / (dims * square)).clamp(1e-9, 1.0) } else { 1.0 };
        Weight {
            factor: if l1 > 0.0 { square / l1 } else { 0.0 },
            error: (square * (1.0 - alpha_square) / alpha_square / (dims - 1.0)).sqrt(),
            centroid: signed_centroid,
        }
    }
}

/// Appends one group: up to 32 codes (further ones are ignored), the rest marked absent.
pub fn pack_group(rows: &[RowCode], bits: usize, out: &mut Vec<u8>) {
    let absent = RowCode::absent(bits);
    let start = out.len();
    out.resize(start + group_bytes(bits), 0);
    for lane in 0..GROUP {
        pack_row(rows.get(lane).unwrap_or(&absent), bits, lane, &mut out[start..]);
    }
}

/// Puts one code into a lane of a group that has nothing there but zeros. A group of another length than [`group_bytes`],
/// or a lane that no group has, stays as it is.
pub fn pack_row(row: &RowCode, bits: usize, lane: usize, group: &mut [u8]) {
    if group.len() != group_bytes(bits) || lane >= GROUP {
        return;
    }
    let (codes, fields) = group.split_at_mut(GROUP * padded(bits) / 8);
    pack_bits(&row.bits, lane, codes);
    let values = [row.f_add.to_bits(), row.f_rescale.to_bits(), row.f_err.to_bits(), row.check];
    for (which, value) in values.into_iter().enumerate() {
        fields[2 * (which * GROUP + lane)..][..2].copy_from_slice(&value.to_le_bytes());
    }
}

/// Reads one group back: 32 codes, absent ones included. Bytes of another length than [`group_bytes`] give an empty list.
pub fn unpack_group(group: &[u8], bits: usize) -> Vec<RowCode> {
    (0..GROUP).map_while(|lane| unpack_row(group, bits, lane)).collect()
}

/// Reads one code of a group back, so that a merge copies it without encoding again. Nothing from bytes of another length
/// than [`group_bytes`], or a lane that no group has.
pub fn unpack_row(group: &[u8], bits: usize, lane: usize) -> Option<RowCode> {
    if group.len() != group_bytes(bits) || lane >= GROUP {
        return None;
    }
    let (codes, fields) = group.split_at(GROUP * padded(bits) / 8);
    let field = |which: usize| {
        let at = 2 * (which * GROUP + lane);
        u16::from_le_bytes([fields[at], fields[at + 1]])
    };
    Some(RowCode {
        bits: unpack_bits(codes, lane, padded(bits) / 64),
        f_add: f16::from_bits(field(0)),
        f_rescale: f16::from_bits(field(1)),
        f_err: f16::from_bits(field(2)),
        check: field(3),
    })
}

#[cfg(test)]
mod tests;
