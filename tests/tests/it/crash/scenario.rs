//! What is done while things go wrong: a process, the steps of its clients, and the scenarios made of them.

use super::ledger::{Batch, Ledger, TEXT};
use super::truth::{At, Version, newest_of, versions};
use esker_compactor::{Compactor, Options};
use esker_format::record::Op;
use esker_format::schema::{Column, ColumnType, Metric, Schema, Settings, VectorType};
use esker_format::{CollectionId, Error, Kind, Name, Result, Seq};
use esker_ingest::Ingest;
use esker_store::segment::all_columns;
use esker_store::{Backend, Client, Collection, Meter, Seams, SegmentReader, Store};
use esker_tests::fault::{FaultStore, Plan};
use esker_tests::world::World;
use futures::TryStreamExt;
use futures::future::join_all;
use object_store::path::Path;
use std::collections::BTreeMap;
use std::sync::Arc;

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

    /// A strong read of everything, through segments and tail; and a look-up of each of `ids`, which must agree.
    pub async fn read(&self, ids: &[&str]) -> Result<View> {
        let (meter, collection) = (Meter::new(), self.open().await?);
        let snapshot = collection.snapshot(&meter).await?;
        let mut all: Vec<(At, String, Option<Version>)> = Vec::new();
        for (segment, part) in snapshot.manifest.segments.iter().zip(&snapshot.parts) {
            let reader = SegmentReader::open(&collection, &meter, segment, part.as_ref()).await?;
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
    /// Through the writer function, which widens the schema first.
    Ingest(Batch),
    Compact,
    /// By two rivals at once, while a third writes this.
    CompactTwice(Batch),
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
                        let done = collection.append(meter, batch.pending(), *fresh && !again).await?;
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
                        let done = rival.append(meter, batch.pending(), *fresh && !again).await?;
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
                            ingest.delete(&meter, &name(), &ids, token).await?
                        }
                    };
                    Ok(ack.position)
                };
                ledger.batch(batch, send).await
            }
            Step::Compact => compact(&process.open().await?, ledger).await,
            Step::CompactTwice(batch) => {
                let rival = || Collection::new(process.store.client().clone(), id());
                let (first, second, third) = (rival(), rival(), rival());
                let write = ledger.batch(batch, async {
                    Ok(third.append(&meter, batch.pending(), !again).await?.position)
                });
                let (x, y, z) = futures::join!(compact(&first, ledger), compact(&second, ledger), write);
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

async fn compact(collection: &Arc<Collection>, ledger: &Ledger) -> Result<()> {
    let compactor = Compactor::new(Options { threads: 1, seed: 7 });
    let report = compactor.compact(&Meter::new(), collection, &|_| {}).await?;
    ledger.committed(report.version);
    Ok(())
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
        self.steps.iter().any(|s| matches!(s, Step::Drop))
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
