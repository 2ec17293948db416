//! How far the commit of an uploaded body is (docs/format/upload.md).

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::envelope;
use crate::error::Result;
use crate::id::{Seq, Token};
use crate::manifest::{from_json, to_json};

/// What is in the collection of a body, by the commit that put this last. Batches before `batches` need not be looked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// What its batches are named after, with their numbers.
    pub base: Token,
    /// How the body is encoded.
    pub content_type: String,
    /// The body, as the store names its content.
    pub etag: String,
    /// Rows of it that are in the collection.
    pub rows: u64,
    /// Batches that have them.
    pub batches: u64,
    /// Reads at this position or later see them.
    pub position: Seq,
    /// All of the body is.
    pub done: bool,
}

impl Progress {
    /// Envelope + JSON.
    ///
    /// # Errors
    /// Internal, if it has no JSON.
    pub fn encode(&self) -> Result<Bytes> {
        Ok(envelope::seal(envelope::Kind::Progress, 0, &to_json(self)?).into())
    }

    /// Reads and checks what [`Progress::encode`] wrote.
    ///
    /// # Errors
    /// Corrupt, naming the key, when it is something else.
    pub fn decode(key: &str, bytes: &Bytes) -> Result<Self> {
        from_json(key, &envelope::open(key, envelope::Kind::Progress, bytes)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_comes_back_and_damage_is_seen() {
        let progress = Progress {
            base: Token(7),
            content_type: "application/json".to_owned(),
            etag: "e".to_owned(),
            rows: 10_000,
            batches: 1,
            position: 3,
            done: false,
        };
        let bytes = progress.encode().unwrap();
        assert_eq!(Progress::decode("key", &bytes).unwrap(), progress);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Progress::decode("key", &bad.into()).is_err(), "bit {bit}");
        }
    }
}
