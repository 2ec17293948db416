//! Avro's primitive types, read from a slice. Nothing is copied, nothing is allocated.

/// Why a primitive could not be read.
pub(crate) type Wrong = &'static str;

const ENDS: Wrong = "the data ends within this field";

/// What is left of a block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cursor<'a> {
    pub rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    /// A cursor at the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Cursor { rest: bytes }
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `n` bytes.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], Wrong> {
        let (head, rest) = self.rest.split_at_checked(n).ok_or(ENDS)?;
        self.rest = rest;
        Ok(head)
    }

    /// A zigzag varint of at most ten bytes.
    pub fn long(&mut self) -> Result<i64, Wrong> {
        let mut n = 0u64;
        for (i, &byte) in self.rest.iter().take(10).enumerate() {
            if i == 9 && byte > 1 {
                return Err("a whole number is longer than 64 bits");
            }
            n |= u64::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[i + 1..];
                return Ok((n >> 1) as i64 ^ -((n & 1) as i64));
            }
        }
        Err(ENDS)
    }

    /// A varint that must fit 32 bits.
    pub fn int(&mut self) -> Result<i32, Wrong> {
        i32::try_from(self.long()?).map_err(|_| "an Avro int is longer than 32 bits")
    }

    pub fn boolean(&mut self) -> Result<bool, Wrong> {
        match self.take(1)?[0] {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err("an Avro boolean is neither 0 nor 1"),
        }
    }

    pub fn float(&mut self) -> Result<f32, Wrong> {
        let b = self.take(4)?;
        Ok(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    pub fn double(&mut self) -> Result<f64, Wrong> {
        let mut b = [0; 8];
        b.copy_from_slice(self.take(8)?);
        Ok(f64::from_le_bytes(b))
    }

    /// Length-prefixed bytes.
    pub fn bytes(&mut self) -> Result<&'a [u8], Wrong> {
        let n = usize::try_from(self.long()?).map_err(|_| "a length is negative")?;
        self.take(n)
    }

    /// Length-prefixed UTF-8.
    pub fn string(&mut self) -> Result<&'a str, Wrong> {
        std::str::from_utf8(self.bytes()?).map_err(|_| "the text is not UTF-8")
    }

    /// The number of items in the next block of an array or map; 0 ends it. A negative count is followed by the
    /// block's size in bytes, which a reader that visits every item does not need.
    pub fn count(&mut self) -> Result<u64, Wrong> {
        let n = self.long()?;
        if n < 0 {
            let size = self.long()?;
            if usize::try_from(size).is_ok_and(|s| s <= self.rest.len()) {
                return Ok(n.unsigned_abs());
            }
            return Err(ENDS);
        }
        Ok(n.unsigned_abs())
    }
}

/// Appends a zigzag varint.
pub(crate) fn put_long(out: &mut Vec<u8>, v: i64) {
    let mut n = ((v << 1) ^ (v >> 63)) as u64;
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Appends length-prefixed bytes.
pub(crate) fn put_bytes(out: &mut Vec<u8>, v: &[u8]) {
    put_long(out, v.len() as i64);
    out.extend_from_slice(v);
}
