use std::collections::BTreeMap;

use esker_format::record::Record;
use esker_format::schema::{Metric, VectorType};
use esker_index::SplitMix;
use esker_store::Meter;

use super::*;
use crate::engine::tests::fixture::World;

/// What each id is at, by the tail: the rows in order, and the ids that are gone.
fn seen(tail: &Tail) -> (Vec<TailRow>, BTreeMap<String, Option<TailRow>>) {
    let ids = tail.touched_from(0).unwrap();
    (tail.rows(None, 0).unwrap(), ids.into_iter().map(|id| (id.to_owned(), tail.get(id).unwrap())).collect())
}

#[tokio::test]
async fn a_tail_that_grew_is_the_one_made_at_once() {
    let mut world = World::new(4, Metric::L2, VectorType::F16).await;
    let (mut random, collection) = (SplitMix::new(11), world.collection().await);
    let mut tail = Tail::default();
    for round in 0..24 {
        let ids: Vec<String> = (0..1 + random.below(9)).map(|_| format!("{}", random.below(40))).collect();
        if round % 3 == 2 {
            world.delete(&ids).await;
        } else {
            let unique: std::collections::BTreeSet<String> = ids.into_iter().collect();
            let record = |id| Record { id, vector: vec![1.0; 4], version: round, ..Record::default() };
            world.upsert(unique.into_iter().map(record).collect()).await;
        }
        let snapshot = collection.snapshot(&Meter::new()).await.unwrap();
        assert!(tail.begins(snapshot.manifest.watermark, &snapshot.rows));
        tail = tail.extended(collection.id(), &snapshot.rows, &snapshot.tail).unwrap();
        let whole = Tail::new(collection.id(), 0, &snapshot.rows, &snapshot.tail).unwrap();
        assert_eq!((seen(&tail), tail.ids()), (seen(&whole), whole.ids()));
        let living: BTreeMap<&str, i64> = world.rows.values().map(|r| (r.id.as_str(), r.version)).collect();
        let rows = seen(&tail).0;
        assert_eq!(rows.len(), living.len());
        for (entry, row) in rows {
            let (ids, versions) = (column(tail.batch(entry), "id"), column(tail.batch(entry), "_version"));
            let id = ids.unwrap().as_string::<i32>().value(row as usize);
            let version = versions.unwrap().as_primitive::<Int64Type>().value(row as usize);
            assert_eq!(living[id], version);
        }
        for id in 0..40 {
            let (id, hash) = (format!("{id}"), collection.id().hash_id(&format!("{id}")));
            assert!(!tail.touches(&id) || tail.may_touch(hash));
        }
        assert!(tail.layers.len() <= 6, "{} layers", tail.layers.len());
    }
    let watermark = tail.watermark;
    assert!(!tail.begins(watermark + 1, &[]) && !tail.begins(watermark, &[]));
    let numbers = 0..tail.total();
    assert!(numbers.clone().all(|n| tail.number(tail.place(n)).map(|(number, _)| number) == Some(n)));
    assert!(numbers.clone().all(|n| tail.floor(tail.place(n)) == n));
    assert_eq!((tail.floor((0, 3)), tail.floor(tail.place(tail.total()))), (0, tail.total()));
}
