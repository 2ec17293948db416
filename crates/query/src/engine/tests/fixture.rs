//! A small world: one collection in memory, its writer and compactor, and an oracle that knows every row.

use std::collections::BTreeMap;
use std::sync::Arc;

use esker_compactor::{Choice, Compactor};
use esker_format::Name;
use esker_format::head::Head;
use esker_format::record::{Record, Value};
use esker_format::schema::{Metric, Schema, Settings, VectorType};
use esker_index::{Exact, SplitMix};
use esker_ingest::Ingest;
use esker_store::open::Backend;
use esker_store::{Client, Collection, Meter, Seams, Store};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};

use crate::engine::{Engine, Options, Reader};
use crate::search::{Search, SearchReply};
use crate::segment::metric;

pub(crate) struct World {
    pub objects: Arc<InMemory>,
    pub store: Arc<Store>,
    pub name: Name,
    pub settings: Settings,
    /// Every row that lives, expired ones included.
    pub rows: BTreeMap<String, Record>,
    pub ingest: Ingest,
    random: SplitMix,
    centres: Vec<Vec<f32>>,
    /// Rows differ from their centre by (i + 1)^-falloff in direction i.
    falloff: f32,
}

impl World {
    pub async fn new(dimension: u32, metric: Metric, vector_type: VectorType) -> World {
        let objects = Arc::new(InMemory::new());
        let store = Arc::new(Store::new(client(&objects)));
        let name = Name::new("books").unwrap();
        let settings = Settings { dimension, metric, vector_type };
        store.create(&Meter::new(), &name, settings.clone(), Schema::default()).await.unwrap();
        let mut random = SplitMix::new(7);
        let centres = (0..24).map(|_| gauss(&mut random, dimension as usize, 1.0)).collect();
        let ingest = Ingest::new(store.clone());
        World { objects, store, name, settings, rows: BTreeMap::new(), ingest, random, centres, falloff: 0.0 }
    }

    /// A world whose rows vary much more in some directions than in others.
    pub async fn steep(dimension: u32, metric: Metric, vector_type: VectorType) -> World {
        let mut world = World::new(dimension, metric, vector_type).await;
        let away = |i: usize| (1.0 + i as f32).powf(-0.5);
        world.centres.iter_mut().for_each(|c| c.iter_mut().enumerate().for_each(|(i, x)| *x *= away(i)));
        World { falloff: 0.7, ..world }
    }

    /// A world of `n` rows in one segment.
    pub async fn compacted(n: usize, dimension: u32, metric: Metric, vector_type: VectorType) -> World {
        let mut world = World::new(dimension, metric, vector_type).await;
        world.fill(0..n).await;
        world.compact().await;
        world
    }

    /// A vector near one of the centres.
    pub fn vector(&mut self) -> Vec<f32> {
        let centre = (self.random.next_u64() % self.centres.len() as u64) as usize;
        self.near(centre)
    }

    pub fn near(&mut self, centre: usize) -> Vec<f32> {
        let noise = gauss(&mut self.random, self.settings.dimension as usize, 0.45);
        let parts = self.centres[centre].iter().zip(noise).zip(1u16..);
        parts.map(|((c, n), i)| c + n * f32::from(i).powf(-self.falloff)).collect()
    }

    /// From now on vectors are near other centres.
    pub fn drift(&mut self) {
        let dimension = self.settings.dimension as usize;
        self.centres = (0..self.centres.len()).map(|_| gauss(&mut self.random, dimension, 1.0)).collect();
    }

    /// Row number i: its section is that of its centre, so that filters can go with or against the vectors.
    pub fn record(&mut self, i: usize) -> Record {
        let centre = i % self.centres.len();
        let mut metadata = BTreeMap::from([
            ("section".to_owned(), Value::String(format!("s{centre}"))),
            ("number".to_owned(), Value::Int(i as i64)),
            ("tags".to_owned(), Value::Strings(vec![format!("t{}", i % 7), "all".to_owned()])),
            (
                "text".to_owned(),
                Value::String(format!("{} the long text of row number {i}", "x".repeat(150))),
            ),
        ]);
        if i.is_multiple_of(3) {
            metadata.insert("third".to_owned(), Value::Bool(i.is_multiple_of(2)));
        }
        Record {
            id: format!("row {i}"),
            vector: self.near(centre),
            metadata,
            version: i as i64,
            ..Record::default()
        }
    }

    pub async fn fill(&mut self, rows: std::ops::Range<usize>) {
        let records: Vec<Record> = rows.map(|i| self.record(i)).collect();
        for batch in records.chunks(2000) {
            self.upsert(batch.to_vec()).await;
        }
    }

    pub async fn upsert(&mut self, records: Vec<Record>) {
        self.ingest.upsert(&Meter::new(), &self.name, &records, None).await.unwrap();
        self.rows.extend(records.into_iter().map(|r| (r.id.clone(), r)));
    }

    pub async fn delete(&mut self, ids: &[String]) {
        self.ingest
            .delete(&Meter::new(), &self.name, ids, &esker_ingest::WriteOptions::default())
            .await
            .unwrap();
        ids.iter().for_each(|id| drop(self.rows.remove(id)));
    }

    pub async fn compact(&self) {
        let collection = self.collection().await;
        Compactor::default().compact(&Meter::new(), &collection, &|_| {}).await.unwrap();
    }

    /// The same, and every row has a copy in a second leaf.
    pub async fn compact_with_copies(&self) {
        self.compact_with(esker_compactor::Options { copies: Choice::Always, ..Default::default() }).await;
    }

    pub async fn compact_with(&self, options: esker_compactor::Options) {
        let collection = self.collection().await;
        Compactor::new(options).compact(&Meter::new(), &collection, &|_| {}).await.unwrap();
    }

    pub async fn collection(&self) -> Arc<Collection> {
        self.store.collection(&Meter::new(), &self.name).await.unwrap()
    }

    /// A reader that knows nothing yet.
    pub fn cold(&self) -> Reader {
        self.cold_with(Options::default())
    }

    pub fn cold_with(&self, options: Options) -> Reader {
        self.engine_with(options).collection(&self.name)
    }

    /// An engine that knows nothing yet.
    pub fn engine_with(&self, options: Options) -> Engine {
        Engine::new(Arc::new(Store::new(client(&self.objects))), options)
    }

    /// A reader for which every segment is too large to be read whole.
    pub async fn probing(&self) -> Reader {
        self.take_codes_from_head().await;
        self.cold_with(Options { whole_codes: 0, ..Options::default() })
    }

    /// Takes the codes out of `head`, where those of small segments ride.
    pub async fn take_codes_from_head(&self) {
        let path = Path::from(self.collection().await.keys().head());
        let bytes = self.objects.get(&path).await.unwrap().bytes().await.unwrap();
        let mut head = Head::decode("head", &bytes).unwrap();
        head.parts.iter_mut().for_each(|p| p.codes = None);
        self.objects.put(&path, PutPayload::from(head.encode().unwrap())).await.unwrap();
    }

    /// The true nearest of the rows that pass, nearest first.
    pub fn truth(&self, query: &[f32], k: usize, passes: impl Fn(&Record) -> bool) -> Vec<(String, f32)> {
        let exact = Exact::new(metric(self.settings.metric), query);
        let distance = |r: &Record| match self.settings.vector_type {
            VectorType::F32 => exact.f32(&r.vector),
            VectorType::F16 => {
                exact.f16(&r.vector.iter().map(|x| half::f16::from_f32(*x)).collect::<Vec<_>>())
            }
        };
        let mut all: Vec<(String, f32)> =
            self.rows.values().filter(|r| passes(r)).map(|r| (r.id.clone(), distance(r))).collect();
        all.sort_by(|a, b| a.1.total_cmp(&b.1));
        all.truncate(k);
        all
    }

    /// Searches, checks that every hit is a row that passes with its true distance, that there are as many as there
    /// can be, in order; and returns the share of the true nearest that was found.
    pub async fn recall(
        &self,
        reader: &Reader,
        search: &Search,
        passes: impl Fn(&Record) -> bool + Copy,
    ) -> (f64, SearchReply) {
        let reply = reader.search(&Meter::new(), search).await.unwrap();
        let recalls = search.vectors.iter().zip(&reply.results).map(|(query, hits)| {
            let truth = self.truth(query, search.k, passes);
            assert_eq!(hits.len(), truth.len(), "min(k, matches) rows");
            let all: BTreeMap<String, f32> = self.truth(query, usize::MAX, passes).into_iter().collect();
            for (rank, hit) in (1..).zip(hits) {
                let expected = all.get(&hit.id).unwrap_or_else(|| panic!("{} does not pass", hit.id));
                assert!((hit.distance - expected).abs() <= 1e-4 * expected.abs().max(1.0), "{hit:?}");
                let record = &self.rows[&hit.id];
                assert_eq!((hit.rank, hit.version, &hit.metadata), (rank, record.version, &record.metadata));
            }
            assert!(hits.is_sorted_by(|a, b| a.distance <= b.distance));
            let furthest = truth.last().map_or(f32::INFINITY, |t| t.1 + 1e-5);
            let found = hits.iter().filter(|h| h.distance <= furthest).count();
            if truth.is_empty() { 1.0 } else { found as f64 / truth.len() as f64 }
        });
        let recalls: Vec<f64> = recalls.collect();
        (recalls.iter().sum::<f64>() / recalls.len() as f64, reply)
    }

    /// Queries that are not rows.
    pub fn queries(&mut self, n: usize) -> Vec<Vec<f32>> {
        (0..n).map(|_| self.vector()).collect()
    }
}

fn client(objects: &Arc<InMemory>) -> Client {
    Client::new(Backend::new(objects.clone()), Seams::system())
}

fn gauss(random: &mut SplitMix, n: usize, scale: f32) -> Vec<f32> {
    let mut unit = || (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    (0..n)
        .map(|_| {
            let sum: f64 = (0..12).map(|_| unit()).sum();
            (sum - 6.0) as f32 * scale
        })
        .collect()
}
