//! Little-endian integers and varints, written and read with bounds checks.

use std::ops::Range;

use crate::error::{Error, Result};

/// Appends integers to a buffer.
pub(crate) trait Put {
    fn put(&mut self, bytes: &[u8]);

    fn put_u16(&mut self, v: u16) {
        self.put(&v.to_le_bytes());
    }
    fn put_u32(&mut self, v: u32) {
        self.put(&v.to_le_bytes());
    }
    fn put_u64(&mut self, v: u64) {
        self.put(&v.to_le_bytes());
    }
    fn put_f32(&mut self, v: f32) {
        self.put(&v.to_le_bytes());
    }
    /// LEB128: seven bits a byte, low bits first.
    fn put_varint(&mut self, mut v: u64) {
        while v >= 0x80 {
            self.put(&[v as u8 | 0x80]);
            v >>= 7;
        }
        self.put(&[v as u8]);
    }
    /// Zigzag, so that small negative numbers stay short.
    fn put_signed(&mut self, v: i64) {
        self.put_varint((v << 1 ^ v >> 63) as u64);
    }
    /// A varint length and the bytes.
    fn put_bytes(&mut self, bytes: &[u8]) {
        self.put_varint(bytes.len() as u64);
        self.put(bytes);
    }
}

impl Put for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Reads what [`Put`] wrote; running out of bytes is an error that names the object.
#[derive(Clone)]
pub(crate) struct Take<'a> {
    object: &'a str,
    what: &'static str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Take<'a> {
    /// A reader of `bytes`, which are the `what` of `object`.
    pub(crate) fn new(object: &'a str, what: &'static str, bytes: &'a [u8]) -> Self {
        Take { object, what, bytes, at: 0 }
    }

    pub(crate) fn corrupt(&self, why: impl std::fmt::Display) -> Error {
        Error::corrupt(self.object, format!("{}: {why}", self.what))
    }

    /// Bytes not yet read.
    pub(crate) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The bytes not yet read.
    pub(crate) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    /// Position from the start.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    pub(crate) fn bytes(&mut self, n: usize) -> Result<&'a [u8]> {
        if n > self.left() {
            return Err(self.corrupt(format!("it ends {} bytes early", n - self.left())));
        }
        let out = &self.bytes[self.at..self.at + n];
        self.at += n;
        Ok(out)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.bytes(N)?);
        Ok(out)
    }

    pub(crate) fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }
    pub(crate) fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }
    pub(crate) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }
    pub(crate) fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }
    pub(crate) fn f32(&mut self) -> Result<f32> {
        Ok(f32::from_le_bytes(self.array()?))
    }

    pub(crate) fn varint(&mut self) -> Result<u64> {
        let mut out = 0;
        for shift in (0..64).step_by(7) {
            let b = self.u8()?;
            if shift == 63 && b > 1 {
                break;
            }
            out |= u64::from(b & 0x7f) << shift;
            if b < 0x80 {
                return Ok(out);
            }
        }
        Err(self.corrupt("a varint has more than 64 bits"))
    }

    pub(crate) fn varint_u32(&mut self) -> Result<u32> {
        u32::try_from(self.varint()?).map_err(|_| self.corrupt("a number has more than 32 bits"))
    }

    pub(crate) fn signed(&mut self) -> Result<i64> {
        let v = self.varint()?;
        Ok((v >> 1) as i64 ^ -((v & 1) as i64))
    }

    /// What [`Put::put_bytes`] wrote.
    pub(crate) fn run(&mut self) -> Result<&'a [u8]> {
        let n = self.varint()?;
        self.bytes(usize::try_from(n).unwrap_or(usize::MAX))
    }

    pub(crate) fn text(&mut self) -> Result<&'a str> {
        let bytes = self.run()?;
        std::str::from_utf8(bytes).map_err(|_| self.corrupt("text is not UTF-8"))
    }

    /// `count` items of at least `width` bytes each, refused before anything is allocated when they cannot be there.
    pub(crate) fn many<T>(
        &mut self,
        count: usize,
        width: usize,
        mut read: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        if count.checked_mul(width).is_none_or(|n| n > self.left()) {
            return Err(self.corrupt(format!("{count} items do not fit what is left")));
        }
        (0..count).map(|_| read(self)).collect()
    }

    /// Refuses bytes that nothing explains.
    pub(crate) fn end(&self) -> Result<()> {
        if self.left() == 0 { Ok(()) } else { Err(self.corrupt(format!("{} bytes too many", self.left()))) }
    }
}

/// The CRC32C of `bytes` must be `crc`.
pub(crate) fn check(object: &str, what: impl std::fmt::Display, bytes: &[u8], crc: u32) -> Result<()> {
    if crc32c::crc32c(bytes) == crc {
        return Ok(());
    }
    Err(Error::corrupt(object, format!("{what} fails its checksum")))
}

/// `bytes` without the CRC32C in their last four, which must be right.
pub(crate) fn checked<'a>(object: &str, what: impl std::fmt::Display, bytes: &'a [u8]) -> Result<&'a [u8]> {
    let Some((body, crc)) = bytes.split_last_chunk::<4>() else {
        return Err(Error::corrupt(object, format!("{what} is too short")));
    };
    check(object, what, body, u32::from_le_bytes(*crc))?;
    Ok(body)
}

/// The part of a buffer that a range names, or nothing when it lies outside.
pub(crate) fn slice(bytes: &[u8], range: Range<u64>) -> Option<&[u8]> {
    bytes.get(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?)
}
