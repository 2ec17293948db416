use super::*;
use serde_json::json;

fn parse(event: &Value) -> Result<Event> {
    Event::parse(RawValue::from_string(event.to_string()).unwrap())
}

#[test]
fn events_are_told_apart() {
    let http = parse(&json!({"version": "2.0", "rawPath": "/", "requestContext": {"http": {}}})).unwrap();
    assert!(matches!(http, Event::Http(_)));
    for source in ["aws.events", "aws.scheduler"] {
        assert!(matches!(parse(&json!({"source": source, "detail": {}})).unwrap(), Event::Tick));
    }
    let direct = parse(&json!({"collection": "docs"})).unwrap();
    assert!(matches!(direct, Event::Direct(value) if value["collection"] == "docs"));
    let none = parse(&json!({"Event": "s3:TestEvent", "Bucket": "b"})).unwrap();
    assert!(matches!(none, Event::Objects(objects) if objects.is_empty()));
}

#[test]
fn notifications_name_objects_however_they_come() {
    let object = |key: &str| Object { bucket: "b".to_owned(), key: key.to_owned() };
    let s3 = json!({"bucket": {"name": "b"}, "object": {"key": "p/a+b%2Bc%3D/d", "size": 1}});
    let direct = parse(&json!({"Records": [{"eventSource": "aws:s3", "s3": s3}]})).unwrap();
    assert!(matches!(direct, Event::Objects(o) if o == [object("p/a b+c=/d")]));
    let bridge = json!({"source": "aws.s3", "detail": {"bucket": {"name": "b"}, "object": {"key": "p/a+b"}}});
    assert!(matches!(parse(&bridge).unwrap(), Event::Objects(o) if o == [object("p/a+b")]));
}

#[test]
fn messages_keep_their_attributes_and_group() {
    let record = json!({
        "eventSource": "aws:sqs", "messageId": "m1", "body": "{}",
        "attributes": {"MessageGroupId": "g", "ApproximateReceiveCount": "1"},
        "messageAttributes": {
            "Collection": {"stringValue": "docs", "dataType": "String"},
            "blob": {"binaryValue": "AA==", "dataType": "Binary"},
        },
    });
    let Event::Messages(messages) = parse(&json!({"Records": [record]})).unwrap() else { panic!("messages") };
    assert_eq!(messages.len(), 1);
    assert_eq!((messages[0].id.as_str(), messages[0].group.as_deref()), ("m1", Some("g")));
    let kept: Vec<_> = messages[0].attributes.iter().collect();
    assert_eq!(kept, [(&"collection".to_owned(), &"docs".to_owned())]);
}

#[test]
fn what_no_function_knows_is_refused() {
    for wrong in [
        json!([]),
        json!("text"),
        json!({"Records": [{"eventSource": "aws:kinesis"}]}),
        json!({"Records": [{"eventSource": "aws:sqs", "body": "no id"}]}),
    ] {
        assert_eq!(parse(&wrong).unwrap_err().kind(), esker_format::Kind::Invalid, "{wrong}");
    }
}

#[test]
fn what_is_said_of_an_event_has_none_of_its_values() {
    let secret = "eyJhbGciOiJub25lIn0.secret";
    for (wrong, says) in [
        (json!({"Records": secret}), "another value is expected"),
        (
            json!({"Records": [{"eventSource": "aws:sqs", "messageId": "m", "attributes": secret}]}),
            "another value",
        ),
        (json!({"source": {"token": secret}}), "another value"),
        (json!({"Records": [{"body": secret}]}), "missing field `eventSource`"),
        (json!(secret), "another value"),
    ] {
        let said = parse(&wrong).unwrap_err().to_string();
        assert!(said.contains(says) && !said.contains("eyJ"), "{wrong}: {said}");
    }
}
