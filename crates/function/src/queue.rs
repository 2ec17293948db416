//! Messages of a queue: each is taken, put back, or put away with the reason.
//!
//! Those of one group are taken in their order and none after one that has to be put back; all others at once, so that
//! what they write shares an entry of the log. A message may come twice: its id is the idempotency key of what it writes.

use std::collections::BTreeMap;

use async_trait::async_trait;
use axum::body::Body;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use esker_format::{Error, Kind, Name, Result};
use esker_proto::rest::ErrorBody;
use futures::{StreamExt, stream};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{Method, Request, Response};
use serde::Serialize;

/// Messages that are worked on at once.
const AT_ONCE: usize = 64;

/// A message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message {
    /// The queue's name for it, the same when it comes again.
    pub id: String,
    /// What was sent.
    pub body: String,
    /// Attributes with text, by name in lower case.
    pub attributes: BTreeMap<String, String>,
    /// The group whose order is kept, in a queue that keeps one.
    pub group: Option<String>,
}

/// What became of a message.
#[derive(Debug)]
pub enum Verdict {
    /// It is done with.
    Done,
    /// It may be taken later.
    Again(Error),
    /// It will never be taken.
    Never(Error),
}

/// Who takes messages.
#[async_trait]
pub trait Consumer: Sync {
    /// Takes one.
    async fn take(&self, message: &Message) -> Verdict;

    /// Puts one away that will never be taken, with the reason. `false` if there is nowhere to put it: it goes back to the
    /// queue, which gives up in the end.
    ///
    /// # Errors
    /// When it could not be put away now.
    async fn bury(&self, message: &Message, reason: &Error) -> Result<bool>;
}

/// What a queue is told: the messages that are to come again.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Failures {
    /// All others are deleted.
    #[serde(rename = "batchItemFailures")]
    pub failures: Vec<Failed>,
}

/// A message that is to come again.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Failed {
    /// Its id.
    #[serde(rename = "itemIdentifier")]
    pub id: String,
}

/// Has every message taken.
pub async fn deliver(messages: Vec<Message>, to: &dyn Consumer) -> Failures {
    let mut groups: Vec<Vec<Message>> = Vec::new();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for message in messages {
        let place = message.group.clone().map(|group| *places.entry(group).or_insert(groups.len()));
        match place.and_then(|place| groups.get_mut(place)) {
            Some(group) => group.push(message),
            None => groups.push(vec![message]),
        }
    }
    // Made before they are polled: a stream that kept the closure would not be `Send`.
    let groups: Vec<_> = groups.into_iter().map(|group| in_order(group, to)).collect();
    let failed: Vec<Vec<Failed>> = stream::iter(groups).buffered(AT_ONCE).collect().await;
    Failures { failures: failed.into_iter().flatten().collect() }
}

async fn in_order(group: Vec<Message>, to: &dyn Consumer) -> Vec<Failed> {
    for (i, message) in group.iter().enumerate() {
        let again = match to.take(message).await {
            Verdict::Done => false,
            Verdict::Again(e) => {
                tracing::warn!(message_id = message.id, error = %e, kind = %e.kind(), "a message is put back");
                true
            }
            Verdict::Never(e) => {
                // Where, not what: the reason may quote the message, and goes with it.
                tracing::error!(message_id = message.id, kind = %e.kind(), field = e.field(), "a message cannot be taken");
                match to.bury(message, &e).await {
                    Ok(buried) => !buried,
                    Err(e) => {
                        tracing::warn!(message_id = message.id, error = %e, "a message could not be put away");
                        true
                    }
                }
            }
        };
        if again {
            return group[i..].iter().map(|message| Failed { id: message.id.clone() }).collect();
        }
    }
    Vec::new()
}

impl Message {
    /// What the message does: `upsert` unless its attribute `operation` says otherwise.
    pub fn operation(&self) -> &str {
        self.attributes.get("operation").map_or("upsert", String::as_str)
    }

    /// Names what the message writes: its attribute `idempotency-key`, or the queue's id.
    pub fn key(&self) -> &str {
        self.attributes.get("idempotency-key").unwrap_or(&self.id)
    }

    /// The collection that it is for: its attribute `collection`.
    ///
    /// # Errors
    /// Invalid when there is none, or it is no name.
    pub fn collection(&self) -> Result<Name> {
        let name = self.attributes.get("collection");
        Name::new(name.ok_or_else(|| {
            Error::invalid("collection", "the message names no collection")
                .with_hint("send it as the attribute `collection` of the message")
        })?)
    }

    /// The write that an `upsert` or a `patch` stands for, as a request of HTTP. A body of bytes (Avro, Arrow) comes in base64.
    ///
    /// # Errors
    /// Invalid, naming the attribute, or `body`.
    pub fn request(&self) -> Result<Request<Body>> {
        let method = match self.operation() {
            "upsert" => Method::POST,
            "patch" => Method::PATCH,
            other => {
                let other: String = other.chars().take(64).collect();
                let message = format!("`{}` is no operation", other.escape_debug());
                return Err(Error::invalid("operation", message).with_hint("upsert, patch or delete"));
            }
        };
        let kind = self.attributes.get("content-type").map_or("application/json", String::as_str);
        let body = match kind.contains("json") {
            true => self.body.clone().into_bytes(),
            false => BASE64_STANDARD
                .decode(self.body.trim())
                .map_err(|e| Error::invalid("body", format!("a body of {kind} comes in base64: {e}")))?,
        };
        Request::builder()
            .method(method)
            .uri(format!("/v1/collections/{}/records", self.collection()?))
            .header(CONTENT_TYPE, kind)
            .header("idempotency-key", self.key())
            .body(Body::from(body))
            .map_err(|e| Error::invalid("content-type", e.to_string()))
    }
}

impl Verdict {
    /// What the reply to a message's request comes to. One whose collection does not exist may find it later.
    pub async fn of(reply: Response<Body>) -> Verdict {
        let (status, retry) = (reply.status(), reply.headers().contains_key(RETRY_AFTER));
        if status.is_success() {
            return Verdict::Done;
        }
        let body = axum::body::to_bytes(reply.into_body(), 1 << 20).await.unwrap_or_default();
        let error = match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(ErrorBody { error }) => match error.field {
                Some(field) if error.kind == Kind::Invalid => {
                    let message = format!("{field}: {}", error.message);
                    Error::invalid(field, message)
                }
                Some(field) => Error::new(error.kind, error.message).context(field),
                None => Error::new(error.kind, error.message),
            },
            Err(_) => Error::new(Kind::Internal, format!("answered {status}")),
        };
        let again = retry || status.is_server_error() || matches!(status.as_u16(), 404 | 408 | 410 | 429);
        if again { Verdict::Again(error) } else { Verdict::Never(error) }
    }

    /// What an error comes to.
    pub fn error(e: Error) -> Verdict {
        match e.kind() {
            Kind::Invalid => Verdict::Never(e),
            _ => Verdict::Again(e),
        }
    }
}

#[cfg(test)]
mod tests;
