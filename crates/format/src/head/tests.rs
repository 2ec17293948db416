use super::*;
use crate::id::Token;
use crate::manifest::tests::first;

#[test]
fn a_head_comes_back_and_flipped_bits_are_seen() {
    let made = Made { base: 3, token: Token(4) };
    let part = Part {
        made,
        header: Bytes::from_static(b"header"),
        codes: Some(Bytes::from_static(b"codes")),
        deletes: None,
    };
    let bare = Part { codes: None, deletes: Some(Bytes::from_static(b"dels")), ..part.clone() };
    let head = Head { manifest: first(), parts: vec![part, bare] };
    let bytes = head.encode().unwrap();
    assert_eq!(Head::decode("head", &bytes).unwrap(), head);
    for bit in (0..bytes.len() * 8).step_by(7) {
        let mut bad = bytes.to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(Head::decode("head", &bad.into()).is_err());
    }
}
