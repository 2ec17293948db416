//! Nearest centroids of many rows: a matrix product that keeps only the best of each row.
//!
//! Centroids are packed in panels of 16, coordinate by coordinate; a tile multiplies a few rows with a panel in registers.
//! The product never reaches memory. Coordinates are relative to the mean of the centroids, so that how finely they are
//! held (see [`coordinate`]) is a matter of how far apart the centroids are, and not of where they are.

mod coordinate;
#[cfg(any(test, target_arch = "x86_64"))]
mod pair;

pub(super) use coordinate::{Coordinate, Fast};

use super::{Rows, all, parallel};
use crate::sums::dot;

/// Centroids per panel.
const WIDTH: usize = 16;
/// Rows that stay in the second-level cache while all panels pass.
const BLOCK: usize = 240;

/// The K best leaves of a row by −½‖row − c‖² (up to a constant of the row), best first; ties keep the lower leaf.
#[derive(Clone, Copy, Debug, PartialEq)]
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
        // All of them at once: seldom is one better.
        let least = self.0[K - 1].0;
        if !values.iter().fold(false, |any, value| any | (*value > least)) {
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

/// Vectors as they are multiplied.
pub(super) struct Packed<T> {
    /// Values of each.
    width: usize,
    values: Vec<T>,
    /// What products with each are multiplied with.
    scales: Vec<f32>,
}

impl<T: Coordinate> Packed<T> {
    /// Some rows, relative to an origin.
    pub(super) fn of(rows: &Rows<'_>, ids: &[u32], origin: &[f32]) -> Self {
        Self::of_many(rows, ids, origin, 1)
    }

    /// The same on up to `threads` threads.
    pub(super) fn of_many(rows: &Rows<'_>, ids: &[u32], origin: &[f32], threads: usize) -> Self {
        assert_eq!(rows.d, origin.len());
        let width = rows.d.div_ceil(T::HELD);
        let (mut values, mut scales) = (vec![T::default(); ids.len() * width], vec![0.0; ids.len()]);
        let parts = ids.chunks(BLOCK).zip(values.chunks_mut(BLOCK * width)).zip(scales.chunks_mut(BLOCK));
        let mut parts: Vec<_> = parts.collect();
        parallel::for_chunks(threads, &mut parts, 1, |_, part| {
            let mut vector = Vec::with_capacity(rows.d);
            for ((ids, values), scales) in part {
                let packed = values.chunks_exact_mut(width).zip(scales.iter_mut());
                for (id, (out, scale)) in ids.iter().zip(packed) {
                    relative(rows.row(*id), rows.inverse(*id), origin, &mut vector);
                    *scale = T::pack(&vector, out);
                }
            }
        });
        Self { width, values, scales }
    }

    fn vector(&self, place: u32) -> &[T] {
        &self.values[place as usize * self.width..][..self.width]
    }
}

/// Packed centroids, as is fastest here.
pub(super) type Panels = PanelsOf<Fast>;

/// Packed centroids.
pub(super) struct PanelsOf<T> {
    /// Number of the first centroid.
    first: u32,
    /// What all coordinates are relative to.
    origin: Vec<f32>,
    /// Values of a centroid.
    width: usize,
    /// Per panel `width` times a value of each centroid, zeros behind the last.
    packed: Vec<[T; WIDTH]>,
    /// What products with each centroid are multiplied with.
    scales: Vec<f32>,
    /// ½‖c‖², infinite behind the last centroid so that padding never wins.
    half: Vec<f32>,
}

impl<T: Coordinate> PanelsOf<T> {
    /// Panels whose origin is the mean of the centroids.
    pub(super) fn new<'c>(centroids: impl Iterator<Item = &'c [f32]> + Clone, d: usize) -> Self {
        let mut sums = vec![0f64; d];
        let mut count = 0;
        for centroid in centroids.clone() {
            sums.iter_mut().zip(centroid).for_each(|(sum, c)| *sum += f64::from(*c));
            count += 1;
        }
        let origin = sums.iter().map(|sum| (sum / f64::from(count.max(1))) as f32).collect();
        Self::around(origin, centroids)
    }

    /// Panels around an origin.
    pub(super) fn around<'c>(origin: Vec<f32>, centroids: impl Iterator<Item = &'c [f32]>) -> Self {
        Self::of(origin, centroids.map(|centroid| (centroid, 1.0)), true)
    }

    /// Points with what each is multiplied with first, that are compared by their distance or else by their product.
    pub(super) fn of<'c>(
        origin: Vec<f32>,
        points: impl Iterator<Item = (&'c [f32], f32)>,
        by_distance: bool,
    ) -> Self {
        let d = origin.len();
        let width = d.div_ceil(T::HELD);
        let (mut packed, mut scales, mut half) = (Vec::new(), Vec::new(), Vec::new());
        let (mut vector, mut values) = (Vec::with_capacity(d), vec![T::default(); width]);
        for (index, (point, scale)) in points.enumerate() {
            if index % WIDTH == 0 {
                packed.resize(packed.len() + width, [T::default(); WIDTH]);
                scales.resize(scales.len() + WIDTH, 0.0);
                half.resize(half.len() + WIDTH, f32::INFINITY);
            }
            relative(point, scale, &origin, &mut vector);
            scales[index] = T::pack(&vector, &mut values);
            half[index] = if by_distance { (dot(&vector, &vector) / 2.0) as f32 } else { 0.0 };
            let panel = &mut packed[index / WIDTH * width..];
            panel.iter_mut().zip(&values).for_each(|(panel, value)| panel[index % WIDTH] = *value);
        }
        Self { first: 0, origin, width, packed, scales, half }
    }

    /// The same points, numbered from `first` on.
    pub(super) fn numbered(self, first: u32) -> Self {
        Self { first, ..self }
    }

    /// What all coordinates are relative to.
    pub(super) fn origin(&self) -> &[f32] {
        &self.origin
    }

    /// Finds the best leaves of each of `ids`, one entry of `best` each, which it improves.
    pub(super) fn nearest<const K: usize>(&self, rows: &Rows<'_>, ids: &[u32], best: &mut [Best<K>]) {
        self.compare(&Packed::of(rows, ids, &self.origin), &all(ids.len()), best);
    }

    /// The same of rows that are packed, by their places.
    pub(super) fn compare<const K: usize>(&self, rows: &Packed<T>, places: &[u32], best: &mut [Best<K>]) {
        assert!(rows.width == self.width && places.len() == best.len());
        T::compare(self, rows, places, best);
    }

    /// Tiles of R rows by a panel, whose products `multiply` adds up; compiled once per instruction set.
    #[inline(always)]
    fn in_tiles<const K: usize, const R: usize>(
        &self,
        rows: &Packed<T>,
        places: &[u32],
        best: &mut [Best<K>],
        multiply: impl Fn(&[&[T]; R], &[[T; WIDTH]]) -> [[T::Sum; WIDTH]; R],
    ) {
        for (places, best) in places.chunks(BLOCK).zip(best.chunks_mut(BLOCK)) {
            for (number, panel) in self.packed.chunks_exact(self.width).enumerate() {
                let at = number * WIDTH;
                let (scales, half) = (&self.scales[at..][..WIDTH], &self.half[at..][..WIDTH]);
                for (places, best) in places.chunks(R).zip(best.chunks_mut(R)) {
                    // A short tile repeats its last row.
                    let row = |r: usize| rows.vector(places[r.min(places.len() - 1)]);
                    let products = multiply(&std::array::from_fn(row), panel);
                    for ((sums, best), place) in products.iter().zip(best).zip(places) {
                        let scale = rows.scales[*place as usize];
                        let mut values = [0.0; WIDTH];
                        for ((value, sum), (of, half)) in
                            values.iter_mut().zip(sums).zip(scales.iter().zip(half))
                        {
                            *value = T::value(*sum) * scale * of - half;
                        }
                        best.offer(&values, self.first as usize + at);
                    }
                }
            }
        }
    }
}

/// A vector times a number, relative to an origin.
pub(super) fn relative(vector: &[f32], scale: f32, origin: &[f32], out: &mut Vec<f32>) {
    out.clear();
    out.extend(vector.iter().zip(origin).map(|(x, o)| x * scale - o));
}

#[cfg(test)]
mod tests;
