//! What people expect of writes: conditions that hold, patches that lose nothing, retries that write once, answers in
//! time; whatever the store does meanwhile.

mod faults;
mod rivals;
mod rows;

use std::collections::BTreeMap;
use std::sync::Arc;

use esker_format::record::{Record, Value};
use esker_format::schema::{Metric, Schema, Settings, VectorType};
use esker_format::{Name, Result, Token};
use esker_ingest::{Ack, Body, Condition, Ingest, WriteOptions};
use esker_store::{Backend, Client, Collection, Meter, Seams, Store};
use esker_tests::fault::{FaultStore, Plan};
use esker_tests::world::World;
use object_store::path::Path;

fn name() -> Name {
    Name::new("notes").unwrap()
}

/// A process with nothing in memory.
struct Process {
    store: Arc<Store>,
    ingest: Ingest,
    faults: FaultStore,
}

impl Process {
    /// `seed` decides its tokens: two processes of one world must not share it.
    fn new(world: &World, plan: Plan, seed: u64) -> Self {
        let faults = FaultStore::new(world, plan);
        let backend = Backend::paged(Arc::new(faults.clone()), Path::default());
        let store = Arc::new(Store::new(Client::new(backend, Seams::simulated(seed))));
        Process { ingest: Ingest::new(store.clone()), store, faults }
    }

    async fn create(world: &World) -> Self {
        let process = Process::new(world, Plan::none(), 1);
        let settings = Settings { dimension: 2, metric: Metric::L2, vector_type: VectorType::F32 };
        process.store.create(&Meter::new(), &name(), settings, Schema::default()).await.unwrap();
        process
    }

    async fn open(&self) -> Arc<Collection> {
        self.store.collection(&Meter::new(), &name()).await.unwrap()
    }

    async fn put(&self, record: Record, token: Option<Token>, condition: Condition) -> Result<Ack> {
        let options = WriteOptions { token, condition };
        let body = Body::Records(vec![record]);
        self.ingest.write(&Meter::new(), &name(), esker_format::record::Op::Upsert, body, &options).await
    }

    /// The newest live version of a record, its vector with it.
    async fn get(&self, id: &str) -> Option<Record> {
        let (meter, collection) = (Meter::new(), self.open().await);
        let snapshot = collection.snapshot(&meter).await.unwrap();
        let now_ms = self.store.client().seams().clock.now_ms();
        let found = collection.lookup(&meter, &snapshot, &[id], now_ms).await.unwrap().remove(0)?;
        let vector = collection.vectors(&meter, &snapshot, &[&found]).await.unwrap().remove(0);
        Some(Record { vector, ..found.record(&snapshot.schema).unwrap() })
    }

    async fn position(&self) -> u64 {
        self.open().await.snapshot(&Meter::new()).await.unwrap().position
    }
}

fn record(id: &str, version: i64) -> Record {
    Record { id: id.to_owned(), vector: vec![version as f32, 1.0], version, ..Record::default() }
}

fn values<const N: usize>(values: [(&str, Value); N]) -> BTreeMap<String, Value> {
    values.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}
