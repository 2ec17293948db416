//! Answers that a server gives before or instead of a service, in the form of the port they go to.

use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use esker_format::{Error, Kind};
use http::StatusCode;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};

/// When to try again what was refused for now.
const AGAIN: Duration = Duration::from_secs(1);

/// Which of the two ports a request came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surface {
    /// HTTP with JSON errors (WIRE §4).
    Rest,
    /// gRPC and gRPC-Web with a status in the headers.
    Grpc,
}

/// Why a request went no further.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    error: Error,
    allow: Option<String>,
}

impl Refusal {
    fn new(status: StatusCode, error: Error) -> Self {
        Refusal { status, error, allow: None }
    }

    /// 401: no key, or one that is not known.
    pub fn unauthorized() -> Self {
        let e = Error::invalid("authorization", "this server needs a key that it knows")
            .with_hint("send `Authorization: Bearer KEY` or `x-api-key: KEY`");
        Self::new(StatusCode::UNAUTHORIZED, e)
    }

    /// 403: the key is known and does not reach this far. The same whether or not what was asked for exists.
    pub fn forbidden(needed: &str) -> Self {
        let e = Error::invalid("authorization", format!("this key does not allow this: it needs {needed}"));
        Self::new(StatusCode::FORBIDDEN, e)
    }

    /// 429: over a limit for now.
    pub fn busy(what: &str) -> Self {
        let e = Error::new(Kind::Busy, format!("the server is at its limit of {what}"))
            .with_hint("try again after a while; nothing was done")
            .with_retry_after(AGAIN);
        Self::new(StatusCode::TOO_MANY_REQUESTS, e)
    }

    /// 413: the body is longer than allowed.
    pub fn too_large(limit: u64) -> Self {
        let e = Error::invalid("body", format!("the body is longer than the limit of {limit} bytes"))
            .with_hint("send fewer records at once");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, e)
    }

    /// 408: the body did not come.
    pub fn body_late() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, Error::invalid("body", "the body did not arrive in time"))
    }

    /// 400: the body broke off.
    pub fn body_broken() -> Self {
        Self::new(StatusCode::BAD_REQUEST, Error::invalid("body", "the body cannot be read to its end"))
    }

    /// 400: a header with a value that means nothing.
    pub fn header(name: &str, problem: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, Error::invalid(name, problem))
    }

    /// 404: no such route.
    pub fn no_route() -> Self {
        let e =
            Error::new(Kind::NotFound, "there is no such route").with_hint("the routes are in /openapi.json");
        Self::new(StatusCode::NOT_FOUND, e)
    }

    /// 405: the route has other methods.
    pub fn no_method(allow: String) -> Self {
        let e = Error::invalid("method", "this route does not have this method")
            .with_hint(format!("it has {allow}"));
        Refusal { allow: Some(allow), ..Self::new(StatusCode::METHOD_NOT_ALLOWED, e) }
    }

    /// 503: a read that took too long. Nothing was changed.
    pub fn read_late(ms: u128) -> Self {
        let e = Error::new(Kind::Unavailable, format!("no answer within {ms} ms"))
            .with_hint("try again, or allow more time")
            .with_retry_after(AGAIN);
        Self::new(StatusCode::SERVICE_UNAVAILABLE, e)
    }

    /// 503: a write that took too long; its outcome is not known yet.
    pub fn write_late(ms: u128, token: Option<esker_format::Token>) -> Self {
        let e =
            Error::new(Kind::Unknown, format!("the write was not finished within {ms} ms; it may land yet"));
        let e = match token {
            Some(token) => {
                e.with_token(token).with_hint("send it again with this token as its Idempotency-Key")
            }
            None => {
                e.with_hint("send it again under the same idempotency key if it had one, else look first")
            }
        };
        Self::new(StatusCode::SERVICE_UNAVAILABLE, e)
    }

    /// 500: a bug.
    pub fn internal() -> Self {
        let e = Error::internal("the server failed at this request; its log says why");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, e)
    }

    /// The reply for a port.
    pub fn into_response(self, surface: Surface) -> Response {
        match surface {
            Surface::Rest => self.rest(),
            Surface::Grpc => self.grpc(),
        }
    }

    fn rest(self) -> Response {
        let mut reply = crate::rest::Refused(self.status, self.error).into_response();
        if let Some(allow) = self.allow.and_then(|methods| methods.parse().ok()) {
            reply.headers_mut().insert(ALLOW, allow);
        }
        if self.status == StatusCode::UNAUTHORIZED {
            reply.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        reply
    }

    fn grpc(self) -> Response {
        let code = match self.status {
            StatusCode::UNAUTHORIZED => tonic::Code::Unauthenticated,
            StatusCode::FORBIDDEN => tonic::Code::PermissionDenied,
            StatusCode::PAYLOAD_TOO_LARGE => tonic::Code::ResourceExhausted,
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => tonic::Code::Unimplemented,
            StatusCode::REQUEST_TIMEOUT => tonic::Code::DeadlineExceeded,
            _ => crate::rest::code(self.error.kind()),
        };
        let status = crate::grpc::status_as(code, &self.error);
        let mut reply = status.into_http::<Body>();
        reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        reply
    }
}
