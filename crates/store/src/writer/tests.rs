use std::sync::Arc;

use esker_format::manifest::{Floors, Recent};
use esker_format::register::{Change, Publish};
use esker_format::{Content, Kind, SetHash, Token};

use super::*;
use crate::collection::tests::{Fault, World, delete, given, ids, upsert};
use crate::meter::{Meter, Method};

#[tokio::test(start_paused = true)]
async fn a_warm_append_is_one_put_and_one_get() {
    let (_world, _store, notes) = World::with_collection().await;
    let first = notes.append(&Meter::new(), upsert(1, &["a"])).await.unwrap();
    assert_eq!(first, Appended { position: 1, rows: 1, repeated: false });
    let meter = Meter::recording();
    let second = notes.append(&meter, upsert(2, &["b", "c"])).await.unwrap();
    assert_eq!((second.position, second.rows), (2, 2));
    let io = meter.io();
    assert_eq!((io.puts, io.gets, io.lists, io.waves), (1, 1, 0, 2));
    assert_eq!(meter.requests()[0].method, Method::Create);
}

#[tokio::test(start_paused = true)]
async fn a_cold_append_lists_once() {
    let (world, _store, notes) = World::with_collection().await;
    notes.append(&Meter::new(), upsert(1, &["a"])).await.unwrap();
    let cold = Collection::new(notes.client().clone(), notes.id().clone());
    let meter = Meter::new();
    assert_eq!(cold.append(&meter, upsert(2, &["b"])).await.unwrap().position, 2);
    let io = meter.io();
    assert_eq!((io.lists, io.waves), (1, 3));
    assert_eq!(ids(&world.reopen(3).await.snapshot(&Meter::new()).await.unwrap()), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn callers_that_wait_together_share_an_entry() {
    let (_world, _store, notes) = World::with_collection().await;
    let meter = Meter::new();
    let appends =
        (1..=20u128).map(|n| notes.append(&meter, PendingBatch { given: n % 2 == 1, ..upsert(n, &["x"]) }));
    let done: Vec<_> = futures::future::try_join_all(appends).await.unwrap();
    let last = done.iter().map(|a| a.position).max().unwrap();
    assert_eq!(last, 1, "entries");
    let snapshot = notes.snapshot(&meter).await.unwrap();
    assert_eq!(ids(&snapshot).len(), 20);
}

#[tokio::test(start_paused = true)]
async fn rivals_all_find_a_slot() {
    let (world, _store, a) = World::with_collection().await;
    let (b, c) = (world.reopen(2).await, world.reopen(3).await);
    let meter = Meter::new();
    let mut last = 0;
    for round in 0..10u128 {
        let (x, y, z) = futures::join!(
            a.append(&meter, upsert(round * 3 + 1, &["a"])),
            b.append(&meter, upsert(round * 3 + 2, &["b"])),
            c.append(&meter, upsert(round * 3 + 3, &["c"])),
        );
        let mut positions = vec![x.unwrap().position, y.unwrap().position, z.unwrap().position];
        positions.sort_unstable();
        positions.dedup();
        // Those that lost twice may share one.
        assert!(
            positions.len() >= 2 && positions.iter().copied().eq(last + 1..=last + positions.len() as u64)
        );
        last += positions.len() as u64;
    }
    let snapshot = world.reopen(4).await.snapshot(&meter).await.unwrap();
    assert_eq!((snapshot.position, ids(&snapshot).len()), (last, 30));
}

#[tokio::test(start_paused = true)]
async fn every_fault_of_a_create_is_resolved() {
    for fault in [Fault::FailBefore, Fault::LostReply, Fault::Empty409, Fault::Stall] {
        let (world, _store, notes) = World::with_collection().await;
        world.storage.next_create_of("/wal/", fault);
        let done = notes.append(&Meter::new(), upsert(1, &["a"])).await.unwrap();
        assert_eq!(done, Appended { position: 1, rows: 1, repeated: false }, "{fault:?}");
        let next = notes.append(&Meter::new(), upsert(2, &["b"])).await.unwrap();
        assert_eq!(next.position, 2);
        assert_eq!(
            ids(&world.reopen(2).await.snapshot(&Meter::new()).await.unwrap()),
            ["a", "b"],
            "{fault:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_stays_absent_ends_unknown() {
    let (world, _store, notes) = World::with_collection().await;
    for _ in 0..2000 {
        world.storage.next_create_of("/wal/", Fault::Empty409);
    }
    let e = notes.append(&Meter::new(), upsert(7, &["a"])).await.unwrap_err();
    assert_eq!((e.kind(), e.token()), (Kind::Unknown, Some(Token(7))));
}

#[tokio::test(start_paused = true)]
async fn a_token_is_written_once() {
    let (world, _store, notes) = World::with_collection().await;
    let meter = Meter::new();
    let first = notes.append(&meter, given(upsert(5, &["a"]))).await.unwrap();
    assert!(!first.repeated);
    let warm = notes.append(&meter, given(upsert(5, &["a"]))).await.unwrap();
    assert_eq!(warm, Appended { repeated: true, ..first });
    notes.append(&meter, upsert(6, &["b"])).await.unwrap();
    let cold = world.reopen(2).await;
    assert_eq!(cold.append(&meter, given(upsert(5, &["a"]))).await.unwrap(), warm);
    assert_eq!(notes.snapshot(&meter).await.unwrap().position, 2);

    let e = cold.append(&meter, given(upsert(5, &["a", "b"]))).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Conflict);
    // A delete is not done because there was an upsert of as many.
    assert_eq!(cold.append(&meter, given(delete(5, &["a"]))).await.unwrap_err().kind(), Kind::Conflict);

    // Two calls with one token at once.
    let (x, y) = futures::join!(
        notes.append(&meter, given(upsert(9, &["c"]))),
        cold.append(&meter, given(upsert(9, &["c"])))
    );
    assert_eq!(x.unwrap().position, y.unwrap().position);
    assert_eq!(notes.snapshot(&meter).await.unwrap().position, 3);
}

/// A batch of one row under a token that its caller gave.
fn saying(token: u128, content: u64) -> PendingBatch {
    PendingBatch { content: Some(Content(content)), ..given(upsert(token, &["a"])) }
}

#[tokio::test(start_paused = true)]
async fn a_token_names_one_content() {
    let (world, _store, notes) = World::with_collection().await;
    let meter = Meter::new();
    let first = notes.append(&meter, saying(5, 1)).await.unwrap();
    for folded in [false, true] {
        if folded {
            fold(&notes, 1, &[5]).await;
        }
        for writer in [notes.clone(), world.reopen(2).await] {
            let again = writer.append(&meter, saying(5, 1)).await.unwrap();
            assert_eq!(again, Appended { repeated: true, ..first });
            let e = writer.append(&meter, saying(5, 2)).await.unwrap_err();
            assert_eq!(e.kind(), Kind::Conflict);
            assert!(e.to_string().contains(&Token(5).to_string()), "{e}");
            let snapshot = writer.snapshot(&meter).await.unwrap();
            assert_eq!(snapshot.written(Token(5), Content(2)).unwrap_err().kind(), Kind::Conflict);
            assert_eq!(snapshot.written(Token(5), Content(1)).unwrap().unwrap(), again);
        }
    }
    // Two contents under one token at once: one is written, the other refused.
    let rival = world.reopen(3).await;
    let (x, y) = futures::join!(notes.append(&meter, saying(9, 1)), rival.append(&meter, saying(9, 2)));
    assert_eq!([&x, &y].iter().filter(|done| done.is_ok()).count(), 1, "{x:?} {y:?}");
    let refused = x.err().or(y.err()).unwrap();
    assert_eq!(refused.kind(), Kind::Conflict);
    assert_eq!(notes.snapshot(&meter).await.unwrap().position, 2);
}

#[tokio::test(start_paused = true)]
async fn a_drawn_token_that_may_be_forgotten_is_refused() {
    let (world, _store, notes) = World::with_collection().await;
    let meter = Meter::new();
    let drawn = |at_ms: i64| Token::drawn(7, at_ms).0;
    notes.append(&meter, upsert(drawn(1_000), &["a"])).await.unwrap();
    // Minutes later another is folded with it.
    let late = limits::DRAWN_RETENTION_MS + 1_001;
    let newest = fold_batches(&notes, 1, [(drawn(1_000), 1_000), (drawn(late), late)]).await;
    assert_eq!((newest.recent.len(), newest.forgotten_ms), (1, 1_000));
    for writer in [notes.clone(), world.reopen(2).await] {
        for forgotten in [drawn(1_000), drawn(1)] {
            let e = writer.append(&meter, given(upsert(forgotten, &["a"]))).await.unwrap_err();
            assert_eq!(e.kind(), Kind::Conflict, "{e}");
            assert!(e.to_string().contains("can no longer be told"), "{e}");
            let snapshot = writer.snapshot(&meter).await.unwrap();
            let e = snapshot.written(Token(forgotten), Content(1)).unwrap_err();
            assert_eq!((e.kind(), snapshot.position), (Kind::Conflict, 1));
        }
    }
    // Later ones are known, and written if they are not; a client's own token has no age.
    assert!(notes.append(&meter, given(upsert(drawn(late), &["a"]))).await.unwrap().repeated);
    for fresh in [drawn(1_001), 5] {
        assert!(!notes.append(&meter, given(upsert(fresh, &["a"]))).await.unwrap().repeated);
    }
    // In the tail it is found however old it is.
    assert!(notes.append(&meter, given(upsert(drawn(1_001), &["a"]))).await.unwrap().repeated);
}

/// Folds `to` entries away, as a compaction would whose rows were all deleted again.
pub(super) async fn fold(notes: &Collection, to: u64, tokens: &[u128]) -> Arc<Manifest> {
    let given = tokens.iter().map(|t| Recent { given: true, ..batch(*t, 1_000) });
    fold_recent(notes, to, given.collect()).await
}

/// Likewise, with batches whose tokens were drawn.
async fn fold_batches<const N: usize>(notes: &Collection, to: u64, drawn: [(u128, i64); N]) -> Arc<Manifest> {
    fold_recent(notes, to, drawn.map(|(token, at_ms)| batch(token, at_ms)).into()).await
}

fn batch(token: u128, at_ms: i64) -> Recent {
    Recent { token: Token(token), seq: 1, rows: 1, at_ms, given: false, content: Some(Content(1)) }
}

async fn fold_recent(notes: &Collection, to: u64, recent: Vec<Recent>) -> Arc<Manifest> {
    let meter = Meter::new();
    let base = notes.manifest(&meter).await.unwrap();
    let hash = SetHash::of("x", to, 0);
    let publish = Publish {
        base: base.version,
        fold: (base.watermark, to),
        accepted: hash,
        pruned: hash,
        recent,
        ..Publish::default()
    };
    let token = notes.client().seams().token();
    notes.publish(&meter, &base, token, publish, Vec::new()).await.unwrap().into_result().unwrap()
}

/// Raises the log's floor and deletes what lies below.
pub(super) async fn collect(notes: &Collection, wal: u64) {
    let meter = Meter::new();
    let base = notes.manifest(&meter).await.unwrap();
    let floors = Floors { wal, ..base.floors };
    notes.collect(&meter, &base, floors).await.unwrap().into_result().unwrap();
    for seq in 1..=wal {
        notes.client().delete(&meter, &notes.keys().wal(seq)).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_is_known_after_its_entry_was_collected() {
    let (world, _store, notes) = World::with_collection().await;
    let meter = Meter::new();
    notes.append(&meter, given(upsert(5, &["a"]))).await.unwrap();
    let stale = world.reopen(2).await;
    fold(&notes, 1, &[5]).await;
    collect(&notes, 1).await;
    for writer in [stale, world.reopen(3).await] {
        // Longer than a collector waits.
        writer.client().seams().clock.sleep(Duration::from_secs(61)).await;
        assert!(writer.append(&meter, given(upsert(5, &["a"]))).await.unwrap().repeated);
    }
    assert_eq!(notes.append(&meter, upsert(6, &["b"])).await.unwrap().position, 2);
}

#[tokio::test(start_paused = true)]
async fn a_slot_below_the_floor_is_never_acknowledged() {
    let (world, _store, notes) = World::with_collection().await;
    let meter = Meter::new();
    notes.append(&meter, upsert(1, &["a"])).await.unwrap();
    let frozen = world.reopen(2).await;
    assert_eq!(frozen.known().unwrap().last(), 1);
    for n in 2..=4u128 {
        notes.append(&meter, upsert(n, &["a"])).await.unwrap();
    }
    fold(&notes, 4, &[]).await;
    collect(&notes, 4).await;
    // Its clock did not move: it believes that slot 2 is next, and the name is free again.
    let e = frozen.append(&meter, upsert(9, &["z"])).await.unwrap_err();
    assert_eq!((e.kind(), e.token()), (Kind::Unknown, Some(Token(9))));
    for reader in [notes.clone(), frozen.clone(), world.reopen(3).await] {
        let snapshot = reader.snapshot(&meter).await.unwrap();
        assert_eq!((snapshot.position, ids(&snapshot).len()), (4, 0));
    }
    // The retry with its token finds that it was not written, and writes it.
    let retried = frozen.append(&meter, given(upsert(9, &["z"]))).await.unwrap();
    assert_eq!(retried, Appended { position: 5, rows: 1, repeated: false });
}

#[tokio::test(start_paused = true)]
async fn large_batches_go_to_a_body() {
    let (world, _store, notes) = World::with_collection().await;
    let meter = Meter::new();
    let many: Vec<String> = (0..40_000).map(|i| format!("record number {i}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    notes.append(&meter, upsert(1, &many)).await.unwrap();
    notes.append(&meter, delete(2, &["record number 1"])).await.unwrap();
    let snapshot = world.reopen(2).await.snapshot(&meter).await.unwrap();
    assert!(snapshot.tail[0].entry.body.is_some());
    assert_eq!(snapshot.rows[0].rows.num_rows(), 40_000);
    assert_eq!(snapshot.rows[1].tombstones.len(), 1);
}

/// Small writes are faster than the upload of a large one: its second body serves the slots that follow, too.
#[tokio::test(start_paused = true)]
async fn a_body_is_uploaded_twice_at_most_while_slots_are_lost() {
    let (world, _store, notes) = World::with_collection().await;
    let meter = Meter::recording();
    notes.append(&meter, upsert(1, &["a"])).await.unwrap();
    let slow = world.reopen(2).await;
    for n in 2..=9u128 {
        notes.append(&meter, upsert(n, &["a"])).await.unwrap();
    }
    let many: Vec<String> = (0..40_000).map(|i| format!("record number {i}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let own = Meter::recording();
    let done = slow.append(&own, upsert(20, &many)).await.unwrap();
    assert_eq!(done.position, 10);
    let bodies = own.requests().into_iter().filter(|r| r.key.contains("/body/")).count();
    let snapshot = world.reopen(3).await.snapshot(&meter).await.unwrap();
    let body = snapshot.tail[9].entry.body.unwrap();
    assert_eq!((bodies, body.until), (2, 3 + 16));
    assert_eq!(snapshot.rows[9].rows.num_rows(), 40_000);
}

#[tokio::test(start_paused = true)]
async fn a_full_tail_is_busy_until_it_is_folded() {
    let (world, _store, notes) = World::with_collection().await;
    let meter = Meter::new();
    for n in 1..=limits::TAIL_ENTRIES {
        notes.append(&meter, upsert(u128::from(n), &["a"])).await.unwrap();
    }
    let e = notes.append(&meter, upsert(5000, &["a"])).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Busy);
    let compactor = world.reopen(2).await;
    fold(&compactor, limits::TAIL_ENTRIES, &[]).await;
    let done = notes.append(&meter, upsert(5000, &["a"])).await.unwrap();
    assert_eq!(done.position, limits::TAIL_ENTRIES + 1);
}

#[tokio::test(start_paused = true)]
async fn work_is_marked_at_the_first_and_each_16th_entry() {
    let (_world, _store, notes) = World::with_collection().await;
    let meter = Meter::new();
    for n in 1..=33u128 {
        notes.append(&meter, upsert(n, &["a"])).await.unwrap();
    }
    assert_eq!(notes.marks(&meter).await.unwrap(), [32, 16, 1]);
    fold(&notes, 20, &[]).await;
    assert_eq!(notes.marks(&meter).await.unwrap(), [32]);
}

#[tokio::test(start_paused = true)]
async fn an_append_to_a_dropped_collection_is_gone() {
    let (_world, store, notes) = World::with_collection().await;
    let meter = Meter::new();
    notes.append(&meter, upsert(1, &["a"])).await.unwrap();
    store.drop_collection(&meter, notes.name()).await.unwrap();
    let e = notes.append(&meter, upsert(2, &["a"])).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Gone);
    let e = notes.commit(&meter, notes.last_seen().unwrap(), Token(1), &Change::Drop).await.unwrap();
    assert!(e.into_result().is_err());
}

/// Polls an append a number of times, drops it, and lets others go on: whatever it had queued is either whole in the
/// log or not there, and nobody hangs.
#[tokio::test(start_paused = true)]
async fn a_cancelled_leader_loses_nobody() {
    for polls in 0..40 {
        let (world, _store, notes) = World::with_collection().await;
        world.storage.next_create_of("/wal/", Fault::LostReply);
        let meter = Meter::new();
        let mut leader = Box::pin(notes.append(&meter, upsert(1, &["leader"])));
        let mut follower = Box::pin(notes.append(&meter, upsert(2, &["follower"])));
        let mut answered = false;
        for _ in 0..polls {
            match futures::poll!(leader.as_mut()) {
                std::task::Poll::Ready(done) => {
                    done.unwrap();
                    answered = true;
                    break;
                }
                std::task::Poll::Pending => {
                    assert!(futures::poll!(follower.as_mut()).is_pending());
                    tokio::time::advance(Duration::from_millis(3)).await;
                }
            }
        }
        drop(leader);
        follower.await.unwrap();
        let found = ids(&world.reopen(2).await.snapshot(&meter).await.unwrap());
        assert_eq!(found.iter().filter(|id| *id == "follower").count(), 1, "{polls}");
        let led = found.iter().filter(|id| *id == "leader").count();
        assert!(led == 1 || (led == 0 && !answered), "{polls}");
    }
}
