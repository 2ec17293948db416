use esker_format::schema::{Column, ColumnType};

use super::*;
use crate::collection::tests::{Fault, World, ids, notes, settings, upsert};
use crate::doctor::{Check, Verdict};

#[tokio::test(start_paused = true)]
async fn a_collection_lives_and_dies_and_lives_again() {
    let world = World::default();
    let store = world.process(1);
    let meter = Meter::new();
    assert_eq!(store.collection(&meter, &notes()).await.unwrap_err().kind(), Kind::NotFound);
    let first = store.create(&meter, &notes(), settings(), Schema::default()).await.unwrap();
    assert_eq!(first.id().to_string(), "notes-1");
    first.append(&meter, upsert(1, &["a"])).await.unwrap();
    let e = store.create(&meter, &notes(), settings(), Schema::default()).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Conflict);

    let other = world.process(2);
    assert_eq!(other.list(&meter).await.unwrap(), [first.id().clone()]);
    other.drop_collection(&meter, &notes()).await.unwrap();
    assert!(other.list(&meter).await.unwrap().is_empty());
    for process in [other, world.process(3)] {
        assert_eq!(process.collection(&meter, &notes()).await.unwrap_err().kind(), Kind::NotFound);
        assert_eq!(process.drop_collection(&meter, &notes()).await.unwrap_err().kind(), Kind::NotFound);
    }
    // The process that has it open learns of the end from the register.
    assert_eq!(first.snapshot(&meter).await.unwrap_err().kind(), Kind::Gone);

    let second = world.process(4).create(&meter, &notes(), settings(), Schema::default()).await.unwrap();
    assert_eq!(second.id().to_string(), "notes-2");
    second.append(&meter, upsert(2, &["b"])).await.unwrap();
    for process in [store, world.process(5)] {
        let found = process.collection(&meter, &notes()).await.unwrap();
        assert_eq!(ids(&found.snapshot(&meter).await.unwrap()), ["b"]);
    }
}

#[tokio::test(start_paused = true)]
async fn opening_cold_is_one_wave() {
    let (world, _store, _notes) = World::with_collection().await;
    let meter = Meter::recording();
    let (notes, begun) = world.process(2).begin(&meter, &notes()).await.unwrap();
    let io = meter.io();
    assert_eq!((io.waves, io.gets, io.lists), (1, 2, 1));
    notes.finish(&meter, begun).await.unwrap();
    assert_eq!((meter.io().waves, meter.io().gets, meter.io().lists), (2, 3, 1));
}

#[tokio::test(start_paused = true)]
async fn every_fault_of_a_create_is_resolved() {
    for key in ["names/", "/manifest/"] {
        for fault in [Fault::FailBefore, Fault::LostReply, Fault::Empty409, Fault::Stall] {
            let world = World::default();
            world.storage.next_create_of(key, fault);
            let made = world
                .process(1)
                .create(&Meter::new(), &notes(), settings(), Schema::default())
                .await
                .unwrap();
            let found = world.reopen(2).await.manifest(&Meter::new()).await.unwrap();
            assert_eq!(found, made.last_seen().unwrap(), "{key} {fault:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_dead_creator_left_is_finished() {
    let (world, _store, first) = World::with_collection().await;
    let meter = Meter::new();
    // It died after the name record.
    for key in [first.keys().head(), first.keys().manifest(1)] {
        first.client().delete(&meter, &key).await.unwrap();
    }
    let found = world.reopen(2).await;
    assert_eq!(found.append(&meter, upsert(1, &["a"])).await.unwrap().position, 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_dead_dropper_left_is_finished() {
    let (world, _store, first) = World::with_collection().await;
    let meter = Meter::new();
    // It died after the name record: a warm writer still appends, a name lookup does not find it.
    let dropped = NameRecord { n: 2, token: Token(3), at_ms: 0, state: NameState::Dropped };
    let key = keys::name_record(&notes(), 2);
    first.client().create(&meter, &key, dropped.encode().unwrap()).await;
    first.append(&meter, upsert(1, &["a"])).await.unwrap();
    let process = world.process(2);
    assert_eq!(process.collection(&meter, &notes()).await.unwrap_err().kind(), Kind::NotFound);
    let second = process.create(&meter, &notes(), settings(), Schema::default()).await.unwrap();
    assert_eq!(second.id().life(), 2);
    assert_eq!(first.append(&meter, upsert(2, &["a"])).await.unwrap_err().kind(), Kind::Gone);
}

#[tokio::test(start_paused = true)]
async fn two_creators_race() {
    let world = World::default();
    let (a, b) = (world.process(1), world.process(2));
    let meter = Meter::new();
    let name = notes();
    let (x, y) = futures::join!(
        a.create(&meter, &name, settings(), Schema::default()),
        b.create(&meter, &name, settings(), Schema::default()),
    );
    assert_eq!([&x, &y].iter().filter(|r| r.is_ok()).count(), 1);
    let lost = x.err().or(y.err()).unwrap();
    assert_eq!(lost.kind(), Kind::Conflict);
}

#[tokio::test(start_paused = true)]
async fn bad_settings_write_nothing() {
    let store = World::default().process(1);
    let meter = Meter::new();
    let zero = Settings { dimension: 0, ..settings() };
    assert_eq!(
        store.create(&meter, &notes(), zero, Schema::default()).await.unwrap_err().kind(),
        Kind::Invalid
    );
    let column = |name: &str| Column { name: name.to_owned(), kind: ColumnType::Int, wide: false };
    let reserved = Schema { columns: vec![column("vector")] };
    assert_eq!(store.create(&meter, &notes(), settings(), reserved).await.unwrap_err().kind(), Kind::Invalid);
    assert_eq!(meter.io().puts, 0);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_failed_is_refused() {
    let store = World::default().process(1);
    let meter = Meter::new();
    let check = Check { name: "one of 16 racing creates wins".to_owned(), broken: Some("7 won".to_owned()) };
    let verdict = Verdict { format_version: 1, at_ms: 0, checks: vec![check] };
    let json = serde_json::to_vec(&verdict).unwrap();
    let sealed = esker_format::envelope::seal(esker_format::envelope::Kind::Store, 0, &json);
    store.client().overwrite(&meter, keys::STORE, sealed.into()).await.unwrap();
    let e = store.create(&meter, &notes(), settings(), Schema::default()).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Unavailable);
    assert!(e.to_string().contains("7 won"));
}

#[tokio::test(start_paused = true)]
async fn calls_that_open_a_collection_together_get_one_handle() {
    let (world, _store, _notes) = World::with_collection().await;
    let (process, meter, name) = (world.process(2), Meter::new(), notes());
    let open = || process.collection(&meter, &name);
    let (a, b, c) = futures::join!(open(), open(), open());
    let (a, b, c) = (a.unwrap(), b.unwrap(), c.unwrap());
    assert!(Arc::ptr_eq(&a, &b) && Arc::ptr_eq(&a, &c) && a.last_seen().is_some());
    let appends = [&a, &b, &c].into_iter().zip(1..).map(|(c, n)| c.append(&meter, upsert(n, &["x"])));
    let done = futures::future::try_join_all(appends).await.unwrap();
    assert!(done.iter().all(|d| d.position <= 2), "they share entries: {done:?}");
}
