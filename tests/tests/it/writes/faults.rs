//! The store fails, stalls, or does what it was asked later than it says.

use super::*;
use esker_format::Kind;
use esker_tests::fault::{CallKind, Mode};
use futures::FutureExt;
use std::time::Duration;

const MODES: [Mode; 5] =
    [Mode::FailBefore, Mode::ApplyThenFail, Mode::ApplyLater, Mode::Empty409, Mode::Stall];
/// A client's time out is no shorter: gateways answer for us after it.
const IN_TIME: Duration = Duration::from_secs(30);

/// How often the log has a record.
async fn copies(process: &Process, id: &str) -> usize {
    let snapshot = process.open().await.snapshot(&Meter::new()).await.unwrap();
    let ids = snapshot.tail.iter().flat_map(|e| e.entry.blocks.clone());
    ids.flat_map(|b| esker_format::avro::ids(&b.data).map(|id| id.unwrap().to_owned()).collect::<Vec<_>>())
        .filter(|other| other == id)
        .count()
}

/// A write under `token`, its answer, and how long it took.
async fn timed(process: &Process, condition: Condition) -> (Result<Ack>, Duration) {
    let clock = process.store.client().seams().clock.clone();
    let start = clock.elapsed();
    let done = process.put(record("x", 2), Some(Token(7)), condition).await;
    (done, clock.elapsed() - start)
}

#[tokio::test(start_paused = true)]
async fn every_call_of_a_conditional_write_may_fail() {
    for (condition, before) in
        [(Condition::IfAbsent, None), (Condition::IfVersion(1), Some(1)), (Condition::None, None)]
    {
        for mode in MODES {
            let mut number = 1;
            loop {
                let world = World::new();
                let first = Process::create(&world).await;
                if let Some(version) = before {
                    first.put(record("x", version), None, Condition::None).await.unwrap();
                }
                let what = format!("{condition:?}, {mode:?} of call {number}");
                let process = Process::new(&world, Plan::none().at(number, mode), 50);
                let (done, took) = timed(&process, condition).await;
                assert!(took < IN_TIME, "{what}: {took:?}");
                if process.faults.call_count() < number {
                    break;
                }
                if let Err(e) = &done {
                    assert!(matches!(e.kind(), Kind::Unknown | Kind::Unavailable), "{what}: {e}");
                    assert!(e.kind() != Kind::Unknown || e.token() == Some(Token(7)), "{what}: {e}");
                }
                world.land_late();
                // Whoever tries again with the token learns the truth, from anywhere.
                let (again, _) = timed(&Process::new(&world, Plan::none(), 60), condition).await;
                let again = again.unwrap_or_else(|e| panic!("{what}: {e}"));
                if let Ok(ack) = &done {
                    assert_eq!((again.position, again.duplicate), (ack.position, true), "{what}");
                }
                assert_eq!(copies(&first, "x").await, 1 + before.iter().len(), "{what}");
                assert_eq!(first.get("x").await.unwrap().version, 2, "{what}");
                number += 1;
            }
            assert!(number > 3, "{condition:?}, {mode:?}: {number} calls");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_stops_answering_is_answered_for_in_time() {
    for condition in [Condition::None, Condition::IfAbsent] {
        for from in 1..12 {
            let world = World::new();
            let first = Process::create(&world).await;
            first.put(record("y", 1), None, Condition::None).await.unwrap();
            let plan = (from..from + 300).fold(Plan::none(), |plan, n| plan.at(n, Mode::Stall));
            let process = Process::new(&world, plan, 50);
            let (done, took) = timed(&process, condition).await;
            let calls = process.faults.calls();
            let put = calls.iter().any(|c| c.kind == CallKind::Create && c.key.contains("/wal/"));
            let what = format!("{condition:?} from call {from}");
            match done {
                Ok(_) => assert!(took < Duration::from_secs(2), "{what}"),
                Err(e) => {
                    assert!(took <= IN_TIME, "{what}: {took:?}");
                    let kind = if put { Kind::Unknown } else { Kind::Unavailable };
                    assert_eq!(e.kind(), kind, "{what}: {e}");
                    assert!(!put || e.token() == Some(Token(7)), "{what}: {e}");
                }
            }
        }
    }
}

/// A request that is cancelled after any number of polls: its process goes on, and its token tells what became of it.
#[tokio::test(start_paused = true)]
async fn a_write_may_be_dropped_at_every_poll() {
    for condition in [Condition::None, Condition::IfAbsent] {
        let mut polls = 0;
        loop {
            let world = World::new();
            let first = Process::create(&world).await;
            let process = Process::new(&world, Plan::none(), 50);
            let mut write = Box::pin(process.put(record("x", 2), Some(Token(7)), condition));
            let mut beside =
                process.put(record("y", 2), Some(Token(8)), Condition::None).boxed_local().fuse();
            let mut ended = false;
            for _ in 0..polls {
                let _ = futures::poll!(&mut beside);
                if let std::task::Poll::Ready(done) = futures::poll!(write.as_mut()) {
                    done.unwrap();
                    ended = true;
                    break;
                }
                tokio::task::yield_now().await;
            }
            drop(write);
            drop(beside);
            process.put(record("z", 1), None, Condition::None).await.unwrap();
            let before = copies(&first, "x").await;
            assert!(before == 1 || !ended, "{condition:?}, {polls} polls: acknowledged and lost");
            let (again, _) = timed(&process, condition).await;
            assert_eq!(again.unwrap().duplicate, before == 1, "{condition:?}, {polls} polls");
            assert_eq!(copies(&first, "x").await, 1, "{condition:?}, {polls} polls");
            if ended {
                break;
            }
            polls += 1;
        }
        assert!(polls > 5, "{polls} polls");
    }
}
