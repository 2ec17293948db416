//! Counts what the operations ask of a store, by doing them.

use std::sync::Arc;

use esker_compactor::work::{is_long, lives};
use esker_compactor::{CollectOptions, Collector, Compactor};
use esker_format::keys::{DIRTY, Key, Keys, Part};
use esker_format::record::Record;
use esker_format::schema::{Schema, Settings};
use esker_format::{Error, Name, Result, Seq};
use esker_ingest::Ingest;
use esker_query::{Engine, Options, Search};
use esker_store::{Io, Meter, Method, Store};
use serde::Serialize;

use super::reference::{Rows, memory};

/// Writes that are counted: as many as fill several folds, and a merge of what they made.
const CALLS: u64 = 96;
/// And if they are large: several folds all the same.
const LEAST_CALLS: u64 = 32;
/// Bytes of all their vectors, beyond which there are fewer.
const WRITTEN: u64 = 128 << 20;

/// Calls of one kind, and what all of them together asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Sample {
    /// How many.
    pub calls: u64,
    /// What they asked of the store.
    pub io: Io,
}

impl Sample {
    fn add(&mut self, io: Io) {
        self.calls += 1;
        self.io += io;
    }

    /// Waves of a call.
    pub fn mean_waves(&self) -> f64 {
        f64::from(self.io.waves) / self.calls.max(1) as f64
    }
}

/// What was counted.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Counted {
    /// Rows of the collection that was asked.
    pub rows: u64,
    /// Elements of its vectors.
    pub dimension: u32,
    /// Bytes of all its objects, but for what segments have of its log: that is deleted within hours.
    pub stored_bytes: u64,
    /// Queries of which each knew nothing.
    pub cold: Sample,
    /// The same queries again, by one that answered them before.
    pub warm: Sample,
    /// Writes, into an empty collection in memory of the same settings.
    pub writes: Sample,
    /// Rows of each.
    pub rows_per_call: u64,
    /// Bytes of the log for each.
    pub bytes_per_call: u64,
    /// Calls of the compactor that their marks brought about.
    pub compactions: Sample,
    /// Rows of the log that those folded.
    pub rows_compacted: u64,
    /// The two calls of a tick that finds one collection and nothing to do.
    pub tick: Sample,
}

/// Opens the store that is asked, as a process does that knows nothing.
pub trait Source {
    /// See [`Source`].
    fn open(&self) -> Result<Arc<Store>>;
}

impl<F: Fn() -> Result<Arc<Store>>> Source for F {
    fn open(&self) -> Result<Arc<Store>> {
        self()
    }
}

/// Counts queries on the collection `name` of a store, which is only read, and in memory writes of `rows_per_call` rows, the
/// compactions that follow and a tick.
///
/// # Errors
/// NotFound when there is no such collection, Invalid when it has no rows.
pub async fn count(
    source: &impl Source,
    name: &Name,
    queries: &[Vec<f32>],
    rows_per_call: u64,
) -> Result<Counted> {
    let store = source.open()?;
    let reader = engine(&store).collection(name);
    let stats = reader.stats(&Meter::new()).await?;
    if queries.is_empty() {
        return Err(Error::invalid("collection", format!("{name} has no rows: its queries ask for nothing"))
            .with_hint("leave the collection out: `esker cost` makes one of its own in memory"));
    }
    let collection = store.collection(&Meter::new(), name).await?;
    let objects = store.client().list_all(&Meter::new(), Keys::new(collection.id()).prefix()).await?;
    let (cold, warm) = ask(source, name, queries).await?;
    Ok(Counted {
        rows: reader.count(&Meter::new(), None).await?.0,
        dimension: stats.settings.dimension,
        stored_bytes: objects.iter().filter(|o| stays(&o.key, stats.watermark)).map(|o| o.size).sum(),
        cold,
        warm,
        ..write(&stats.settings, rows_per_call).await?
    })
}

fn stays(key: &str, watermark: Seq) -> bool {
    match Key::parse(key) {
        Ok(Key::Of(_, Part::Wal(seq) | Part::Body(seq, _))) => seq > watermark,
        _ => true,
    }
}

fn engine(store: &Arc<Store>) -> Engine {
    Engine::new(store.clone(), Options::default())
}

async fn ask(source: &impl Source, name: &Name, queries: &[Vec<f32>]) -> Result<(Sample, Sample)> {
    let (mut cold, mut warm) = (Sample::default(), Sample::default());
    let search = |vector: &Vec<f32>| Search { vectors: vec![vector.clone()], ..Search::default() };
    for vector in queries {
        let one = engine(&source.open()?);
        cold.add(one.collection(name).search(&Meter::new(), &search(vector)).await?.io);
    }
    let one = engine(&source.open()?);
    for vector in queries {
        one.collection(name).search(&Meter::new(), &search(vector)).await?;
    }
    for vector in queries {
        warm.add(one.collection(name).search(&Meter::new(), &search(vector)).await?.io);
    }
    Ok((cold, warm))
}

/// Writes by one function, and the compactor's calls that follow from its marks.
async fn write(settings: &Settings, rows_per_call: u64) -> Result<Counted> {
    let source = memory()?;
    let (name, compactor) = (Name::new("counted")?, Compactor::default());
    let store = source.open()?;
    store.create(&Meter::new(), &name, settings.clone(), Schema::default()).await?;
    let ingest = Ingest::new(store);
    let mut rows = Rows::new(settings.dimension);
    let (mut writes, mut compactions, mut folded, mut log) = (Sample::default(), Sample::default(), 0, 0);
    let bytes = rows_per_call * u64::from(settings.dimension) * size_of::<f32>() as u64;
    let calls = (WRITTEN / bytes.max(1)).clamp(LEAST_CALLS, CALLS);
    for _ in 0..calls {
        let records: Vec<Record> = rows.by_ref().take(rows_per_call as usize).collect();
        let meter = Meter::recording();
        ingest.upsert(&meter, &name, &records, None).await?;
        let io = meter.io();
        writes.add(io);
        log += io.bytes_written;
        if meter.requests().iter().any(|r| r.method == Method::Create && r.key.starts_with(DIRTY)) {
            let (io, rows) = called(&source, &name, &compactor).await?;
            compactions.add(io);
            folded += rows;
        }
    }
    let tick = tick(&source, &name, &compactor).await?;
    Ok(Counted {
        rows: 0,
        dimension: settings.dimension,
        stored_bytes: 0,
        cold: Sample::default(),
        warm: Sample::default(),
        writes,
        rows_per_call,
        bytes_per_call: log / calls,
        compactions,
        rows_compacted: folded,
        tick,
    })
}

/// A compactor that an event calls: it looks at the log and folds it if it is long enough.
async fn called(source: &impl Source, name: &Name, compactor: &Compactor) -> Result<(Io, u64)> {
    let meter = Meter::new();
    let collection = source.open()?.begin(&meter, name).await?.0;
    let tail = collection.tail_seen();
    let rows = match is_long(tail.len() as u64, tail.iter().map(|e| e.bytes).sum()) {
        true => compactor.compact(&meter, &collection, &|_| {}).await?.folded_rows,
        false => 0,
    };
    Ok((meter.io(), rows))
}

/// The two calls of a tick, a sweep and a collection of garbage, where nobody has written since the last fold.
async fn tick(source: &impl Source, name: &Name, compactor: &Compactor) -> Result<Sample> {
    let collection = source.open()?.collection(&Meter::new(), name).await?;
    compactor.compact(&Meter::new(), &collection, &|_| {}).await?;
    let mut sample = Sample::default();
    let (store, meter) = (source.open()?, Meter::new());
    for id in store.list(&meter).await? {
        let collection = store.begin(&meter, id.name()).await?.0;
        compactor.compact(&meter, &collection, &|_| {}).await?;
    }
    sample.add(meter.io());
    let (store, meter) = (source.open()?, Meter::new());
    for id in store.list(&meter).await? {
        for life in lives(&meter, &store, id.name()).await? {
            Collector::new(CollectOptions::default()).run(&meter, &life, &|_| {}).await?;
        }
    }
    sample.add(meter.io());
    Ok(sample)
}
