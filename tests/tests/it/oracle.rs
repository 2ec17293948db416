//! Random histories of a collection against an exact oracle that keeps every row in a map.
//!
//! After each write two readers look: one that has been there from the start, and one that knows nothing. Rows, counts and
//! SQL must be exactly the oracle's. A search must find exactly min(k, matches) rows, all of them live and
//! matching, with their true distance, in order; and the true nearest wherever every row that counts is measured: see
//! [`play::Play::measures_all`]. Elsewhere recall is what was asked for on average, not per query: the suite demands 0.9 over all
//! searches of a backend.

mod model;
mod play;
mod predicate;
mod reads;

use std::cell::RefCell;

use esker_format::schema::{Metric, Settings, VectorType};
use esker_store::{Backend, Location, StoreEnv};
use esker_tests::s3::{S3Options, S3Server};
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, RngSeed, TestRunner};

use play::{Op, Play, Step, Tally};

/// Which histories are played.
const SEED: u64 = 1;

/// A collection and what happens to it.
#[derive(Debug, Clone)]
struct Case {
    settings: Settings,
    /// Ids that are written; a fraction of the rows, so that most writes replace.
    ids: usize,
    seed: u64,
    steps: Vec<Step>,
}

fn cases(most_rows: usize) -> impl Strategy<Value = Case> {
    let metric = prop_oneof![Just(Metric::Cosine), Just(Metric::L2), Just(Metric::Dot)];
    let vector_type = prop_oneof![3 => Just(VectorType::F32), 1 => Just(VectorType::F16)];
    let settings = (1u32..=16, metric, vector_type).prop_map(|(dimension, metric, vector_type)| Settings {
        dimension,
        metric,
        vector_type,
    });
    let ids = prop_oneof![Just(most_rows / 20), Just(most_rows / 4), Just(most_rows)];
    // Most start with a segment that is large enough to stay beside later ones, some with three.
    let layers = [most_rows, most_rows / 10, most_rows / 50];
    let layer = |(rows, seed): (usize, u64)| {
        let seeded = |op, seed| Step { op, seed };
        [seeded(Op::Upsert { rows: rows.max(1) }, seed), seeded(Op::Compact, !seed)]
    };
    let first = (prop_oneof![1 => 0..1usize, 3 => 1..4usize], any::<[u64; 3]>())
        .prop_map(move |(count, seeds)| layers.into_iter().zip(seeds).take(count).flat_map(layer).collect());
    let steps = (first, prop::collection::vec(steps(most_rows), 4..14));
    (settings, ids, any::<u64>(), steps).prop_map(
        |(settings, ids, seed, (first, steps)): (_, _, _, (Vec<Step>, _))| Case {
            settings,
            ids,
            seed,
            steps: [first, steps].concat(),
        },
    )
}

fn steps(most_rows: usize) -> impl Strategy<Value = Step> {
    let op = prop_oneof![
        5 => (1..most_rows / 12).prop_map(|rows| Op::Upsert { rows }),
        2 => (most_rows / 4..most_rows / 2).prop_map(|rows| Op::Upsert { rows }),
        3 => (1..20usize).prop_map(|ids| Op::Delete { ids }),
        1 => (20..most_rows / 3).prop_map(|ids| Op::Delete { ids }),
        1 => (0..8usize).prop_map(|which| Op::Again { which }),
        4 => Just(Op::Compact),
        2 => (1..9i64).prop_map(|minutes| Op::Wait { minutes }),
        1 => Just(Op::Warm),
    ];
    (op, any::<u64>()).prop_map(|(op, seed)| Step { op, seed })
}

#[expect(clippy::disallowed_macros, clippy::print_stderr, reason = "a test says what it ran")]
fn say(line: &str) {
    eprintln!("{line}");
}

/// `ORACLE_HISTORIES` times as many histories, drawn from `ORACLE_SEED`.
#[expect(clippy::disallowed_methods, reason = "how to look further than a test run can afford")]
fn knob(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Plays `count` histories, each on an empty store.
fn play(name: &str, count: u32, most_rows: usize, mut backend: impl FnMut() -> Backend) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let tally = RefCell::new(Tally::default());
    let backend = RefCell::new(&mut backend);
    let regressions =
        FileFailurePersistence::Direct(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/oracle/regressions"));
    let mut runner = TestRunner::new(Config {
        cases: count * knob("ORACLE_HISTORIES").unwrap_or(1) as u32,
        max_shrink_iters: 300,
        rng_seed: RngSeed::Fixed(knob("ORACLE_SEED").unwrap_or(SEED)),
        failure_persistence: Some(Box::new(regressions)),
        ..Config::default()
    });
    let played = runner.run(&cases(most_rows), |case| {
        let fresh = (backend.borrow_mut())();
        let seen = runtime.block_on(async {
            let mut play = Play::new(fresh, case.settings, case.ids, case.seed).await;
            for step in &case.steps {
                play.step(step).await;
            }
            Tally { histories: 1, ..play.tally }
        });
        tally.borrow_mut().add(&seen);
        Ok(())
    });
    if let Err(e) = played {
        panic!("{name}: {e}");
    }
    let tally = tally.into_inner();
    say(&format!("oracle on {name}: {tally}"));
    assert!(tally.recall() >= 0.9, "{tally}");
}

#[test]
fn in_memory() {
    play("memory", 24, 600, || esker_store::open(&Location::Memory, &StoreEnv::new(), true).unwrap());
}

#[test]
fn in_a_directory() {
    let mut kept = Vec::new();
    play("a directory", 8, 200, || {
        let directory = tempfile::tempdir().unwrap();
        let location = Location::Directory(directory.path().to_owned());
        kept.push(directory);
        esker_store::open(&location, &StoreEnv::new(), true).unwrap()
    });
}

#[test]
fn on_s3() {
    let server = S3Server::start(S3Options::default()).unwrap();
    let env: StoreEnv = server.env().into_iter().collect();
    let mut histories = 0;
    play("S3", 4, 200, || {
        histories += 1;
        let location = Location::parse(&server.url(&format!("history-{histories}"))).unwrap();
        esker_store::open(&location, &env, true).unwrap()
    });
}
