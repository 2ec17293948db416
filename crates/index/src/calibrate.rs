//! How far to probe: margins learnt from held-out rows of the segment.

/// The recalls that margins are stored for.
pub const RECALLS: [f32; 4] = [0.9, 0.95, 0.98, 0.99];

/// One held-out row asked as a query.
#[derive(Clone, Copy, Debug)]
pub struct HeldOut<'a> {
    /// The score of its 10th true neighbour ([`Metric::score`](crate::Metric::score)).
    pub tenth: f32,
    /// The best score of any leaf.
    pub best_leaf: f32,
    /// For each true neighbour, the score of its leaf; with spill the best of its leaves.
    pub neighbour_leaves: &'a [f32],
}

/// Margins for one recall.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Calibration {
    /// The recall they are for.
    pub min_recall: f32,
    /// b: probe leaf j while s_j ≥ t_k − b, t_k being the k-th score found so far.
    pub margin: f32,
    /// δ: probe leaf j while s_j ≥ s_1 − δ, before any code is read.
    pub reach: f32,
}

/// Margins for each of [`RECALLS`]: the r-quantiles, over all neighbours of all held-out rows, of t_10 − s(leaf) and of
/// s_1 − s(leaf). Both rise with r. Without any sample the margins are infinite: everything is probed.
pub fn calibrate(sample: &[HeldOut<'_>]) -> [Calibration; 4] {
    let mut margins = Vec::new();
    let mut reaches = Vec::new();
    for row in sample {
        margins.extend(row.neighbour_leaves.iter().map(|leaf| row.tenth - leaf));
        reaches.extend(row.neighbour_leaves.iter().map(|leaf| row.best_leaf - leaf));
    }
    margins.sort_unstable_by(f32::total_cmp);
    reaches.sort_unstable_by(f32::total_cmp);
    RECALLS.map(|min_recall| Calibration {
        min_recall,
        margin: quantile(&margins, min_recall),
        reach: quantile(&reaches, min_recall),
    })
}

/// The least value that at least a share r of the sorted values does not exceed.
fn quantile(sorted: &[f32], r: f32) -> f32 {
    let rank = ((f64::from(r) - 1e-7) * sorted.len() as f64).ceil() as usize; // 1e-7: r is an f32
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(f32::INFINITY)
}

#[cfg(test)]
mod tests;
