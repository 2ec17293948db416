//! What wakes the compactor, and what it does then.

use std::collections::BTreeMap;

use esker_compactor::work::{Outcome, Task, worked_on};
use esker_format::{Error, Kind, Name, Result};
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
            Event::Objects(objects) => return self.told(&objects, call).await,
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
        sound(self.worker.work(names, task, call.until).await)
    }

    /// Does what new objects tell of. A step that had no time left to wake the next one fails, so that it comes again.
    async fn told(&self, objects: &[Object], call: &Call) -> Result<BTreeMap<Name, Outcome>> {
        let tasks = self.tasks(objects);
        let of =
            |task| tasks.iter().filter(move |(_, t)| **t == task).map(|(name, _)| name.clone()).collect();
        let mut done = self.worker.work(of(Task::Step), Task::Step, call.until).await;
        if let Some((name, _)) = done.iter().find(|(_, outcome)| **outcome == Outcome::Left) {
            return Err(Error::new(Kind::Unavailable, "there was no time for it").context(name));
        }
        done.append(&mut self.worker.work(of(Task::FoldLong), Task::FoldLong, call.until).await);
        sound(done)
    }

    /// The collections that these objects of the store tell of, and what is to be done with each.
    fn tasks(&self, objects: &[Object]) -> BTreeMap<Name, Task> {
        let Location::S3 { bucket, prefix } = &self.store else { return BTreeMap::new() };
        let ours = objects.iter().filter(|object| object.bucket == *bucket);
        let keys = ours.filter_map(|object| match prefix.as_str() {
            "" => Some(object.key.as_str()),
            prefix => object.key.strip_prefix(prefix)?.strip_prefix('/'),
        });
        let mut tasks = BTreeMap::new();
        for (name, task) in keys.filter_map(worked_on) {
            let known = tasks.entry(name).or_insert(task);
            if task == Task::Step {
                *known = task;
            }
        }
        tasks
    }
}

/// What became of each, if nothing failed.
fn sound(done: BTreeMap<Name, Outcome>) -> Result<BTreeMap<Name, Outcome>> {
    match done.iter().find_map(|(name, outcome)| outcome.error().map(|e| e.context(name))) {
        Some(failed) => Err(failed),
        None => Ok(done),
    }
}
