//! Filtered searches, counts and scans: exact sets, whatever answers them.

use esker_format::record::{Record, Value};
use esker_format::schema::{Metric, VectorType};
use esker_store::Meter;
use futures::TryStreamExt;

use super::fixture::World;
use crate::engine::ScanRequest;
use crate::filter::Filter;
use crate::search::Search;

fn number(r: &Record) -> i64 {
    match r.metadata.get("number") {
        Some(Value::Int(n)) => *n,
        _ => -1,
    }
}

fn text<'a>(r: &'a Record, key: &str) -> &'a str {
    match r.metadata.get(key) {
        Some(Value::String(s)) => s,
        _ => "",
    }
}

type Case = (&'static str, fn(&Record) -> bool);

const CASES: &[Case] = &[
    ("section = 's3'", |r| text(r, "section") == "s3"),
    ("section IN ('s3', 's4') AND number < 900", |r| {
        matches!(text(r, "section"), "s3" | "s4") && number(r) < 900
    }),
    ("number >= 100 AND number < 140", |r| (100..140).contains(&number(r))),
    ("number BETWEEN 250 AND 260", |r| (250..=260).contains(&number(r))),
    ("NOT (number > 20)", |r| number(r) <= 20),
    ("array_has(tags, 't2') OR section = 's1'", |r| number(r) % 7 == 2 || text(r, "section") == "s1"),
    ("third IS NULL", |r| number(r) % 3 != 0),
    ("third", |r| number(r) % 6 == 0),
    ("text LIKE '%number 17%'", |r| text(r, "text").contains("number 17")),
    ("id = 'row 77'", |r| r.id == "row 77"),
    ("id IN ('row 5', 'nobody', 'row 1999') OR number = 8", |r| {
        matches!(r.id.as_str(), "row 5" | "row 1999") || number(r) == 8
    }),
    ("id LIKE 'row 12%'", |r| r.id.starts_with("row 12")),
    ("_version % 100 = 3", |r| r.version % 100 == 3),
    ("_version < 30", |r| r.version < 30),
    ("number = -5", |_| false),
    ("number != 4", |r| number(r) != 4),
];

/// A segment, rows overwritten and deleted by later segments, and a tail.
async fn world() -> World {
    let mut world = World::compacted(2000, 24, Metric::Cosine, VectorType::F32).await;
    world.fill(1990..2100).await;
    world.delete(&["row 5".to_owned(), "row 101".to_owned()]).await;
    world.compact().await;
    world.fill(2090..2110).await;
    world.delete(&["row 102".to_owned(), "row 255".to_owned()]).await;
    world
}

#[tokio::test]
async fn every_filter_gives_the_true_nearest_of_its_rows() {
    let mut world = world().await;
    let vectors = vec![world.near(3), world.near(9)];
    let held = world.cold();
    held.warm(&Meter::new()).await.unwrap();
    for reader in [world.cold(), world.probing().await, held] {
        for (sql, passes) in CASES {
            let filter = Some(Filter::sql(sql).unwrap());
            let search = Search { vectors: vectors.clone(), filter, explain: true, ..Search::default() };
            let (recall, reply) = world.recall(&reader, &search, passes).await;
            assert!(recall >= 0.95, "{sql}: {recall} {:?}", reply.explain);
        }
    }
}

#[tokio::test]
async fn counts_and_scans_are_exact() {
    let world = world().await;
    let reader = world.cold();
    for (sql, passes) in CASES.iter().chain(&[("true", (|_| true) as fn(&Record) -> bool)]) {
        let filter = Filter::sql(sql).unwrap();
        let expected: Vec<&String> = world.rows.values().filter(|r| passes(r)).map(|r| &r.id).collect();
        let (count, _) = reader.count(&Meter::new(), Some(&filter)).await.unwrap();
        assert_eq!(count as usize, expected.len(), "{sql}");
        let columns = Some(vec!["vector".to_owned(), "id".to_owned(), "number".to_owned()]);
        let request = ScanRequest { filter: Some(filter), columns, ..ScanRequest::default() };
        let scan = reader.scan(&Meter::new(), &request).await.unwrap();
        let batches: Vec<_> = scan.batches.try_collect().await.unwrap();
        let mut ids: Vec<String> = Vec::new();
        for batch in &batches {
            let column = arrow::array::AsArray::as_string::<i32>(batch.column(1));
            ids.extend(column.iter().flatten().map(str::to_owned));
        }
        ids.sort();
        assert!(ids.iter().eq(expected.iter().copied()), "{sql}: {} rows", ids.len());
    }
}

#[tokio::test]
async fn a_scan_has_every_column_and_keeps_its_limit() {
    let mut world = world().await;
    let record = Record {
        id: "last".to_owned(),
        vector: world.vector(),
        metadata: [("number".to_owned(), Value::Float(1.5))].into(),
        ..Record::default()
    };
    // The column widens after segments were written.
    world.upsert(vec![record]).await;
    let reader = world.cold();
    for limit in [0, 1, 700, 1500, 5000] {
        let request = ScanRequest { limit: Some(limit), ..ScanRequest::default() };
        let scan = reader.scan(&Meter::new(), &request).await.unwrap();
        let schema = scan.schema.clone();
        let batches: Vec<_> = scan.batches.try_collect().await.unwrap();
        assert_eq!(batches.iter().map(|b| b.num_rows()).sum::<usize>(), limit.min(world.rows.len()));
        assert!(batches.iter().all(|b| b.schema() == schema));
        assert_eq!(
            schema.field_with_name("number").unwrap().data_type(),
            &arrow::datatypes::DataType::Float64
        );
    }
    let (count, _) = reader.count(&Meter::new(), Some(&Filter::sql("number = 1.5").unwrap())).await.unwrap();
    assert_eq!(count, 1);
}

#[tokio::test]
async fn expired_rows_are_hidden_everywhere() {
    let mut world = World::new(16, Metric::L2, VectorType::F32).await;
    let now = esker_store::Seams::system().clock.now_ms();
    let mut records: Vec<Record> = (0..600).map(|i| world.record(i)).collect();
    for (i, record) in records.iter_mut().enumerate() {
        record.expires_at = match i % 3 {
            0 => Some(now - 1000),
            1 => Some(now + 1_000_000),
            _ => None,
        };
    }
    let query = records[0].vector.clone();
    world.upsert(records).await;
    let lives = |r: &Record| r.expires_at.is_none_or(|at| at >= now);
    for compacted in [false, true] {
        if compacted {
            world.compact().await;
        }
        let reader = world.cold();
        let search = Search { vectors: vec![query.clone()], k: 1000, ..Search::default() };
        let (recall, reply) = world.recall(&reader, &search, lives).await;
        assert_eq!((recall, reply.results[0].len()), (1.0, 400));
        assert_eq!(reader.count(&Meter::new(), None).await.unwrap().0, 400);
        let ids = ["row 0".to_owned(), "row 1".to_owned()];
        let (found, _) = reader.get(&Meter::new(), &ids, false).await.unwrap();
        assert!(found[0].is_none() && found[1].is_some());
        let like = Search { like: Some("row 0".to_owned()), ..Search::default() };
        assert_eq!(
            reader.search(&Meter::new(), &like).await.unwrap_err().kind(),
            esker_format::Kind::NotFound
        );
    }
}
