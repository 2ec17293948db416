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
