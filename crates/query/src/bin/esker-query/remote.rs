//! Deletes, by way of the ingest function.

use std::sync::Arc;

use async_trait::async_trait;
use esker_format::{Error, Kind, Name, Result, Seq};
use esker_function::tombstones::{self, Ask, answer, encoded};
use esker_function::{Aws, Settings};
use esker_query::service::{Called, Deleted, Doomed, Tombstones, Untouched};
use esker_store::{Meter, Seams};
use serde::de::DeserializeOwned;

/// Writes tombstones by way of the ingest function.
pub struct Remote {
    aws: Aws,
    function: String,
    seams: Seams,
}

impl Remote {
    /// For this store, by the function of this name.
    pub fn over(settings: &Settings, function: String, seams: &Seams) -> Arc<dyn Tombstones> {
        Arc::new(Remote { aws: Aws::new(settings), function, seams: seams.clone() })
    }

    /// Asks once more when no answer came: both requests can be done twice.
    async fn ask<T: DeserializeOwned>(&self, ask: &Ask) -> Result<T> {
        let event = serde_json::to_vec(ask).map_err(|e| Error::internal("no JSON").with_source(e))?;
        let answered = match self.aws.invoke(&self.function, event.clone()).await {
            Err(e) if e.kind() == Kind::Unavailable => self.aws.invoke(&self.function, event).await,
            answered => answered,
        };
        answer(&answered?)
    }
}

#[async_trait]
impl Tombstones for Remote {
    async fn delete(&self, _: &Meter, name: &Name, doomed: Doomed, called: Called) -> Result<Deleted> {
        let records = match doomed {
            Doomed::Ids(ids) => tombstones::Doomed::Ids(ids),
            Doomed::Container(file) => tombstones::Doomed::Container(encoded(&file)),
            Doomed::Framed(payload) => tombstones::Doomed::Framed(encoded(&payload)),
        };
        let token = called.given.or(called.drawn).unwrap_or_else(|| self.seams.batch_token());
        let asked = self.ask(&Ask::Delete { collection: name.clone(), records, token }).await;
        let tombstones::Deleted { position, deleted, duplicate } = asked.map_err(|e| match e.kind() {
            Kind::Unavailable => Error::new(Kind::Unknown, e.to_string())
                .with_hint("send it again with this token as its Idempotency-Key")
                .with_token(token),
            _ => e,
        })?;
        Ok(Deleted { position, deleted, duplicate })
    }

    async fn delete_untouched(
        &self,
        _: &Meter,
        name: &Name,
        ids: &[String],
        since: Seq,
    ) -> Result<Untouched> {
        let ask = Ask::DeleteUntouched { collection: name.clone(), ids: ids.to_vec(), since };
        let tombstones::Untouched { position, touched } = self.ask(&ask).await?;
        Ok(Untouched { position, touched })
    }
}
