//! The store whose bits are flipped, and the questions that are asked of it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::util::pretty::pretty_format_batches;
use esker_compactor::{Compactor, Options as Compaction};
use esker_format::avro::container::Block;
use esker_format::keys::Keys;
use esker_format::record::{Op, Record, Value};
use esker_format::schema::{Metric, Schema, Settings, VectorType};
use esker_format::wal::{self, BodyRef, EntryParts, PendingBatch};
use esker_format::{CollectionId, Name, Result, Token};
use esker_ingest::Ingest;
use esker_query::sql::{self, Param};
use esker_query::{Engine, Filter, Options, ScanRequest, Search};
use esker_store::{Backend, Client, Meter, Seams, Store};
use esker_tests::fault::{CallKind, FaultStore, Plan};
use esker_tests::world::World;
use futures::TryStreamExt;
use object_store::path::Path;

const DIMENSION: usize = 4;
const ROWS: usize = 40;

fn name() -> Name {
    Name::new("notes").unwrap()
}

/// Which bytes of which objects were asked for.
#[derive(Debug, Clone, Default)]
pub struct Reads(BTreeMap<String, Vec<bool>>);

impl Reads {
    fn of(faults: &FaultStore, world: &World) -> Reads {
        let mut reads = Reads::default();
        for call in faults.calls().iter().filter(|c| c.kind == CallKind::Get) {
            let Some(body) = world.body(&call.key) else { continue };
            let range = range(&call.options, body.len());
            let bytes = reads.0.entry(call.key.clone()).or_insert_with(|| vec![false; body.len()]);
            bytes[range].fill(true);
        }
        reads
    }

    pub fn has(&self, key: &str, byte: usize) -> bool {
        self.0.get(key).is_some_and(|bytes| bytes[byte])
    }

    pub fn and(mut self, o: &Reads) -> Reads {
        for (key, more) in &o.0 {
            let bytes = self.0.entry(key.clone()).or_insert_with(|| vec![false; more.len()]);
            bytes.iter_mut().zip(more).for_each(|(a, b)| *a |= b);
        }
        self
    }

    pub fn without(mut self, o: &Reads) -> Reads {
        for (key, less) in &o.0 {
            let Some(bytes) = self.0.get_mut(key) else { continue };
            bytes.iter_mut().zip(less).for_each(|(a, b)| *a &= !b);
        }
        self
    }
}

/// `range=bytes=first-last`, or everything.
fn range(options: &str, size: usize) -> Range<usize> {
    let Some(text) = options.split(' ').find_map(|o| o.strip_prefix("range=bytes=")) else { return 0..size };
    match text.split_once('-').unwrap() {
        ("", suffix) => size.saturating_sub(suffix.parse().unwrap())..size,
        (first, "") => first.parse().unwrap()..size,
        (first, last) => first.parse().unwrap()..size.min(last.parse::<usize>().unwrap() + 1),
    }
}

/// What a process that knows nothing does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Ask {
    Search,
    /// By attributes, and by a condition that only columns can answer.
    Filtered,
    /// Every segment taken for too large to be read whole.
    Probing,
    Get,
    Count,
    Scan,
    Sql,
    AsOf,
    /// Everything into memory, then a search there.
    Warm,
    Names,
    /// On a copy, which is then read.
    Compact,
    /// A compaction with so many new rows that the segment is rewritten.
    Merge,
    Append,
    Drop,
}

impl Ask {
    pub const ALL: [Ask; 14] = [
        Ask::Search,
        Ask::Filtered,
        Ask::Probing,
        Ask::Get,
        Ask::Count,
        Ask::Scan,
        Ask::Sql,
        Ask::AsOf,
        Ask::Warm,
        Ask::Names,
        Ask::Compact,
        Ask::Merge,
        Ask::Append,
        Ask::Drop,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Ask::Search => "a search",
            Ask::Filtered => "a filtered search",
            Ask::Probing => "a search that probes",
            Ask::Get => "a get",
            Ask::Count => "a count",
            Ask::Scan => "a scan",
            Ask::Sql => "SQL",
            Ask::AsOf => "a search as of a version",
            Ask::Warm => "a search in memory",
            Ask::Names => "a list of collections",
            Ask::Compact => "a compaction",
            Ask::Merge => "a merge",
            Ask::Append => "an append",
            Ask::Drop => "a drop",
        }
    }

    /// The answer in full, and what was read for it.
    pub async fn of(self, world: &World) -> Result<(String, Reads)> {
        let writes = matches!(self, Ask::Compact | Ask::Merge | Ask::Append | Ask::Drop);
        let own = if writes { world.fork() } else { world.clone() };
        let process = Process::new(&own, 2);
        let answer = self.answer(&process).await?;
        let mut reads = Reads::of(&process.faults, world);
        if !writes || self == Ask::Drop {
            return Ok((answer, reads));
        }
        let reader = Process::new(&own, 3);
        let after = reader.everything().await?;
        reads = reads.and(&Reads::of(&reader.faults, world));
        Ok((answer + &after, reads))
    }

    async fn answer(self, process: &Process) -> Result<String> {
        let (meter, vector) = (Meter::new(), vector(7));
        let reader = process.engine(Options::default()).collection(&name());
        let search = Search { include_vector: true, ..Search::new(vector.clone(), 5) };
        let ids = ["r2", "r3", "r5", "r38", "t0", "t3", "nobody"].map(str::to_owned);
        Ok(match self {
            Ask::Search => format!("{:?}", reader.search(&meter, &search).await?.results),
            Ask::Filtered => {
                let attributes =
                    Search { filter: Some(Filter::sql("section = 'b' AND number < 30")?), ..search.clone() };
                let columns = Search { filter: Some(Filter::sql("section LIKE 'c%'")?), ..search };
                let first = reader.search(&meter, &attributes).await?.results;
                let fresh = process.engine(Options::default()).collection(&name());
                format!("{first:?}{:?}", fresh.search(&meter, &columns).await?.results)
            }
            Ask::Probing => {
                let probing =
                    process.engine(Options { whole_codes: 0, ..Options::default() }).collection(&name());
                format!("{:?}", probing.search(&meter, &search).await?.results)
            }
            Ask::Get => format!("{:?}", reader.get(&meter, &ids, true).await?),
            Ask::Count => format!("{:?}", reader.count(&meter, Some(&Filter::sql("number >= 10")?)).await?),
            Ask::Scan => process.scan().await?,
            Ask::Sql => {
                let text = "SELECT id, number, l2_distance(vector, $1) AS d FROM notes WHERE number > 3 ORDER BY d LIMIT 4";
                let catalog = process.engine(Options::default()).catalog(&meter);
                let out =
                    sql::query(catalog, text, &[Param::Vector(vector)], sql::Options::default()).await?;
                pretty_format_batches(&out.batches).unwrap().to_string()
            }
            Ask::AsOf => {
                let then = Search { as_of: Some(3), ..search };
                format!("{:?}", reader.search(&meter, &then).await?.results)
            }
            Ask::Warm => {
                let warm = reader.warm(&meter).await?;
                let hits = warm.search(&vector, 5, 0.98, None)?;
                let ids: Vec<&str> = hits.iter().map(|h| warm.id(h)).collect();
                format!("{} rows, {hits:?}, {ids:?}", warm.rows())
            }
            Ask::Names => format!("{:?}", process.store.list(&meter).await?),
            Ask::Compact => process.compact().await?,
            Ask::Merge => {
                let more: Vec<Record> = (50..60).map(|i| record(&format!("m{i}"), i)).collect();
                Ingest::new(process.store.clone()).upsert(&meter, &name(), &more, None).await?;
                process.compact().await?
            }
            Ask::Append => {
                let ack = Ingest::new(process.store.clone())
                    .upsert(&meter, &name(), &[record("new", 9)], None)
                    .await?;
                format!("{ack:?}, ")
            }
            Ask::Drop => {
                process.store.drop_collection(&meter, &name()).await?;
                format!("{:?}", reader.count(&meter, None).await.unwrap_err().kind())
            }
        })
    }
}

struct Process {
    store: Arc<Store>,
    faults: FaultStore,
}

impl Process {
    fn new(world: &World, seed: u64) -> Process {
        let faults = FaultStore::new(world, Plan::none());
        let backend = Backend::paged(Arc::new(faults.clone()), Path::default());
        Process { store: Arc::new(Store::new(Client::new(backend, Seams::simulated(seed)))), faults }
    }

    fn engine(&self, options: Options) -> Engine {
        Engine::new(self.store.clone(), options)
    }

    async fn compact(&self) -> Result<String> {
        let meter = Meter::new();
        let collection = self.store.collection(&meter, &name()).await?;
        let compactor = Compactor::new(Compaction { threads: 1, seed: 7, ..Compaction::default() });
        let report = compactor.compact(&meter, &collection, &|_| {}).await?;
        Ok(format!("{} segments rewritten, {} rows live, ", report.merged, report.live_rows))
    }

    async fn scan(&self) -> Result<String> {
        let request = ScanRequest {
            columns: Some(["id", "vector", "section", "number", "_version"].map(str::to_owned).into()),
            ..ScanRequest::default()
        };
        let scanned =
            self.engine(Options::default()).collection(&name()).scan(&Meter::new(), &request).await?;
        let batches: Vec<_> = scanned.batches.try_collect().await?;
        let mut lines: Vec<String> =
            pretty_format_batches(&batches).unwrap().to_string().lines().map(str::to_owned).collect();
        lines.sort();
        Ok(lines.join("\n"))
    }

    /// All rows, and the nearest of them.
    async fn everything(&self) -> Result<String> {
        let reader = self.engine(Options::default()).collection(&name());
        let found = reader.search(&Meter::new(), &Search::new(vector(3), 1000)).await?.results;
        let ids: Vec<(String, u32)> = found[0].iter().map(|h| (h.id.clone(), h.distance.to_bits())).collect();
        Ok(format!("{ids:?}\n{}", self.scan().await?))
    }
}

fn vector(i: usize) -> Vec<f32> {
    (0..DIMENSION).map(|d| ((i * (2 * d + 3)) % 17) as f32 - 8.0 + i as f32 / 64.0).collect()
}

fn record(id: &str, i: usize) -> Record {
    let metadata = [
        ("section", Value::String(["a", "b", "cc"][i % 3].to_owned())),
        ("number", Value::Int(i as i64)),
        ("tags", Value::Strings(vec![format!("t{}", i % 4)])),
    ];
    let expires_at = (i % 11 == 10).then_some(*esker_format::record::TIMES_MS.end());
    let metadata = metadata.into_iter().filter(|(key, _)| *key != "number" || !i.is_multiple_of(5));
    Record {
        id: id.to_owned(),
        vector: vector(i),
        metadata: metadata.map(|(k, v)| (k.to_owned(), v)).collect(),
        expires_at,
        version: i as i64,
        ..Record::default()
    }
}

/// Forty rows in a segment, some of them marked; a tail of an overwrite, an entry with a body, and a delete.
pub async fn store() -> World {
    let world = World::unchecked();
    let process = Process::new(&world, 1);
    let (meter, name, ingest) = (Meter::new(), name(), Ingest::new(process.store.clone()));
    let settings = Settings { dimension: DIMENSION as u32, metric: Metric::L2, vector_type: VectorType::F32 };
    let collection = process.store.create(&meter, &name, settings, Schema::default()).await.unwrap();
    let compactor = Compactor::new(Compaction { threads: 1, seed: 7, ..Compaction::default() });
    let rows: Vec<Record> = (0..ROWS).map(|i| record(&format!("r{i}"), i)).collect();
    ingest.upsert(&meter, &name, &rows, None).await.unwrap();
    compactor.compact(&meter, &collection, &|_| {}).await.unwrap();
    ingest.delete(&meter, &name, &["r4", "r5"], &esker_ingest::WriteOptions::default()).await.unwrap();
    compactor.compact(&meter, &collection, &|_| {}).await.unwrap();
    ingest.upsert(&meter, &name, &[record("r3", 20), record("t0", 21)], None).await.unwrap();
    let ack =
        ingest.delete(&meter, &name, &["r2", "t1"], &esker_ingest::WriteOptions::default()).await.unwrap();
    body(&world, collection.id(), ack.position + 1);
    world
}

/// An entry whose rows are in a body, which the writer makes only of much larger ones.
fn body(world: &World, id: &CollectionId, seq: u64) {
    let mut data = Vec::new();
    [record("t3", 23), record("r38", 24)].iter().for_each(|r| r.encode(&mut data));
    let block = Block { rows: 2, data: data.into() };
    let batches = [PendingBatch {
        token: Token(5),
        given: true,
        content: None,
        op: Op::Upsert,
        arrived_ms: 1_767_225_600_000,
        blocks: vec![block],
    }];
    let body = wal::encode_body(id, &batches);
    let reference = BodyRef::new(seq, Token(6), &body);
    let entry =
        wal::encode(&EntryParts { collection: id, seq, batches: &batches, body: Some(reference) }).unwrap();
    let keys = Keys::new(id);
    world.apply_put(&keys.body(seq, Token(6)), body);
    world.apply_put(&keys.wal(seq), entry);
}
