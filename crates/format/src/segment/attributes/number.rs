//! Numbers as keys whose unsigned order is the numbers' order, and literals as ranges of keys.

use std::ops::{Bound, RangeInclusive};

use super::Literal;

const SIGN: u64 = 1 << 63;
/// 2^63, the first float above every int.
const ABOVE_INTS: f64 = 9_223_372_036_854_775_808.0;

/// Key of an int.
pub(super) fn int_key(v: i64) -> u64 {
    v as u64 ^ SIGN
}

/// Key of a float that is a number. Both zeros have one key.
pub(super) fn float_key(v: f64) -> u64 {
    let bits = if v == 0.0 { 0 } else { v.to_bits() };
    if bits & SIGN == 0 { bits | SIGN } else { !bits }
}

/// Keys of an int or a float column between two bounds: empty ranges are `None`; `Err` when a literal is no number.
pub(super) fn keys(
    float: bool,
    low: &Bound<Literal>,
    high: &Bound<Literal>,
) -> Result<Option<RangeInclusive<u64>>, NotNumber> {
    let low = match low {
        Bound::Unbounded => Some(0),
        Bound::Included(l) => at_least(float, l)?,
        Bound::Excluded(l) => above(float, l)?,
    };
    let high = match high {
        Bound::Unbounded => Some(u64::MAX),
        Bound::Included(l) => above(float, l)?.map_or(Some(u64::MAX), |k| k.checked_sub(1)),
        Bound::Excluded(l) => at_least(float, l)?.map_or(Some(u64::MAX), |k| k.checked_sub(1)),
    };
    Ok(low.zip(high).map(|(l, h)| l..=h).filter(|r| !r.is_empty()))
}

/// The literal is text, a boolean or not a number.
pub(super) struct NotNumber;

/// The smallest key whose number is at least the literal; none when every number is below.
fn at_least(float: bool, literal: &Literal) -> Result<Option<u64>, NotNumber> {
    match (float, literal) {
        (_, Literal::Float(f)) if f.is_nan() => Err(NotNumber),
        (true, Literal::Float(f)) => Ok(Some(float_key(*f))),
        (false, Literal::Int(i)) => Ok(Some(int_key(*i))),
        (false, Literal::Float(f)) => Ok(int_at_least(f.ceil())),
        (true, Literal::Int(i)) => {
            let near = *i as f64;
            // The nearest float to the int lies below it where rounding went down.
            let key = float_key(near);
            Ok(Some(if cmp_float_int(near, *i).is_lt() { key + 1 } else { key }))
        }
        (_, Literal::Bool(_) | Literal::String(_)) => Err(NotNumber),
    }
}

/// The smallest key whose number is above the literal.
fn above(float: bool, literal: &Literal) -> Result<Option<u64>, NotNumber> {
    match (float, literal) {
        (_, Literal::Float(f)) if f.is_nan() => Err(NotNumber),
        (true, Literal::Float(f)) => Ok(float_key(*f).checked_add(1)),
        (false, Literal::Int(i)) => Ok(int_key(*i).checked_add(1)),
        (false, Literal::Float(f)) if f.floor() < *f => Ok(int_at_least(f.ceil())),
        (false, Literal::Float(f)) if *f < -ABOVE_INTS => Ok(Some(0)),
        (false, Literal::Float(f)) => Ok(int_at_least(*f).and_then(|k| k.checked_add(1))),
        (true, Literal::Int(i)) => {
            let near = *i as f64;
            let key = float_key(near);
            Ok(Some(if cmp_float_int(near, *i).is_gt() { key } else { key + 1 }))
        }
        (_, Literal::Bool(_) | Literal::String(_)) => Err(NotNumber),
    }
}

/// Key of the smallest int that is at least a whole float.
fn int_at_least(whole: f64) -> Option<u64> {
    if whole >= ABOVE_INTS {
        return None;
    }
    // Below every int the cast saturates to the smallest.
    Some(int_key(whole as i64))
}

/// Compares a float that an int was rounded to with the int.
fn cmp_float_int(near: f64, i: i64) -> std::cmp::Ordering {
    (near as i128).cmp(&i128::from(i))
}
