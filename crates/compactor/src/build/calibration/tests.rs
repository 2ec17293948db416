use super::*;

/// Needs of `count` neighbours with margins 1, 2, … and what `of` says of the others, by number from 1.
fn needs(count: usize, of: impl Fn(usize) -> (f32, u32)) -> Vec<Need> {
    let need = |i: usize| Need { margin: i as f32, reach: of(i).0, rank: of(i).1 };
    (1..=count).map(need).collect()
}

#[test]
fn how_far_to_probe_is_a_quantile_and_a_standard_error_whatever_is_reranked() {
    // 100 queries: √(.9 · .1 / 100) = .03, and .014 at .98. Shares are f32, and these two a little more than they say.
    for rank in [1, 1000] {
        let needs = needs(1000, |_| (0.0, rank));
        let found = RECALLS.map(|r| limits(&needs, r).b);
        assert_eq!(found, [931.0, 972.0, 995.0, 1000.0]);
    }
    // Of few queries all that they need, and without any there is no limit.
    assert_eq!(limits(&needs(20, |_| (0.0, 1)), 0.9).b, 20.0);
    assert_eq!(limits(&[], 0.9).b, f32::INFINITY);
}

#[test]
fn cold_limits_are_met_by_the_same_neighbours() {
    // Every twentieth lies far, and as many are far down by estimate: both limits at .95 would lose a tenth.
    let of = |i: usize| match i % 20 {
        0 => (i as f32, 1),
        1 => (0.0, 20 + i as u32),
        _ => (0.0, 1),
    };
    let needs = needs(1000, of);
    let found = limits(&needs, 0.95);
    let met = needs.iter().filter(|n| n.reach <= found.delta && n.rank <= found.rerank).count();
    assert!((950..960).contains(&met), "{met}");
    // Where one of them loses nobody, the other is its own quantile.
    let found = limits(&needs.iter().map(|n| Need { rank: 1, ..*n }).collect::<Vec<_>>(), 0.98);
    assert_eq!((found.delta, found.rerank), (620.0, LEAST_RERANK));
}
