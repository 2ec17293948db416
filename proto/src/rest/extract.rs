//! Parts of a request, refused in the form of WIRE §4.

use axum::body::{Body, to_bytes};
use axum::extract::{FromRequestParts, Path, Query};
use axum::response::IntoResponse;
use bytes::Bytes;
use esker_format::Error;
use http::StatusCode;
use http::request::Parts;
use serde::de::DeserializeOwned;

use super::Refused;

/// The variables of a path.
#[derive(Debug, Clone)]
pub struct InPath<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for InPath<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(value)) => Ok(InPath(value)),
            Err(e) => Err(Refused(e.status(), Error::invalid("path", e.body_text()))),
        }
    }
}

/// The fields of a query string.
#[derive(Debug, Clone)]
pub struct InQuery<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for InQuery<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(value)) => Ok(InQuery(value)),
            Err(e) => {
                let text = e.body_text();
                let message = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
                // `k: invalid digit found in string` and "unknown field `k`, expected …".
                let field = match message.strip_prefix("unknown field `").and_then(|m| m.split('`').next()) {
                    Some(name) => name,
                    None => message.split_once(": ").map_or("query", |(name, _)| name),
                };
                Err(Refused(StatusCode::BAD_REQUEST, Error::invalid(field, message)))
            }
        }
    }
}

/// A whole body of at most `limit` bytes.
///
/// # Errors
/// 413 for a longer one, 400 for one that breaks off.
pub async fn read(body: Body, limit: usize) -> Result<Bytes, Refused> {
    to_bytes(body, limit).await.map_err(|e| {
        let too_long = std::error::Error::source(&e).is_some_and(|s| s.to_string().contains("length limit"));
        let (status, message) = match too_long {
            true => {
                (StatusCode::PAYLOAD_TOO_LARGE, format!("the body is longer than the limit of {limit} bytes"))
            }
            false => (StatusCode::BAD_REQUEST, "the body cannot be read to its end".to_owned()),
        };
        Refused(status, Error::invalid("body", message).with_source(e))
    })
}

/// What a handler answers: both sides become a response.
pub type Reply<T = axum::response::Response> = Result<T, Refused>;

/// A reply with what it cost and which state it is of, for logs and metrics.
pub fn with_extensions<C: Clone + Send + Sync + 'static>(
    reply: impl IntoResponse,
    cost: C,
    position: Option<u64>,
) -> axum::response::Response {
    let mut response = reply.into_response();
    response.extensions_mut().insert(cost);
    if let Some(position) = position {
        response.extensions_mut().insert(super::Position(position));
    }
    response
}
