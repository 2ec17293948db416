//! What the engine keeps between queries, counted. When it is too much, the collections that were not read for longest
//! are let go of, each as a whole: it is read anew when it is asked for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use esker_format::CollectionId;

use super::State;

/// What is kept of every collection.
#[derive(Debug)]
pub(super) struct Memory {
    /// Most bytes of all collections together.
    most: u64,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    kept: HashMap<CollectionId, Kept>,
    /// Bytes of all, what is reserved included.
    bytes: u64,
    /// Reads so far.
    reads: u64,
}

#[derive(Debug, Default)]
struct Kept {
    state: Arc<State>,
    /// Bytes as they were counted last.
    bytes: u64,
    /// Bytes of what is being read into memory.
    reserved: u64,
    /// The read that used it last.
    used: u64,
}

/// Room for bytes that are being read. It counts until it is dropped; by then the collection has the bytes or never will.
#[derive(Debug)]
pub(super) struct Reserved<'a> {
    memory: &'a Memory,
    id: CollectionId,
    bytes: u64,
}

impl Memory {
    pub fn new(most: u64) -> Memory {
        Memory { most, table: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is kept of a collection that is about to be read.
    pub fn state(&self, id: &CollectionId) -> Arc<State> {
        self.lock().used(id).state.clone()
    }

    /// Most bytes.
    pub fn most(&self) -> u64 {
        self.most
    }

    /// Bytes that are kept.
    pub fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    /// Counts a collection anew, and lets others go if that is too much; itself when it is alone and still too much.
    pub fn settle(&self, id: &CollectionId) {
        let mut table = self.lock();
        table.count(id);
        if !table.make_room(id, 0, self.most) && table.kept.get(id).is_some_and(|k| k.reserved == 0) {
            table.let_go(id);
        }
    }

    /// Room for `bytes` more of a collection, for which others may be let go. Nothing happens if all of them would not do.
    pub fn reserve(&self, id: &CollectionId, state: &Arc<State>, bytes: u64) -> Option<Reserved<'_>> {
        let mut table = self.lock();
        table.used(id).state = state.clone();
        table.count(id);
        let stays = |(other, k): (&CollectionId, &Kept)| match other == id || k.reserved > 0 {
            true => k.bytes + k.reserved,
            false => 0,
        };
        let staying: u64 = table.kept.iter().map(stays).sum();
        if staying.saturating_add(bytes) > self.most || !table.make_room(id, bytes, self.most) {
            return None;
        }
        table.used(id).reserved += bytes;
        table.bytes += bytes;
        Some(Reserved { memory: self, id: id.clone(), bytes })
    }
}

impl Table {
    fn used(&mut self, id: &CollectionId) -> &mut Kept {
        self.reads += 1;
        let kept = self.kept.entry(id.clone()).or_default();
        kept.used = self.reads;
        kept
    }

    fn count(&mut self, id: &CollectionId) {
        if let Some(kept) = self.kept.get_mut(id) {
            let now = kept.state.bytes();
            self.bytes = self.bytes - kept.bytes + now;
            kept.bytes = now;
        }
    }

    /// Lets go of what was not read for longest, except `id` and what is being read, until there is room.
    fn make_room(&mut self, id: &CollectionId, bytes: u64, most: u64) -> bool {
        while self.bytes.saturating_add(bytes) > most {
            let others = self.kept.iter().filter(|(other, k)| *other != id && k.reserved == 0 && k.bytes > 0);
            let Some(oldest) = others.min_by_key(|(_, k)| k.used).map(|(other, _)| other.clone()) else {
                return false;
            };
            tracing::debug!(collection = %oldest, "let go of, to make room");
            self.let_go(&oldest);
        }
        true
    }

    fn let_go(&mut self, id: &CollectionId) {
        if let Some(kept) = self.kept.remove(id) {
            self.bytes -= kept.bytes + kept.reserved;
        }
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        let mut table = self.memory.lock();
        if let Some(kept) = table.kept.get_mut(&self.id) {
            kept.reserved -= self.bytes;
            table.bytes -= self.bytes;
        }
        table.count(&self.id);
    }
}
