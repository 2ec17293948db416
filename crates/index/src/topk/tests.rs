use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn is_a_sorted_prefix_whatever_the_order(
        mut offered in proptest::collection::vec((0u8..6, 0u32..50), 0..60),
        k in 0usize..12,
        turn in 0usize..60,
    ) {
        offered.sort_unstable();
        offered.dedup();
        let expected: Vec<(f32, u32)> = offered.iter().take(k).map(|(at, id)| (f32::from(*at), *id)).collect();
        let length = offered.len();
        offered.rotate_left(if length == 0 { 0 } else { turn % length });
        let mut top = TopK::new(k);
        let mut list = Shortlist { k, limit: Shortlist::<u32>::new(k).limit, held: Vec::new() };
        for (distance, id) in offered {
            list.push(f32::from(distance), id);
            if id % 7 == 0 && k > 0 {
                list.cut();
            }
            let entered = top.push(f32::from(distance), id);
            prop_assert!(!entered || f32::from(distance) <= top.worst());
        }
        prop_assert_eq!(&list.into_sorted(), &expected);
        prop_assert_eq!(top.into_sorted(), expected);
    }
}

#[test]
fn nan_never_enters_and_worst_is_infinite_until_full() {
    let mut top = TopK::new(2);
    assert!(!top.push(f32::NAN, 1));
    assert!(top.push(f32::INFINITY, 2));
    assert_eq!(top.worst(), f32::INFINITY);
    assert!(top.push(1.0, 3) && top.push(-0.0, 4) && top.push(0.0, 1));
    assert!(!top.push(0.0, 9));
    assert_eq!(top.worst(), 0.0);
    assert_eq!(top.len(), 2);
    assert_eq!(top.into_sorted(), vec![(0.0, 1), (0.0, 4)]);
    assert_eq!(TopK::<u32>::new(0).worst(), f32::NEG_INFINITY);
}

#[test]
fn a_shortlist_is_cut_back_and_lowers_its_limit() {
    let mut list = Shortlist::new(5);
    assert_eq!(list.limit(), f32::INFINITY);
    assert_eq!(list.push(f32::NAN, 0u32), f32::INFINITY);
    (0..1_000u32).for_each(|id| {
        list.push(f32::from((id * 7919 % 1000) as u16), id);
        assert!(list.held.len() < 42);
    });
    assert!(list.limit() >= 4.0 && list.limit() < 42.0);
    let distances: Vec<f32> = list.into_sorted().into_iter().map(|(distance, _)| distance).collect();
    assert_eq!(distances, [0.0, 1.0, 2.0, 3.0, 4.0]);
    assert_eq!(Shortlist::<u8>::new(0).push(1.0, 1), f32::NEG_INFINITY);
}
