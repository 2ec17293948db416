//! Pages of other origins: browsers let them call this server only if it says so (Fetch, "CORS protocol"). Keys go in
//! headers and never in cookies, so no reply allows credentials.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use esker_format::{Error, Result};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HeaderValue,
    ORIGIN, VARY,
};
use http::{HeaderMap, Method, StatusCode};

/// Headers that requests may have, gRPC-Web's with them.
const SENT: &str = "authorization, x-api-key, content-type, accept, idempotency-key, x-request-id, \
    x-esker-timeout-ms, traceparent, tracestate, x-grpc-web, x-user-agent, grpc-timeout";
/// Headers of replies that pages may read.
const READ: &str = "esker-position, esker-cursor, x-request-id, retry-after, allow, www-authenticate, grpc-status, \
    grpc-message, grpc-status-details-bin, esker-kind, esker-field, esker-hint, esker-token, esker-retry-after-ms";
/// Seconds that a browser may keep the answer to a preflight.
const KEPT: &str = "600";

/// The origins whose pages may call.
#[derive(Debug)]
pub struct Origins(Vec<String>);

impl Origins {
    /// `https://app.example`, as browsers write an origin, or `*` for all.
    ///
    /// # Errors
    /// Invalid, for what no browser sends.
    pub fn new(origins: &[String]) -> Result<Option<Arc<Self>>> {
        for origin in origins {
            let rest = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
            let plain = |c: char| c.is_ascii_digit() || c.is_ascii_lowercase() || "-._:[]".contains(c);
            if origin != "*" && !rest.is_some_and(|rest| !rest.is_empty() && rest.chars().all(plain)) {
                let message = format!("`{}` is not an origin", origin.escape_debug());
                return Err(Error::invalid("--cors-origin", message).with_hint(
                    "write it as browsers do: https://app.example or http://localhost:3000; or *",
                ));
            }
        }
        Ok((!origins.is_empty()).then(|| Arc::new(Origins(origins.to_vec()))))
    }

    /// What to answer to this origin.
    fn allowed(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(ORIGIN)?;
        if self.0.iter().any(|o| o == "*") {
            return Some(HeaderValue::from_static("*"));
        }
        self.0.iter().any(|o| o.as_bytes() == origin.as_bytes()).then(|| origin.clone())
    }
}

/// Answers preflights, which carry no key, and marks the replies to allowed origins.
pub async fn answer(State(origins): State<Arc<Origins>>, request: Request, next: Next) -> Response {
    let allowed = origins.allowed(request.headers());
    let preflight =
        request.method() == Method::OPTIONS && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let mut reply = match &allowed {
        Some(_) if preflight => {
            let mut reply = Response::new(axum::body::Body::empty());
            *reply.status_mut() = StatusCode::NO_CONTENT;
            let fixed = [
                (ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, PATCH, DELETE"),
                (ACCESS_CONTROL_ALLOW_HEADERS, SENT),
                (ACCESS_CONTROL_MAX_AGE, KEPT),
            ];
            reply.headers_mut().extend(fixed.map(|(name, value)| (name, HeaderValue::from_static(value))));
            reply
        }
        _ => next.run(request).await,
    };
    // The reply depends on who asks, whoever that is: caches must know.
    reply.headers_mut().append(VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = allowed {
        reply.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        reply.headers_mut().insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(READ));
    }
    reply
}

#[cfg(test)]
mod tests;
