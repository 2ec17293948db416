//! The storage that outlives a process: objects, what they held before, and requests still under way.
//!
//! A [`World`] is the truth both the fault store and the S3 server stand on. Each change is one [`Effect`], applied
//! under one lock, so create-if-absent has exactly one winner.

use crate::listing;
use bytes::Bytes;
use object_store::path::Path;
use object_store::{
    Attributes, CopyMode, Error, GetOptions, GetRange, GetResult, GetResultPayload, ObjectMeta, PutMode,
    PutResult, Result,
};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// One change of the storage, as a request asks for it.
#[derive(Clone, Debug)]
pub enum Effect {
    Put { location: Path, body: Bytes, attributes: Attributes, mode: PutMode },
    Delete { location: Path },
    Copy { from: Path, to: Path, mode: CopyMode },
}

impl Effect {
    /// The name it changes.
    pub fn location(&self) -> &Path {
        match self {
            Self::Put { location, .. } | Self::Delete { location } => location,
            Self::Copy { to, .. } => to,
        }
    }

    /// Whether it succeeds only where the name is absent.
    pub fn is_create(&self) -> bool {
        matches!(self, Self::Put { mode: PutMode::Create, .. } | Self::Copy { mode: CopyMode::Create, .. })
    }
}

/// A shared, in-memory, atomic object storage. Clones are the same storage; [`World::fork`] makes another.
#[derive(Clone, Debug)]
pub struct World(Arc<Mutex<State>>);

type Rule = Arc<dyn Fn(&str) -> bool + Send + Sync>;

#[derive(Clone)]
struct State {
    objects: BTreeMap<Path, Stored>,
    /// Every body a name has held, newest last, `None` where it was deleted. Kept by checked worlds only.
    history: BTreeMap<Path, Vec<Option<Bytes>>>,
    late: Vec<Effect>,
    now: Now,
    rewrites: Rewrites,
}

#[derive(Clone, Debug)]
struct Stored {
    body: Bytes,
    /// When the name was written first since it was free.
    created: SystemTime,
    /// Of the body: made once, because every reply has it.
    e_tag: String,
    modified: SystemTime,
    attributes: Attributes,
}

#[derive(Clone, Copy, Debug)]
enum Now {
    Logical(Duration),
    Wall,
}

/// Which names may hold a second body.
#[derive(Clone)]
enum Rewrites {
    Checked(Vec<Rule>),
    Free,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("objects", &self.objects.len())
            .field("late", &self.late)
            .finish_non_exhaustive()
    }
}

/// 2026-01-01, where a logical clock starts.
const EPOCH: Duration = Duration::from_secs(1_767_225_600);

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// A storage with a logical clock, 1 ms per change, in which a name written twice with two bodies panics.
    ///
    /// Exempt are `head`, which is meant to be overwritten, and a `wal/` name that was deleted in between: a zombie
    /// may create it again, and not to acknowledge or read it then is the protocol's own duty (INV-8).
    pub fn new() -> Self {
        Self::with(Now::Logical(EPOCH), Rewrites::Checked(vec![Arc::new(is_head)]))
    }

    /// The same without a check of rewrites and without history: for suites that overwrite on purpose.
    pub fn unchecked() -> Self {
        Self::with(Now::Logical(EPOCH), Rewrites::Free)
    }

    /// Unchecked, dated by the machine's clock: what a server serves.
    pub(crate) fn wall() -> Self {
        Self::with(Now::Wall, Rewrites::Free)
    }

    fn with(now: Now, rewrites: Rewrites) -> Self {
        Self(Arc::new(Mutex::new(State {
            objects: BTreeMap::new(),
            history: BTreeMap::new(),
            late: vec![],
            now,
            rewrites,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic below is a found violation; what follows it (printing the world) still wants to look.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Allows the names `rule` accepts to hold a second body.
    pub fn allow_rewrite(&self, rule: impl Fn(&str) -> bool + Send + Sync + 'static) {
        if let Rewrites::Checked(rules) = &mut self.state().rewrites {
            rules.push(Arc::new(rule));
        }
    }

    /// A copy that shares nothing with this one, late requests included.
    pub fn fork(&self) -> Self {
        Self(Arc::new(Mutex::new(self.state().clone())))
    }

    /// Applies one change atomically.
    ///
    /// # Errors
    /// `AlreadyExists` for a create of a name that is there, `Precondition` for an update of a body that is not,
    /// `NotFound` for a copy of nothing.
    ///
    /// # Panics
    /// In a checked world, on a second body for a name that must not change.
    pub fn apply(&self, effect: &Effect) -> Result<PutResult> {
        self.state().apply(effect)
    }

    /// Puts `body` under `key`, as an unconditional put that succeeds.
    pub fn apply_put(&self, key: &str, body: impl Into<Bytes>) {
        let (location, attributes) = (path_of(key), Attributes::default());
        let effect = Effect::Put { location, body: body.into(), attributes, mode: PutMode::Overwrite };
        // An unconditional put has nothing to fail on.
        self.apply(&effect).ok();
    }

    /// Leaves a change under way, to land with [`World::land_late`].
    pub fn postpone(&self, effect: Effect) {
        self.state().late.push(effect);
    }

    /// Requests still under way, in the order in which they were sent.
    pub fn late(&self) -> Vec<Effect> {
        self.state().late.clone()
    }

    /// Lands all requests under way, each with its condition evaluated now; how many changed something.
    pub fn land_late(&self) -> usize {
        let mut state = self.state();
        let late = std::mem::take(&mut state.late);
        late.iter().filter(|effect| state.apply(effect).is_ok()).count()
    }

    /// Lands the `nth` request under way; whether it changed something. `false` too where there is no such one.
    pub fn land_one(&self, nth: usize) -> bool {
        let mut state = self.state();
        if nth >= state.late.len() {
            return false;
        }
        let effect = state.late.remove(nth);
        state.apply(&effect).is_ok()
    }

    /// Forgets the requests under way: they never land.
    pub fn drop_late(&self) {
        self.state().late.clear();
    }

    /// Reads as a GET or HEAD would, preconditions and range evaluated.
    ///
    /// # Errors
    /// `NotFound`, `Precondition`, `NotModified`, or `Generic` for a range that cannot be satisfied.
    pub fn get(&self, location: &Path, options: &GetOptions) -> Result<GetResult> {
        let stored = self.state().objects.get(location).cloned().ok_or_else(|| missing(location))?;
        let meta = stored.meta(location);
        options.check_preconditions(&meta)?;
        let whole = 0..meta.size;
        let range = match &options.range {
            Some(range) if !options.head => resolve(range, meta.size)?,
            _ => whole,
        };
        let body = match options.head {
            true => Bytes::new(),
            // Within the body, whose length is a usize.
            false => stored.body.slice(range.start as usize..range.end as usize),
        };
        let payload = GetResultPayload::Stream(Box::pin(futures::stream::once(std::future::ready(Ok(body)))));
        Ok(GetResult { payload, meta, range, attributes: stored.attributes })
    }

    /// What is stored under `location`.
    pub fn object(&self, location: &Path) -> Option<Object> {
        let stored = self.state().objects.get(location).cloned()?;
        let meta = stored.meta(location);
        Some(Object { body: stored.body, meta, attributes: stored.attributes })
    }

    /// One page of the sorted listing of every key that starts with the text `prefix`; see `listing::page`.
    pub fn page(&self, prefix: &str, delimiter: Option<&str>, after: Option<&str>, max: usize) -> ListPage {
        let state = self.state();
        let names = state.objects.keys().map(AsRef::as_ref);
        let page = listing::page(names, prefix, delimiter, after, max);
        let objects = page
            .keys
            .into_iter()
            .filter_map(|key| Path::parse(key).ok())
            .filter_map(|path| state.objects.get(&path).map(|stored| stored.meta(&path)))
            .collect();
        ListPage { objects, prefixes: page.prefixes, next: page.next }
    }

    /// All keys that start with `prefix`, sorted.
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        let state = self.state();
        state.objects.keys().map(ToString::to_string).filter(|key| key.starts_with(prefix)).collect()
    }

    /// What `key` holds now.
    pub fn body(&self, key: &str) -> Option<Bytes> {
        self.state().objects.get(&path_of(key)).map(|stored| stored.body.clone())
    }

    /// When what lies under `key` was created, in milliseconds since 1970, whatever was put over it since.
    pub fn created_ms(&self, key: &str) -> Option<i64> {
        let created = self.state().objects.get(&path_of(key))?.created;
        let since = created.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        i64::try_from(since.as_millis()).ok()
    }

    /// Every body `key` has held, oldest first, `None` where it was deleted; empty in an unchecked world.
    pub fn history(&self, key: &str) -> Vec<Option<Bytes>> {
        self.state().history.get(&path_of(key)).cloned().unwrap_or_default()
    }

    /// Puts `body` under `key` behind everyone's back, unchecked: damage, or a `head` that goes backwards.
    pub fn tamper(&self, key: &str, body: impl Into<Bytes>) {
        let mut state = self.state();
        let modified = state.tick();
        let body: Bytes = body.into();
        let created = state.objects.get(&path_of(key)).map_or(modified, |old| old.created);
        let stored =
            Stored { e_tag: etag(&body), body, created, modified, attributes: Attributes::default() };
        state.objects.insert(path_of(key), stored);
    }

    /// Removes `key` behind everyone's back; whether it was there.
    pub fn lose(&self, key: &str) -> bool {
        self.state().objects.remove(&path_of(key)).is_some()
    }

    /// Flips one bit of `key`; `false` where there is no such key or bit.
    pub fn flip_bit(&self, key: &str, bit: usize) -> bool {
        match self.body(key) {
            Some(body) if bit / 8 < body.len() => {
                self.tamper(key, flipped(&body, bit));
                true
            }
            _ => false,
        }
    }

    /// What a logical clock says, in milliseconds since the epoch; the epoch in a world that has none.
    pub fn now_ms(&self) -> i64 {
        match self.state().now {
            Now::Logical(now) => i64::try_from(now.as_millis()).unwrap_or(i64::MAX),
            Now::Wall => 0,
        }
    }

    /// Moves a logical clock forwards.
    pub fn advance(&self, by: Duration) {
        if let Now::Logical(now) = &mut self.state().now {
            *now += by;
        }
    }
}

/// A stored object.
#[derive(Clone, Debug)]
pub struct Object {
    pub body: Bytes,
    pub meta: ObjectMeta,
    pub attributes: Attributes,
}

/// One page of a listing with its objects.
#[derive(Debug)]
pub struct ListPage {
    pub objects: Vec<ObjectMeta>,
    /// Common prefixes, with the delimiter at their end.
    pub prefixes: Vec<String>,
    /// Where the next page starts, exclusive; `None` on the last.
    pub next: Option<String>,
}

impl State {
    fn tick(&mut self) -> SystemTime {
        match &mut self.now {
            Now::Logical(now) => {
                *now += Duration::from_millis(1);
                SystemTime::UNIX_EPOCH + *now
            }
            #[expect(clippy::disallowed_methods, reason = "a server dates its objects by the real clock")]
            Now::Wall => SystemTime::now(),
        }
    }

    fn apply(&mut self, effect: &Effect) -> Result<PutResult> {
        match effect {
            Effect::Put { location, body, attributes, mode } => {
                let old = self.objects.get(location);
                match mode {
                    PutMode::Overwrite => {}
                    PutMode::Create if old.is_some() => return Err(exists(location)),
                    PutMode::Create => {}
                    PutMode::Update(version) => {
                        let tag = old.map(|stored| stored.e_tag.clone());
                        if tag.is_none() || tag != version.e_tag {
                            return Err(changed(location));
                        }
                    }
                }
                Ok(self.write(location, body.clone(), attributes.clone()))
            }
            Effect::Delete { location } => {
                if self.objects.remove(location).is_some() && matches!(self.rewrites, Rewrites::Checked(_)) {
                    self.history.entry(location.clone()).or_default().push(None);
                }
                Ok(PutResult { e_tag: None, version: None })
            }
            Effect::Copy { from, to, mode } => {
                let Stored { body, attributes, .. } =
                    self.objects.get(from).cloned().ok_or_else(|| missing(from))?;
                if *mode == CopyMode::Create && self.objects.contains_key(to) {
                    return Err(exists(to));
                }
                Ok(self.write(to, body, attributes))
            }
        }
    }

    fn write(&mut self, location: &Path, body: Bytes, attributes: Attributes) -> PutResult {
        self.check_rewrite(location, &body);
        let modified = self.tick();
        let e_tag = etag(&body);
        let created = self.objects.get(location).map_or(modified, |old| old.created);
        let stored = Stored { body, created, e_tag: e_tag.clone(), modified, attributes };
        self.objects.insert(location.clone(), stored);
        PutResult { e_tag: Some(e_tag), version: None }
    }

    fn check_rewrite(&mut self, location: &Path, body: &Bytes) {
        let Rewrites::Checked(rules) = &self.rewrites else { return };
        let past = self.history.entry(location.clone()).or_default();
        let deleted = past.last().is_some_and(Option::is_none);
        let free = rules.iter().any(|rule| rule(location.as_ref())) || deleted && is_wal(location.as_ref());
        let second = past.iter().flatten().any(|old| old != body);
        past.push(Some(body.clone()));
        assert!(free || !second, "the key {location} was written twice with two different bodies");
    }
}

impl Stored {
    fn meta(&self, location: &Path) -> ObjectMeta {
        ObjectMeta {
            location: location.clone(),
            last_modified: self.modified.into(),
            size: self.body.len() as u64,
            e_tag: Some(self.e_tag.clone()),
            version: None,
        }
    }
}

fn is_head(key: &str) -> bool {
    key.rsplit('/').next() == Some("head")
}

fn is_wal(key: &str) -> bool {
    key.split('/').any(|part| part == "wal")
}

/// A function of the content alone, as on S3: the same body again is the same tag.
pub(crate) fn etag(body: &Bytes) -> String {
    let mut hasher = DefaultHasher::new();
    hasher.write(body);
    format!("\"{:016x}-{:x}\"", hasher.finish(), body.len())
}

pub(crate) fn flipped(body: &Bytes, bit: usize) -> Bytes {
    let mut body = body.to_vec();
    body[bit / 8] ^= 1 << (bit % 8);
    body.into()
}

fn resolve(range: &GetRange, size: u64) -> Result<std::ops::Range<u64>> {
    let range = match *range {
        GetRange::Bounded(ref range) => range.start..range.end.min(size),
        GetRange::Offset(start) => start..size,
        GetRange::Suffix(length) => size.saturating_sub(length)..size,
    };
    match range.start < range.end {
        true => Ok(range),
        false => Err(Error::Generic {
            store: "world",
            source: format!("range {range:?} cannot be satisfied, the object has {size} bytes").into(),
        }),
    }
}

fn missing(location: &Path) -> Error {
    Error::NotFound { path: location.to_string(), source: "no such object".into() }
}

pub(crate) fn exists(location: &Path) -> Error {
    Error::AlreadyExists { path: location.to_string(), source: "the object exists".into() }
}

fn changed(location: &Path) -> Error {
    Error::Precondition { path: location.to_string(), source: "the object is another one".into() }
}

/// The text every key below the path `prefix` starts with.
pub(crate) fn text_prefix(prefix: Option<&Path>) -> String {
    match prefix {
        Some(prefix) if !prefix.as_ref().is_empty() => format!("{prefix}/"),
        _ => String::new(),
    }
}

/// Common prefixes as paths, each once.
pub(crate) fn prefix_paths(prefixes: Vec<String>) -> Vec<Path> {
    prefixes.iter().map(|prefix| path_of(prefix)).collect::<BTreeSet<_>>().into_iter().collect()
}

/// A key as it is stored; one that no path is stored as is encoded.
fn path_of(key: &str) -> Path {
    Path::parse(key).unwrap_or_else(|_| Path::from(key))
}
