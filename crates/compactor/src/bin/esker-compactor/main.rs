//! The compactor function: folds logs and collects garbage when a schedule, a notification, a message or a request wakes it.

mod messages;
mod route;
mod woken;

use std::process::ExitCode;
use std::sync::Arc;

use axum::routing::post;
use esker_compactor::work::Worker;
use esker_compactor::{CollectOptions, Collector, Compactor, DirectoryScratch, Options};
use esker_function::queue;
use esker_function::{Call, Event, Function, Reply, Routes, Web, json, run};
use esker_store::Location;

struct Works {
    web: Web,
    worker: Arc<Worker>,
    store: Location,
    /// One thing at a time: each is planned with all of the memory.
    one: tokio::sync::Mutex<()>,
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
