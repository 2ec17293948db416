//! The storage protocol holds in every state within a bound, and each weakening of it does harm that is seen.

use esker_tests::model::{Inbox, InboxWeakening, Protocol, Weakening};
use stateright::{Checker, HasDiscoveries, Model};

fn holds(protocol: Protocol) {
    let checker = protocol.checker().threads(2).spawn_bfs().join();
    // What must always hold does, and what must be possible happened.
    checker.assert_properties();
}

#[test]
fn appends_publishes_and_a_collection_hold() {
    holds(Protocol::small_log());
}

#[test]
fn cold_reads_hold() {
    holds(Protocol::small_read());
}

#[test]
fn bodies_hold() {
    for protocol in [Protocol::small_bodies(), Protocol::small_reach()] {
        let checker = protocol.checker().threads(2).spawn_bfs().join();
        let broken: Vec<_> =
            checker.discoveries().into_keys().filter(|name| name.starts_with("INV")).collect();
        assert_eq!(broken, [] as [&str; 0]);
    }
}

/// Explores until `weakening` breaks an invariant; the invariant's number.
fn caught(weakening: Weakening) -> Option<String> {
    let checker = Protocol::weakened(weakening)
        .checker()
        .threads(1)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let broken: Vec<_> = checker.discoveries().into_keys().filter(|name| name.starts_with("INV")).collect();
    broken.first().and_then(|name| name.split_whitespace().next()).map(str::to_owned)
}

macro_rules! caught {
    ($($test:ident: $weakening:ident by $invariants:expr;)*) => {$(
        #[test]
        fn $test() {
            let invariant = caught(Weakening::$weakening);
            assert!(invariant.as_deref().is_some_and(|found| $invariants.contains(&found)), "{invariant:?}");
        }
    )*};
}

caught! {
    no_floor_check_is_caught: NoFloorCheck by ["INV-1", "INV-7", "INV-8"];
    no_read_back_is_caught: NoReadBack by ["INV-1", "INV-2"];
    read_back_without_floor_check_is_caught: ReadBackWithoutFloorCheck by ["INV-1", "INV-7", "INV-8"];
    absent_takes_next_slot_is_caught: AbsentTakesNextSlot by ["INV-1", "INV-2"];
    delete_before_floor_is_caught: DeleteBeforeFloor by ["INV-1", "INV-7", "INV-8"];
    no_reader_probe_is_caught: NoReaderProbe by ["INV-1"];
    no_tail_etag_is_caught: NoTailETag by ["INV-1", "INV-8"];
    unnamed_bodies_are_caught: UnnamedBodies by ["INV-3"];
}

#[test]
fn all_eight_weakenings_are_tested() {
    assert_eq!(Weakening::ALL.len(), 8);
}

#[test]
fn combined_appends_hold() {
    let small = [Inbox::small_faults(), Inbox::small_three(), Inbox::small_retry(), Inbox::small_floors()];
    for model in small {
        model.checker().threads(2).spawn_bfs().join().assert_properties();
    }
}

#[test]
fn weakened_combining_is_caught() {
    for weakening in InboxWeakening::ALL {
        let checker = Inbox::weakened(weakening)
            .checker()
            .threads(1)
            .finish_when(HasDiscoveries::AnyFailures)
            .spawn_bfs()
            .join();
        let broken: Vec<_> =
            checker.discoveries().into_keys().filter(|name| name.starts_with("INV")).collect();
        assert!(
            !broken.is_empty(),
            "{weakening:?} goes unnoticed in {} states",
            checker.unique_state_count()
        );
    }
}
