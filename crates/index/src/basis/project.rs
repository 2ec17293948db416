//! Products of rows with a few fixed vectors.
#![allow(unsafe_code)]

/// Vectors per panel.
const WIDTH: usize = 16;
/// Rows multiplied at once with one panel …
const ROWS: usize = 6;
/// … and panels with one row.
const PANELS: usize = 4;

/// Vectors in panels of 16, coordinate by coordinate, zeros behind the last.
#[derive(Clone, Debug)]
pub(super) struct Panels {
    d: usize,
    count: usize,
    packed: Vec<f32>,
}

impl Panels {
    pub fn new<'v>(vectors: impl Iterator<Item = &'v [f32]>, d: usize) -> Panels {
        let (mut packed, mut count) = (Vec::new(), 0);
        for vector in vectors {
            if count % WIDTH == 0 {
                packed.resize(packed.len() + WIDTH * d, 0.0);
            }
            let panel = &mut packed[count / WIDTH * WIDTH * d..];
            vector.iter().enumerate().for_each(|(j, x)| panel[j * WIDTH + count % WIDTH] = *x);
            count += 1;
        }
        Panels { d, count, packed }
    }

    pub fn bytes(&self) -> usize {
        size_of_val(self.packed.as_slice())
    }

    /// The product of each row (n·d values) with each vector: n times as many values as there are vectors. A row's are the same
    /// whatever rows come with it.
    pub fn products(&self, rows: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; rows.len() / self.d * self.count];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the features were detected on this machine.
            unsafe { self.fill_avx2(rows, &mut out) };
            return out;
        }
        self.fill(rows, &mut out);
        out
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn fill_avx2(&self, rows: &[f32], out: &mut [f32]) {
        self.fill(rows, out);
    }

    /// The scalar twin; compiled once more with wide vectors, which changes no bit since additions keep their order.
    #[inline(always)]
    pub(super) fn fill(&self, rows: &[f32], out: &mut [f32]) {
        let d = self.d;
        let (many, few) = rows.split_at(rows.len() / (ROWS * d) * ROWS * d);
        let (out_many, out_few) = out.split_at_mut(many.len() / d * self.count);
        for (rows, out) in many.chunks_exact(ROWS * d).zip(out_many.chunks_exact_mut(ROWS * self.count)) {
            for (number, panel) in self.packed.chunks_exact(WIDTH * d).enumerate() {
                self.put(number, &tile::<ROWS, 1>(rows, panel, d), out);
            }
        }
        // One row keeps a processor as busy with several panels.
        for (row, out) in few.chunks_exact(d).zip(out_few.chunks_exact_mut(self.count)) {
            for (number, panels) in self.packed.chunks(PANELS * WIDTH * d).enumerate() {
                if panels.len() == PANELS * WIDTH * d {
                    self.put(number * PANELS, &tile::<1, PANELS>(row, panels, d), out);
                    continue;
                }
                for (at, panel) in panels.chunks_exact(WIDTH * d).enumerate() {
                    self.put(number * PANELS + at, &tile::<1, 1>(row, panel, d), out);
                }
            }
        }
    }

    /// Puts the products with panels from `number` on where they belong.
    #[inline(always)]
    fn put<const R: usize, const P: usize>(
        &self,
        number: usize,
        found: &[[[f32; WIDTH]; P]; R],
        out: &mut [f32],
    ) {
        for (found, out) in found.iter().zip(out.chunks_exact_mut(self.count)) {
            for (found, out) in found.iter().zip(out[number * WIDTH..].chunks_mut(WIDTH)) {
                out.copy_from_slice(&found[..out.len()]);
            }
        }
    }
}

/// Products of R rows with P panels.
#[inline(always)]
fn tile<const R: usize, const P: usize>(rows: &[f32], panels: &[f32], d: usize) -> [[[f32; WIDTH]; P]; R] {
    let rows: [&[f32]; R] = std::array::from_fn(|row| &rows[row * d..][..d]);
    let panels: [&[[f32; WIDTH]]; P] =
        std::array::from_fn(|panel| &panels[panel * WIDTH * d..][..WIDTH * d].as_chunks().0[..d]);
    let mut sums = [[[0f32; WIDTH]; P]; R];
    for j in 0..d {
        for (sums, row) in sums.iter_mut().zip(rows) {
            let x = row[j];
            for (sums, panel) in sums.iter_mut().zip(panels) {
                for (sum, value) in sums.iter_mut().zip(&panel[j]) {
                    *sum = x.mul_add(*value, *sum);
                }
            }
        }
    }
    sums
}
