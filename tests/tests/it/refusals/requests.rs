//! The requests of the page: a verb, mostly a collection, and JSON.

use std::io::Write;
use std::sync::Arc;

use esker_compactor::Compactor;
use esker_format::avro::container::Block;
use esker_format::record::{Op, Record, Value};
use esker_format::schema::{Column, ColumnType, Metric, Schema, Settings, VectorType};
use esker_format::{Name, Result, Token, limits};
use esker_ingest::import::{self, Overrides, Plan};
use esker_ingest::{Body, CollectionSink, Ingest, WriteOptions};
use esker_query::sql::{self, Param};
use esker_query::{Consistency, Engine, Filter, Options, ScanRequest, Search};
use esker_store::{Backend, Client, Location, Meter, Seams, Store};
use esker_tests::fault::{FaultStore, Plan as Faults};
use esker_tests::world::World;
use futures::TryStreamExt;
use object_store::path::Path;
use serde_json::Value as Json;

/// JSON has no NaN: it is read as this, then put in.
const NAN: &str = "3e38";

/// One process of a store.
pub struct Process {
    store: Arc<Store>,
    ingest: Ingest,
    engine: Engine,
    meter: Meter,
}

impl Process {
    pub fn new(world: &World, seed: u64) -> Process {
        let faults = FaultStore::new(world, Faults::none());
        let backend = Backend::paged(Arc::new(faults), Path::default());
        let store = Arc::new(Store::new(Client::new(backend, Seams::simulated(seed))));
        let (ingest, engine) = (Ingest::new(store.clone()), Engine::new(store.clone(), Options::default()));
        Process { store, ingest, engine, meter: Meter::new() }
    }

    /// Does what the page says. What comes of it, in words, if it is not refused.
    pub async fn send(&self, request: &str) -> Result<String> {
        let (verb, rest) = request.split_once(' ').unwrap_or((request, ""));
        let (name, body) = rest.split_once(' ').unwrap_or((rest, ""));
        match verb {
            "open" => Location::parse(rest).map(|location| location.to_string()),
            "create" => self.create(rest).await,
            "sql" => self.sql(rest).await,
            "drop" => {
                self.store.drop_collection(&self.meter, &Name::new(rest)?).await.map(|()| "done".into())
            }
            _ => self.on_collection(verb, &Name::new(name)?, body).await,
        }
    }

    async fn create(&self, body: &str) -> Result<String> {
        let body: Json = json(body);
        let text = |key: &str, default: &str| body[key].as_str().unwrap_or(default).to_owned();
        let columns = body["metadata"].as_object().into_iter().flatten().map(|(name, kind)| {
            let kind = kind.as_str().unwrap_or_default().parse()?;
            Ok(Column { name: name.clone(), kind, wide: false })
        });
        let settings = Settings {
            dimension: body["dimension"].as_u64().unwrap_or(4) as u32,
            metric: text("metric", "cosine").parse()?,
            vector_type: text("vector_type", "f32").parse()?,
        };
        let schema = Schema { columns: columns.collect::<Result<_>>()? };
        let name = Name::new(text("name", ""))?;
        Ok(self.store.create(&self.meter, &name, settings, schema).await?.id().to_string())
    }

    async fn on_collection(&self, verb: &str, name: &Name, body: &str) -> Result<String> {
        let (meter, reader) = (&self.meter, self.engine.collection(name));
        let wrote = |ack: esker_ingest::Ack| format!("{} rows", ack.rows);
        match verb {
            "upsert" => self.ingest.upsert(meter, name, &records(body), None).await.map(wrote),
            "keyed" => {
                let token = Some(Token::from_key("order 7"));
                self.ingest.upsert(meter, name, &records(body), token).await.map(wrote)
            }
            "delete" => self
                .ingest
                .delete(meter, name, &json::<Vec<String>>(body), &WriteOptions::default())
                .await
                .map(wrote),
            "avro-delete" => {
                let (records, mut data) = (records(body), Vec::new());
                records.iter().for_each(|r| r.encode(&mut data));
                let block = Block { rows: records.len() as u64, data: data.into() };
                self.ingest
                    .blocks(meter, name, Op::Delete, &[block], &WriteOptions::default())
                    .await
                    .map(wrote)
            }
            "avro-file" => {
                let file = container(body).into();
                self.ingest
                    .write(meter, name, Op::Upsert, Body::Container(file), &WriteOptions::default())
                    .await
                    .map(wrote)
            }
            "import" => self.import(name, body).await,
            "search" => {
                let reply = reader.search(meter, &search(body)?).await?;
                Ok(format!("{} hits", reply.results[0].len()))
            }
            "count" => Ok(format!("{} rows", reader.count(meter, Some(&filter(&json(body))?)).await?.0)),
            "get" => {
                Ok(format!("{} records", reader.get(meter, &json::<Vec<String>>(body), false).await?.0.len()))
            }
            "scan" => {
                let columns = json::<Json>(body)["columns"].as_array().map(|c| strings(c));
                let request = ScanRequest { columns, ..ScanRequest::default() };
                let batches: Vec<_> = reader.scan(meter, &request).await?.batches.try_collect().await?;
                Ok(format!("{} batches", batches.len()))
            }
            other => panic!("the page uses the verb {other}"),
        }
    }

    async fn sql(&self, text: &str) -> Result<String> {
        let body: Json =
            if text.starts_with('{') { json(text) } else { serde_json::json!({ "query": text }) };
        let params =
            body["params"].as_array().into_iter().flatten().map(Param::json).collect::<Result<Vec<_>>>()?;
        let memory = body["memory"].as_u64().map_or(sql::Options::default().memory, |m| m as usize);
        let query = body["query"].as_str().unwrap_or_default();
        let catalog = self.engine.catalog(&self.meter);
        Ok(format!("{} rows", sql::query(catalog, query, &params, sql::Options { memory }).await?.stats.rows))
    }

    /// Lines that are separated by ⏎, through a file.
    async fn import(&self, name: &Name, lines: &str) -> Result<String> {
        let mut file = tempfile::NamedTempFile::with_suffix(".ndjson").unwrap();
        file.write_all(lines.replace('⏎', "\n").as_bytes()).unwrap();
        let collection = self.store.collection(&self.meter, name).await?;
        let settings = collection.manifest(&self.meter).await?.settings.clone();
        let overrides = Overrides { existing: Some(settings.clone()), ..Overrides::default() };
        let inspected = import::inspect(file.path(), &overrides)?;
        let plan = Plan::new(file.path(), inspected, collection.id().clone(), settings)?;
        let sink = CollectionSink::new(collection, self.meter.clone(), None);
        let clock = &self.store.client().seams().clock;
        Ok(format!("{} rows", import::run(plan, &sink, clock.as_ref(), &|_| {}).await?.rows))
    }
}

fn json<T: serde::de::DeserializeOwned>(text: &str) -> T {
    serde_json::from_str(text)
        .unwrap_or_else(|e| panic!("{e}: {}", text.chars().take(200).collect::<String>()))
}

fn nan() -> f32 {
    NAN.parse().unwrap()
}

fn records(text: &str) -> Vec<Record> {
    let mut records: Vec<Record> = json(&text.replace("NaN", NAN));
    for record in &mut records {
        record.vector.iter_mut().filter(|x| **x == nan()).for_each(|x| *x = f32::NAN);
        for value in record.metadata.values_mut() {
            if let Value::Float(v) = value
                && *v as f32 == nan()
            {
                *v = f64::NAN;
            }
        }
    }
    records
}

fn strings(items: &[Json]) -> Vec<String> {
    items.iter().filter_map(|c| Some(c.as_str()?.to_owned())).collect()
}

fn filter(body: &Json) -> Result<Filter> {
    match body.as_str() {
        Some(text) => Filter::sql(text),
        None => Filter::json(body),
    }
}

fn search(text: &str) -> Result<Search> {
    let body: Json = json(&text.replace("NaN", NAN));
    let float = |v: &Json| v.as_f64().map(|v| if v as f32 == nan() { f32::NAN } else { v as f32 });
    let vector = |v: &Json| v.as_array().map(|v| v.iter().filter_map(float).collect::<Vec<f32>>());
    let default = Search::default();
    let vectors =
        body["vectors"].as_array().into_iter().flatten().chain([&body["vector"]]).filter_map(vector);
    Ok(Search {
        vectors: vectors.collect(),
        like: body["like"].as_str().map(str::to_owned),
        k: body["k"].as_u64().map_or(default.k, |k| k as usize),
        filter: body.get("filter").map(filter).transpose()?,
        include: body["include"].as_array().map(|c| strings(c)),
        max_distance: float(&body["max_distance"]),
        min_recall: float(&body["min_recall"]).unwrap_or(default.min_recall),
        consistency: if body["consistency"] == "eventual" {
            Consistency::Eventual
        } else {
            Consistency::Strong
        },
        min_position: body["min_position"].as_u64(),
        as_of: body["as_of"].as_u64(),
        ..default
    })
}

/// An Avro object container file without blocks, of the given schema; or the text itself if it is no schema.
fn container(schema: &str) -> Vec<u8> {
    if !schema.starts_with('{') {
        return schema.as_bytes().to_vec();
    }
    let mut file = b"Obj\x01\x02\x16avro.schema".to_vec();
    let mut length = schema.len() * 2;
    while length >= 128 {
        file.push((length % 128) as u8 | 128);
        length /= 128;
    }
    file.push(length as u8);
    file.extend_from_slice(schema.as_bytes());
    file.extend_from_slice(&[0; 17]);
    file
}

/// The store that the page describes.
pub async fn prepare(world: &World) -> Process {
    let process = Process::new(world, 1);
    let done = [
        r#"create {"name": "docs", "dimension": 4, "metric": "cosine"}"#,
        r#"upsert docs [{"id": "a", "vector": [1, 0, 0, 0], "metadata": {"section": "x", "year": 2020, "rating": 0.5,
            "draft": false, "tags": ["t"]}}, {"id": "b", "vector": [0, 1, 0, 0], "metadata": {"year": 2021}}]"#,
        r#"create {"name": "flat", "dimension": 2, "metric": "l2"}"#,
        r#"keyed flat [{"id": "a", "vector": [1, 0], "metadata": {"views": 9007199254740993}}]"#,
        r#"create {"name": "half", "dimension": 2, "metric": "cosine", "vector_type": "f16"}"#,
        r#"create {"name": "gone", "dimension": 2}"#,
        r#"create {"name": "full", "dimension": 1, "metric": "l2"}"#,
    ];
    for request in done {
        process.send(request).await.unwrap();
    }
    let docs = process.store.collection(&process.meter, &Name::new("docs").unwrap()).await.unwrap();
    Compactor::default().compact(&process.meter, &docs, &|_| {}).await.unwrap();
    let more = r#"upsert docs [{"id": "c", "vector": [0, 0, 1, 0], "metadata": {"section": "y"}}]"#;
    process.send(more).await.unwrap();
    let columns =
        (0..limits::COLUMNS).map(|i| Column { name: format!("c{i}"), kind: ColumnType::Int, wide: false });
    let settings = Settings { dimension: 1, metric: Metric::L2, vector_type: VectorType::F32 };
    let (wide, schema) = (Name::new("wide").unwrap(), Schema { columns: columns.collect() });
    process.store.create(&process.meter, &wide, settings, schema).await.unwrap();
    for i in 0..limits::TAIL_ENTRIES {
        let one = format!(r#"upsert full [{{"id": "{i}", "vector": [1]}}]"#);
        process.send(&one).await.unwrap();
    }
    // Dropped by another process, which this one finds out by an append whose entry stays where nothing reads.
    Process::new(world, 2).send("drop gone").await.unwrap();
    process.send(r#"upsert gone [{"id": "a", "vector": [1, 0]}]"#).await.unwrap_err();
    process
}
