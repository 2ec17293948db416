//! Where each record of a block begins and ends, for blocks that are larger than a batch may be.

/// A record of a block.
pub(crate) struct Span<'a> {
    /// The encoded record.
    pub bytes: &'a [u8],
    pub collection_id: &'a str,
    pub vector: Vec<f32>,
}

pub(crate) type Wrong = &'static str;
/// More of the block is needed to say.
pub(crate) const ENDS: Wrong = "the data ends within this record";

/// The records of a block in the schema of WIRE §1. Only what it takes to find their ends is checked.
pub(crate) fn spans(block: &[u8]) -> impl Iterator<Item = Result<Span<'_>, Wrong>> {
    let mut rest = block;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let span = record(rest);
        rest = span.as_ref().map_or(&[], |s| &rest[s.bytes.len()..]);
        Some(span)
    })
}

fn record(block: &[u8]) -> Result<Span<'_>, Wrong> {
    let mut c = block;
    text(&mut c)?;
    let collection_id = std::str::from_utf8(text(&mut c)?).map_err(|_| "collection_id is not UTF-8")?;
    let mut vector = Vec::new();
    items(&mut c, |c, n| {
        let bytes = take(c, usize::try_from(n).ok().and_then(|n| n.checked_mul(4)).ok_or(ENDS)?)?;
        vector.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)));
        Ok(())
    })?;
    items(&mut c, |c, n| {
        (0..n).try_for_each(|_| {
            text(c)?;
            value(c)
        })
    })?;
    for _ in ["timestamp", "created_at", "updated_at"] {
        long(&mut c)?;
    }
    optional(&mut c, |c| long(c).map(drop))?; // expires_at
    long(&mut c)?; // version
    optional(&mut c, |c| long(c).map(drop))?; // rank
    optional(&mut c, |c| take(c, 4).map(drop))?; // score
    optional(&mut c, |c| take(c, 4).map(drop))?; // distance
    Ok(Span { bytes: &block[..block.len() - c.len()], collection_id, vector })
}

fn value(c: &mut &[u8]) -> Result<(), Wrong> {
    match long(c)? {
        0 => Ok(()),
        1 => take(c, 1).map(drop),
        2 | 3 => long(c).map(drop),
        4 => take(c, 4).map(drop),
        5 => take(c, 8).map(drop),
        6 => text(c).map(drop),
        7 => items(c, |c, n| (0..n).try_for_each(|_| text(c).map(drop))),
        _ => Err("a union branch that the schema does not have"),
    }
}

fn optional(c: &mut &[u8], skip: impl FnOnce(&mut &[u8]) -> Result<(), Wrong>) -> Result<(), Wrong> {
    match long(c)? {
        0 => Ok(()),
        1 => skip(c),
        _ => Err("a union branch that the schema does not have"),
    }
}

/// The blocks of an array or a map.
fn items<'a>(
    c: &mut &'a [u8],
    mut block: impl FnMut(&mut &'a [u8], u64) -> Result<(), Wrong>,
) -> Result<(), Wrong> {
    loop {
        let n = long(c)?;
        if n == 0 {
            return Ok(());
        }
        if n < 0 {
            long(c)?;
        }
        block(c, n.unsigned_abs())?;
    }
}

fn text<'a>(c: &mut &'a [u8]) -> Result<&'a [u8], Wrong> {
    let n = usize::try_from(long(c)?).map_err(|_| "a length is negative")?;
    take(c, n)
}

fn take<'a>(c: &mut &'a [u8], n: usize) -> Result<&'a [u8], Wrong> {
    let (head, rest) = c.split_at_checked(n).ok_or(ENDS)?;
    *c = rest;
    Ok(head)
}

fn long(c: &mut &[u8]) -> Result<i64, Wrong> {
    let mut n = 0u64;
    for (i, &byte) in c.iter().take(10).enumerate() {
        n |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            *c = &c[i + 1..];
            return Ok((n >> 1) as i64 ^ -((n & 1) as i64));
        }
    }
    Err(ENDS)
}
