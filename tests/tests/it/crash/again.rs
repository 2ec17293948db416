//! What enumeration leaves out: faults of several calls, also of those that put things right.

use super::enumerate::{Blame, Judge, observe, only, prepare, say};
use super::scenario::{Process, Scenario};
use esker_tests::fault::{Mode, Plan};

/// Processes that die one after the other before one gets through.
const DEATHS: u64 = 3;
/// Share of the calls that go wrong.
const PER_MILLE: u32 = 120;

/// Of `seeds` worlds each has its own faults: three processes in turn go wrong at random and die at some call, what they
/// left under way lands now or later; the fourth has no faults and must get everything done.
pub async fn again_and_again(scenario: &Scenario, seeds: u64) -> u64 {
    let (world, ledger, read) = prepare(scenario).await;
    let name = scenario.name.replace(' ', "-");
    let mut calls = 0;
    for seed in 1..=seeds {
        let label = format!("{name}/seed-{seed}");
        if only().is_some_and(|only| only != label) {
            continue;
        }
        let _blame = Blame::new(label, "random faults of three processes");
        let mut judge = Judge::new(&world, &ledger, &read);
        let observer = observe(&judge.world).await;
        let mut truth = None;
        for death in 1..=DEATHS {
            let draw = (seed * DEATHS + death).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
            let modes = [Mode::FailBefore, Mode::ApplyThenFail, Mode::ApplyLater, Mode::Empty409];
            let plan = Plan::none().seed(draw).jitter(2).random(PER_MILLE, &modes).kill_after(1 + draw % 48);
            let process = Process::new(&judge.world, plan, 100 * seed + death);
            // Whatever it says is noted and must be true.
            drop(scenario.run(&process, &judge.ledger, death > 1).await);
            calls += process.faults.call_count();
            if draw.is_multiple_of(3) {
                judge.world.land_late();
            }
            truth = judge.all(&[&observer], truth.as_ref()).await.or(truth);
        }
        let last = judge.process();
        let done = scenario.run(&last, &judge.ledger, true).await;
        done.unwrap_or_else(|e| panic!("it cannot be done again: {e}"));
        judge.world.land_late();
        let truth = judge.all(&[&observer, &last], truth.as_ref()).await;
        judge.check_done(scenario, truth.as_ref());
    }
    say(&format!("repeated crashes during {}: {seeds} seeds, {calls} calls", scenario.name));
    calls
}
