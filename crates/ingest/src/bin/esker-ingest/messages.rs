//! Messages of the queue of writes.

use async_trait::async_trait;
use esker_format::{Error, Result, Token};
use esker_function::Call;
use esker_function::queue::{Consumer, Message, Verdict};
use esker_function::tombstones::{Ask, Doomed};
use serde::Deserialize;

use crate::Writer;

/// The body of a message that deletes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ids {
    ids: Vec<String>,
}

/// Takes messages until a deadline.
pub struct Taking<'a>(pub &'a Writer, pub &'a Call);

#[async_trait]
impl Consumer for Taking<'_> {
    async fn take(&self, message: &Message) -> Verdict {
        let Taking(writer, call) = self;
        if message.operation() != "delete" {
            return match message.request() {
                Ok(request) => Verdict::of(writer.web.answer(request, call).await).await,
                Err(e) => Verdict::error(e),
            };
        }
        let ask = || -> Result<Ask> {
            let Ids { ids } = serde_json::from_str(&message.body)
                .map_err(|e| Error::invalid("body", format!("a message that deletes has ids: {e}")))?;
            let token = Token::from_key(message.key());
            Ok(Ask::Delete { collection: message.collection()?, records: Doomed::Ids(ids), token })
        };
        match ask() {
            Err(e) => Verdict::error(e),
            Ok(ask) => match call.within(&*writer.clock, writer.delete(ask)).await {
                Ok(_) => Verdict::Done,
                Err(e) => Verdict::error(e),
            },
        }
    }

    async fn bury(&self, message: &Message, reason: &Error) -> Result<bool> {
        match &self.0.settings.dead_letters {
            None => Ok(false),
            Some(queue) => self.0.aws.send(queue, message, &reason.to_string()).await.map(|()| true),
        }
    }
}
