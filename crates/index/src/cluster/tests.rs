use super::*;
use crate::tests::mixture;

fn check(clustering: &Clustering, n: usize, d: usize, target: usize) {
    assert_eq!(clustering.assignment.len(), n);
    assert_eq!(clustering.centroids.len(), clustering.leaves * d);
    let mut seen = vec![false; n];
    let mut sizes = vec![0usize; clustering.leaves];
    let mut leaf = 0;
    for &row in &clustering.order {
        assert!(!std::mem::replace(&mut seen[row as usize], true), "row {row} twice");
        let own = clustering.assignment[row as usize];
        assert!(own >= leaf, "order is grouped by leaf");
        leaf = own;
        sizes[own as usize] += 1;
    }
    assert!(seen.iter().all(|seen| *seen), "every row is in the order");
    assert!(sizes.iter().all(|size| *size > 0 && *size <= 4 * target), "{sizes:?}");
    assert!(clustering.centroids.iter().all(|value| value.is_finite()));
}

fn run(data: &[f32], d: usize, metric: Metric, target: usize, threads: usize) -> Clustering {
    let total = std::cell::Cell::new(0);
    let clustering = cluster(data, d, metric, target, 42, threads, &|work| total.set(total.get() + work));
    assert_eq!(total.get(), if data.len() < d { 0 } else { cluster_work(data.len() / d, target) });
    clustering
}

#[test]
fn does_not_depend_on_threads_and_is_balanced() {
    let (n, d) = (5_000, 32);
    let data = mixture(9, n, d, 30, 0.0);
    for metric in [Metric::Cosine, Metric::L2, Metric::Dot] {
        let one = run(&data, d, metric, 64, 1);
        check(&one, n, d, 64);
        assert!((40..160).contains(&one.leaves), "{} leaves", one.leaves);
        assert_eq!(one, run(&data, d, metric, 64, 2));
        assert_eq!(one, run(&data, d, metric, 64, 3));
    }
}

#[test]
fn centroids_are_the_means_of_their_rows() {
    let (n, d) = (700, 10);
    let data = mixture(10, n, d, 5, 1.0);
    let clustering = run(&data, d, Metric::Cosine, 32, 2);
    for leaf in 0..clustering.leaves {
        let mut mean = vec![0f64; d];
        let mut count = 0.0;
        for row in (0..n).filter(|row| clustering.assignment[*row] as usize == leaf) {
            let row = &data[row * d..][..d];
            let norm = crate::sums::norm(row);
            mean.iter_mut().zip(row).for_each(|(mean, x)| *mean += f64::from(*x) / norm);
            count += 1.0;
        }
        let centroid = &clustering.centroids[leaf * d..][..d];
        assert!(mean.iter().zip(centroid).all(|(mean, c)| (mean / count - f64::from(*c)).abs() < 1e-5));
    }
}

#[test]
fn many_leaves_go_through_parents() {
    let (n, d) = (9_000, 8);
    let data = mixture(11, n, d, 300, 0.0);
    let one = run(&data, d, Metric::L2, 6, 1);
    assert!(one.leaves > FLAT_LEAVES, "{} leaves", one.leaves);
    check(&one, n, d, 6);
    assert_eq!(one, run(&data, d, Metric::L2, 6, 2));
    // Nearly every row is in its nearest leaf.
    let panels = Panels::new(one.centroids.chunks_exact(d), d);
    let mut best = vec![Best::<1>::NONE; n];
    panels.nearest(&Rows::plain(&data, d), &all(n), &mut best);
    let at_home = best.iter().zip(&one.assignment).filter(|(best, leaf)| best.leaf(0) == **leaf).count();
    assert!(at_home * 10 > n * 8, "{at_home} of {n}");
}

#[test]
fn degenerate_inputs_are_clustered() {
    let cases: Vec<(Vec<f32>, usize, usize)> = vec![
        (vec![], 4, 0),
        (vec![1.0], 1, 1),
        (mixture(12, 20, 3, 2, 0.0), 3, 20), // fewer rows than the target
        (vec![0.25; 1_000 * 2], 2, 1_000),   // all rows identical
        ([[1.0, 2.0], [3.0, 1.0]].concat().repeat(400), 2, 800), // two values
        ((0..600).map(|i| i as f32 / 7.0).collect(), 1, 600), // one dimension
        (mixture(13, 70, 8192, 3, 0.0), 8192, 70), // many dimensions
    ];
    for (data, d, n) in cases {
        for metric in [Metric::L2, Metric::Cosine, Metric::Dot] {
            check(&run(&data, d, metric, 16, 2), n, d, 16);
        }
    }
    check(&run(&vec![0.0; 300 * 4], 4, Metric::L2, 16, 2), 300, 4, 16); // zero rows
}

#[test]
fn targets_follow_the_size() {
    assert_eq!((leaf_target(1), leaf_target(127_999), leaf_target(128_000)), (64, 64, 256));
    assert_eq!((leaf_target(3_999_999), leaf_target(4_000_000)), (256, 1024));
}

#[test]
fn a_sample_covers_the_rows() {
    let data = vec![0.0; 1_000];
    let rows = Rows::plain(&data, 1);
    let build = Build { rows: &rows, target: 1, seed: 3, threads: 1 };
    let sample = build.sample(300);
    assert_eq!(sample.len(), 300);
    assert!(sample.windows(2).all(|pair| pair[0] < pair[1]));
    assert_eq!(build.sample(2_000), all(1_000));
}

#[test]
fn neighbours_are_those_of_every_comparison() {
    let (n, d) = (2_500, 20);
    let data = mixture(16, n, d, 12, 0.3);
    for metric in [Metric::Cosine, Metric::L2, Metric::Dot] {
        let found = |threads: usize, step: usize| {
            let mut neighbours = Neighbours::new(metric, d, &data[..300 * d]);
            for first in (0..n).step_by(step) {
                let end = (first + step).min(n);
                neighbours.offer(first as u32, &data[first * d..end * d], threads);
            }
            (0..300).map(|query| neighbours.nearest(query, query as u32, 10)).collect::<Vec<_>>()
        };
        let one = found(1, n);
        assert_eq!(one, found(3, n));
        assert_eq!(one, found(2, 700));
        for (query, found) in one.iter().enumerate() {
            let exact = crate::Exact::new(metric, &data[query * d..][..d]);
            let mut best = crate::TopK::new(10);
            for row in (0..n).filter(|row| *row != query) {
                best.push(exact.f32(&data[row * d..][..d]), row as u32);
            }
            for ((score, _), (distance, _)) in found.iter().zip(best.into_sorted()) {
                let truth = metric.score(distance);
                assert!((score - truth).abs() < 2e-3 * truth.abs().max(1.0), "{metric}: {score}, {truth}");
            }
        }
    }
}
