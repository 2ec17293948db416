//! One-bit codes of the centroids themselves: of many leaves, which are worth an exact score.

use super::Centroids;
use crate::sums::{dot, norm};
use crate::{CodeQuery, Encoder, GROUP, Metric, RowCode, pack_group};

/// Of the rotation that centroids have for themselves; nothing of it is stored.
const SEED: u64 = 0x636f_6172;

/// Codes of all centroids of a segment around their centre. Where those of rows have a random rotation, these have the same and
/// the same scale, so that a query prepared for the codes of rows reads these, too. They take an eighth of the bytes that exact
/// scores read: those of thousands of leaves stay in a processor's own cache.
#[derive(Clone, Debug)]
pub struct Coarse {
    metric: Metric,
    leaves: usize,
    encoder: Encoder,
    /// Whether codes of rows are made with the same: not if these have a basis of residuals.
    shared: bool,
    centre: Vec<f32>,
    centre_norm: f32,
    groups: Vec<u8>,
}

impl Coarse {
    /// Encodes `centroids` of a segment whose rows `encoder` encodes.
    pub fn new(centroids: &Centroids, encoder: &Encoder) -> Coarse {
        let metric = encoder.metric;
        let (d, leaves) = (centroids.dimension(), centroids.leaves());
        let mut row = vec![0f32; d];
        let mut sums = vec![0f64; d];
        for leaf in 0..leaves {
            centroids.dequantised(leaf, &mut row);
            let inverse = crate::codes::inverse_norm(metric, &row);
            sums.iter_mut().zip(&row).for_each(|(sum, x)| *sum += f64::from(x * inverse));
        }
        let centre: Vec<f32> = sums.iter().map(|sum| (sum / leaves.max(1) as f64) as f32).collect();
        let shared = encoder.basis().is_none();
        let encoder = if shared { encoder.clone() } else { Encoder::new(metric, d, SEED, encoder.scale) };
        let mut at_centre = encoder.leaf(&centre);
        let (mut groups, mut codes) = (Vec::new(), vec![RowCode::default(); GROUP.min(leaves)]);
        for first in (0..leaves).step_by(GROUP) {
            let count = GROUP.min(leaves - first);
            for (leaf, code) in (first..).zip(&mut codes[..count]) {
                centroids.dequantised(leaf, &mut row);
                at_centre.encode(&row, code);
            }
            pack_group(&codes[..count], encoder.bits(), &mut groups);
        }
        Coarse { metric, leaves, centre_norm: norm(&centre) as f32, centre, groups, encoder, shared }
    }

    /// The score that each leaf has at most, allowing for `slack` times the `err` of its estimate (see [`CodeQuery`]); the
    /// greatest that there is where a code says nothing. `codes` is `query`, prepared for the codes of rows, if it is.
    pub fn ceilings(&self, query: &[f32], codes: Option<&CodeQuery>, slack: f32) -> Vec<f32> {
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
        let own;
        let codes = match codes.filter(|_| self.shared) {
            Some(codes) => codes,
            None => {
                own = self.encoder.query(query);
                &own
            }
        };
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
