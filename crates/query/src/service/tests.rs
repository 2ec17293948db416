use esker_format::record::{Record, Value};
use esker_format::schema::{Metric, VectorType};
use esker_store::Meter;

use super::*;
use crate::engine::tests::fixture::World;

fn record(id: &str, key: &str, value: Value) -> Record {
    Record {
        id: id.to_owned(),
        vector: vec![1.0, 2.0],
        metadata: [(key.to_owned(), value)].into(),
        ..Record::default()
    }
}

fn service(world: &World) -> Service {
    Service::new(Engine::new(world.store.clone(), Default::default()), None, Default::default())
}

#[test]
fn the_least_recently_used_are_let_go() {
    let mut recent = Recent::new(2);
    for i in 0..10 {
        recent.insert(i, i);
        assert_eq!(recent.get(&0), Some(0), "used again and again");
    }
    assert_eq!((recent.get(&9), recent.get(&3)), (Some(9), None));
}

#[tokio::test]
async fn a_kept_filter_follows_the_columns() {
    let mut world = World::new(2, Metric::L2, VectorType::F32).await;
    let (service, meter) = (service(&world), Meter::new());
    let filter = service.filter("year >= 2").unwrap();
    world.upsert(vec![record("a", "section", Value::String("x".into()))]).await;
    let name = world.name.clone();
    let count = |filter: &Filter| {
        let (service, filter, meter, name) = (service.clone(), filter.clone(), meter.clone(), name.clone());
        async move { service.count(&meter, &name, Some(&filter), Access::default()).await.map(|(n, _)| n) }
    };
    assert_eq!(count(&filter).await.unwrap_err().field(), Some("year"));
    world.upsert(vec![record("b", "year", Value::Int(2)), record("c", "year", Value::Int(1))]).await;
    assert_eq!(count(&filter).await.unwrap(), 1);
    // The column widens to floats: the filter is resolved again.
    world.upsert(vec![record("d", "year", Value::Float(2.5))]).await;
    let half = service.filter("year > 2.25").unwrap();
    assert_eq!((count(&filter).await.unwrap(), count(&half).await.unwrap()), (2, 1));
    assert_eq!(count(&service.filter("year >= 2").unwrap()).await.unwrap(), 2);
    assert_eq!(count(&service.filter(r#"{"year": {"$gte": 2}}"#).unwrap()).await.unwrap(), 2);
}

#[tokio::test]
async fn pages_of_a_compacted_collection_are_every_row_once() {
    let world = World::compacted(3000, 8, Metric::L2, VectorType::F16).await;
    let (service, meter) = (service(&world), Meter::new());
    for (filter, limit, expected) in
        [(None, 700, 3000), (Some("number < 1500"), 1100, 1500), (None, 3000, 3000)]
    {
        let mut request = PageRequest { limit, include_vector: true, ..PageRequest::default() };
        request.filter = filter.map(|f| service.filter(f).unwrap());
        let mut ids = std::collections::BTreeSet::new();
        loop {
            let mut page = service.scan(&meter, &world.name, &request).await.unwrap();
            let mut rows = 0;
            while let Some(batch) = page.batches.try_next().await.unwrap() {
                for record in records_of(&batch, &page.metadata, &world.name).unwrap() {
                    assert_eq!(record.metadata, world.rows[&record.id].metadata);
                    rows += 1;
                    assert!(ids.insert(record.id), "each row is in one page");
                }
            }
            assert_eq!(rows, limit.min(expected - (ids.len() - rows)));
            request.cursor = page.cursor;
            if page.cursor.is_none() {
                break;
            }
        }
        assert_eq!(ids.len(), expected);
    }
}
