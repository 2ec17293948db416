use super::super::tests::{batches, upsert};
use super::*;
use crate::avro::container::Block;
use crate::avro::samples::collection;
use crate::error::Kind;

fn offer(batches: &[PendingBatch]) -> (String, Bytes) {
    let (key, bytes) = encode(&collection(), 5, batches).unwrap();
    (key, bytes.into())
}

#[test]
fn what_is_offered_comes_back() {
    let offered = batches();
    let (key, bytes) = offer(&offered);
    assert_eq!(key, Keys::new(&collection()).inbox(5, Token(1)));
    let back = decode(&key, &bytes).unwrap();
    for (a, b) in offered.iter().zip(&back) {
        assert_eq!((a.token, a.given, a.content, a.op), (b.token, b.given, b.content, b.op));
        assert_eq!((a.arrived_ms, &a.blocks), (b.arrived_ms, &b.blocks));
    }
    assert_eq!(offered.len(), back.len());
}

#[test]
fn what_is_not_an_offer_is_refused() {
    let (key, bytes) = offer(&batches());
    for at in [0, 9, bytes.len() / 2, bytes.len() - 1] {
        let mut flipped = bytes.to_vec();
        flipped[at] ^= 4;
        assert_eq!(decode(&key, &flipped.into()).unwrap_err().kind(), Kind::Corrupt, "byte {at}");
    }
    let elsewhere = Keys::new(&collection()).inbox(6, Token(1));
    assert!(decode(&elsewhere, &bytes).unwrap_err().to_string().contains("another name"));
    assert!(decode(&key, &Bytes::new()).is_err());
    assert!(encode(&collection(), 5, &[]).is_err());
    let mut filled = upsert(1, &["a"]);
    for (bytes, may) in [(limits::INBOX_BYTES, true), (limits::INBOX_BYTES + 1, false)] {
        filled.blocks = vec![Block { rows: 1, data: vec![0; bytes].into() }];
        assert_eq!(encode(&collection(), 5, &[filled.clone()]).is_ok(), may);
    }
    let (key, twice) = offer(&[upsert(1, &["a"]), upsert(1, &["b"])]);
    assert!(decode(&key, &twice).unwrap_err().to_string().contains("twice"));
    let mut other = upsert(1, &["a", "b"]);
    other.blocks = vec![Block { rows: 3, data: other.blocks[0].data.clone() }];
    let (key, miscounted) = offer(&[other]);
    assert_eq!(decode(&key, &miscounted).unwrap_err().kind(), Kind::Corrupt);
}
