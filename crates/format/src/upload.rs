//! How far the commit of an uploaded body is (docs/format/upload.md).

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::envelope;
use crate::error::{Error, Result};
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
    /// Where a commit that is sent again begins to read.
    #[serde(default)]
    pub resume: Resume,
}

/// A place in a body where a batch begins. What it has up to `head`, and then from `at`, reads as a body of the same kind,
/// whose first `skip` records are those of earlier batches. All zero, it is the body's start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resume {
    /// The batch, from 0.
    pub batch: u64,
    /// Its first row, from 0.
    pub row: u64,
    /// Bytes at the body's start that are always needed: a header, a schema; of JSON what ends with the first record.
    pub head: u64,
    /// The byte where the body goes on.
    pub at: u64,
    /// Records to pass over.
    pub skip: u64,
}

impl Resume {
    /// The byte of the body that follows so many that were read.
    pub fn place(&self, read: u64) -> u64 {
        match read < self.head {
            true => read,
            false => self.at + (read - self.head),
        }
    }
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
        let progress: Progress = from_json(key, &envelope::open(key, envelope::Kind::Progress, bytes)?)?;
        let Resume { batch, row, head, at, skip } = progress.resume;
        match batch > progress.batches || row > progress.rows || head > at || skip > row {
            true => Err(Error::corrupt(key, "it goes on at a place that was not reached")),
            false => Ok(progress),
        }
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
            resume: Resume { batch: 1, row: 10_000, head: 24, at: 600_000, skip: 2 },
        };
        let bytes = progress.encode().unwrap();
        assert_eq!(Progress::decode("key", &bytes).unwrap(), progress);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Progress::decode("key", &bad.into()).is_err(), "bit {bit}");
        }
        for resume in [Resume { batch: 2, ..progress.resume }, Resume { at: 23, ..progress.resume }] {
            let bytes = Progress { resume, ..progress.clone() }.encode().unwrap();
            assert!(Progress::decode("key", &bytes).is_err(), "{resume:?}");
        }
    }

    #[test]
    fn a_commit_of_before_places_begins_at_the_start() {
        let json = br#"{"base":"00000000000000000000000000000007","content_type":"application/json","etag":"e","rows":9,"batches":1,"position":3,"done":false}"#;
        let bytes = Bytes::from(envelope::seal(envelope::Kind::Progress, 0, json));
        assert_eq!(Progress::decode("key", &bytes).unwrap().resume, Resume::default());
    }
}
