//! A pin: envelope + JSON at `pins/{version}-{token}`. How long it holds is counted from when the store took it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::envelope;
use crate::error::Result;
use crate::manifest::{from_json, to_json};

/// What a pin says; which version it is on is in its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// Who holds it, for people.
    pub owner: String,
    /// Length in milliseconds, from the object's modification time by the store's clock.
    pub ttl_ms: u64,
    /// Ended by its holder.
    pub released: bool,
}

impl Lease {
    /// Envelope + JSON.
    pub fn encode(&self) -> Result<Bytes> {
        Ok(envelope::seal(envelope::Kind::Pin, 0, &to_json(self)?).into())
    }

    /// Reads and checks what [`Lease::encode`] wrote.
    pub fn decode(key: &str, bytes: &Bytes) -> Result<Self> {
        from_json(key, &envelope::open(key, envelope::Kind::Pin, bytes)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_comes_back_and_damage_is_seen() {
        let lease = Lease { owner: "export".to_owned(), ttl_ms: 60_000, released: false };
        let bytes = lease.encode().unwrap();
        assert_eq!(Lease::decode("pin", &bytes).unwrap(), lease);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Lease::decode("pin", &bad.into()).is_err(), "bit {bit}");
        }
    }
}
