//! The simulator: the same seed is the same history, seeds hold every invariant, and what is broken on purpose is found.

use esker_tests::sim::{Settings, Weakening, regression_seeds, run};

fn plays(seed: u64) -> esker_tests::sim::Report {
    run(seed, &Settings::default()).unwrap_or_else(|failure| panic!("{failure}"))
}

#[test]
fn a_seed_is_a_history() {
    for seed in [3, 17, 40] {
        let first = plays(seed);
        assert_eq!(first, plays(seed), "seed {seed} was played twice");
        assert_ne!(first.hash, plays(seed + 1).hash);
    }
}

#[test]
fn seeds_that_found_something_once_hold() {
    let seeds = regression_seeds();
    assert!(!seeds.is_empty());
    seeds.into_iter().for_each(|seed| drop(plays(seed)));
}

#[test]
fn seeds_hold() {
    let mut total = esker_tests::sim::Report::default();
    (0..40).for_each(|seed| total.add(&plays(seed)));
    let least =
        total.acknowledged > 1_000 && total.reads > 1_500 && total.folds > 100 && total.collected > 200;
    assert!(least && total.crashed > 50 && total.frozen > 50, "{total}");
}

/// Each is found by one of this many seeds, from 0 on; and by one of so many when only what clients were told is looked at,
/// where that is little enough for a test.
const WITHIN: &[(Weakening, u64, u64)] = &[
    (Weakening::CreateReplaces, 5, 5),
    (Weakening::TwoWinners, 5, 5),
    (Weakening::LostPut, 5, 5),
    (Weakening::StaleList, 5, 5),
    (Weakening::BlindReader, 5, 10),
    (Weakening::BlindWriter, 20, 0),
    (Weakening::DeleteBeforeFloor, 5, 50),
    (Weakening::PinsUnseen, 10, 10),
    (Weakening::SlotUnseen, 5, 5),
    (Weakening::FalseOffer, 5, 0),
];

#[test]
fn what_is_broken_on_purpose_is_found() {
    assert_eq!(WITHIN.len(), Weakening::ALL.len());
    for (weakening, within, by_clients) in WITHIN {
        for (clients_only, seeds) in [(false, *within), (true, *by_clients)] {
            let settings = Settings { weakening: Some(*weakening), clients_only, ..Settings::default() };
            let found = (0..seeds).find_map(|seed| run(seed, &settings).err());
            assert!(found.is_some() || seeds == 0, "{weakening:?} goes unnoticed for {seeds} seeds");
        }
    }
}
