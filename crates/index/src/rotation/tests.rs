use super::*;
use crate::sums::{dot, norm};

fn random(seed: u64, d: usize) -> Vec<f32> {
    let mut random = SplitMix::new(seed);
    (0..d).map(|_| random.normal()).collect()
}

fn rotated(rotation: &Rotation, x: &[f32]) -> Vec<f32> {
    let mut out = vec![f32::NAN; rotation.padded()];
    rotation.apply(x, &mut out);
    out
}

#[test]
fn keeps_norms_and_products() {
    for d in [1, 2, 63, 64, 65, 100, 384, 768, 1000, 1024, 1536, 8192] {
        let rotation = Rotation::new(3, d);
        assert_eq!(rotation.padded(), d.div_ceil(64) * 64);
        let (a, b) = (random(1, d), random(2, d));
        let (pa, pb) = (rotated(&rotation, &a), rotated(&rotation, &b));
        assert!((norm(&pa) / norm(&a) - 1.0).abs() < 1e-5, "norm at {d}");
        assert!((dot(&pa, &pb) - dot(&a, &b)).abs() < 1e-5 * norm(&a) * norm(&b), "product at {d}");
    }
}

#[test]
fn spreads_a_single_coordinate() {
    for d in [64, 384, 768, 960] {
        let rotation = Rotation::new(4, d);
        let mut axis = vec![0.0; d];
        axis[d / 3] = 1.0;
        let out = rotated(&rotation, &axis);
        let widest = out.iter().fold(0f32, |most, x| most.max(x.abs()));
        assert!(widest < 6.0 / (d as f32).sqrt(), "{widest} at {d}");
    }
}

#[test]
fn depends_on_the_seed_alone() {
    let x = random(1, 384);
    assert_eq!(rotated(&Rotation::new(9, 384), &x), rotated(&Rotation::new(9, 384), &x));
    assert_ne!(rotated(&Rotation::new(9, 384), &x), rotated(&Rotation::new(10, 384), &x));
}

#[test]
fn the_stream_behind_stored_seeds_stands() {
    let mut random = SplitMix::new(1_234_567);
    // The published test vector of SplitMix64.
    assert_eq!(random.next_u64(), 6_457_827_717_110_365_317);
    assert_eq!(random.next_u64(), 3_203_168_211_198_807_973);
    // Bits of the first rotated coordinates: a change would make stored codes unreadable.
    let out = rotated(&Rotation::new(7, 96), &(0..96).map(|i| i as f32).collect::<Vec<_>>());
    let signs: String = out.iter().map(|x| if *x >= 0.0 { '+' } else { '-' }).collect();
    assert_eq!(
        signs,
        "++-++++-++++++--+++++-+++-+++--+--+--++-++-+---++-+--+++-+-----++-+-+-+----+++++----+-+--+---+-++----+++--------+-+++-+--+---+--"
    );
}

#[test]
fn scalar_equals_wide_bit_for_bit() {
    for d in [1, 64, 200, 384, 768] {
        let rotation = Rotation::new(5, d);
        let x = random(6, d);
        let mut scalar = x.clone();
        scalar.resize(rotation.padded(), 0.0);
        rotate(&rotation.signs, &mut scalar);
        assert_eq!(rotated(&rotation, &x), scalar);
    }
}
