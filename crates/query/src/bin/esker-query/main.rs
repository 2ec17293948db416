//! The query function: reads by HTTP. It writes nothing: what it finds to delete it has the ingest function delete.

mod remote;

use std::process::ExitCode;

use esker_format::Error;
use esker_function::{Call, Event, Function, Reply, Routes, Web, run};
use esker_query::{Engine, Options, Service, grpc, http, sql};

struct Reads(Web);

fn main() -> ExitCode {
    run(|settings, store| {
        let seams = store.client().seams().clone();
        let engine = Engine::new(store, Options { memory: settings.memory / 4, ..Options::default() });
        let writer = settings.ingest.clone().map(|function| remote::Remote::over(settings, function, &seams));
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
