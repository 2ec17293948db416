//! Pins: durable leases on versions, which collections leave whole.
//!
//! A pin is put first and checked afterwards: only a register whose version floor is not above the version *after* the
//! put proves that no collection can have missed it, because a collector commits its floors, waits, and then lists the
//! pins again. When a pin ends is judged by the store's clock alone: the age of the object, by the time the store gives
//! an object just written. No machine's clock is asked.

use std::time::Duration;

use esker_format::keys::{Key, Part};
use esker_format::manifest::RegisterEntry;
use esker_format::pin::Lease;
use esker_format::{Error, Kind, Result, Token, Version};

use crate::client::{Listed, together};
use crate::collection::{Collection, live};
use crate::meter::Meter;

/// Longest lease.
pub const MOST: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// A pin counts this much longer than its lease says: its holder may have read the reply late.
pub const MARGIN: Duration = Duration::from_secs(10 * 60);

/// A lease as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// Its object's key.
    pub key: String,
    /// The version that stays whole.
    pub version: Version,
    /// Names the lease.
    pub token: Token,
    /// What its holder asked for.
    pub lease: Lease,
    /// When the store took it, by the store's clock; 0 from [`Collection::pin`].
    pub modified_ms: i64,
}

impl Pin {
    /// Whether it still counts when the store's clock says `now_ms`.
    pub fn holds(&self, now_ms: i64) -> bool {
        let margin = MARGIN.as_millis() as i64;
        let ttl = i64::try_from(self.lease.ttl_ms).unwrap_or(i64::MAX);
        !self.lease.released && self.modified_ms.saturating_add(ttl).saturating_add(margin) > now_ms
    }
}

impl Collection {
    /// Keeps a version whole for `ttl`: `as_of` reads of it answer the same until then. `owner` is for people.
    ///
    /// # Errors
    /// `NotFound` if there is no such version, `Gone` if it is no longer retained, `Invalid` for a lease of no time or of
    /// more than [`MOST`].
    pub async fn pin(&self, meter: &Meter, version: Version, ttl: Duration, owner: &str) -> Result<Pin> {
        if ttl.is_zero() || ttl > MOST {
            let message = format!("a lease of {} s; it may be up to {} s", ttl.as_secs(), MOST.as_secs());
            return Err(Error::invalid("ttl", message));
        }
        let token = self.client().seams().token();
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let lease = Lease { owner: owner.to_owned(), ttl_ms, released: false };
        let pin = Pin { key: self.keys().pin(version, token), version, token, lease, modified_ms: 0 };
        self.client().overwrite(meter, &pin.key, pin.lease.encode()?).await?;
        // Only what the register says now counts: a floor that rises later is one whose collector sees the pin.
        match self.may_be_pinned(meter, version).await {
            Ok(()) => Ok(pin),
            Err(e) => {
                if let Err(e) = self.unpin(meter, &pin).await {
                    tracing::debug!(key = pin.key, error = %e, "a pin that holds nothing was left behind");
                }
                Err(e)
            }
        }
    }

    async fn may_be_pinned(&self, meter: &Meter, version: Version) -> Result<()> {
        let newest = self.manifest(meter).await?;
        if version == 0 || version > newest.version {
            return Err(no_version(self, version));
        }
        match version < newest.floors.version {
            true => Err(not_retained(self, version, newest.floors.version)),
            false => live(newest).map(drop),
        }
    }

    /// Ends a lease. Collections remove what it alone kept, and the pin last.
    pub async fn unpin(&self, meter: &Meter, pin: &Pin) -> Result<()> {
        let released = Lease { released: true, ..pin.lease.clone() };
        self.client().overwrite(meter, &pin.key, released.encode()?).await
    }

    /// Every pin, by version; those that have ended too, until a collection removes them.
    pub async fn pins(&self, meter: &Meter) -> Result<Vec<Pin>> {
        let listed = self.client().list_all(meter, &self.keys().pins_prefix()).await?;
        let reads = listed.into_iter().map(|listed| {
            let meter = meter.fork();
            async move { self.read_pin(&meter, listed).await }
        });
        Ok(together(reads).await?.into_iter().flatten().collect())
    }

    async fn read_pin(&self, meter: &Meter, listed: Listed) -> Result<Option<Pin>> {
        let Listed { key, modified_ms, .. } = listed;
        let (version, token) = match Key::parse(&key) {
            Ok(Key::Of(id, Part::Pin(version, token))) if id == *self.id() => (version, token),
            _ => return Err(Error::corrupt(&key, "it is among the pins and is none")),
        };
        let Some((bytes, _)) = self.client().get(meter, &key).await? else { return Ok(None) };
        let lease = Lease::decode(&key, &bytes)?;
        Ok(Some(Pin { key, version, token, lease, modified_ms }))
    }

    /// The error of a read of a version that is a stub, naming the oldest one that is none for sure.
    pub(crate) async fn gone_version(&self, meter: &Meter, version: Version) -> Result<Error> {
        let newest = self.manifest(meter).await?;
        Ok(not_retained(self, version, newest.floors.version))
    }

    /// Overwrites a version by its stub, unless it is one; whether it was a manifest. Only for versions below a
    /// committed floor, and before anything that they refer to is deleted.
    pub async fn stub(&self, meter: &Meter, version: Version) -> Result<bool> {
        let Some(RegisterEntry::Manifest(manifest)) = self.read_version(meter, version).await? else {
            return Ok(false);
        };
        let stub = manifest.stub().encode()?;
        self.client().overwrite(meter, &self.keys().manifest(version), stub).await?;
        Ok(true)
    }
}

fn no_version(collection: &Collection, version: Version) -> Error {
    Error::new(Kind::NotFound, format!("{} has no version {version}", collection.id()))
}

fn not_retained(collection: &Collection, version: Version, oldest: Version) -> Error {
    let id = collection.id();
    let message =
        format!("version {version} of {id} is no longer retained; the oldest retained is version {oldest}");
    Error::new(Kind::Gone, message).with_hint("pin a version to read it for longer than the retention")
}

#[cfg(test)]
mod tests;
