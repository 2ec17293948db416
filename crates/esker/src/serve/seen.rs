//! Collections that this server knows to exist: what background work looks after and metrics speak of.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use esker_format::Name;

/// More are not kept apart in the metrics.
const MOST: usize = 10_000;

/// Names of collections.
#[derive(Debug, Default)]
pub struct Seen(Mutex<BTreeMap<String, Name>>);

impl Seen {
    /// Adds a name.
    pub fn add(&self, name: &str) {
        let mut names = self.lock();
        if names.len() < MOST
            && !names.contains_key(name)
            && let Ok(valid) = Name::new(name)
        {
            names.insert(name.to_owned(), valid);
        }
    }

    /// Forgets a name.
    pub fn remove(&self, name: &Name) {
        self.lock().remove(name.as_str());
    }

    /// The names, sorted.
    pub fn names(&self) -> Vec<Name> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Name>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
