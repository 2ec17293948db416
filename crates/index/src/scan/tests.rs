use super::*;
use crate::tests::{Segment, mixture, power_law};
use crate::{Exact, group_bytes, pack_group, unpack_group};

struct Errors {
    count: f64,
    inside: f64,
    bias: f64,
    spread: f64,
    square: f64,
}

/// Compares every estimate with the exact rankable distance.
fn errors(segment: &Segment, queries: &[f32]) -> Errors {
    let mut errors = Errors { count: 0.0, inside: 0.0, bias: 0.0, spread: 0.0, square: 0.0 };
    for query in queries.chunks_exact(segment.d) {
        let coded = segment.query(query);
        let exact = Exact::new(segment.metric, query);
        let runs = segment.runs(&coded, query, segment.centroids.leaves());
        let mut next = 0;
        coded.scan(segment.codes(), &runs, |_| u32::MAX, Bound::NONE, &mut |posting, estimate, err| {
            assert_eq!(posting, next, "in order, none left out");
            next += 1;
            let off = estimate - segment.metric.rankable(exact.f32(segment.row(posting)));
            errors.count += 1.0;
            errors.inside += f64::from(u8::from(off.abs() <= 1.9 * err));
            errors.bias += f64::from(off / err);
            errors.spread += f64::from(off / err).powi(2);
            errors.square += f64::from(off).powi(2);
            f32::INFINITY
        });
        assert_eq!(next, segment.rows.len() / segment.d);
    }
    errors
}

#[test]
fn tables_of_next_to_nothing_are_finite() {
    for tiny in [1e-45f32, 1e-40, 1e-38, 1e-36, 1e-30] {
        let mut rotated = vec![0.0; 64];
        (rotated[0], rotated[7]) = (tiny, -tiny);
        let tables = tables(&rotated, 0.125, 1.0);
        assert!(tables.step.is_finite() && tables.bias.is_finite() && tables.step > 0.0, "{tiny:e}");
        assert!(tables.bias.abs() <= 3.0 * tiny, "{tiny:e}: {}", tables.bias);
        assert!(tables.noise <= 1e-36f32.max(tiny), "{tiny:e}: {}", tables.noise);
        for rest in [0.0, tiny] {
            let sums: Vec<[f32; 16]> = (0..32)
                .map(|table| std::array::from_fn(|v| if table < 8 { v as f32 * tiny } else { rest }))
                .collect();
            let tables = stepped_tables(&sums, 1.0, 1.0);
            assert!(tables.step.is_finite() && tables.step > 0.0 && tables.noise.is_finite(), "{tiny:e}");
            assert!(tables.noise > 0.0 || tiny < 1e-30, "{tiny:e}");
            assert!(
                (tables.bias - 24.0 * rest).abs() <= 1e-36f32.max(100.0 * tiny),
                "{tiny:e}: {}",
                tables.bias
            );
        }
    }
}

#[test]
fn estimates_are_unbiased_and_within_their_error() {
    for (d, offset) in [(384, 0.0), (100, 0.0), (64, 3.0), (24, 0.0)] {
        let all = mixture(7, 2_020, d, 16, offset);
        let (data, queries) = all.split_at(2_000 * d);
        for metric in [Metric::Cosine, Metric::L2, Metric::Dot] {
            let segment = Segment::build(metric, d, data, 64, 8);
            let errors = errors(&segment, queries);
            let inside = errors.inside / errors.count;
            assert!(inside >= 0.98, "{metric} {d}: {inside} inside");
            let bias = errors.bias / errors.count;
            assert!(bias.abs() < 0.05, "{metric} {d}: bias of {bias} err");
            let spread = (errors.spread / errors.count).sqrt();
            assert!((0.5..0.95).contains(&spread), "{metric} {d}: spread of {spread} err");
        }
    }
}

#[test]
fn learned_codes_of_half_the_bits_err_less() {
    let d = 128;
    for (a, offset) in [(1.2, 0.0), (1.5, 0.2)] {
        let all = power_law(7, 6_020, d, a, offset);
        let (data, queries) = all.split_at(6_000 * d);
        for metric in [Metric::Cosine, Metric::L2, Metric::Dot] {
            let learned = Segment::learned(metric, d, data, 64, d / 2);
            let found = errors(&learned, queries);
            let inside = found.inside / found.count;
            assert!(inside >= 0.97, "{metric} {a}: {inside} inside");
            let bias = found.bias / found.count;
            assert!(bias.abs() < 0.1, "{metric} {a}: bias of {bias} err");
            let spread = (found.spread / found.count).sqrt();
            assert!((0.5..1.0).contains(&spread), "{metric} {a}: spread of {spread} err");
            let random = errors(&Segment::build(metric, d, data, 64, 8), queries);
            let ratio = (found.square / found.count).sqrt() / (random.square / random.count).sqrt();
            assert!(ratio < 0.9, "{metric} {a}: {ratio} of the errors of a bit per dimension");
        }
    }
}

#[test]
fn queries_unlike_the_rows_are_doubted() {
    let d = 128;
    let data = power_law(7, 6_000, d, 1.2, 0.0);
    let mut random = crate::SplitMix::new(5);
    let queries: Vec<f32> = (0..30 * d).map(|_| random.normal()).collect();
    for metric in [Metric::Cosine, Metric::L2, Metric::Dot] {
        let segment = Segment::learned(metric, d, &data, 64, d / 2);
        let found = errors(&segment, &queries);
        let inside = found.inside / found.count;
        assert!(inside >= 0.96, "{metric}: {inside} inside");
        let spread = (found.spread / found.count).sqrt();
        assert!((0.4..1.1).contains(&spread), "{metric}: spread of {spread} err");
    }
}

#[test]
fn what_a_basis_does_not_see_is_doubted() {
    let (d, seen) = (128, 60);
    let mut random = crate::SplitMix::new(6);
    let mut rows = |from: usize, to: usize, n: usize| -> Vec<f32> {
        let mut value = |j: usize| if (from..to).contains(&j) { random.normal() } else { 0.0 };
        (0..n * d).map(|i| value(i % d)).collect()
    };
    // Learned from rows that have nothing in the last directions; the others and the queries lie there, too.
    let learned = Segment::learned(Metric::L2, d, &rows(0, seen, 4_000), 64, d / 2).encoder;
    let (others, queries) = (rows(0, d, 500), rows(0, d, 20));
    let centroid = vec![0.0; d];
    let codes: Vec<_> = others
        .chunks_exact(d)
        .map(|row| {
            let mut code = crate::RowCode::default();
            learned.encode(row, &centroid, &mut code);
            code
        })
        .collect();
    let mut groups = Vec::new();
    codes.chunks(GROUP).for_each(|group| pack_group(group, learned.bits(), &mut groups));
    let (mut inside, mut count) = (0, 0);
    for query in queries.chunks_exact(d) {
        let exact = Exact::new(Metric::L2, query);
        let asked = learned.query_near(query, &centroid);
        let term = asked.term(-(crate::sums::norm(query) as f32), 0.0);
        let codes = Codes { groups: &groups, first_group: 0, beside: 0 };
        let run = Run { first: 0, end: 500, term };
        asked.scan(codes, &[run], |_| u32::MAX, Bound::NONE, &mut |posting, estimate, err| {
            let off = estimate - Metric::L2.rankable(exact.f32(&others[posting * d..][..d]));
            count += 1;
            inside += usize::from(off.abs() <= 1.9 * err);
            f32::INFINITY
        });
    }
    assert!(count == 10_000 && inside >= 9_500, "{inside} of {count} inside");
}

fn small() -> (Segment, Vec<f32>) {
    let d = 48;
    let all = mixture(8, 901, d, 10, 0.0);
    let (data, query) = all.split_at(900 * d);
    (Segment::build(Metric::Cosine, d, data, 32, 8), query.to_vec())
}

/// What a scan emits, with a fixed threshold.
fn emitted(
    segment: &Segment,
    query: &[f32],
    codes: Codes<'_>,
    runs: &[Run],
    mask: impl Fn(usize) -> u32,
    bound: Bound,
) -> Vec<(usize, f32, f32)> {
    let mut emitted = Vec::new();
    segment.query(query).scan(codes, runs, mask, bound, &mut |posting, estimate, err| {
        emitted.push((posting, estimate, err));
        bound.threshold
    });
    emitted
}

#[test]
fn runs_masks_and_bounds_select_from_the_same_estimates() {
    let (segment, query) = small();
    let coded = segment.query(&query);
    let runs = segment.runs(&coded, &query, segment.centroids.leaves());
    let all = emitted(&segment, &query, segment.codes(), &runs, |_| u32::MAX, Bound::NONE);
    assert_eq!(all.len(), 900);

    let some: Vec<Run> = runs.iter().copied().step_by(3).collect();
    let inside = |posting: usize| some.iter().any(|run| (run.first..run.end).contains(&posting));
    let expected: Vec<_> = all.iter().copied().filter(|(posting, ..)| inside(*posting)).collect();
    assert_eq!(emitted(&segment, &query, segment.codes(), &some, |_| u32::MAX, Bound::NONE), expected);

    let mask = |group: usize| if group.is_multiple_of(3) { 0 } else { 0xF0F0_1234 };
    let expected: Vec<_> =
        all.iter().copied().filter(|(posting, ..)| mask(posting / 32) >> (posting % 32) & 1 == 1).collect();
    assert_eq!(emitted(&segment, &query, segment.codes(), &runs, mask, Bound::NONE), expected);

    let bound = Bound { threshold: all[450].1, slack: 1.9 };
    let expected: Vec<_> =
        all.iter().copied().filter(|(_, estimate, err)| estimate - 1.9 * err < bound.threshold).collect();
    let found = emitted(&segment, &query, segment.codes(), &runs, |_| u32::MAX, bound);
    assert!(
        found.len().abs_diff(expected.len()) <= 1 && found.len() < 900,
        "{} {}",
        found.len(),
        expected.len()
    );
}

#[test]
fn a_part_of_the_codes_gives_the_part_of_the_answers() {
    let (segment, query) = small();
    let coded = segment.query(&query);
    let runs = segment.runs(&coded, &query, segment.centroids.leaves());
    let all = emitted(&segment, &query, segment.codes(), &runs, |_| u32::MAX, Bound::NONE);
    let bytes = group_bytes(segment.d);
    let part = Codes { groups: &segment.groups[5 * bytes..9 * bytes + 10], first_group: 5, beside: 0 };
    let found = emitted(&segment, &query, part, &runs, |_| u32::MAX, Bound::NONE);
    assert_eq!(found, all[5 * 32..9 * 32]);
    let empty = Run { first: 200, end: 200, term: LeafTerm::default() };
    let with_empty = [&[empty], &runs[..]].concat();
    let mut sorted = with_empty;
    sorted.sort_by_key(|run| run.first);
    assert_eq!(emitted(&segment, &query, part, &sorted, |_| u32::MAX, Bound::NONE), found);
    assert!(
        emitted(
            &segment,
            &query,
            Codes { groups: &[], first_group: 0, beside: 0 },
            &runs,
            |_| 1,
            Bound::NONE
        )
        .is_empty()
    );
}

#[test]
fn the_threshold_follows_the_caller() {
    let (segment, query) = small();
    let coded = segment.query(&query);
    let runs = segment.runs(&coded, &query, segment.centroids.leaves());
    let mut count = 0;
    coded.scan(segment.codes(), &runs, |_| u32::MAX, Bound::NONE, &mut |_, _, _| {
        count += 1;
        f32::NEG_INFINITY
    });
    assert_eq!(count, 1);
}

#[test]
fn saturated_rows_are_emitted_whatever_the_bound_and_absent_ones_never() {
    let (mut segment, query) = small();
    let bytes = group_bytes(segment.d);
    let mut rows = unpack_group(&segment.groups[..bytes], segment.d);
    (rows[3].f_add, rows[3].f_rescale, rows[3].f_err) =
        (half::f16::ZERO, half::f16::ZERO, half::f16::INFINITY);
    let mut group = Vec::new();
    pack_group(&rows[..20], segment.d, &mut group);
    segment.groups = group;
    for error in [0.0, 1.0] {
        let term = segment.query(&query).term(if error == 0.0 { 1.0 } else { 0.2 }, 1.0);
        let run = [Run { first: 0, end: 32, term }];
        let found = emitted(
            &segment,
            &query,
            segment.codes(),
            &run,
            |_| u32::MAX,
            Bound { threshold: -9.0, slack: 0.0 },
        );
        assert_eq!(found, [(3, f32::NEG_INFINITY, f32::INFINITY)]);
        assert_eq!(emitted(&segment, &query, segment.codes(), &run, |_| u32::MAX, Bound::NONE).len(), 20);
    }
}

#[test]
fn a_query_at_a_centroid_or_at_zero_has_finite_estimates() {
    let (segment, _) = small();
    let mut centroid = vec![0.0; segment.d];
    segment.centroids.dequantised(0, &mut centroid);
    for metric in [Metric::Cosine, Metric::L2, Metric::Dot] {
        let data = &segment.rows;
        let other = Segment::build(metric, segment.d, data, 32, 8);
        for query in [centroid.clone(), vec![0.0; segment.d]] {
            let coded = other.query(&query);
            let runs = other.runs(&coded, &query, other.centroids.leaves());
            let found = emitted(&other, &query, other.codes(), &runs, |_| u32::MAX, Bound::NONE);
            assert_eq!(found.len(), 900);
            assert!(found.iter().all(|(_, estimate, err)| estimate.is_finite() && err.is_finite()));
        }
    }
}
