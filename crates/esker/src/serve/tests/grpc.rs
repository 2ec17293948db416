//! The gRPC port passes the same guard.

use esker_proto::v1::admin_client::AdminClient;
use esker_proto::v1::query_client::QueryClient;
use esker_proto::v1::{CompactRequest, CountRequest, ListCollectionsRequest};
use tonic::transport::Channel;
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::*;
use crate::serve::keys::{Scope, create};

async fn channel(world: &World) -> Channel {
    Channel::from_shared(format!("http://{}", world.server.grpc)).unwrap().connect().await.unwrap()
}

/// Every RPC of the descriptors, `/package.Service/Rpc`.
fn rpcs() -> Vec<String> {
    use prost_types::FileDescriptorSet;
    let mut all = Vec::new();
    for set in [esker_proto::DESCRIPTOR_SET, tonic_health::pb::FILE_DESCRIPTOR_SET] {
        let set: FileDescriptorSet = prost::Message::decode(set).unwrap();
        for file in set.file {
            for service in &file.service {
                for method in &service.method {
                    all.push(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
                }
            }
        }
    }
    all
}

#[test]
fn every_rpc_has_a_scope() {
    let all = rpcs();
    assert!(all.len() > 10);
    for rpc in &all {
        assert!(access::rpc_rule(rpc).is_some(), "{rpc} has no rule");
    }
    for rule in access::RPCS.iter().filter(|r| r.path.starts_with("/esker.")) {
        assert!(all.iter().any(|rpc| rpc == rule.path), "{} is no RPC", rule.path);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_served_and_ends_with_the_server() {
    let world = World::new(&[]).await;
    let mut health = HealthClient::new(channel(&world).await);
    let asked = HealthCheckRequest { service: "esker.v1.Query".to_owned() };
    assert_eq!(health.check(asked).await.unwrap().into_inner().status, 1);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_asked_for_and_reach_as_far_as_they_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys");
    let random = esker_store::seams::SystemRandom;
    let only = Some(vec![esker_format::Name::new("notes").unwrap()]);
    let reader = create(&path, "reader", Scope::Read, None, &random, 0).unwrap();
    let limited = create(&path, "limited", Scope::Admin, only, &random, 0).unwrap();
    let world = World::with_notes(&["--keys", path.to_str().unwrap()]).await;
    let channel = channel(&world).await;
    let (mut query, mut admin) = (QueryClient::new(channel.clone()), AdminClient::new(channel));
    let count = |collection: &str, key: Option<&str>| {
        let mut asked =
            Request::new(CountRequest { collection: collection.to_owned(), ..Default::default() });
        if let Some(key) = key {
            asked.metadata_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
        }
        asked
    };
    let code = |status: tonic::Status| (status.code(), esker_proto::grpc::error(&status).kind());
    let none = query.count(count("notes", None)).await.unwrap_err();
    assert_eq!(code(none).0, Code::Unauthenticated);
    assert!(query.count(count("notes", Some(&reader))).await.is_ok());
    assert!(query.count(count("notes", Some(&limited))).await.is_ok());
    for other in ["other", "missing"] {
        let refused = query.count(count(other, Some(&limited))).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    }
    let mut list = Request::new(ListCollectionsRequest::default());
    list.metadata_mut().insert("x-api-key", limited.parse().unwrap());
    assert_eq!(query.list_collections(list).await.unwrap_err().code(), Code::PermissionDenied);
    let mut compact = Request::new(CompactRequest { collection: "notes".to_owned() });
    compact.metadata_mut().insert("x-api-key", reader.parse().unwrap());
    assert_eq!(admin.compact(compact).await.unwrap_err().code(), Code::PermissionDenied);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_rpc_over_its_deadline_is_unavailable() {
    let world = World::with_notes(&["--deadline", "300ms"]).await;
    let mut query = QueryClient::new(channel(&world).await);
    let asked = || CountRequest { collection: "notes".to_owned(), ..Default::default() };
    query.count(asked()).await.unwrap();
    world.stuck.store(true, Ordering::Relaxed);
    let late = query.count(asked()).await.unwrap_err();
    assert_eq!(
        (late.code(), esker_proto::grpc::error(&late).kind()),
        (Code::Unavailable, esker_format::Kind::Unavailable)
    );
    world.stuck.store(false, Ordering::Relaxed);
    world.stop().await;
}
