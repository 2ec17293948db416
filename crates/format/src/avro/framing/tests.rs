use super::*;

#[test]
fn frames_come_apart() {
    let bytes = Bytes::from(encode("upsert", b"data"));
    assert_eq!(&bytes[..], b"\x00\x00\x00\x01\x00\x00\x00\x06upsertdata");
    let frame = decode(&bytes).unwrap();
    assert_eq!(frame, Frame { operation: "upsert".into(), data: Bytes::from_static(b"data") });
    for end in 0..14 {
        assert!(decode(&bytes.slice(..end)).is_err(), "{end}");
    }
}

#[test]
fn another_version_is_refused_with_those_supported() {
    let error = decode(&Bytes::from_static(b"\x00\x00\x00\x02\x00\x00\x00\x00")).unwrap_err();
    assert_eq!(error.to_string(), "schema version 2 is not supported");
    assert_eq!(error.hint(), Some("this server supports schema version 1"));
    assert!(decode(&Bytes::from_static(b"\x00\x00\x00\x01\xff\xff\xff\xff")).is_err());
    assert!(decode(&Bytes::from_static(b"\x00\x00\x00\x01\x00\x00\x00\x01\xff")).is_err());
}

#[test]
fn a_write_is_known_by_its_name() {
    let op = |name: &str| decode(&Bytes::from(encode(name, b""))).unwrap().write();
    assert_eq!((op("upsert").unwrap(), op("delete").unwrap()), (Op::Upsert, Op::Delete));
    for name in ["", "Upsert", "search", "a\n"] {
        let e = op(name).unwrap_err();
        assert_eq!((e.field(), e.hint()), (Some("avro_payload"), Some("the writes are upsert and delete")));
    }
    let cut = decode(&Bytes::from_static(b"\x00\x00\x00\x01\x00\x00\x00\x06upse")).unwrap_err();
    assert_eq!(cut.to_string(), "it ends within the operation, which has 6 bytes");
    let long = decode(&Bytes::from_static(b"\x00\x00\x00\x01\x00\x00\x00\x41")).unwrap_err();
    assert_eq!(long.to_string(), "the operation has 65 bytes, the limit is 64");
}
