//! The leaves of segments that are held, best first. Of many, one-bit codes of their centroids say which are worth an exact
//! score.

use esker_index::{CodeQuery, LeafQuery};

use super::Asked;
use crate::segment::Leaves;

/// Leaves of the first lot; each later one has as many as three times all before.
const FIRST: usize = 64;

/// A leaf: score, number of the segment, number of the leaf.
pub(crate) type Ranked = (f32, u32, u32);

/// A query vector against the leaves of a segment that is held.
struct Posed<'a> {
    leaves: &'a Leaves,
    codes: CodeQuery,
    /// For exact scores, where the leaves were estimated.
    exact: Option<LeafQuery>,
}

/// All leaves of some segments, put in order a lot at a time.
pub(crate) struct Ranking<'a> {
    posed: Vec<Posed<'a>>,
    /// Leaves that were not in a lot yet, in no order, with what they score at most.
    left: Vec<Ranked>,
    /// The lot at hand.
    lot: Vec<Ranked>,
    given: usize,
    scores: Vec<f32>,
}

impl<'a> Ranking<'a> {
    pub fn new(asked: &Asked, segments: impl Iterator<Item = &'a Leaves>) -> Self {
        let (mut posed, mut left) = (Vec::new(), Vec::new());
        for (number, leaves) in (0u32..).zip(segments) {
            // Codes of a basis are read by what leaves score; codes of centroids as those of rows where these have none.
            let plain = leaves.encoder.basis().is_none().then(|| leaves.pose(asked, &[], None));
            let (most, exact) = leaves.ceilings(asked, plain.as_ref());
            let codes = plain.unwrap_or_else(|| leaves.pose(asked, &most, exact.as_ref()));
            left.extend((0u32..).zip(most).map(|(leaf, most)| (most, number, leaf)));
            posed.push(Posed { leaves, codes, exact });
        }
        Ranking { posed, left, lot: Vec::new(), given: 0, scores: Vec::new() }
    }

    /// The next lot, best first; empty when there are no more. Leaves for which `wanted` says no, by what they score at most
    /// and the number of their segment, are left out from now on.
    pub fn next(&mut self, wanted: impl Fn(f32, u32) -> bool) -> &[Ranked] {
        let better = |a: &Ranked, b: &Ranked| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2)));
        self.left.retain(|(most, number, _)| wanted(*most, *number));
        let count = if self.given == 0 { FIRST } else { 3 * self.given }.min(self.left.len());
        let rest = self.left.len() - count;
        if rest > 0 && count > 0 {
            self.left.select_nth_unstable_by(rest, |a, b| better(b, a));
        }
        self.lot.clear();
        self.lot.extend(self.left.drain(rest..));
        self.given += count;
        self.score();
        self.lot.sort_unstable_by(better);
        &self.lot
    }

    /// Gives the leaves of the lot their exact scores.
    fn score(&mut self) {
        if self.posed.iter().all(|p| p.exact.is_none()) {
            return;
        }
        self.lot.sort_unstable_by_key(|(_, number, leaf)| (*number, *leaf));
        for own in self.lot.chunk_by_mut(|a, b| a.1 == b.1) {
            let Posed { leaves, exact: Some(exact), .. } = &self.posed[own[0].1 as usize] else { continue };
            self.scores.clear();
            self.scores.resize(own.len(), 0.0);
            let numbers = own.iter().map(|(_, _, leaf)| *leaf as usize);
            leaves.centroids.scores_of(exact, numbers, &mut self.scores);
            own.iter_mut().zip(&self.scores).for_each(|(leaf, score)| leaf.0 = *score);
        }
    }

    /// The query, prepared for the codes of a segment.
    pub fn codes(&self, number: u32) -> &CodeQuery {
        &self.posed[number as usize].codes
    }
}
