//! What HTTP and gRPC share: errors as clients see them, and the encodings of bodies (WIRE §4).

use axum::Json;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use esker_format::{Error, Kind};
use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

mod body;
mod encoding;
mod extract;
mod schema;
mod stream;

pub use body::{batch, parse, some_batch};
pub use encoding::{Encoding, accept, content_type};
pub use extract::{InPath, InQuery, Reply, read, with_extensions};
pub use schema::RecordSchema;
pub use stream::each_record;

/// Seconds that a client waits after `busy` when the error does not say.
const RETRY_SECONDS: u64 = 1;

/// The state that a reply is of: a header of bodies that cannot carry it, and an extension of every reply, for logs.
pub const POSITION: HeaderName = HeaderName::from_static("esker-position");
/// Where the next page of a scan begins, in replies whose body cannot carry it.
pub const CURSOR: HeaderName = HeaderName::from_static("esker-cursor");

/// The position of the state that a reply is of, as an extension of the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position(pub u64);

/// What each kind is in HTTP and in gRPC. The kind itself is in the body and in the trailer `esker-kind`.
///
/// | kind | HTTP | gRPC | the caller |
/// |---|---|---|---|
/// | invalid | 400 | INVALID_ARGUMENT | changes the request |
/// | not_found | 404 | NOT_FOUND | |
/// | gone | 410 | NOT_FOUND | starts again from what there is now |
/// | conflict | 409 | ABORTED | reads again and decides |
/// | busy | 429 | RESOURCE_EXHAUSTED | waits, then tries again |
/// | unknown | 503 | UNKNOWN | tries again with the token |
/// | unavailable | 503 | UNAVAILABLE | tries again |
/// | corrupt | 500 | DATA_LOSS | tells an operator |
/// | internal | 500 | INTERNAL | reports a bug |
const fn table(kind: Kind) -> (StatusCode, tonic::Code) {
    use tonic::Code;
    match kind {
        Kind::Invalid => (StatusCode::BAD_REQUEST, Code::InvalidArgument),
        Kind::NotFound => (StatusCode::NOT_FOUND, Code::NotFound),
        Kind::Gone => (StatusCode::GONE, Code::NotFound),
        Kind::Conflict => (StatusCode::CONFLICT, Code::Aborted),
        Kind::Busy => (StatusCode::TOO_MANY_REQUESTS, Code::ResourceExhausted),
        Kind::Unknown => (StatusCode::SERVICE_UNAVAILABLE, Code::Unknown),
        Kind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable),
        Kind::Corrupt => (StatusCode::INTERNAL_SERVER_ERROR, Code::DataLoss),
        Kind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, Code::Internal),
    }
}

/// The HTTP status of a kind.
pub const fn status(kind: Kind) -> StatusCode {
    table(kind).0
}

/// The gRPC status of a kind.
pub const fn code(kind: Kind) -> tonic::Code {
    table(kind).1
}

/// The body of every reply that is not a success.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorDetail,
}

/// An error as clients see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Error)]
pub struct ErrorDetail {
    /// invalid, not_found, gone, conflict, busy, unknown, unavailable, corrupt or internal: what to do about it.
    #[schema(value_type = String)]
    pub kind: Kind,
    /// What happened.
    pub message: String,
    /// The field of the request that is at fault.
    pub field: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// Send the write again with this as its `Idempotency-Key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

impl From<&Error> for ErrorBody {
    fn from(e: &Error) -> Self {
        ErrorBody {
            error: ErrorDetail {
                kind: e.kind(),
                message: e.to_string(),
                field: e.field().map(str::to_owned),
                hint: e.hint().map(str::to_owned),
                token: e.token().map(|t| t.to_string()),
            },
        }
    }
}

/// An error as a reply, with the status of its kind.
#[derive(Debug)]
pub struct Failure(pub Error);

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Failure(e)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        Refused::from(self.0).into_response()
    }
}

/// An error as a reply, with a status of HTTP's own: 405, 406, 413, 415 and their like.
#[derive(Debug)]
pub struct Refused(pub StatusCode, pub Error);

impl From<Error> for Refused {
    fn from(e: Error) -> Self {
        Refused(status(e.kind()), e)
    }
}

impl From<Failure> for Refused {
    fn from(e: Failure) -> Self {
        e.0.into()
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Refused(status, error) = self;
        let mut response = (status, Json(ErrorBody::from(&error))).into_response();
        if let Some(seconds) = retry_after(&error) {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        response.extensions_mut().insert(error.kind());
        response
    }
}

/// Whole seconds to wait before trying again, for the errors that say so.
pub fn retry_after(error: &Error) -> Option<u64> {
    match error.retry_after() {
        Some(wait) => Some(wait.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX)),
        None => (error.kind() == Kind::Busy).then_some(RETRY_SECONDS),
    }
}

/// A 200 with a body of this encoding.
pub fn answer(encoding: Encoding, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, HeaderValue::from_static(encoding.media_type()));
    response
}

/// A 200 with a JSON body. Floats are printed as short as reads back the same.
///
/// # Errors
/// Internal, if `value` has no JSON form.
pub fn json(value: &impl Serialize) -> Result<Response, Failure> {
    let bytes = serde_json::to_vec(value)
        .map_err(|e| Failure(Error::internal("the reply cannot be written as JSON").with_source(e)))?;
    Ok(answer(Encoding::Json, bytes))
}

/// The client's name for a write that may be sent again.
///
/// # Errors
/// Invalid for a key that is empty, longer than 256 bytes or not text.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Error> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    match value.to_str() {
        Ok(key) if (1..=256).contains(&key.len()) => Ok(Some(key)),
        _ => Err(Error::invalid("idempotency-key", "a key is 1 to 256 printable ASCII characters")),
    }
}

#[cfg(test)]
mod tests;
