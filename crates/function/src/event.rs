//! What a function is invoked with, told apart by its shape.

use std::collections::BTreeMap;

use esker_format::{Error, Result};
use serde::Deserialize;
use serde_json::Value;
use serde_json::error::Category;
use serde_json::value::RawValue;

use crate::queue::Message;

/// An event.
#[derive(Debug)]
pub enum Event {
    /// A request by HTTP, of an API gateway (payload 1.0 or 2.0) or of a function's URL.
    Http(Box<RawValue>),
    /// Messages of a queue.
    Messages(Vec<Message>),
    /// Objects that were written.
    Objects(Vec<Object>),
    /// A tick of a schedule.
    Tick,
    /// Anything else: a request in the function's own words.
    Direct(Value),
}

/// An object that a notification names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its bucket.
    pub bucket: String,
    /// Its key in the bucket.
    pub key: String,
}

#[derive(Deserialize)]
struct Shape<'a> {
    #[serde(rename = "requestContext", borrow)]
    context: Option<&'a RawValue>,
    #[serde(rename = "Records", borrow)]
    records: Option<Vec<Record<'a>>>,
    source: Option<String>,
    detail: Option<S3>,
    /// `s3:TestEvent`, which S3 sends when notifications are switched on.
    #[serde(rename = "Event")]
    test: Option<String>,
}

#[derive(Deserialize)]
struct Record<'a> {
    #[serde(rename = "eventSource")]
    source: String,
    s3: Option<S3>,
    #[serde(rename = "messageId")]
    id: Option<String>,
    body: Option<String>,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
    #[serde(rename = "messageAttributes", borrow)]
    given: Option<BTreeMap<String, &'a RawValue>>,
}

#[derive(Deserialize)]
struct S3 {
    bucket: Option<Bucket>,
    object: Option<Key>,
}

#[derive(Deserialize)]
struct Bucket {
    name: String,
}

#[derive(Deserialize)]
struct Key {
    key: String,
}

#[derive(Deserialize)]
struct Attribute {
    #[serde(rename = "stringValue")]
    text: Option<String>,
}

impl Event {
    /// Tells what an event is.
    ///
    /// # Errors
    /// Invalid when it is no JSON object, or of a source that no function knows.
    pub fn parse(raw: Box<RawValue>) -> Result<Self> {
        let wrong = |e: serde_json::Error| {
            Error::invalid("event", format!("the event is none we know: {}", without_values(&e)))
        };
        let shape: Shape<'_> = serde_json::from_str(raw.get()).map_err(wrong)?;
        if shape.context.is_some() {
            return Ok(Event::Http(raw));
        }
        if let Some(records) = shape.records {
            return of_records(records);
        }
        match (shape.source.as_deref(), shape.test.as_deref()) {
            // EventBridge escapes nothing in keys.
            (Some("aws.s3"), _) => {
                Ok(Event::Objects(shape.detail.and_then(S3::object).into_iter().collect()))
            }
            (Some("aws.events" | "aws.scheduler"), _) => Ok(Event::Tick),
            (_, Some("s3:TestEvent")) => Ok(Event::Objects(Vec::new())),
            _ => Ok(Event::Direct(serde_json::from_str(raw.get()).map_err(wrong)?)),
        }
    }
}

fn of_records(records: Vec<Record<'_>>) -> Result<Event> {
    let source = records.first().map_or("aws:sqs", |r| r.source.as_str());
    match source {
        "aws:sqs" => records.into_iter().map(Record::message).collect::<Result<_>>().map(Event::Messages),
        "aws:s3" => {
            let objects = records.into_iter().filter_map(|r| r.s3?.object());
            Ok(Event::Objects(objects.map(|o| Object { key: unescaped(&o.key), ..o }).collect()))
        }
        other => {
            let other: String = other.chars().take(64).collect();
            Err(Error::invalid(
                "eventSource",
                format!("events of `{}` mean nothing here", other.escape_debug()),
            ))
        }
    }
}

impl S3 {
    fn object(self) -> Option<Object> {
        Some(Object { bucket: self.bucket?.name, key: self.object?.key })
    }
}

impl Record<'_> {
    fn message(self) -> Result<Message> {
        let missing = |what: &str| Error::invalid("Records", format!("a message of a queue has no {what}"));
        let given = self.given.unwrap_or_default().into_iter();
        let attributes = given.filter_map(|(name, value)| {
            let text = serde_json::from_str::<Attribute>(value.get()).ok()?.text?;
            Some((name.to_ascii_lowercase(), text))
        });
        Ok(Message {
            id: self.id.ok_or_else(|| missing("messageId"))?,
            body: self.body.ok_or_else(|| missing("body"))?,
            attributes: attributes.collect(),
            group: self.attributes.get("MessageGroupId").cloned(),
        })
    }
}

/// What is wrong with JSON, without what it says: events have tokens and rows in them, and this goes into the log.
pub(crate) fn without_values(e: &serde_json::Error) -> String {
    let text = e.to_string();
    let known = text.starts_with("missing field").then(|| text.split(" at line").next()).flatten();
    match (known, e.classify()) {
        (Some(known), _) => known.to_owned(),
        (None, Category::Data) => format!("another value is expected at column {}", e.column()),
        (None, Category::Eof) => "it ends too early".to_owned(),
        (None, _) => format!("it is no JSON at column {}", e.column()),
    }
}

/// S3 escapes keys in its notifications as in a query.
fn unescaped(key: &str) -> String {
    url::form_urlencoded::parse(key.replace('&', "%26").replace('=', "%3D").as_bytes())
        .next()
        .map(|(key, _)| key.into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
