use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    ArrayRef, AsArray, FixedSizeListArray, Float32Array, Int64Array, RecordBatch, StringArray,
};
use arrow::datatypes::{DataType, Field};
use arrow::ipc::writer::StreamWriter;
use esker_format::avro::{container, framing};
use esker_format::record::{Record, Value};
use esker_format::schema::{Metric, Settings, VectorType};
use esker_store::{Location, Seams, StoreEnv, open};

use super::*;
use crate::batch::Batcher;

/// More than a batch.
const ROWS: usize = limits::BATCH_ROWS + 500;

pub(super) const KINDS: [Encoding; 5] =
    [Encoding::Json, Encoding::Ndjson, Encoding::Avro, Encoding::FramedAvro, Encoding::Arrow];

fn notes() -> Name {
    Name::new("notes").unwrap()
}

async fn store() -> (tempfile::TempDir, Arc<Store>) {
    let folder = tempfile::tempdir().unwrap();
    let backend = open(&Location::Directory(folder.path().to_owned()), &StoreEnv::new(), true).unwrap();
    let store = Arc::new(Store::new(Client::new(backend, Seams::system())));
    let settings = Settings { dimension: 2, metric: Metric::L2, vector_type: VectorType::F32 };
    store.create(&Meter::new(), &notes(), settings, Default::default()).await.unwrap();
    (folder, store)
}

pub(super) fn records(n: usize) -> Vec<Record> {
    let record = |i: usize| Record {
        id: format!("r{i}"),
        vector: vec![i as f32, 0.5],
        metadata: [("year".to_owned(), Value::Int(i as i64))].into(),
        ..Record::default()
    };
    (0..n).map(record).collect()
}

fn arrow(records: &[Record]) -> Vec<u8> {
    let vectors = Float32Array::from_iter_values(records.iter().flat_map(|r| r.vector.iter().copied()));
    let item = Arc::new(Field::new("item", DataType::Float32, false));
    let columns: [(&str, ArrayRef); 3] = [
        ("id", Arc::new(StringArray::from_iter_values(records.iter().map(|r| &r.id)))),
        ("vector", Arc::new(FixedSizeListArray::new(item, 2, Arc::new(vectors), None))),
        ("year", Arc::new(Int64Array::from_iter_values(records.iter().map(|r| r.vector[0] as i64)))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    for first in (0..batch.num_rows()).step_by(3000) {
        writer.write(&batch.slice(first, 3000.min(batch.num_rows() - first))).unwrap();
    }
    writer.into_inner().unwrap()
}

pub(super) fn encoded(kind: Encoding, records: &[Record]) -> Vec<u8> {
    let mut blocks: Vec<(u64, Vec<u8>)> = Vec::new();
    for part in records.chunks(500) {
        let mut block = Vec::new();
        part.iter().for_each(|r| r.encode(&mut block));
        blocks.push((part.len() as u64, block));
    }
    match kind {
        Encoding::Json => serde_json::to_vec(&serde_json::json!({ "records": records })).unwrap(),
        Encoding::Ndjson => {
            let line = |r: &Record| serde_json::to_string(r).unwrap() + "\n";
            records.iter().map(line).collect::<String>().into_bytes()
        }
        Encoding::Avro => {
            let blocks: Vec<_> = blocks.iter().map(|(n, data)| (*n, data.as_slice())).collect();
            container::write(&Default::default(), &blocks)
        }
        Encoding::FramedAvro => {
            let all: Vec<u8> = blocks.into_iter().flat_map(|(_, data)| data).collect();
            framing::encode("upsert", &all)
        }
        _ => arrow(records),
    }
}

impl Uploads {
    async fn given(&self, bytes: Vec<u8>) -> Token {
        let meter = Meter::new();
        let place = self.create(&meter, &notes()).await.unwrap();
        assert_eq!(place.url, None, "a directory signs nothing");
        self.send(place.token, bytes).await.unwrap();
        place.token
    }

    async fn send(&self, token: Token, bytes: Vec<u8>) -> Result<u64> {
        let pieces = bytes.chunks(100_000).map(|p| Ok::<_, std::io::Error>(Bytes::copy_from_slice(p)));
        let pieces: Vec<_> = pieces.collect();
        self.put(&Meter::new(), &notes(), token, futures::stream::iter(pieces)).await
    }

    async fn done(&self, token: Token, encoding: Encoding, until: Option<Duration>) -> Result<Committed> {
        let options = CommitOptions { encoding, key: None, until };
        self.commit(&Meter::new(), &notes(), token, &options).await
    }
}

/// Rows of every batch in the log, in its order.
async fn log(store: &Store) -> Vec<usize> {
    let collection = store.collection(&Meter::new(), &notes()).await.unwrap();
    let snapshot = collection.snapshot(&Meter::new()).await.unwrap();
    snapshot.tail.iter().flat_map(|e| e.entry.batches.iter().map(|b| b.rows as usize)).collect()
}

#[tokio::test]
async fn a_body_of_any_encoding_is_written_once_however_often_it_is_committed() {
    let (_folder, store) = store().await;
    let uploads = Uploads::new(store.clone());
    let all = records(ROWS);
    for (at, kind) in (0..).zip(KINDS) {
        let token = uploads.given(encoded(kind, &all)).await;
        let first = uploads.done(token, kind, None).await.unwrap();
        let position = 2 * (at + 1);
        let expected = Committed { rows: ROWS as u64, position, done: true, duplicate: false };
        assert_eq!(first, expected, "{kind:?}");
        let again = uploads.done(token, kind, None).await.unwrap();
        assert_eq!(again, Committed { duplicate: true, ..expected }, "{kind:?}");
        let other = KINDS.into_iter().find(|k| *k != kind).unwrap();
        let e = uploads.done(token, other, None).await.unwrap_err();
        assert_eq!(e.kind(), Kind::Conflict, "{e}");
        assert!(e.to_string().contains(kind.media_type()), "{e}");
    }
    let one = [limits::BATCH_ROWS, 500];
    assert_eq!(log(&store).await, one.repeat(KINDS.len()));
    let collection = store.collection(&Meter::new(), &notes()).await.unwrap();
    let snapshot = collection.snapshot(&Meter::new()).await.unwrap();
    let found = collection.lookup(&Meter::new(), &snapshot, &["r10400"], 0).await.unwrap();
    let record = found[0].as_ref().unwrap().record(&snapshot.schema).unwrap();
    assert_eq!(record.metadata["year"], Value::Int(10_400));
}

#[tokio::test]
async fn two_uploads_under_one_key_are_one() {
    let (_folder, store) = store().await;
    let uploads = Uploads::new(store.clone());
    let key = Some(Token::from_key("file 7"));
    let options = CommitOptions { encoding: Encoding::Avro, key, until: None };
    for duplicate in [false, true] {
        let token = uploads.given(encoded(Encoding::Avro, &records(10))).await;
        let done = uploads.commit(&Meter::new(), &notes(), token, &options).await.unwrap();
        assert_eq!(done, Committed { rows: 10, position: 1, done: true, duplicate });
        let e = uploads.done(token, Encoding::Avro, None).await.unwrap_err();
        assert!(e.kind() == Kind::Conflict && e.to_string().contains("another idempotency key"), "{e}");
    }
}

#[tokio::test]
async fn a_commit_without_time_goes_on_where_it_was() {
    let (_folder, store) = store().await;
    let uploads = Uploads::new(store.clone());
    let token = uploads.given(encoded(Encoding::FramedAvro, &records(3 * limits::BATCH_ROWS))).await;
    let mut seen = Vec::new();
    loop {
        // Over before it begins: a batch each time.
        let done = uploads.done(token, Encoding::FramedAvro, Some(Duration::ZERO)).await.unwrap();
        seen.push((done.rows / limits::BATCH_ROWS as u64, done.done));
        if done.done {
            break;
        }
        assert!(seen.len() < 20, "{seen:?}");
    }
    assert!(seen.is_sorted(), "{seen:?}");
    assert_eq!(log(&store).await, [limits::BATCH_ROWS; 3]);
}

/// Each commit reads the part of the body that its batches are in, and no more than a piece ahead.
#[tokio::test]
async fn a_commit_that_goes_on_reads_what_is_left() {
    let (_folder, store) = store().await;
    let uploads = Uploads::new(store.clone());
    let all = records(2 * limits::BATCH_ROWS + 500);
    for (at, kind) in (0..).zip(KINDS) {
        let body = encoded(kind, &all);
        let token = uploads.given(body.clone()).await;
        let collection = store.collection(&Meter::new(), &notes()).await.unwrap();
        let progress = collection.keys().progress(token);
        let options = CommitOptions { encoding: kind, key: None, until: Some(Duration::ZERO) };
        let mut left = body.len() as u64;
        loop {
            let meter = Meter::new();
            let done = uploads.commit(&meter, &notes(), token, &options).await.unwrap();
            // The log's own reads and the progress are small beside it.
            let read = meter.io().bytes_read;
            assert!(read < left + 30_000, "{kind:?}: {read} bytes were read of {left}");
            if done.done {
                break;
            }
            let (bytes, _) = collection.client().get(&Meter::new(), &progress).await.unwrap().unwrap();
            let known = Progress::decode(&progress, &bytes).unwrap();
            assert_eq!((known.resume.batch, known.resume.row), (known.batches, known.rows), "{kind:?}");
            left = known.resume.head + body.len() as u64 - known.resume.at;
            assert!(left < body.len() as u64 * 4 / 5, "{kind:?}: {known:?}");
        }
        assert_eq!(log(&store).await.len(), 3 * (at + 1), "{kind:?}");
    }
    let collection = store.collection(&Meter::new(), &notes()).await.unwrap();
    let snapshot = collection.snapshot(&Meter::new()).await.unwrap();
    let found = collection.lookup(&Meter::new(), &snapshot, &["r0", "r20499", "r10000"], 0).await.unwrap();
    assert!(found.iter().all(Option::is_some));
}

/// A place in a body is one of that body: a damaged record of progress is no reason to begin elsewhere.
#[tokio::test]
async fn a_place_beyond_the_body_is_refused() {
    let (_folder, store) = store().await;
    let uploads = Uploads::new(store.clone());
    let token = uploads.given(encoded(Encoding::Ndjson, &records(2 * limits::BATCH_ROWS))).await;
    assert!(!uploads.done(token, Encoding::Ndjson, Some(Duration::ZERO)).await.unwrap().done);
    let collection = store.collection(&Meter::new(), &notes()).await.unwrap();
    let (client, key) = (collection.client(), collection.keys().progress(token));
    let (bytes, _) = client.get(&Meter::new(), &key).await.unwrap().unwrap();
    let mut progress = Progress::decode(&key, &bytes).unwrap();
    progress.resume.at = 1 << 40;
    client.overwrite(&Meter::new(), &key, progress.encode().unwrap()).await.unwrap();
    let e = uploads.done(token, Encoding::Ndjson, None).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Corrupt, "{e}");
}

#[tokio::test]
async fn what_is_wrong_is_said_as_of_an_upsert_with_the_row() {
    let (_folder, store) = store().await;
    let uploads = Uploads::new(store.clone());
    let mut bad = records(ROWS);
    bad[10_001].vector = vec![1.0];
    for kind in [Encoding::Json, Encoding::Ndjson, Encoding::Avro, Encoding::FramedAvro] {
        let token = uploads.given(encoded(kind, &bad)).await;
        let e = uploads.done(token, kind, None).await.unwrap_err();
        assert_eq!((e.kind(), e.field()), (Kind::Invalid, Some("records[10001].vector")), "{kind:?}: {e}");
        assert!(e.to_string().starts_with("stopped, with 10000 rows in the collection: "), "{e}");
    }
    let wrong = |text: &str| text.as_bytes().to_vec();
    for (kind, body, field, says) in [
        (
            Encoding::Json,
            wrong(r#"{"records":[{"id":"a","vector":[1,"x"]}]}"#),
            "records[0].vector[1]",
            "invalid",
        ),
        (Encoding::Json, wrong(r#"{"records":[],"if_absent":true}"#), "if_absent", "unknown field"),
        (
            Encoding::Json,
            wrong(r#"{"records":[{"id":"a","vector":[1,2],"rank":1}]}"#),
            "records[0].rank",
            "null",
        ),
        (Encoding::Json, wrong("[]"), "body", "expected an object"),
        (Encoding::Json, wrong(r#"{"records":["#), "body", "EOF"),
        (Encoding::Json, wrong(r#"{"records":[]}"#), "records", "no records"),
        (
            Encoding::Ndjson,
            wrong("{\"id\":\"a\",\"vector\":[1,2]}\n{\"id\":1}\n"),
            "records[1].id",
            "invalid",
        ),
        (Encoding::Avro, wrong("no file"), "file", "Avro"),
        (Encoding::FramedAvro, wrong("no frame"), "avro_payload", "schema version"),
        (Encoding::FramedAvro, framing::encode("delete", b""), "avro_payload", "delete"),
        (Encoding::FramedAvro, framing::encode("upsert", &[2]), "records[0]", "ends within"),
        (Encoding::Arrow, wrong("no stream"), "body", "bytes"),
    ] {
        let token = uploads.given(body).await;
        let e = uploads.done(token, kind, None).await.unwrap_err();
        assert_eq!((e.kind(), e.field()), (Kind::Invalid, Some(field)), "{kind:?}: {e}");
        assert!(e.to_string().contains(says), "{kind:?}: {e}");
    }
    assert_eq!(
        log(&store).await,
        [limits::BATCH_ROWS; 4],
        "the batches before the bad row, and nothing else"
    );
}

/// Of two commits at once, the one that was stopped does not undo what the other one said.
#[tokio::test]
async fn what_is_done_stays_done() {
    let (_folder, store) = store().await;
    let uploads = Uploads::new(store.clone());
    let all = records(3 * limits::BATCH_ROWS);
    let token = uploads.given(encoded(Encoding::Avro, &all)).await;
    let (whole, part) = tokio::join!(
        uploads.done(token, Encoding::Avro, None),
        uploads.done(token, Encoding::Avro, Some(Duration::ZERO)),
    );
    assert!(whole.unwrap().done);
    part.unwrap();
    let again = uploads.done(token, Encoding::Avro, None).await.unwrap();
    assert_eq!((again.done, again.duplicate, again.rows), (true, true, all.len() as u64));
    assert_eq!(log(&store).await, [limits::BATCH_ROWS; 3]);
    // Another body under the same name is not taken for this one.
    uploads.send(token, encoded(Encoding::Avro, &all[..10])).await.unwrap();
    assert_eq!(uploads.done(token, Encoding::Avro, None).await.unwrap_err().kind(), Kind::Conflict);
}

#[tokio::test]
async fn commits_beyond_what_memory_has_room_for_are_told_to_come_later() {
    let (_folder, store) = store().await;
    let uploads = Uploads::new(store);
    let held: Vec<_> = (0..COMMITS).map(|_| uploads.commits.try_acquire().unwrap()).collect();
    let e = uploads.done(Token(7), Encoding::Json, None).await.unwrap_err();
    assert!(e.kind() == Kind::Busy && e.retry_after().is_some(), "{e}");
    drop(held);
    let _held: Vec<_> = (0..PUTS).map(|_| uploads.puts.try_acquire().unwrap()).collect();
    assert_eq!(uploads.send(Token(7), vec![1]).await.unwrap_err().kind(), Kind::Busy);
}

#[tokio::test]
async fn a_body_that_is_not_there_or_another_by_now_is_refused() {
    let (_folder, store) = store().await;
    let uploads = Uploads::new(store.clone());
    let e = uploads.done(Token(7), Encoding::Json, None).await.unwrap_err();
    assert_eq!(e.kind(), Kind::NotFound, "{e}");
    let none = Name::new("none").unwrap();
    assert_eq!(uploads.create(&Meter::new(), &none).await.unwrap_err().kind(), Kind::NotFound);
    let all = records(2 * limits::BATCH_ROWS);
    let token = uploads.given(encoded(Encoding::Avro, &all)).await;
    let part = uploads.done(token, Encoding::Avro, Some(Duration::ZERO)).await.unwrap();
    assert!(!part.done);
    uploads.send(token, encoded(Encoding::Avro, &all[..10])).await.unwrap();
    let e = uploads.done(token, Encoding::Avro, None).await.unwrap_err();
    assert!(e.kind() == Kind::Conflict && e.to_string().contains("put again"), "{e}");
    let e = uploads.send(Token(8), Vec::new()).await.unwrap_err();
    assert!(e.to_string().contains("empty"), "{e}");
}

/// Cut anywhere, a body gives what it gives in one piece; broken off anywhere, an error, and no batch that another try would
/// cut otherwise.
#[test]
fn bodies_arrive_in_any_pieces() {
    let settings = Settings { dimension: 2, metric: Metric::L2, vector_type: VectorType::F32 };
    let target = Target { collection: "notes-1".parse().unwrap(), settings };
    let read = |kind: Encoding, bytes: &[u8], size: usize, length: usize| {
        let (send, receive) = mpsc::channel(bytes.len() + 1);
        bytes.chunks(size).for_each(|p| send.try_send(Bytes::copy_from_slice(p)).unwrap());
        drop(send);
        let mut cuts = Vec::new();
        let mut give = |cut: Cut, _: Option<Resume>| {
            cuts.push(cut);
            Ok(())
        };
        let batcher = Batcher::with_limits(target.clone(), 7, 1 << 20);
        let chunks = Chunks::new(receive, length as u64);
        let ended = read::within(kind, chunks, batcher, Resume::default(), &mut give);
        (ended, cuts)
    };
    let all = records(30);
    for kind in KINDS {
        let bytes = encoded(kind, &all);
        let (ended, whole) = read(kind, &bytes, usize::MAX, bytes.len());
        ended.unwrap();
        assert_eq!(whole.iter().map(Cut::rows).sum::<u64>(), 30, "{kind:?}");
        for size in [1, 3, 64] {
            assert_eq!(read(kind, &bytes, size, bytes.len()).1, whole, "{kind:?} in pieces of {size}");
        }
        for end in 0..bytes.len() {
            let (ended, cuts) = read(kind, &bytes[..end], 64, bytes.len());
            assert!(ended.is_err(), "{kind:?} broken off at {end}");
            assert_eq!(cuts, whole[..cuts.len()], "{kind:?} broken off at {end}");
        }
    }
}

#[test]
fn arrow_streams_with_dictionaries_are_read_batch_by_batch() {
    let values = StringArray::from(vec!["python", "rust"]);
    let keys = arrow::array::Int32Array::from(vec![0, 1, 1]);
    let section = arrow::array::DictionaryArray::new(keys, Arc::new(values));
    let vectors = Float32Array::from(vec![0.0f32, 1.0, 2.0, 3.0, 4.0, 5.0]);
    let item = Arc::new(Field::new("item", DataType::Float32, false));
    let columns: [(&str, ArrayRef); 3] = [
        ("id", Arc::new(StringArray::from(vec!["a", "b", "c"]))),
        ("vector", Arc::new(FixedSizeListArray::new(item, 2, Arc::new(vectors), None))),
        ("section", Arc::new(section)),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    assert_eq!(batch["section"].as_any_dictionary().values().len(), 2);
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.write(&batch).unwrap();
    let bytes = Bytes::from(writer.into_inner().unwrap());
    let settings = Settings { dimension: 2, metric: Metric::L2, vector_type: VectorType::F32 };
    let target = Target { collection: "notes-1".parse().unwrap(), settings };
    let mut rows = 0;
    let mut places = Vec::new();
    let mut give = |cut: Cut, next: Option<Resume>| {
        assert!(cut.summary.keys.contains_key("section"));
        rows += cut.rows();
        places.push(next);
        Ok(())
    };
    let batcher = Batcher::with_limits(target, 2, 1 << 20);
    read::within(Encoding::Arrow, &bytes[..], batcher, Resume::default(), &mut give).unwrap();
    assert_eq!((rows, places.len()), (6, 3));
    assert!(places[0].is_some(), "the dictionary of the first batch is before it");
}
