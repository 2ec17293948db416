use super::pair::{Pair, compare_scalar};
use super::*;
use crate::Metric;
use crate::codes::inverse_norm;
use crate::tests::mixture;

/// What is found, against the definition: by values that are right within `error`.
fn check<T: Coordinate>(rows: &Rows<'_>, centroids: &[f32], error: f64) {
    let (n, d) = (rows.len(), rows.d);
    let panels = PanelsOf::<T>::new(centroids.chunks_exact(d), d);
    let mut best = vec![Best::<3>::NONE; n];
    panels.nearest(rows, &all(n), &mut best);
    for (id, best) in all(n).into_iter().zip(&best) {
        let square = |leaf: usize| -> f64 {
            let pairs = rows.row(id).iter().zip(&centroids[leaf * d..][..d]);
            pairs.map(|(x, c)| f64::from(x * rows.inverse(id) - c).powi(2)).sum()
        };
        let mut squares: Vec<f64> = (0..centroids.len() / d).map(square).collect();
        let found: Vec<f64> = best.leaves().map(|leaf| squares[leaf as usize]).collect();
        squares.sort_unstable_by(f64::total_cmp);
        assert_eq!(found.len(), squares.len().min(3));
        let pairs = || found.iter().zip(&squares);
        assert!(pairs().all(|(found, least)| (found - least).abs() < error), "{found:?} {squares:?}");
    }
}

#[test]
fn finds_the_nearest_of_both_kinds() {
    for (n, leaves, d) in [(50, 2, 5), (300, 100, 33), (13, 64, 384), (7, 40, 1)] {
        let data = mixture(14, n, d, 6, 0.0);
        let centroids = mixture(15, leaves, d, 6, 0.0);
        for metric in [Metric::Cosine, Metric::L2] {
            let rows = Rows::new(&data, d, metric, 1);
            check::<f32>(&rows, &centroids, 1e-3);
            check::<Pair>(&rows, &centroids, 1e-2);
        }
    }
}

/// Where the centroids are does not matter, nor how long they are.
#[test]
fn finds_the_nearest_far_from_the_origin() {
    let (n, leaves, d) = (100, 70, 24);
    let data = mixture(14, n, d, 6, 0.0);
    let centroids = mixture(15, leaves, d, 6, 0.0);
    let found = |scale: f32, offset: f32| {
        let moved = |values: &[f32]| values.iter().map(|x| x * scale + offset).collect::<Vec<_>>();
        let (data, centroids) = (moved(&data), moved(&centroids));
        let panels = Panels::new(centroids.chunks_exact(d), d);
        let mut best = vec![Best::<1>::NONE; n];
        panels.nearest(&Rows::plain(&data, d), &all(n), &mut best);
        best.iter().map(|best| best.leaf(0)).collect::<Vec<_>>()
    };
    let plain = found(1.0, 0.0);
    for (scale, offset) in [(1.0, 1024.0), (1e-12, 0.0), (1e12, 0.0)] {
        let same = found(scale, offset).iter().zip(&plain).filter(|(a, b)| a == b).count();
        assert!(same >= n - 1, "{same} of {n}, {scale} {offset}");
    }
}

#[test]
fn instruction_sets_agree() {
    for (n, leaves, d) in [(50, 3, 5), (300, 100, 33), (13, 64, 384), (9, 33, 8192)] {
        let data = mixture(14, n, d, 6, 0.0);
        let centroids = mixture(15, leaves, d, 6, 0.0);
        let panels = PanelsOf::<Pair>::new(centroids.chunks_exact(d), d);
        let rows = Packed::of(&Rows::new(&data, d, Metric::Cosine, 1), &all(n), panels.origin());
        let (mut fast, mut scalar) = (vec![Best::<3>::NONE; n], vec![Best::<3>::NONE; n]);
        panels.compare(&rows, &all(n), &mut fast);
        compare_scalar(&panels, &rows, &all(n), &mut scalar);
        assert_eq!(fast, scalar);
    }
}

/// The longest products fit, wherever a vector's length lies.
#[test]
fn products_do_not_overflow() {
    let d = 8192;
    let mut one = vec![0.0; d];
    one[77] = -1e15;
    let even: Vec<f32> = (0..d).map(|at| if at % 3 == 0 { 1e-3 } else { -1e-3 }).collect();
    for (vector, square) in [(one, 1e30), (even, d as f64 * 1e-6)] {
        let panels = PanelsOf::<Pair>::of(vec![0.0; d], std::iter::once((&vector[..], 1.0)), false);
        let mut best = [Best::<1>::NONE];
        panels.nearest(&Rows::plain(&vector, d), &[0], &mut best);
        assert!((f64::from(best[0].value(0)) / square - 1.0).abs() < 1e-3, "{}", best[0].value(0));
    }
    // Vectors without length, and normalised ones of a single coordinate.
    for vector in [[0.0, 0.0], [f32::MIN_POSITIVE, 0.0], [3.0, 0.0]] {
        let scale = inverse_norm(Metric::Cosine, &vector);
        let panels = PanelsOf::<Pair>::of(vec![0.0; 2], std::iter::once((&vector[..], scale)), false);
        let mut best = [Best::<1>::NONE];
        panels.nearest(&Rows::new(&vector, 2, Metric::Cosine, 1), &[0], &mut best);
        assert!(best[0].value(0).is_finite());
    }
}
