//! What a step leaves for the next: an envelope, and in it values one after the other, each with its length.

use bytes::Bytes;
use esker_format::{Error, Result, envelope};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Values to be kept.
#[derive(Default)]
pub(super) struct Pack(Vec<u8>);

impl Pack {
    pub(super) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        self.0.extend_from_slice(bytes);
        self
    }

    pub(super) fn json(self, value: &impl Serialize) -> Result<Self> {
        let json = serde_json::to_vec(value);
        Ok(self.bytes(&json.map_err(|e| Error::internal("a step has no JSON").with_source(e))?))
    }

    /// Numbers, little-endian.
    pub(super) fn numbers<const N: usize, T: Number<N>>(self, numbers: &[T]) -> Self {
        let mut bytes = Vec::with_capacity(numbers.len() * N);
        numbers.iter().for_each(|n| bytes.extend_from_slice(&n.to_bytes()));
        self.bytes(&bytes)
    }

    pub(super) fn seal(self) -> Bytes {
        envelope::seal(envelope::Kind::Work, 0, &self.0).into()
    }
}

/// Values that were kept, in the order in which they were.
#[derive(Debug, Clone)]
pub(super) struct Unpack {
    key: String,
    rest: Bytes,
}

impl Unpack {
    /// Checks an object.
    pub(super) fn open(key: &str, object: &Bytes) -> Result<Self> {
        Ok(Unpack { key: key.to_owned(), rest: envelope::open(key, envelope::Kind::Work, object)? })
    }

    pub(super) fn key(&self) -> &str {
        &self.key
    }

    pub(super) fn bytes(&mut self) -> Result<Bytes> {
        let early = || Error::corrupt(&self.key, "it ends early");
        let length = self.rest.first_chunk().map(|b| u64::from_le_bytes(*b)).ok_or_else(early)?;
        let end = usize::try_from(length).ok().and_then(|n| n.checked_add(8));
        let end = end.filter(|end| *end <= self.rest.len()).ok_or_else(early)?;
        let out = self.rest.slice(8..end);
        self.rest = self.rest.slice(end..);
        Ok(out)
    }

    pub(super) fn json<T: DeserializeOwned>(&mut self) -> Result<T> {
        let bytes = self.bytes()?;
        let wrong = |e| Error::corrupt(&self.key, "a value is not what it should be").with_source(e);
        serde_json::from_slice(&bytes).map_err(wrong)
    }

    pub(super) fn numbers<const N: usize, T: Number<N>>(&mut self) -> Result<Vec<T>> {
        let bytes = self.bytes()?;
        let (numbers, rest) = bytes.as_chunks::<N>();
        match rest.is_empty() {
            true => Ok(numbers.iter().map(|n| T::of_bytes(*n)).collect()),
            false => Err(Error::corrupt(&self.key, "numbers are cut off")),
        }
    }

    /// A number, which is alone.
    pub(super) fn number<const N: usize, T: Number<N> + Copy>(&mut self) -> Result<T> {
        let alone = |numbers: Vec<T>| (numbers.len() == 1).then(|| numbers[0]);
        let number = alone(self.numbers()?);
        number.ok_or_else(|| Error::corrupt(&self.key, "one number is several, or none"))
    }
}

/// A number of N bytes.
pub(super) trait Number<const N: usize>: Sized {
    fn to_bytes(&self) -> [u8; N];
    fn of_bytes(bytes: [u8; N]) -> Self;
}

macro_rules! numbers {
    ($($kind:ty: $bytes:literal),*) => {$(
        impl Number<$bytes> for $kind {
            fn to_bytes(&self) -> [u8; $bytes] {
                self.to_le_bytes()
            }
            fn of_bytes(bytes: [u8; $bytes]) -> Self {
                <$kind>::from_le_bytes(bytes)
            }
        }
    )*};
}

numbers!(u32: 4, f32: 4, u64: 8, f64: 8, u128: 16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_and_damage_is_seen() {
        let bytes = Pack::default()
            .json(&(1, "a"))
            .unwrap()
            .numbers(&[1.5f32, 2.0])
            .numbers(&[7u64])
            .bytes(b"x")
            .seal();
        let mut back = Unpack::open("key", &bytes).unwrap();
        assert_eq!(back.json::<(u32, String)>().unwrap(), (1, "a".to_owned()));
        assert_eq!(back.numbers::<4, f32>().unwrap(), [1.5, 2.0]);
        assert_eq!(back.number::<8, u64>().unwrap(), 7);
        assert_eq!(back.bytes().unwrap(), "x");
        assert!(back.bytes().is_err());
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Unpack::open("key", &bad.into()).is_err(), "bit {bit}");
        }
    }
}
