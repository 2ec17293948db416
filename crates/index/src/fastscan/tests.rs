use proptest::prelude::*;

use super::*;
use crate::{SplitMix, group_bytes};

fn random_bytes(random: &mut SplitMix, count: usize) -> Vec<u8> {
    (0..count).map(|_| random.next_u64() as u8).collect()
}

fn random_entries(random: &mut SplitMix, count: usize) -> Vec<u8> {
    (0..count).map(|_| random.next_u64() as u8 & MOST).collect()
}

proptest! {
    #[test]
    fn bits_come_back_from_their_lane(words in 1usize..5, lane in 0usize..32, seed in any::<u64>()) {
        let mut random = SplitMix::new(seed);
        let bits: Vec<u64> = (0..words).map(|_| random.next_u64()).collect();
        let mut group = vec![0u8; 16 * 16 * words];
        pack_bits(&bits, lane, &mut group);
        prop_assert_eq!(unpack_bits(&group, lane, words), bits);
        let others = (0..32).filter(|other| *other != lane);
        prop_assert!(others.into_iter().all(|other| unpack_bits(&group, other, words).iter().all(|word| *word == 0)));
    }

    #[test]
    fn sums_are_equal_to_the_twin(words in 1usize..70, seed in any::<u64>()) {
        let mut random = SplitMix::new(seed);
        let codes = random_bytes(&mut random, 256 * words);
        let entries = random_entries(&mut random, 256 * words);
        prop_assert_eq!(sums_fast(&codes, &entries, &[]), sums_scalar(&codes, &entries, &[]));
    }

    #[test]
    fn shifted_sums_are_equal_to_the_twin(blocks in 1usize..60, seed in any::<u64>()) {
        let mut random = SplitMix::new(seed);
        let codes = random_bytes(&mut random, FOUR * blocks);
        let entries = random_entries(&mut random, FOUR * blocks);
        // As many shifts as sums of 16 bits allow, wherever they fall.
        let (mut shifts, mut exponent, mut sum) = (Vec::new(), 0, 0u64);
        for block in (1..blocks).rev() {
            sum += (BLOCK as u64 * u64::from(MOST)) << exponent;
            let by = random.below(3) as u32;
            let left = block as u64 * ((BLOCK as u64 * u64::from(MOST)) << (exponent + by));
            if by > 0 && sum + left <= u64::from(u16::MAX) {
                shifts.push((FOUR * block, by));
                exponent += by;
            }
        }
        shifts.reverse();
        prop_assert_eq!(sums_fast(&codes, &entries, &shifts), sums_scalar(&codes, &entries, &shifts));
    }

    #[test]
    fn estimates_are_near_the_twin(words in 1usize..20, seed in any::<u64>()) {
        let mut random = SplitMix::new(seed);
        let (mut group, tables, terms) = sample(&mut random, 64 * words);
        // One saturated and one absent lane.
        let err = 256 * words + 2 * 2 * GROUP;
        group[err..err + 2].copy_from_slice(&f16::INFINITY.to_le_bytes());
        group[err + 2..err + 4].copy_from_slice(&f16::NAN.to_le_bytes());
        let blank = Estimates { estimate: [0.0; GROUP], err: [0.0; GROUP] };
        let (mut fast, mut slow) = (blank.clone(), blank);
        let passed = kernel()(&group, &tables, &terms, 1.9, 0.5, &mut fast);
        let expected = estimate_scalar(&group, &tables, &terms, 1.9, 0.5, &mut slow);
        prop_assert!(expected & 1 == 1 && expected >> 1 & 1 == 0);
        for lane in 0..GROUP {
            let (a, b) = (fast.estimate[lane], slow.estimate[lane]);
            prop_assert!((a - b).abs() <= 1e-4 * (1.0 + b.abs()), "lane {}: {} {}", lane, a, b);
            let (a_err, b_err) = (fast.err[lane], slow.err[lane]);
            prop_assert!(a_err == b_err || (a_err - b_err).abs() <= 1e-4 * b_err || a_err.is_nan() && b_err.is_nan());
            let low = b - 1.9 * b_err;
            prop_assert!((passed ^ expected) >> lane & 1 == 0 || (low - 0.5).abs() < 1e-3);
        }
    }
}

fn sample(random: &mut SplitMix, d: usize) -> (Vec<u8>, Tables, LaneTerms) {
    let mut group = random_bytes(random, group_bytes(d));
    let codes = 32 * d / 8;
    for lane in 0..3 * GROUP {
        group[codes + 2 * lane..][..2].copy_from_slice(&f16::from_f32(random.unit()).to_le_bytes());
    }
    let entries = random_entries(random, 4 * d);
    let (step, unit) = (0.01 / (d as f32).sqrt(), 0.5);
    let bias = -step * 8.0 * d as f32;
    let tables = Tables { entries, shifts: Vec::new(), step, bias, noise: 0.01, add_unit: 0.25, unit };
    let mut lanes = || std::array::from_fn(|_| random.unit());
    let terms = LaneTerms { add: lanes(), scale: lanes(), err: lanes() };
    (group, tables, terms)
}

#[test]
fn u16_sums_do_not_overflow_at_the_largest_entries() {
    let entries = vec![MOST; 4 * 8192];
    assert_eq!(sums_fast(&vec![0x5A; 4 * 8192], &entries, &[]), [u32::from(MOST) * 2048; GROUP]);
}
