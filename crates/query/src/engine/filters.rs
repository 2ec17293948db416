//! Filters that were resolved lately: resolving one plans on a thread of its own, which a search in memory would feel.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use esker_format::schema::{Schema, Settings};
use esker_format::{CollectionId, Result};

use crate::filter::{Filter, Resolved};

/// Longer filters are not kept.
pub(crate) const KEPT_BYTES: usize = 4 << 10;
/// Filters kept, parsed or resolved, at least.
pub(crate) const KEPT: usize = 128;

/// What was used last: at least the last `half` keys, at most twice as many.
#[derive(Debug)]
pub(crate) struct Recent<K, V> {
    half: usize,
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K: Hash + Eq, V: Clone> Recent<K, V> {
    pub fn new(half: usize) -> Self {
        Recent { half, young: HashMap::new(), old: HashMap::new() }
    }

    pub fn get<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        if let Some(value) = self.young.get(key) {
            return Some(value.clone());
        }
        let (key, value) = self.old.remove_entry(key)?;
        self.insert(key, value.clone());
        Some(value)
    }

    pub fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= self.half {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }
}

/// A filter under the columns that it was resolved for.
type Known = (Arc<Schema>, Arc<Resolved>);

/// Resolved filters by collection and text.
#[derive(Debug)]
pub(crate) struct Resolutions(Mutex<Recent<(CollectionId, String), Known>>);

impl Default for Resolutions {
    fn default() -> Self {
        Resolutions(Mutex::new(Recent::new(KEPT)))
    }
}

impl Resolutions {
    /// [`Filter::resolve`], or what it gave before. An SQL filter and a JSON one never have the same text.
    pub fn resolve(
        &self,
        id: &CollectionId,
        settings: &Settings,
        schema: &Arc<Schema>,
        filter: &Filter,
    ) -> Result<Arc<Resolved>> {
        if filter.text().len() > KEPT_BYTES {
            return Ok(Arc::new(filter.resolve(settings, schema)?));
        }
        let key = (id.clone(), filter.text().to_owned());
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lock().get(&key);
        if let Some((of, resolved)) = known
            && (Arc::ptr_eq(&of, schema) || of == *schema)
        {
            return Ok(resolved);
        }
        let resolved = Arc::new(filter.resolve(settings, schema)?);
        lock().insert(key, (schema.clone(), resolved.clone()));
        Ok(resolved)
    }
}
