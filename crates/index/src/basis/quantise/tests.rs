use proptest::prelude::*;

use super::*;
use crate::seed::SplitMix;

proptest! {
    #[test]
    fn equals_its_twin(four in 0usize..40, two in 0usize..20, one in 0usize..20, seed in any::<u64>(), still in any::<bool>()) {
        let all = four + 2 * two + 4 * one;
        let mut random = SplitMix::new(seed);
        let mut some = |scale: f32| (0..all).map(|_| random.normal() * scale).collect::<Vec<f32>>();
        let (residual, centroid, deviations) = (some(0.2), some(1.0), some(0.1));
        let mut deviations: Vec<f32> = deviations.iter().map(|x| x.abs()).collect();
        if still && all > 0 {
            deviations[all / 2] = 0.0;
        }
        let inverses: Vec<f32> = deviations.iter().map(|x| if *x > 0.0 { 1.0 / x } else { 0.0 }).collect();
        let variances: Vec<f32> = deviations.iter().map(|x| x * x).collect();
        let counts = [four, 2 * two];
        let of = Coordinates { counts, deviations: &deviations, inverses: &inverses, variances: &variances };
        let words = (4 * (four + two + one)).div_ceil(64);
        let (mut fast, mut twin) = (vec![0u64; words], vec![0u64; words]);
        let sums = of.quantise(&residual, 0.7, &centroid, &mut fast);
        prop_assert_eq!(sums, of.quantise_scalar(&residual, 0.7, &centroid, &mut twin));
        prop_assert_eq!(fast, twin);
    }
}

#[test]
fn a_coordinate_has_the_bits_of_its_sign_and_level() {
    let ones = [1.0; 5];
    let of = Coordinates { counts: [3, 1], deviations: &ones, inverses: &ones, variances: &ones };
    let mut bits = [0];
    let sums = of.quantise(&[0.1, -0.1, 2.0, -1.2, 3.0], 1.0, &[1.0, 0.0, 0.0, 0.0, 0.0], &mut bits);
    assert_eq!(bits, [0b101_1110_0000_1000]);
    assert!((sums.kept - 14.46).abs() < 1e-5, "{}", sums.kept);
    assert!((sums.turned - f64::from(FOUR.0[0])).abs() < 1e-9, "{}", sums.turned);
}
