use super::*;

/// Rows whose estimate is their ordinal; every second may have been overwritten.
fn estimates(rows: u32, k: usize, err: f32) -> Estimates {
    let mut all = Estimates::new(Metric::L2, k);
    all.found = (0..rows)
        .map(|ordinal| Candidate {
            estimate: ordinal as f32,
            err,
            segment: 0,
            ordinal,
            chance: 1.0,
            check: 0,
            suspect: ordinal % 2 == 0,
            copied: false,
        })
        .collect();
    all
}

#[test]
fn chances_say_how_many_of_the_nearest_are_among_rows() {
    for err in [0.5, 5.0, 20.0] {
        let mut all = estimates(400, 10, err);
        all.found.retain(|c| !c.suspect);
        let cut = all.cut(10, 1.0, 20, 400);
        let expected = |rows: &[Candidate]| rows.iter().map(|c| c.chance).sum::<f64>();
        assert!((expected(&cut) - 10.0).abs() < 0.2, "{err}: {}", expected(&cut));
        let (likely, rest) = cut.split_at(12);
        assert!(expected(likely) > expected(rest) || err > 5.0, "{err}");
    }
}

#[test]
fn sure_rows_come_before_suspects_and_the_likeliest_first() {
    // Few rows, where all are taken, and many.
    for (rows, k) in [(6, 10), (400, 10)] {
        let cut = estimates(rows, k, 5.0).cut(k, 0.99, 2 * k, 50);
        let sure = cut.iter().take_while(|c| !c.suspect).count();
        assert!(cut.len() > sure && sure >= 3, "both kinds: {} of {}", sure, cut.len());
        assert!(cut[sure..].iter().all(|c| c.suspect), "suspects are last");
        for kind in [&cut[..sure], &cut[sure..]] {
            assert!(kind.is_sorted_by(|a, b| a.estimate <= b.estimate), "the likeliest first");
        }
    }
}

#[test]
fn rows_as_far_as_each_other_are_among_the_candidates() {
    // Codes without an error, as of one dimension.
    let mut all = estimates(120, 50, 0.0);
    all.found.iter_mut().for_each(|c| {
        c.suspect = false;
        c.estimate = if c.ordinal < 20 { 0.0 } else { 25.0 };
    });
    let most = |all: Estimates, most| all.cut(50, 0.995, 100, most).len();
    assert!(most(Estimates { found: all.found.clone(), ..estimates(0, 50, 0.0) }, 250) >= 100);
    assert_eq!(most(all, 110), 110);
}

#[test]
fn suspects_take_no_place_of_sure_rows() {
    let all = estimates(400, 10, 1.0).cut(10, 0.999, 20, 50);
    let sure: Vec<u32> = all.iter().filter(|c| !c.suspect).map(|c| c.ordinal).collect();
    assert!(sure.len() >= 20 && sure.is_sorted(), "{sure:?}");
    assert_eq!(sure[..10], [1, 3, 5, 7, 9, 11, 13, 15, 17, 19]);
}
