use bytes::Bytes;
use esker_format::wal::inbox;
use futures::future::try_join_all;

use super::*;
use crate::collection::tests::{World, upsert};
use crate::writer::inbox::tests::{contend, left_behind, named};
use crate::writer::inbox::{ANSWERED_MS, PAGE};
use crate::writer::tests::{collect, fold};

/// One that writes without a pause and loses no slot makes room for those who wait.
#[tokio::test(start_paused = true)]
async fn a_writer_without_rivals_notices_who_waits() {
    let (world, _store, notes) = World::with_collection().await;
    let waiting = world.reopen(2).await;
    world.storage.slow_down(Duration::from_millis(20));
    let meter = Meter::new();
    for n in 1..=20 {
        notes.append(&meter, upsert(n, &["a"])).await.unwrap();
    }
    contend(&waiting);
    let over = std::cell::Cell::new(false);
    let hurries = async {
        for n in 100..200 {
            notes.append(&Meter::new(), upsert(n, &["a"])).await.unwrap();
            if over.get() {
                return n - 100;
            }
        }
        u128::MAX
    };
    let waits = async {
        // Slow enough to be late for every slot.
        for n in 1_000..1_003 {
            contend(&waiting);
            waiting.append(&Meter::new(), upsert(n, &["b"])).await.unwrap();
        }
        over.set(true);
    };
    let (writes, ()) = join!(hurries, waits);
    assert!(writes < 80, "{writes}");
    world.storage.slow_down(Duration::ZERO);
    named(&world).await;
}

/// One that does not know what the entries hold which were put since an offer makes room, too: who offered knows.
#[tokio::test(start_paused = true)]
async fn an_offer_older_than_what_is_known_is_noticed() {
    let (world, _store, notes) = World::with_collection().await;
    for n in 0..OTHERS as u128 {
        left_behind(&notes, 0, &[upsert(1_000 + n, &["b"])]).await;
    }
    for n in 1..=5 {
        notes.append(&Meter::new(), upsert(n, &["a"])).await.unwrap();
    }
    let later = world.reopen(2).await;
    let meter = Meter::new();
    for n in 100..100 + u128::from(UNRIVALLED.0) {
        later.append(&meter, upsert(n, &["a"])).await.unwrap();
    }
    let offers = async || {
        let page = later.client().list_page(&Meter::new(), &later.keys().inbox_prefix(), None, PAGE).await;
        page.unwrap().objects.len()
    };
    assert_eq!(offers().await, OTHERS);
    later.append(&meter, upsert(200, &["a"])).await.unwrap();
    assert!(offers().await > OTHERS, "it goes through the inbox");
    named(&world).await;
}

/// It reads the headers before those that it knows, puts what waits with its own, and does so once.
#[tokio::test(start_paused = true)]
async fn a_writer_that_wins_takes_others_along() {
    let (world, _store, notes) = World::with_collection().await;
    let meter = Meter::new();
    for n in 1..=3 {
        notes.append(&meter, upsert(n, &["a"])).await.unwrap();
    }
    left_behind(&notes, 1, &[upsert(2, &["a"])]).await;
    left_behind(&notes, 1, &[upsert(101, &["b"]), upsert(102, &["b"])]).await;
    let later = world.reopen(2).await;
    let looks_at = 3 + u64::from(UNRIVALLED.0);
    for n in 4..=2 * looks_at {
        later.append(&meter, upsert(u128::from(n), &["a"])).await.unwrap();
    }
    let there = named(&world).await;
    let taken = looks_at + 1;
    assert_eq!([101, 102].map(|t| there.get(&Token(t))), [Some(&taken); 2]);
    assert_eq!(there.len() as u64, 2 * looks_at + 2);
}

/// Neither what was answered long ago, nor what cannot be read; and nobody looks for it again and again.
#[tokio::test(start_paused = true)]
async fn what_nobody_waits_for_is_not_taken_along() {
    for (offers, readable) in [(1, true), (OTHERS as u128 + 1, true), (1, false)] {
        let (world, _store, notes) = World::with_collection().await;
        let meter = Meter::new();
        notes.append(&meter, upsert(1, &["a"])).await.unwrap();
        for n in 100..100 + offers {
            left_behind(&notes, 1, &[upsert(n, &["b"])]).await;
            if !readable {
                let key = notes.keys().inbox(1, Token(n));
                notes.client().overwrite(&meter, &key, Bytes::from_static(b"nothing")).await.unwrap();
            }
        }
        let age = if readable { ANSWERED_MS as u64 + 1 } else { 1 };
        notes.client().seams().clock.sleep(Duration::from_millis(age)).await;
        let (writes, meter) = (3 * u128::from(UNRIVALLED.0), Meter::new());
        for n in 2..2 + writes {
            notes.append(&meter, upsert(n, &["a"])).await.unwrap();
        }
        let there = named(&world).await;
        assert_eq!(there.len() as u128, 1 + writes, "{offers} {readable}: {there:?}");
        let io = meter.io();
        // With a mark.
        assert_eq!(io.puts, writes as u64 + 1, "{offers} {readable}: nothing is offered");
        assert!((2..=3).contains(&io.lists), "{offers} {readable}: {io:?}");
    }
}

/// Others' large groups lie there: one that is too large itself for an offer leaves some of it for the next entry.
#[tokio::test(start_paused = true)]
async fn what_is_too_much_for_an_offer_is_not_offered() {
    let (world, _store, notes) = World::with_collection().await;
    let writes = u128::from(UNRIVALLED.0);
    for n in 1..=writes {
        if n == writes {
            for other in 0..OTHERS as u128 {
                left_behind(&notes, 1, &[upsert(1_000 + other, &["b"])]).await;
            }
        }
        notes.append(&Meter::new(), upsert(n, &["a"])).await.unwrap();
    }
    let id = "a".repeat(6_500);
    let meter = Meter::new();
    let large = (0..50).map(|n| notes.append(&meter, upsert(2_000 + n, &[&id])));
    try_join_all(large).await.unwrap();
    let page = notes.client().list_page(&meter, &notes.keys().inbox_prefix(), None, PAGE).await.unwrap();
    let sizes: Vec<u64> = page.objects.iter().map(|l| l.size).collect();
    assert!(sizes.len() > OTHERS, "it joins them: {sizes:?}");
    for offer in page.objects.iter().filter(|l| l.size > 0) {
        let (bytes, _) = notes.client().get(&meter, &offer.key).await.unwrap().unwrap();
        inbox::decode(&offer.key, &bytes).unwrap();
    }
    assert_eq!(named(&world).await.len(), writes as usize + OTHERS + 50);
}

/// What was offered before the floor may be in an entry that is gone.
#[tokio::test(start_paused = true)]
async fn what_is_below_the_floor_is_not_taken_along() {
    let writes = u128::from(UNRIVALLED.0);
    for (floor, expected) in [(3, writes as u64 + 1), (writes as u64 + 2, writes as u64 + 3)] {
        let (world, _store, notes) = World::with_collection().await;
        let meter = Meter::new();
        for n in 1..writes {
            notes.append(&meter, upsert(n, &["a"])).await.unwrap();
        }
        left_behind(&notes, 2, &[upsert(3, &["a"])]).await;
        left_behind(&notes, 2, &[upsert(101, &["b"])]).await;
        notes.append(&meter, upsert(writes, &["a"])).await.unwrap();
        let rival = world.reopen(2).await;
        rival.refresh(&meter).await.unwrap();
        for n in writes as u64 + 1..=floor {
            rival.append(&meter, upsert(u128::from(n), &["a"])).await.unwrap();
        }
        fold(&rival, floor, &[]).await;
        collect(&rival, floor).await;
        // Where the log moved past all that it knows, it does not put a slot that is past.
        let position = notes.append(&meter, upsert(200, &["a"])).await.unwrap().position;
        assert_eq!(position, expected);
        let there = named(&world).await;
        assert_eq!((there.get(&Token(3)), there.get(&Token(101))), (None, None));
        assert_eq!(there.get(&Token(200)), Some(&position));
    }
}
