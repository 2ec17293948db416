use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;

use super::*;

const SEARCH: &str = "/v1/collections/{collection}/search";
const RECORDS: &str = "/v1/collections/{collection}/records";

fn shell() -> Shell {
    Shell {
        seams: Seams::simulated(1),
        keys: None,
        admission: Admission::new(4, 1 << 20, 256 << 10),
        deadline: Duration::from_secs(30),
        writes: TaskTracker::new(),
        seen: Seen::default(),
        stop: CancellationToken::new(),
    }
}

/// Routes of the table with handlers of the test's.
fn guarded(shell: Shell, router: Router) -> (Arc<Shell>, Router) {
    let shell = Arc::new(shell);
    let none = || async { StatusCode::NOT_FOUND };
    let router = router.fallback(none).method_not_allowed_fallback(none);
    (shell.clone(), router.layer(from_fn_with_state(shell, rest)))
}

async fn ask(router: &Router, request: Request) -> (StatusCode, http::HeaderMap, Value) {
    let reply = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = reply.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let json = serde_json::from_slice(&bytes)
        .unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&bytes).into_owned()));
    (parts.status, parts.headers, json)
}

fn request(method: Method, path: &str, body: impl Into<Body>) -> Request {
    Request::builder().method(method).uri(path).body(body.into()).unwrap()
}

fn post_search(body: impl Into<Body>) -> Request {
    request(Method::POST, "/v1/collections/notes/search", body)
}

async fn echo(body: Bytes) -> Bytes {
    body
}

#[tokio::test(start_paused = true)]
async fn errors_of_the_router_have_our_shape() {
    let (_, router) = guarded(shell(), Router::new().route(SEARCH, post(echo)).route("/other", get(echo)));
    let (status, _, json) = ask(&router, request(Method::GET, "/nothing", "")).await;
    assert_eq!((status, &json["error"]["kind"]), (StatusCode::NOT_FOUND, &Value::from("not_found")));
    let (status, headers, json) =
        ask(&router, request(Method::GET, "/v1/collections/notes/search", "")).await;
    assert_eq!((status, &json["error"]["field"]), (StatusCode::METHOD_NOT_ALLOWED, &Value::from("method")));
    assert_eq!(headers["allow"], "POST");
    // A route that nobody gave a rule is refused.
    let (status, _, json) = ask(&router, request(Method::GET, "/other", "")).await;
    assert_eq!(
        (status, &json["error"]["kind"]),
        (StatusCode::INTERNAL_SERVER_ERROR, &Value::from("internal"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_keeps_its_id_or_gets_one() {
    let (_, router) = guarded(shell(), Router::new().route(SEARCH, post(echo)));
    let mut named = post_search("");
    named.headers_mut().insert(REQUEST_ID, HeaderValue::from_static("abc-1"));
    assert_eq!(ask(&router, named).await.1["x-request-id"], "abc-1");
    let mut odd = post_search("");
    odd.headers_mut().insert(REQUEST_ID, HeaderValue::from_static("a b\"c"));
    let (_, headers, _) = ask(&router, odd).await;
    assert_eq!(headers["x-request-id"].len(), 32);
}

#[tokio::test(start_paused = true)]
async fn a_long_body_is_refused_announced_or_not() {
    let (shell, router) = guarded(shell(), Router::new().route(SEARCH, post(echo)));
    let long = vec![b'x'; (256 << 10) + 1];
    let mut announced = post_search(long.clone());
    announced.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(long.len()));
    let (status, _, json) = ask(&router, announced).await;
    assert_eq!((status, &json["error"]["field"]), (StatusCode::PAYLOAD_TOO_LARGE, &Value::from("body")));
    let pieces: Vec<Result<Bytes, std::io::Error>> =
        long.chunks(1000).map(|c| Ok(c.to_vec().into())).collect();
    let (status, ..) = ask(&router, post_search(Body::from_stream(stream::iter(pieces)))).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    // What it held was given back, and a body at the limit passes whole.
    let (status, _, json) = ask(&router, post_search(vec![b'x'; 256 << 10])).await;
    assert_eq!((status, json.as_str().map(str::len)), (StatusCode::OK, Some(256 << 10)));
    assert!(shell.admission.admit().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_given_up() {
    let (shell, router) = guarded(shell(), Router::new().route(SEARCH, post(echo)));
    let never = stream::iter([Ok::<_, std::io::Error>(Bytes::from("x"))]).chain(stream::pending());
    let start = shell.seams.clock.elapsed();
    let (status, _, json) = ask(&router, post_search(Body::from_stream(never))).await;
    assert_eq!((status, &json["error"]["field"]), (StatusCode::REQUEST_TIMEOUT, &Value::from("body")));
    assert!(shell.seams.clock.elapsed() - start <= Duration::from_secs(11));
    // Nor one that trickles for longer than the deadline.
    let clock = shell.seams.clock.clone();
    let trickle = stream::unfold(clock, |clock| async move {
        clock.sleep(Duration::from_secs(5)).await;
        Some((Ok::<_, std::io::Error>(Bytes::from("x")), clock))
    });
    assert_eq!(ask(&router, post_search(Body::from_stream(trickle))).await.0, StatusCode::REQUEST_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn a_read_over_its_deadline_is_unavailable() {
    let (shell, router) =
        guarded(shell(), Router::new().route(SEARCH, post(|| async { std::future::pending::<()>().await })));
    let start = shell.seams.clock.elapsed();
    let (status, _, json) = ask(&router, post_search("")).await;
    assert_eq!(
        (status, &json["error"]["kind"]),
        (StatusCode::SERVICE_UNAVAILABLE, &Value::from("unavailable"))
    );
    assert_eq!((shell.seams.clock.elapsed() - start).as_secs(), 30);
    for (ms, expected) in [("250", 250), ("999999999", 30_000)] {
        let start = shell.seams.clock.elapsed();
        let mut less = post_search("");
        less.headers_mut().insert(TIMEOUT, HeaderValue::from_static(ms));
        assert_eq!(ask(&router, less).await.0, StatusCode::SERVICE_UNAVAILABLE);
        let took = (shell.seams.clock.elapsed() - start).as_millis();
        assert!((expected..expected + 5).contains(&took), "{took} ms");
    }
    let mut nonsense = post_search("");
    nonsense.headers_mut().insert(TIMEOUT, HeaderValue::from_static("soon"));
    assert_eq!(ask(&router, nonsense).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test(start_paused = true)]
async fn a_write_over_its_deadline_goes_on_and_is_unknown() {
    let done = Arc::new(AtomicBool::new(false));
    let (flag, seams) = (done.clone(), Seams::simulated(2));
    let drawn = Arc::new(std::sync::Mutex::new(Vec::new()));
    let names = drawn.clone();
    let write = move |axum::Extension(named): axum::Extension<Named>| async move {
        names.lock().unwrap().push(named.drawn().to_string());
        seams.clock.sleep(Duration::from_secs(60)).await;
        flag.store(true, Ordering::Relaxed);
    };
    let (shell, router) = guarded(shell(), Router::new().route(RECORDS, post(write)));
    let path = "/v1/collections/notes/records";
    let (status, _, json) = ask(&router, request(Method::POST, path, "{}")).await;
    assert_eq!((status, &json["error"]["kind"]), (StatusCode::SERVICE_UNAVAILABLE, &Value::from("unknown")));
    assert!(!done.load(Ordering::Relaxed));
    // The name that the handler writes under.
    let drawn: Vec<String> = drawn.lock().unwrap().clone();
    assert_eq!(drawn, [json["error"]["token"].as_str().unwrap()]);
    shell.writes.close();
    shell.writes.wait().await;
    assert!(done.load(Ordering::Relaxed));
    // The token of a client's own key.
    let mut keyed = request(Method::POST, path, "{}");
    keyed.headers_mut().insert("idempotency-key", HeaderValue::from_static("order 7"));
    let (_, _, json) = ask(&router, keyed).await;
    let token = esker_format::Token::of_key(b"order 7").to_string();
    assert_eq!(json["error"]["token"], token);
    let mut again = request(Method::POST, path, "{}");
    again.headers_mut().insert("idempotency-key", token.parse().unwrap());
    assert_eq!(ask(&router, again).await.2["error"]["token"], token);
}

#[tokio::test(start_paused = true)]
async fn a_write_goes_on_when_its_client_leaves() {
    let done = Arc::new(AtomicBool::new(false));
    let (flag, seams) = (done.clone(), Seams::simulated(2));
    let write = move || async move {
        seams.clock.sleep(Duration::from_secs(5)).await;
        flag.store(true, Ordering::Relaxed);
    };
    let (shell, router) = guarded(shell(), Router::new().route(RECORDS, post(write)));
    let asked = ask(&router, request(Method::POST, "/v1/collections/notes/records", "{}"));
    tokio::select! {
        _ = asked => panic!("it waits for the write"),
        () = shell.seams.clock.sleep(Duration::from_secs(1)) => {}
    }
    shell.writes.close();
    shell.writes.wait().await;
    assert!(done.load(Ordering::Relaxed));
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_an_internal_error() {
    let (_, router) = guarded(
        shell(),
        Router::new()
            .route(SEARCH, post(|| async { panic!("read") as () }))
            .route(RECORDS, post(|| async { panic!("write") as () })),
    );
    for path in ["/v1/collections/notes/search", "/v1/collections/notes/records"] {
        let (status, _, json) = ask(&router, request(Method::POST, path, "")).await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(json["error"]["kind"], "internal");
        assert!(!json.to_string().contains("read\"") && !json.to_string().contains("write\""), "{json}");
    }
}

#[tokio::test(start_paused = true)]
async fn above_the_limit_requests_are_refused_at_once() {
    let (shell, router) = guarded(
        shell(),
        Router::new()
            .route(SEARCH, post(|| async { std::future::pending::<()>().await }))
            .route("/healthz", get(|| async { "ok" })),
    );
    let waiting: Vec<_> = (0..4).map(|_| Box::pin(ask(&router, post_search("")))).collect();
    let mut waiting = futures::future::select_all(waiting);
    assert!(futures::poll!(&mut waiting).is_pending());
    let start = shell.seams.clock.elapsed();
    let (status, headers, json) = ask(&router, post_search("")).await;
    assert_eq!((status, &json["error"]["kind"]), (StatusCode::TOO_MANY_REQUESTS, &Value::from("busy")));
    assert_eq!(headers["retry-after"], "1");
    assert_eq!(shell.seams.clock.elapsed(), start);
    // Health is asked all the same.
    assert_eq!(ask(&router, request(Method::GET, "/healthz", "")).await.0, StatusCode::OK);
    drop(waiting);
    let mut late = post_search("");
    late.headers_mut().insert(TIMEOUT, HeaderValue::from_static("1"));
    assert_eq!(ask(&router, late).await.0, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test(start_paused = true)]
async fn bodies_hold_a_bounded_memory() {
    let small = Shell { admission: Admission::new(100, 256 << 10, 256 << 10), ..shell() };
    let (_, router) = guarded(small, Router::new().route(SEARCH, post(echo)));
    let half =
        stream::iter([Ok::<_, std::io::Error>(Bytes::from(vec![0; 128 << 10]))]).chain(stream::pending());
    let mut held = Box::pin(ask(&router, post_search(Body::from_stream(half))));
    assert!(futures::poll!(&mut held).is_pending());
    let (status, headers, _) = ask(&router, post_search(vec![0; 200 << 10])).await;
    assert_eq!((status, &headers["retry-after"]), (StatusCode::TOO_MANY_REQUESTS, &HeaderValue::from(1)));
    drop(held);
    assert_eq!(ask(&router, post_search(vec![0; 200 << 10])).await.0, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_reply_holds_its_admission_until_it_is_read() {
    let one = Shell { admission: Admission::new(1, 1 << 20, 1 << 20), ..shell() };
    let (_, router) = guarded(one, Router::new().route(SEARCH, post(echo)));
    let reply = router.clone().oneshot(post_search("x")).await.unwrap();
    assert_eq!(ask(&router, post_search("x")).await.0, StatusCode::TOO_MANY_REQUESTS);
    drop(reply);
    assert_eq!(ask(&router, post_search("x")).await.0, StatusCode::OK);
}

#[test]
fn timeouts_of_grpc() {
    assert_eq!(grpc_timeout("250m"), Some(Duration::from_millis(250)));
    assert_eq!(grpc_timeout("1H"), Some(Duration::from_secs(3600)));
    for wrong in ["", "1", "m", "-1S", "123456789S", "1x", "ü"] {
        assert_eq!(grpc_timeout(wrong), None, "{wrong}");
    }
}

mod keys {
    use super::*;
    use crate::serve::keys::create;

    /// A server with a key of each scope, one limited to `notes`.
    fn locked() -> (Router, [String; 4], tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        let random = esker_store::seams::SystemRandom;
        let only = Some(vec![esker_format::Name::new("notes").unwrap()]);
        let made = [
            create(&path, "reader", Scope::Read, None, &random, 0).unwrap(),
            create(&path, "writer", Scope::Write, None, &random, 0).unwrap(),
            create(&path, "admin", Scope::Admin, None, &random, 0).unwrap(),
            create(&path, "limited", Scope::Admin, only, &random, 0).unwrap(),
        ];
        // With room for a body that is streamed.
        let admission = Admission::new(4, STREAM_BYTES, 256 << 10);
        let shell = Shell { keys: Some(Keys::open(&path).unwrap()), admission, ..shell() };
        let ok = || async { "ok" };
        let mut router = Router::new();
        for rule in access::ROUTES {
            let method = rule.method.clone().try_into().unwrap();
            router = router.route(rule.path, axum::routing::on(method, ok));
        }
        (guarded(shell, router).1, made, dir)
    }

    async fn status(router: &Router, method: &Method, path: &str, key: Option<&str>) -> StatusCode {
        let mut asked = request(method.clone(), path, "");
        if let Some(key) = key {
            asked.headers_mut().insert("x-api-key", key.parse().unwrap());
        }
        ask(router, asked).await.0
    }

    #[tokio::test(start_paused = true)]
    async fn every_route_asks_for_its_scope() {
        let (router, keys, _dir) = locked();
        for rule in access::ROUTES {
            let path = rule.path.replace("{collection}", "notes").replace("{id}", "a");
            let open = rule.reach == Reach::Open;
            for wrong in [None, Some("esk_wrong"), Some("")] {
                let expected = if open { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
                assert_eq!(
                    status(&router, &rule.method, &path, wrong).await,
                    expected,
                    "{path} with {wrong:?}"
                );
            }
            for (key, scope) in keys.iter().zip([Scope::Read, Scope::Write, Scope::Admin]) {
                let allowed = open || scope >= rule.scope;
                let expected = if allowed { StatusCode::OK } else { StatusCode::FORBIDDEN };
                assert_eq!(
                    status(&router, &rule.method, &path, Some(key)).await,
                    expected,
                    "{path} with {scope}"
                );
            }
            let expected = if rule.reach == Reach::Store { StatusCode::FORBIDDEN } else { StatusCode::OK };
            assert_eq!(
                status(&router, &rule.method, &path, Some(&keys[3])).await,
                expected,
                "{path} limited"
            );
            if rule.reach == Reach::Path {
                let other = rule.path.replace("{collection}", "other").replace("{id}", "a");
                let refused = status(&router, &rule.method, &other, Some(&keys[3])).await;
                assert_eq!(refused, StatusCode::FORBIDDEN, "{other} limited");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_say_nothing_of_what_exists() {
        let (router, keys, _dir) = locked();
        let mut replies = Vec::new();
        for name in ["other", "missing", "not%20a%20name"] {
            let mut asked = request(Method::POST, &format!("/v1/collections/{name}/search"), "");
            asked.headers_mut().insert("authorization", format!("Bearer {}", keys[3]).parse().unwrap());
            let (status, _, json) = ask(&router, asked).await;
            assert_eq!(status, StatusCode::FORBIDDEN);
            replies.push(json);
        }
        assert!(replies.windows(2).all(|pair| pair[0] == pair[1]), "{replies:?}");
        let (status, headers, json) = ask(&router, post_search("")).await;
        assert_eq!(
            (status, &headers["www-authenticate"]),
            (StatusCode::UNAUTHORIZED, &HeaderValue::from_static("Bearer"))
        );
        assert!(keys.iter().all(|key| !json.to_string().contains(key)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_by_grpc_that_is_cut_off_has_a_name_too() {
    const UPSERT: &str = "/esker.v1.Ingest/Upsert";
    let write = |axum::Extension(named): axum::Extension<Named>, headers: http::HeaderMap| async move {
        // The client's key is in the message, which only the handler reads.
        if headers.contains_key("keyed") {
            named.give(Token::of_key(b"order 7"));
        }
        std::future::pending::<()>().await
    };
    let router = Router::new().route(UPSERT, post(write)).route("/esker.v1.Query/Count", post(echo));
    let router = router.layer(from_fn_with_state(Arc::new(shell()), grpc));
    let ask = async |path: &str, keyed: bool| {
        let mut request = request(Method::POST, path, "");
        if keyed {
            request.headers_mut().insert("keyed", HeaderValue::from_static("1"));
        }
        let reply = router.clone().oneshot(request).await.unwrap();
        let status = tonic::Status::from_header_map(reply.headers()).unwrap();
        esker_proto::grpc::error(&status)
    };
    let late = ask(UPSERT, false).await;
    assert_eq!(late.kind(), esker_format::Kind::Unknown);
    assert!(late.token().is_some());
    assert_eq!(ask(UPSERT, true).await.token(), Some(Token::of_key(b"order 7")));
}

#[tokio::test(start_paused = true)]
async fn a_stream_has_to_begin_and_to_get_on() {
    const SCAN: &str = "/esker.v1.Query/Scan";
    let begins = |headers: http::HeaderMap| async move {
        if headers.contains_key("never") {
            std::future::pending::<()>().await;
        }
        let first = stream::iter([Ok::<_, std::io::Error>(Bytes::from("x"))]);
        Body::from_stream(first.chain(stream::pending()))
    };
    let shell = Arc::new(shell());
    let router = Router::new().route(SCAN, post(begins)).layer(from_fn_with_state(shell.clone(), grpc));
    let start = shell.seams.clock.elapsed();
    let mut never = request(Method::POST, SCAN, "");
    never.headers_mut().insert("never", HeaderValue::from_static("1"));
    let reply = router.clone().oneshot(never).await.unwrap();
    assert_eq!(reply.headers()["grpc-status"], "14");
    let reply = router.oneshot(request(Method::POST, SCAN, "")).await.unwrap();
    let whole = reply.into_body().collect().await.unwrap();
    assert_eq!(whole.trailers().unwrap()["grpc-status"], "14");
    assert!((shell.seams.clock.elapsed() - start).as_secs() <= 61);
    assert!(shell.admission.admit().is_ok());
}

/// A read that computes and never waits for anything but its next turn is ended all the same.
#[tokio::test]
async fn a_busy_read_is_late_too() {
    let system = Shell { seams: Seams::system(), deadline: Duration::from_millis(100), ..shell() };
    let busy = || async {
        for _ in 0..1_000_000 {
            std::hint::black_box((0..500u64).sum::<u64>());
            tokio::task::coop::consume_budget().await;
        }
    };
    let (_, router) = guarded(system, Router::new().route(SEARCH, post(busy)));
    assert_eq!(ask(&router, post_search("")).await.0, StatusCode::SERVICE_UNAVAILABLE);
}
