use proptest::prelude::*;

use super::*;

#[test]
fn slices_start_where_leaves_do() {
    let starts: Vec<u32> = (0..=400).map(|l| l * 1000).collect();
    let bitmap: RoaringBitmap = (0..400_000).step_by(3).collect();
    let object = encode(&bitmap, &starts).unwrap();
    let deletes = Deletes::parse("d", &object).unwrap();
    assert_eq!((deletes.slices(), deletes.count()), (7, 133_334));
    assert_eq!((deletes.slice_of(65_999), deletes.slice_of(66_000)), (0, 1));
    let range = deletes.slice_range(1);
    let part = deletes.decode_slice(1, &object[range.start as usize..range.end as usize]).unwrap();
    assert_eq!((part.min(), part.max()), (Some(66_000), Some(131_997)));
    assert_eq!(decode_all("d", &object).unwrap(), bitmap);
}

#[test]
fn a_row_that_is_not_there_is_refused() {
    assert!(encode(&RoaringBitmap::from([10]), &[0, 10]).is_err());
    assert!(encode(&RoaringBitmap::from([9]), &[0, 10]).is_ok());
}

#[test]
fn every_flipped_bit_is_seen() {
    let object = encode(&RoaringBitmap::from([1, 5, 90]), &[0, 50, 100]).unwrap();
    for bit in 0..object.len() * 8 {
        let mut bad = object.to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(decode_all("d", &bad.into()).is_err(), "bit {bit}");
    }
    for length in 0..object.len() {
        assert!(decode_all("d", &object.slice(..length)).is_err(), "{length} bytes");
    }
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(bits in prop::collection::vec(0..300_000u32, 0..500), leaf in 1..100_000u32) {
        let bitmap: RoaringBitmap = bits.into_iter().collect();
        let starts: Vec<u32> = (0..300_000).step_by(leaf as usize).chain([300_000]).collect();
        prop_assert_eq!(decode_all("d", &encode(&bitmap, &starts).unwrap()).unwrap(), bitmap);
    }
}
