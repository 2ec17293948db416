use super::*;

#[test]
fn a_drawn_token_tells_when() {
    let at = 1_795_000_000_123;
    let token = Token::drawn(u128::MAX, at);
    assert_eq!((token.drawn_ms(), token), (Some(at), token.to_string().parse().unwrap()));
    assert_eq!(Token::drawn(1, at).0 ^ Token::drawn(2, at).0, 3);
    assert_eq!(Token::drawn(7, -5).drawn_ms(), Some(0));
}

#[test]
fn no_key_gives_a_drawn_token() {
    let hashes = (0u32..300_000).map(|n| n.to_le_bytes());
    let alike: Vec<[u8; 4]> = hashes.filter(|key| xxh3_128(key) >> 112 == DRAWN).collect();
    assert!(!alike.is_empty(), "one in 65,536");
    assert!(alike.iter().all(|key| Token::of_key(key).drawn_ms().is_none()));
    assert_eq!(Token::from_key("order 7"), Token::of_key(b"order 7"));
}
