use super::*;

#[test]
fn messages_stay_small() {
    let record = |i: usize| Record { id: i.to_string(), vector: vec![0.0; 1024], ..Record::default() };
    let lots = cut((0..1000).map(record).collect());
    assert!(lots.len() > 3);
    for lot in &lots {
        assert!(lot.iter().map(weight).sum::<usize>() <= PIECE_BYTES);
    }
    let ids: Vec<String> = lots.into_iter().flatten().map(|r| r.id).collect();
    assert_eq!(ids, (0..1000).map(|i| i.to_string()).collect::<Vec<_>>());
    assert!(cut(Vec::new()).is_empty());
    // One that is too large for a message of its own is sent all the same.
    let large = Record { id: "x".repeat(2 * PIECE_BYTES), ..record(0) };
    assert_eq!(cut(vec![record(0), large, record(1)]).len(), 3);
    let whole = Bytes::from(vec![7; 2 * PIECE_BYTES + 1]);
    let lengths: Vec<usize> = split(whole).iter().map(Bytes::len).collect();
    assert_eq!(lengths, [PIECE_BYTES, PIECE_BYTES, 1]);
}
