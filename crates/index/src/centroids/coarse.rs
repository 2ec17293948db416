//! One-bit codes of the centroids themselves: of many leaves, which are worth an exact score.

use super::Centroids;
use crate::sums::{dot, norm};
use crate::{CodeQuery, Encoder, GROUP, Metric, RowCode, pack_group};

/// Codes of all centroids of a segment around their centre, with the segment's rotation and scale, so that a query prepared
/// for the codes of rows reads these, too. They take an eighth of the bytes that exact scores read: those of thousands of
/// leaves stay in a processor's own cache.
#[derive(Clone, Debug)]
pub struct Coarse {
    metric: Metric,
    leaves: usize,
    centre: Vec<f32>,
    centre_norm: f32,
    groups: Vec<u8>,
}

impl Coarse {
    /// Encodes `centroids` with the seed of the segment's rotation and the scale of its codes.
    pub fn new(metric: Metric, centroids: &Centroids, seed: u64, scale: f32) -> Coarse {
        let (d, leaves) = (centroids.dimension(), centroids.leaves());
        let mut row = vec![0f32; d];
        let mut sums = vec![0f64; d];
        for leaf in 0..leaves {
            centroids.dequantised(leaf, &mut row);
            let inverse = crate::codes::inverse_norm(metric, &row);
            sums.iter_mut().zip(&row).for_each(|(sum, x)| *sum += f64::from(x * inverse));
        }
        let centre: Vec<f32> = sums.iter().map(|sum| (sum / leaves.max(1) as f64) as f32).collect();
        let encoder = Encoder::new(metric, d, seed, scale);
        let mut at_centre = encoder.leaf(&centre);
        let (mut groups, mut codes) = (Vec::new(), vec![RowCode::default(); GROUP.min(leaves)]);
        for first in (0..leaves).step_by(GROUP) {
            let count = GROUP.min(leaves - first);
            for (leaf, code) in (first..).zip(&mut codes[..count]) {
                centroids.dequantised(leaf, &mut row);
                at_centre.encode(&row, code);
            }
            pack_group(&codes[..count], d, &mut groups);
        }
        Coarse { metric, leaves, centre_norm: norm(&centre) as f32, centre, groups }
    }

    /// The score that each leaf has at most, allowing for `slack` times the `err` of its estimate (see [`CodeQuery`]); the
    /// greatest that there is where a code says nothing. `codes` is `query`, prepared for the segment's codes.
    pub fn ceilings(&self, query: &[f32], codes: &CodeQuery, slack: f32) -> Vec<f32> {
        let inverse = crate::codes::inverse_norm(self.metric, query);
        let product = dot(query, &self.centre) as f32 * inverse;
        let score = match self.metric {
            Metric::Cosine if self.centre_norm > 0.0 => product / self.centre_norm,
            Metric::Cosine => 0.0,
            Metric::Dot => product,
            Metric::L2 => {
                let difference: Vec<f32> = query.iter().zip(&self.centre).map(|(q, c)| q - c).collect();
                -(norm(&difference) as f32)
            }
        };
        let mut ceilings = Vec::with_capacity(self.leaves.next_multiple_of(GROUP));
        codes.floors(&self.groups, codes.term(score, self.centre_norm), slack, &mut ceilings);
        ceilings.truncate(self.leaves);
        for least in &mut ceilings {
            *least = self.metric.score(self.metric.estimate_to_distance(*least));
        }
        ceilings
    }

    /// Bytes that it takes in memory.
    pub fn bytes(&self) -> u64 {
        (self.groups.len() + 4 * self.centre.len()) as u64
    }
}

#[cfg(test)]
mod tests;
