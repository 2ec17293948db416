//! How coordinates are held to be multiplied.

use super::{Best, Packed, PanelsOf, WIDTH};

/// What is faster here. (Arm processors multiply sixteen bits at half the speed of f32.)
#[cfg(target_arch = "x86_64")]
pub(crate) type Fast = super::pair::Pair;
#[cfg(not(target_arch = "x86_64"))]
pub(crate) type Fast = f32;

/// One or more coordinates of a vector.
pub(crate) trait Coordinate: Copy + Default + Send + Sync {
    /// How many coordinates it is.
    const HELD: usize;
    /// What products are added up in.
    type Sum: Copy + Default;

    /// Packs a vector; returns what products with it are to be multiplied with.
    fn pack(vector: &[f32], out: &mut [Self]) -> f32;

    /// A sum as a number.
    fn value(sum: Self::Sum) -> f32;

    /// What [`PanelsOf::compare`] does, by the fastest instructions there are.
    fn compare<const K: usize>(
        panels: &PanelsOf<Self>,
        rows: &Packed<Self>,
        places: &[u32],
        best: &mut [Best<K>],
    );
}

impl Coordinate for f32 {
    const HELD: usize = 1;
    type Sum = f32;

    fn pack(vector: &[f32], out: &mut [f32]) -> f32 {
        out.copy_from_slice(vector);
        1.0
    }

    fn value(sum: f32) -> f32 {
        sum
    }

    fn compare<const K: usize>(
        panels: &PanelsOf<f32>,
        rows: &Packed<f32>,
        places: &[u32],
        best: &mut [Best<K>],
    ) {
        // Only where it is an instruction.
        const FMA: bool = cfg!(target_arch = "aarch64");
        panels.in_tiles::<K, 4>(rows, places, best, |rows, panel| {
            let rows = rows.map(|row| &row[..panel.len()]);
            let mut tile = [[0.0; WIDTH]; 4];
            for (at, centroids) in panel.iter().enumerate() {
                for (sums, row) in tile.iter_mut().zip(&rows) {
                    let x = row[at];
                    for (sum, c) in sums.iter_mut().zip(centroids) {
                        *sum = if FMA { x.mul_add(*c, *sum) } else { *sum + x * c };
                    }
                }
            }
            tile
        });
    }
}
