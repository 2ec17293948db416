use super::*;

#[test]
fn lanes_are_the_postings_of_a_group() {
    for (first, end) in [(0, 0), (0, 1), (0, 32), (5, 40), (31, 33), (32, 64), (10, 100), (64, 65)] {
        for group in 0..5 {
            let expected = (0..32).filter(|lane| (first..end).contains(&(group * 32 + lane)));
            assert_eq!(lanes(first, end, group), expected.map(|lane| 1u32 << lane).sum::<u32>());
        }
    }
}

#[test]
fn a_bitset_answers_by_group() {
    let mut set = Bitset::new(70);
    [0, 31, 32, 69, 70].into_iter().for_each(|posting| set.insert(posting));
    assert_eq!((set.group(0), set.group(1), set.group(2), set.group(3)), (1 | 1 << 31, 1, 1 << 5, 0));
    assert!(set.contains(69) && !set.contains(70) && !set.contains(1));
    set.remove(31);
    assert_eq!(set.count(), 3);
    let full = Bitset::full(70);
    assert_eq!((full.count(), full.group(2)), (70, 0b11_1111));
}
