//! A compaction of more rows than its memory holds stays below it. In a process of its own, whose allocations are counted.

use std::alloc::System;
use std::sync::Arc;

use cap::Cap;
use esker_compactor::{Compactor, DirectoryScratch, Options};
use esker_format::avro::container::Block;
use esker_format::avro::encode_record;
use esker_format::record::{Op, RecordRef, ValueRef};
use esker_format::schema::{Column, ColumnType, Metric, Schema, Settings, VectorType};
use esker_format::wal::PendingBatch;
use esker_format::{Name, Token};
use esker_index::SplitMix;
use esker_store::{Client, Collection, Location, Meter, Seams, Store, StoreEnv, open};

const D: u32 = 512;
/// 49 MB of vectors in 12 entries, and as much of text beside small vectors.
const ENTRIES: usize = 12;
const ROWS: usize = 2000;
const TEXT: usize = 2048;
const MEMORY: usize = 16 << 20;
/// Above the memory allowed: a row group as it is read, twice 32 MiB, and 110 bytes a row. A build in memory takes more
/// by itself.
const SLACK: usize = 64 << 20;

/// What the process holds of its allocator, exact where its resident memory differs by 40 MiB from run to run with what
/// the allocator keeps for each thread.
#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

async fn append(
    collection: &Arc<Collection>,
    number: usize,
    random: &mut SplitMix,
    centres: &[Vec<f32>],
    text: &str,
) {
    let mut data = Vec::new();
    for row in 0..ROWS {
        let centre = &centres[random.below(centres.len())];
        let vector: Vec<f32> = centre.iter().map(|c| c + random.unit()).collect();
        let id = format!("row-{}", number * ROWS + row);
        let record = RecordRef {
            id: &id,
            vector: &vector,
            metadata: &[("year", ValueRef::Int(row as i64)), ("text", ValueRef::String(text))],
            ..RecordRef::default()
        };
        encode_record(&mut data, &record);
    }
    let blocks = vec![Block { rows: ROWS as u64, data: data.into() }];
    let batch = PendingBatch {
        token: Token(number as u128),
        given: false,
        content: None,
        op: Op::Upsert,
        arrived_ms: 1,
        blocks,
    };
    collection.append(&Meter::new(), batch).await.unwrap();
}

/// A collection of so many rows as a process finds it that knows nothing of it.
async fn filled(
    store: &Store,
    name: &str,
    dimension: u32,
    text: &str,
) -> (Arc<Collection>, SplitMix, Vec<Vec<f32>>) {
    let settings = Settings { dimension, metric: Metric::Cosine, vector_type: VectorType::F32 };
    let column = |name: &str, kind| Column { name: name.to_owned(), kind, wide: false };
    let columns = vec![column("year", ColumnType::Int), column("text", ColumnType::String)];
    let name = Name::new(name).unwrap();
    let collection = store.create(&Meter::new(), &name, settings, Schema { columns }).await.unwrap();
    let mut random = SplitMix::new(5);
    let centre = |random: &mut SplitMix| (0..dimension).map(|_| random.normal()).collect();
    let centres: Vec<Vec<f32>> = (0..100).map(|_| centre(&mut random)).collect();
    for number in 0..ENTRIES {
        append(&collection, number, &mut random, &centres, text).await;
    }
    drop(collection);
    (store.collection(&Meter::new(), &name).await.unwrap(), random, centres)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_peak_stays_below_the_limit() {
    let directory = tempfile::tempdir().unwrap();
    let location = Location::Directory(directory.path().join("store"));
    let client = Client::new(open(&location, &StoreEnv::new(), true).unwrap(), Seams::system());
    let store = Store::new(client);
    let compactor =
        Compactor::new(Options { threads: 2, seed: 1, memory: MEMORY as u64, ..Options::default() })
            .with_scratch(Arc::new(DirectoryScratch::new(directory.path())));
    // Text that files hardly hold and memory does. Its row group is read whole by who merges it, so it is not merged here.
    let wide = filled(&store, "wide", 8, &"x".repeat(TEXT)).await.0;
    let before = ALLOCATOR.allocated();
    let report = compactor.compact(&Meter::new(), &wide, &|_| {}).await.unwrap();
    assert_eq!((report.rows, report.segments_out), ((ENTRIES * ROWS) as u64, 1));
    let peak = ALLOCATOR.max_allocated() - before;
    assert!(peak < MEMORY + SLACK, "the compaction of text took {} MiB", peak >> 20);
    drop(wide);
    let (collection, mut random, centres) = filled(&store, "notes", D, "").await;
    let before = ALLOCATOR.allocated();
    let report = compactor.compact(&Meter::new(), &collection, &|_| {}).await.unwrap();
    assert_eq!((report.rows, report.segments_out), ((ENTRIES * ROWS) as u64, 1));
    // Once more, with the segment to merge.
    append(&collection, ENTRIES, &mut random, &centres, "").await;
    for number in ENTRIES - 4..ENTRIES {
        append(&collection, number, &mut random, &centres, "").await;
    }
    let again = compactor.compact(&Meter::new(), &collection, &|_| {}).await.unwrap();
    assert_eq!((again.merged, again.live_rows), (1, ((ENTRIES + 1) * ROWS) as u64));
    assert!(again.copied > 0, "it was made around that");
    let peak = ALLOCATOR.max_allocated() - before;
    assert!(peak < MEMORY + SLACK, "the compactions took {} MiB", peak >> 20);
}
