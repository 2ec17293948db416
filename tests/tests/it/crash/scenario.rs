//! What is done while things go wrong: a process, the steps of its clients, and the scenarios made of them.

use super::ledger::{Batch, Ledger, TEXT};
use super::truth::{At, Version, newest_of, versions};
use esker_compactor::{CollectOptions, Collector, Compactor, Options};
use esker_format::avro::Summary;
use esker_format::record::Op;
use esker_format::schema::{Column, ColumnType, Metric, Schema, Settings, VectorType};
use esker_format::{CollectionId, Error, Kind, Name, Result, Seq};
use esker_ingest::{BatchSink, CollectionSink, Ingest};
use esker_store::segment::all_columns;
use esker_store::{Backend, Client, Collection, Meter, Seams, SegmentReader, Snapshot, Store};
use esker_tests::fault::{FaultStore, Plan};
use esker_tests::world::World;
use futures::TryStreamExt;
use futures::future::join_all;
use object_store::path::Path;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub fn name() -> Name {
    Name::new("notes").unwrap()
}

/// The first collection of that name.
pub fn id() -> CollectionId {
    CollectionId::new(name(), 1)
}

fn settings() -> Settings {
    Settings { dimension: 2, metric: Metric::L2, vector_type: VectorType::F32 }
}

/// A process with nothing in memory, over a storage that answers by a plan.
pub struct Process {
    pub store: Arc<Store>,
    pub faults: FaultStore,
}

/// What a reader sees.
#[derive(Debug)]
pub struct View {
    pub version: u64,
    pub position: Seq,
    /// The newest version of each live record.
    pub rows: BTreeMap<String, Version>,
}

impl Process {
    /// `seed` decides its tokens: two processes of one world must not share it.
    pub fn new(world: &World, plan: Plan, seed: u64) -> Self {
        let faults = FaultStore::new(world, plan);
        let backend = Backend::paged(Arc::new(faults.clone()), Path::default());
        let store = Arc::new(Store::new(Client::new(backend, Seams::simulated(seed))));
        Process { store, faults }
    }

    pub async fn open(&self) -> Result<Arc<Collection>> {
        self.store.collection(&Meter::new(), &name()).await
    }

    /// A handle of the first collection of the name, whatever became of it.
    pub fn first(&self) -> Arc<Collection> {
        Collection::new(self.store.client().clone(), id())
    }

    /// A strong read of everything, through segments and tail; and a look-up of each of `ids`, which must agree.
    pub async fn read(&self, ids: &[&str]) -> Result<View> {
        let (meter, collection) = (Meter::new(), self.open().await?);
        match self.read_of(&collection, collection.snapshot(&meter).await?, ids).await {
            // An object of an old version was collected: what is told in the newest one is there.
            Err(e) if e.kind() == Kind::NotFound => {
                self.read_of(&collection, collection.snapshot_newest(&meter).await?, ids).await
            }
            view => view,
        }
    }

    /// Everything in a snapshot.
    pub async fn read_of(
        &self,
        collection: &Arc<Collection>,
        snapshot: Snapshot,
        ids: &[&str],
    ) -> Result<View> {
        let meter = Meter::new();
        let mut all: Vec<(At, String, Option<Version>)> = Vec::new();
        for (segment, part) in snapshot.manifest.segments.iter().zip(&snapshot.parts) {
            let reader = SegmentReader::open(collection, &meter, segment, part.as_ref()).await?;
            let rows = reader.rows(&meter).await?;
            let columns = all_columns(&snapshot.schema);
            let live: Vec<_> = rows.live(&meter, &snapshot.schema, &columns).try_collect().await?;
            for live in live {
                all.extend(versions(&live.batch).map(|v| (v.at, v.row.id.clone(), Some(v))));
            }
        }
        for decoded in &snapshot.rows {
            all.extend(versions(&decoded.rows).map(|v| (v.at, v.row.id.clone(), Some(v))));
            all.extend(decoded.tombstones.iter().map(|t| ((t.seq, t.row), t.id.clone(), None)));
        }
        let rows = newest_of(all);
        let found = collection.lookup(&meter, &snapshot, ids, 0).await?;
        for (id, found) in ids.iter().zip(found) {
            let seen = rows.get(*id).map(|v| v.at);
            assert_eq!(found.map(|f| f.at), seen, "look-up and scan of {id} differ");
        }
        Ok(View { version: snapshot.manifest.version, position: snapshot.position, rows })
    }
}

/// Something a client asks for.
#[derive(Clone, Debug)]
pub enum Step {
    Create {
        text: bool,
    },
    /// At once, each with whether its token was drawn for the call.
    Append(Vec<(Batch, bool)>),
    /// The same by as many rivals: each opens the collection for itself.
    Race(Vec<(Batch, bool)>),
    /// Batches of a file, one after the other, with compactions between them.
    Import(Vec<Batch>),
    /// Through the writer function, which widens the schema first.
    Ingest(Batch),
    Compact,
    /// By two rivals at once, while a third writes this.
    CompactTwice(Batch),
    /// Of everything but the newest version, by the name's first collection, dropped or not.
    Collect,
    /// By two rivals at once, while a third writes this.
    CollectTwice(Batch),
    Drop,
}

impl Step {
    /// Asks for it; `again`: not for the first time.
    pub async fn perform(&self, process: &Process, ledger: &Ledger, again: bool) -> Result<()> {
        let meter = Meter::new();
        match self {
            Step::Create { text } => {
                let column = Column { name: TEXT.to_owned(), kind: ColumnType::String, wide: false };
                let schema = Schema { columns: text.then_some(column).into_iter().collect() };
                let create = async {
                    match process.store.create(&meter, &name(), settings(), schema).await {
                        // The first try did it, or its record, and the rest is up to whoever opens it.
                        Err(e) if e.kind() == Kind::Conflict && again => process.open().await.map(drop),
                        done => done.map(drop),
                    }
                };
                ledger.create(create).await
            }
            Step::Append(batches) => {
                let opened = process.open().await;
                let sends = batches.iter().map(|(batch, fresh)| {
                    let (meter, opened) = (&meter, &opened);
                    ledger.batch(batch, async move {
                        let collection = opened.as_ref().map_err(|e| Error::new(e.kind(), e.to_string()))?;
                        let done = collection.append(meter, batch.pending(!*fresh || again)).await?;
                        Ok(done.position)
                    })
                });
                join_all(sends).await.into_iter().collect()
            }
            Step::Race(batches) => {
                let sends = batches.iter().map(|(batch, fresh)| {
                    let meter = &meter;
                    ledger.batch(batch, async move {
                        let rival = Collection::new(process.store.client().clone(), id());
                        let done = rival.append(meter, batch.pending(!*fresh || again)).await?;
                        Ok(done.position)
                    })
                });
                join_all(sends).await.into_iter().collect()
            }
            Step::Ingest(batch) => {
                let ingest = Ingest::new(process.store.clone());
                let send = async {
                    let token = Some(batch.token);
                    let ack = match batch.op {
                        Op::Upsert => ingest.upsert(&meter, &name(), &batch.records(), token).await?,
                        Op::Delete => {
                            let ids: Vec<&str> = batch.rows.iter().map(|r| r.id.as_str()).collect();
                            ingest.delete(&meter, &name(), &ids, &token.into()).await?
                        }
                    };
                    Ok(ack.position)
                };
                ledger.batch(batch, send).await
            }
            Step::Import(batches) => import(process, batches, ledger).await,
            Step::Compact => compact(&process.open().await?, ledger).await,
            Step::CompactTwice(batch) => {
                let rival = || Collection::new(process.store.client().clone(), id());
                let (first, second, third) = (rival(), rival(), rival());
                let write = ledger
                    .batch(batch, async { Ok(third.append(&meter, batch.pending(again)).await?.position) });
                let (x, y, z) = futures::join!(compact(&first, ledger), compact(&second, ledger), write);
                x.and(y).and(z)
            }
            Step::Collect => collect(&process.first(), ledger).await,
            Step::CollectTwice(batch) => {
                let (first, second, third) = (process.first(), process.first(), process.first());
                let write = ledger
                    .batch(batch, async { Ok(third.append(&meter, batch.pending(again)).await?.position) });
                let (x, y, z) = futures::join!(collect(&first, ledger), collect(&second, ledger), write);
                x.and(y).and(z)
            }
            Step::Drop => {
                let end = async {
                    match process.store.drop_collection(&meter, &name()).await {
                        Err(e) if e.kind() == Kind::NotFound && again => Ok(()),
                        done => done,
                    }
                };
                ledger.end(end).await
            }
        }
    }
}

/// What an import does with the batches of a file: the log knows those that are there already.
async fn import(process: &Process, batches: &[Batch], ledger: &Ledger) -> Result<()> {
    let mut first = Ok(());
    for batch in batches {
        let send = async {
            let collection = process.open().await?;
            let sink = CollectionSink::new(collection, Meter::new(), None);
            let summary = Summary { rows: batch.rows.len() as u32, ..Summary::default() };
            Ok(sink.append(batch.pending(true), &summary).await?.position)
        };
        first = first.and(ledger.batch(batch, send).await);
        if batch.token.0.is_multiple_of(2) {
            let folded = match process.open().await {
                Ok(collection) => compact(&collection, ledger).await,
                Err(e) => Err(e),
            };
            first = first.and(folded);
        }
    }
    first
}

async fn compact(collection: &Arc<Collection>, ledger: &Ledger) -> Result<()> {
    let compactor = Compactor::new(Options { threads: 1, seed: 7, ..Options::default() });
    let report = compactor.compact(&Meter::new(), collection, &|_| {}).await?;
    ledger.committed(report.version);
    Ok(())
}

async fn collect(collection: &Arc<Collection>, ledger: &Ledger) -> Result<()> {
    let collected = collector().run(&Meter::new(), collection, &|_| {}).await?;
    ledger.committed(collected.version);
    Ok(())
}

/// One that retains nothing but the newest version.
pub fn collector() -> Collector {
    Collector::new(CollectOptions { retain: Duration::ZERO, grace: Duration::from_secs(2) })
}

/// Steps that go well, then steps during which one call goes wrong.
pub struct Scenario {
    pub name: &'static str,
    pub before: Vec<Step>,
    pub steps: Vec<Step>,
    /// Fewest calls that its steps are known to make: an enumeration over fewer has lost something.
    pub least_calls: u64,
}

impl Scenario {
    /// Performs all steps, whatever comes of each; the first error.
    pub async fn run(&self, process: &Process, ledger: &Ledger, again: bool) -> Result<()> {
        let mut first = Ok(());
        for step in &self.steps {
            first = first.and(step.perform(process, ledger, again).await);
        }
        first
    }

    pub fn drops(&self) -> bool {
        self.before.iter().chain(&self.steps).any(|s| matches!(s, Step::Drop))
    }

    pub fn collects(&self) -> bool {
        self.steps.iter().any(|s| matches!(s, Step::Collect | Step::CollectTwice(_)))
    }
}

fn one(batch: Batch, fresh: bool) -> Step {
    Step::Append(vec![(batch, fresh)])
}

/// `a0`, `a1`, …
fn many(letter: char, count: usize) -> Vec<String> {
    (0..count).map(|i| format!("{letter}{i}")).collect()
}

fn upsert_many(token: u128, letter: char, count: usize) -> Batch {
    let ids = many(letter, count);
    Batch::upsert(token, &ids.iter().map(String::as_str).collect::<Vec<_>>())
}

pub fn first_write() -> Scenario {
    Scenario {
        name: "first write",
        before: vec![],
        steps: vec![
            Step::Create { text: true },
            one(Batch::upsert(1, &["a", "b"]), true),
            one(Batch::upsert(2, &["b", "c"]), false),
        ],
        least_calls: 10,
    }
}

/// The first caller leads with its own batch; the other three wait together and become one entry.
pub fn group_commit() -> Scenario {
    let group = vec![
        (Batch::upsert(2, &["a"]), true),
        (Batch::upsert(3, &["a", "b"]), false),
        (Batch::delete(4, &["b", "c"]), true),
        (Batch::upsert(5, &["c", "d"]), false),
    ];
    Scenario {
        name: "group commit",
        before: vec![Step::Create { text: true }, one(Batch::upsert(1, &["a", "b", "c"]), true)],
        steps: vec![Step::Append(group)],
        least_calls: 7,
    }
}

/// Three writers that know nothing of each other want the same slots; two of them send one token.
pub fn race() -> Scenario {
    let rivals = vec![
        (Batch::upsert(2, &["a"]), true),
        (Batch::upsert(3, &["a", "b"]), false),
        (Batch::upsert(3, &["a", "b"]), false),
    ];
    Scenario {
        name: "rivals",
        before: vec![Step::Create { text: true }, one(Batch::upsert(1, &["a", "b", "c"]), true)],
        steps: vec![Step::Race(rivals)],
        least_calls: 15,
    }
}

pub fn body() -> Scenario {
    let big = Batch::upsert(2, &["a", "c"]).with_text(530 << 10);
    Scenario {
        name: "append with body",
        before: vec![Step::Create { text: true }, one(Batch::upsert(1, &["a", "b"]), true)],
        steps: vec![one(big, false), one(Batch::delete(3, &["b", "c"]), true)],
        least_calls: 7,
    }
}

/// A batch with a key that the schema does not have: the schema is widened, then the batch appended.
pub fn alter() -> Scenario {
    Scenario {
        name: "alter",
        before: vec![Step::Create { text: false }, one(Batch::upsert(1, &["a", "b"]), true)],
        steps: vec![
            Step::Ingest(Batch::upsert(2, &["b", "c"]).with_text(8)),
            Step::Ingest(Batch::delete(3, &["a"])),
        ],
        least_calls: 8,
    }
}

/// Overwrites and deletes in the tail mark rows of a segment that is too large to be rewritten.
pub fn publish() -> Scenario {
    Scenario {
        name: "publish",
        before: vec![
            Step::Create { text: true },
            one(upsert_many(1, 'a', 40), true),
            Step::Compact,
            one(Batch::upsert(2, &["a3", "b0"]).with_text(8), true),
            one(Batch::delete(3, &["a5", "a6", "none"]), true),
            one(Batch::upsert(4, &["b0", "b1", "a5"]), true),
        ],
        steps: vec![Step::Compact],
        least_calls: 15,
    }
}

/// The same onto a segment that is small enough to be merged, then onto what that made.
pub fn merge() -> Scenario {
    Scenario {
        name: "publish with a merge",
        before: vec![
            Step::Create { text: true },
            one(upsert_many(1, 'a', 6), true),
            Step::Compact,
            one(Batch::upsert(2, &["a3", "b0"]).with_text(8), true),
            one(Batch::delete(3, &["a5", "none"]), true),
        ],
        steps: vec![Step::Compact, one(Batch::upsert(4, &["b0", "a5"]), false), Step::Compact],
        least_calls: 20,
    }
}

/// Two compactors want the same tail, which grows; then one is alone.
pub fn rival_compactors() -> Scenario {
    Scenario {
        name: "rival compactors",
        steps: vec![Step::CompactTwice(Batch::upsert(5, &["b1", "a7"])), Step::Compact],
        ..publish()
    }
}

pub fn end() -> Scenario {
    Scenario {
        name: "drop",
        before: vec![
            Step::Create { text: true },
            one(upsert_many(1, 'a', 6), true),
            Step::Compact,
            one(Batch::upsert(2, &["a3", "b0"]), true),
        ],
        steps: vec![Step::Drop],
        least_calls: 8,
    }
}

/// Several versions and segments, bitmaps and a folded log below a tail.
pub fn collection() -> Scenario {
    collection_of(Batch::upsert(4, &["b0", "b1", "a5"]))
}

/// The same with an entry whose rows are in a body.
pub fn collection_with_body() -> Scenario {
    collection_of(Batch::upsert(4, &["b0", "b1", "a5"]).with_text(360 << 10))
}

fn collection_of(last: Batch) -> Scenario {
    Scenario {
        name: "collection",
        before: vec![
            Step::Create { text: true },
            one(upsert_many(1, 'a', 40), true),
            Step::Compact,
            one(Batch::upsert(2, &["a3", "b0"]).with_text(8), true),
            one(Batch::delete(3, &["a5", "a6", "none"]), true),
            Step::Compact,
            one(last, true),
            Step::Compact,
            one(Batch::upsert(5, &["a7", "b0"]), true),
        ],
        steps: vec![Step::Collect],
        least_calls: 25,
    }
}

/// Four batches of a file, a compaction after every second, into a collection that has rows.
pub fn file() -> Scenario {
    let batches = (2..6).map(|n| Batch::upsert(n, &["a", "b", ["c", "d", "e", "f"][n as usize - 2]]));
    Scenario {
        name: "import",
        before: vec![Step::Create { text: true }, one(Batch::upsert(1, &["a", "z"]), true)],
        steps: vec![Step::Import(batches.collect())],
        least_calls: 25,
    }
}

/// Two collectors and a writer at once, then a compaction and another collection.
pub fn rival_collectors() -> Scenario {
    Scenario {
        name: "rival collectors",
        steps: vec![Step::CollectTwice(Batch::upsert(6, &["b1", "a8"])), Step::Compact, Step::Collect],
        ..collection()
    }
}

/// What is left of a dropped collection.
pub fn collection_of_dropped() -> Scenario {
    let mut before = end().before;
    before.push(Step::Drop);
    Scenario { name: "collection of a dropped one", before, steps: vec![Step::Collect], least_calls: 15 }
}
