use axum::Router;
use axum::body::Body;
use axum::middleware::from_fn_with_state;
use axum::routing::post;
use tower::ServiceExt;

use super::*;

const APP: &str = "https://app.example";

fn router(origins: &[&str]) -> Router {
    let origins: Vec<String> = origins.iter().map(|o| (*o).to_owned()).collect();
    let origins = Origins::new(&origins).unwrap().unwrap();
    Router::new().route("/x", post(|| async { "done" })).layer(from_fn_with_state(origins, answer))
}

async fn ask(router: Router, method: Method, origin: &str, preflight: bool) -> Response {
    let mut request = Request::builder().method(method).uri("/x").header(ORIGIN, origin);
    if preflight {
        request = request.header(ACCESS_CONTROL_REQUEST_METHOD, "POST");
    }
    router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
}

#[tokio::test]
async fn allowed_origins_may_ask_and_read() {
    let all = router(&["http://localhost:3000", APP]);
    let first = ask(all.clone(), Method::OPTIONS, APP, true).await;
    assert_eq!(first.status(), StatusCode::NO_CONTENT);
    assert_eq!(first.headers()[ACCESS_CONTROL_ALLOW_ORIGIN], APP);
    for header in ["authorization", "idempotency-key", "x-grpc-web"] {
        assert!(first.headers()[ACCESS_CONTROL_ALLOW_HEADERS].to_str().unwrap().contains(header));
    }
    let reply = ask(all.clone(), Method::POST, APP, false).await;
    assert_eq!(
        (reply.status(), &reply.headers()[ACCESS_CONTROL_ALLOW_ORIGIN]),
        (StatusCode::OK, &APP.parse().unwrap())
    );
    assert!(reply.headers()[ACCESS_CONTROL_EXPOSE_HEADERS].to_str().unwrap().contains("grpc-status"));
    // A request that only looks like a preflight goes its way.
    assert_eq!(ask(all, Method::OPTIONS, APP, false).await.status(), StatusCode::METHOD_NOT_ALLOWED);
    let any = ask(router(&["*"]), Method::POST, "https://who.knows", false).await;
    assert_eq!(any.headers()[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
    assert!(!any.headers().contains_key("access-control-allow-credentials"));
}

#[tokio::test]
async fn others_are_told_nothing() {
    for origin in ["https://app.example.evil", "http://app.example", "https://app.example:1", "null"] {
        for (method, preflight) in [(Method::OPTIONS, true), (Method::POST, false)] {
            let reply = ask(router(&[APP]), method, origin, preflight).await;
            assert!(!reply.headers().contains_key(ACCESS_CONTROL_ALLOW_ORIGIN), "{origin}");
            assert_eq!(reply.headers()[VARY], "origin");
        }
    }
}

#[test]
fn only_origins_are_taken() {
    for wrong in
        ["app.example", "https://", "https://app.example/", "https://a b", "ftp://x", "HTTPS://X", ""]
    {
        let e = Origins::new(&[wrong.to_owned()]).unwrap_err();
        assert_eq!(e.field(), Some("--cors-origin"), "{wrong}");
    }
    assert!(Origins::new(&[]).unwrap().is_none());
    assert!(Origins::new(&["http://[::1]:3000".to_owned()]).unwrap().is_some());
}
