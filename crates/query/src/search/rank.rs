//! The leaves of segments that are held, best first. Of many, one-bit codes of their centroids say which are worth an exact
//! score.

use esker_index::{CodeQuery, LeafQuery, Run};

use super::{Asked, own_run};
use crate::segment::Segment;

/// Leaves of the first lot; each later one has as many as three times all before.
const FIRST: usize = 64;
/// Standard errors of doubt about the estimate of a centroid: what is left out is not looked at again.
const SLACK: f32 = 2.5;

/// A leaf: score, number of the segment, number of the leaf.
pub(crate) type Ranked = (f32, u32, u32);

/// A query vector against a segment that is held.
struct Posed<'a> {
    segment: &'a Segment,
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
    pub fn new(asked: &Asked, segments: impl Iterator<Item = &'a Segment>) -> Self {
        let (mut posed, mut left) = (Vec::new(), Vec::new());
        for (number, segment) in (0u32..).zip(segments) {
            let scale = segment.header.facts().scale;
            let codes =
                CodeQuery::new(asked.metric, segment.dimension(), &segment.rotation, scale, &asked.vector);
            let (most, exact) = match segment.coarse() {
                Some(coarse) => {
                    let exact = segment.centroids.ask(asked.metric, &asked.vector);
                    (coarse.ceilings(&asked.vector, &codes, SLACK), Some(exact))
                }
                None => (segment.centroids.scores(asked.metric, &asked.vector), None),
            };
            left.extend((0u32..).zip(most).map(|(leaf, most)| (most, number, leaf)));
            posed.push(Posed { segment, codes, exact });
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
            let Posed { segment, exact: Some(exact), .. } = &self.posed[own[0].1 as usize] else { continue };
            self.scores.clear();
            self.scores.resize(own.len(), 0.0);
            let leaves = own.iter().map(|(_, _, leaf)| *leaf as usize);
            segment.centroids.scores_of(exact, leaves, &mut self.scores);
            own.iter_mut().zip(&self.scores).for_each(|(leaf, score)| leaf.0 = *score);
        }
    }

    /// The query, prepared for the codes of a segment.
    pub fn codes(&self, number: u32) -> &CodeQuery {
        &self.posed[number as usize].codes
    }

    /// The scan of a leaf's own rows. What others have copied into it costs time and finds little where every leaf is at hand.
    pub fn run(&self, (score, number, leaf): Ranked) -> Run {
        let Posed { segment, codes, .. } = &self.posed[number as usize];
        own_run(segment, codes, leaf, score)
    }
}
