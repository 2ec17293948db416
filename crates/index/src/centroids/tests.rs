use proptest::prelude::*;

use super::*;
use crate::tests::mixture;

fn round_trip(bits: u8, leaves: usize, d: usize, means: &[f32]) -> Centroids {
    let bytes = Centroids::encode(bits, leaves, d, means);
    assert_eq!(bytes.len(), centroid_bytes(bits, leaves, d));
    Centroids::decode(bits, leaves, d, &bytes).unwrap()
}

#[test]
fn fewer_bits_lose_more_and_none_much() {
    let (leaves, d) = (200, 70);
    let means = mixture(3, leaves, d, leaves, 10.0);
    let spread = 1.22f32; // rms of a coordinate around the mixture's mean
    for (bits, limit) in [(8, 0.012), (4, 0.15), (1, 0.7)] {
        let centroids = round_trip(bits, leaves, d, &means);
        let square: f32 = centroids.all_dequantised().iter().zip(&means).map(|(a, b)| (a - b).powi(2)).sum();
        let rms = (square / means.len() as f32).sqrt() / spread;
        assert!(rms < limit, "{bits} bits: {rms}");
    }
}

#[test]
fn scores_are_those_of_the_dequantised_centroids() {
    for (bits, d) in [(8, 384), (4, 33), (1, 100), (8, 1), (8, 8192)] {
        let leaves = 40;
        let means = mixture(4, leaves, d, 8, 1.0);
        let centroids = round_trip(bits, leaves, d, &means);
        let query = mixture(5, 1, d, 1, 1.0);
        let all = centroids.all_dequantised();
        for metric in [Metric::Cosine, Metric::L2, Metric::Dot] {
            let scores = centroids.scores(metric, &query);
            let unit = if metric == Metric::Cosine { norm(&query) } else { 1.0 };
            for (leaf, c) in all.chunks_exact(d).enumerate() {
                let difference: Vec<f32> = query.iter().zip(c).map(|(q, c)| q - c).collect();
                let expected = match metric {
                    Metric::Cosine => dot(&query, c) / unit / norm(c),
                    Metric::L2 => -norm(&difference),
                    Metric::Dot => dot(&query, c),
                };
                let tolerance = 2e-3 * (1.0 + expected.abs());
                assert!(
                    (f64::from(scores[leaf]) - expected).abs() < tolerance,
                    "{metric} {bits} {d}: {expected}"
                );
                assert!((f64::from(centroids.norm(leaf)) - norm(c)).abs() < 1e-3 * norm(c) + 1e-6);
            }
            let some = (0..leaves).rev().step_by(3);
            let mut out = vec![0.0; some.clone().count()];
            centroids.scores_of(&centroids.ask(metric, &query), some.clone(), &mut out);
            assert!(some.zip(out).all(|(leaf, score)| score == scores[leaf]), "{metric} {bits} {d}");
        }
    }
}

proptest! {
    #[test]
    fn scalar_equals_wide(lines in 1usize..40, leaves in 1usize..9, seed in any::<u64>()) {
        let mut random = crate::SplitMix::new(seed);
        let mut line = || Line(std::array::from_fn(|_| random.next_u64() as i8));
        let codes: Vec<Line> = (0..leaves * lines).map(|_| line()).collect();
        let query: Vec<f32> = (0..lines * LINE).map(|_| random.normal()).collect();
        every_kernel_agrees(&codes, &query, leaves);
    }

    #[test]
    fn no_bytes_make_it_panic(bits in 0u8..10, leaves in 0usize..5, d in 0usize..9, bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(centroids) = Centroids::decode(bits, leaves, d, &bytes) {
            centroids.scores(Metric::Cosine, &vec![1.0; d]);
        }
    }
}

fn every_kernel_agrees(codes: &[Line], query: &[f32], leaves: usize) -> f32 {
    let (rounded, _) = products::round_query(query);
    let (mut wide, mut scalar) = (vec![0.0; leaves], vec![0.0; leaves]);
    let centroids = || codes.chunks_exact(codes.len() / leaves);
    products(centroids(), &rounded, &mut wide);
    products::products_scalar(centroids(), &rounded, &mut scalar);
    assert_eq!(wide, scalar);
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the feature was detected.
        #[allow(unsafe_code)]
        unsafe {
            products::products_avx2(centroids(), &rounded, &mut wide)
        };
        assert_eq!(wide, scalar);
    }
    scalar[0]
}

#[test]
fn the_largest_products_do_not_overflow() {
    for (code, x) in [(-128i8, 1.0f32), (127, -1.0), (-128, -1.0)] {
        let codes = vec![Line([code; LINE]); 8192 / LINE];
        let product = every_kernel_agrees(&codes, &vec![x; 8192], 1);
        assert_eq!(f64::from(product), f64::from(code) * f64::from(x) * 8127.0 * 8192.0);
    }
}

#[test]
fn bits_follow_the_size() {
    assert_eq!((pick_bits(937, 384), pick_bits(2730, 384), pick_bits(2731, 384)), (8, 8, 4));
    assert_eq!((pick_bits(3907, 768), pick_bits(9766, 768)), (4, 1));
    assert!(Centroids::decode(2, 1, 1, &[]).is_err());
    assert!(Centroids::decode(8, 1, 1, &[0; 4]).unwrap_err().contains("expected 9"));
    assert!(Centroids::decode(8, usize::MAX / 2, 8192, &[]).is_err());
    let nan = [f32::NAN.to_le_bytes(), 0f32.to_le_bytes()].concat();
    assert!(Centroids::decode(8, 1, 1, &[nan, vec![0]].concat()).is_err());
}

#[test]
fn equal_centroids_are_exact() {
    let means = [[3.5f32, -2.0, 0.25]; 4].concat();
    for bits in [8, 4, 1] {
        assert_eq!(round_trip(bits, 4, 3, &means).all_dequantised(), means);
    }
}

#[test]
fn stored_centroids_stay_bit_for_bit_beside_new_ones() {
    let (leaves, d) = (20, 33);
    let (means, others) = (mixture(6, leaves, d, 8, 1.0), mixture(7, 2, d, 2, 1.0));
    for bits in [1, 4, 8] {
        let stored = Centroids::encode(bits, leaves, d, &means);
        let all: Vec<Origin<'_>> = (0..leaves as u32).map(Origin::Stored).collect();
        assert_eq!(Centroids::extend(bits, d, &stored, &all), Ok(stored.clone()));
        let all: Vec<Origin<'_>> = means.chunks_exact(d).map(Origin::Mean).collect();
        assert_eq!(Centroids::extend(bits, d, &stored, &all), Ok(stored.clone()));
        let (one, other) = others.split_at(d);
        let mixed = [Origin::Mean(one), Origin::Stored(19), Origin::Mean(other), Origin::Stored(0)];
        let mixed = Centroids::extend(bits, d, &stored, &mixed).unwrap();
        let [mixed, stored_ones] =
            [(4, &mixed), (leaves, &stored)].map(|(n, bytes)| Centroids::decode(bits, n, d, bytes).unwrap());
        let leaf = |centroids: &Centroids, leaf| {
            let mut out = vec![0.0; d];
            centroids.dequantised(leaf, &mut out);
            out
        };
        assert_eq!(leaf(&mixed, 1), leaf(&stored_ones, 19));
        assert_eq!(leaf(&mixed, 3), leaf(&stored_ones, 0));
        let error: f32 = leaf(&mixed, 0).iter().zip(one).map(|(a, b)| (a - b).powi(2)).sum();
        assert!(error < one.iter().map(|x| x * x).sum(), "{bits} bits: {error}");
        assert!(Centroids::extend(bits, d, &stored, &[Origin::Stored(20)]).is_err());
        assert!(Centroids::extend(bits, d, &stored[1..], &[]).is_err());
    }
}
