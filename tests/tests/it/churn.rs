//! A collection that changes for long: what merges keep of older segments, and what that costs and spares.

use std::collections::BTreeMap;
use std::sync::Arc;

use esker_compactor::{Compactor, Options as Compaction, Report};
use esker_format::Name;
use esker_format::record::Record;
use esker_format::schema::{Metric, Schema, Settings, VectorType};
use esker_ingest::{Ingest, WriteOptions};
use esker_query::{Engine, Options, Search};
use esker_store::{Client, Location, Meter, Seams, Store, StoreEnv};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const K: usize = 10;

fn name() -> Name {
    Name::new("churn").unwrap()
}

/// Gaussian rows around centres that may wander.
#[derive(Clone)]
struct Source {
    d: usize,
    /// By how much rows spread less in each further direction: 0 is a ball.
    fall: f32,
    random: StdRng,
    centres: Vec<Vec<f32>>,
}

impl Source {
    fn new(seed: u64, d: usize, fall: f32, centres: usize) -> Self {
        let mut source = Source { d, fall, random: StdRng::seed_from_u64(seed), centres: Vec::new() };
        source.centres = (0..centres).map(|_| source.normal(1.0)).collect();
        source
    }

    fn normal(&mut self, scale: f32) -> Vec<f32> {
        // Of twelve uniform draws the sum is nearly normal, with variance 1.
        let draw = |random: &mut StdRng| (0..12).map(|_| random.random::<f32>()).sum::<f32>() - 6.0;
        (0..self.d).map(|_| scale * draw(&mut self.random)).collect()
    }

    fn vector(&mut self) -> Vec<f32> {
        let centre = self.random.random_range(0..self.centres.len());
        self.vector_at(centre)
    }

    fn vector_at(&mut self, centre: usize) -> Vec<f32> {
        let noise = self.normal(0.6);
        let spread = (0u16..).map(|at| 1.0 / (1.0 + self.fall * f32::from(at)));
        let noise = noise.iter().zip(spread).map(|(noise, spread)| noise * spread);
        noise.zip(&self.centres[centre]).map(|(noise, c)| noise + c).collect()
    }

    /// Moves every centre, by `scale` times the distance between two.
    fn shift(&mut self, scale: f32) {
        for centre in 0..self.centres.len() {
            let by = self.normal(scale);
            self.centres[centre].iter_mut().zip(by).for_each(|(c, by)| *c += by);
        }
    }
}

/// Searches that probe, as they do in large collections.
fn probing() -> Options {
    Options { whole_codes: 0, ..Options::default() }
}

/// A collection in memory, and what it should hold.
struct World {
    store: Arc<Store>,
    ingest: Ingest,
    d: usize,
    rows: BTreeMap<String, Vec<f32>>,
    written: u64,
    stored: u64,
}

impl World {
    async fn new(d: usize) -> Self {
        let backend = esker_store::open(&Location::Memory, &StoreEnv::new(), true).unwrap();
        let store = Arc::new(Store::new(Client::new(backend, Seams::simulated(1))));
        let settings = Settings { dimension: d as u32, metric: Metric::Cosine, vector_type: VectorType::F32 };
        store.create(&Meter::new(), &name(), settings, Schema::default()).await.unwrap();
        let ingest = Ingest::new(store.clone());
        World { store, ingest, d, rows: BTreeMap::new(), written: 0, stored: 0 }
    }

    async fn put(&mut self, rows: Vec<(String, Vec<f32>)>) {
        let record = |(id, vector): &(String, Vec<f32>)| Record {
            id: id.clone(),
            vector: vector.clone(),
            ..Record::default()
        };
        let records: Vec<Record> = rows.iter().map(record).collect();
        self.ingest.upsert(&Meter::new(), &name(), &records, None).await.unwrap();
        self.written += rows.iter().map(|(id, vector)| (id.len() + 4 * vector.len()) as u64).sum::<u64>();
        self.rows.extend(rows);
    }

    async fn delete(&mut self, ids: &[String]) {
        let texts: Vec<&str> = ids.iter().map(String::as_str).collect();
        self.ingest.delete(&Meter::new(), &name(), &texts, &WriteOptions::default()).await.unwrap();
        ids.iter().for_each(|id| drop(self.rows.remove(id)));
    }

    async fn compact(&mut self) -> Report {
        let compactor = Compactor::new(Compaction { threads: 2, seed: 5, ..Compaction::default() });
        let collection = self.store.collection(&Meter::new(), &name()).await.unwrap();
        let report = compactor.compact(&Meter::new(), &collection, &|_| {}).await.unwrap();
        self.stored += report.bytes_written;
        report
    }

    /// The ids of the `k` nearest rows, by looking at all.
    fn nearest(&self, query: &[f32], k: usize) -> Vec<String> {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let cosine = |v: &[f32]| dot(query, v) / dot(v, v).sqrt();
        let mut all: Vec<(f32, &String)> = self.rows.iter().map(|(id, v)| (-cosine(v), id)).collect();
        all.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        all.into_iter().take(k).map(|(_, id)| id.clone()).collect()
    }

    /// The share of the true nearest that searches find, and the bytes that they read.
    async fn recall(&self, queries: &[Vec<f32>], options: Options) -> (f64, u64) {
        let engine = Engine::new(self.store.clone(), options);
        let (mut found, meter) = (0, Meter::new());
        for query in queries {
            let search = Search::new(query.clone(), K);
            let reply = engine.collection(&name()).search(&meter, &search).await.unwrap();
            let nearest = self.nearest(query, K);
            assert_eq!(reply.results[0].len(), K);
            found += reply.results[0].iter().filter(|hit| nearest.contains(&hit.id)).count();
        }
        (found as f64 / (K * queries.len()) as f64, meter.io().bytes_read)
    }

    /// The same rows, written at once.
    async fn fresh(&self) -> World {
        let mut fresh = World::new(self.d).await;
        fresh.put(self.rows.iter().map(|(id, vector)| (id.clone(), vector.clone())).collect()).await;
        fresh.compact().await;
        fresh
    }
}

/// Ten rounds, in each of which a tenth of the rows is overwritten, a twentieth deleted and a tenth added from a
/// distribution that moves away.
#[tokio::test(start_paused = true)]
async fn after_long_change_a_search_finds_what_it_finds_in_a_new_collection() {
    const ROWS: usize = 6000;
    let (mut world, mut source) = (World::new(64).await, Source::new(1, 64, 0.0, 60));
    let mut shifted = source.clone();
    let mut next = 0;
    let mut rows = |source: &mut Source, count: usize| -> Vec<(String, Vec<f32>)> {
        next += count;
        (next - count..next).map(|n| (format!("r{n}"), source.vector())).collect()
    };
    let first = rows(&mut source, ROWS);
    world.put(first).await;
    world.compact().await;
    let (mut copied, mut encoded) = (0, 0);
    for round in 0..10 {
        shifted.shift(0.07);
        let mut ids: Vec<String> = world.rows.keys().cloned().collect();
        let mut draw = |count: usize| -> Vec<String> {
            (0..count).map(|_| ids.swap_remove(source.random.random_range(0..ids.len()))).collect()
        };
        let (gone, over) = (draw(ROWS / 20), draw(ROWS / 10));
        world.delete(&gone).await;
        let over: Vec<_> = over.into_iter().map(|id| (id, source.vector())).collect();
        world.put(over).await;
        let new = rows(&mut shifted, ROWS / 10);
        world.put(new).await;
        let report = world.compact().await;
        assert!(report.segments_out <= 4, "round {round}: {report:?}");
        assert_eq!(report.copied + report.encoded, report.rows);
        if report.merged > 0 {
            (copied, encoded) = (copied + report.copied, encoded + report.encoded);
        }
    }
    let queries: Vec<Vec<f32>> =
        (0..80).map(|n| if n % 2 == 0 { source.vector() } else { shifted.vector() }).collect();
    let fresh = world.fresh().await;
    let (own, read) = world.recall(&queries, probing()).await;
    let (other, fresh_read) = fresh.recall(&queries, probing()).await;
    let amplification = world.stored as f64 / world.written as f64;
    assert!(own >= other - 0.01, "recall {own}, in a new collection {other}");
    assert!(read * 2 <= fresh_read * 3, "{read} bytes read, in a new collection {fresh_read}");
    assert!(amplification <= 7.0, "{amplification} bytes stored per byte of a row");
    assert!(3 * copied >= encoded, "merges copied {copied} codes and encoded {encoded}");
}

/// Deleting the 500 rows nearest to a query must not hurt it, neither while they are only in the log or marked nor once a
/// compaction has left them behind.
#[tokio::test(start_paused = true)]
async fn a_query_whose_nearest_rows_are_deleted_finds_the_next() {
    let (mut world, mut source) = (World::new(128).await, Source::new(2, 128, 0.1, 9));
    let rows: Vec<_> = (0..5400).map(|n| (format!("r{n}"), source.vector_at(n % 9))).collect();
    world.put(rows).await;
    world.compact().await;
    let mut recalls: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let mut copied = 0;
    for centre in 0..3 {
        // One query, and four beside it that have lost most of their neighbours, too.
        let queries: Vec<Vec<f32>> = (0..5).map(|_| source.vector_at(centre)).collect();
        world.delete(&world.nearest(&queries[0], 500)).await;
        for what in ["in the log", "marked", "rewritten"] {
            for options in [Options::default(), probing()] {
                let (recall, _) = world.recall(&queries, options).await;
                recalls.entry(what).or_default().push(recall);
            }
            copied += world.compact().await.copied;
        }
    }
    // At a quarter of dead rows the segment was rewritten.
    assert!(copied > 0);
    for (what, recalls) in recalls {
        let mean = recalls.iter().sum::<f64>() / recalls.len() as f64;
        assert!(mean >= 0.95, "recall {recalls:?} with 500 rows deleted {what}");
    }
}
