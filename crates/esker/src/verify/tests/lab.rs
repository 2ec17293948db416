//! A collection with a random past.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use esker_compactor::{CollectOptions, Collector, Compactor, Options};
use esker_format::avro::container::Block;
use esker_format::avro::{encode_record, encode_tombstone};
use esker_format::manifest::Manifest;
use esker_format::record::{Op, RecordRef, ValueRef};
use esker_format::schema::{Column, ColumnType, Metric, Schema, Settings, VectorType};
use esker_format::wal::PendingBatch;
use esker_format::{CollectionId, Name, Token};
use esker_index::SplitMix;
use esker_store::{Backend, Client, Collection, Location, Meter, Seams, Store, StoreEnv, open};

/// Ids that writes draw from.
const IDS: usize = 200;
const DIMENSION: usize = 8;

pub fn id(life: u64) -> CollectionId {
    CollectionId::new(Name::new("notes").unwrap(), life)
}

pub fn memory() -> Backend {
    open(&Location::Memory, &StoreEnv::new(), true).unwrap()
}

pub struct Lab {
    pub client: Client,
    pub meter: Meter,
    /// Ids that a read should see.
    pub live: BTreeSet<String>,
    pub collection: Arc<Collection>,
    store: Store,
    random: SplitMix,
}

impl Lab {
    pub async fn in_memory(seed: u64) -> Lab {
        Self::over(memory(), Seams::simulated(seed), seed).await
    }

    pub async fn in_directory(path: &Path, seed: u64) -> Lab {
        let backend = open(&Location::Directory(path.to_owned()), &StoreEnv::new(), true).unwrap();
        Self::over(backend, Seams::simulated(seed), seed).await
    }

    pub async fn over(backend: Backend, seams: Seams, seed: u64) -> Lab {
        let client = Client::new(backend, seams);
        let (store, meter) = (Store::new(client.clone()), Meter::new());
        let collection = create(&store, &meter, seed).await;
        Lab { client, meter, live: BTreeSet::new(), collection, store, random: SplitMix::new(seed) }
    }

    /// The same objects in another store.
    pub async fn copy(&self) -> Client {
        let client = Client::new(memory(), Seams::simulated(9));
        for object in self.client.list_all(&self.meter, "").await.unwrap() {
            let (bytes, _) = self.client.get(&self.meter, &object.key).await.unwrap().unwrap();
            client.overwrite(&self.meter, &object.key, bytes).await.unwrap();
        }
        client
    }

    /// Upserts of that many random ids, some of them new.
    pub async fn write(&mut self, rows: usize) {
        let ids: Vec<String> = (0..rows).map(|_| format!("id-{}", self.random.below(IDS))).collect();
        self.upsert(&ids, 30).await;
    }

    /// An entry whose rows go to a body.
    pub async fn write_large(&mut self) {
        let ids: Vec<String> = (0..30).map(|i| format!("large-{i}")).collect();
        self.upsert(&ids, 80_000).await;
    }

    pub async fn upsert(&mut self, ids: &[String], text: usize) {
        let mut data = Vec::new();
        for id in ids {
            let vector: Vec<f32> = (0..DIMENSION).map(|_| self.random.normal()).collect();
            let text = "a word ".repeat(text / 7);
            let tags = [id.clone(), "x".to_owned()];
            let mut metadata = vec![("number", ValueRef::Int(id.len() as i64))];
            match self.random.below(4) {
                0 => metadata.push(("tags", ValueRef::Strings(&tags))),
                1 => metadata.push(("tags", ValueRef::Strings(&[]))),
                2 => {
                    metadata.extend([("flag", ValueRef::Bool(id.len() > 4)), ("ratio", ValueRef::Float(0.5))])
                }
                _ => {}
            }
            let expires_at = (self.random.below(9) == 0).then_some(i64::MAX / 4);
            if self.random.below(3) > 0 {
                metadata.push(("text", ValueRef::String(&text)));
            }
            encode_record(
                &mut data,
                &RecordRef { id, vector: &vector, metadata: &metadata, expires_at, ..RecordRef::default() },
            );
        }
        self.append(Op::Upsert, ids.len(), data).await;
        self.live.extend(ids.iter().cloned());
    }

    /// Deletes of that many random ids, whether they are there or not.
    pub async fn delete(&mut self, rows: usize) {
        let ids: Vec<String> = (0..rows).map(|_| format!("id-{}", self.random.below(IDS))).collect();
        let mut data = Vec::new();
        ids.iter().for_each(|id| encode_tombstone(&mut data, id));
        self.append(Op::Delete, rows, data).await;
        self.live.retain(|id| !ids.contains(id));
    }

    async fn append(&mut self, op: Op, rows: usize, data: Vec<u8>) {
        let token = Token(u128::from(self.random.next_u64()) << 64 | 1);
        let blocks = vec![Block { rows: rows as u64, data: Bytes::from(data) }];
        let batch = PendingBatch { token, given: false, content: None, op, arrived_ms: 1_000, blocks };
        self.collection.append(&self.meter, batch).await.unwrap();
    }

    pub async fn compact(&self) {
        let compactor = Compactor::new(Options { threads: 1, ..Options::default() });
        compactor.compact(&self.meter, &self.collection, &|_| {}).await.unwrap();
    }

    pub async fn collect(&self) {
        let options = CollectOptions { retain: Duration::ZERO, grace: Duration::ZERO };
        Collector::new(options).run(&self.meter, &self.collection, &|_| {}).await.unwrap();
    }

    pub async fn newest(&self) -> Manifest {
        Manifest::clone(&*self.collection.manifest(&self.meter).await.unwrap())
    }

    pub async fn pin(&self) {
        let version = self.newest().await.version;
        self.collection.pin(&self.meter, version, Duration::from_secs(60), "a test").await.unwrap();
    }

    pub async fn drop_and_create(&mut self) {
        self.store.drop_collection(&self.meter, id(1).name()).await.unwrap();
        self.collection = create(&self.store, &self.meter, 1).await;
        self.live.clear();
    }
}

async fn create(store: &Store, meter: &Meter, seed: u64) -> Arc<Collection> {
    let column = |name: &str, kind| Column { name: name.to_owned(), kind, wide: false };
    let columns = [
        ("text", ColumnType::String),
        ("number", ColumnType::Int),
        ("tags", ColumnType::Strings),
        ("flag", ColumnType::Boolean),
        ("ratio", ColumnType::Float),
    ];
    let schema = Schema { columns: columns.map(|(name, kind)| column(name, kind)).to_vec() };
    let metric = [Metric::Cosine, Metric::L2, Metric::Dot][seed as usize % 3];
    let vector_type = [VectorType::F32, VectorType::F16][seed as usize % 2];
    let settings = Settings { dimension: DIMENSION as u32, metric, vector_type };
    store.create(meter, id(1).name(), settings, schema).await.unwrap()
}
