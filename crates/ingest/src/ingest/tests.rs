use std::collections::BTreeMap;
use std::path::Path;

use arrow::array::{
    ArrayRef, AsArray, FixedSizeListArray, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::Float64Type;
use bytes::Bytes;
use esker_format::avro::framing;
use esker_format::limits;
use esker_format::record::Value;
use esker_format::schema::{Metric, Schema, VectorType};
use esker_store::{Client, Location, Seams, StoreEnv};
use tempfile::TempDir;

use super::*;
use crate::CollectionSink;
use crate::import::{Overrides, Plan, inspect, run};

fn on_every_store(test: impl AsyncFn(Arc<Store>)) {
    let dir = TempDir::new().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for location in [Location::Memory, Location::Directory(dir.path().join("store"))] {
        runtime.block_on(async {
            let backend = esker_store::open(&location, &StoreEnv::new(), true).unwrap();
            test(Arc::new(Store::new(Client::new(backend, Seams::simulated(1))))).await;
        });
    }
}

fn notes() -> Name {
    Name::new("notes").unwrap()
}

async fn create(store: &Store, name: &Name) -> Arc<Collection> {
    let settings = Settings { dimension: 2, metric: Metric::Cosine, vector_type: VectorType::F32 };
    store.create(&Meter::new(), name, settings, Schema::default()).await.unwrap()
}

fn record(id: &str, key: &str, value: Value) -> Record {
    Record {
        id: id.to_owned(),
        vector: vec![1.0, 2.0],
        metadata: BTreeMap::from([(key.to_owned(), value)]),
        ..Record::default()
    }
}

/// Ids in the tail, in log order, and ids deleted.
async fn tail(collection: &Collection) -> (Vec<String>, Vec<String>) {
    let snapshot = collection.snapshot(&Meter::new()).await.unwrap();
    let (mut ids, mut gone) = (Vec::new(), Vec::new());
    for entry in &snapshot.rows {
        ids.extend(entry.rows.column(0).as_string::<i32>().iter().map(|id| id.unwrap().to_owned()));
        gone.extend(entry.tombstones.iter().map(|t| t.id.clone()));
    }
    (ids, gone)
}

/// Under a key that was used, another body is refused, and the same one acknowledged, whatever it is encoded as.
#[test]
fn a_key_names_one_body() {
    on_every_store(async |store| {
        let collection = create(&store, &notes()).await;
        let (ingest, meter) = (Ingest::new(store.clone()), Meter::new());
        let (one, two) = (record("a", "x", Value::Int(1)), record("b", "x", Value::Int(1)));
        let write = async |records: &[Record], condition| {
            let options = WriteOptions { token: Some(Token(9)), condition };
            let mut data = Vec::new();
            records.iter().for_each(|r| r.encode(&mut data));
            let block = Block { rows: records.len() as u64, data: data.into() };
            ingest.blocks(&meter, &notes(), Op::Upsert, &[block], &options).await
        };
        let first = write(std::slice::from_ref(&one), Condition::None).await.unwrap();
        let json = serde_json::json!({"records": [{"id": "a", "vector": [1, 2], "metadata": {"x": 1}}]});
        let records: Vec<Record> = serde_json::from_value(json["records"].clone()).unwrap();
        let again = ingest.upsert(&meter, &notes(), &records, Some(Token(9))).await.unwrap();
        assert_eq!(again, Ack { duplicate: true, ..first });
        for condition in [Condition::None, Condition::IfAbsent] {
            assert_eq!(write(std::slice::from_ref(&one), condition).await.unwrap(), again);
            let e = write(std::slice::from_ref(&two), condition).await.unwrap_err();
            assert_eq!(e.kind(), Kind::Conflict, "{e}");
            assert!(e.to_string().contains(&Token(9).to_string()), "{e}");
        }
        let e = ingest.delete(&meter, &notes(), &["a"], &Some(Token(9)).into()).await.unwrap_err();
        assert_eq!(e.kind(), Kind::Conflict);
        let patch = |version| [Patch { id: "a".into(), version: Some(version), ..Patch::default() }];
        let named = |token| WriteOptions::from(Some(Token(token)));
        let e = ingest.patch(&meter, &notes(), &patch(5), &named(9)).await.unwrap_err();
        assert_eq!(e.kind(), Kind::Conflict);
        // What a patch makes of a record may differ the second time; what it says does not.
        let patched = ingest.patch(&meter, &notes(), &patch(5), &named(10)).await.unwrap();
        let later = record("a", "x", Value::Int(7));
        ingest.upsert(&meter, &notes(), &[later], None).await.unwrap();
        let again = ingest.patch(&meter, &notes(), &patch(5), &named(10)).await.unwrap();
        assert_eq!(again, Ack { duplicate: true, ..patched });
        let e = ingest.patch(&meter, &notes(), &patch(6), &named(10)).await.unwrap_err();
        assert_eq!(e.kind(), Kind::Conflict);
        assert_eq!(tail(&collection).await.0, ["a", "a", "a"]);
    });
}

#[test]
fn writes_are_acknowledged_once() {
    on_every_store(async |store| {
        let collection = create(&store, &notes()).await;
        let (ingest, meter) = (Ingest::new(store.clone()), Meter::new());
        let first = ingest
            .upsert(&meter, &notes(), &[record("a", "x", Value::Int(1))], Some(Token(9)))
            .await
            .unwrap();
        assert_eq!((first.rows, first.token, first.duplicate), (1, Token(9), false));
        let again = ingest
            .upsert(&meter, &notes(), &[record("a", "x", Value::Int(1))], Some(Token(9)))
            .await
            .unwrap();
        assert_eq!(again, Ack { duplicate: true, ..first });
        let gone = ingest.delete(&meter, &notes(), &["a", "b"], &WriteOptions::default()).await.unwrap();
        assert!(gone.position > first.position && gone.rows == 2);
        assert_eq!(tail(&collection).await, (vec!["a".to_owned()], vec!["a".to_owned(), "b".to_owned()]));
    });
}

#[test]
fn the_schema_follows_the_records_or_refuses_them() {
    on_every_store(async |store| {
        let collection = create(&store, &notes()).await;
        let (ingest, meter) = (Ingest::new(store.clone()), Meter::new());
        let upsert = async |value| ingest.upsert(&meter, &notes(), &[record("a", "x", value)], None).await;
        upsert(Value::Int(1)).await.unwrap();
        upsert(Value::Float(0.5)).await.unwrap();
        let e = upsert(Value::Bool(true)).await.unwrap_err();
        assert_eq!((e.kind(), e.field()), (Kind::Invalid, Some("records[0].metadata.x")));
        let e = ingest.upsert(&meter, &Name::new("nope").unwrap(), &[], None).await.unwrap_err();
        assert_eq!(e.kind(), Kind::NotFound);
        let snapshot = collection.snapshot(&Meter::new()).await.unwrap();
        assert_eq!((snapshot.schema.columns.len(), snapshot.rows.len()), (1, 2));
    });
}

#[test]
fn a_name_that_was_dropped_and_created_again_is_found() {
    on_every_store(async |store| {
        create(&store, &notes()).await;
        let writer = Arc::new(Store::new(store.client().clone()));
        let (ingest, meter) = (Ingest::new(writer), Meter::new());
        ingest.upsert(&meter, &notes(), &[record("a", "x", Value::Int(1))], None).await.unwrap();
        store.drop_collection(&meter, &notes()).await.unwrap();
        let second = create(&store, &notes()).await;
        ingest.upsert(&meter, &notes(), &[record("b", "x", Value::Int(1))], None).await.unwrap();
        assert_eq!(tail(&second).await.0, ["b"]);
    });
}

fn file(dir: &Path, rows: usize) -> std::path::PathBuf {
    use std::io::Write;
    let path = dir.join("notes.jsonl");
    let mut out = std::fs::File::create(&path).unwrap();
    (0..rows)
        .for_each(|i| writeln!(out, "{{\"id\":{i},\"vector\":[1,{i}],\"even\":{}}}", i % 2 == 0).unwrap());
    path
}

#[test]
fn an_import_runs_twice_and_writes_once() {
    let dir = TempDir::new().unwrap();
    let path = file(dir.path(), 300);
    on_every_store(async |store| {
        let collection = create(&store, &notes()).await;
        let plan = || {
            let existing = collection.last_seen().map(|m| m.settings.clone());
            let inspected = inspect(&path, &Overrides { existing, ..Overrides::default() }).unwrap();
            let settings = inspected.inference.settings();
            Plan::new(&path, inspected, collection.id().clone(), settings).unwrap().with_limits(20, 1 << 20)
        };
        let clock = store.client().seams().clock.clone();
        for skipped in [0, 300] {
            let sink = CollectionSink::new(collection.clone(), Meter::new(), None);
            let report = run(plan(), &sink, clock.as_ref(), &|_| {}).await.unwrap();
            assert_eq!((report.rows, report.skipped, report.batches), (300, skipped, 15));
        }
        // Several batches of one import may share an entry.
        let (mut ids, _) = tail(&collection).await;
        ids.sort_by_key(|id| id.parse::<u32>().unwrap());
        assert_eq!(ids, (0..300).map(|i| i.to_string()).collect::<Vec<_>>());
    });
}

/// The blocks of the newest entry of the log, and what their batch does.
async fn newest_entry(collection: &Collection) -> (Op, Vec<Block>) {
    let snapshot = collection.snapshot(&Meter::new()).await.unwrap();
    let entry = &snapshot.tail.last().unwrap().entry;
    (entry.batches[0].op, entry.blocks.clone())
}

#[test]
fn a_framed_payload_reaches_the_log_unchanged() {
    on_every_store(async |store| {
        let collection = create(&store, &notes()).await;
        let (ingest, meter, options) = (Ingest::new(store.clone()), Meter::new(), WriteOptions::default());
        let mut data = Vec::new();
        record("a", "x", Value::Int(1)).encode(&mut data);
        // Another encoding of the same schema than ours: the vector in two blocks, the last with its size.
        let vector = [2u8, 0, 0, 128, 63, 1, 8, 0, 0, 0, 64, 0];
        data.extend_from_slice(&[&[2, b'b', 0][..], &vector, &[0, 0, 0, 0, 0, 2, 0, 0, 0]].concat());
        let payload = Bytes::from(framing::encode("upsert", &data));
        let write = async |op, payload: &Bytes| {
            ingest.write(&meter, &notes(), op, Body::Framed(payload.clone()), &options).await
        };
        let ack = write(Op::Upsert, &payload).await.unwrap();
        assert_eq!((ack.position, ack.rows), (1, 2));
        let (op, blocks) = newest_entry(&collection).await;
        assert_eq!((op, blocks.len(), blocks[0].rows, &blocks[0].data[..]), (Op::Upsert, 1, 2, &data[..]));
        assert_eq!(tail(&collection).await.0, ["a", "b"]);

        let refused = |e: Result<Ack>| {
            let e = e.unwrap_err();
            (e.kind(), e.field().map(str::to_owned), e.to_string())
        };
        let (kind, field, text) = refused(write(Op::Delete, &payload).await);
        assert_eq!((kind, field.as_deref()), (Kind::Invalid, Some("avro_payload")));
        assert_eq!(text, "the payload is of an upsert, the request a delete");
        let (_, field, _) = refused(write(Op::Upsert, &payload.slice(..payload.len() - 1)).await);
        assert!(field.unwrap().starts_with("records[1]"));
        let trailing = Bytes::from([&payload[..], &[7]].concat());
        let (_, field, _) = refused(write(Op::Upsert, &trailing).await);
        assert!(field.unwrap().starts_with("records[2]"));
        assert_eq!(refused(write(Op::Upsert, &payload.slice(..14)).await).2, "the batch has no records");

        let mut tombstone = Vec::new();
        esker_format::avro::encode_tombstone(&mut tombstone, "a");
        write(Op::Delete, &framing::encode("delete", &tombstone).into()).await.unwrap();
        let (op, blocks) = newest_entry(&collection).await;
        assert_eq!((op, &blocks[0].data[..]), (Op::Delete, &tombstone[..]));
    });
}

/// Two rows with every kind of column; their vectors of 64 bits.
fn table() -> RecordBatch {
    let vectors = [[1.0, 2.0], [3.0, 4.5]].map(|v| Some(v.map(Some)));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("title", Arc::new(StringArray::from(vec![Some("t"), None]))),
        ("id", Arc::new(StringArray::from(vec!["a", "b"]))),
        ("vector", Arc::new(FixedSizeListArray::from_iter_primitive::<Float64Type, _, _>(vectors, 2))),
        ("year", Arc::new(Int32Array::from(vec![1999, 2001]))),
        ("_timestamp", Arc::new(TimestampMicrosecondArray::from(vec![5_000, 6_999]))),
        ("_expires_at", Arc::new(Int64Array::from(vec![None, Some(9)]))),
        ("_version", Arc::new(Int64Array::from(vec![1, 7]))),
        ("_seq", Arc::new(Int64Array::from(vec![3, 4]))),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap()
}

#[test]
fn arrow_columns_become_records() {
    on_every_store(async |store| {
        let collection = create(&store, &notes()).await;
        let (ingest, meter, options) = (Ingest::new(store.clone()), Meter::new(), WriteOptions::default());
        let write = async |op, batches: &[RecordBatch]| {
            ingest.write(&meter, &notes(), op, Body::Arrow(batches.to_vec()), &options).await
        };
        let (first, second) = (table().slice(0, 1), table().slice(1, 1));
        assert_eq!(write(Op::Upsert, &[first, second]).await.unwrap().rows, 2);
        let (_, blocks) = newest_entry(&collection).await;
        let metadata = |title: Option<&str>, year| {
            let title = title.map(|t| ("title".to_owned(), Value::String(t.to_owned())));
            title.into_iter().chain([("year".to_owned(), Value::Int(year))]).collect()
        };
        let a = Record {
            id: "a".into(),
            vector: vec![1.0, 2.0],
            metadata: metadata(Some("t"), 1999),
            timestamp: 5,
            ..Record::default()
        };
        let b = Record {
            id: "b".into(),
            vector: vec![3.0, 4.5],
            metadata: metadata(None, 2001),
            timestamp: 6,
            expires_at: Some(9),
            version: 7,
            ..Record::default()
        };
        let mut wanted = Vec::new();
        [a, b].iter().for_each(|r| r.encode(&mut wanted));
        let stored: Vec<u8> = blocks.iter().flat_map(|b| b.data.to_vec()).collect();
        assert_eq!(stored, wanted);

        let field = |e: Result<Ack>| e.unwrap_err().field().unwrap_or_default().to_owned();
        assert_eq!(field(write(Op::Upsert, &[table().project(&[1, 3]).unwrap()]).await), "vector");
        assert_eq!(field(write(Op::Upsert, &[]).await), "records");
        let many = vec![table(); limits::BATCH_ROWS / 2 + 1];
        assert_eq!(field(write(Op::Upsert, &many).await), "records");
        assert_eq!(field(write(Op::Delete, &[table()]).await), "records");
        let ids = table().project(&[1]).unwrap();
        assert_eq!(write(Op::Delete, &[ids.clone(), ids]).await.unwrap().rows, 4);
    });
}

#[test]
fn writes_can_run_on_any_thread() {
    fn sendable<T: Send>(_: T) {}
    on_every_store(async |store| {
        let (ingest, meter) = (Ingest::new(store.clone()), Meter::new());
        sendable(ingest.upsert(&meter, &notes(), &[], None));
        let options = WriteOptions::default();
        sendable(ingest.write(&meter, &notes(), Op::Upsert, Body::Records(Vec::new()), &options));
        sendable(ingest.patch(&meter, &notes(), &[], &options));
        sendable(ingest.delete_untouched(&meter, &notes(), &[], 0, None));
        sendable(ingest.delete(&meter, &notes(), &["a"], &WriteOptions::default()));
        let collection = create(&store, &notes()).await;
        let dir = TempDir::new().unwrap();
        let path = file(dir.path(), 1);
        let inspected = inspect(&path, &Overrides::default()).unwrap();
        let settings = inspected.inference.settings();
        let plan = Plan::new(&path, inspected, collection.id().clone(), settings).unwrap();
        let sink = CollectionSink::new(collection, meter, None);
        sendable(run(plan, &sink, store.client().seams().clock.as_ref(), &|_| {}));
    });
}

/// Rows a second of 768 dimensions from the client's bytes to the acknowledgement, over memory. Run it by
/// `cargo test --release -p esker-ingest -- --ignored --nocapture rates`.
#[tokio::test]
#[ignore = "a measurement"]
#[allow(clippy::print_stdout, clippy::disallowed_macros, reason = "its result is what it prints")]
async fn rates() {
    const DIMENSION: usize = 768;
    const ROWS: usize = 5_000;
    let backend = esker_store::open(&Location::Memory, &StoreEnv::new(), true).unwrap();
    let store = Arc::new(Store::new(Client::new(backend, Seams::system())));
    let settings =
        Settings { dimension: DIMENSION as u32, metric: Metric::Cosine, vector_type: VectorType::F32 };
    store.create(&Meter::new(), &notes(), settings, Schema::default()).await.unwrap();
    let records: Vec<Record> = (0..ROWS)
        .map(|i| Record {
            id: format!("record-{i}"),
            vector: (0..DIMENSION).map(|d| (i * 31 + d * 17) as f32 % 101.0 - 50.5).collect(),
            metadata: [("n".to_owned(), Value::Int(i as i64)), ("s".to_owned(), Value::String("t".into()))]
                .into(),
            ..Record::default()
        })
        .collect();
    let mut data = Vec::new();
    records.iter().for_each(|r| r.encode(&mut data));
    let container = esker_format::avro::container::write(&BTreeMap::new(), &[(ROWS as u64, &data)]);
    let list = records.iter().map(|r| Some(r.vector.iter().copied().map(Some).collect::<Vec<_>>()));
    let vectors = FixedSizeListArray::from_iter_primitive::<arrow::datatypes::Float32Type, _, _>(
        list,
        DIMENSION as i32,
    );
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(records.iter().map(|r| Some(r.id.as_str())).collect::<StringArray>())),
        ("vector", Arc::new(vectors)),
        ("n", Arc::new((0..ROWS as i64).map(Some).collect::<Int64Array>())),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let bodies = [
        ("records", Body::Records(records)),
        ("framed", Body::Framed(framing::encode("upsert", &data).into())),
        ("container", Body::Container(container.into())),
        ("arrow", Body::Arrow(vec![batch])),
    ];
    let (ingest, clock) = (Ingest::new(store.clone()), store.client().seams().clock.clone());
    for condition in [Condition::None, Condition::IfVersion(1)] {
        for (what, body) in &bodies {
            let options = WriteOptions { token: None, condition };
            let start = clock.elapsed();
            for _ in 0..4 {
                let written = ingest.write(&Meter::new(), &notes(), Op::Upsert, body.clone(), &options).await;
                assert_eq!(written.unwrap().rows, ROWS as u32);
            }
            let rate = (4 * ROWS) as f64 / (clock.elapsed() - start).as_secs_f64();
            println!("{what}, {condition:?}: {rate:.0} rows/s");
        }
    }
}
