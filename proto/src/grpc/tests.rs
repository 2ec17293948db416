use std::collections::BTreeMap;
use std::time::Duration;

use esker_format::avro::framing;
use esker_format::record::{Record, SCHEMA, Value};
use esker_format::{Error, Kind, Token};

use super::*;

#[test]
fn errors_survive_the_status() {
    let plain = KINDS.map(|kind| Error::new(kind, "what happened"));
    let full = Error::invalid("größe", "100 % falsch\n").with_hint("messen").with_token(Token(7));
    for e in plain.into_iter().chain([full.with_retry_after(Duration::from_millis(250))]) {
        let status = status(&e);
        assert_eq!((status.code(), status.message()), (rest::code(e.kind()), e.to_string().as_str()));
        let back = error(&status);
        assert_eq!((back.kind(), back.to_string()), (e.kind(), e.to_string()));
        assert_eq!((back.field(), back.hint(), back.token()), (e.field(), e.hint(), e.token()));
        if e.retry_after().is_some() {
            assert_eq!(back.retry_after(), e.retry_after());
        }
    }
}

#[test]
fn trailers_say_it_in_plain_text() {
    let e = Error::invalid("größe", "zu groß").with_hint("50 % weniger").with_token(Token(7));
    let expected = [
        ("esker-field", "gr%C3%B6%C3%9Fe"),
        ("esker-hint", "50 %25 weniger"),
        ("esker-kind", "invalid"),
        ("esker-token", "00000000000000000000000000000007"),
    ];
    assert_eq!(trailers(&status(&e)), expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
}

#[test]
fn statuses_of_others_have_a_kind() {
    for code in (0..=16).map(Code::from_i32) {
        let back = error(&Status::new(code, "said"));
        assert_eq!(back.to_string(), "said");
        // A deadline that passed says nothing about what was done.
        assert_eq!(back.kind() == Kind::Unknown, [1, 2, 4].contains(&(code as i32)), "{code}");
    }
}

#[test]
fn a_key_reaches_what_it_may() {
    let open = Call::split(Request::new(())).0;
    assert!(open.reaches(None).is_ok());
    let mut request = Request::new(());
    request.extensions_mut().insert(Allowed::new(|c| c == Some("docs")));
    let limited = Call::split(request).0;
    assert!(limited.reaches(Some("docs")).is_ok());
    for other in [None, Some("other")] {
        assert_eq!(limited.reaches(other).unwrap_err().code(), Code::PermissionDenied);
    }
}

#[test]
fn a_write_is_named_by_its_client_or_its_server() {
    let mut request = Request::new(());
    let named = Named::new(Token(7));
    request.extensions_mut().insert(named.clone());
    let call = Call::split(request).0;
    assert_eq!((call.token("").unwrap(), call.drawn(), named.token()), (None, Some(Token(7)), Token(7)));
    assert_eq!(call.token("mine").unwrap(), Some(Token::from_key("mine")));
    assert_eq!(named.token(), Token::from_key("mine"));
    assert_eq!(call.unnamed().drawn(), None);
    let mut request = Request::new(());
    request.metadata_mut().insert("idempotency-key", "order 7".parse().unwrap());
    let call = Call::split(request).0;
    assert_eq!(call.token("").unwrap(), Some(Token::from_key("order 7")));
    assert_eq!(call.token("mine").unwrap(), Some(Token::from_key("mine")));
    assert_eq!(call.token(&"x".repeat(257)).unwrap_err().field(), Some("idempotency_key"));
    assert_eq!(Call::split(Request::new(())).0.token("").unwrap(), None);
}

fn sample() -> Record {
    let metadata = BTreeMap::from([
        ("bool".to_owned(), Value::Bool(true)),
        ("int".to_owned(), Value::Int(-7)),
        ("float".to_owned(), Value::Float(0.5)),
        ("text".to_owned(), Value::String("é".into())),
        ("texts".to_owned(), Value::Strings(vec!["a".into(), String::new()])),
        ("null".to_owned(), Value::Null),
    ]);
    Record {
        id: "a".into(),
        vector: vec![1.0, -2.5],
        metadata,
        timestamp: -1,
        created_at: 2,
        updated_at: 3,
        expires_at: Some(0),
        version: 9,
        rank: Some(10_000),
        score: Some(0.25),
        distance: Some(-0.25),
        ..Record::default()
    }
}

#[test]
fn records_survive_their_message() {
    assert_eq!(record("records[0]", sample().into()).unwrap(), sample());
    assert_eq!(record("records[0]", v1::Record::default()).unwrap(), Record::default());
}

#[test]
fn numbers_keep_their_value() {
    let exact = limits::EXACT_INT;
    for v in [0, 1, -exact, exact] {
        assert_eq!(value("v", to_value(Value::Int(v))).unwrap(), Value::Int(v));
    }
    for v in [exact + 1, -exact - 1, i64::MIN, i64::MAX] {
        assert_eq!(value("v", to_value(Value::Int(v))).unwrap(), Value::String(v.to_string()));
    }
    for v in [0.5, 1e300, f64::INFINITY] {
        assert_eq!(value("v", to_value(Value::Float(v))).unwrap(), Value::Float(v));
    }
}

#[test]
fn nested_metadata_is_refused_by_name() {
    use prost_types::value::Kind;
    let of = |kind| prost_types::Value { kind: Some(kind) };
    let number = of(Kind::NumberValue(1.0));
    let list = of(Kind::ListValue(prost_types::ListValue { values: vec![number] }));
    for nested in [list, of(Kind::StructValue(prost_types::Struct::default()))] {
        let mut r = v1::Record::default();
        r.metadata.insert("deep".into(), nested);
        let e = record("records[3]", r).unwrap_err();
        assert_eq!((e.kind(), e.field()), (esker_format::Kind::Invalid, Some("records[3].metadata.deep")));
    }
}

/// An independent implementation reads the payload.
#[test]
fn avro_payloads_hold_result_fields() {
    use apache_avro::types::Value as Avro;
    let (hit, written) = (sample(), Record { rank: None, score: None, distance: None, ..sample() });
    let frame = framing::decode(&avro("search", [&hit, &written])).unwrap();
    assert_eq!(frame.operation, "search");
    let schema = apache_avro::Schema::parse_str(SCHEMA).unwrap();
    let reader = apache_avro::reader::datum::GenericDatumReader::builder(&schema).build().unwrap();
    let mut data = &frame.data[..];
    let mut results = |ours: &Record| {
        let Avro::Record(fields) = reader.read_value(&mut data).unwrap() else {
            panic!("a record is a record")
        };
        assert_eq!(fields[0].1, Avro::String(ours.id.clone()));
        fields[9..].iter().map(|(_, v)| v.clone()).collect::<Vec<_>>()
    };
    let (null, some) = (|| Avro::Union(0, Box::new(Avro::Null)), |v| Avro::Union(1, Box::new(v)));
    assert_eq!(results(&hit), [some(Avro::Int(10_000)), some(Avro::Float(0.25)), some(Avro::Float(-0.25))]);
    assert_eq!(results(&written), [null(), null(), null()]);
    assert!(data.is_empty());
}

#[test]
fn too_new_clients_are_told_what_is_supported() {
    assert!(schema_version(0).is_ok() && schema_version(1).is_ok());
    let e = schema_version(2).unwrap_err();
    assert_eq!(e.field(), Some("schema_version"));
    assert_eq!(e.hint(), Some("this server supports schema version 1"));
}
