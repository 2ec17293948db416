//! The leaves of a segment as queries look at them. What refers to them may outlive the segment.

use std::sync::OnceLock;

use esker_index::{Centroids, Coarse, CodeQuery, Encoder, LeafQuery, Metric};

use crate::search::Asked;

/// From so many leaves on it is worth having codes of their centroids: fewer are scored as fast without. Segments of tests
/// are small.
const MANY_LEAVES: usize = if cfg!(test) { 8 } else { 512 };
/// Leaves that may score most, of which the best is looked for.
const NEAR: usize = 16;
/// Standard errors of doubt about the estimate of a centroid: what is left out is not looked at again.
const SLACK: f32 = 2.5;

/// See the module.
#[derive(Debug)]
pub(crate) struct Leaves {
    pub metric: Metric,
    pub centroids: Centroids,
    /// What codes of rows are made with.
    pub encoder: Encoder,
    /// Codes of the centroids, where there are many and they are looked at often.
    coarse: OnceLock<Coarse>,
}

impl Leaves {
    pub fn new(centroids: Centroids, encoder: Encoder) -> Leaves {
        Leaves { metric: encoder.metric(), centroids, encoder, coarse: OnceLock::new() }
    }

    /// Their mean, as the only leaf.
    pub fn centre(&self) -> Option<Leaves> {
        let d = self.dimension();
        let mut mean = vec![0.0; d];
        for centroid in self.centroids.all_dequantised().chunks_exact(d.max(1)) {
            mean.iter_mut().zip(centroid).for_each(|(m, c)| *m += c / self.count() as f32);
        }
        let centroids = Centroids::decode(8, 1, d, &Centroids::encode(8, 1, d, &mean)).ok()?;
        Some(Leaves::new(centroids, self.encoder.clone()))
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.centroids.leaves()
    }

    /// Elements of a centroid.
    pub fn dimension(&self) -> usize {
        self.centroids.dimension()
    }

    /// Makes codes of the centroids, if there are many.
    pub fn hold_coarse(&self) {
        if self.count() >= MANY_LEAVES {
            self.coarse.get_or_init(|| Coarse::new(&self.centroids, &self.encoder));
        }
    }

    /// Bytes of these codes in memory, and of the basis of those of rows.
    pub fn code_bytes(&self) -> u64 {
        self.coarse.get().map_or(0, Coarse::bytes) + self.encoder.bytes()
    }

    /// A query, prepared for the codes of rows, given what leaves score, or may score at most if it is prepared for exact scores.
    pub fn pose(&self, asked: &Asked, scores: &[f32], exact: Option<&LeafQuery>) -> CodeQuery {
        if self.encoder.basis().is_none() {
            return self.encoder.query(&asked.vector);
        }
        let mut near: Vec<(f32, usize)> = scores.iter().copied().zip(0..).collect();
        if let Some(exact) = exact {
            if near.len() > NEAR {
                near.select_nth_unstable_by(NEAR, |a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
                near.truncate(NEAR);
            }
            let mut scores = vec![0.0; near.len()];
            self.centroids.scores_of(exact, near.iter().map(|(_, leaf)| *leaf), &mut scores);
            near.iter_mut().zip(scores).for_each(|(leaf, score)| leaf.0 = score);
        }
        let best = near.iter().max_by(|a, b| a.0.total_cmp(&b.0)).map_or(0, |(_, leaf)| *leaf);
        let mut centroid = vec![0.0; self.dimension()];
        self.centroids.dequantised(best, &mut centroid);
        self.encoder.query_near(&asked.vector, &centroid)
    }

    /// What each leaf scores at most; if that is an estimate, also the query prepared for exact scores. `codes` is what
    /// [`Leaves::pose`] gave, if it was asked for.
    pub fn ceilings(&self, asked: &Asked, codes: Option<&CodeQuery>) -> (Vec<f32>, Option<LeafQuery>) {
        match self.coarse.get() {
            Some(coarse) => {
                let exact = self.centroids.ask(self.metric, &asked.vector);
                (coarse.ceilings(&asked.vector, codes, SLACK), Some(exact))
            }
            None => (self.centroids.scores(self.metric, &asked.vector), None),
        }
    }

    /// The score of each leaf; NaN of those that score less than `least`.
    pub fn scoring(&self, asked: &Asked, codes: &CodeQuery, least: f32) -> Vec<f32> {
        let (mut scores, exact) = self.ceilings(asked, Some(codes));
        if let Some(exact) = exact {
            let near: Vec<usize> = (0..scores.len()).filter(|leaf| scores[*leaf] >= least).collect();
            scores.fill(f32::NAN);
            self.score(&exact, &near, &mut scores);
        }
        scores.iter_mut().filter(|score| **score < least).for_each(|score| *score = f32::NAN);
        scores
    }

    /// The leaf of a row: that whose centroid is nearest, whatever the metric, as a build has it.
    pub fn nearest(&self, asked: &Asked) -> u32 {
        // Grows as the distance falls.
        let fit = |leaf: usize, score: f32| {
            let norm = self.centroids.norm(leaf);
            match self.metric {
                Metric::Cosine => norm * (2.0 * score - norm),
                Metric::Dot => 2.0 * score - norm * norm,
                Metric::L2 => score,
            }
        };
        let best = |scores: &[f32]| {
            let fits = scores.iter().enumerate().map(|(leaf, score)| (fit(leaf, *score), leaf));
            fits.filter(|f| !f.0.is_nan()).max_by(|a, b| a.0.total_cmp(&b.0)).map_or(0, |(_, leaf)| leaf)
        };
        let (mut scores, exact) = self.ceilings(asked, None);
        let mut found = best(&scores);
        if let Some(exact) = exact {
            let mut score = [0.0];
            self.centroids.scores_of(&exact, std::iter::once(found), &mut score);
            let least = fit(found, score[0]);
            let near = |leaf: &usize| *leaf == found || fit(*leaf, scores[*leaf]) >= least;
            let near: Vec<usize> = (0..scores.len()).filter(near).collect();
            scores.fill(f32::NAN);
            self.score(&exact, &near, &mut scores);
            found = best(&scores);
        }
        found as u32
    }

    /// Gives some leaves their exact scores.
    fn score(&self, exact: &LeafQuery, leaves: &[usize], scores: &mut [f32]) {
        let mut found = vec![0.0; leaves.len()];
        self.centroids.scores_of(exact, leaves.iter().copied(), &mut found);
        leaves.iter().zip(found).for_each(|(leaf, score)| scores[*leaf] = score);
    }
}
