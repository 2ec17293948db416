use super::*;

#[test]
fn every_flipped_bit_is_seen() {
    let bytes = seal(Kind::Manifest, SPILL, b"{\"a\":1}");
    assert_eq!(open("m", Kind::Manifest, &Bytes::from(bytes.clone())).unwrap(), &b"{\"a\":1}"[..]);
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let e = open("m", Kind::Manifest, &Bytes::from(bad)).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Corrupt, "bit {bit}: {e}");
    }
    for len in 0..bytes.len() {
        assert!(open("m", Kind::Manifest, &Bytes::copy_from_slice(&bytes[..len])).is_err());
    }
}

#[test]
fn unknown_features_are_refused_by_name() {
    let bytes = Bytes::from(seal(Kind::Index, EXTENSION | 1 << 40, b""));
    let e = open("x.index", Kind::Index, &bytes).unwrap_err();
    assert_eq!(
        e.to_string(),
        "x.index requires the feature extension, 0x10000000000, which this build lacks"
    );
    assert!(e.hint().unwrap().contains("spill"));
}
