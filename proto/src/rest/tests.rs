use axum::response::IntoResponse;
use esker_format::{Error, Kind, Token};
use http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Deserialize;

use super::*;

const KINDS: [Kind; 9] = [
    Kind::Invalid,
    Kind::NotFound,
    Kind::Gone,
    Kind::Conflict,
    Kind::Busy,
    Kind::Unknown,
    Kind::Unavailable,
    Kind::Corrupt,
    Kind::Internal,
];

fn headers(name: http::HeaderName, value: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
}

#[test]
fn every_kind_has_a_status_of_an_error() {
    for kind in KINDS {
        let status = status(kind);
        assert!(status.is_client_error() || status.is_server_error(), "{kind}");
        assert_ne!(code(kind), tonic::Code::Ok, "{kind}");
        let retried = status == StatusCode::SERVICE_UNAVAILABLE || status == StatusCode::TOO_MANY_REQUESTS;
        assert_eq!(retried, matches!(kind, Kind::Busy | Kind::Unknown | Kind::Unavailable), "{kind}");
    }
}

#[test]
fn an_error_is_a_body_of_the_contract() {
    let error = Error::new(Kind::Unknown, "not known").with_token(Token(7)).with_hint("again");
    let body = serde_json::to_value(ErrorBody::from(&error)).unwrap();
    let expected = serde_json::json!({"error": {
        "kind": "unknown", "message": "not known", "field": null, "hint": "again",
        "token": "00000000000000000000000000000007",
    }});
    assert_eq!(body, expected);
    let busy = Failure(Error::new(Kind::Busy, "later")).into_response();
    assert_eq!(
        (busy.status(), &busy.headers()[RETRY_AFTER]),
        (StatusCode::TOO_MANY_REQUESTS, &"1".parse().unwrap())
    );
    let other = Refused(StatusCode::METHOD_NOT_ALLOWED, Error::invalid("method", "no")).into_response();
    assert_eq!(other.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[test]
fn bodies_are_taken_by_their_type() {
    let taken = [Encoding::Json, Encoding::Avro];
    let of = |value| content_type(&headers(CONTENT_TYPE, value), &taken);
    assert_eq!(content_type(&HeaderMap::new(), &taken).unwrap(), Encoding::Json);
    assert_eq!(of("Application/JSON; charset=utf-8").unwrap(), Encoding::Json);
    assert_eq!(of("application/avro").unwrap(), Encoding::Avro);
    for refused in ["text/plain", "application/x-ndjson", ""] {
        let Refused(status, error) = of(refused).unwrap_err();
        assert_eq!((status, error.field()), (StatusCode::UNSUPPORTED_MEDIA_TYPE, Some("content-type")));
        assert_eq!(error.hint(), Some("use application/json, application/avro"));
    }
    let coded = headers(http::header::CONTENT_ENCODING, "gzip");
    assert_eq!(content_type(&coded, &taken).unwrap_err().0, StatusCode::UNSUPPORTED_MEDIA_TYPE);
}

#[test]
fn replies_are_what_the_client_likes_best() {
    let offered = [Encoding::Json, Encoding::Arrow, Encoding::Csv];
    let of = |value| accept(&headers(ACCEPT, value), &offered);
    assert_eq!(accept(&HeaderMap::new(), &offered).unwrap(), Encoding::Json);
    for (value, expected) in [
        ("*/*", Encoding::Json),
        ("text/*", Encoding::Csv),
        ("text/csv;q=0.5, application/vnd.apache.arrow.stream", Encoding::Arrow),
        ("text/html, */*;q=0.1", Encoding::Json),
        ("application/json;q=0, text/csv", Encoding::Csv),
    ] {
        assert_eq!(of(value).unwrap(), expected, "{value}");
    }
    let Refused(status, error) = of("image/png").unwrap_err();
    assert_eq!((status, error.field()), (StatusCode::NOT_ACCEPTABLE, Some("accept")));
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "only what is wrong with it is looked at")]
struct Outer {
    #[serde(default)]
    list: Vec<Inner>,
    name: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "only what is wrong with it is looked at")]
struct Inner {
    vector: Vec<f32>,
}

#[test]
fn what_is_wrong_with_a_body_is_said_by_path() {
    for (body, field, message) in [
        (r#"{"#, "body", "the body is not JSON: EOF while parsing an object at line 1 column 1"),
        (r#"[]"#, "body", "the body is not a JSON object"),
        (" ", "body", "the body is empty, it must be a JSON object"),
        (r#"{}"#, "name", "missing field `name`"),
        (r#"{"name": "a", "nmae": 1}"#, "nmae", "unknown field `nmae`"),
        (r#"{"name": 3}"#, "name", "invalid type: integer `3`, expected a string"),
        (r#"{"name": "a", "list": [{}]}"#, "list[0].vector", "missing field `vector`"),
        (
            r#"{"name": "a", "list": [{"vector": [1, "x"]}]}"#,
            "list[0].vector[1]",
            "invalid type: string \"x\", expected f32",
        ),
        (r#"{"name": "a", "list": [{"vektor": []}]}"#, "list[0].vektor", "unknown field `vektor`"),
    ] {
        let error = parse::<Outer>(body.as_bytes()).unwrap_err();
        assert_eq!(
            (error.kind(), error.field(), error.to_string().as_str()),
            (Kind::Invalid, Some(field), message)
        );
    }
    let error = parse::<Outer>(br#"{"nmae": 1}"#).unwrap_err();
    assert_eq!(error.hint(), Some("fields are list or name"));
}

#[test]
fn keys_of_writes_are_short_texts() {
    let of = |value| {
        idempotency_key(&headers("idempotency-key".parse().unwrap(), value)).map(|k| k.map(str::to_owned))
    };
    assert_eq!(idempotency_key(&HeaderMap::new()).unwrap(), None);
    assert_eq!(of("order 7").unwrap().as_deref(), Some("order 7"));
    assert_eq!(of("").unwrap_err().field(), Some("idempotency-key"));
}

#[test]
fn the_documented_record_is_the_record() {
    use esker_format::record::Record;
    let names = |value: serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let record = Record {
        collection_id: "c".into(),
        vector: vec![1.0],
        expires_at: Some(1),
        rank: Some(1),
        score: Some(1.0),
        distance: Some(1.0),
        ..Record::default()
    };
    let documented = serde_json::to_value(RecordSchema::default()).unwrap();
    assert_eq!(names(documented), names(serde_json::to_value(record).unwrap()));
}
