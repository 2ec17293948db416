use super::*;

#[test]
fn margins_are_quantiles_of_what_neighbours_need() {
    // A hundred neighbours whose leaves score 0.99, 0.98, … 0.00.
    let leaves: Vec<f32> = (0..100).map(|i| 0.99 - i as f32 / 100.0).collect();
    let sample: Vec<HeldOut<'_>> = leaves
        .chunks(10)
        .map(|neighbour_leaves| HeldOut { tenth: 1.0, best_leaf: 0.995, neighbour_leaves })
        .collect();
    for calibration in calibrate(&sample) {
        let r = calibration.min_recall;
        assert!((calibration.margin - r).abs() < 1e-5, "{calibration:?}");
        assert!((calibration.reach - (r - 0.005)).abs() < 1e-5, "{calibration:?}");
        let reached = leaves.iter().filter(|leaf| **leaf >= 1.0 - calibration.margin).count();
        assert!(reached as f32 >= r * 100.0 - 0.01, "{reached} of 100 for {r}");
    }
}

#[test]
fn margins_rise_with_recall_and_are_infinite_without_a_sample() {
    let leaves = [0.4, 0.9, 0.1, 0.5];
    let margins = calibrate(&[HeldOut { tenth: 0.7, best_leaf: 0.9, neighbour_leaves: &leaves }]);
    assert!(
        margins.windows(2).all(|pair| pair[0].margin <= pair[1].margin && pair[0].reach <= pair[1].reach)
    );
    assert!(calibrate(&[]).iter().all(|calibration| calibration.margin == f32::INFINITY));
}
