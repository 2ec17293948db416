use super::*;

#[test]
fn the_smallest_gaps_close_until_there_are_few_enough() {
    let wanted = [0..10, 40_000..40_010, 200_000..200_010];
    assert_eq!(requests(&wanted, Shape::AtMost(3)).len(), 3);
    assert_eq!(requests(&wanted, Shape::AtMost(2)), [0..40_010, 200_000..200_010]);
    assert_eq!(requests(&wanted, Shape::AtMost(1)), vec![0..200_010; 1]);
    assert_eq!(requests(&[5..9, 0..4, 0..4, 7..7], Shape::AsGiven), [0..4, 5..9]);
}

#[test]
fn pieces_are_cut_from_runs_and_across_them() {
    let pieces = Pieces(vec![
        (10..14, Bytes::from_static(b"abcd")),
        (14..16, Bytes::from_static(b"ef")),
        (20..22, Bytes::from_static(b"xy")),
    ]);
    assert_eq!(pieces.bytes(&(11..13)).unwrap(), "bc");
    assert_eq!(pieces.bytes(&(12..16)).unwrap(), "cdef");
    assert!(pieces.covers(&(10..16)) && pieces.covers(&(21..22)) && pieces.covers(&(3..3)));
    assert!(!pieces.covers(&(15..21)) && !pieces.covers(&(9..11)));
    assert!(pieces.bytes(&(15..21)).is_err());
    assert!(pieces.bytes(&(0..1)).is_err());
}
