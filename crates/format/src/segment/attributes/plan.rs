//! From a predicate to the ranges to read, and from their bytes to the exact rows.

use std::ops::{Bound, Range, RangeInclusive};

use bytes::Bytes;
use roaring::RoaringBitmap;

use super::directory::{Column, Directory, Lookup, Nulls, Numbers, slot};
use super::number::keys;
use super::{KIND_BOOLEAN, KIND_STRING, KIND_STRINGS, Literal, Predicate, bool_bytes, hash};
use crate::error::{Error, Result};
use crate::segment::wire::{Take, checked};

/// What to read to know the rows that satisfy a predicate.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Ranges of the index file, none twice. May be empty.
    pub ranges: Vec<Range<u64>>,
    object: String,
    rows: u32,
    set: Set,
}

/// A set of rows; numbers are positions in [`Plan::ranges`].
#[derive(Debug, Clone)]
enum Set {
    None,
    All,
    /// A bitmap.
    Bitmap(usize),
    /// Rows of values in a slot, by hash and check.
    Slot(usize, Vec<(u64, u16)>),
    /// Rows of a run whose keys lie in the range.
    Run(usize, RangeInclusive<u64>),
    Union(Vec<Set>),
    /// The first without the second.
    Minus(Box<(Set, Set)>),
}

impl Directory {
    /// How to find the rows that satisfy `predicate`, or nothing when the attributes cannot tell: then the column
    /// must be read. Also nothing while the column's entry is [`cold`](Directory::cold) and not loaded.
    pub fn plan(&self, predicate: &Predicate) -> Option<Plan> {
        let mut plan =
            Plan { ranges: Vec::new(), object: self.object.clone(), rows: self.rows, set: Set::None };
        let is_null = matches!(predicate, Predicate::IsNull(_));
        plan.set = if self.has(predicate.column()) {
            plan.set(self.seed, self.column(predicate.column())?, predicate)?
        } else if is_null {
            Set::All
        } else {
            Set::None
        };
        Some(plan)
    }
}

impl Plan {
    /// The rows, from the bytes of [`Plan::ranges`], in the same order.
    pub fn evaluate(&self, bytes: &[Bytes]) -> Result<RoaringBitmap> {
        if bytes.len() != self.ranges.len() {
            return Err(Error::internal("a plan is evaluated with the wrong number of ranges"));
        }
        let out = self.rows_of(&self.set, bytes)?;
        if out.max().is_some_and(|max| max >= self.rows) {
            return Err(Error::corrupt(
                &self.object,
                "an attribute names a row that the segment does not have",
            ));
        }
        Ok(out)
    }

    fn rows_of(&self, set: &Set, bytes: &[Bytes]) -> Result<RoaringBitmap> {
        Ok(match set {
            Set::None => RoaringBitmap::new(),
            Set::All => (0..self.rows).collect(),
            Set::Bitmap(i) => bitmap(&self.object, self.slice(bytes, *i)?)?,
            Set::Slot(i, wanted) => slot_rows(self.take(bytes, *i)?, wanted)?,
            Set::Run(i, keys) => run_rows(&self.object, self.take(bytes, *i)?, keys)?,
            Set::Union(sets) => {
                let mut out = RoaringBitmap::new();
                for set in sets {
                    out |= self.rows_of(set, bytes)?;
                }
                out
            }
            Set::Minus(pair) => self.rows_of(&pair.0, bytes)? - self.rows_of(&pair.1, bytes)?,
        })
    }

    /// The checked bytes of a range, without their CRC.
    fn slice<'a>(&self, bytes: &'a [Bytes], i: usize) -> Result<&'a [u8]> {
        let range = &self.ranges[i];
        if bytes[i].len() as u64 != range.end - range.start {
            return Err(Error::corrupt(&self.object, "attributes are shorter than was written"));
        }
        checked(&self.object, format_args!("the attributes at {}", range.start), &bytes[i])
    }

    fn take<'a>(&'a self, bytes: &'a [Bytes], i: usize) -> Result<Take<'a>> {
        Ok(Take::new(&self.object, "attributes", self.slice(bytes, i)?))
    }

    /// Position of a range, which is added once.
    fn read(&mut self, range: &Range<u64>) -> usize {
        self.ranges.iter().position(|r| r == range).unwrap_or_else(|| {
            self.ranges.push(range.clone());
            self.ranges.len() - 1
        })
    }

    fn set(&mut self, seed: u64, column: &Column, predicate: &Predicate) -> Option<Set> {
        if let Predicate::IsNull(_) = predicate {
            return Some(self.nulls(column));
        }
        if column.nulls == Nulls::All {
            return Some(Set::None);
        }
        match predicate {
            Predicate::Eq(_, literal) => self.equal(seed, column, std::slice::from_ref(literal)),
            Predicate::In(_, literals) => self.equal(seed, column, literals),
            Predicate::Contains(_, text) => {
                (column.kind == KIND_STRINGS).then(|| self.values(column, vec![hash(seed, text.as_bytes())]))
            }
            Predicate::Range { low, high, .. } => match &column.lookup {
                Lookup::Numbers(numbers) => match keys(numbers.float, low, high).ok()? {
                    Some(keys) => Some(self.between(column, numbers, keys)),
                    None => Some(Set::None),
                },
                _ => None,
            },
            Predicate::IsNull(_) => None,
        }
    }

    fn nulls(&mut self, column: &Column) -> Set {
        match &column.nulls {
            Nulls::None => Set::None,
            Nulls::All => Set::All,
            Nulls::Some(range) => Set::Bitmap(self.read(range)),
        }
    }

    /// Rows where the column is one of the literals.
    fn equal(&mut self, seed: u64, column: &Column, literals: &[Literal]) -> Option<Set> {
        match &column.lookup {
            Lookup::Text => None,
            Lookup::Values { .. } => {
                let wanted = literals.iter().map(|l| match (column.kind, l) {
                    (KIND_STRING, Literal::String(s)) => Some(hash(seed, s.as_bytes())),
                    (KIND_BOOLEAN, Literal::Bool(b)) => Some(hash(seed, &bool_bytes(*b))),
                    _ => None,
                });
                Some(self.values(column, wanted.collect::<Option<_>>()?))
            }
            Lookup::Numbers(numbers) => {
                let mut sets = Vec::new();
                for literal in literals {
                    let at = Bound::Included(literal.clone());
                    if let Some(keys) = keys(numbers.float, &at, &at).ok()? {
                        sets.push(self.between(column, numbers, keys));
                    }
                }
                Some(Set::Union(sets))
            }
        }
    }

    /// Rows of looked-up values, by hash and check.
    fn values(&mut self, column: &Column, wanted: Vec<(u64, u16)>) -> Set {
        let Lookup::Values { big, slots } = &column.lookup else { return Set::None };
        let bits = slots.len().trailing_zeros();
        let mut sets = Vec::new();
        let mut by_slot: Vec<(usize, Vec<(u64, u16)>)> = Vec::new();
        for value in wanted {
            if let Some((_, _, range)) = big.iter().find(|(hash, check, _)| (*hash, *check) == value) {
                sets.push(Set::Bitmap(self.read(range)));
                continue;
            }
            let range = &slots[slot(value.0, bits) as usize];
            if range.is_empty() {
                continue;
            }
            let i = self.read(range);
            match by_slot.iter_mut().find(|(j, _)| *j == i) {
                Some((_, values)) => values.push(value),
                None => by_slot.push((i, vec![value])),
            }
        }
        sets.extend(by_slot.into_iter().map(|(i, values)| Set::Slot(i, values)));
        Set::Union(sets)
    }

    /// Rows whose key lies in a range that is not empty.
    fn between(&mut self, column: &Column, numbers: &Numbers, keys: RangeInclusive<u64>) -> Set {
        let bins = &numbers.bins;
        // Bins that the range touches, and among these the ones that lie inside it: all but the first and the last
        // at most.
        let from = bins.partition_point(|b| b.last < *keys.start());
        let to = bins.partition_point(|b| b.first <= *keys.end()).max(from);
        let inside = |i: usize| keys.contains(&bins[i].first) && keys.contains(&bins[i].last);
        let (mut full_from, mut full_to) = (from, to);
        let mut sets = Vec::new();
        if from < to && !inside(from) {
            full_from += 1;
            sets.push(Set::Run(self.read(&bins[from].run), keys.clone()));
        }
        if full_from < to && !inside(to - 1) {
            full_to -= 1;
            sets.push(Set::Run(self.read(&bins[to - 1].run), keys.clone()));
        }
        if full_to - full_from <= numbers.stride {
            sets.extend((full_from..full_to).map(|i| Set::Run(self.read(&bins[i].run), 0..=u64::MAX)));
        } else {
            let upper = self.below(column, numbers, full_to);
            let lower = self.below(column, numbers, full_from);
            sets.push(Set::Minus(Box::new((upper, lower))));
        }
        Set::Union(sets)
    }

    /// Rows of all bins below bin `to`: the nearest cumulative bitmap, with the runs between added or taken away.
    fn below(&mut self, column: &Column, numbers: &Numbers, to: usize) -> Set {
        let stride = numbers.stride;
        let (count, under) = (numbers.bins.len(), to / stride);
        let over = under + 1;
        // The next bitmap above, or all bins where there is none: every row that is not null.
        let over_bin = (over * stride).min(count);
        let up = to - under * stride <= over_bin - to;
        let (mark, between) = if up { (under, under * stride..to) } else { (over, to..over_bin) };
        let base = match mark {
            0 => Set::None,
            _ if mark * stride >= count => match self.nulls(column) {
                Set::None => Set::All,
                nulls => Set::Minus(Box::new((Set::All, nulls))),
            },
            _ => Set::Bitmap(self.read(&numbers.below[mark - 1])),
        };
        if between.is_empty() {
            return base;
        }
        let runs = between.map(|i| Set::Run(self.read(&numbers.bins[i].run), 0..=u64::MAX)).collect();
        if up {
            Set::Union(vec![base, Set::Union(runs)])
        } else {
            Set::Minus(Box::new((base, Set::Union(runs))))
        }
    }
}

fn bitmap(object: &str, bytes: &[u8]) -> Result<RoaringBitmap> {
    RoaringBitmap::deserialize_from(bytes)
        .map_err(|e| Error::corrupt(object, "an attribute is no bitmap").with_source(e))
}

/// Reads ascending ordinals into `out`, or past them.
fn ordinals(t: &mut Take<'_>, count: u64, mut out: Option<&mut RoaringBitmap>) -> Result<()> {
    let mut last = 0u32;
    for _ in 0..count {
        let step = t.varint_u32()?;
        last = last.checked_add(step).ok_or_else(|| t.corrupt("an ordinal has more than 32 bits"))?;
        if let Some(out) = &mut out {
            out.insert(last);
        }
    }
    Ok(())
}

fn slot_rows(mut t: Take<'_>, wanted: &[(u64, u16)]) -> Result<RoaringBitmap> {
    let mut out = RoaringBitmap::new();
    while t.left() > 0 {
        let value = (t.u64()?, t.u16()?);
        let count = t.varint()?;
        ordinals(&mut t, count, wanted.contains(&value).then_some(&mut out))?;
    }
    Ok(out)
}

fn run_rows(object: &str, mut t: Take<'_>, keys: &RangeInclusive<u64>) -> Result<RoaringBitmap> {
    let (mut out, mut key) = (RoaringBitmap::new(), 0u64);
    while t.left() > 0 {
        key = key.checked_add(t.varint()?).ok_or_else(|| t.corrupt("a key has more than 64 bits"))?;
        let (rows, wanted) = (t.varint()?, keys.contains(&key));
        if rows & 1 == 0 {
            ordinals(&mut t, rows >> 1, wanted.then_some(&mut out))?;
            continue;
        }
        let bytes = t.run()?;
        if wanted {
            out |= bitmap(object, bytes)?;
        }
    }
    Ok(out)
}
