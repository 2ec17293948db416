//! The ingest function: writes by HTTP, messages of a queue, and the deletes that the query function asks for.

mod messages;

use std::process::ExitCode;

use esker_format::Error;
use esker_format::record::Op;
use esker_function::queue;
use esker_function::tombstones::{Ask, Deleted, Doomed, Untouched, decoded};
use esker_function::{Aws, Call, Event, Function, Reply, Routes, Settings, Web, answered, json, run};
use esker_ingest::{Body, Ingest, WriteOptions, grpc, http};
use esker_store::{Clock, Meter};

struct Writer {
    web: Web,
    ingest: Ingest,
    aws: Aws,
    settings: Settings,
    clock: std::sync::Arc<dyn Clock>,
}

fn main() -> ExitCode {
    run(|settings, store| {
        let seams = store.client().seams().clone();
        let (rest, _) = http::router(http::State::new(store.clone())).split_for_parts();
        Ok(Writer {
            web: Web::new(&seams, rest, Routes::new(grpc::service(store.clone()))),
            ingest: Ingest::new(store),
            aws: Aws::new(settings),
            settings: settings.clone(),
            clock: seams.clock,
        })
    })
}

impl Function for Writer {
    async fn handle(&self, event: Event, call: Call) -> Reply {
        match event {
            Event::Http(raw) => self.web.event(&raw, &call).await,
            Event::Messages(messages) => {
                json(&queue::deliver(messages, &messages::Taking(self, &call)).await)
            }
            Event::Direct(ask) => answered(match serde_json::from_value(ask) {
                Ok(ask) => call.within(&*self.clock, self.delete(ask)).await,
                Err(e) => Err(Error::invalid("event", format!("the event is no request to delete: {e}"))),
            }),
            _ => Err(Error::invalid("event", "the ingest function takes requests and messages")),
        }
    }
}

impl Writer {
    async fn delete(&self, ask: Ask) -> Reply {
        let meter = Meter::new();
        match ask {
            Ask::Delete { collection, records, token } => {
                let options = WriteOptions::from(Some(token));
                let body = match records {
                    Doomed::Container(text) => Body::Container(decoded(&text)?),
                    Doomed::Framed(text) => Body::Framed(decoded(&text)?),
                    Doomed::Ids(ids) => {
                        let ack = self.ingest.delete(&meter, &collection, &ids, &options).await?;
                        return json(&deleted(ack));
                    }
                };
                json(&deleted(self.ingest.write(&meter, &collection, Op::Delete, body, &options).await?))
            }
            Ask::DeleteUntouched { collection, ids, since } => {
                let done = self.ingest.delete_untouched(&meter, &collection, &ids, since, None).await?;
                json(&Untouched { position: done.ack.map(|ack| ack.position), touched: done.touched })
            }
        }
    }
}

fn deleted(ack: esker_ingest::Ack) -> Deleted {
    Deleted { position: ack.position, deleted: ack.rows.into(), duplicate: ack.duplicate }
}
