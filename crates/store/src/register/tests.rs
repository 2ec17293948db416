use esker_format::schema::{Column, ColumnType, Schema};

use super::*;
use crate::collection::tests::{Fault, World};

fn with_column(schema: &Schema, name: &str) -> Schema {
    let mut schema = schema.clone();
    schema.columns.push(Column { name: name.to_owned(), kind: ColumnType::Int, wide: false });
    schema
}

#[tokio::test(start_paused = true)]
async fn every_fault_of_a_commit_is_resolved() {
    for fault in [Fault::FailBefore, Fault::LostReply, Fault::Empty409, Fault::Stall] {
        let (world, _store, notes) = World::with_collection().await;
        world.storage.next_create_of("/manifest/", fault);
        let altered = notes.alter(&Meter::new(), |s| Ok(Some(with_column(s, "year")))).await.unwrap();
        assert_eq!((altered.version, altered.schema.columns.len()), (2, 1), "{fault:?}");
        let seen = world.reopen(2).await.manifest(&Meter::new()).await.unwrap();
        assert_eq!(seen, altered, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn rivals_rebase_on_each_other() {
    let (world, _store, a) = World::with_collection().await;
    let b = world.reopen(2).await;
    let meter = Meter::new();
    let add = |name: &'static str| move |s: &Schema| Ok(s.get(name).is_none().then(|| with_column(s, name)));
    let (x, y) = futures::join!(a.alter(&meter, add("x")), b.alter(&meter, add("y")));
    x.unwrap();
    y.unwrap();
    let newest = world.reopen(3).await.manifest(&meter).await.unwrap();
    let names: Vec<&str> = newest.schema.columns.iter().map(|c| c.name.as_str()).collect();
    assert_eq!((newest.version, names.len()), (3, 2));
}

#[tokio::test(start_paused = true)]
async fn a_name_that_stays_absent_ends_unknown() {
    let (world, _store, notes) = World::with_collection().await;
    for _ in 0..500 {
        world.storage.next_create_of("/manifest/", Fault::Empty409);
    }
    let e = notes.alter(&Meter::new(), |s| Ok(Some(with_column(s, "x")))).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Unknown);
    assert!(e.token().is_some());
}

#[tokio::test(start_paused = true)]
async fn without_a_head_the_register_is_listed() {
    let (world, _store, notes) = World::with_collection().await;
    let meter = Meter::new();
    let altered = notes.alter(&meter, |s| Ok(Some(with_column(s, "x")))).await.unwrap();
    notes.client().delete(&meter, &notes.keys().head()).await.unwrap();
    assert_eq!(world.reopen(2).await.manifest(&meter).await.unwrap(), altered);
    // A head that is garbage is as good as none.
    notes.client().overwrite(&meter, &notes.keys().head(), "garbage".into()).await.unwrap();
    assert_eq!(world.reopen(3).await.manifest(&meter).await.unwrap(), altered);
}

#[tokio::test(start_paused = true)]
async fn stubs_are_passed_over() {
    let (world, _store, notes) = World::with_collection().await;
    let meter = Meter::new();
    let first = notes.manifest(&meter).await.unwrap();
    let newest = notes.alter(&meter, |s| Ok(Some(with_column(s, "x")))).await.unwrap();
    let old = world.reopen(2).await;
    old.learn(first.clone(), None, []);
    let stub = esker_format::manifest::Stub { version: 1, token: first.token, floors: first.floors };
    notes.client().overwrite(&meter, &notes.keys().manifest(1), stub.encode().unwrap()).await.unwrap();
    assert_eq!(old.follow(&meter, first).await.unwrap(), newest);
    let as_of = notes.as_of(&meter, 1).await.unwrap_err();
    assert_eq!(as_of.kind(), Kind::Gone);
    assert_eq!(notes.as_of(&meter, 2).await.unwrap().manifest, newest);
    assert_eq!(notes.as_of(&meter, 3).await.unwrap_err().kind(), Kind::NotFound);
}
