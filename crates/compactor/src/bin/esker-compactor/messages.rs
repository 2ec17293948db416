//! Messages that hold a notification or a request.

use async_trait::async_trait;
use esker_compactor::work::Outcome;
use esker_format::{Error, Kind, Result};
use esker_function::queue::{Consumer, Message, Verdict};
use esker_function::{Call, Event};
use serde_json::value::RawValue;

use crate::Works;

/// Takes messages until a deadline.
pub struct Taking<'a>(pub &'a Works, pub &'a Call);

#[async_trait]
impl Consumer for Taking<'_> {
    async fn take(&self, message: &Message) -> Verdict {
        let raw = RawValue::from_string(message.body.clone());
        let event = raw.map_err(|e| Error::invalid("body", format!("the message is no JSON: {e}")));
        let done = match event.and_then(Event::parse) {
            Ok(event) => self.0.woken(event, self.1).await,
            Err(e) => Err(e),
        };
        match done {
            Ok(done) if done.values().any(|outcome| *outcome == Outcome::Left) => {
                Verdict::Again(Error::new(Kind::Unavailable, "there was no time for it"))
            }
            Ok(_) => Verdict::Done,
            Err(e) => Verdict::error(e),
        }
    }

    async fn bury(&self, _: &Message, _: &Error) -> Result<bool> {
        Ok(false)
    }
}
