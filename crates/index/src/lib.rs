//! Vector mathematics of the index: metrics, exact distances, seeded clustering, RaBitQ codes and their scan.
//!
//! Everything here is synchronous, seeded and free of I/O, so the same input gives the same output on one
//! instruction set. The life of a vector: [`cluster()`] puts the rows in order, [`Centroids`] quantises the leaf means,
//! [`Encoder`] turns each row into a code relative to its *stored* centroid, [`pack_group`] lays codes out for
//! scanning. A query then asks [`Centroids::scores`] which leaves to probe, [`Encoder::query`] for estimates,
//! [`Shortlist`] for the best of them and [`Exact`] for their true distances.

mod basis;
mod bits;
mod centroids;
mod check;
mod cluster;
mod codes;
mod distance;
mod fastscan;
mod metric;
mod rotation;
mod scan;
mod seed;
mod sums;
mod topk;

pub use basis::{Basis, Covariance};
pub use bits::{Bitset, lanes};
pub use centroids::{Centroids, Coarse, LeafQuery, Origin, centroid_bytes, pick_bits};
pub use check::check16;
pub use cluster::{
    Adapted, Clustering, Leaves, Moments, Neighbours, Plan, Seconds, Standing, Survey, Training, adapt,
    arrange, cluster, cluster_work, leaf_target,
};
pub use codes::{
    Encoder, GROUP, LeafEncoder, RowCode, group_bytes, pack_group, pack_row, padded, residual,
    residual_scale, residual_square, scale_of, unpack_group, unpack_row,
};
pub use distance::{Exact, prefetch};
pub use metric::Metric;
pub use rotation::Rotation;
pub use scan::{Bound, CodeQuery, Codes, LeafTerm, Run};
pub use seed::SplitMix;
pub use topk::{Shortlist, TopK};

/// The recalls that a segment stores limits of probing for.
pub const RECALLS: [f32; 4] = [0.9, 0.95, 0.98, 0.99];

#[cfg(test)]
mod tests;
