//! Whether the codes of a segment are made with a basis learned from its residuals ([RFC 0015]): half as many bits, rounded up to
//! 64, and better estimates where residuals vary much more in some directions than in others.
//!
//! [RFC 0015]: ../../../../docs/rfcs/0015-codes-of-a-learned-basis.md

use std::sync::Arc;

use esker_format::Result;
use esker_index::{
    Basis, Bound, Codes, Covariance, Encoder, Exact, RowCode, Run, SplitMix, group_bytes, pack_group, padded,
    residual,
};

use super::calibration::Truth;
use super::codes::{Coded, leaf_of};
use super::vectors::Vectors;
use super::{BuildOptions, Choice};

/// Codes up to this many bytes are read whole, and little is gained. Segments of tests are small.
const ENOUGH: usize = if cfg!(test) { 80 << 10 } else { 4 << 20 };
/// The basis is part of the header, which every cold search reads. There is no room for it where centroids have fewer bits than
/// this, from a few million rows on …
const CENTROID_BITS: u8 = 4;
/// … nor where codes have fewer bytes than so many times its own at the least.
const SHARE: usize = 16;
/// Learning takes the cube of the dimension: seconds beyond this.
const DIMENSIONS: usize = 2048;
/// Residuals per dimension that it is learned from …
const RESIDUALS: usize = 12;
/// … and how many are added at once.
const BLOCK: usize = 1024;
/// Queries of the sample whose neighbours are estimated both ways.
const QUERIES: usize = 100;
/// Worth it if the root mean square of the errors is at most that of a bit per dimension, and at most this share of it where
/// codes were as long: those of few dimensions, much of which is the same, get little shorter.
const WORTH: f64 = 0.6;
/// Of the sample of rows.
const SEED: u64 = 0x6261_7369;

impl Coded {
    /// Learns a basis and takes it, if that is worth it. What was kept of another segment stays as it was.
    pub(super) fn choose_basis(
        &mut self,
        vectors: &dyn Vectors,
        leaf_starts: &[u32],
        truth: &Truth,
        options: BuildOptions,
    ) -> Result<()> {
        let d = self.dimension();
        let bits = padded(padded(d) / 2);
        let wanted = match options.basis {
            Choice::WhereWorth => self.groups_len(vectors.rows()) > ENOUGH,
            Choice::Always => true,
            Choice::Never => false,
        };
        // What it takes is known before it is learned, up to a few coordinates.
        let room =
            bits / 4 * (8 + d) * SHARE <= self.groups_len(vectors.rows()) || options.basis == Choice::Always;
        let fits = room && self.centroid_bits >= CENTROID_BITS && d <= DIMENSIONS && bits < padded(d);
        if !wanted || !fits || self.is_kept() {
            return Ok(());
        }
        let residuals = self.residuals(vectors, leaf_starts, options.seed)?;
        let Some(basis) = Basis::learn(residuals, bits, options.seed) else { return Ok(()) };
        let learned = |basis| Encoder::learned(self.metric(), Arc::new(basis), self.encoder().scale());
        let with = self.errors(&learned(basis.clone()), vectors, leaf_starts, truth)?;
        let without = self.errors(self.encoder(), vectors, leaf_starts, truth)?;
        let ratio = with.rms / without.rms;
        let length = group_bytes(bits) as f64 / self.encoder().group_bytes() as f64;
        tracing::debug!(bits, ratio, length, errors = with.of_own, "errors with a basis");
        let better = with.count >= without.count && ratio <= 1.0 && ratio * length <= WORTH;
        if options.basis == Choice::Always || better {
            // Never more sure than it is: neighbours may lie where rows seldom do.
            let doubt = if with.of_own.is_finite() { with.of_own.max(1.0) } else { 1.0 };
            let encoder = learned(basis.doubted(doubt as f32));
            self.set_encoder(encoder);
        }
        Ok(())
    }

    /// The second moments of some rows' residuals.
    fn residuals(&self, vectors: &dyn Vectors, leaf_starts: &[u32], seed: u64) -> Result<Covariance> {
        let (d, rows) = (self.dimension(), vectors.rows());
        let wanted = (RESIDUALS * d).min(rows);
        let mut random = SplitMix::new(seed ^ SEED);
        let mut ordinals: Vec<usize> = (0..wanted).map(|_| random.below(rows)).collect();
        ordinals.sort_unstable();
        ordinals.dedup();
        let mut covariance = Covariance::new(d);
        for some in ordinals.chunks(BLOCK) {
            let mut residuals = vec![0.0; some.len() * d];
            for (ordinal, out) in some.iter().zip(residuals.chunks_exact_mut(d)) {
                let centroid = self.centroid(leaf_of(leaf_starts, *ordinal));
                residual(self.metric(), &vectors.row(*ordinal)?, centroid, out);
            }
            covariance.add(&residuals);
        }
        Ok(covariance)
    }

    /// How far the estimates of the sample's true neighbours are off.
    fn errors(
        &self,
        encoder: &Encoder,
        vectors: &dyn Vectors,
        leaf_starts: &[u32],
        truth: &Truth,
    ) -> Result<Errors> {
        let (mut squares, mut of_own, mut count) = (0f64, 0f64, 0usize);
        let step = truth.count().div_ceil(QUERIES).max(1);
        for at in (0..truth.count()).step_by(step) {
            let (query, neighbours) = truth.sample(at);
            let scores = self.centroids.scores(self.metric(), query);
            let best = (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b])).unwrap_or(0);
            let asked = encoder.query_near(query, self.centroid(best));
            let exact = Exact::new(self.metric(), query);
            let (mut codes, mut runs, mut distances) = (Vec::new(), Vec::new(), Vec::new());
            for ordinal in neighbours {
                let (row, leaf) = (vectors.row(ordinal as usize)?, leaf_of(leaf_starts, ordinal as usize));
                let mut code = RowCode::default();
                encoder.encode(&row, self.centroid(leaf), &mut code);
                let term = asked.term(scores[leaf], self.centroids.norm(leaf));
                runs.push(Run { first: codes.len(), end: codes.len() + 1, term });
                codes.push(code);
                distances.push(self.metric().rankable(exact.f32(&row)));
            }
            let mut groups = Vec::new();
            pack_group(&codes, encoder.bits(), &mut groups);
            let codes = Codes { groups: &groups, first_group: 0, beside: 0 };
            asked.scan(codes, &runs, |_| u32::MAX, Bound::NONE, &mut |posting, estimate, err| {
                let off = f64::from(estimate - distances[posting]);
                if off.is_finite() && err.is_finite() {
                    squares += off * off;
                    // An `err` is 1.25 standard errors.
                    of_own += (1.25 * off / f64::from(err.max(f32::MIN_POSITIVE))).powi(2);
                    count += 1;
                }
                f32::INFINITY
            });
        }
        let mean = |sum: f64| (sum / count.max(1) as f64).sqrt();
        Ok(Errors { rms: mean(squares), of_own: mean(of_own), count })
    }
}

struct Errors {
    /// Of how many estimates: some rows have none.
    count: usize,
    /// Root mean square.
    rms: f64,
    /// The same in standard errors, as each code gives its own.
    of_own: f64,
}

#[cfg(test)]
mod tests;
