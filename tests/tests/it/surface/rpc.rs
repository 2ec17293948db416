//! Steps over gRPC: bodies of HTTP as messages, replies as bodies of HTTP.

use esker_format::record::Record;
use esker_proto::grpc;
use esker_proto::rest::{ErrorBody, ErrorDetail};
use esker_proto::v1::ingest_client::IngestClient;
use esker_proto::v1::query_client::QueryClient;
use esker_proto::v1::{self, filter::Form};
use futures::TryStreamExt;
use serde_json::{Map, Value as Json, json};
use tonic::Status;
use tonic::transport::Channel;

use super::Answer;
use super::cases::Step;
use super::server::Server;

pub struct Client {
    pub ingest: IngestClient<Channel>,
    pub query: QueryClient<Channel>,
}

/// The error of a status, in the form of HTTP's.
pub fn detail(status: &Status) -> ErrorDetail {
    ErrorBody::from(&grpc::error(status)).error
}

impl Client {
    pub async fn connect(server: &Server) -> Client {
        let channel = Channel::from_shared(server.url()).unwrap().connect().await.unwrap();
        let query = QueryClient::new(channel.clone()).max_decoding_message_size(64 << 20);
        Client { ingest: IngestClient::new(channel), query }
    }

    pub async fn send(&mut self, step: &Step) -> Answer {
        let reply = match step.op {
            "create" | "drop" | "upsert" | "patch" => self.write(step).await,
            "delete" if step.body.get("filter").is_none_or(|_| step.body.get("ids").is_some()) => {
                self.write(step).await
            }
            _ => self.read(step).await,
        };
        reply.map_err(|status| detail(&status))
    }

    async fn write(&mut self, step: &Step) -> Result<Json, Status> {
        let (body, collection) = (&step.body, step.collection.to_owned());
        let idempotency_key = step.key.clone().unwrap_or_default();
        let if_version = body["if_version"].as_i64();
        match step.op {
            "create" => {
                let request = v1::CreateCollectionRequest {
                    name: text(&body["name"]),
                    dimension: body["dimension"].as_u64().unwrap() as u32,
                    metric: text(&body["metric"]),
                    vector_type: text(&body["vector_type"]),
                    metadata: fields(&body["metadata"], text),
                };
                let reply = self.ingest.create_collection(request).await?.into_inner();
                Ok(json!({"name": reply.name, "id": reply.id}))
            }
            "drop" => {
                let request = v1::DropCollectionRequest { collection };
                let reply = self.ingest.drop_collection(request).await?.into_inner();
                Ok(json!({"dropped": reply.dropped}))
            }
            "upsert" => {
                let records = list(&body["records"]).iter().map(record);
                let request = v1::UpsertRequest {
                    collection,
                    records: records.collect(),
                    if_absent: body["if_absent"] == true,
                    if_version,
                    idempotency_key,
                    ..Default::default()
                };
                let reply = self.ingest.upsert(request).await?.into_inner();
                Ok(acknowledged("upserted", reply.position, reply.upserted, reply.duplicate))
            }
            "patch" => {
                let records = list(&body["records"]).iter().map(patch).collect();
                let request = v1::PatchRequest {
                    collection,
                    records,
                    if_version,
                    idempotency_key,
                    ..Default::default()
                };
                let reply = self.ingest.patch(request).await?.into_inner();
                Ok(acknowledged("patched", reply.position, reply.patched, reply.duplicate))
            }
            _ => {
                let ids = list(&body["ids"]).iter().map(text).collect();
                let request = v1::DeleteRequest { collection, ids, idempotency_key, ..Default::default() };
                let reply = self.ingest.delete(request).await?.into_inner();
                Ok(acknowledged("deleted", reply.position, reply.deleted, reply.duplicate))
            }
        }
    }

    async fn read(&mut self, step: &Step) -> Result<Json, Status> {
        let (body, collection) = (&step.body, step.collection.to_owned());
        match step.op {
            "list" => {
                let reply = self.query.list_collections(v1::ListCollectionsRequest {}).await?.into_inner();
                let all: Vec<Json> = reply.collections.into_iter().map(described).collect();
                Ok(json!({"collections": all, "io": io(reply.io)}))
            }
            "describe" => {
                let request = v1::DescribeCollectionRequest { collection };
                Ok(described(self.query.describe_collection(request).await?.into_inner()))
            }
            "stats" => {
                let reply = self.query.stats(v1::StatsRequest { collection }).await?.into_inner();
                Ok(stats(reply))
            }
            "warm" => {
                let reply = self.query.warm(v1::WarmRequest { collection }).await?.into_inner();
                let v1::WarmReply { rows, position, resident, bytes, .. } = reply;
                Ok(json!({
                    "rows": rows, "position": position, "io": io(reply.io), "resident": resident, "bytes": bytes,
                }))
            }
            "delete" => {
                let request = v1::DeleteByFilterRequest { collection, filter: filter(&body["filter"]) };
                let reply = self.query.delete_by_filter(request).await?.into_inner();
                Ok(json!({"position": reply.position, "deleted": reply.deleted}))
            }
            "get" => {
                let (id, include_vector) = (text(&body["id"]), body["include_vector"] == true);
                let request = v1::GetRequest { collection, id, include_vector, ..Default::default() };
                let reply = self.query.get(request).await?.into_inner();
                Ok(recorded(reply.record.unwrap()))
            }
            "get_many" => {
                let request = v1::GetManyRequest {
                    collection,
                    ids: list(&body["ids"]).iter().map(text).collect(),
                    include: columns(&body["include"]),
                    include_vector: body["include_vector"] == true,
                    ..Default::default()
                };
                let reply = self.query.get_many(request).await?.into_inner();
                let records: Vec<Json> = reply.records.into_iter().map(recorded).collect();
                Ok(json!({"records": records, "missing": reply.missing, "position": reply.position,
                    "io": io(reply.io)}))
            }
            "count" => {
                let (filter, min_position) = (filter(&body["filter"]), body["min_position"].as_u64());
                let request = v1::CountRequest { collection, filter, min_position, ..Default::default() };
                let reply = self.query.count(request).await?.into_inner();
                Ok(json!({"count": reply.count, "position": reply.position, "io": io(reply.io)}))
            }
            "scan" => self.scan(step).await,
            "search" => {
                let reply = self.query.search(search(collection, body)).await?.into_inner();
                Ok(found(reply, body))
            }
            _ => {
                let request = v1::SqlRequest {
                    query: text(&body["query"]),
                    params: list(&body["params"]).iter().map(value).collect(),
                    format: v1::SqlFormat::Ndjson.into(),
                };
                let pieces: Vec<v1::SqlReply> =
                    self.query.sql(request).await?.into_inner().try_collect().await?;
                let cost = pieces.last().unwrap().io;
                let bytes: Vec<u8> = pieces.into_iter().flat_map(|p| p.data).collect();
                let rows: Vec<Json> = String::from_utf8(bytes)
                    .unwrap()
                    .lines()
                    .map(|line| serde_json::from_str(line).unwrap())
                    .collect();
                Ok(json!({"rows": rows, "io": io(cost)}))
            }
        }
    }

    /// A page: as many records as HTTP's.
    async fn scan(&mut self, step: &Step) -> Result<Json, Status> {
        let body = &step.body;
        let request = v1::ScanRequest {
            collection: step.collection.to_owned(),
            filter: filter(&body["filter"]),
            include: columns(&body["include"]),
            include_vector: body["include_vector"] == true,
            limit: body["limit"].as_u64(),
            cursor: text(&body["cursor"]),
            ..Default::default()
        };
        let pieces: Vec<v1::ScanReply> = self.query.scan(request).await?.into_inner().try_collect().await?;
        let last = pieces.last().unwrap().clone();
        let records: Vec<Json> = pieces.into_iter().flat_map(|p| p.records).map(recorded).collect();
        let cursor = if last.cursor.is_empty() { Json::Null } else { last.cursor.into() };
        Ok(json!({"records": records, "cursor": cursor, "position": last.position, "io": io(last.io)}))
    }
}

fn acknowledged(what: &str, position: u64, count: u64, duplicate: bool) -> Json {
    let mut reply = json!({"position": position, what: count});
    if duplicate {
        reply["duplicate"] = true.into();
    }
    reply
}

/// Numbers as their shortest text, as HTTP writes them.
pub fn recorded(record: v1::Record) -> Json {
    let record: Record = grpc::record("record", record).unwrap();
    serde_json::from_str(&serde_json::to_string(&record).unwrap()).unwrap()
}

fn hit(record: v1::Record, vector: bool) -> Json {
    let mut hit = recorded(record);
    let fields = hit.as_object_mut().unwrap();
    let kept = ["id", "distance", "score", "rank", "metadata", "vector"];
    fields.retain(|key, _| kept.contains(&key.as_str()) && (vector || key != "vector"));
    hit
}

fn found(reply: v1::SearchReply, body: &Json) -> Json {
    let vector = body["include_vector"] == true;
    let mut results = reply
        .results
        .into_iter()
        .map(|r| r.hits.into_iter().map(|record| hit(record, vector)).collect::<Vec<Json>>());
    let mut out = json!({"position": reply.position, "io": io(reply.io)});
    match body.get("vectors") {
        Some(_) => out["results"] = results.map(|hits| json!({ "hits": hits })).collect(),
        None => out["hits"] = results.next().unwrap().into(),
    }
    if body["consistency"] == "eventual" {
        out["staleness_ms"] = reply.staleness_ms.into();
    }
    if !reply.explain_json.is_empty() {
        out["explain"] = serde_json::from_str(&reply.explain_json).unwrap();
    }
    out
}

pub fn search(collection: String, body: &Json) -> v1::SearchRequest {
    let float = |v: &Json| v.as_f64().map(|v| v as f32);
    let vectors = list(&body["vectors"]).iter().map(|v| v1::Vector { values: floats(v) });
    v1::SearchRequest {
        collection,
        vector: floats(&body["vector"]),
        vectors: vectors.collect(),
        like: body["like"].as_str().map(str::to_owned),
        k: body["k"].as_u64().map(|k| k as u32),
        filter: filter(&body["filter"]),
        include: columns(&body["include"]),
        include_vector: body["include_vector"] == true,
        max_distance: float(&body["max_distance"]),
        min_recall: float(&body["min_recall"]),
        consistency: (body["consistency"] == "eventual").into(),
        min_position: body["min_position"].as_u64(),
        as_of: body["as_of"].as_u64(),
        explain: body["explain"] == true,
        ..Default::default()
    }
}

fn stats(s: v1::StatsReply) -> Json {
    let c = s.collection.unwrap();
    // Columns of a message are a map: in HTTP they have an order, which one column cannot show.
    let schema: Vec<Json> = c.metadata.iter().map(|(k, t)| json!({"name": k, "type": t})).collect();
    let settings = json!({"dimension": c.dimension, "metric": c.metric, "vector_type": c.vector_type});
    json!({"collection": c.id, "settings": settings, "schema": schema, "version": c.version,
        "position": s.position, "watermark": s.watermark, "segment_rows": s.segment_rows,
        "segments": s.segments, "segment_bytes": s.segment_bytes, "tail_entries": s.tail_entries,
        "tail_ids": s.tail_ids})
}

fn described(c: v1::Collection) -> Json {
    json!({"name": c.name, "id": c.id, "dimension": c.dimension, "metric": c.metric,
        "vector_type": c.vector_type, "metadata": c.metadata, "version": c.version, "position": c.position})
}

fn io(io: Option<v1::Io>) -> Json {
    let io = io.unwrap();
    json!({"waves": io.waves, "gets": io.gets, "lists": io.lists, "bytes": io.bytes,
        "cache_hit_bytes": io.cache_hit_bytes, "usd": io.usd})
}

fn text(value: &Json) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn list(value: &Json) -> &[Json] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn floats(value: &Json) -> Vec<f32> {
    list(value).iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

fn fields<T>(value: &Json, of: impl Fn(&Json) -> T) -> std::collections::BTreeMap<String, T> {
    let none = Map::new();
    value.as_object().unwrap_or(&none).iter().map(|(k, v)| (k.clone(), of(v))).collect()
}

fn columns(value: &Json) -> Option<v1::Columns> {
    value.as_array().map(|names| v1::Columns { names: names.iter().map(text).collect() })
}

fn filter(value: &Json) -> Option<v1::Filter> {
    let form = match value {
        Json::Null => return None,
        Json::String(text) => Form::Sql(text.clone()),
        json => Form::Json(json.to_string()),
    };
    Some(v1::Filter { form: Some(form) })
}

/// A JSON value as a message, as any client's library makes it.
fn value(value: &Json) -> grpc::Value {
    use prost_types::value::Kind;
    let kind = match value {
        Json::Null => Kind::NullValue(0),
        Json::Bool(v) => Kind::BoolValue(*v),
        Json::Number(v) => Kind::NumberValue(v.as_f64().unwrap()),
        Json::String(v) => Kind::StringValue(v.clone()),
        Json::Array(v) => {
            Kind::ListValue(prost_types::ListValue { values: v.iter().map(self::value).collect() })
        }
        Json::Object(_) => Kind::StructValue(prost_types::Struct { fields: fields(value, self::value) }),
    };
    grpc::Value { kind: Some(kind) }
}

pub fn record(body: &Json) -> v1::Record {
    v1::Record {
        id: text(&body["id"]),
        collection_id: text(&body["collection_id"]),
        vector: floats(&body["vector"]),
        metadata: fields(&body["metadata"], value),
        timestamp: body["timestamp"].as_i64().unwrap_or_default(),
        created_at: body["created_at"].as_i64().unwrap_or_default(),
        expires_at: body["expires_at"].as_i64(),
        version: body["version"].as_i64().unwrap_or_default(),
        ..Default::default()
    }
}

fn patch(body: &Json) -> v1::RecordPatch {
    v1::RecordPatch {
        id: text(&body["id"]),
        metadata: fields(&body["metadata"], value),
        vector: floats(&body["vector"]),
        timestamp: body["timestamp"].as_i64(),
        expires_at: body["expires_at"].as_i64(),
        never_expires: body.get("expires_at").is_some_and(Json::is_null),
        version: body["version"].as_i64(),
    }
}
