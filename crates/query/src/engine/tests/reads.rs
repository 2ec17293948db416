//! Rows by id, searches like a row, SQL, positions and versions.

use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{Float32Type, Int64Type};
use esker_format::record::Record;
use esker_format::schema::{Metric, VectorType};
use esker_store::{Meter, Store};

use super::fixture::World;
use crate::engine::{Engine, Options};
use crate::search::{Consistency, Search};
use crate::sql;

#[tokio::test]
async fn rows_are_got_by_id_in_their_newest_version() {
    let mut world = World::compacted(700, 16, Metric::Cosine, VectorType::F32).await;
    let mut changed = world.record(44);
    changed.version = 9;
    world.upsert(vec![changed]).await;
    world.compact().await;
    let mut again = world.record(45);
    again.version = 10;
    world.upsert(vec![again]).await;
    world.delete(&["row 46".to_owned()]).await;
    let reader = world.cold();
    let ids: Vec<String> =
        ["row 44", "row 45", "row 46", "nobody", "row 47", "row 47"].map(str::to_owned).into();
    let (found, position) = reader.get(&Meter::new(), &ids, true).await.unwrap();
    for (id, found) in ids.iter().zip(&found) {
        let expected = world.rows.get(id);
        assert_eq!(found.as_ref().map(|r| &r.vector), expected.map(|r| &r.vector), "{id}");
        assert_eq!(
            found.as_ref().map(|r| (r.version, &r.metadata)),
            expected.map(|r| (r.version, &r.metadata))
        );
    }
    assert!(position > 0);
    let stats = reader.stats(&Meter::new()).await.unwrap();
    assert_eq!((stats.tail_ids, stats.position), (2, position));
}

#[tokio::test]
async fn a_row_is_among_the_rows_like_it() {
    let mut world = World::compacted(700, 16, Metric::Cosine, VectorType::F16).await;
    let moved = Record { vector: world.near(2), ..world.rows["row 9"].clone() };
    world.upsert(vec![moved]).await;
    for reader in [world.cold(), world.probing().await] {
        for id in ["row 8", "row 9"] {
            let search =
                Search { like: Some(id.to_owned()), k: 3, include_vector: true, ..Search::default() };
            let reply = reader.search(&Meter::new(), &search).await.unwrap();
            let first = &reply.results[0][0];
            assert_eq!(first.id, id);
            assert!(first.distance.abs() < 1e-3);
            let expected = &world.rows[id].vector;
            let close = |(a, b): (&f32, &f32)| (a - b).abs() < 0.01;
            assert!(first.vector.as_ref().unwrap().iter().zip(expected).all(close));
        }
        let nobody = Search { like: Some("nobody".to_owned()), ..Search::default() };
        assert_eq!(
            reader.search(&Meter::new(), &nobody).await.unwrap_err().kind(),
            esker_format::Kind::NotFound
        );
    }
}

#[tokio::test]
async fn versions_and_positions_name_states() {
    let mut world = World::compacted(300, 8, Metric::L2, VectorType::F32).await;
    let (reader, vector) = (world.cold(), world.vector());
    let base = Search::new(vector, 5);
    let then = reader.search(&Meter::new(), &base).await.unwrap();
    world.fill(300..340).await;
    world.compact().await;
    let as_of = Search { as_of: Some(then.version), ..base.clone() };
    let old = reader.search(&Meter::new(), &as_of).await.unwrap();
    assert_eq!((old.results, old.position), (then.results, then.position));
    let now = reader.search(&Meter::new(), &base).await.unwrap();
    assert!(now.position > then.position);
    let late = Search { min_position: Some(now.position + 1), ..base.clone() };
    assert_eq!(reader.search(&Meter::new(), &late).await.unwrap_err().field(), Some("min_position"));
    let eventual = Search { consistency: Consistency::Eventual, ..base.clone() };
    reader.search(&Meter::new(), &base).await.unwrap();
    let meter = Meter::new();
    reader.search(&meter, &eventual).await.unwrap();
    assert_eq!(meter.io().waves, 0, "what is known and cached needs no request: {:?}", meter.io());
    let gone = Search { as_of: Some(99), ..base };
    assert_eq!(reader.search(&Meter::new(), &gone).await.unwrap_err().kind(), esker_format::Kind::NotFound);
}

#[tokio::test]
async fn sql_sees_the_same_rows() {
    let mut world = World::compacted(1500, 16, Metric::Cosine, VectorType::F32).await;
    world.fill(1490..1600).await;
    let store: Arc<Store> = world.store.clone();
    let catalog = Engine::new(store, Options::default()).catalog(&Meter::new());
    let run = async |text: &str, vector: &[f32]| {
        let list = serde_json::json!([vector]);
        let params: Vec<sql::Param> =
            list.as_array().unwrap().iter().map(|v| sql::Param::json(v).unwrap()).collect();
        sql::query(catalog.clone(), text, &params, sql::Options::default()).await.unwrap()
    };
    let query = world.near(4);
    let out = run("SELECT count(*) AS n FROM books WHERE number < 1550", &[]).await;
    assert_eq!(out.batches[0].column(0).as_primitive::<Int64Type>().value(0), 1550);
    let text =
        "SELECT id, cosine_distance(vector, $1) AS d FROM books WHERE section = 's4' ORDER BY d LIMIT 7";
    let out = run(text, &query).await;
    assert_eq!(out.stats.searches, 1, "the index answers");
    let batch = arrow::compute::concat_batches(&out.schema, &out.batches).unwrap();
    let (ids, distances) =
        (batch.column(0).as_string::<i32>(), batch.column(1).as_primitive::<Float32Type>());
    let truth = world.truth(&query, 7, |r| r.id[4..].parse::<usize>().unwrap() % 24 == 4);
    for (i, (id, distance)) in truth.iter().enumerate() {
        assert_eq!(ids.value(i), id);
        assert!((distances.value(i) - distance).abs() < 1e-5);
    }
}
