use super::*;

#[test]
fn the_fingerprint_is_that_of_the_schema() {
    assert_eq!(fingerprint(SCHEMA).unwrap(), FINGERPRINT, "{:#018x}", fingerprint(SCHEMA).unwrap());
    assert!(fingerprint("{").is_err());
}

#[test]
fn json_is_plain_values() {
    let json =
        r#"{"id":"a","vector":[1,0.5],"metadata":{"b":true,"f":1.0,"i":-3,"l":["x","y"],"n":null,"s":"t"}}"#;
    let record: Record = serde_json::from_str(json).unwrap();
    assert_eq!(record.vector, [1.0, 0.5]);
    assert_eq!((record.version, record.timestamp, record.expires_at), (1, 0, None));
    let expected = [
        ("b", Value::Bool(true)),
        ("f", Value::Float(1.0)),
        ("i", Value::Int(-3)),
        ("l", Value::Strings(vec!["x".into(), "y".into()])),
        ("n", Value::Null),
        ("s", Value::String("t".into())),
    ];
    assert_eq!(record.metadata, expected.map(|(k, v)| (k.to_owned(), v)).into());
    let again: Record = serde_json::from_str(&serde_json::to_string(&record).unwrap()).unwrap();
    assert_eq!(again, record);
}

#[test]
fn json_refusals_name_the_key() {
    for (json, message) in [
        (r#"{"id":"a","metadata":{"m":{"x":1}}}"#, "metadata.m: nested values are not supported"),
        (r#"{"id":"a","metadata":{"m":[1]}}"#, "metadata.m: a list may hold only strings"),
        (r#"{"id":"a","metadata":{"m":[["x"]]}}"#, "metadata.m: a list may hold only strings"),
        (r#"{"id":"a","metadata":{"m":9223372036854775808}}"#, "metadata.m: 9223372036854775808 is beyond"),
        (r#"{"id":"a","metadata":{"m":1,"m":2}}"#, "metadata.m: the key is given twice"),
        (r#"{"id":"a","vectr":[]}"#, "unknown field `vectr`"),
        (r#"{"vector":[]}"#, "missing field `id`"),
    ] {
        let error = serde_json::from_str::<Record>(json).unwrap_err().to_string();
        assert!(error.contains(message), "{json}: {error}");
    }
}

#[test]
fn values_survive_borrowing() {
    for value in [Value::Null, Value::Int(1), Value::Strings(vec!["a".into()]), Value::String("s".into())] {
        assert_eq!(value.as_ref().to_value(), value);
    }
}
