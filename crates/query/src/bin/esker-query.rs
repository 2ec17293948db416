//! The query function: reads by HTTP. It writes nothing: what it finds to delete it has the ingest function delete.

use std::process::ExitCode;
use std::sync::Arc;

use async_trait::async_trait;
use esker_format::{Error, Kind, Name, Result, Seq};
use esker_function::tombstones::{self, Ask, answer, encoded};
use esker_function::{Aws, Call, Event, Function, Reply, Routes, Settings, Web, run};
use esker_query::service::{Called, Deleted, Doomed, Tombstones, Untouched};
use esker_query::{Engine, Options, Service, grpc, http, sql};
use esker_store::{Meter, Seams};
use serde::de::DeserializeOwned;

struct Reads(Web);

fn main() -> ExitCode {
    run(|settings, store| {
        let seams = store.client().seams().clone();
        let engine = Engine::new(store, Options { memory: settings.memory / 4, ..Options::default() });
        let writer = settings.ingest.clone().map(|function| Remote::over(settings, function, &seams));
        let memory = usize::try_from(settings.memory / 4).unwrap_or(usize::MAX);
        let service = Service::new(engine, writer, sql::Options { memory });
        let (rest, _) = http::router(service.clone()).split_for_parts();
        Ok(Reads(Web::new(&seams, rest, Routes::new(grpc::service(service)))))
    })
}

impl Function for Reads {
    async fn handle(&self, event: Event, call: Call) -> Reply {
        match event {
            Event::Http(raw) => self.0.event(&raw, &call).await,
            _ => Err(Error::invalid("event", "the query function takes requests by HTTP")),
        }
    }
}

/// Writes tombstones by way of the ingest function.
struct Remote {
    aws: Aws,
    function: String,
    seams: Seams,
}

impl Remote {
    fn over(settings: &Settings, function: String, seams: &Seams) -> Arc<dyn Tombstones> {
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
