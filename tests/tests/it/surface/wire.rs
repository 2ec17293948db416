//! What goes over the wire besides the operations: Avro bytes, versions, limits, compression.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::http::Request;
use bytes::Bytes;
use esker_format::Kind;
use esker_format::avro::framing;
use esker_format::record::Record;
use esker_proto::{grpc, v1};
use esker_store::Store;
use esker_tests::fault::{FaultStore, Plan};
use esker_tests::world::World;
use prost::Message;
use serde_json::json;
use tonic::Code;
use tonic::codec::CompressionEncoding;
use tower::ServiceExt;

use super::cases::Step;
use super::rpc::Client;
use super::server::{Server, reads, store};

async fn started(world: &World) -> (Server, Client) {
    let server = Server::start(store(&FaultStore::new(world, Plan::none()), 7)).await;
    let mut client = Client::connect(&server).await;
    let docs = json!({"name": "docs", "dimension": 2, "metric": "l2"});
    client.send(&Step::new("create", "", docs)).await.unwrap();
    (server, client)
}

fn avro(operation: &str, data: &[u8]) -> v1::UpsertRequest {
    let payload = framing::encode(operation, data).into();
    v1::UpsertRequest { collection: "docs".into(), avro_payload: payload, ..Default::default() }
}

/// Two records as no encoder of ours writes them: arrays and maps in blocks that say how long they are.
fn peculiar() -> Vec<u8> {
    let mut data = b"\x02a\x00".to_vec();
    // One value, then another, each a block of one element and four bytes.
    for value in [0.5_f32, -2.0] {
        data.extend_from_slice(&[1, 8]);
        data.extend_from_slice(&value.to_le_bytes());
    }
    data.extend_from_slice(b"\x00\x01\x08\x02k\x04\x0e\x00");
    data.extend_from_slice(&[0, 0, 0, 0, 2, 0, 0, 0]);
    Record { id: "b".into(), vector: vec![1.0, 1.0], ..Record::default() }.encode(&mut data);
    data
}

#[tokio::test]
async fn avro_reaches_the_log_byte_for_byte() {
    let world = World::new();
    let (_server, mut client) = started(&world).await;
    let data = peculiar();
    let reply = client.ingest.upsert(avro("upsert", &data)).await.unwrap().into_inner();
    assert_eq!((reply.upserted, reply.schema_version), (2, 1));
    let entries = world.keys("").into_iter().filter(|key| key.contains("/wal/"));
    let holds = |key: String| world.body(&key).unwrap().windows(data.len()).any(|window| window == data);
    assert_eq!(entries.filter(|key| holds(key.clone())).count(), 1);
    let got = client.send(&Step::new("get", "docs", json!({"id": "a", "include_vector": true}))).await;
    let got = got.unwrap();
    assert_eq!((&got["vector"], &got["metadata"]), (&json!([0.5, -2.0]), &json!({"k": 7})));
}

#[tokio::test]
async fn avro_comes_back() {
    let (_server, mut client) = started(&World::new()).await;
    client.ingest.upsert(avro("upsert", &peculiar())).await.unwrap();
    let request = v1::GetManyRequest {
        collection: "docs".into(),
        ids: vec!["a".into(), "b".into()],
        include_vector: true,
        avro: true,
        ..Default::default()
    };
    let reply = client.query.get_many(request.clone()).await.unwrap().into_inner();
    assert!(reply.records.is_empty());
    let messages = v1::GetManyRequest { avro: false, ..request };
    let messages = client.query.get_many(messages).await.unwrap().into_inner();
    let records = messages.records.into_iter().map(|r| grpc::record("", r).unwrap());
    let frame = framing::decode(&reply.avro_payload).unwrap();
    let mut expected = Vec::new();
    records.for_each(|r| r.encode(&mut expected));
    assert_eq!((frame.operation.as_str(), frame.data), ("get", Bytes::from(expected)));
    // What came back can be written again.
    let again = v1::UpsertRequest {
        avro_payload: framing::encode("upsert", &reply.avro_payload[11..]).into(),
        ..avro("upsert", &[])
    };
    assert_eq!(client.ingest.upsert(again).await.unwrap().into_inner().upserted, 2);
}

#[tokio::test]
async fn payloads_that_are_wrong_are_refused() {
    let (_server, mut client) = started(&World::new()).await;
    let good = peculiar();
    let mut newer = framing::encode("upsert", &good);
    newer[3] = 2;
    let cases: [(&str, Bytes, &str); 5] = [
        ("of another version", newer.into(), "avro_payload"),
        ("of another operation", framing::encode("delete", &good).into(), "avro_payload"),
        ("of no operation", framing::encode("updaet", &good).into(), "avro_payload"),
        ("cut short", framing::encode("upsert", &good[..good.len() - 1]).into(), "records[1]"),
        ("without anything", Bytes::from_static(b"\0\0"), "avro_payload"),
    ];
    for (what, payload, field) in cases {
        let request = v1::UpsertRequest { avro_payload: payload, ..avro("upsert", &[]) };
        let error = grpc::error(&client.ingest.upsert(request).await.unwrap_err());
        assert_eq!(error.kind(), Kind::Invalid, "{what}: {error}");
        assert!(error.field().is_some_and(|f| f.starts_with(field)), "{what}: {:?} {error}", error.field());
    }
    let count = client.send(&Step::new("count", "docs", json!({}))).await.unwrap();
    assert_eq!(count["count"], 0);
}

#[tokio::test]
async fn deletes_come_as_avro_too() {
    let (_server, mut client) = started(&World::new()).await;
    client.ingest.upsert(avro("upsert", &peculiar())).await.unwrap();
    let mut data = Vec::new();
    esker_format::avro::encode_tombstone(&mut data, "a");
    let request = v1::DeleteRequest {
        collection: "docs".into(),
        avro_payload: framing::encode("delete", &data).into(),
        ..Default::default()
    };
    assert_eq!(client.ingest.delete(request).await.unwrap().into_inner().deleted, 1);
    let count = client.send(&Step::new("count", "docs", json!({}))).await.unwrap();
    assert_eq!(count["count"], 1);
}

#[tokio::test]
async fn clients_that_are_too_new_are_told_so() {
    let (_server, mut client) = started(&World::new()).await;
    let upsert = v1::UpsertRequest { schema_version: 2, ..avro("upsert", &peculiar()) };
    let get = v1::GetRequest { collection: "docs".into(), schema_version: 2, ..Default::default() };
    for status in [client.ingest.upsert(upsert).await.unwrap_err(), client.query.get(get).await.unwrap_err()]
    {
        let error = grpc::error(&status);
        assert_eq!((error.kind(), error.field()), (Kind::Invalid, Some("schema_version")));
        assert_eq!(error.hint(), Some("this server supports schema version 1"));
    }
}

#[tokio::test]
async fn messages_above_the_limit_are_refused() {
    let (server, mut client) = started(&World::new()).await;
    let payload = Bytes::from(vec![0; grpc::MESSAGE_BYTES + 1]);
    let request = v1::UpsertRequest { avro_payload: payload.clone(), ..avro("upsert", &[]) };
    let status = client.ingest.upsert(request.clone()).await.unwrap_err();
    assert_eq!((status.code(), grpc::error(&status).kind()), (Code::OutOfRange, Kind::Invalid));
    // A bomb is as large as it says it becomes.
    let compressed = Client::connect(&server).await.ingest.send_compressed(CompressionEncoding::Gzip);
    let status = { compressed }.upsert(request).await.unwrap_err();
    assert_eq!(grpc::error(&status).kind(), Kind::Busy, "{status}");
}

/// Whether the first message of a reply is compressed, which only its own first byte says.
async fn compressed(store: &Arc<Store>, encoding: Option<&str>) -> bool {
    let message = v1::CountRequest { collection: "docs".into(), ..Default::default() }.encode_to_vec();
    let mut frame = vec![0; 4];
    frame.push(message.len() as u8);
    frame.extend(message);
    let request = Request::post("/esker.v1.Query/Count")
        .header("content-type", "application/grpc")
        .header("grpc-accept-encoding", "gzip")
        .header("grpc-encoding", encoding.unwrap_or("identity"));
    let request = request.body(Body::from(frame)).unwrap();
    let reply = esker_query::grpc::service(reads(store)).oneshot(request).await.unwrap();
    let body = to_bytes(Body::new(reply.into_body()), usize::MAX).await.unwrap();
    body[0] == 1
}

#[tokio::test]
async fn replies_are_compressed_when_requests_are() {
    let world = World::new();
    let (server, mut client) = started(&world).await;
    client.ingest.upsert(avro("upsert", &peculiar())).await.unwrap();
    let store = store(&FaultStore::new(&world, Plan::none()), 9);
    assert!(!compressed(&store, None).await && compressed(&store, Some("gzip")).await);
    let both = Client::connect(&server).await.query;
    let both = both.accept_compressed(CompressionEncoding::Gzip).send_compressed(CompressionEncoding::Gzip);
    let request = v1::CountRequest { collection: "docs".into(), ..Default::default() };
    assert_eq!({ both }.count(request).await.unwrap().into_inner().count, 2);
}

#[tokio::test]
async fn errors_say_in_the_trailers_what_is_wrong() {
    let (_server, mut client) = started(&World::new()).await;
    let filter = v1::Filter { form: Some(v1::filter::Form::Sql("yaer = 1".into())) };
    let request = v1::CountRequest { collection: "docs".into(), filter: Some(filter), ..Default::default() };
    let status = client.query.count(request).await.unwrap_err();
    let trailers = grpc::trailers(&status);
    let of = |key: &str| trailers.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
    assert_eq!(
        (status.code(), of("esker-kind"), of("esker-field")),
        (Code::InvalidArgument, Some("invalid"), Some("yaer"))
    );
    assert!(of("esker-hint").is_some());
}
