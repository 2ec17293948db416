use super::*;
use crate::tests::mixture;
use crate::{Encoder, TopK};

const SEED: u64 = 9;

fn centroids(leaves: usize, d: usize, means: &[f32]) -> Centroids {
    Centroids::decode(8, leaves, d, &Centroids::encode(8, leaves, d, means)).unwrap()
}

#[test]
fn leaves_score_at_most_their_ceiling() {
    let (leaves, d, queries) = (700, 96, 40);
    let all = mixture(3, leaves + queries, d, 30, 0.3);
    let (means, queries) = all.split_at(leaves * d);
    let centroids = centroids(leaves, d, means);
    for metric in [Metric::Cosine, Metric::L2, Metric::Dot] {
        // The scale is that of the rows, whatever the centroids are.
        for scale in [0.2, 1.0, 8.0] {
            let encoder = Encoder::new(metric, d, SEED, scale);
            let coarse = Coarse::new(&centroids, &encoder);
            let (mut above, mut scored, mut near) = (0, 0, 0);
            for query in queries.chunks_exact(d) {
                let codes = encoder.query(query);
                let ceilings = coarse.ceilings(query, Some(&codes), 2.5);
                assert_eq!(ceilings, coarse.ceilings(query, None, 2.5));
                let scores = centroids.scores(metric, query);
                assert_eq!(ceilings.len(), leaves);
                above += scores.iter().zip(&ceilings).filter(|(score, most)| score > most).count();
                scored += leaves;
                // A ceiling says something: few others reach the score of the tenth.
                let mut best = TopK::new(10);
                (0..).zip(&scores).for_each(|(leaf, score)| {
                    best.push(-score, leaf);
                });
                near += ceilings.iter().filter(|most| **most >= -best.worst()).count();
            }
            assert!(above * 500 <= scored, "{metric}, scale {scale}: {above} of {scored}");
            assert!(near * 2 <= scored, "{metric}, scale {scale}: {near} of {scored}");
        }
    }
}

#[test]
fn nothing_is_ruled_out_by_codes_that_say_nothing() {
    let d = 64;
    let mut means = mixture(4, 3, d, 3, 1.0);
    means[..d].fill(0.0);
    let centroids = centroids(3, d, &means);
    let query = mixture(5, 1, d, 1, 1.0);
    for metric in [Metric::Cosine, Metric::L2, Metric::Dot] {
        // So small a scale that no factor fits.
        let scale = 1e-9;
        let encoder = Encoder::new(metric, d, SEED, scale);
        let coarse = Coarse::new(&centroids, &encoder);
        let codes = encoder.query(&query);
        let greatest = if metric == Metric::L2 { 0.0 } else { f32::INFINITY };
        assert_eq!(coarse.ceilings(&query, Some(&codes), 2.5), [greatest; 3], "{metric}");
    }
    let encoder = Encoder::new(Metric::Cosine, d, SEED, 1.0);
    let none = Coarse::new(&self::centroids(0, d, &[]), &encoder);
    let codes = encoder.query(&query);
    assert!(none.ceilings(&query, Some(&codes), 2.5).is_empty());
}
