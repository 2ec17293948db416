//! New centroids beside stored ones.

use super::{Centroids, encode_int4, encode_int8, encode_sign};

/// Where a leaf has its centroid from.
#[derive(Clone, Copy, Debug)]
pub enum Origin<'a> {
    /// A stored one, by its number: kept bit for bit.
    Stored(u32),
    /// A mean of d values, quantised now.
    Mean(&'a [f32]),
}

impl Centroids {
    /// Centroids for `leaves` in the layout of [`Centroids::encode`], around the mean of `stored`, which are centroids of
    /// that layout, bits and d. Says what is wrong when these are not, or lack a leaf.
    pub fn extend(bits: u8, d: usize, stored: &[u8], leaves: &[Origin<'_>]) -> Result<Vec<u8>, String> {
        let width = (d * usize::from(bits)).div_ceil(8);
        if !matches!(bits, 1 | 4 | 8)
            || stored.len() < 4 * d
            || !(stored.len() - 4 * d).is_multiple_of(4 + width)
        {
            return Err(format!("{} bytes are no centroids of {bits} bits and {d} dimensions", stored.len()));
        }
        let count = (stored.len() - 4 * d) / (4 + width);
        let (mean_bytes, rest) = stored.split_at(4 * d);
        let (steps, codes) = rest.split_at(4 * count);
        let mean: Vec<f32> =
            mean_bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let mut out = Vec::with_capacity(4 * d + leaves.len() * (4 + width));
        out.extend_from_slice(mean_bytes);
        let mut new_codes = Vec::with_capacity(leaves.len() * width);
        for leaf in leaves {
            match leaf {
                Origin::Stored(leaf) if (*leaf as usize) < count => {
                    let leaf = *leaf as usize;
                    out.extend_from_slice(&steps[4 * leaf..][..4]);
                    new_codes.extend_from_slice(&codes[width * leaf..][..width]);
                }
                Origin::Stored(leaf) => return Err(format!("there is no centroid {leaf} of {count}")),
                Origin::Mean(values) => {
                    let centred: Vec<f32> = values.iter().zip(&mean).map(|(c, m)| c - m).collect();
                    let step = match bits {
                        8 => encode_int8(&centred, &mut new_codes),
                        4 => encode_int4(&centred, &mut new_codes),
                        _ => encode_sign(&centred, &mut new_codes),
                    };
                    out.extend_from_slice(&step.to_le_bytes());
                }
            }
        }
        out.extend_from_slice(&new_codes);
        Ok(out)
    }
}
