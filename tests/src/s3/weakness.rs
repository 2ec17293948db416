//! What a store that calls itself compatible may get wrong, and what the server must remember to get it wrong.

use crate::world::{Object, World};
use object_store::path::Path;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// How long a store that lags behind its own writes does so.
pub(super) const STALE: Duration = Duration::from_secs(1);

/// What a store that calls itself compatible may get wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Weakness {
    /// Create-if-absent looks first and writes later: racing creates win together.
    NonAtomicCreate,
    /// `If-None-Match: *` on a put is not looked at.
    IgnoreIfNoneMatch,
    /// A create of what is there writes nothing, and is answered as one that did.
    CreateSaysCreated,
    /// `If-Match` on a GET is not looked at.
    IgnoreIfMatch,
    /// Every object has the same ETag.
    SameETag,
    /// A listing gives other ETags than a read.
    ListedETagDiffers,
    /// What was written within the last second is not listed.
    StaleList,
    /// Names are listed from the last to the first.
    UnorderedList,
    /// `start-after` is not looked at.
    IgnoreStartAfter,
    /// A page that is full does not say that there are more.
    ListEndsEarly,
    /// Every range is answered with the whole object.
    IgnoreRange,
    /// A range has the length that was asked for, and begins at the object's start.
    IgnoreRangeOffset,
    /// A suffix range is answered with the whole object.
    IgnoreSuffixRange,
    /// For a second after an overwrite, reads bring the object it replaced.
    StaleRead,
    /// For a second after it was found missing, an object stays missing, whoever creates it.
    RemembersMissing,
    /// For a second after a delete the object is still read.
    StaleDelete,
    /// A missing key is answered 403, as to callers who may not list.
    MissingIsForbidden,
    /// A missing key is answered 200, with nothing in it.
    MissingIsEmpty,
}

impl Weakness {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::NonAtomicCreate,
        Self::IgnoreIfNoneMatch,
        Self::CreateSaysCreated,
        Self::IgnoreIfMatch,
        Self::SameETag,
        Self::ListedETagDiffers,
        Self::StaleList,
        Self::UnorderedList,
        Self::IgnoreStartAfter,
        Self::ListEndsEarly,
        Self::IgnoreRange,
        Self::IgnoreRangeOffset,
        Self::IgnoreSuffixRange,
        Self::StaleRead,
        Self::RemembersMissing,
        Self::StaleDelete,
        Self::MissingIsForbidden,
        Self::MissingIsEmpty,
    ];

    /// The one that is called this in Rust.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|weakness| format!("{weakness:?}") == name)
    }
}

/// What keys held before they were last changed, and when keys were found missing.
#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<Remembered>);

#[derive(Debug, Default)]
struct Remembered {
    before: HashMap<Path, (SystemTime, Option<Object>)>,
    missing: HashMap<Path, SystemTime>,
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, Remembered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A write of `key` is about to take effect.
    pub(super) fn note_write(&self, world: &World, key: &Path, now: SystemTime) {
        self.lock().before.insert(key.clone(), (now, world.object(key)));
    }

    /// What a store with this weakness reads under `key`, where `current` is what is there.
    pub(super) fn seen(
        &self,
        weakness: Option<Weakness>,
        key: &Path,
        current: Option<Object>,
        now: SystemTime,
    ) -> Option<Object> {
        let recent = |at: SystemTime| now.duration_since(at).is_ok_and(|age| age <= STALE);
        let mut memory = self.lock();
        match weakness {
            Some(Weakness::StaleRead | Weakness::StaleDelete) => {
                let lags = (weakness == Some(Weakness::StaleDelete)) == current.is_none();
                match memory.before.get(key) {
                    Some((at, Some(before))) if lags && recent(*at) => Some(before.clone()),
                    _ => current,
                }
            }
            Some(Weakness::RemembersMissing) if memory.missing.get(key).is_some_and(|at| recent(*at)) => None,
            Some(Weakness::RemembersMissing) if current.is_none() => {
                memory.missing.insert(key.clone(), now);
                None
            }
            _ => current,
        }
    }
}
