//! What the gRPC services share: errors as statuses, what comes with a call, and messages as records.

use std::time::Duration;

use bytes::Bytes;
use esker_format::{Error, Kind, Token, limits};
use http::Extensions;
use prost::Message;
use tonic::metadata::{KeyAndValueRef, MetadataMap, MetadataValue};
use tonic::{Code, Request, Response, Status};

use crate::access::{Allowed, Named};
use crate::{rest, v1};

mod convert;

pub use convert::{avro, json, record, schema_version, to_value, value};
pub use prost_types::Value;

/// Bytes of a message that is taken, after decompression: a batch at its limit, with what messages add to its records.
pub const MESSAGE_BYTES: usize = 2 * limits::BATCH_BYTES;

const ERROR_TYPE: &str = "type.googleapis.com/esker.v1.Error";

const KINDS: [Kind; 9] = [
    Kind::Invalid,
    Kind::NotFound,
    Kind::Gone,
    Kind::Conflict,
    Kind::Busy,
    Kind::Unknown,
    Kind::Unavailable,
    Kind::Corrupt,
    Kind::Internal,
];

/// `google.rpc.Status`, what `grpc-status-details-bin` holds.
#[derive(Clone, PartialEq, Message)]
struct Details {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

/// An error as a status with the code of its kind; what it says besides is in the details and the trailers
/// (`error.proto`).
pub fn status(error: &Error) -> Status {
    status_as(rest::code(error.kind()), error)
}

/// As [`status`], with a code of gRPC's own.
pub fn status_as(code: Code, error: &Error) -> Status {
    let seconds = rest::retry_after(error).map(Duration::from_secs);
    let retry_after = error.retry_after().or(seconds).map(|d| d.as_millis() as u64);
    let text = |part: Option<&str>| part.unwrap_or_default().to_owned();
    let detail = v1::Error {
        kind: error.kind().to_string(),
        message: error.to_string(),
        field: text(error.field()),
        hint: text(error.hint()),
        token: error.token().map(|t| t.to_string()).unwrap_or_default(),
        retry_after_ms: retry_after,
    };
    let mut trailers = MetadataMap::new();
    let retry_after = retry_after.map(|ms| ms.to_string()).unwrap_or_default();
    for (key, value) in [
        ("esker-kind", &detail.kind),
        ("esker-field", &detail.field),
        ("esker-hint", &detail.hint),
        ("esker-token", &detail.token),
        ("esker-retry-after-ms", &retry_after),
    ] {
        if let Ok(value) = MetadataValue::try_from(percent_encoded(value))
            && !value.is_empty()
        {
            trailers.insert(key, value);
        }
    }
    let any = prost_types::Any { type_url: ERROR_TYPE.to_owned(), value: detail.encode_to_vec() };
    let details = Details { code: code as i32, message: detail.message.clone(), details: vec![any] };
    let details = Bytes::from(details.encode_to_vec());
    Status::with_details_and_metadata(code, detail.message, details, trailers)
}

/// The error that a status carries, for clients. One of gRPC itself gets the kind that says what to do about its code.
pub fn error(status: &Status) -> Error {
    let carried = Details::decode(status.details()).unwrap_or_default().details;
    let carried = carried.iter().find(|any| any.type_url == ERROR_TYPE);
    let Some(detail) = carried.and_then(|any| v1::Error::decode(&any.value[..]).ok()) else {
        return Error::new(kind(status.code()), status.message());
    };
    let kind = KINDS.into_iter().find(|k| k.as_str() == detail.kind).unwrap_or(kind(status.code()));
    let mut error = match detail.field.is_empty() {
        false if kind == Kind::Invalid => Error::invalid(detail.field, detail.message),
        _ => Error::new(kind, detail.message),
    };
    if !detail.hint.is_empty() {
        error = error.with_hint(detail.hint);
    }
    if let Ok(token) = detail.token.parse() {
        error = error.with_token(token);
    }
    match detail.retry_after_ms {
        Some(ms) => error.with_retry_after(Duration::from_millis(ms)),
        None => error,
    }
}

fn kind(code: Code) -> Kind {
    match code {
        Code::InvalidArgument | Code::OutOfRange | Code::FailedPrecondition | Code::Unimplemented => {
            Kind::Invalid
        }
        Code::PermissionDenied | Code::Unauthenticated => Kind::Invalid,
        Code::NotFound => Kind::NotFound,
        Code::AlreadyExists | Code::Aborted => Kind::Conflict,
        Code::ResourceExhausted => Kind::Busy,
        // Whether a write was done before the connection broke, nobody knows.
        Code::Unknown | Code::Cancelled | Code::DeadlineExceeded => Kind::Unknown,
        Code::Unavailable => Kind::Unavailable,
        Code::DataLoss => Kind::Corrupt,
        Code::Internal | Code::Ok => Kind::Internal,
    }
}

/// Printable ASCII stays, the rest is written as `%XX`, as in `grpc-message`.
fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' | 0..=0x1f | 0x7f.. => out.push_str(&format!("%{byte:02X}")),
            _ => out.push(char::from(byte)),
        }
    }
    out
}

/// What handlers need of a request besides its message.
#[derive(Debug, Clone)]
pub struct Call {
    compressed: bool,
    /// The metadata's idempotency key, if it is text.
    key: Option<Option<String>>,
    extensions: Extensions,
}

impl Call {
    /// Parts a request from its message.
    pub fn split<T>(request: Request<T>) -> (Call, T) {
        let (metadata, extensions, message) = request.into_parts();
        let compressed = metadata.get("grpc-encoding").is_some_and(|e| e != "identity");
        let key = metadata.get("idempotency-key").map(|key| key.to_str().ok().map(str::to_owned));
        (Call { compressed, key, extensions }, message)
    }

    /// The call without the name of its write: its messages are writes of their own.
    #[must_use]
    pub fn unnamed(&self) -> Call {
        let mut call = Call { key: None, ..self.clone() };
        call.extensions.remove::<Named>();
        call
    }

    /// Refuses a collection that the caller may not name, `None` being the store as a whole.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`, the same whether the collection exists or not.
    pub fn reaches(&self, collection: Option<&str>) -> Result<(), Status> {
        if Allowed::by(&self.extensions, collection) {
            return Ok(());
        }
        let needed = if collection.is_some() { "this collection" } else { "all collections" };
        let message = format!("this key does not allow this: it needs {needed}");
        Err(status_as(Code::PermissionDenied, &Error::invalid("authorization", message)))
    }

    /// The name that the client gave its write: its key for it in the message, or in the metadata. Told to [`Named`].
    ///
    /// # Errors
    /// Invalid for a key that is longer than 256 bytes or not text.
    pub fn token(&self, key: &str) -> Result<Option<Token>, Error> {
        let token = match &self.key {
            _ if !key.is_empty() => named(key)?,
            Some(key) => named(key.as_deref().unwrap_or_default())?,
            None => return Ok(None),
        };
        if let Some(named) = self.extensions.get::<Named>() {
            named.give(token);
        }
        Ok(Some(token))
    }

    /// The name that was drawn for the write, which no earlier write can have.
    pub fn drawn(&self) -> Option<Token> {
        self.extensions.get::<Named>().map(Named::drawn)
    }

    /// As [`Call::reply`], with what it cost as an extension, for logs.
    pub fn costing<T>(&self, message: T, cost: impl Clone + Send + Sync + 'static) -> Response<T> {
        let mut response = self.reply(message);
        response.extensions_mut().insert(cost);
        response
    }

    /// The reply, compressed if the request was: many clients say that they accept gzip without meaning to trade time for
    /// bytes, and vectors hardly shrink.
    pub fn reply<T>(&self, message: T) -> Response<T> {
        let mut response = Response::new(message);
        if !self.compressed {
            response.disable_compression();
        }
        response
    }
}

/// The token of a client's key for a write, which goes into a message or into metadata.
///
/// # Errors
/// Invalid for a key that is empty or longer than 256 bytes.
pub fn named(key: &str) -> Result<Token, Error> {
    match key.len() {
        1..=256 => Ok(Token::from_key(key)),
        n => Err(Error::invalid(
            "idempotency_key",
            format!("a key is a text of 1 to 256 bytes, this one has {n}"),
        )),
    }
}

/// The plain-text trailers of a status, sorted.
pub fn trailers(status: &Status) -> Vec<(String, String)> {
    let own = status.metadata().iter().filter_map(|entry| match entry {
        KeyAndValueRef::Ascii(key, value) if key.as_str().starts_with("esker-") => {
            Some((key.to_string(), value.to_str().ok()?.to_owned()))
        }
        _ => None,
    });
    let mut own: Vec<_> = own.collect();
    own.sort();
    own
}

#[cfg(test)]
mod tests;
