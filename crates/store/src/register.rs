//! The commit register: finding the newest version, and committing one more.
//!
//! Names are never reused, so `GET manifest/{v+1}` = 404 proves that v was the newest at that instant. What may
//! follow a version, and what a read-back means, is decided by the pure functions of `esker_format::register`.

use std::sync::Arc;
use std::time::Duration;

use esker_format::keys::parse_descending;
use esker_format::manifest::{Manifest, RegisterEntry};
use esker_format::register::{self, Change, Refusal, Settled};
use esker_format::{Error, Kind, Result, Token, Version};

use crate::client::CreateReply;
use crate::collection::Collection;
use crate::meter::Meter;

/// A commit gives up resolving its outcome after this.
const DEADLINE: Duration = Duration::from_secs(30);
/// First upper bound of the wait before the same name is put again.
const FIRST_WAIT: Duration = Duration::from_millis(20);
/// Greatest upper bound of that wait.
const MOST_WAIT: Duration = Duration::from_secs(2);

/// How a commit ended.
#[derive(Debug)]
pub enum Commit {
    /// The change is the manifest of this version.
    Committed(Arc<Manifest>),
    /// Nothing was committed: the change cannot follow the newest version.
    Refused {
        /// Why.
        refusal: Refusal,
        /// What it would have had to follow.
        newest: Arc<Manifest>,
    },
}

impl Commit {
    /// The committed manifest, or the refusal as an error.
    pub fn into_result(self) -> Result<Arc<Manifest>> {
        match self {
            Commit::Committed(manifest) => Ok(manifest),
            Commit::Refused { refusal, .. } => Err(refusal.into_error()),
        }
    }
}

impl Collection {
    /// The register's entry of a version.
    pub async fn read_version(&self, meter: &Meter, version: Version) -> Result<Option<RegisterEntry>> {
        let key = self.keys().manifest(version);
        let Some((bytes, _)) = self.client().get(meter, &key).await? else { return Ok(None) };
        let entry = RegisterEntry::decode(&key, version, &bytes)?;
        if let RegisterEntry::Manifest(m) = &entry
            && m.collection != *self.id()
        {
            return Err(Error::corrupt(key, format!("it is of collection {}", m.collection)));
        }
        Ok(Some(entry))
    }

    /// The newest manifest, of a dropped collection too.
    pub async fn newest(&self, meter: &Meter) -> Result<Arc<Manifest>> {
        let start = match self.known() {
            Some(known) => known.manifest,
            None => self.read_head(meter).await?.0,
        };
        self.follow(meter, start).await
    }

    /// The newest version, starting from one that is committed: probes the next names up to the first that is
    /// missing.
    pub(crate) async fn follow(&self, meter: &Meter, from: Arc<Manifest>) -> Result<Arc<Manifest>> {
        let start = self.now();
        let (mut version, mut newest) = (from.version, Some(from));
        while let Some(entry) = self.read_version(meter, version + 1).await? {
            version += 1;
            newest = match entry {
                RegisterEntry::Manifest(m) => Some(Arc::from(m)),
                // No longer retained, so a newer one is.
                RegisterEntry::Stub(_) => None,
            };
        }
        let newest = newest.ok_or_else(|| {
            Error::corrupt(self.keys().manifest(version), "the newest version is one no longer retained")
        })?;
        self.learn_newest(&newest, start);
        Ok(newest)
    }

    /// The newest version by listing the register, for when there is no head. It may be overtaken at once.
    pub(crate) async fn newest_listed(&self, meter: &Meter) -> Result<Arc<Manifest>> {
        let prefix = self.keys().manifest_prefix();
        let page = self.client().list_page(meter, &prefix, None, 1).await?;
        let Some(first) = page.objects.first() else {
            return Err(Error::new(Kind::NotFound, format!("collection `{}` does not exist", self.name())));
        };
        let version = first.key.strip_prefix(&prefix).and_then(parse_descending);
        let version =
            version.ok_or_else(|| Error::corrupt(&first.key, "it is in the register and is no version"))?;
        match self.read_version(meter, version).await? {
            Some(RegisterEntry::Manifest(m)) => Ok(Arc::from(m)),
            // Listed as the newest and a stub by now: newer versions follow.
            Some(RegisterEntry::Stub(_)) => self.first_retained_after(meter, version).await,
            None => Err(Error::corrupt(&first.key, "it was listed and is gone: names are never deleted")),
        }
    }

    async fn first_retained_after(&self, meter: &Meter, mut version: Version) -> Result<Arc<Manifest>> {
        loop {
            version += 1;
            match self.read_version(meter, version).await? {
                Some(RegisterEntry::Manifest(m)) => return Ok(Arc::from(m)),
                Some(RegisterEntry::Stub(_)) => {}
                None => {
                    let key = self.keys().manifest(version - 1);
                    return Err(Error::corrupt(key, "the newest version is one no longer retained"));
                }
            }
        }
    }

    /// Commits `change` after `base` or, if others committed meanwhile, after the newest version that it can
    /// follow. What the change refers to must have been uploaded.
    ///
    /// # Errors
    /// `Unknown`, with the token, if the outcome could not be learnt; otherwise nothing was committed.
    pub(crate) async fn commit(
        &self,
        meter: &Meter,
        base: Arc<Manifest>,
        token: Token,
        change: &Change,
    ) -> Result<Commit> {
        let mut newest = base;
        loop {
            let at_ms = self.client().seams().clock.now_ms();
            let manifest = match register::next(&newest, token, at_ms, change) {
                Ok(manifest) => Arc::new(manifest),
                // What is too old to follow may be so because of what we know, not because of what is.
                Err(refusal) => {
                    let seen = newest.version;
                    newest = self.follow(meter, newest).await?;
                    if newest.version == seen {
                        return Ok(Commit::Refused { refusal, newest });
                    }
                    continue;
                }
            };
            match self.put_version(meter, &manifest).await? {
                None => {
                    self.learn(manifest.clone(), None, []);
                    return Ok(Commit::Committed(manifest));
                }
                // A rival's: ours can never land under this name. Apply the change to what follows it.
                Some(RegisterEntry::Manifest(rival)) => newest = self.follow(meter, Arc::from(rival)).await?,
                Some(RegisterEntry::Stub(stub)) => {
                    newest = self.first_retained_after(meter, stub.version).await?;
                }
            }
        }
    }

    /// Puts one version until its name is taken: `None` if by us, else the rival's entry.
    async fn put_version(&self, meter: &Meter, manifest: &Manifest) -> Result<Option<RegisterEntry>> {
        let seams = self.client().seams();
        let (key, bytes) = (self.keys().manifest(manifest.version), manifest.encode()?);
        let unknown = |e: Error| {
            Error::new(
                Kind::Unknown,
                format!("whether version {} was committed is unknown: {e}", manifest.version),
            )
            .with_token(manifest.token)
            .with_source(e)
        };
        let (start, mut wait, mut tries) = (seams.clock.elapsed(), FIRST_WAIT, 0);
        loop {
            tries += 1;
            let failed = match self.client().create(meter, &key, bytes.clone()).await {
                CreateReply::Created => return Ok(None),
                // The first put was the only one and the store turned it down.
                CreateReply::Refused(e) if tries == 1 => return Err(e),
                CreateReply::Exists => None,
                CreateReply::Unresolved(e) | CreateReply::Refused(e) => Some(e),
            };
            // Any reply but "created": only reading back tells.
            let found = self.read_version(meter, manifest.version).await.map_err(unknown)?;
            match register::settle(manifest.token, found.as_ref()) {
                Settled::Committed => return Ok(None),
                Settled::Rebase => return Ok(found),
                Settled::PutAgain => {}
            }
            if seams.clock.elapsed() - start >= DEADLINE {
                let cause =
                    failed.unwrap_or_else(|| Error::new(Kind::Unavailable, "the store keeps nothing there"));
                return Err(unknown(cause));
            }
            seams.clock.sleep(seams.jitter(wait)).await;
            wait = MOST_WAIT.min(wait * 2);
        }
    }
}

#[cfg(test)]
mod tests;
