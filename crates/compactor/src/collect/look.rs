//! What lies in the store, how old it is by the store's own clock, and which floors follow.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use esker_format::append;
use esker_format::keys::{self, Key, Made, Part};
use esker_format::manifest::{Floors, Manifest, RegisterEntry};
use esker_format::{Error, Kind, Result, Token, Version, limits};
use esker_store::{Client, Collection, Listed, Meter, Pin};

use super::{CollectOptions, Item, Kept, Reason, WORTH, reach, together};

/// Names on a page.
const PAGE: usize = 1000;
/// Names below the floor that are looked at: more than one group of stubs, of which a crash may leave any.
const SPARE: usize = 128;
/// A register entry of at most this many bytes is a stub: the largest stub is smaller, the smallest manifest larger.
pub(super) const STUB_BYTES: u64 = 320;
/// A temporary file that was not written to for this long is one of a process that died.
const TEMPORARY: Duration = Duration::from_secs(60 * 60);
/// A merge in steps of which nothing was written for this long is given up: three days, as ticks that make steps may be a day apart.
const JOB_MS: i64 = 3 * limits::UPLOAD_RETENTION_MS;

/// An empty object, put to learn what time it is in the store.
pub(super) struct Mark {
    key: String,
}

impl Mark {
    pub(super) async fn put(meter: &Meter, collection: &Collection, base: Version) -> Result<Self> {
        let made = Made { base, token: collection.client().seams().token() };
        let key = collection.keys().work(made);
        collection.client().overwrite(meter, &key, bytes::Bytes::new()).await?;
        Ok(Mark { key })
    }

    pub(super) async fn remove(&self, meter: &Meter, collection: &Collection) -> Result<()> {
        collection.client().delete(meter, &self.key).await
    }
}

/// What a candidate is, as far as its deletion goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Object {
    /// A manifest that becomes a stub.
    Version(Version),
    /// An upload, if nothing refers to it.
    Upload(Made),
    /// Goes whatever refers to it.
    Plain,
    Temporary,
    Pin(Version),
}

impl Object {
    /// Stubs, then uploads and the log, then temporary files, then pins.
    pub(super) fn stage(self) -> u8 {
        match self {
            Object::Version(_) => 0,
            Object::Upload(_) | Object::Plain => 1,
            Object::Temporary => 2,
            Object::Pin(_) => 3,
        }
    }

    pub(super) fn version(self) -> Option<Version> {
        match self {
            Object::Version(version) => Some(version),
            _ => None,
        }
    }
}

/// What may go under the floors.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) item: Item,
    pub(super) object: Object,
}

/// What was found.
pub(super) struct Look {
    /// The time in the store.
    now_ms: i64,
    /// When the newest version was written, if it was listed.
    newest_ms: Option<i64>,
    /// The floors to commit, or those that stand.
    pub(super) floors: Floors,
    /// The oldest version that stays retained, if it had to be read.
    pub(super) oldest: Option<Arc<Manifest>>,
    pub(super) pins: Vec<Pin>,
    pub(super) candidates: Vec<Candidate>,
}

/// The listings that do not depend on the floors.
struct Listings {
    versions: Vec<(Version, Listed)>,
    segments: Vec<Listed>,
    deletes: Vec<Listed>,
    work: Vec<Listed>,
    uploads: Vec<Listed>,
    temporary: Vec<Listed>,
}

impl Look {
    pub(super) async fn at(
        meter: &Meter,
        collection: &Arc<Collection>,
        newest: &Arc<Manifest>,
        mark: Option<&Mark>,
        options: &CollectOptions,
    ) -> Result<Look> {
        let client = collection.client();
        let keys = collection.keys();
        let meters: [Meter; 6] = std::array::from_fn(|_| meter.fork());
        let (segments, deletes) = (keys.segment_prefix(), keys.deletes_prefix());
        let (work, uploads, below) = (keys.work_prefix(), keys.upload_prefix(), keys.prefix());
        let (versions, segments, deletes, work, uploads, pins, temporary) = futures::try_join!(
            versions(&meters[0], collection, newest.floors.version),
            client.list_all(&meters[1], &segments),
            client.list_all(&meters[2], &deletes),
            client.list_all(&meters[3], &work),
            client.list_all(&meters[4], &uploads),
            collection.pins(&meters[5]),
            client.temporary(below),
        )?;
        let listings = Listings { versions, segments, deletes, work, uploads, temporary };
        let mut look = Look {
            now_ms: listings.now(client, mark, &pins)?,
            newest_ms: listings.modified(newest.version),
            floors: newest.floors,
            oldest: None,
            pins,
            candidates: Vec::new(),
        };
        if newest.dropped {
            look.candidates = all_of_dropped(meter, collection, newest, &listings, mark).await?;
            return Ok(look);
        }
        let floors = look.choose(meter, collection, newest, &listings, options).await?;
        look.candidates = look.below(meter, collection, &floors, &listings, mark).await?;
        look.candidates = look.going(meter, collection, newest, floors.version).await?;
        match floors != newest.floors && look.is_worth(&newest.floors) {
            true => look.floors = floors,
            false => {
                look.candidates.retain(|c| is_below(&c.item.reason, &newest.floors));
                look.candidates = look.going(meter, collection, newest, newest.floors.version).await?;
            }
        }
        Ok(look)
    }

    /// The candidates that go, with the versions from `oldest` on retained.
    async fn going(
        &self,
        meter: &Meter,
        collection: &Arc<Collection>,
        newest: &Arc<Manifest>,
        oldest: Version,
    ) -> Result<Vec<Candidate>> {
        let kept = reach::kept(meter, collection, self, oldest, newest, &self.pins).await?;
        Ok(self.candidates.iter().filter(|c| self.goes(c, &kept, &self.pins)).cloned().collect())
    }

    /// Whether higher floors would free anything. Old versions alone are not worth a commit, which makes the next one.
    fn is_worth(&self, standing: &Floors) -> bool {
        let freed = self.candidates.iter().filter(|c| !is_below(&c.item.reason, standing));
        let (versions, others): (Vec<&Candidate>, Vec<&Candidate>) =
            freed.partition(|c| c.object.version().is_some());
        !others.is_empty() || versions.len() >= WORTH
    }

    /// The floors below the oldest version that is retained by age: one is while the next is younger than `retain`.
    async fn choose(
        &mut self,
        meter: &Meter,
        collection: &Collection,
        newest: &Arc<Manifest>,
        listings: &Listings,
        options: &CollectOptions,
    ) -> Result<Floors> {
        let cutoff = self.now_ms.saturating_sub(millis(options.retain));
        let superseded = listings.versions.iter().filter(|(v, _)| *v <= newest.version);
        let young = superseded.filter(|(_, listed)| listed.modified_ms > cutoff).map(|(v, _)| v - 1);
        let oldest = young.min().unwrap_or(newest.version).max(newest.floors.version).max(1);
        let manifest = match oldest {
            v if v == newest.floors.version => return Ok(newest.floors),
            v if v == newest.version => newest.clone(),
            v => match collection.read_version(meter, v).await? {
                Some(RegisterEntry::Manifest(manifest)) => Arc::from(manifest),
                // Another collection is ahead.
                Some(RegisterEntry::Stub(_)) => return Ok(newest.floors),
                None => {
                    return Err(Error::corrupt(collection.keys().manifest(v), "it was listed and is gone"));
                }
            },
        };
        self.oldest = Some(manifest.clone());
        let f = newest.floors;
        Ok(Floors {
            wal: manifest.watermark.max(f.wal),
            base: oldest.max(f.base),
            version: oldest.max(f.version),
        })
    }

    /// Everything at or below the floors that may go, whatever may refer to it.
    async fn below(
        &self,
        meter: &Meter,
        collection: &Collection,
        floors: &Floors,
        listings: &Listings,
        mark: Option<&Mark>,
    ) -> Result<Vec<Candidate>> {
        let (client, keys) = (collection.client(), collection.keys());
        let (wal, bodies, inbox) = (keys.wal_prefix(), keys.body_prefix(), keys.inbox_prefix());
        // Newest first, so what is at or below the floor comes after the first name above it.
        let (above_wal, above_bodies) =
            (keys.wal(floors.wal + 1), keys.body(floors.wal + 1, Token(u128::MAX)));
        let above_inbox = keys.inbox(floors.wal, Token(u128::MAX));
        let meters: [Meter; 3] = std::array::from_fn(|_| meter.fork());
        let (wal, bodies, inbox) = futures::try_join!(
            list_after(client, &meters[0], &wal, above_wal),
            list_after(client, &meters[1], &bodies, above_bodies),
            list_after(client, &meters[2], &inbox, above_inbox)
        )?;
        let mut found = Vec::new();
        let mut add = |listed: &Listed, object, reason| {
            found.push(Candidate {
                item: Item { key: listed.key.clone(), bytes: listed.size, reason },
                object,
            });
        };
        let log = wal.iter().chain(&bodies).chain(&inbox);
        for listed in log.chain(&listings.segments).chain(&listings.deletes).chain(&listings.work) {
            let floor = floors.wal;
            match part(&listed.key)? {
                Part::Wal(seq) if seq <= floor => add(listed, Object::Plain, Reason::Entry { seq, floor }),
                Part::Body(until, _) if until <= floor => {
                    add(listed, Object::Plain, Reason::Body { until, floor });
                }
                Part::Inbox(tail, _) if append::is_past(tail, floor) => {
                    add(listed, Object::Plain, Reason::Offer { tail, floor });
                }
                Part::Rows(made) | Part::Index(made) | Part::Deletes(made) if made.base < floors.base => {
                    let reason = Reason::Unreachable { base: made.base, floor: floors.base };
                    add(listed, Object::Upload(made), reason);
                }
                Part::Work(_) if job(&listed.key).is_some() => {}
                Part::Work(made) if made.base < floors.base && mark.is_none_or(|m| m.key != listed.key) => {
                    add(listed, Object::Plain, Reason::Work { base: made.base });
                }
                _ => {}
            }
        }
        for (version, listed) in listings.versions.iter().filter(|(_, l)| l.size > STUB_BYTES) {
            if *version < floors.version {
                let reason = Reason::Version { version: *version, floor: floors.version };
                add(listed, Object::Version(*version), reason);
            }
        }
        self.by_age(listings, &mut add)?;
        Ok(found)
    }

    /// What goes by age alone.
    fn by_age(&self, listings: &Listings, add: &mut impl FnMut(&Listed, Object, Reason)) -> Result<()> {
        for pin in self.pins.iter().filter(|p| !p.holds(self.now_ms)) {
            let listed = Listed {
                key: pin.key.clone(),
                size: 0,
                etag: esker_store::ETag(String::new()),
                modified_ms: pin.modified_ms,
            };
            let (version, owner) = (pin.version, pin.lease.owner.clone());
            let reason = Reason::Pin { version, owner, released: pin.lease.released };
            add(&listed, Object::Pin(version), reason);
        }
        let dead = self.now_ms.saturating_sub(millis(TEMPORARY));
        for listed in listings.temporary.iter().filter(|l| l.modified_ms <= dead) {
            add(listed, Object::Temporary, Reason::Temporary);
        }
        let mut newest = BTreeMap::new();
        for (made, listed) in listings.work.iter().filter_map(|l| Some((job(&l.key)?, l))) {
            let at = newest.entry(made).or_insert(listed.modified_ms);
            *at = listed.modified_ms.max(*at);
        }
        let idle = self.now_ms.saturating_sub(JOB_MS);
        for listed in &listings.work {
            if job(&listed.key).is_some_and(|made| newest[&made] <= idle) {
                add(listed, Object::Plain, Reason::Job);
            }
        }
        for listed in &listings.uploads {
            let (days, reason) = match part(&listed.key)? {
                Part::Upload(_) => (1, Reason::Upload),
                // As long as the body is there, and longer: else a commit that is sent again would find nothing done.
                Part::Progress(_) => (2, Reason::Progress),
                _ => continue,
            };
            if listed.modified_ms <= self.now_ms.saturating_sub(days * limits::UPLOAD_RETENTION_MS) {
                add(listed, Object::Plain, reason);
            }
        }
        Ok(())
    }

    /// Whether the floors that stand were committed longer than `grace` ago.
    pub(super) fn fenced_before(&self, grace: Duration) -> bool {
        self.newest_ms.is_some_and(|at| at <= self.now_ms.saturating_sub(millis(grace)))
    }

    /// The versions that pins hold.
    pub(super) fn held(&self, pins: &[Pin]) -> BTreeSet<Version> {
        pins.iter().filter(|p| p.holds(self.now_ms)).map(|p| p.version).collect()
    }

    /// Whether a version is below the floor.
    pub(super) fn is_below(&self, version: Version) -> bool {
        version < self.floors.version
    }

    /// The uploads among the candidates.
    pub(super) fn uploads(&self) -> impl Iterator<Item = Made> {
        self.candidates.iter().filter_map(|c| match c.object {
            Object::Upload(made) => Some(made),
            _ => None,
        })
    }

    /// Whether a candidate goes, given what is kept and pinned.
    pub(super) fn goes(&self, candidate: &Candidate, kept: &Kept, pins: &[Pin]) -> bool {
        match candidate.object {
            Object::Upload(made) => !kept.contains(&made),
            Object::Version(version) => {
                let is_held = || pins.iter().any(|p| p.version == version && p.holds(self.now_ms));
                candidate.item.reason == Reason::Dropped || !is_held()
            }
            Object::Pin(_) => pins.iter().any(|p| p.key == candidate.item.key && !p.holds(self.now_ms)),
            Object::Plain | Object::Temporary => true,
        }
    }
}

/// The merge in steps that an object under `work/` is of; none of a mark.
fn job(key: &str) -> Option<Made> {
    match Key::parse(key.rsplit_once('/')?.0) {
        Ok(Key::Of(_, Part::Work(made))) => Some(made),
        _ => None,
    }
}

/// Whether an object may go under these floors already.
fn is_below(reason: &Reason, floors: &Floors) -> bool {
    match reason {
        Reason::Entry { seq, .. } | Reason::Body { until: seq, .. } => *seq <= floors.wal,
        Reason::Offer { tail, .. } => append::is_past(*tail, floors.wal),
        Reason::Unreachable { base, .. } | Reason::Work { base } => *base < floors.base,
        Reason::Version { version, .. } => *version < floors.version,
        Reason::Pin { .. } | Reason::Temporary | Reason::Job => true,
        Reason::Upload | Reason::Progress | Reason::Dropped => true,
    }
}

/// Of a dropped collection everything goes but the register, whose end tells whoever wrote to it.
async fn all_of_dropped(
    meter: &Meter,
    collection: &Collection,
    newest: &Manifest,
    listings: &Listings,
    mark: Option<&Mark>,
) -> Result<Vec<Candidate>> {
    let (client, keys) = (collection.client(), collection.keys());
    let folders = [
        keys.wal_prefix(),
        keys.body_prefix(),
        keys.inbox_prefix(),
        keys.pins_prefix(),
        keys::dirty_prefix(collection.id()),
    ];
    let lists = folders.iter().map(|folder| {
        let meter = meter.fork();
        async move { client.list_all(&meter, folder).await }
    });
    let head = keys.head();
    // The one name that follows this text, if it is there.
    let before_head = &head[..head.len() - 1];
    let head_meter = meter.fork();
    let (listed, page) = futures::try_join!(
        together(lists),
        client.list_page(&head_meter, keys.prefix(), Some(before_head), 1)
    )?;
    let head = page.objects.iter().filter(|l| l.key == head);
    let made = listings.segments.iter().chain(&listings.deletes).chain(&listings.work);
    let made = made.chain(&listings.uploads);
    let objects = listed.iter().flatten().chain(made).chain(head);
    let plain = objects.filter(|l| mark.is_none_or(|m| m.key != l.key)).map(|l| (l, Object::Plain));
    let versions = listings.versions.iter().filter(|(v, l)| *v < newest.version && l.size > STUB_BYTES);
    let versions = versions.map(|(v, l)| (l, Object::Version(*v)));
    let temporary = listings.temporary.iter().map(|l| (l, Object::Temporary));
    let candidate = |(listed, object): (&Listed, Object)| {
        let item = Item { key: listed.key.clone(), bytes: listed.size, reason: Reason::Dropped };
        Candidate { item, object }
    };
    Ok(versions.chain(plain).chain(temporary).map(candidate).collect())
}

impl Listings {
    /// The time in the store: when it took the mark. Without one the later of this machine's and the last that was seen.
    fn now(&self, client: &Client, mark: Option<&Mark>, pins: &[Pin]) -> Result<i64> {
        let Some(mark) = mark else {
            let listed = self.versions.iter().map(|(_, l)| l).chain(&self.segments).chain(&self.deletes);
            let seen = listed.map(|l| l.modified_ms).chain(pins.iter().map(|p| p.modified_ms)).max();
            return Ok(client.seams().clock.now_ms().max(seen.unwrap_or(i64::MIN)));
        };
        let listed = self.work.iter().find(|l| l.key == mark.key);
        listed.map(|l| l.modified_ms).ok_or_else(|| {
            Error::new(
                Kind::Unavailable,
                format!("the store does not list {}, which was just written", mark.key),
            )
            .with_hint("run `esker doctor`")
        })
    }

    fn modified(&self, version: Version) -> Option<i64> {
        self.versions.iter().find(|(v, _)| *v == version).map(|(_, l)| l.modified_ms)
    }
}

/// The register's names, newest first: all down to `floor`, and the rest of the page that has it, where a crash may have
/// left manifests that should be stubs.
async fn versions(meter: &Meter, collection: &Collection, floor: Version) -> Result<Vec<(Version, Listed)>> {
    let prefix = collection.keys().manifest_prefix();
    let mut found: Vec<(Version, Listed)> = Vec::new();
    loop {
        let after = found.last().map(|(_, l)| l.key.clone());
        let page = collection.client().list_page(meter, &prefix, after.as_deref(), PAGE).await?;
        for listed in page.objects {
            match part(&listed.key)? {
                Part::Manifest(version) => found.push((version, listed)),
                _ => return Err(Error::corrupt(&listed.key, "it is in the register and is no version")),
            }
        }
        let below = found.iter().rev().take_while(|(v, _)| *v < floor).count();
        if !page.more || below >= SPARE {
            return Ok(found);
        }
    }
}

async fn list_after(client: &Client, meter: &Meter, prefix: &str, after: String) -> Result<Vec<Listed>> {
    let (mut found, mut after) = (Vec::<Listed>::new(), after);
    loop {
        let page = client.list_page(meter, prefix, Some(&after), PAGE).await?;
        let last = page.objects.last().map(|l| l.key.clone());
        found.extend(page.objects);
        match last.filter(|_| page.more) {
            Some(last) => after = last,
            None => return Ok(found),
        }
    }
}

fn part(key: &str) -> Result<Part> {
    match Key::parse(key) {
        Ok(Key::Of(_, part)) => Ok(part),
        _ => Err(Error::corrupt(key, "it is no object of this format; `esker verify` lists such")),
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
