//! Quantised leaf centroids: small enough to ride in `head`, scanned flat.

mod coarse;
mod extend;
mod products;

pub use coarse::Coarse;
pub use extend::Origin;
use products::{LINE, Line, Rounded, products};

use crate::Metric;
use crate::sums::{dot, norm};

/// Centroids as stored and as scanned.
///
/// Bytes: the mean m of all centroids (d little-endian f32); per leaf a step (f32); per leaf ⌈d·bits/8⌉ bytes of codes.
/// Coordinate j of a leaf is m_j + step · code, the code being i8 (8 bits), nibble − 7.5 (4 bits; low nibble first) or
/// ±1 (1 bit, set = +1; lowest bit first). In memory codes are i8 whatever their stored width: nibbles as
/// 2·nibble − 15 with half the step.
#[derive(Clone, Debug)]
pub struct Centroids {
    d: usize,
    mean: Vec<f32>,
    steps: Vec<f32>,
    /// Per leaf the codes of d rounded up to 64 coordinates, zeros behind the last.
    codes: Vec<Line>,
    /// ‖c‖ per leaf.
    norms: Vec<f32>,
    /// ‖c − mean‖² per leaf.
    centred: Vec<f32>,
}

/// Bits per coordinate: 8 while the codes fit 1 MiB, else 4 while they fit 2 MiB, else 1.
pub fn pick_bits(leaves: usize, d: usize) -> u8 {
    let values = leaves as u64 * d as u64;
    match values {
        _ if values <= 1 << 20 => 8,
        _ if values.div_ceil(2) <= 2 << 20 => 4,
        _ => 1,
    }
}

/// Length of [`Centroids::encode`]'s output.
pub fn centroid_bytes(bits: u8, leaves: usize, d: usize) -> usize {
    4 * d + 4 * leaves + leaves * (d * usize::from(bits)).div_ceil(8)
}

impl Centroids {
    /// Quantises leaf means (leaves·d values) at 8, 4 or 1 bits (any other number is taken as 8).
    pub fn encode(bits: u8, leaves: usize, d: usize, means: &[f32]) -> Vec<u8> {
        let bits = if matches!(bits, 1 | 4) { bits } else { 8 };
        let mut mean = vec![0f64; d];
        for centroid in means.chunks_exact(d.max(1)).take(leaves) {
            mean.iter_mut().zip(centroid).for_each(|(m, c)| *m += f64::from(*c));
        }
        let mean: Vec<f32> = mean.iter().map(|m| (m / leaves.max(1) as f64) as f32).collect();
        let mut out: Vec<u8> = Vec::with_capacity(centroid_bytes(bits, leaves, d));
        mean.iter().for_each(|m| out.extend_from_slice(&m.to_le_bytes()));
        let mut codes = Vec::new();
        for centroid in means.chunks_exact(d.max(1)).take(leaves) {
            let centred: Vec<f32> = centroid.iter().zip(&mean).map(|(c, m)| c - m).collect();
            let step = match bits {
                8 => encode_int8(&centred, &mut codes),
                4 => encode_int4(&centred, &mut codes),
                _ => encode_sign(&centred, &mut codes),
            };
            out.extend_from_slice(&step.to_le_bytes());
        }
        out.extend_from_slice(&codes);
        out
    }

    /// Reads what [`Centroids::encode`] wrote. Says what is wrong with bytes of another length or with steps that are no
    /// numbers; never panics.
    pub fn decode(bits: u8, leaves: usize, d: usize, bytes: &[u8]) -> Result<Centroids, String> {
        if !matches!(bits, 1 | 4 | 8) {
            return Err(format!("centroids of {bits} bits; 1, 4 and 8 are supported"));
        }
        if d == 0 || d > 1 << 20 || leaves > 1 << 32 {
            return Err(format!("{leaves} centroids of {d} dimensions"));
        }
        let expected = centroid_bytes(bits, leaves, d);
        if bytes.len() != expected {
            return Err(format!("{} bytes of centroids, expected {expected}", bytes.len()));
        }
        let (mean, rest) = bytes.split_at(4 * d);
        let (steps, packed) = rest.split_at(4 * leaves);
        let float = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        let mean: Vec<f32> = mean.chunks_exact(4).map(float).collect();
        let mut steps: Vec<f32> = steps.chunks_exact(4).map(float).collect();
        if !mean.iter().chain(&steps).all(|value| value.is_finite()) {
            return Err("a centroid that is not finite".to_owned());
        }
        let mut codes = vec![Line::ZERO; leaves * d.div_ceil(LINE)];
        let packed = packed.chunks_exact((d * usize::from(bits)).div_ceil(8));
        for (lines, leaf) in codes.chunks_exact_mut(d.div_ceil(LINE)).zip(packed) {
            for (j, code) in lines.iter_mut().flat_map(|line| &mut line.0).take(d).enumerate() {
                *code = match bits {
                    8 => leaf[j] as i8,
                    4 => 2 * (leaf[j / 2] >> (4 * (j % 2)) & 0xF) as i8 - 15,
                    _ => 2 * (leaf[j / 8] >> (j % 8) & 1) as i8 - 1,
                };
            }
        }
        if bits == 4 {
            steps.iter_mut().for_each(|step| *step *= 0.5);
        }
        let mut centroids = Centroids { d, mean, steps, codes, norms: Vec::new(), centred: Vec::new() };
        centroids.measure();
        Ok(centroids)
    }

    fn measure(&mut self) {
        let mut centroid = vec![0.0; self.d];
        for leaf in 0..self.steps.len() {
            self.dequantised(leaf, &mut centroid);
            self.norms.push(norm(&centroid) as f32);
            centroid.iter_mut().zip(&self.mean).for_each(|(c, m)| *c -= m);
            self.centred.push(dot(&centroid, &centroid) as f32);
        }
    }

    /// Number of leaves.
    pub fn leaves(&self) -> usize {
        self.steps.len()
    }

    /// Dimension.
    pub fn dimension(&self) -> usize {
        self.d
    }

    /// The centroid that codes of `leaf` refer to, into the first d values of `out`.
    pub fn dequantised(&self, leaf: usize, out: &mut [f32]) {
        let lines = self.d.div_ceil(LINE);
        let codes = self.codes[leaf * lines..(leaf + 1) * lines].iter().flat_map(|line| &line.0);
        for ((value, code), mean) in out.iter_mut().zip(codes).zip(&self.mean) {
            *value = mean + self.steps[leaf] * f32::from(*code);
        }
    }

    /// All centroids dequantised: leaves·d values.
    pub fn all_dequantised(&self) -> Vec<f32> {
        let mut all = vec![0.0; self.leaves() * self.d];
        all.chunks_exact_mut(self.d).enumerate().for_each(|(leaf, out)| self.dequantised(leaf, out));
        all
    }

    /// ‖c‖ of a leaf's dequantised centroid.
    pub fn norm(&self, leaf: usize) -> f32 {
        self.norms[leaf]
    }

    /// Each leaf's score for a query of d values, higher is better: cosine q̂·c/‖c‖, l2 −‖q − c‖, dot q·c.
    pub fn scores(&self, metric: Metric, query: &[f32]) -> Vec<f32> {
        let query = self.ask(metric, query);
        let mut scores = vec![0f32; self.leaves()];
        products(self.codes.chunks_exact(self.d.div_ceil(LINE)), &query.rounded, &mut scores);
        (0..).zip(&mut scores).for_each(|(leaf, score)| *score = self.score(&query, leaf, *score));
        scores
    }

    /// The scores of some leaves, into as many values of `out`.
    pub fn scores_of(&self, query: &LeafQuery, leaves: impl Iterator<Item = usize> + Clone, out: &mut [f32]) {
        let lines = self.d.div_ceil(LINE);
        let codes = leaves.clone().map(|leaf| &self.codes[leaf * lines..(leaf + 1) * lines]);
        products(codes, &query.rounded, out);
        leaves.zip(out).for_each(|(leaf, score)| *score = self.score(query, leaf, *score));
    }

    /// Prepares a query of d values for [`Centroids::scores_of`].
    ///
    /// It is rounded to 14 bits and multiplied with the codes in integers, so that every instruction set gives the same
    /// scores.
    pub fn ask(&self, metric: Metric, query: &[f32]) -> LeafQuery {
        let inverse = crate::codes::inverse_norm(metric, query);
        let query: Vec<f32> = query.iter().take(self.d).map(|x| x * inverse).collect();
        let mut offset = 0f64;
        let operand: Vec<f32> = match metric {
            Metric::L2 => query.iter().zip(&self.mean).map(|(q, m)| q - m).collect(),
            Metric::Cosine | Metric::Dot => {
                offset = dot(&query, &self.mean);
                query
            }
        };
        let square = dot(&operand, &operand) as f32;
        let (rounded, step) = products::round_query(&operand);
        LeafQuery { metric, rounded, step, offset: offset as f32, square }
    }

    /// A leaf's score from the integer product of its codes with the query.
    #[inline]
    fn score(&self, query: &LeafQuery, leaf: usize, product: f32) -> f32 {
        let product = product * query.step * self.steps[leaf];
        match query.metric {
            Metric::L2 => -(query.square + self.centred[leaf] - 2.0 * product).max(0.0).sqrt(),
            Metric::Dot => query.offset + product,
            Metric::Cosine if self.norms[leaf] > 0.0 => (query.offset + product) / self.norms[leaf],
            Metric::Cosine => 0.0,
        }
    }
}

/// A query prepared for the scores of single leaves, by [`Centroids::ask`].
#[derive(Debug)]
pub struct LeafQuery {
    metric: Metric,
    rounded: Rounded,
    /// Units of the rounded query.
    step: f32,
    /// ⟨q, mean⟩ where the metric is a product.
    offset: f32,
    /// ‖q − mean‖² under l2.
    square: f32,
}

fn encode_int8(centred: &[f32], codes: &mut Vec<u8>) -> f32 {
    let widest = centred.iter().fold(0f32, |most, x| most.max(x.abs()));
    let step = if widest > 0.0 { widest / 127.0 } else { 1.0 };
    codes.extend(centred.iter().map(|x| (x / step + 128.5) as u8 ^ 0x80));
    step
}

/// Sixteen levels at ±0.5 … ±7.5 steps; the step with the least squared error of those tried.
fn encode_int4(centred: &[f32], codes: &mut Vec<u8>) -> f32 {
    let widest = centred.iter().fold(0f32, |most, x| most.max(x.abs()));
    if widest <= 0.0 {
        codes.extend(std::iter::repeat_n(0x88, centred.len().div_ceil(2)));
        return 0.0;
    }
    let level = |x: f32, step: f32| (x / step + 8.0).floor().clamp(0.0, 15.0);
    let error =
        |step: f32| -> f32 { centred.iter().map(|x| (x - (level(*x, step) - 7.5) * step).powi(2)).sum() };
    let steps = (0..16).map(|trial| widest / 7.5 * (1.0 - 0.04 * trial as f32));
    let (_, step) = steps
        .map(|step| (error(step), step))
        .fold((f32::INFINITY, widest), |best, next| if next.0 < best.0 { next } else { best });
    for pair in centred.chunks(2) {
        let high = pair.get(1).map_or(0, |x| level(*x, step) as u8);
        codes.push(level(pair[0], step) as u8 | high << 4);
    }
    step
}

/// Signs, with the mean magnitude as step (least squares).
fn encode_sign(centred: &[f32], codes: &mut Vec<u8>) -> f32 {
    for eight in centred.chunks(8) {
        codes.push(eight.iter().enumerate().fold(0, |byte, (bit, x)| byte | u8::from(*x >= 0.0) << bit));
    }
    centred.iter().map(|x| x.abs()).sum::<f32>() / centred.len().max(1) as f32
}

#[cfg(test)]
mod tests;
