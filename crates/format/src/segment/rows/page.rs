//! A vector page as bytes. Written by hand because a fixed-size list reaches Parquet as a three-level list, for which
//! the generic writer derives a level per element, copies 16-bit floats one by one, and cuts pages where it likes.
//! Format: Parquet's `PageHeader` in Thrift's compact protocol, then data page version 1 (levels in the RLE hybrid).

use super::super::wire::Put;

/// Header and levels in front of the values of an uncompressed, plainly encoded page of `rows` lists of `dimension`
/// non-null items of `width` bytes.
pub(super) fn prefix(rows: u32, dimension: u32, width: u32) -> Vec<u8> {
    let values = u64::from(rows) * u64::from(dimension);
    let levels = levels(rows, dimension);
    let size = (levels.len() as u64 + values * u64::from(width)) as i64;
    let mut out = Vec::with_capacity(levels.len() + 32);
    // PageHeader: 1 type = DATA_PAGE, 2 uncompressed size, 3 compressed size, 5 DataPageHeader.
    field(&mut out, 1, 0);
    field(&mut out, 1, size);
    field(&mut out, 1, size);
    out.put(&[2 << 4 | STRUCT]);
    // DataPageHeader: 1 values, 2 encoding = PLAIN, 3 definition levels = RLE, 4 repetition levels = RLE.
    field(&mut out, 1, values as i64);
    field(&mut out, 1, 0);
    field(&mut out, 1, 3);
    field(&mut out, 1, 3);
    out.put(&[0, 0]);
    out.put(&levels);
    out
}

/// Type numbers of Thrift's compact protocol.
const I32: u8 = 5;
const STRUCT: u8 = 12;

fn field(out: &mut Vec<u8>, step: u8, value: i64) {
    out.put(&[step << 4 | I32]);
    out.put_signed(value);
}

/// Repetition levels, 0 at the first item of each list and 1 at the others, then definition levels, all 1.
fn levels(rows: u32, dimension: u32) -> Vec<u8> {
    let mut repetition = Vec::new();
    if dimension == 1 {
        run(&mut repetition, u64::from(rows), 0);
    } else {
        for _ in 0..rows {
            run(&mut repetition, 1, 0);
            run(&mut repetition, u64::from(dimension) - 1, 1);
        }
    }
    let mut definition = Vec::new();
    run(&mut definition, u64::from(rows) * u64::from(dimension), 1);
    let mut out = Vec::with_capacity(repetition.len() + definition.len() + 8);
    for part in [repetition, definition] {
        out.put_u32(part.len() as u32);
        out.put(&part);
    }
    out
}

/// A run of equal levels of one bit.
fn run(out: &mut Vec<u8>, count: u64, level: u8) {
    out.put_varint(count << 1);
    out.put(&[level]);
}
