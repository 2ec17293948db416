//! HTTP and gRPC are two doors to one house: every operation and refusal of the table goes through both, and the replies are
//! compared field by field. What only gRPC has is tested in [`streams`] and [`wire`].

mod cases;
mod rest;
mod rpc;
mod server;
mod streams;
mod wire;

use esker_format::{Kind, Token};
use esker_proto::rest::ErrorDetail;
use esker_tests::fault::{FaultStore, Mode, Plan};
use esker_tests::world::World;
use serde_json::{Value as Json, json};

use cases::Step;
use server::{Server, store};

/// What a surface answered.
type Answer = Result<Json, ErrorDetail>;

/// Makes replies comparable: times of arrival differ from run to run, gRPC knows doubles only, and how long something took
/// is nobody's business.
fn plain(value: Json) -> Json {
    match value {
        Json::Object(fields) => {
            let kept = fields.into_iter().filter(|(key, _)| key != "took_ms");
            let value = |(key, value): (String, Json)| match key.as_str() {
                "timestamp" | "created_at" | "updated_at" if value.as_i64() > Some(1_000_000_000_000) => {
                    (key, Json::from("arrival"))
                }
                "staleness_ms" => (key, Json::from("age")),
                // A cursor holds the time of its scan.
                "cursor" if value.is_string() => (key, Json::from("cursor")),
                // Columns of a message are a map, which has no order.
                "schema" => (key, by_name(value)),
                _ => (key, plain(value)),
            };
            Json::Object(kept.map(value).collect())
        }
        Json::Array(items) => Json::Array(items.into_iter().map(plain).collect()),
        Json::Number(n) => n.as_f64().map_or(Json::Null, Json::from),
        other => other,
    }
}

fn by_name(columns: Json) -> Json {
    let Json::Array(mut columns) = columns else { return columns };
    columns.sort_by_key(|c| c["name"].to_string());
    Json::Array(columns)
}

/// Errors as clients see them, less what each surface calls the places it takes things from.
fn refusal(e: ErrorDetail) -> Json {
    serde_json::to_value(e).unwrap()
}

fn shown(answer: Answer) -> Json {
    match answer {
        Ok(reply) => json!({ "reply": plain(reply) }),
        Err(e) => json!({ "error": refusal(e) }),
    }
}

#[tokio::test]
async fn both_surfaces_answer_alike() {
    let (worlds, mut differing) = ([World::new(), World::new()], Vec::new());
    let rest = rest::Client::new(store(&FaultStore::new(&worlds[0], Plan::none()), 1));
    let server = Server::start(store(&FaultStore::new(&worlds[1], Plan::none()), 1)).await;
    let mut rpc = rpc::Client::connect(&server).await;
    for step in cases::steps() {
        let by_rest = shown(rest.send(&step).await);
        let by_rpc = shown(rpc.send(&step).await);
        if by_rest != by_rpc {
            differing.push(format!("{step:?}\n  REST {by_rest}\n  gRPC {by_rpc}"));
        }
        if by_rest["error"]["kind"].as_str() != step.kind.map(Kind::as_str) {
            differing.push(format!("{step:?} should be {:?}: {by_rest}", step.kind));
        }
    }
    assert!(differing.is_empty(), "{} steps differ:\n{}", differing.len(), differing.join("\n"));
    let keys = |world: &World| world.keys("").into_iter().filter(|k| !k.contains("segment")).count();
    assert_eq!(keys(&worlds[0]), keys(&worlds[1]));
}

/// A write whose outcome is unknown carries its token through both, and sent again under it, it is a duplicate.
#[tokio::test(start_paused = true)]
async fn unknown_writes_can_be_sent_again() {
    let world = World::new();
    let healthy = |world: &World| store(&FaultStore::new(world, Plan::none()), 2);
    let before = rest::Client::new(healthy(&world));
    for step in cases::steps().into_iter().take(2) {
        before.send(&step).await.unwrap();
    }
    let write = Step::new("upsert", "docs", json!({"records": [{"id": "u", "vector": [1, 0, 0, 0]}]}));
    // Which call puts the entry is found out on a copy.
    let dry = world.fork();
    let calls = FaultStore::new(&dry, Plan::none());
    rest::Client::new(store(&calls, 3)).send(&write).await.unwrap();
    let put = calls.calls().iter().find(|c| c.key.contains("/wal/") && c.kind.is_write()).unwrap().number;
    let lost = || Plan::crash(put, Mode::ApplyThenFail);
    let (by_rest, by_rpc) = (world.fork(), world.fork());
    let rest_error = rest::Client::new(store(&FaultStore::new(&by_rest, lost()), 3)).send(&write).await;
    let server = Server::start(store(&FaultStore::new(&by_rpc, lost()), 3)).await;
    let rpc_error = rpc::Client::connect(&server).await.send(&write).await;
    let (rest_error, rpc_error) = (rest_error.unwrap_err(), rpc_error.unwrap_err());
    assert_eq!((rest_error.kind, refusal(rest_error.clone())), (Kind::Unknown, refusal(rpc_error)));
    let token: Token = rest_error.token.unwrap().parse().unwrap();
    let again = Step { key: Some(token.to_string()), ..write };
    let server = Server::start(healthy(&by_rpc)).await;
    let by_rest = rest::Client::new(healthy(&by_rest)).send(&again).await.unwrap();
    let by_rpc = rpc::Client::connect(&server).await.send(&again).await.unwrap();
    assert_eq!(by_rest["duplicate"], true);
    assert_eq!(plain(by_rest), plain(by_rpc));
}
