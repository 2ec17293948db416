//! What wakes the compactor, and what it does then.

use std::collections::{BTreeMap, BTreeSet};

use esker_compactor::work::{Outcome, Task, worked_on};
use esker_format::{Error, Name, Result};
use esker_function::event::Object;
use esker_function::{Call, Event};
use esker_store::Location;
use serde::Deserialize;

use crate::Works;

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

impl Works {
    /// Does what an event asks for. An error if anything failed, so that the platform counts it and tries again.
    pub async fn woken(&self, event: Event, call: &Call) -> Result<BTreeMap<Name, Outcome>> {
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
        keys.filter_map(worked_on).collect::<BTreeSet<_>>().into_iter().collect()
    }
}
