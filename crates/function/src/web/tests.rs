use super::*;
use axum::routing::{delete, post};
use serde_json::{Value, json};

fn web(seams: &Seams) -> Web {
    let echo = |request: Request| async move {
        let uri = request.uri().to_string();
        let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
        Json(json!({"uri": uri, "body": String::from_utf8_lossy(&body)}))
    };
    let slow = seams.clone();
    let rest = Router::new()
        .route("/v1/echo/{id}", get(echo).post(echo))
        .route(
            "/v1/panic",
            get(|| async {
                if true {
                    panic!("on purpose")
                }
            }),
        )
        .route("/v1/bytes", get(|| async { ([(CONTENT_TYPE, "application/avro")], vec![0u8, 255]) }))
        .route(
            "/v1/broken",
            get(|| async {
                let pieces = [Ok("rows"), Err(Error::new(esker_format::Kind::Busy, "no memory left"))];
                Body::from_stream(futures::stream::iter(pieces))
            }),
        )
        .route("/v1/large", get(|| async { "x".repeat(7 << 20) }))
        .route(
            "/v1/collections/{c}/records",
            post(move || async move {
                slow.clock.sleep(Duration::from_secs(3600)).await;
            }),
        )
        .route("/v1/collections", get(std::future::pending::<()>).post(std::future::pending::<()>))
        .route("/v1/collections/{c}/uploads/{token}/commit", post(std::future::pending::<()>))
        .route("/v1/collections/{c}/slow", delete(std::future::pending::<()>));
    Web::new(seams, rest, Routes::default())
}

async fn ask(event: Value) -> Value {
    let seams = Seams::simulated(1);
    let mut context = lambda_runtime::Context::default();
    context.deadline = u64::try_from(seams.clock.now_ms()).unwrap() + 5_000;
    context.request_id = "r-1".to_owned();
    let call = Call::new(context, &*seams.clock);
    let raw = RawValue::from_string(event.to_string()).unwrap();
    let reply = web(&seams).event(&raw, &call).await.unwrap();
    serde_json::from_str(reply.get()).unwrap()
}

fn v2(method: &str, path: &str) -> Value {
    json!({
        "version": "2.0", "routeKey": "$default", "rawPath": path, "rawQueryString": "", "headers": {},
        "requestContext": {"stage": "$default", "http": {"method": method, "path": path}, "requestId": "x"},
        "isBase64Encoded": false,
    })
}

fn v1(method: &str, path: &str, stage: &str) -> Value {
    json!({
        "resource": "/{proxy+}", "path": path, "httpMethod": method, "headers": {}, "multiValueHeaders": {},
        "queryStringParameters": null, "multiValueQueryStringParameters": null, "body": null,
        "requestContext": {"stage": stage, "httpMethod": method, "requestId": "x", "path": format!("/{stage}{path}")},
        "isBase64Encoded": false,
    })
}

fn body(reply: &Value) -> Value {
    serde_json::from_str(reply["body"].as_str().unwrap()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn both_payloads_reach_the_same_route() {
    let mut event = v2("POST", "/v1/echo/a");
    event["body"] = json!("{\"k\":1}");
    event["rawQueryString"] = json!("x=1&y=a%20b");
    let reply = ask(event).await;
    assert_eq!(reply["statusCode"], 200, "{reply}");
    assert_eq!(body(&reply), json!({"uri": "/v1/echo/a?x=1&y=a%20b", "body": "{\"k\":1}"}));
    assert_eq!(reply["headers"]["x-request-id"], "r-1");

    let mut event = v1("POST", "/v1/echo/a", "prod");
    event["body"] = json!("eyJrIjoxfQ==");
    event["isBase64Encoded"] = json!(true);
    event["multiValueQueryStringParameters"] = json!({"x": ["1"]});
    let reply = ask(event).await;
    assert_eq!(reply["statusCode"], 200, "{reply}");
    assert_eq!(body(&reply), json!({"uri": "/v1/echo/a?x=1", "body": "{\"k\":1}"}));
}

#[tokio::test(start_paused = true)]
async fn the_stage_is_no_part_of_the_path() {
    let mut event = v2("GET", "/prod/v1/echo/a");
    event["requestContext"]["stage"] = json!("prod");
    assert_eq!(body(&ask(event).await)["uri"], "/v1/echo/a");
    // A collection may be called as the stage is.
    assert_eq!(body(&ask(v1("GET", "/v1/echo/prod", "prod")).await)["uri"], "/v1/echo/prod");
}

#[tokio::test(start_paused = true)]
async fn what_gateways_unescape_is_escaped_again() {
    let reply = ask(v2("GET", "/v1/echo/a b?é")).await;
    assert_eq!(body(&reply)["uri"], "/v1/echo/a%20b%3F%C3%A9");
}

#[tokio::test(start_paused = true)]
async fn bytes_go_in_base64() {
    let reply = ask(v2("GET", "/v1/bytes")).await;
    assert_eq!((&reply["isBase64Encoded"], &reply["body"]), (&json!(true), &json!("AP8=")));
}

#[tokio::test(start_paused = true)]
async fn refusals_have_our_form() {
    for (method, path, status, kind) in [
        ("GET", "/nowhere", 404, "not_found"),
        ("PUT", "/v1/echo/a", 405, "invalid"),
        ("GET", "/v1/panic", 500, "internal"),
        ("GET", "/v1/broken", 429, "busy"),
        ("GET", "/v1/large", 400, "invalid"),
        ("DELETE", "/v1/collections/docs/slow", 503, "unavailable"),
        ("GET", "/v1/collections", 503, "unavailable"),
        ("POST", "/v1/collections", 503, "unknown"),
    ] {
        let reply = ask(v2(method, path)).await;
        assert_eq!(reply["statusCode"], status, "{path}: {reply}");
        assert_eq!(body(&reply)["error"]["kind"], kind, "{path}: {reply}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_that_is_late_says_under_which_name_to_send_it_again() {
    let mut event = v2("POST", "/v1/collections/docs/records");
    event["headers"] =
        json!({"idempotency-key": "0123456789abcdef0123456789abcdef", "x-esker-timeout-ms": "200"});
    let reply = ask(event).await;
    assert_eq!(reply["statusCode"], 503, "{reply}");
    let error = &body(&reply)["error"];
    assert_eq!(
        (&error["kind"], &error["token"]),
        (&json!("unknown"), &json!("0123456789abcdef0123456789abcdef"))
    );
    assert!(error["message"].as_str().unwrap().contains("200 ms"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_is_late_is_sent_again_under_its_upload_or_its_key() {
    let upload = "000102030405060708090a0b0c0d0e0f";
    let key = "0123456789abcdef0123456789abcdef";
    for (headers, token) in [(json!({}), upload), (json!({"idempotency-key": key}), key)] {
        let mut event = v2("POST", &format!("/v1/collections/docs/uploads/{upload}/commit"));
        event["headers"] = headers;
        let reply = ask(event).await;
        assert_eq!(reply["statusCode"], 503, "{reply}");
        let error = &body(&reply)["error"];
        assert_eq!((&error["kind"], &error["token"]), (&json!("unknown"), &json!(token)));
    }
}

#[tokio::test(start_paused = true)]
async fn events_that_are_no_requests_are_refused() {
    let mut no_base64 = v2("POST", "/v1/echo/a");
    no_base64["body"] = json!("%%%");
    no_base64["isBase64Encoded"] = json!(true);
    for event in [no_base64, json!({"requestContext": {}}), json!({"requestContext": 1, "version": "2.0"})] {
        let reply = ask(event.clone()).await;
        assert_eq!(reply["statusCode"], 400, "{event}: {reply}");
    }
}

#[test]
fn the_kind_of_an_error_is_known_to_the_log() {
    let e = Error::corrupt("c/docs-1/head", "a bit is wrong");
    let rest = Refused::from(e.copied()).into_response();
    let grpc = esker_proto::grpc::status(&e).into_http::<Body>();
    assert_eq!((kind(&rest).as_deref(), kind(&grpc).as_deref()), (Some("corrupt"), Some("corrupt")));
    assert_eq!(kind(&Response::new(Body::empty())), None);
}
