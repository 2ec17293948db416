use proptest::prelude::*;

use super::*;

fn reference(metric: Metric, a: &[f32], b: &[f32]) -> f64 {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    match metric {
        Metric::Cosine => 1.0 - dot(a, b) / (dot(a, a) * dot(b, b)).sqrt(),
        Metric::L2 => (dot(a, a) + dot(b, b) - 2.0 * dot(a, b)).max(0.0).sqrt(),
        Metric::Dot => -dot(a, b),
    }
}

fn pair() -> impl Strategy<Value = (Vec<f32>, Vec<f32>)> {
    (1usize..400).prop_flat_map(|d| {
        let side = || proptest::collection::vec(-8.0f32..8.0, d);
        (side(), side())
    })
}

proptest! {
    #[test]
    fn equals_the_definition((query, row) in pair()) {
        let half: Vec<f16> = row.iter().map(|x| f16::from_f32(*x)).collect();
        let rounded: Vec<f32> = half.iter().map(|x| x.to_f32()).collect();
        let scale = (query.len() as f64 * 64.0).max(1.0);
        for metric in [Metric::Cosine, Metric::L2, Metric::Dot] {
            let exact = Exact::new(metric, &query);
            let tolerance = match metric { Metric::Cosine => 1e-4, Metric::L2 => 0.02, Metric::Dot => 1e-5 * scale };
            prop_assert!((f64::from(exact.f32(&row)) - reference(metric, &query, &row)).abs() < tolerance);
            prop_assert!((f64::from(exact.f16(&half)) - reference(metric, &query, &rounded)).abs() < tolerance);
        }
    }

    #[test]
    fn stored_bytes_need_no_alignment((query, row) in pair()) {
        let exact = Exact::new(Metric::L2, &query);
        let mut bytes = vec![0u8];
        row.iter().for_each(|x| bytes.extend_from_slice(&x.to_le_bytes()));
        prop_assert_eq!(exact.row_bytes(4, &bytes[1..]), exact.f32(&row));
        prop_assert_eq!(exact.row_bytes(4, &bytes[1..]), exact.row_bytes_portable(4, &bytes[1..]));
        let half: Vec<f16> = row.iter().map(|x| f16::from_f32(*x)).collect();
        let mut bytes = vec![0u8];
        half.iter().for_each(|x| bytes.extend_from_slice(&x.to_le_bytes()));
        prop_assert_eq!(exact.row_bytes(2, &bytes[1..]), exact.f16(&half));
        prop_assert_eq!(exact.row_bytes(2, &bytes[1..]), exact.row_bytes_portable(2, &bytes[1..]));
    }
}

#[test]
fn another_length_is_no_distance() {
    let exact = Exact::new(Metric::Dot, &[1.0, 2.0]);
    assert!(exact.f32(&[1.0]).is_nan());
    assert!(exact.f16(&[f16::ONE; 3]).is_nan());
    assert!(exact.row_bytes(4, &[0; 7]).is_nan());
    assert!(exact.row_bytes(3, &[0; 6]).is_nan());
}

#[test]
fn zero_vectors_have_a_cosine_distance() {
    assert_eq!(Exact::new(Metric::Cosine, &[0.0; 4]).f32(&[1.0; 4]), 1.0);
    assert_eq!(Exact::new(Metric::Cosine, &[1.0; 4]).f32(&[0.0; 4]), 1.0);
}

#[test]
fn scores_and_rankable_distances_follow_the_metric() {
    assert_eq!(Metric::parse("l2"), Some(Metric::L2));
    assert_eq!(Metric::parse("L2"), None);
    assert_eq!(Metric::Cosine.score(0.25), 0.75);
    assert_eq!(Metric::L2.rankable(3.0), 9.0);
    assert_eq!(Metric::L2.estimate_to_distance(9.0), 3.0);
    assert_eq!(Metric::L2.estimate_to_distance(-0.1), 0.0);
    assert_eq!(Metric::Dot.estimate_to_distance(-2.0), -2.0);
}
