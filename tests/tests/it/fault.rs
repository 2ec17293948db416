//! The fault store does what its modes say.

use bytes::Bytes;
use esker_tests::fault::{Call, CallKind, Fault, FaultStore, Mode, Outcome, Plan};
use esker_tests::world::World;
use futures::{FutureExt, TryStreamExt};
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutResult, Result};
use std::time::Duration;

fn at(number: u64, mode: Mode) -> (World, FaultStore) {
    let world = World::new();
    let store = FaultStore::new(&world, Plan::none().at(number, mode));
    (world, store)
}

async fn create(store: &FaultStore, key: &str, body: &'static str) -> Result<PutResult> {
    store.put_opts(&Path::from(key), body.into(), PutMode::Create.into()).await
}

fn text(world: &World, key: &str) -> Option<String> {
    world.body(key).map(|body| String::from_utf8(body.into()).unwrap())
}

#[tokio::test]
async fn each_mode_of_a_create() {
    let cases = [
        (Mode::FailBefore, Some(Fault::NotSent), false),
        (Mode::ApplyThenFail, Some(Fault::ReplyLost), true),
        (Mode::ApplyLater, Some(Fault::UnderWay), false),
        (Mode::Throttle, Some(Fault::SlowDown { retry_after: Duration::from_secs(1) }), false),
        (Mode::CorruptRead, None, true),
        (Mode::Ok, None, true),
    ];
    for (mode, fault, landed) in cases {
        let (world, store) = at(1, mode);
        let result = create(&store, "wal/1", "a").await;
        assert_eq!(result.as_ref().err().and_then(|e| Fault::of(e)), fault.as_ref(), "{mode:?}");
        assert_eq!(world.body("wal/1").is_some(), landed, "{mode:?}");
    }
}

#[tokio::test]
async fn an_empty_409_reports_a_rival_that_is_not_there() {
    let (world, store) = at(1, Mode::Empty409);
    assert!(matches!(create(&store, "wal/1", "a").await, Err(Error::AlreadyExists { .. })));
    assert_eq!(text(&world, "wal/1"), None);
    create(&store, "wal/1", "a").await.unwrap();
}

#[tokio::test]
async fn a_late_create_loses_to_who_came_before_it_lands() {
    let (world, store) = at(1, Mode::ApplyLater);
    create(&store, "wal/1", "late").await.unwrap_err();
    create(&store, "wal/1", "rival").await.unwrap();
    assert_eq!(world.land_late(), 0);
    assert_eq!(text(&world, "wal/1").as_deref(), Some("rival"));

    let (world, store) = at(1, Mode::ApplyLater);
    create(&store, "wal/1", "late").await.unwrap_err();
    drop(store);
    assert_eq!(world.land_late(), 1, "it outlives its process");
    assert_eq!(text(&world, "wal/1").as_deref(), Some("late"));
}

#[tokio::test]
async fn a_late_overwrite_takes_head_backwards() {
    let (world, store) = at(1, Mode::ApplyLater);
    let head = Path::from("c/x-1/head");
    store.put(&head, "1".into()).await.unwrap_err();
    store.put(&head, "2".into()).await.unwrap();
    assert_eq!(world.land_late(), 1);
    assert_eq!(text(&world, "c/x-1/head").as_deref(), Some("1"));
    assert_eq!(world.history("c/x-1/head"), [Some(Bytes::from("2")), Some(Bytes::from("1"))]);
}

#[tokio::test]
async fn a_killed_process_stays_dead_and_the_world_does_not() {
    let world = World::new();
    let store = FaultStore::new(&world, Plan::crash(2, Mode::ApplyThenFail));
    create(&store, "wal/1", "a").await.unwrap();
    create(&store, "wal/2", "b").await.unwrap_err();
    for _ in 0..2 {
        let error = store.get(&Path::from("wal/1")).await.unwrap_err();
        assert_eq!(Fault::of(&error), Some(&Fault::Killed));
    }
    let next = FaultStore::new(&world, Plan::none());
    assert_eq!(next.get(&Path::from("wal/2")).await.unwrap().bytes().await.unwrap(), "b");
}

#[tokio::test]
async fn a_stalled_call_is_never_answered() {
    let (world, store) = at(1, Mode::Stall);
    let mut put = create(&store, "wal/1", "a").boxed();
    for _ in 0..100 {
        assert!(futures::poll!(&mut put).is_pending());
    }
    drop(put);
    assert_eq!(text(&world, "wal/1"), None);
    assert_eq!(store.calls()[0].outcome, Outcome::Open);
}

#[tokio::test]
async fn a_corrupt_read_differs_by_one_bit_and_by_seed() {
    let body = Bytes::from(vec![0_u8; 64]);
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..32 {
        let world = World::new();
        world.apply_put("segment/1", body.clone());
        let store = FaultStore::new(&world, Plan::none().seed(seed).at(1, Mode::CorruptRead));
        let path = Path::from("segment/1");
        let read = store.get_range(&path, 8..24).await.unwrap();
        assert_eq!(read.iter().map(|byte| byte.count_ones()).sum::<u32>(), 1);
        assert_eq!(store.get_range(&path, 8..24).await.unwrap(), body.slice(8..24), "the object is whole");
        seen.insert(read);
    }
    assert!(seen.len() > 16, "{} different bits", seen.len());
}

#[tokio::test]
async fn a_dropped_future_leaves_a_request_undone_or_unheard() {
    let mut landed = vec![];
    for polls in 1..4 {
        let world = World::new();
        let store = FaultStore::new(&world, Plan::none());
        let path = Path::from("wal/1");
        let mut put = store.put_opts(&path, "a".into(), PutMode::Create.into()).boxed();
        for _ in 0..polls {
            futures::poll!(&mut put).is_ready();
        }
        drop(put);
        landed.push(world.body("wal/1").is_some());
    }
    assert_eq!(landed, [false, true, true]);
}

#[tokio::test]
#[should_panic(expected = "written twice with two different bodies")]
async fn a_second_body_panics() {
    let store = FaultStore::new(&World::new(), Plan::none());
    store.put(&Path::from("segment/1"), "a".into()).await.unwrap();
    store.put(&Path::from("segment/1"), "b".into()).await.ok();
}

#[tokio::test]
async fn some_names_may_hold_a_second_body() {
    let world = World::new();
    let store = FaultStore::new(&world, Plan::none());
    store.put(&Path::from("c/x-1/head"), "a".into()).await.unwrap();
    store.put(&Path::from("c/x-1/head"), "b".into()).await.unwrap();
    store.put(&Path::from("segment/1"), "a".into()).await.unwrap();
    store.put(&Path::from("segment/1"), "a".into()).await.unwrap();
    create(&store, "c/x-1/wal/1", "a").await.unwrap();
    store.delete(&Path::from("c/x-1/wal/1")).await.unwrap();
    create(&store, "c/x-1/wal/1", "zombie").await.unwrap();
    world.allow_rewrite(|key| key.contains("/manifest/"));
    store.put(&Path::from("c/x-1/manifest/1"), "a".into()).await.unwrap();
    store.put(&Path::from("c/x-1/manifest/1"), "stub".into()).await.unwrap();
}

#[tokio::test]
async fn calls_are_recorded() {
    let world = World::new();
    let store = FaultStore::new(&world, Plan::none().at(5, Mode::FailBefore));
    let key = Path::from("wal/1");
    create(&store, "wal/1", "abc").await.unwrap();
    create(&store, "wal/1", "xyz").await.unwrap_err();
    store.get_range(&key, 0..2).await.unwrap();
    store.list(Some(&Path::from("wal"))).try_collect::<Vec<_>>().await.unwrap();
    store.delete(&key).await.unwrap_err();
    store.head(&Path::from("wal/2")).await.unwrap_err();
    let call = |number, kind, key: &str, options: &str, mode, outcome| Call {
        number,
        kind,
        key: key.into(),
        options: options.into(),
        mode,
        outcome,
    };
    let failed = Outcome::Failed("Generic fault error: fault: the request was not sent".into());
    assert_eq!(
        store.calls(),
        [
            call(1, CallKind::Create, "wal/1", "size=3", Mode::Ok, Outcome::Ok { size: 0 }),
            call(2, CallKind::Create, "wal/1", "size=3", Mode::Ok, Outcome::Refused),
            call(3, CallKind::Get, "wal/1", "range=bytes=0-1", Mode::Ok, Outcome::Ok { size: 2 }),
            call(4, CallKind::List, "wal/", "max=1000", Mode::Ok, Outcome::Ok { size: 1 }),
            call(5, CallKind::Delete, "wal/1", "", Mode::FailBefore, failed),
            call(6, CallKind::Head, "wal/2", "", Mode::Ok, Outcome::NotFound),
        ]
    );
}

#[tokio::test]
async fn an_upload_is_invisible_before_it_is_complete() {
    let world = World::new();
    let store = FaultStore::new(&world, Plan::none().at(2, Mode::FailBefore));
    let path = Path::from("segment/1");
    let mut upload = store.put_multipart(&path).await.unwrap();
    upload.put_part("ab".into()).await.unwrap_err();
    upload.complete().await.unwrap_err();
    let mut upload = store.put_multipart(&path).await.unwrap();
    upload.put_part("ab".into()).await.unwrap();
    upload.put_part("cd".into()).await.unwrap();
    assert_eq!(world.keys(""), Vec::<String>::new());
    upload.complete().await.unwrap();
    assert_eq!(text(&world, "segment/1").as_deref(), Some("abcd"));
}

#[tokio::test]
async fn random_modes_depend_on_the_seed_alone() {
    async fn modes(seed: u64) -> Vec<Mode> {
        let plan = Plan::none().seed(seed).random(300, &[Mode::FailBefore, Mode::ApplyThenFail]).jitter(3);
        let store = FaultStore::new(&World::new(), plan);
        for n in 0..200 {
            create(&store, &format!("wal/{n}"), "a").await.ok();
        }
        store.calls().iter().map(|call| call.mode).collect()
    }
    let (a, b, again) = (modes(1).await, modes(2).await, modes(1).await);
    assert_eq!(a, again);
    assert_ne!(a, b);
    let faults = a.iter().filter(|mode| **mode != Mode::Ok).count();
    assert!((30..90).contains(&faults), "{faults} of 200");
}

#[tokio::test]
async fn a_long_listing_costs_a_call_per_page() {
    let world = World::new();
    for n in 0..2500 {
        world.apply_put(&format!("wal/{n:05}"), "a");
    }
    let store = FaultStore::new(&world, Plan::none());
    let listed: Vec<_> = store.list(None).try_collect().await.unwrap();
    assert!(listed.is_sorted_by_key(|meta| meta.location.clone()));
    assert_eq!((listed.len(), store.call_count()), (2500, 3));
}
