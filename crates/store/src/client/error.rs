//! From object_store's errors to ours, once.

use std::fmt;
use std::ops::Range;

use esker_format::{Error, Kind};

/// Why a request failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The store's reply, or none in time.
    Store(object_store::Error),
    /// The key cannot be one: a bug in who built it.
    Key(String),
}

impl Failure {
    /// Whether the same request may succeed if sent again.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Failure::Store(e @ object_store::Error::Generic { .. }) => {
                !past_end(e) && !no_bucket(e) && !other_parts(e)
            }
            Failure::Store(object_store::Error::JoinError { .. }) => true,
            _ => false,
        }
    }

    /// Whether the store has answered for good that it does not do this, for us or for anyone.
    pub(super) fn is_refusal(&self) -> bool {
        use object_store::Error::{NotImplemented, NotSupported, PermissionDenied, Unauthenticated};
        match self {
            Failure::Key(_) => true,
            Failure::Store(e) => {
                matches!(
                    e,
                    NotImplemented { .. }
                        | NotSupported { .. }
                        | PermissionDenied { .. }
                        | Unauthenticated { .. }
                ) || no_bucket(e)
            }
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Store(e) => e.fmt(f),
            Failure::Key(why) => f.write_str(why),
        }
    }
}

pub(super) fn missing(e: &Failure) -> bool {
    matches!(e, Failure::Store(e @ object_store::Error::NotFound { .. }) if !no_bucket(e))
}

pub(super) fn generic(message: String) -> object_store::Error {
    object_store::Error::Generic { store: "esker", source: message.into() }
}

pub(super) fn no_etags() -> object_store::Error {
    object_store::Error::NotSupported { source: "the store gives its objects no ETag".into() }
}

/// A range that starts at or after the object's end. The types that say so are private to object_store, so this
/// goes by their text: S3's status, and the message of the local and the memory store.
fn past_end(e: &object_store::Error) -> bool {
    chain(e).any(|e| {
        let text = e.to_string();
        text.contains("416 Range Not Satisfiable") || text.contains("Wanted range starting at")
    })
}

/// The bucket does not exist, as S3 and those like it say it.
fn no_bucket(e: &object_store::Error) -> bool {
    chain(e).any(|e| e.to_string().contains("<Code>NoSuchBucket</Code>"))
}

/// An upload has other parts than are named: another sent one anew, where ETags tell equal bytes apart (SSE-KMS).
fn other_parts(e: &object_store::Error) -> bool {
    chain(e).any(|e| e.to_string().contains("<Code>InvalidPart</Code>"))
}

fn chain(e: &object_store::Error) -> impl Iterator<Item = &dyn std::error::Error> {
    let mut next: Option<&dyn std::error::Error> = Some(e);
    std::iter::from_fn(move || {
        let e = next?;
        next = e.source();
        Some(e)
    })
}

/// Most bytes of a store's error that are passed on.
const SHOWN: usize = 300;

/// The error in a line: of an XML reply its code and its words.
fn describe(e: &object_store::Error) -> String {
    let text = e.to_string();
    if let Some(code) = tag(&text, "Code") {
        let bucket = tag(&text, "BucketName").map(|b| format!(" `{b}`")).unwrap_or_default();
        let message = tag(&text, "Message").map(|m| format!(": {m}")).unwrap_or_default();
        return format!("{code}{bucket}{message}");
    }
    let line = text.lines().next().unwrap_or_default();
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{} …", &line[..end]),
        None => line.to_owned(),
    }
}

/// The text of an XML element without elements in it.
fn tag<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let after = text.split_once(&format!("<{name}>"))?.1;
    Some(after.split_once("</")?.0.trim()).filter(|t| !t.is_empty() && t.len() <= SHOWN)
}

/// An object that ends before the bytes that something else says it has.
pub(super) fn too_short(key: &str, range: &Range<u64>, size: u64) -> Error {
    Error::corrupt(key, format!("bytes {}..{} were asked of an object of {size}", range.start, range.end))
}

/// The error of a request, as everyone above sees it.
pub(super) fn failed(method: &str, key: &str, failure: Failure) -> Error {
    use object_store::Error as E;
    let e = match failure {
        Failure::Key(why) => return Error::internal(format!("{method} {key}: {why}")),
        Failure::Store(e) if past_end(&e) => {
            return Error::corrupt(key, "bytes past its end were asked for").with_source(e);
        }
        Failure::Store(e) => e,
    };
    let (kind, hint) = match &e {
        // Not `NotFound`, which is about one object: nothing can be read or written.
        e if no_bucket(e) => (Kind::Unavailable, Some("create the bucket, or check the store's URL")),
        E::NotFound { .. } => (Kind::NotFound, None),
        // As an upload that is gone: it cannot be completed by who asks.
        e if other_parts(e) => (Kind::NotFound, None),
        E::AlreadyExists { .. } | E::Precondition { .. } => (Kind::Conflict, None),
        E::PermissionDenied { .. } => {
            (Kind::Unavailable, Some("check what these credentials may do in the store"))
        }
        E::Unauthenticated { .. } => (Kind::Unavailable, Some("check the store's credentials")),
        E::NotImplemented { .. } | E::NotSupported { .. } => {
            (Kind::Unavailable, Some("run `esker doctor`: this store lacks what the protocol needs"))
        }
        E::InvalidPath { .. } => (Kind::Internal, None),
        _ => (Kind::Unavailable, None),
    };
    let error = Error::new(kind, format!("{method} {key} failed: {}", describe(&e))).with_source(e);
    match hint {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}
