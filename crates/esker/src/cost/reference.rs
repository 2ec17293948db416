//! The collection that is counted where none is named: made rows, in memory, the same ones every time.

use std::collections::BTreeMap;
use std::sync::Arc;

use esker_compactor::Compactor;
use esker_format::record::{Record, Value};
use esker_format::schema::{Metric, Schema, Settings, VectorType};
use esker_format::{Name, Result};
use esker_ingest::Ingest;
use esker_store::{Client, Location, Meter, MokaCache, Random, Seams, Store, StoreEnv, open};

use super::count::Source;

/// Rows that one write takes.
const BATCH: usize = 2_000;
/// Groups that its rows lie in.
const GROUPS: u64 = 64;
/// A function's cache.
const CACHE_BYTES: u64 = 256 << 20;

/// Rows in groups, as texts of different subjects are. Never ends.
pub struct Rows {
    random: Arc<dyn Random>,
    dimension: u32,
    centers: Vec<Vec<f32>>,
    next: u64,
}

impl Rows {
    /// Rows of this many elements.
    pub fn new(dimension: u32) -> Self {
        let random = Seams::simulated(1).random;
        let centers = (0..GROUPS).map(|_| noise(&*random, dimension)).collect();
        Rows { random, dimension, centers, next: 0 }
    }

    fn vector(&self, group: u64) -> Vec<f32> {
        let center = &self.centers[(group % GROUPS) as usize];
        center.iter().zip(noise(&*self.random, self.dimension)).map(|(c, n)| c + n).collect()
    }

    /// Vectors like those of the rows.
    pub fn queries(&self, n: usize) -> Vec<Vec<f32>> {
        (0..n as u64).map(|group| self.vector(group)).collect()
    }
}

impl Iterator for Rows {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        let n = self.next;
        self.next += 1;
        let metadata = BTreeMap::from([
            ("group".to_owned(), Value::Int((n % GROUPS) as i64)),
            ("text".to_owned(), Value::String(format!("row {n} of those that are made to be counted"))),
        ]);
        Some(Record { id: format!("row-{n:08}"), vector: self.vector(n), metadata, ..Record::default() })
    }
}

fn noise(random: &dyn Random, dimension: u32) -> Vec<f32> {
    (0..dimension).map(|_| random.unit() as f32 - 0.5).collect()
}

/// An empty store in memory, and processes that know nothing of it.
pub fn memory() -> Result<impl Source> {
    let (backend, seams) = (open(&Location::Memory, &StoreEnv::new(), true)?, Seams::simulated(2));
    Ok(move || {
        let client = Client::new(backend.clone(), seams.clone());
        Ok(Arc::new(Store::new(client.with_cache(Arc::new(MokaCache::new(CACHE_BYTES))))))
    })
}

/// A collection of `rows` rows of `dimension` elements, compacted; with its name and queries for it.
pub async fn reference(
    rows: usize,
    dimension: u32,
    queries: usize,
) -> Result<(impl Source, Name, Vec<Vec<f32>>)> {
    let (source, name) = (memory()?, Name::new("reference")?);
    let settings = Settings { dimension, metric: Metric::Cosine, vector_type: VectorType::F32 };
    let store = source.open()?;
    store.create(&Meter::new(), &name, settings, Schema::default()).await?;
    let ingest = Ingest::new(store.clone());
    let mut made = Rows::new(dimension);
    let mut left = rows;
    while left > 0 {
        let records: Vec<Record> = made.by_ref().take(left.min(BATCH)).collect();
        left -= records.len();
        ingest.upsert(&Meter::new(), &name, &records, None).await?;
    }
    let collection = store.collection(&Meter::new(), &name).await?;
    Compactor::default().compact(&Meter::new(), &collection, &|_| {}).await?;
    Ok((source, name, made.queries(queries)))
}
