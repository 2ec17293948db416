use std::sync::Mutex;

use super::*;

fn message(id: &str, group: Option<&str>, body: &str) -> Message {
    let attributes = BTreeMap::from([("collection".to_owned(), "docs".to_owned())]);
    Message { id: id.to_owned(), body: body.to_owned(), attributes, group: group.map(str::to_owned) }
}

fn with(name: &str, value: &str) -> Message {
    let mut message = message("m", None, "{}");
    message.attributes.insert(name.to_owned(), value.to_owned());
    message
}

/// Takes what its body says.
#[derive(Default)]
struct Script {
    taken: Mutex<Vec<String>>,
    buried: Mutex<Vec<(String, String)>>,
    nowhere: bool,
}

#[async_trait]
impl Consumer for Script {
    async fn take(&self, message: &Message) -> Verdict {
        self.taken.lock().unwrap().push(message.id.clone());
        match message.body.as_str() {
            "again" => Verdict::Again(Error::new(Kind::Unavailable, "later")),
            "never" => Verdict::Never(Error::invalid("vector", "two elements of three")),
            _ => Verdict::Done,
        }
    }

    async fn bury(&self, message: &Message, reason: &Error) -> Result<bool> {
        self.buried.lock().unwrap().push((message.id.clone(), reason.to_string()));
        Ok(!self.nowhere)
    }
}

fn ids(failures: &Failures) -> Vec<&str> {
    failures.failures.iter().map(|f| f.id.as_str()).collect()
}

#[tokio::test]
async fn each_message_has_its_own_end() {
    let script = Script::default();
    let all = vec![message("a", None, "ok"), message("b", None, "again"), message("c", None, "never")];
    let failures = deliver(all, &script).await;
    assert_eq!(ids(&failures), ["b"]);
    assert_eq!(*script.buried.lock().unwrap(), [("c".to_owned(), "two elements of three".to_owned())]);
    let json = serde_json::to_string(&failures).unwrap();
    assert_eq!(json, r#"{"batchItemFailures":[{"itemIdentifier":"b"}]}"#);
}

#[tokio::test]
async fn what_cannot_be_put_away_goes_back() {
    let script = Script { nowhere: true, ..Script::default() };
    assert_eq!(ids(&deliver(vec![message("c", None, "never")], &script).await), ["c"]);
}

#[tokio::test]
async fn a_group_keeps_its_order_and_stops_at_what_goes_back() {
    let script = Script::default();
    let all = vec![
        message("a1", Some("a"), "ok"),
        message("b1", Some("b"), "again"),
        message("a2", Some("a"), "never"),
        message("b2", Some("b"), "ok"),
        message("a3", Some("a"), "ok"),
    ];
    assert_eq!(ids(&deliver(all, &script).await), ["b1", "b2"]);
    let taken = script.taken.lock().unwrap();
    assert!(!taken.contains(&"b2".to_owned()), "{taken:?}");
    let of_a: Vec<&String> = taken.iter().filter(|id| id.starts_with('a')).collect();
    assert_eq!(of_a, ["a1", "a2", "a3"]);
}

#[tokio::test]
async fn a_message_is_the_request_it_stands_for() {
    let request = message("m-1", None, r#"{"records":[]}"#).request().unwrap();
    assert_eq!((request.method(), request.uri().path()), (&Method::POST, "/v1/collections/docs/records"));
    assert_eq!(request.headers()["idempotency-key"], "m-1");
    assert_eq!(request.headers()[CONTENT_TYPE], "application/json");
    let mut avro = with("content-type", "application/avro");
    avro.body = "T2JqAQ==".to_owned();
    let body = avro.request().unwrap().into_body();
    assert_eq!(axum::body::to_bytes(body, 99).await.unwrap(), "Obj\u{1}".as_bytes());
    assert_eq!(with("operation", "patch").request().unwrap().method(), Method::PATCH);
}

#[test]
fn what_is_wrong_with_a_message_is_named() {
    let field = |m: Message| m.request().unwrap_err().field().unwrap().to_owned();
    assert_eq!(field(with("operation", "drop")), "operation");
    assert_eq!(field(with("content-type", "application/avro")), "body");
    assert_eq!(field(Message::default()), "collection");
    let e = with("collection", "No Name").request().unwrap_err();
    assert_eq!(e.kind(), Kind::Invalid);
}

#[tokio::test]
async fn replies_say_whether_to_come_again() {
    use axum::response::IntoResponse;
    use esker_proto::rest::Failure;
    let of = |e: Error| Verdict::of(Failure(e).into_response());
    assert!(
        matches!(of(Error::invalid("vector", "short")).await, Verdict::Never(e) if e.to_string() == "vector: short" && e.field() == Some("vector"))
    );
    assert!(matches!(of(Error::new(Kind::Conflict, "another content")).await, Verdict::Never(_)));
    let contended = Error::new(Kind::Conflict, "others").with_retry_after(std::time::Duration::from_secs(1));
    assert!(matches!(of(contended).await, Verdict::Again(_)));
    for kind in [Kind::NotFound, Kind::Busy, Kind::Unknown, Kind::Unavailable, Kind::Internal] {
        assert!(matches!(of(Error::new(kind, "later")).await, Verdict::Again(_)), "{kind}");
    }
    assert!(matches!(Verdict::of(http::Response::new(Body::empty())).await, Verdict::Done));
}
