//! `esker verify`: what is true of a collection, derived again from the stored bytes alone.
//!
//! Nothing of the engine's reading and nothing of the collector is asked: this code lists, gets, decodes by the format
//! pages and reasons for itself. It sees the newest manifest before it lists (so that the listing must have whatever
//! that manifest has), and reads the register again after (so that what is judged is what was newest then). An object
//! that is missing while floors rise was collected meanwhile: the examination begins again.
//!
//! Memory: some 100 bytes an object of the listing, the manifests that are retained without their tokens, 16 bytes a
//! row of the segment that is read and 8 bytes a live row of the newest version (hashes of ids), a bit a row and
//! retained deletion bitmap, one row group without its vectors, and one log entry.

mod accounts;
mod chain;
mod head;
mod log;
mod report;
mod root;
mod segment;
mod segments;
mod source;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use esker_format::keys::{Key, Part};
use esker_format::{CollectionId, Error, Kind, Result};
use esker_store::{Client, Listed, Meter};

pub use report::{Class, Finding, Progress, Report, Rows, StoreReport, Sum};
pub use root::{resolve, store};
use source::{Source, Stop};

/// Most examinations of a collection whose objects are collected meanwhile.
const ATTEMPTS: u32 = 16;

/// How closely to look.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Every code and every payload row is derived again instead of one in 16, and every register entry is read
    /// instead of those that are retained.
    pub deep: bool,
}

/// Hears how far a verification is.
pub type Listener<'a> = &'a (dyn Fn(Progress) + Sync);

/// Examines one collection. What is wrong with it is in the report.
///
/// # Errors
/// `NotFound` when nothing is stored of the collection, `Busy` when it is collected faster than it can be read, and
/// whatever kept the store from answering.
pub async fn collection(
    client: &Client,
    meter: &Meter,
    id: &CollectionId,
    options: Options,
    listener: Listener<'_>,
) -> Result<Report> {
    for restarts in 0..ATTEMPTS {
        let source = Source::new(client, meter, id, options, listener);
        let mut report = Report::new(id, restarts);
        match examine(&source, &mut report).await {
            Ok(()) => {}
            Err(Stop::Moved) => continue,
            Err(Stop::Failed(e)) => return Err(e),
            Err(Stop::Found(finding)) => source.add(finding),
            Err(Stop::Missing(key)) => source.found(&key, "INV-3", "it is missing"),
        }
        (report.findings, report.more) = source.into_findings();
        return Ok(report);
    }
    Err(Error::new(Kind::Busy, format!("{id} is collected faster than it can be read"))
        .with_hint("verify it again later"))
}

/// One listing of a collection.
struct Listing {
    objects: Vec<Listed>,
    sizes: BTreeMap<String, u64>,
    versions: BTreeSet<u64>,
    entries: BTreeSet<u64>,
    pins: BTreeSet<u64>,
}

impl Listing {
    async fn read(source: &Source<'_>) -> Result<Self, Stop> {
        let objects = source.client.list_all(source.meter, source.keys.prefix()).await?;
        let sizes = objects.iter().map(|o| (o.key.clone(), o.size)).collect();
        let (mut versions, mut entries, mut pins) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for object in &objects {
            match Key::parse(&object.key) {
                Ok(Key::Of(_, Part::Manifest(version))) => drop(versions.insert(version)),
                Ok(Key::Of(_, Part::Wal(seq))) => drop(entries.insert(seq)),
                Ok(Key::Of(_, Part::Pin(version, _))) => drop(pins.insert(version)),
                _ => {}
            }
        }
        Ok(Listing { objects, sizes, versions, entries, pins })
    }
}

async fn examine(source: &Source<'_>, report: &mut Report) -> Result<(), Stop> {
    source.stage("listing", 0, 1);
    let first = chain::first(source).await?;
    let listing = Listing::read(source).await?;
    let Some(first) = first else {
        if listing.objects.is_empty() {
            return Err(Error::new(Kind::NotFound, format!("nothing is stored of {}", source.id)).into());
        }
        if source.is_clean() {
            source.found(&source.keys.manifest(1), "INV-4", "the register has no readable entry");
        }
        accounts::without_register(source, &listing, report);
        return Ok(());
    };
    let newest = chain::follow(source, first.clone()).await?;
    (report.version, report.watermark) = (newest.version, newest.watermark);
    (report.dropped, report.hashes.manifest) = (newest.dropped, newest.hashes);
    let kept = chain::check(source, &listing, &first, &newest).await?;
    if newest.dropped {
        accounts::take(source, &listing, &newest, &[], &log::Log::default(), report);
        return Ok(());
    }
    accounts::check_pins(source, &listing).await?;
    head::check(source, &newest).await?;
    let log = log::check(source, &listing, &first, &newest).await?;
    chain::check_accepted(source, &kept, &log);
    accounts::check_listing(source, &listing, &first, &newest).await?;
    let live = segments::check(source, &listing, &newest, &kept, report).await?;
    let (tail, touched) = log.fold(&live);
    report.last = log.last;
    report.rows = Rows { segments: live.len() as u64, tail, live: live.len() as u64 - touched + tail };
    accounts::take(source, &listing, &newest, &kept, &log, report);
    Ok(())
}
