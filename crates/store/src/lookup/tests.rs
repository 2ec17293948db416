use std::ops::Range;

use arrow::array::{
    ArrayRef, FixedSizeListArray, Float32Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMillisecondArray,
};
use arrow::datatypes::{DataType, Field};
use esker_format::keys::Made;
use esker_format::manifest::Deletes;
use esker_format::register::Publish;
use esker_format::schema::arrow_schema;
use esker_format::segment::attributes::AttributesBuilder;
use esker_format::segment::index::{Calibration, IndexParts, IndexWriter};
use esker_format::segment::payload::PayloadWriter;
use esker_format::segment::rows::RowsWriter;
use esker_format::{SetHash, Token};

use super::*;
use crate::collection::tests::{World, delete, settings, upsert};

/// Rows `id-{n}` as entry 1 had them; every tenth expires at 5,000.
fn rows(ids: Range<i64>) -> RecordBatch {
    let n = ids.clone().count();
    let time =
        |t: i64| Arc::new(TimestampMillisecondArray::from(vec![t; n]).with_timezone("UTC")) as ArrayRef;
    let item = Arc::new(Field::new("item", DataType::Float32, false));
    let vectors = FixedSizeListArray::new(item, 2, Arc::new(Float32Array::from(vec![1.0; 2 * n])), None);
    let expires = ids.clone().map(|i| (i % 10 == 0).then_some(5_000)).collect::<TimestampMillisecondArray>();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(ids.clone().map(|i| format!("id-{i}")))),
        Arc::new(vectors),
        time(1),
        time(2),
        time(3),
        Arc::new(expires.with_timezone("UTC")),
        Arc::new(Int64Array::from_iter_values(ids.clone())),
        Arc::new(Int64Array::from(vec![1; n])),
        Arc::new(Int32Array::from_iter_values(0..n as i32)),
    ];
    RecordBatch::try_new(arrow_schema(&settings(), &Schema::default()), columns).unwrap()
}

/// Index file of a segment with these rows, and the bytes of its header.
fn index(notes: &Collection, batch: &RecordBatch) -> (Bytes, u64, u32) {
    let (settings, schema) = (settings(), Schema::default());
    let mut file = Vec::new();
    let mut writer = RowsWriter::new(&mut file, &settings, &schema).unwrap();
    writer.write(batch).unwrap();
    let layout = writer.finish().unwrap();
    let mut payload = PayloadWriter::new(&settings, &schema).unwrap();
    payload.push_batch(batch).unwrap();
    let mut attributes = AttributesBuilder::new(&settings, &schema, 1);
    attributes.push_batch(batch).unwrap();
    let hashes: Vec<u64> =
        batch.column(0).as_string::<i32>().iter().flatten().map(|id| notes.id().hash_id(id)).collect();
    let calibration = Calibration { min_recall: 0.9, b: 0.1, delta: 0.2, rerank: 50 };
    let mut out = Vec::new();
    let summary = IndexWriter::new(IndexParts {
        settings: &settings,
        schema: &schema,
        rows: &layout,
        seqs: (1, 1),
        code_bits: 64,
        rotation_seed: 1,
        scale: 1.0,
        basis: None,
        calibration: [0.9, 0.95, 0.98, 0.99].map(|min_recall| Calibration { min_recall, ..calibration }),
        leaf_starts: &[0, batch.num_rows() as u32],
        centroid_bits: 8,
        centroids: &[0; 64],
        group_bytes: 320,
        codes: &vec![0; batch.num_rows().div_ceil(32) * 320],
        idplane: &hashes,
        spill: None,
        payload: &payload.finish().unwrap(),
        attributes: &attributes.finish(&layout).unwrap(),
        payload_spool: None,
        attributes_spool: None,
    })
    .unwrap()
    .write(&mut out)
    .unwrap();
    (out.into(), summary.header_len, summary.header_crc)
}

/// `notes` with one segment of `id-0` to `id-99`, of which `id-3` is marked dead.
async fn with_segment() -> (World, Arc<Collection>, Arc<esker_format::manifest::Manifest>) {
    let (world, _store, notes) = World::with_collection().await;
    let meter = Meter::new();
    let batch = rows(0..100);
    let base = notes.manifest(&meter).await.unwrap();
    let made = Made { base: 1, token: Token(50) };
    let (index, header_size, header_crc) = index(&notes, &batch);
    notes.client().put_immutable(&meter, &notes.keys().index(made), index.clone()).await.unwrap();
    let bitmap = deletes::encode(&[3].into_iter().collect(), &[0, 100]).unwrap();
    notes.client().put_immutable(&meter, &notes.keys().deletes(made), bitmap.clone()).await.unwrap();
    notes.append(&meter, upsert(1, &["folded"])).await.unwrap();
    let segment = Segment {
        made,
        rows: 100,
        rows_size: 0,
        index_size: index.len() as u64,
        header_size,
        header_crc,
        seqs: (1, 1),
        deletes: Some(Deletes { made, count: 1, size: bitmap.len() as u64 }),
    };
    let accepted = SetHash::of("x", 1, 0);
    let publish = Publish { base: 1, fold: (0, 1), add: vec![segment], accepted, ..Publish::default() };
    let header = index.slice(..header_size as usize);
    let part = Part { made, header, codes: None, deletes: Some(bitmap) };
    let commit = notes.publish(&meter, &base, Token(9), publish, vec![part]).await.unwrap();
    (world, notes, commit.into_result().unwrap())
}

#[tokio::test(start_paused = true)]
async fn the_newest_version_is_found_wherever_it_is() {
    let (world, notes, _) = with_segment().await;
    let meter = Meter::new();
    notes.append(&meter, upsert(2, &["new", "id-5", "id-6"])).await.unwrap();
    notes.append(&meter, delete(3, &["id-6", "id-7"])).await.unwrap();
    notes.append(&meter, upsert(4, &["id-7", "new", "new"])).await.unwrap();
    let reader = world.reopen(2).await;
    let snapshot = reader.snapshot(&meter).await.unwrap();
    let ids = ["id-4", "id-5", "id-6", "id-7", "new", "id-3", "none", "id-10", "id-4"];
    let meter = Meter::new();
    let found = reader.lookup(&meter, &snapshot, &ids, 4_999).await.unwrap();
    let at: Vec<Option<(Seq, u32)>> = found.iter().map(|f| f.as_ref().map(|f| f.at)).collect();
    let wanted = [
        Some((1, 4)),
        Some((2, 1)),
        None,
        Some((4, 0)),
        Some((4, 2)),
        None,
        None,
        Some((1, 10)),
        Some((1, 4)),
    ];
    assert_eq!(at, wanted);
    let Some(Found { version: 4, place: Place::Segment { ordinal: 4, block, row, .. }, .. }) = &found[0]
    else {
        panic!("{:?}", found[0]);
    };
    assert_eq!(block.id(*row), "id-4");
    // The header and the bitmap were in head: id map, then payload.
    assert_eq!(meter.io().waves, 2);
    for (now_ms, there) in [(5_000, true), (5_001, false)] {
        let found = reader.lookup(&meter, &snapshot, &["id-10"], now_ms).await.unwrap();
        assert_eq!(found[0].is_some(), there, "{now_ms}: visible up to its instant");
    }
}

#[tokio::test(start_paused = true)]
async fn without_head_the_index_is_opened() {
    let (world, notes, _) = with_segment().await;
    let meter = Meter::new();
    notes.client().delete(&meter, &notes.keys().head()).await.unwrap();
    let reader = world.reopen(2).await;
    let snapshot = reader.snapshot(&meter).await.unwrap();
    assert!(snapshot.parts[0].is_none());
    let meter = Meter::new();
    let found = reader.lookup(&meter, &snapshot, &["id-3", "id-99"], 0).await.unwrap();
    assert!(found[0].is_none() && found[1].is_some());
    assert_eq!((meter.io().waves, meter.io().gets), (3, 5));
    // A second time everything is cached.
    let meter = Meter::new();
    reader.lookup(&meter, &snapshot, &["id-99"], 0).await.unwrap();
    assert_eq!(meter.io().gets, 0);
}

#[tokio::test(start_paused = true)]
async fn a_flipped_bit_is_corrupt_by_name() {
    let (world, notes, manifest) = with_segment().await;
    let meter = Meter::new();
    let key = notes.keys().index(manifest.segments[0].made);
    let good = notes.client().get(&meter, &key).await.unwrap().unwrap().0;
    for at in (0..good.len()).step_by(7) {
        let mut bad = good.to_vec();
        bad[at] ^= 1;
        notes.client().overwrite(&meter, &key, bad.into()).await.unwrap();
        notes.client().delete(&meter, &notes.keys().head()).await.unwrap();
        let reader = world.reopen(2).await;
        let snapshot = reader.snapshot(&meter).await.unwrap();
        match reader.lookup(&meter, &snapshot, &["id-99"], 0).await {
            Ok(found) => assert_eq!(found[0].as_ref().map(|f| f.at), Some((1, 99)), "byte {at}"),
            Err(e) => assert!(e.kind() != Kind::Internal && e.to_string().contains(&key), "byte {at}: {e}"),
        }
    }
}
