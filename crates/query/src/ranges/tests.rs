use super::*;

#[test]
fn the_smallest_gaps_close_until_there_are_few_enough() {
    let wanted = [0..10, 40_000..40_010, 200_000..200_010];
    let few = |requests, waste| Shape::Few(Thrift { requests, waste });
    assert_eq!(requests(&wanted, few(3, u64::MAX)).len(), 3);
    assert_eq!(requests(&wanted, few(2, u64::MAX)), [0..40_010, 200_000..200_010]);
    assert_eq!(requests(&wanted, few(1, u64::MAX)), vec![0..200_010; 1]);
    assert_eq!(requests(&wanted, few(1, 100_000)), [0..40_010, 200_000..200_010], "more would be wasted");
    assert_eq!(requests(&wanted, few(1, 100)).len(), 3);
    assert_eq!(requests(&[5..9, 0..4, 0..4, 7..7], Shape::AsGiven), [0..4, 5..9]);
}

#[test]
fn gaps_close_where_they_are_smallest_whatever_the_file() {
    let (a, b) = (vec![0..10, 100_010..100_020], vec![0..10, 50_010..50_020, 900_000..900_010]);
    let thrift = Thrift { requests: 3, waste: u64::MAX };
    let gap = thrift.gap([a.as_slice(), b.as_slice()]);
    assert_eq!(gap, 100_000);
    let count = |wanted: &[Range<u64>]| requests(wanted, Shape::Gap(gap)).len();
    assert_eq!((count(&a), count(&b)), (1, 2));
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
