use proptest::prelude::*;

use super::*;
use crate::tests::power_law;

const D: usize = 128;

fn basis(bits: usize) -> Basis {
    learn(&power_law(1, 3_000, D, 1.2, 0.0), bits).unwrap()
}

fn learn(rows: &[f32], bits: usize) -> Option<Basis> {
    let mut covariance = Covariance::new(D);
    rows.chunks(1_000 * D).for_each(|some| covariance.add(some));
    Basis::learn(covariance, bits, 5)
}

#[test]
fn directions_are_orthonormal_and_vary_as_they_say() {
    let basis = basis(64);
    assert_eq!((basis.dimension(), basis.bits()), (D, 64));
    let values: Vec<f32> = basis.stored.iter().flat_map(decoded).collect();
    for (i, a) in values.chunks_exact(D).enumerate() {
        for (j, b) in values.chunks_exact(D).enumerate() {
            let expected = if i == j { 1.0 } else { 0.0 };
            assert!((dot(a, b) - expected).abs() < 0.03, "{i} and {j}: {}", dot(a, b));
        }
    }
    // Other rows of the same distribution, at length 1.
    let mut rows = power_law(2, 4_000, D, 1.2, 0.0);
    for row in rows.chunks_exact_mut(D) {
        let norm = crate::sums::norm(row) as f32;
        row.iter_mut().for_each(|x| *x /= norm);
    }
    let coordinates = basis.project(&rows);
    for (i, deviation) in basis.deviations.iter().enumerate() {
        let square: f32 = coordinates.iter().skip(i).step_by(basis.coordinates()).map(|x| x * x).sum();
        let found = (square / 4_000.0).sqrt();
        assert!((found / deviation - 1.0).abs() < 0.15, "coordinate {i}: {found}, not {deviation}");
    }
    assert!(basis.deviations.windows(2).all(|pair| pair[0] >= 0.97 * pair[1]), "{:?}", basis.deviations);
}

#[test]
fn steep_spectra_get_more_bits_in_fewer_coordinates() {
    let of = |a: f64| {
        let spectrum: Vec<f64> = (1..=256).map(|i| f64::from(i).powf(-a)).collect();
        let counts = allocate(&spectrum, 32).unwrap();
        assert_eq!(4 * counts[0] + 2 * counts[1] + counts[2], 128);
        counts
    };
    assert_eq!(of(0.0), [0, 0, 128]);
    let (mild, steep) = (of(0.8), of(1.6));
    assert!(steep[0] > mild[0] && steep.iter().sum::<usize>() < mild.iter().sum::<usize>());
    assert_eq!(allocate(&[1.0, 0.5], 16), None, "four bits at most");
}

#[test]
fn products_are_the_same_alone_and_together_and_in_the_twin() {
    let mut random = SplitMix::new(3);
    for (d, count) in [(5, 3), (64, 16), (100, 70), (33, 129)] {
        let vectors: Vec<f32> = (0..count * d).map(|_| random.normal()).collect();
        let panels = Panels::new(vectors.chunks_exact(d), d);
        for n in [0, 1, 5, 6, 17] {
            let rows: Vec<f32> = (0..n * d).map(|_| random.normal()).collect();
            let all = panels.products(&rows);
            let alone: Vec<f32> = rows.chunks_exact(d).flat_map(|row| panels.products(row)).collect();
            assert_eq!(all, alone);
            let mut twin = vec![0.0; n * count];
            panels.fill(&rows, &mut twin);
            assert_eq!(all, twin);
            for (row, found) in rows.chunks_exact(d).zip(all.chunks_exact(count)) {
                for (vector, found) in vectors.chunks_exact(d).zip(found) {
                    assert!((f64::from(*found) - dot(row, vector)).abs() < 1e-3);
                }
            }
        }
    }
}

#[test]
fn it_comes_back_from_its_bytes() {
    let learned = basis(128).doubted(1.25);
    let bytes = learned.encode();
    let back = Basis::decode(D, &bytes).unwrap();
    assert_eq!((back.counts, back.doubt, &back.stored), (learned.counts, 1.25, &learned.stored));
    assert_eq!((&back.deviations, back.rest), (&learned.deviations, learned.rest));
    assert_eq!(back.encode(), bytes);
    assert!(Basis::decode(D, &bytes[..bytes.len() - 1]).is_err());
    assert!(Basis::decode(D + 1, &bytes).is_err());
    assert!(Basis::decode(D, &[]).is_err());
    let with = |at: usize, value: f32| [&bytes[..at], &value.to_le_bytes(), &bytes[at + 4..]].concat();
    assert!(Basis::decode(D, &with(10, f32::NAN)).is_err(), "a deviation");
    for doubt in [f32::NAN, 0.0, 1e-45, 1e9] {
        assert!(
            Basis::decode(D, &with(6, doubt)).is_err(),
            "codes of {doubt} would say that they are exact, or nothing"
        );
    }
}

#[test]
fn there_is_none_of_too_little() {
    let rows = power_law(4, 200, D, 1.0, 0.0);
    assert!(learn(&rows[..100 * D], 64).is_none(), "fewer rows than directions");
    assert!(learn(&rows, 65).is_none());
    assert!(learn(&vec![0.0; 200 * D], 64).is_none(), "rows without direction");
    // All in one direction: the others have no deviation, and no say.
    let line: Vec<f32> = (0..200 * D).map(|i| if i % D == 3 { 1.0 + (i / D) as f32 } else { 0.0 }).collect();
    let basis = learn(&line, 64).unwrap();
    let mut bits = Vec::new();
    let row = basis.project(&line[..D]);
    let weight = basis.weigh(&row, 1.0, &vec![0.0; basis.coordinates()], &mut bits);
    assert!(weight.factor.is_finite() && !weight.error.is_nan());
}

proptest! {
    /// Whatever floats a basis of the right length has: it is refused, or codes and queries are made with it without a panic or an
    /// endless loop, and no code claims to be exact.
    #[test]
    fn any_bytes_are_refused_or_serve(
        counts in (0usize..40, 0usize..40, 0usize..40),
        floats in proptest::collection::vec(prop_oneof![0f32..0.3, any::<u32>().prop_map(f32::from_bits)], 1..40),
        scale in prop_oneof![Just(1f32), any::<u32>().prop_map(f32::from_bits)],
        seed in any::<u64>(),
    ) {
        let counts = [16 * counts.0, 32 * counts.1, 64 * counts.2];
        let all: usize = counts.iter().sum();
        let d = all + 3;
        let mut random = SplitMix::new(seed);
        let mut bytes: Vec<u8> = counts.iter().flat_map(|count| (*count as u16).to_le_bytes()).collect();
        bytes.extend(floats[0].to_le_bytes());
        let mut floats = floats.iter().cycle().skip(1);
        (0..2 * all).for_each(|_| bytes.extend(floats.next().unwrap().to_le_bytes()));
        bytes.extend((0..all * d).map(|_| random.next_u64() as u8));
        prop_assert!(Basis::decode(d, &bytes[1..]).is_err());
        let Ok(encoder) = crate::Encoder::stored(crate::Metric::L2, d, 1, scale, Some(&bytes)) else { return Ok(()) };
        prop_assert!(encoder.bits() <= MOST_BITS);
        let row: Vec<f32> = (0..d).map(|_| random.normal()).collect();
        let mut code = crate::RowCode::default();
        encoder.encode(&row, &vec![0.0; d], &mut code);
        prop_assert!(code.is_saturated() || code.f_err.to_f32() > 0.0 || code.f_rescale.to_f32() == 0.0 || scale > 1e3);
        encoder.query(&row);
        encoder.query(&vec![0.0; d]);
    }
}
