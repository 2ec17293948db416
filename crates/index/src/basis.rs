//! A learned basis: codes that spend their bits where the residuals of a segment vary.
//!
//! A random rotation gives each coordinate the same variance, and a code one bit of each. Where the residuals' covariance
//! falls steeply, most of these bits tell next to nothing. A basis has the leading principal directions of *unit*
//! residuals r/‖r‖ instead; the first of them get four bits, more two, more one, and the others none (reverse
//! water-filling, each coordinate by the Lloyd–Max quantiser of a Gaussian). Half as many bits then give better estimates than
//! one per dimension (RFC 0015).
//!
//! Queries vary as residuals do, so an error in a direction of variance λ costs λ times as much. Estimates are
//! unbiased for queries of that covariance, and their error is counted so: [`Basis::weigh`]. How a query differs from that is
//! looked at, too: [`Basis::surprise`].

use std::ops::RangeInclusive;

use crate::seed::SplitMix;
use crate::sums::dot;

mod project;
mod quantise;

use project::Panels;
use quantise::{Coordinates, Sums};

/// Magnitudes of the levels of a Gaussian of variance 1 in 2, 4 and 16 levels, and where one ends and the next begins (Max,
/// 1960).
const ONE: f32 = 0.797_885;
const TWO: ([f32; 2], [f32; 1]) = ([0.452_780, 1.510_418], [0.981_599]);
const FOUR: ([f32; 8], [f32; 7]) = (
    [0.128_395, 0.388_048, 0.656_759, 0.942_340, 1.256_231, 1.618_046, 2.069_017, 2.732_59],
    [0.258_222, 0.522_404, 0.799_55, 1.099_286, 1.437_139, 1.843_531, 2.400_803],
);
/// Mean squared errors of these, by bits.
const ERRORS: [f64; 3] = [0.009_497, 0.117_48, 0.363_38];
/// Rounds of the orthogonal iteration. Directions of like variance need not be told apart.
const ROUNDS: usize = 8;
/// Greatest magnitude of a stored coordinate.
const RANGE: f32 = 127.0;
/// What errors are multiplied with at the least and the most.
const DOUBTS: RangeInclusive<f32> = 0.1..=10.0;
/// The share of residuals that is reckoned with outside of the coded directions at least: rows that come later may lie there.
const LEAST_REST: f32 = 0.01;
/// Most bits of a code: sums of their tables fit 16 bits.
const MOST_BITS: usize = 4096;
/// Bytes before the coordinates' deviations: three counts and the doubt.
const HEAD: usize = 3 * 2 + 4;

/// See the module.
#[derive(Clone, Debug)]
pub struct Basis {
    d: usize,
    /// Coordinates of four, two and one bits; they come in this order.
    counts: [usize; 3],
    directions: Panels,
    /// The same as they are stored: a step and d integers each.
    stored: Vec<(f32, Vec<i8>)>,
    /// Standard deviation of each coordinate of a unit residual.
    deviations: Vec<f32>,
    /// 1 over these; 0 of 0.
    inverses: Vec<f32>,
    /// Squares of the deviations: the variances λ.
    variances: Vec<f32>,
    /// Variance of each direction that is not coded.
    rest: f32,
    /// What errors are multiplied with.
    doubt: f32,
}

/// What [`Basis::weigh`] says of a code.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weight {
    /// F: the decoded unit residual times this is the estimate.
    pub factor: f64,
    /// Standard error of the product with a unit query.
    pub error: f64,
    /// The product of the decoded unit residual with the centroid.
    pub centroid: f64,
}

impl Basis {
    /// Learns the basis for codes of `bits` bits, a multiple of 64. `None` where there were too few residuals, or are too few
    /// directions for so many bits.
    pub fn learn(residuals: Covariance, bits: usize, seed: u64) -> Option<Basis> {
        let Covariance { d, count, mut sums } = residuals;
        if bits == 0 || bits > MOST_BITS || !bits.is_multiple_of(64) || count < d {
            return None;
        }
        sums.iter_mut().for_each(|sum| *sum /= count as f32);
        let rows = Panels::new(sums.chunks_exact(d), d);
        drop(sums);
        // Five coordinates in eight bits: more have bits only where the spectrum is nearly flat.
        let count = (bits / 8 * 5).min(d);
        let mut random = SplitMix::new(seed);
        let mut found: Vec<f32> = (0..count * d).map(|_| random.normal()).collect();
        for _ in 0..ROUNDS {
            found = rows.products(&found);
            orthonormalise(&mut found, d);
        }
        let mut order: Vec<(f32, usize)> = variances(&rows, &found, d).into_iter().zip(0..).collect();
        order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let spectrum: Vec<f64> = order.iter().map(|(variance, _)| f64::from(*variance)).collect();
        let counts = allocate(&spectrum, bits / 4)?;
        let coded = order.iter().take(counts.iter().sum());
        let stored: Vec<(f32, Vec<i8>)> = coded.map(|(_, at)| rounded(&found[at * d..][..d])).collect();
        let directions: Vec<f32> = stored.iter().flat_map(decoded).collect();
        let deviations = variances(&rows, &directions, d).into_iter().map(|v| v.max(0.0).sqrt()).collect();
        Basis::of(d, counts, 1.0, deviations, stored)
    }

    fn of(
        d: usize,
        counts: [usize; 3],
        doubt: f32,
        deviations: Vec<f32>,
        stored: Vec<(f32, Vec<i8>)>,
    ) -> Option<Basis> {
        let values: Vec<f32> = stored.iter().flat_map(decoded).collect();
        let variances: Vec<f32> = deviations.iter().map(|x| x * x).collect();
        let inverses = deviations.iter().map(|x| if *x > 0.0 { 1.0 / x } else { 0.0 }).collect();
        let rest = left(&variances) / (d - stored.len()).max(1) as f32;
        // A unit residual has no coordinate above 1, up to rounding.
        let sound = deviations.iter().all(|x| (0.0..2.0).contains(x)) && DOUBTS.contains(&doubt);
        let directions = Panels::new(values.chunks_exact(d), d);
        sound.then_some(Basis { d, counts, directions, stored, deviations, inverses, variances, rest, doubt })
    }

    /// With errors `times` as large as they are reckoned to be, as measured.
    pub fn doubted(self, times: f32) -> Basis {
        Basis { doubt: (self.doubt * times).clamp(*DOUBTS.start(), *DOUBTS.end()), ..self }
    }

    /// Values of a vector.
    pub fn dimension(&self) -> usize {
        self.d
    }

    /// Bits of a code.
    pub fn bits(&self) -> usize {
        let [four, two, one] = self.counts;
        4 * four + 2 * two + one
    }

    /// Coordinates that have bits.
    pub fn coordinates(&self) -> usize {
        self.deviations.len()
    }

    /// Bytes that it takes in memory.
    pub fn bytes(&self) -> usize {
        self.directions.bytes() + self.stored.len() * (self.d + size_of::<(f32, Vec<i8>)>() + 8)
    }

    /// As it is stored: coordinates of four, two and one bits (u16 each), the doubt (f32), of each coordinate the deviation and
    /// the step (f32 each), then d integers of each (i8).
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD + self.stored.len() * (8 + self.d));
        self.counts.iter().for_each(|count| out.extend((*count as u16).to_le_bytes()));
        out.extend(self.doubt.to_le_bytes());
        for (deviation, (step, _)) in self.deviations.iter().zip(&self.stored) {
            out.extend(deviation.to_le_bytes());
            out.extend(step.to_le_bytes());
        }
        self.stored.iter().for_each(|(_, values)| out.extend(values.iter().map(|x| *x as u8)));
        out
    }

    /// Reads what [`Basis::encode`] wrote for vectors of d values.
    pub fn decode(d: usize, bytes: &[u8]) -> Result<Basis, &'static str> {
        let (head, rest) = bytes.split_at_checked(HEAD).ok_or("a basis is cut off")?;
        let count = |at: usize| usize::from(u16::from_le_bytes([head[2 * at], head[2 * at + 1]]));
        let counts = [count(0), count(1), count(2)];
        let float = |bytes: &[u8]| bytes.first_chunk().map_or(f32::NAN, |b| f32::from_le_bytes(*b));
        let all: usize = counts.iter().sum();
        let bits = 4 * counts[0] + 2 * counts[1] + counts[2];
        let whole = bits.is_multiple_of(64) && counts[1].is_multiple_of(2) && counts[2].is_multiple_of(4);
        if all == 0 || all > d || bits > MOST_BITS || !whole {
            return Err("a basis has coordinates that no code has");
        }
        if rest.len() != all * (8 + d) {
            return Err("a basis has another length than its coordinates take");
        }
        let (scales, values) = rest.split_at(8 * all);
        let deviations = scales.chunks_exact(8).map(float).collect();
        let steps = scales.chunks_exact(8).map(|pair| float(&pair[4..]));
        let stored: Vec<(f32, Vec<i8>)> = steps
            .zip(values.chunks_exact(d))
            .map(|(step, values)| (step, values.iter().map(|x| *x as i8).collect()))
            .collect();
        if stored.iter().any(|(step, _)| !step.is_finite()) {
            return Err("a basis has a step that is no number");
        }
        Basis::of(d, counts, float(&head[6..]), deviations, stored)
            .ok_or("a basis has a deviation that is not 0 to 2, or a doubt that is not .1 to 10")
    }

    /// The coordinates of n·d values: n times [`Basis::coordinates`].
    pub fn project(&self, rows: &[f32]) -> Vec<f32> {
        self.directions.products(rows)
    }

    /// Quantises the coordinates of a residual of length `norm` into `bits`, and weighs what they say beside the coordinates of its
    /// centroid. Any number is well for a residual of length 0, which says nothing.
    pub(crate) fn weigh(&self, residual: &[f32], norm: f64, centroid: &[f32], bits: &mut Vec<u64>) -> Weight {
        let inverse = if norm > 0.0 { (1.0 / norm) as f32 } else { 0.0 };
        let ([four, two, _], Basis { deviations, inverses, variances, .. }) = (self.counts, self);
        bits.clear();
        bits.resize(self.bits() / 64, 0);
        let coordinates = Coordinates { counts: [four, two], deviations, inverses, variances };
        let Sums { square, along, mut own, kept, turned } =
            coordinates.quantise(residual, inverse, centroid, bits);
        own += f64::from(self.rest) * (1.0 - kept).max(0.0);
        let factor = if norm > 0.0 && along > 0.0 { own / along } else { 0.0 };
        let error = (factor * factor * square - own).max(0.0).sqrt();
        // Of a residual with nothing in the coded directions nothing is said.
        let error = if norm > 0.0 && (along <= 0.0 || along.is_nan()) { f64::INFINITY } else { error };
        Weight { factor: norm * factor, error: norm * error * f64::from(self.doubt), centroid: turned }
    }

    /// How many times as large as for a row's the errors of products with a query are that lies so from a centroid: the root of
    /// what its directions' errors add up to, over what they do in the mean. `coordinates` of a vector the sum of whose squares
    /// is `square`.
    pub(crate) fn surprise(&self, coordinates: &[f32], square: f64) -> f64 {
        let [four, two, _] = self.counts;
        let (mut of_query, mut of_rows, mut kept) = (0f64, 0f64, 0f64);
        for (i, (x, variance)) in coordinates.iter().zip(&self.variances).enumerate() {
            let share = ERRORS[usize::from(i >= four) + usize::from(i >= four + two)];
            let (own, variance) = (f64::from(*x).powi(2), f64::from(*variance));
            of_query += own * variance * share;
            of_rows += variance * variance * share;
            kept += own;
        }
        of_query += (square - kept).max(0.0) * f64::from(self.rest);
        of_rows += f64::from(left(&self.variances) * self.rest);
        let ratio = of_query / (square * of_rows);
        if ratio.is_finite() { ratio.sqrt() } else { 1.0 }
    }

    /// What each value of each four bits of a code adds to the product with a query of these coordinates.
    pub(crate) fn sums(&self, query: &[f32]) -> Vec<[f32; 16]> {
        let [four, two, _] = self.counts;
        let scaled: Vec<f32> =
            query.iter().zip(&self.deviations).map(|(q, deviation)| q * deviation).collect();
        let (fours, rest) = scaled.split_at(four);
        let (twos, ones) = rest.split_at(two);
        let signed = |level: f32, positive: bool| if positive { level } else { -level };
        let of_four =
            |q: &f32| -> [f32; 16] { std::array::from_fn(|v| q * signed(FOUR.0[v & 7], v & 8 != 0)) };
        let pair = |q: f32, v: usize| q * signed(TWO.0[v & 1], v & 2 != 0);
        let of_two = |q: &[f32]| std::array::from_fn(|v| pair(q[0], v & 3) + pair(q[1], v >> 2));
        let bit = |q: f32, v: usize| q * signed(ONE, v & 1 != 0);
        let of_one = |q: &[f32]| std::array::from_fn(|v| (0..4).map(|at| bit(q[at], v >> at)).sum::<f32>());
        let sums = fours.iter().map(of_four).chain(twos.chunks_exact(2).map(of_two));
        sums.chain(ones.chunks_exact(4).map(of_one)).collect()
    }
}

/// The share of unit residuals that is not coded.
fn left(variances: &[f32]) -> f32 {
    (1.0 - variances.iter().sum::<f32>()).max(LEAST_REST)
}

/// The second moments of vectors scaled to length 1.
#[derive(Debug)]
pub struct Covariance {
    d: usize,
    count: usize,
    /// d·d values.
    sums: Vec<f32>,
}

impl Covariance {
    /// Of no vectors yet, with d values each.
    pub fn new(d: usize) -> Covariance {
        Covariance { d: d.max(1), count: 0, sums: vec![0.0; d.max(1) * d.max(1)] }
    }

    /// Adds n·d values. Vectors of length 0 do not count.
    pub fn add(&mut self, vectors: &[f32]) {
        let (d, n) = (self.d, vectors.len() / self.d);
        let mut turned = vec![0f32; n * d];
        for (at, row) in vectors.chunks_exact(d).enumerate() {
            let norm = crate::sums::norm(row);
            if norm > 0.0 {
                self.count += 1;
                row.iter().enumerate().for_each(|(j, x)| turned[j * n + at] = (f64::from(*x) / norm) as f32);
            }
        }
        if n > 0 {
            let products = Panels::new(turned.chunks_exact(n), n).products(&turned);
            self.sums.iter_mut().zip(products).for_each(|(sum, product)| *sum += product);
        }
    }
}

/// ⟨v, C·v⟩ of each vector of `of`, given C.
fn variances(covariance: &Panels, of: &[f32], d: usize) -> Vec<f32> {
    let images = covariance.products(of);
    of.chunks_exact(d).zip(images.chunks_exact(d)).map(|(v, image)| dot(v, image) as f32).collect()
}

/// Gram–Schmidt. A vector that the others have nothing left of becomes zero.
fn orthonormalise(vectors: &mut [f32], d: usize) {
    for at in 0..vectors.len() / d {
        let (before, rest) = vectors.split_at_mut(at * d);
        let vector = &mut rest[..d];
        let start = crate::sums::norm(vector);
        for other in before.chunks_exact(d) {
            let along = dot(vector, other) as f32;
            vector.iter_mut().zip(other).for_each(|(x, y)| *x -= along * y);
        }
        let norm = crate::sums::norm(vector);
        let inverse = if norm > 1e-5 * start && norm > 0.0 { (1.0 / norm) as f32 } else { 0.0 };
        vector.iter_mut().for_each(|x| *x *= inverse);
    }
}

/// How many coordinates get four, two and one bits, which make up `nibbles` times four: the least sum of squared variances times
/// quantisation errors. `spectrum` is descending.
fn allocate(spectrum: &[f64], nibbles: usize) -> Option<[usize; 3]> {
    let mut sums = vec![0.0];
    for variance in spectrum {
        sums.push(sums[sums.len() - 1] + variance * variance);
    }
    let sum = |from: usize, to: usize| sums[to] - sums[from];
    let mut best: Option<(f64, [usize; 3])> = None;
    for four in 0..=nibbles {
        for pairs in 0..=nibbles - four {
            let (two, one) = (2 * pairs, 4 * (nibbles - four - pairs));
            let all = four + two + one;
            if all > spectrum.len() {
                continue;
            }
            let [of_four, of_two, of_one] = ERRORS;
            let error = of_four * sum(0, four)
                + of_two * sum(four, four + two)
                + of_one * sum(four + two, all)
                + sum(all, spectrum.len());
            if best.is_none_or(|(least, _)| error < least) {
                best = Some((error, [four, two, one]));
            }
        }
    }
    best.map(|(_, counts)| counts)
}

fn rounded(values: &[f32]) -> (f32, Vec<i8>) {
    let widest = values.iter().fold(0f32, |most, x| most.max(x.abs()));
    let step = if widest > 0.0 { widest / RANGE } else { 1.0 };
    (step, values.iter().map(|x| (x / step).round() as i8).collect())
}

fn decoded((step, values): &(f32, Vec<i8>)) -> impl Iterator<Item = f32> + '_ {
    values.iter().map(move |x| step * f32::from(*x))
}

#[cfg(test)]
mod tests;
