//! From names to collections: create, open, list, drop.
//!
//! A name is a register of its own, `names/{name}/{~n}`, whose entries are never deleted: odd numbers bind the name to
//! a collection, even ones say that it was dropped. A record is true before the collection's register agrees with
//! it; whoever finds the difference removes it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use esker_format::keys::{self, Key, NAMES};
use esker_format::manifest::{NameRecord, NameState};
use esker_format::register::{Change, Refusal};
use esker_format::schema::{Schema, Settings};
use esker_format::{CollectionId, Error, Kind, Name, Result, Token, limits};

use crate::client::{Client, CreateReply};
use crate::collection::{Collection, gone};
use crate::doctor;
use crate::meter::Meter;
use crate::register::Commit;
use crate::snapshot::Begun;

/// A create or drop gives up resolving its outcome after this.
const DEADLINE: Duration = Duration::from_secs(30);
/// Upper bound of the wait before the same name is put again.
const WAIT: Duration = Duration::from_millis(100);

/// The collections of a store, and the handles this process has of them.
#[derive(Debug)]
pub struct Store {
    client: Client,
    open: Mutex<HashMap<Name, Arc<Collection>>>,
}

impl Store {
    /// The collections in `client`'s storage. No request is sent.
    pub fn new(client: Client) -> Self {
        Store { client, open: Mutex::default() }
    }

    /// The storage.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Creates a collection. `Conflict` if the name is taken, `Unknown` if the outcome could not be learnt.
    ///
    /// The name record comes first and holds everything that the first manifest does, so that whoever finds the
    /// manifest missing can put it.
    pub async fn create(
        &self,
        meter: &Meter,
        name: &Name,
        settings: Settings,
        schema: Schema,
    ) -> Result<Arc<Collection>> {
        settings.check()?;
        if schema.columns.len() > limits::COLUMNS {
            let message = format!("{} columns, the limit is {}", schema.columns.len(), limits::COLUMNS);
            return Err(Error::invalid("metadata", message));
        }
        schema.columns.iter().try_for_each(|c| esker_format::schema::check_key(&c.name))?;
        doctor::refuse_unsafe(&self.client, meter).await?;
        let seams = self.client.seams();
        let token = seams.token();
        let newest = self.newest_record(meter, name).await?;
        let n = newest.as_ref().map_or(1, |r| r.n + 1);
        if let Some(record) = &newest {
            if matches!(record.state, NameState::Bound { .. }) {
                return Err(taken(name));
            }
            self.finish_drop(meter, name, record.n).await?;
        }
        let id = CollectionId::new(name.clone(), n.div_ceil(2));
        let state = NameState::Bound { id: id.clone(), settings, schema };
        let record = NameRecord { n, token, at_ms: seams.clock.now_ms(), state };
        if !self.put_record(meter, name, &record).await? {
            return Err(taken(name));
        }
        let collection = Collection::new(self.client.clone(), id);
        collection.put_first(meter, &record).await?;
        Ok(self.remember(collection))
    }

    /// Drops a collection: the name record, then a last manifest that every later append will see, then the answer.
    /// `NotFound` if there is none of this name, `Unknown` if it may be dropped by now or later.
    pub async fn drop_collection(&self, meter: &Meter, name: &Name) -> Result<()> {
        let missing = || Error::new(Kind::NotFound, format!("collection `{name}` does not exist"));
        let bound = self.newest_record(meter, name).await?.ok_or_else(missing)?;
        let n = match &bound.state {
            NameState::Bound { .. } => bound.n + 1,
            NameState::Dropped => {
                self.finish_drop(meter, name, bound.n).await?;
                return Err(missing());
            }
        };
        let seams = self.client.seams();
        let record =
            NameRecord { n, token: seams.token(), at_ms: seams.clock.now_ms(), state: NameState::Dropped };
        // A rival's record at an even number is a drop as well.
        self.put_record(meter, name, &record).await?;
        // Whoever looks the name up finishes what this call began, so it can no longer be said to have failed.
        self.finish_drop(meter, name, n).await.map_err(|e| {
            Error::new(
                Kind::Unknown,
                format!("whether writers know that `{name}` was dropped is unknown: {e}"),
            )
            .with_hint("drop it again")
            .with_token(record.token)
            .with_source(e)
        })?;
        self.open().remove(name);
        Ok(())
    }

    /// A handle of the collection that has this name now. Warm: no request. `NotFound` if there is none.
    pub async fn collection(&self, meter: &Meter, name: &Name) -> Result<Arc<Collection>> {
        Ok(self.begin(meter, name).await?.0)
    }

    /// Begins a strong read: warm without a request, cold with one wave (head, log listing and name probe, none of
    /// which needs another's answer).
    pub async fn begin(&self, meter: &Meter, name: &Name) -> Result<(Arc<Collection>, Begun)> {
        let known = self.open().get(name).cloned();
        if let Some(collection) = known {
            // Learnt to be dropped: the name may mean another collection now.
            if collection.last_seen().is_some_and(|m| !m.dropped) {
                let begun = collection.begin(meter).await?;
                return Ok((collection, begun));
            }
        }
        let first = Collection::new(self.client.clone(), CollectionId::new(name.clone(), 1));
        let probe = keys::name_record(name, 2);
        let (first_meter, probe_meter) = (meter.fork(), meter.fork());
        let (begun, second) =
            futures::join!(first.begin_cold(&first_meter), self.client.get(&probe_meter, &probe));
        let (collection, begun) = match (begun, second?) {
            (Ok(begun), None) => (first, begun),
            (Err(e), None) if e.kind() != Kind::NotFound => return Err(e),
            (Err(_), None) => self.begin_bound(meter, name).await?,
            (_, Some(_)) => self.begin_bound(meter, name).await?,
        };
        if begun.manifest.dropped {
            return Err(gone(collection.id()));
        }
        Ok((self.remember_begun(collection, &begun), begun))
    }

    /// The slow way: the name's newest record says which collection it is.
    async fn begin_bound(&self, meter: &Meter, name: &Name) -> Result<(Arc<Collection>, Begun)> {
        let record = self.newest_record(meter, name).await?;
        let Some(NameRecord { state: NameState::Bound { id, .. }, .. }) = &record else {
            // Who dropped it may have died before the register's end, which is all that writers who know the
            // collection look at: none of them may be acknowledged after this answer.
            if let Some(dropped) = &record {
                self.finish_drop(meter, name, dropped.n).await?;
            }
            return Err(Error::new(Kind::NotFound, format!("collection `{name}` does not exist")));
        };
        let collection = Collection::new(self.client.clone(), id.clone());
        let begun = match collection.begin_cold(meter).await {
            Err(e) if e.kind() == Kind::NotFound => {
                // Its maker died between the record and the manifest.
                if let Some(record) = &record {
                    collection.put_first(meter, record).await?;
                }
                collection.begin_cold(meter).await?
            }
            begun => begun?,
        };
        Ok((collection, begun))
    }

    /// Every collection that has a name, sorted by name.
    pub async fn list(&self, meter: &Meter) -> Result<Vec<CollectionId>> {
        let mut newest: Vec<(Name, u64)> = Vec::new();
        for listed in self.client.list_all(meter, NAMES).await? {
            let Ok(Key::Name(name, n)) = Key::parse(&listed.key) else {
                return Err(Error::corrupt(&listed.key, "it is among the names and is no record's"));
            };
            // Newest first within a name.
            if newest.last().is_none_or(|(last, _)| *last != name) {
                newest.push((name, n));
            }
        }
        let bound = newest.into_iter().filter(|(_, n)| n % 2 == 1);
        Ok(bound.map(|(name, n)| CollectionId::new(name, n.div_ceil(2))).collect())
    }

    async fn newest_record(&self, meter: &Meter, name: &Name) -> Result<Option<NameRecord>> {
        let prefix = format!("{NAMES}{name}/");
        let page = self.client.list_page(meter, &prefix, None, 1).await?;
        let mut n = match page.objects.first().map(|l| Key::parse(&l.key)) {
            None => 0,
            Some(Ok(Key::Name(_, n))) => n,
            Some(_) => return Err(Error::corrupt(prefix, "it holds a name that is no record's")),
        };
        let mut newest = match n {
            0 => None,
            n => self.record(meter, name, n).await?,
        };
        // Names are never deleted: the first that is missing proves the one before newest.
        while let Some(next) = self.record(meter, name, n + 1).await? {
            n += 1;
            newest = Some(next);
        }
        Ok(newest)
    }

    async fn record(&self, meter: &Meter, name: &Name, n: u64) -> Result<Option<NameRecord>> {
        let key = keys::name_record(name, n);
        let Some((bytes, _)) = self.client.get(meter, &key).await? else { return Ok(None) };
        let record = NameRecord::decode(&key, &bytes)?;
        let bound = matches!(record.state, NameState::Bound { .. });
        if record.n != n || bound != (n % 2 == 1) {
            return Err(Error::corrupt(key, "it is another record than its name says"));
        }
        Ok(Some(record))
    }

    /// Puts a name record until its name is taken; whether it is ours.
    async fn put_record(&self, meter: &Meter, name: &Name, record: &NameRecord) -> Result<bool> {
        let key = keys::name_record(name, record.n);
        let ours = |bytes: &Bytes| Ok(NameRecord::decode(&key, bytes)?.token == record.token);
        put_until_taken(&self.client, meter, &key, record.encode()?, record.token, ours).await
    }

    /// Makes the register of the collection that record `n` dropped end, if it does not yet.
    async fn finish_drop(&self, meter: &Meter, name: &Name, n: u64) -> Result<()> {
        let bound = self.record(meter, name, n - 1).await?;
        let Some(NameRecord { state: NameState::Bound { id, .. }, .. }) = &bound else {
            return Err(Error::corrupt(keys::name_record(name, n - 1), "it binds no collection"));
        };
        let collection = Collection::new(self.client.clone(), id.clone());
        let newest = match collection.newest_listed(meter).await {
            Err(e) if e.kind() == Kind::NotFound => {
                if let Some(record) = &bound {
                    collection.put_first(meter, record).await?;
                }
                collection.newest_listed(meter).await?
            }
            newest => newest?,
        };
        let token = self.client.seams().token();
        match collection.commit(meter, newest, token, &Change::Drop).await? {
            Commit::Committed(manifest) => collection.refresh_head(meter, &manifest, Vec::new()).await,
            Commit::Refused { refusal: Refusal::Dropped, .. } => {}
            refused => drop(refused.into_result()?),
        }
        Ok(())
    }

    /// The process's one handle of the collection: calls that opened it at the same time would otherwise take slots from
    /// each other.
    fn remember(&self, collection: Arc<Collection>) -> Arc<Collection> {
        let mut open = self.open();
        if let Some(kept) = open.get(collection.name()).filter(|kept| kept.id() == collection.id()) {
            return kept.clone();
        }
        open.insert(collection.name().clone(), collection.clone());
        collection
    }

    /// The same, with what was learnt by opening it.
    fn remember_begun(&self, collection: Arc<Collection>, begun: &Begun) -> Arc<Collection> {
        let kept = self.remember(collection.clone());
        if !Arc::ptr_eq(&kept, &collection) {
            kept.learn_begun(begun);
        }
        kept
    }

    fn open(&self) -> std::sync::MutexGuard<'_, HashMap<Name, Arc<Collection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collection {
    /// Puts manifest/1 and head as the name record says, unless they are there.
    async fn put_first(&self, meter: &Meter, record: &NameRecord) -> Result<()> {
        let Some(first) = record.first_manifest() else {
            return Err(Error::internal("a record that binds nothing has no first manifest"));
        };
        let (key, bytes) = (self.keys().manifest(1), first.encode()?);
        put_until_taken(self.client(), meter, &key, bytes, record.token, |_| Ok(true)).await?;
        let first = Arc::new(first);
        self.refresh_head(meter, &first, Vec::new()).await;
        self.learn(first, None, []);
        Ok(())
    }
}

fn taken(name: &Name) -> Error {
    Error::new(Kind::Conflict, format!("collection `{name}` exists"))
}

/// Creates an object whose name is never deleted; on any reply but "created" reads it back: mine, a rival's, or absent,
/// and then the same name again.
async fn put_until_taken(
    client: &Client,
    meter: &Meter,
    key: &str,
    bytes: Bytes,
    token: Token,
    ours: impl Fn(&Bytes) -> Result<bool>,
) -> Result<bool> {
    let seams = client.seams();
    let unknown = |e: Error| {
        let message = format!("whether {key} was written is unknown: {e}");
        Error::new(Kind::Unknown, message).with_token(token).with_source(e)
    };
    let (start, mut first) = (seams.clock.elapsed(), true);
    loop {
        let failed = match client.create(meter, key, bytes.clone()).await {
            CreateReply::Created => return Ok(true),
            CreateReply::Refused(e) if first => return Err(e),
            CreateReply::Exists => None,
            CreateReply::Unresolved(e) | CreateReply::Refused(e) => Some(e),
        };
        first = false;
        if let Some((found, _)) = client.get(meter, key).await.map_err(unknown)? {
            return ours(&found);
        }
        if seams.clock.elapsed() - start >= DEADLINE {
            let cause =
                failed.unwrap_or_else(|| Error::new(Kind::Unavailable, "the store keeps nothing there"));
            return Err(unknown(cause));
        }
        seams.clock.sleep(seams.jitter(WAIT)).await;
    }
}

#[cfg(test)]
mod tests;
