use proptest::prelude::*;

use super::*;

fn bitwise(bytes: &[u8]) -> u16 {
    let step = |crc: u16| if crc & 0x8000 != 0 { (crc << 1) ^ 0x1021 } else { crc << 1 };
    bytes.iter().fold(0xFFFF, |crc, byte| (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| step(crc)))
}

#[test]
fn is_the_catalogued_crc() {
    assert_eq!(check16(b"123456789"), 0x29B1);
    assert_eq!(check16(b""), 0xFFFF);
}

proptest! {
    #[test]
    fn equals_its_twins(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert_eq!(check16(&bytes), bitwise(&bytes));
        prop_assert_eq!(tabled(0xFFFF, &bytes), bitwise(&bytes));
    }
}

#[test]
fn finds_every_flipped_bit_of_a_row() {
    let mut row: Vec<u8> = (0..384 * 4).map(|i| (i * 31 % 251) as u8).collect();
    let check = check16(&row);
    for bit in 0..row.len() * 8 {
        row[bit / 8] ^= 1 << (bit % 8);
        assert_ne!(check16(&row), check);
        row[bit / 8] ^= 1 << (bit % 8);
    }
}
