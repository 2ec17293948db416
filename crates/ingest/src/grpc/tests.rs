use std::collections::BTreeMap;

use esker_format::record::Value;
use esker_format::{Kind, Token};
use esker_proto::access::{Allowed, Named};
use esker_proto::v1::ingest_server::Ingest as _;
use esker_store::{Client, Location, Seams, StoreEnv};
use tonic::Code;

use super::*;

fn handler() -> Service {
    let backend = esker_store::open(&Location::Memory, &StoreEnv::new(), true).unwrap();
    let store = Arc::new(Store::new(Client::new(backend, Seams::simulated(1))));
    Service { ingest: Ingest::new(store.clone()), store }
}

fn docs() -> v1::CreateCollectionRequest {
    let metadata = BTreeMap::from([("year".to_owned(), "int".to_owned())]);
    v1::CreateCollectionRequest {
        name: "docs".into(),
        dimension: 2,
        metric: "l2".into(),
        metadata,
        ..Default::default()
    }
}

fn upsert(id: &str) -> v1::UpsertRequest {
    let record = v1::Record { id: id.into(), vector: vec![1.0, 2.0], ..Default::default() };
    v1::UpsertRequest { collection: "docs".into(), records: vec![record], ..Default::default() }
}

#[tokio::test]
async fn the_server_names_a_write_that_its_client_did_not() {
    let service = handler();
    service.create_collection(Request::new(docs())).await.unwrap();
    let send = async |key: &str, drawn: Token| {
        let named = Named::new(drawn);
        let mut request = Request::new(v1::UpsertRequest { idempotency_key: key.to_owned(), ..upsert("a") });
        request.extensions_mut().insert(named.clone());
        (service.upsert(request).await.unwrap().into_inner(), named.token())
    };
    let (first, told) = send("", Token(7)).await;
    assert_eq!((first.token.as_str(), first.duplicate, told), (&*Token(7).to_string(), false, Token(7)));
    let (again, told) = send(&first.token, Token(8)).await;
    assert_eq!((again, told), (v1::UpsertReply { duplicate: true, ..first }, Token(7)));
}

#[tokio::test]
async fn a_limited_key_reaches_its_collections_only() {
    let service = handler();
    service.create_collection(Request::new(docs())).await.unwrap();
    let limited = |message| {
        let mut request = Request::new(message);
        request.extensions_mut().insert(Allowed::new(|c| c == Some("docs")));
        request
    };
    service.upsert(limited(upsert("a"))).await.unwrap();
    let other = v1::UpsertRequest { collection: "other".into(), ..upsert("a") };
    assert_eq!(service.upsert(limited(other)).await.unwrap_err().code(), Code::PermissionDenied);
}

#[test]
fn a_patch_gives_what_it_replaces() {
    let empty = patch("records[0]", v1::RecordPatch { id: "a".into(), ..Default::default() }).unwrap();
    assert_eq!(empty, Patch { id: "a".into(), ..Patch::default() });
    let null = grpc::to_value(Value::Null);
    let full = v1::RecordPatch {
        id: "a".into(),
        metadata: BTreeMap::from([("year".to_owned(), null)]),
        vector: vec![1.0],
        timestamp: Some(0),
        never_expires: true,
        version: Some(0),
        ..Default::default()
    };
    let expected = Patch {
        id: "a".into(),
        metadata: Some(BTreeMap::from([("year".to_owned(), Value::Null)])),
        vector: Some(vec![1.0]),
        timestamp: Some(0),
        expires_at: Some(None),
        version: Some(0),
    };
    assert_eq!(patch("records[0]", full.clone()).unwrap(), expected);
    let both = v1::RecordPatch { expires_at: Some(5), ..full };
    assert_eq!(patch("records[4]", both).unwrap_err().field(), Some("records[4].expires_at"));
}

#[test]
fn contradictions_are_refused() {
    let e = Condition::of(true, Some(1)).unwrap_err();
    assert_eq!((e.kind(), e.field()), (Kind::Invalid, Some("if_version")));
    let e = one_of("ids", vec![1], Bytes::from_static(b"x")).err().unwrap();
    assert_eq!((e.kind(), e.field()), (Kind::Invalid, Some("avro_payload")));
}
