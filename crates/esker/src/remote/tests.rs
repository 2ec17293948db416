use super::*;

#[test]
fn errors_of_servers_gateways_and_buckets_are_told_apart() {
    let wait = Some(Duration::from_secs(3));
    let own =
        br#"{"error":{"kind":"invalid","message":"2 dimensions","field":"records[3].vector","hint":"h"}}"#;
    let e = refused(StatusCode::BAD_REQUEST, None, own);
    assert_eq!((e.kind(), e.field(), e.hint()), (Kind::Invalid, Some("records[3].vector"), Some("h")));
    let e = refused(StatusCode::TOO_MANY_REQUESTS, wait, br#"{"message":"Too Many Requests"}"#);
    assert_eq!((e.kind(), e.retry_after()), (Kind::Busy, wait));
    let e = refused(StatusCode::FORBIDDEN, None, b"<Error><Code>AccessDenied</Code></Error>");
    assert!(e.kind() == Kind::Invalid && e.to_string().contains("AccessDenied"), "{e}");
    assert_eq!(refused(StatusCode::BAD_GATEWAY, None, b"").kind(), Kind::Unavailable);
}

#[test]
fn what_is_no_address_is_refused() {
    for wrong in ["", "example.org", "s3://bucket", "http://h/?q=1"] {
        assert_eq!(Remote::new(wrong, None).err().unwrap().field(), Some("endpoint"), "{wrong}");
    }
    assert!(Remote::new("https://h.example/prod/", None).is_ok());
}
