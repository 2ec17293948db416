use std::time::Duration;

use super::*;
use crate::collection::tests::{World, ids, notes, upsert};

#[tokio::test(start_paused = true)]
async fn a_warm_read_is_one_wave_without_a_listing() {
    let (_world, _store, notes) = World::with_collection().await;
    for n in 1..=3u128 {
        notes.append(&Meter::new(), upsert(n, &["a"])).await.unwrap();
    }
    notes.snapshot(&Meter::new()).await.unwrap();
    let meter = Meter::recording();
    let snapshot = notes.snapshot(&meter).await.unwrap();
    assert_eq!((snapshot.position, snapshot.tail.len(), snapshot.restarts), (3, 3, 0));
    let io = meter.io();
    assert_eq!((io.waves, io.gets, io.lists), (1, 2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_warm_reader_sees_what_others_wrote() {
    let (world, _store, writer) = World::with_collection().await;
    let reader = world.reopen(2).await;
    reader.snapshot(&Meter::new()).await.unwrap();
    let mut position = 0;
    for n in 1..=20u128 {
        position = writer.append(&Meter::new(), upsert(n, &["a"])).await.unwrap().position;
        if n % 7 == 0 {
            assert_eq!(reader.snapshot(&Meter::new()).await.unwrap().position, position);
        }
    }
    let meter = Meter::new();
    assert_eq!(reader.snapshot(&meter).await.unwrap().position, position);
    assert_eq!(meter.io().lists, 0);
}

#[tokio::test(start_paused = true)]
async fn an_eventual_read_needs_no_request() {
    let (world, _store, writer) = World::with_collection().await;
    let reader = world.reopen(2).await;
    writer.append(&Meter::new(), upsert(1, &["a"])).await.unwrap();
    reader.snapshot(&Meter::new()).await.unwrap();
    writer.append(&Meter::new(), upsert(2, &["b"])).await.unwrap();
    reader.client().seams().clock.sleep(Duration::from_secs(2)).await;
    let meter = Meter::new();
    let stale = reader.eventual(&meter, Duration::from_secs(5), 0).await.unwrap();
    assert_eq!((ids(&stale).len(), meter.io().gets, stale.staleness_ms), (1, 0, 2000));
    // Read your writes, and a bound that has passed, ask the store.
    assert_eq!(reader.eventual(&meter, Duration::from_secs(5), 2).await.unwrap().position, 2);
    writer.append(&Meter::new(), upsert(3, &["c"])).await.unwrap();
    reader.client().seams().clock.sleep(Duration::from_secs(9)).await;
    assert_eq!(reader.eventual(&meter, Duration::from_secs(5), 0).await.unwrap().position, 3);
}

#[tokio::test(start_paused = true)]
async fn a_head_that_went_backwards_is_only_slower() {
    let (world, _store, writer) = World::with_collection().await;
    let meter = Meter::new();
    let old = writer.client().get(&meter, &writer.keys().head()).await.unwrap().unwrap().0;
    writer.append(&meter, upsert(1, &["a"])).await.unwrap();
    let add = |s: &Schema| {
        let mut s = s.clone();
        let kind = esker_format::schema::ColumnType::Int;
        s.columns.push(esker_format::schema::Column { name: "year".to_owned(), kind, wide: false });
        Ok(Some(s))
    };
    writer.alter(&meter, add).await.unwrap();
    writer.client().overwrite(&meter, &writer.keys().head(), old).await.unwrap();
    let (reader, begun) = world.process(2).begin(&meter, &notes()).await.unwrap();
    assert_eq!(begun.manifest.version, 1);
    let snapshot = reader.finish(&meter, begun).await.unwrap();
    assert_eq!((snapshot.manifest.version, snapshot.schema.columns.len(), snapshot.position), (1, 1, 1));
    assert_eq!(snapshot.rows[0].rows.schema().fields().len(), 2 + 1 + 7);
}

#[tokio::test(start_paused = true)]
async fn a_gap_ends_the_tail() {
    // A rival's slot 2 is not there yet, though 3 is: nobody was told of either.
    let listed = [(3, Slot::default()), (1, Slot::default())];
    assert_eq!(append::tail(0, listed.iter().map(|(s, _)| *s)), [1]);
}
