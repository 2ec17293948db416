//! What the query function asks of the ingest function: deletes, since it writes nothing itself.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use esker_format::{Error, Name, Result, Seq, Token};
use esker_proto::rest::{ErrorBody, ErrorDetail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A request of the query function: an event of the ingest function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "esker", rename_all = "snake_case", deny_unknown_fields)]
pub enum Ask {
    /// Deletes records as one batch.
    Delete {
        /// Where.
        collection: Name,
        /// Which.
        records: Doomed,
        /// Names the delete: sent twice, it is done once.
        token: Token,
    },
    /// Deletes those of the ids that no entry after `since` has touched.
    DeleteUntouched {
        /// Where.
        collection: Name,
        /// Which.
        ids: Vec<String>,
        /// The position at which they were found.
        since: Seq,
    },
}

/// Records to delete; bytes in base64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Doomed {
    /// Ids.
    Ids(Vec<String>),
    /// An Avro object container file.
    Container(String),
    /// Framed Avro.
    Framed(String),
}

/// The answer to [`Ask::Delete`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    /// Reads at this position or later see it.
    pub position: Seq,
    /// Ids given.
    pub deleted: u64,
    /// It had been done before.
    pub duplicate: bool,
}

/// The answer to [`Ask::DeleteUntouched`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Untouched {
    /// The entry of the tombstones, if any was written.
    pub position: Option<Seq>,
    /// Ids that were left alone.
    pub touched: Vec<String>,
}

/// Bytes for [`Doomed`].
pub fn encoded(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(bytes)
}

/// Bytes of [`Doomed`].
///
/// # Errors
/// Invalid when it is no base64.
pub fn decoded(text: &str) -> Result<Bytes> {
    let bytes = BASE64_STANDARD.decode(text).map(Bytes::from);
    bytes.map_err(|e| Error::invalid("container", format!("it is not in base64: {e}")))
}

/// Reads an answer, or the error that came in its place.
///
/// # Errors
/// That error; Internal for an answer that is neither.
pub fn answer<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    if let Ok(ErrorBody { error }) = serde_json::from_slice(bytes) {
        return Err(of(error));
    }
    serde_json::from_slice(bytes)
        .map_err(|e| Error::internal(format!("the ingest function's answer is none: {e}")))
}

fn of(detail: ErrorDetail) -> Error {
    let ErrorDetail { kind, message, field, hint, token } = detail;
    let mut e = match field {
        Some(field) => Error::invalid(field, message),
        None => Error::new(kind, message),
    };
    if let Some(hint) = hint {
        e = e.with_hint(hint);
    }
    match token.and_then(|token| token.parse().ok()) {
        Some(token) => e.with_token(token),
        None => e,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use esker_format::Kind;

    #[test]
    fn requests_survive_the_way() {
        let name = Name::new("docs").unwrap();
        for ask in [
            Ask::Delete {
                collection: name.clone(),
                records: Doomed::Ids(vec!["a".to_owned()]),
                token: Token(7),
            },
            Ask::Delete {
                collection: name.clone(),
                records: Doomed::Container(encoded(b"Obj")),
                token: Token(8),
            },
            Ask::DeleteUntouched { collection: name, ids: vec!["b".to_owned()], since: 3 },
        ] {
            let json = serde_json::to_vec(&ask).unwrap();
            assert_eq!(serde_json::from_slice::<Ask>(&json).unwrap(), ask);
        }
        assert_eq!(decoded(&encoded(b"Obj")).unwrap(), "Obj".as_bytes());
    }

    #[test]
    fn errors_survive_it_too() {
        let e = Error::new(Kind::Unknown, "lost").with_token(Token(9)).with_hint("again");
        let body = serde_json::to_vec(&ErrorBody::from(&e)).unwrap();
        let back = answer::<Deleted>(&body).unwrap_err();
        assert_eq!((back.kind(), back.token(), back.hint()), (Kind::Unknown, Some(Token(9)), Some("again")));
        let done = Deleted { position: 4, deleted: 1, duplicate: false };
        assert_eq!(answer::<Deleted>(&serde_json::to_vec(&done).unwrap()).unwrap(), done);
        assert_eq!(answer::<Deleted>(b"{}").unwrap_err().kind(), Kind::Internal);
    }
}
