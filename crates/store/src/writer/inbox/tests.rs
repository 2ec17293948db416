use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::{join_all, try_join_all};
use futures::{FutureExt, join};

use super::*;
use crate::client::ETag;
use crate::collection::tests::{Fault, World, given, upsert};
use crate::writer::Appended;
use crate::writer::tests::{collect, fold};

/// What writers of one process each saw, who write one row after the other without a pause.
#[derive(Debug)]
struct Figures {
    writes: usize,
    commits: u64,
    /// Of each write, first ones excepted.
    requests: f64,
    p99: Duration,
}

/// Each batch that the log names, with its slot; none is named twice.
pub(in crate::writer) async fn named(world: &World) -> BTreeMap<Token, Seq> {
    let snapshot = world.reopen(u64::MAX).await.snapshot(&Meter::new()).await.unwrap();
    let mut found = BTreeMap::new();
    for entry in &snapshot.tail {
        for batch in &entry.entry.batches {
            assert_eq!(found.insert(batch.token, entry.seq()), None, "{} is there twice", batch.token);
        }
    }
    found
}

async fn race(writers: u64, each: usize, latency: Duration) -> Figures {
    let (world, _store, _) = World::with_collection().await;
    let notes = join_all((0..writers).map(|w| world.reopen(100 + w))).await;
    world.storage.slow_down(latency);
    let write = |(w, notes): (u64, Arc<Collection>)| async move {
        let mut seen = Vec::new();
        for n in 0..each {
            let clock = &notes.client().seams().clock;
            let (meter, at) = (Meter::new(), clock.elapsed());
            let token = u128::from(w) << 32 | n as u128 | 1 << 100;
            let done = notes.append(&meter, upsert(token, &["a"])).await?;
            assert!(!done.repeated);
            let io = meter.io();
            seen.push((Token(token), done.position, clock.elapsed() - at, io.puts + io.gets + io.lists));
        }
        Ok::<_, Error>(seen)
    };
    let all: Vec<_> = try_join_all((0..).zip(notes).map(write)).await.unwrap();
    world.storage.slow_down(Duration::ZERO);
    let there = named(&world).await;
    assert_eq!(there.len(), all.iter().map(Vec::len).sum::<usize>());
    for (token, position, ..) in all.iter().flatten() {
        assert_eq!(there.get(token), Some(position), "{token}");
    }
    let warm = || all.iter().flat_map(|seen| &seen[4..]);
    let mut times: Vec<Duration> = warm().map(|(_, _, time, _)| *time).collect();
    times.sort_unstable();
    Figures {
        writes: there.len(),
        commits: *there.values().max().unwrap(),
        requests: warm().map(|(.., requests)| *requests as f64).sum::<f64>() / times.len() as f64,
        p99: times[times.len() * 99 / 100],
    }
}

#[tokio::test(start_paused = true)]
async fn many_writers_share_entries() {
    for (writers, each, most) in [(16, 12, 400), (200, 8, 1_000)] {
        let figures = race(writers, each, Duration::from_millis(20)).await;
        assert!(figures.p99 <= Duration::from_millis(most), "{figures:?}");
        assert!(figures.requests <= 6.0 && figures.commits * 2 < figures.writes as u64, "{figures:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn two_writers_hardly_need_it() {
    let figures = race(2, 20, Duration::from_millis(20)).await;
    assert!(figures.commits * 10 >= figures.writes as u64 * 9 && figures.requests < 4.2, "{figures:?}");
}

/// Functions that are given messages by the fifty: each waits for a few others, not for two hundred.
#[tokio::test(start_paused = true)]
async fn what_writes_many_batches_at_once_is_one_writer() {
    let (world, _store, _) = World::with_collection().await;
    let functions = join_all((0..4).map(|w| world.reopen(100 + w))).await;
    world.storage.slow_down(Duration::from_millis(20));
    let work = |(w, notes): (u128, Arc<Collection>)| async move {
        let clock = notes.client().seams().clock.clone();
        let mut took = Vec::new();
        for n in 0..12u128 {
            let began = clock.elapsed();
            let messages = (0..50).map(|m| {
                let notes = notes.clone();
                async move {
                    notes.append(&Meter::new(), upsert((w << 16 | n << 8 | m) + (1 << 100), &["a"])).await
                }
            });
            try_join_all(messages).await.unwrap();
            took.push(clock.elapsed() - began);
        }
        took.split_off(2)
    };
    let mut all: Vec<Duration> = join_all((0..).zip(functions).map(work)).await.concat();
    all.sort_unstable();
    let (median, longest) = (all[all.len() / 2], all[all.len() - 1]);
    assert!(median <= Duration::from_millis(100) && longest <= Duration::from_secs(2), "{all:?}");
    world.storage.slow_down(Duration::ZERO);
    assert_eq!(named(&world).await.len(), 4 * 12 * 50);
}

/// Makes a process believe that others write a lot, so that it offers at once.
pub(in crate::writer) fn contend(notes: &Collection) {
    let now = notes.client().seams().clock.elapsed();
    notes.queue.contention().seen = Some((4, now));
}

/// What a writer that died left in the inbox.
pub(in crate::writer) async fn left_behind(notes: &Collection, tail: Seq, batches: &[PendingBatch]) {
    let (key, bytes) = inbox::encode(notes.id(), tail, batches).unwrap();
    assert!(matches!(notes.client().create(&Meter::new(), &key, bytes.into()).await, CreateReply::Created));
}

#[tokio::test(start_paused = true)]
async fn an_offer_whose_writer_died_is_written_once() {
    let (world, _store, notes) = World::with_collection().await;
    let meter = Meter::new();
    notes.append(&meter, upsert(1, &["a"])).await.unwrap();
    left_behind(&notes, 1, &[upsert(7, &["d"]), upsert(8, &["e"])]).await;
    for n in [2, 3] {
        contend(&notes);
        assert_eq!(notes.append(&meter, upsert(n, &["b"])).await.unwrap().position, n as u64);
    }
    assert_eq!(
        named(&world).await,
        [(1, 1), (2, 2), (7, 2), (8, 2), (3, 3)].map(|(t, s)| (Token(t), s)).into()
    );
    // Its client tries again elsewhere.
    let retried = world.reopen(2).await.append(&meter, given(upsert(7, &["d"]))).await.unwrap();
    assert_eq!(retried, Appended { position: 2, rows: 1, repeated: true });
}

#[tokio::test(start_paused = true)]
async fn what_is_in_the_log_or_cannot_be_told_is_left_out() {
    let (world, _store, notes) = World::with_collection().await;
    let meter = Meter::new();
    for n in 1..=3 {
        notes.append(&meter, upsert(n, &["a"])).await.unwrap();
    }
    let cold = world.reopen(2).await;
    cold.refresh(&meter).await.unwrap();
    left_behind(&notes, 0, &[upsert(2, &["a"])]).await;
    left_behind(&notes, 1, &[upsert(9, &["z"]), upsert(3, &["a"])]).await;
    let garbage = notes.keys().inbox(3, Token(12));
    notes.client().overwrite(&meter, &garbage, Bytes::from_static(b"nothing")).await.unwrap();
    // It knows no header of the slots before its own offer.
    contend(&cold);
    assert_eq!(cold.append(&meter, upsert(4, &["b"])).await.unwrap().position, 4);
    assert_eq!(named(&world).await.len(), 4);
    // This one knows them all, and so that 9 is nowhere.
    contend(&notes);
    assert_eq!(notes.append(&meter, upsert(5, &["b"])).await.unwrap().position, 5);
    let there = named(&world).await;
    assert_eq!((there.len(), there[&Token(9)]), (6, 5));
}

#[tokio::test(start_paused = true)]
async fn two_writers_under_one_token_write_once() {
    let (world, _store, notes) = World::with_collection().await;
    let meter = Meter::new();
    let rival = world.reopen(2).await;
    for writer in [&notes, &rival] {
        contend(writer);
    }
    let write =
        |writer: Arc<Collection>| async move { writer.append(&Meter::new(), given(upsert(5, &["a"]))).await };
    let (x, y) = join!(write(notes.clone()), write(rival.clone()));
    assert_eq!(x.unwrap().position, y.unwrap().position);
    assert_eq!(named(&world).await.len(), 1);
    // Another content under the same token is refused, wherever it was offered.
    contend(&rival);
    let e = rival.append(&meter, given(upsert(5, &["a", "b"]))).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Conflict);
}

#[tokio::test(start_paused = true)]
async fn every_fault_of_an_offer_is_resolved() {
    for fault in [Fault::FailBefore, Fault::LostReply, Fault::Empty409, Fault::Stall, Fault::Denied] {
        for times in 1..=3 {
            let (world, _store, notes) = World::with_collection().await;
            let meter = Meter::new();
            (0..times).for_each(|_| world.storage.next_create_of("/inbox/", fault));
            world
                .storage
                .next_create_of("/wal/", if fault == Fault::Denied { Fault::LostReply } else { fault });
            contend(&notes);
            let done = notes.append(&meter, upsert(1, &["a"])).await.unwrap();
            assert_eq!(done, Appended { position: 1, rows: 1, repeated: false }, "{fault:?}");
            assert_eq!(notes.queue.contention().refused, fault == Fault::Denied);
            assert_eq!(named(&world).await.len(), 1, "{fault:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_log_that_moved_past_an_offer_makes_it_unknown() {
    for folded_with_it in [false, true] {
        let (world, _store, notes) = World::with_collection().await;
        let meter = Meter::new();
        notes.append(&meter, upsert(1, &["a"])).await.unwrap();
        let frozen = world.reopen(2).await;
        for n in 2..=4 {
            notes.append(&meter, upsert(n, &["a"])).await.unwrap();
        }
        fold(&notes, 4, if folded_with_it { &[9] } else { &[] }).await;
        collect(&notes, 4).await;
        // Its clock did not move: it offers after slot 1, and finds slot 2 free.
        contend(&frozen);
        let done = frozen.append(&meter, upsert(9, &["z"])).await;
        if folded_with_it {
            assert_eq!(done.unwrap().position, 1);
            continue;
        }
        let e = done.unwrap_err();
        assert_eq!((e.kind(), e.token()), (Kind::Unknown, Some(Token(9))));
        // Nobody takes what it left.
        contend(&notes);
        assert_eq!(notes.append(&meter, upsert(10, &["y"])).await.unwrap().position, 5);
        assert_eq!(named(&world).await, [(Token(10), 5)].into());
        let retried = frozen.append(&meter, given(upsert(9, &["z"]))).await.unwrap();
        assert_eq!(retried, Appended { position: 6, rows: 1, repeated: false });
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_collection_is_gone_for_who_waits() {
    let (world, store, notes) = World::with_collection().await;
    contend(&notes);
    let rival = world.reopen(2).await;
    rival.client().create(&Meter::new(), &rival.keys().inbox(0, LEADER), Bytes::new()).await;
    store.drop_collection(&Meter::new(), notes.name()).await.unwrap();
    let e = notes.append(&Meter::new(), upsert(1, &["a"])).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Gone, "{e}");
}

/// Wherever a caller gives up, what it offered is written once or not at all, and the next one goes on.
#[tokio::test(start_paused = true)]
async fn an_offer_may_be_abandoned_anywhere() {
    for polls in 0..60 {
        let (world, _store, notes) = World::with_collection().await;
        let meter = Meter::new();
        contend(&notes);
        let mut abandoned = Box::pin(notes.append(&meter, upsert(1, &["a"])));
        for _ in 0..polls {
            if (&mut abandoned).now_or_never().is_some() {
                break;
            }
            notes.client().seams().clock.sleep(Duration::from_millis(1)).await;
        }
        drop(abandoned);
        contend(&notes);
        let done = notes.append(&meter, upsert(2, &["b"])).await.unwrap();
        assert_eq!(named(&world).await.get(&Token(2)), Some(&done.position), "{polls}");
    }
}

/// The leader of a process is dropped while others write: who waited with it goes on with what it offered.
#[tokio::test(start_paused = true)]
async fn a_cancelled_leader_leaves_its_offer_to_others() {
    for ms in 0..70 {
        let (world, _store, notes) = World::with_collection().await;
        let rivals = [world.reopen(2).await, world.reopen(3).await];
        [&notes, &rivals[0], &rivals[1]].into_iter().for_each(|writer| contend(writer));
        world.storage.slow_down(Duration::from_millis(5));
        let (meter, other) = (Meter::new(), Meter::new());
        let leader = async {
            tokio::select! {
                biased;
                () = notes.client().seams().clock.sleep(Duration::from_millis(ms)) => (),
                _ = notes.append(&meter, upsert(1, &["a"])) => (),
            }
        };
        let (_, follower, x, y) = join!(
            leader,
            notes.append(&other, upsert(2, &["b"])),
            rivals[0].append(&other, upsert(3, &["c"])),
            rivals[1].append(&other, upsert(4, &["d"])),
        );
        world.storage.slow_down(Duration::ZERO);
        let there = named(&world).await;
        for (token, done) in [(2, follower), (3, x), (4, y)] {
            assert_eq!(there.get(&Token(token)), Some(&done.unwrap().position), "{ms} ms, {token}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_answered_long_ago_is_not_read() {
    let (_world, _store, notes) = World::with_collection().await;
    let offer = Offer::new(&notes.refresh(&Meter::new()).await.unwrap(), 1, 1);
    let object = |token: u128, size: u64, modified_ms: i64| Listed {
        key: notes.keys().inbox(0, Token(token)),
        size,
        etag: ETag(String::new()),
        modified_ms,
    };
    let listed = [
        object(0, 0, 50_000),
        object(1, 10, 50_000),
        object(2, 10, 19_999),
        object(3, 10, 20_000),
        object(4, 99, 50_000),
    ];
    let chosen = |own: &[Token]| {
        let chosen = offer.choose(&listed, &own.iter().copied().collect(), 0, 50, 50_000);
        chosen.into_iter().map(|(_, key)| key.chars().last().unwrap()).collect::<String>()
    };
    assert_eq!((chosen(&[]), chosen(&[Token(1)])), ("31".to_owned(), "3".to_owned()));
}

/// What functions see that are given messages of a queue by the event, one event after the other.
#[derive(Debug)]
struct Events {
    /// Of each event, first ones excepted, in ascending order.
    took: Vec<Duration>,
    /// Slots that others took while a batch waited: the most.
    passed: Seq,
    /// Of each message.
    requests: f64,
}

/// `functions` with events of `messages`, a row each of so many `bytes` at least, under keys of the queue, for `time`; 20 ms a request.
async fn feed(functions: u64, messages: u128, bytes: usize, time: Duration) -> Events {
    let (world, _store, first) = World::with_collection().await;
    let functions = join_all((0..functions).map(|w| world.reopen(100 + w))).await;
    world.storage.slow_down(Duration::from_millis(20));
    let clock = first.client().seams().clock.clone();
    let end = clock.elapsed() + time;
    let work = |(w, notes): (u128, Arc<Collection>)| async move {
        let (clock, mut seen) = (notes.client().seams().clock.clone(), Vec::new());
        let id = "a".repeat(bytes.max(1));
        for n in 0u128.. {
            // The platform's part, and the parsing.
            let rest = 5 + (10.0 * notes.client().seams().random.unit()) as u64;
            clock.sleep(Duration::from_millis(rest)).await;
            let (began, tail) = (clock.elapsed(), notes.known().map(|known| known.last()));
            if began >= end {
                break;
            }
            let meters: Vec<Meter> = (0..messages).map(|_| Meter::new()).collect();
            let taken = (0..).zip(&meters).map(|(m, meter)| {
                notes.append(meter, given(upsert((w << 32 | n << 8 | m) + (1 << 100), &[&id])))
            });
            let done = try_join_all(taken).await.unwrap();
            let passed = tail.map_or(0, |t| done[done.len() - 1].position - t - 1);
            let io: u64 = meters.iter().map(|m| m.io()).map(|io| io.gets + io.puts + io.lists).sum();
            seen.push((clock.elapsed() - began, passed, io));
        }
        (seen.len(), seen.split_off(2))
    };
    let all = join_all((0..).zip(functions).map(work)).await;
    world.storage.slow_down(Duration::ZERO);
    let there = named(&world).await;
    let events: usize = all.iter().map(|(events, _)| events).sum();
    assert_eq!(there.len(), events * messages as usize);
    let warm: Vec<_> = all.into_iter().flat_map(|(_, seen)| seen).collect();
    let mut took: Vec<Duration> = warm.iter().map(|(took, ..)| *took).collect();
    took.sort_unstable();
    Events {
        passed: warm.iter().map(|(_, passed, _)| *passed).max().unwrap(),
        requests: warm.iter().map(|(.., io)| *io as f64).sum::<f64>() / (took.len() as f64 * messages as f64),
        took,
    }
}

#[tokio::test(start_paused = true)]
async fn of_several_functions_none_waits_for_long() {
    let small = [(1, 50), (2, 50), (4, 50), (7, 20), (3, 1), (4, 1)].map(|(f, m)| (f, m, 0));
    for (functions, messages, bytes) in
        small.into_iter().chain([(2, 50, 6_500), (4, 50, 6_500), (6, 50, 6_500)])
    {
        let events = feed(functions, messages, bytes, Duration::from_secs(3)).await;
        assert!(events.took[events.took.len() - 1] <= Duration::from_millis(700), "{functions}: {events:?}");
        assert!(events.passed <= 12 && events.requests <= 6.0, "{functions}: {events:?}");
    }
}
