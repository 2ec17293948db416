use esker_format::Kind;
use esker_format::append::LOSSES;

use super::*;
use crate::collection::tests::{Fault, World, given, upsert};

fn hashes(notes: &Collection, ids: &[&str]) -> Arc<HashSet<u64>> {
    Arc::new(ids.iter().map(|id| notes.id().hash_id(id)).collect())
}

async fn claim(notes: &Collection, token: u128, read_at: Seq, id: &str) -> Result<Claimed> {
    let (meter, ids) = (Meter::new(), hashes(notes, &[id]));
    notes.turn(&meter).await.append_at(&meter, given(upsert(token, &[id])), read_at, &ids).await
}

fn at(position: Seq) -> Claimed {
    Claimed::Appended(Appended { position, rows: 1, repeated: false })
}

#[tokio::test(start_paused = true)]
async fn only_entries_about_the_ids_are_in_the_way() {
    let (world, _store, notes) = World::with_collection().await;
    let meter = Meter::new();
    assert_eq!(claim(&notes, 1, 0, "a").await.unwrap(), at(1));
    let rival = world.reopen(2).await;
    rival.append(&meter, upsert(2, &["b"])).await.unwrap();
    rival.append(&meter, upsert(3, &["c"])).await.unwrap();
    // Read at 1 and overtaken by 2 and 3: lost slots are looked at, and the next is taken.
    assert_eq!(claim(&notes, 4, 1, "a").await.unwrap(), at(4));
    assert_eq!(claim(&notes, 5, 1, "a").await.unwrap(), Claimed::Touched);
    assert_eq!(claim(&rival, 6, 2, "c").await.unwrap(), Claimed::Touched);
    assert_eq!(claim(&rival, 7, 3, "c").await.unwrap(), at(5));
    // A token that was used is answered as it was, whatever was touched since.
    let again = Claimed::Appended(Appended { position: 4, rows: 1, repeated: true });
    assert_eq!(claim(&notes, 4, 1, "a").await.unwrap(), again);
    assert_eq!(notes.snapshot(&meter).await.unwrap().position, 5);
}

#[tokio::test(start_paused = true)]
async fn large_entries_are_judged_by_their_id_hashes() {
    let (world, _store, notes) = World::with_collection().await;
    let rival = world.reopen(2).await;
    let many: Vec<String> = (0..40_000).map(|i| format!("record number {i}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    rival.append(&Meter::new(), upsert(1, &many)).await.unwrap();
    assert_eq!(claim(&notes, 2, 0, "record number 7").await.unwrap(), Claimed::Touched);
    assert_eq!(claim(&notes, 3, 0, "another").await.unwrap(), at(2));
    let touched = notes.touched_since(&Meter::new(), 0, &hashes(&notes, &["another", "third"])).await;
    assert_eq!(touched.unwrap(), Some((2, HashSet::from([notes.id().hash_id("another")]))));
}

#[tokio::test(start_paused = true)]
async fn after_eight_losses_the_caller_is_told_to_wait() {
    let (world, _store, notes) = World::with_collection().await;
    let (meter, rival) = (Meter::new(), world.reopen(2).await);
    let mut turn = notes.turn(&meter).await;
    for loss in 1..=LOSSES {
        let read_at = notes.snapshot(&meter).await.unwrap().position;
        rival.append(&meter, upsert(100 + u128::from(loss), &["a"])).await.unwrap();
        let claimed = turn.append_at(&meter, upsert(1, &["a"]), read_at, &hashes(&notes, &["a"])).await;
        if loss < LOSSES {
            assert_eq!(claimed.unwrap(), Claimed::Touched);
            continue;
        }
        let e = claimed.unwrap_err();
        assert_eq!((e.kind(), e.retry_after()), (Kind::Conflict, Some(CONTENDED_AFTER)));
    }
    assert_eq!(notes.snapshot(&meter).await.unwrap().position, u64::from(LOSSES));
}

#[tokio::test(start_paused = true)]
async fn every_fault_of_a_claim_is_resolved() {
    for fault in [Fault::FailBefore, Fault::LostReply, Fault::Empty409, Fault::Stall] {
        let (world, _store, notes) = World::with_collection().await;
        world.storage.next_create_of("/wal/", fault);
        assert_eq!(claim(&notes, 1, 0, "a").await.unwrap(), at(1), "{fault:?}");
        let rival = world.reopen(2).await;
        assert_eq!(claim(&rival, 2, 0, "a").await.unwrap(), Claimed::Touched, "{fault:?}");
    }
    let (world, _store, notes) = World::with_collection().await;
    (0..2000).for_each(|_| world.storage.next_create_of("/wal/", Fault::Empty409));
    let e = claim(&notes, 7, 0, "a").await.unwrap_err();
    assert_eq!((e.kind(), e.token()), (Kind::Unknown, Some(Token(7))));
}

/// A conditional write that is cancelled anywhere holds nobody up, and its token says later what became of it.
#[tokio::test(start_paused = true)]
async fn a_cancelled_claim_holds_nobody_up() {
    for polls in 0..40 {
        let (world, _store, notes) = World::with_collection().await;
        world.storage.next_create_of("/wal/", Fault::LostReply);
        let meter = Meter::new();
        let mut claiming = Box::pin(claim(&notes, 1, 0, "a"));
        for _ in 0..polls {
            if futures::poll!(claiming.as_mut()).is_ready() {
                break;
            }
            tokio::time::advance(Duration::from_millis(3)).await;
        }
        drop(claiming);
        let next = notes.append(&meter, upsert(2, &["b"])).await.unwrap();
        let before = notes.snapshot(&meter).await.unwrap().written(Token(1), Content(0)).unwrap();
        assert_eq!(next.position, 1 + before.iter().len() as Seq, "{polls}");
        match claim(&notes, 1, 0, "a").await.unwrap() {
            Claimed::Appended(done) => assert_eq!(done.repeated, before.is_some(), "{polls}"),
            Claimed::Touched => panic!("{polls}: nothing else is about it"),
        }
    }
}
