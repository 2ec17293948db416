//! Crashes at every call (STYLE §4): a scenario's calls are counted; then each of them in turn goes wrong in each way,
//! and its process goes on, is cut off, or stops there; others look, everything is done again, and INV-1 to INV-7 and
//! INV-9 are checked over the stored bytes and over what every client was told. What a collection deletes is in the world's history.

mod again;
mod collect;
mod damage;
mod enumerate;
mod scenario;

use again::again_and_again;
use enumerate::{enumerate, only, say};
use esker_tests::truth::{self, ledger};
use scenario::Scenario;

async fn all_of(scenario: Scenario) {
    let count = enumerate(&scenario).await;
    say(&format!("crashes during {}: {} calls, {} cases", scenario.name, count.calls, count.cases));
    let most = count.calls * 11;
    assert!(only().is_some() || count.cases >= most, "{}: only {} cases", scenario.name, count.cases);
    assert!(count.calls >= scenario.least_calls, "{}: only {} calls", scenario.name, count.calls);
}

#[tokio::test(start_paused = true)]
async fn during_a_first_write() {
    all_of(scenario::first_write()).await;
}

#[tokio::test(start_paused = true)]
async fn during_a_group_commit() {
    all_of(scenario::group_commit()).await;
}

#[tokio::test(start_paused = true)]
async fn during_a_race() {
    all_of(scenario::race()).await;
}

#[tokio::test(start_paused = true)]
async fn during_an_append_with_body() {
    all_of(scenario::body()).await;
}

#[tokio::test(start_paused = true)]
async fn during_an_alter() {
    all_of(scenario::alter()).await;
}

#[tokio::test(start_paused = true)]
async fn during_a_publish() {
    all_of(scenario::publish()).await;
}

#[tokio::test(start_paused = true)]
async fn during_a_publish_with_a_merge() {
    all_of(scenario::merge()).await;
}

#[tokio::test(start_paused = true)]
async fn during_a_drop() {
    all_of(scenario::end()).await;
}

#[tokio::test(start_paused = true)]
async fn during_an_import() {
    all_of(scenario::file()).await;
}

#[tokio::test(start_paused = true)]
async fn during_a_collection() {
    all_of(scenario::collection()).await;
}

#[tokio::test(start_paused = true)]
async fn during_a_collection_of_a_dropped_collection() {
    all_of(scenario::collection_of_dropped()).await;
}

/// Several faults, and crashes of what puts things right.
#[tokio::test(start_paused = true)]
async fn again_and_again_while_it_is_put_right() {
    for scenario in [
        scenario::first_write(),
        scenario::group_commit(),
        scenario::race(),
        scenario::alter(),
        scenario::merge(),
        scenario::rival_compactors(),
        scenario::rival_collectors(),
        scenario::end(),
    ] {
        let calls = again_and_again(&scenario, 20).await;
        assert!(only().is_some() || calls > 200, "{}: only {calls} calls", scenario.name);
    }
}
