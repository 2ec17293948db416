//! The compactor function: folds logs and collects garbage when a schedule, a notification, a message or a request wakes it.

mod messages;
mod route;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;

use axum::routing::post;
use esker_compactor::work::{Outcome, Task, Worker, worked_on};
use esker_compactor::{CollectOptions, Collector, Compactor, DirectoryScratch, Options};
use esker_format::{Error, Name, Result};
use esker_function::queue;
use esker_function::{Call, Event, Function, Reply, Routes, Web, event::Object, json, run};
use esker_store::Location;
use serde::Deserialize;

struct Works {
    web: Web,
    worker: Arc<Worker>,
    store: Location,
    /// One thing at a time: each is planned with all of the memory.
    one: tokio::sync::Mutex<()>,
}

/// A request in the compactor's own words.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ask {
    /// Only this collection.
    collection: Option<Name>,
    /// Collect garbage instead of folding.
    #[serde(default)]
    gc: bool,
    /// Look at all names, not only at marks.
    #[serde(default)]
    sweep: bool,
}

fn main() -> ExitCode {
    run(|settings, store| {
        let seams = store.client().seams().clone();
        let options = Options { memory: settings.memory / 2, ..Options::default() };
        let scratch = Arc::new(DirectoryScratch::new(&settings.scratch));
        let collector =
            Collector::new(CollectOptions { retain: settings.retain, ..CollectOptions::default() });
        let compactor = Compactor::new(options).with_scratch(scratch);
        let worker = Arc::new(Worker { store, compactor, collector });
        let rest = axum::Router::new().route("/v1/collections/{collection}/compact", post(route::compact));
        let web = Web::new(&seams, rest.with_state(worker.clone()), Routes::default());
        Ok(Works { web, worker, store: settings.store.clone(), one: tokio::sync::Mutex::default() })
    })
}

impl Function for Works {
    async fn handle(&self, event: Event, call: Call) -> Reply {
        match event {
            Event::Http(raw) => self.web.event(&raw, &call).await,
            Event::Messages(messages) => {
                json(&queue::deliver(messages, &messages::Taking(self, &call)).await)
            }
            event => json(&self.woken(event, &call).await?),
        }
    }
}

impl Works {
    /// Does what an event asks for. An error if anything failed, so that the platform counts it and tries again.
    async fn woken(&self, event: Event, call: &Call) -> Result<BTreeMap<Name, Outcome>> {
        let _one = self.one.lock().await;
        let (names, task) = match event {
            Event::Tick => (self.worker.marked().await?, Task::Fold),
            Event::Objects(objects) => (self.named(&objects), Task::FoldLong),
            Event::Direct(ask) => {
                let ask: Ask = serde_json::from_value(ask).map_err(|e| {
                    Error::invalid("event", format!("the event asks for nothing we know: {e}"))
                })?;
                let names = match ask.collection {
                    Some(name) => vec![name],
                    None if ask.gc || ask.sweep => self.worker.names().await?,
                    None => self.worker.marked().await?,
                };
                (names, if ask.gc { Task::Collect } else { Task::Fold })
            }
            _ => return Err(Error::invalid("event", "a message holds a notification or a request")),
        };
        let done = self.worker.work(names, task, call.until).await;
        match done.iter().find_map(|(name, outcome)| outcome.error().map(|e| e.context(name))) {
            Some(failed) => Err(failed),
            None => Ok(done),
        }
    }

    /// The collections whose logs grew by these objects of the store, each once.
    fn named(&self, objects: &[Object]) -> Vec<Name> {
        let Location::S3 { bucket, prefix } = &self.store else { return Vec::new() };
        let ours = objects.iter().filter(|object| object.bucket == *bucket);
        let keys = ours.filter_map(|object| match prefix.as_str() {
            "" => Some(object.key.as_str()),
            prefix => object.key.strip_prefix(prefix)?.strip_prefix('/'),
        });
        keys.filter_map(worked_on).collect::<std::collections::BTreeSet<_>>().into_iter().collect()
    }
}
