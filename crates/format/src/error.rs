//! One error type with few kinds. A kind says what the caller should do; the message says what happened.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::Token;

/// What the caller should do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The request is wrong: change it. Nothing was written.
    Invalid,
    /// The named thing does not exist.
    NotFound,
    /// The collection was dropped, or a version is no longer retained.
    Gone,
    /// Another writer was first: read again and decide.
    Conflict,
    /// Over a limit for now: retry after a while. Nothing was written.
    Busy,
    /// The outcome of a write could not be learnt: retry with the same token.
    Unknown,
    /// The store did not answer in time: retry.
    Unavailable,
    /// Stored bytes are not what was written. Never retried into a wrong answer.
    Corrupt,
    /// A broken invariant: a bug.
    Internal,
}

impl Kind {
    /// The name used on the wire and in logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Invalid => "invalid",
            Kind::NotFound => "not_found",
            Kind::Gone => "gone",
            Kind::Conflict => "conflict",
            Kind::Busy => "busy",
            Kind::Unknown => "unknown",
            Kind::Unavailable => "unavailable",
            Kind::Corrupt => "corrupt",
            Kind::Internal => "internal",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The error of every Esker crate. `Display` prints the message alone; [`Error::hint`] says what to do.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    message: String,
    field: Option<String>,
    hint: Option<String>,
    token: Option<Token>,
    retry_after: Option<Duration>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// `Result` with Esker's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind` with a lowercase message.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error(Box::new(Inner {
            kind,
            message: message.into(),
            field: None,
            hint: None,
            token: None,
            retry_after: None,
            source: None,
        }))
    }

    /// Bad input: `field` is the name the caller used, the message says what is wrong with its value.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        let mut e = Self::new(Kind::Invalid, message);
        e.0.field = Some(field.into());
        e
    }

    /// Stored bytes that fail a check. `object` is the key of the object.
    pub fn corrupt(object: impl fmt::Display, what: impl fmt::Display) -> Self {
        Self::new(Kind::Corrupt, format!("{object} is corrupt: {what}"))
    }

    /// A broken invariant.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Internal, message)
    }

    /// Adds what the caller can do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds the token under which an unknown write can be retried.
    #[must_use]
    pub fn with_token(mut self, token: Token) -> Self {
        self.0.token = Some(token);
        self
    }

    /// Adds how long to wait before the same request is worth sending again.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.0.retry_after = Some(wait);
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Puts `what: ` before the message, to say where an error happened.
    #[must_use]
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        self.0.message = format!("{what}: {}", self.0.message);
        self
    }

    /// What the caller should do.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The input field at fault, if one is.
    pub fn field(&self) -> Option<&str> {
        self.0.field.as_deref()
    }

    /// What to do about it, if we know.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The token of a write whose outcome is unknown.
    pub fn token(&self) -> Option<Token> {
        self.0.token
    }

    /// How long to wait before the same request is worth sending again; for what is over a limit or contended.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The same error for another caller, without its cause.
    #[must_use]
    pub fn copied(&self) -> Self {
        let Inner { kind, message, field, hint, token, retry_after, source: _ } = &*self.0;
        Error(Box::new(Inner {
            kind: *kind,
            message: message.clone(),
            field: field.clone(),
            hint: hint.clone(),
            token: *token,
            retry_after: *retry_after,
            source: None,
        }))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|e| e as _)
    }
}
