//! The register: dense, each entry made from the one before, in which nothing goes back (INV-4).

use std::collections::BTreeSet;

use esker_format::keys::{Key, Part};
use esker_format::manifest::{Floors, Hashes, Manifest, RegisterEntry, Segment};
use esker_format::{Seq, SetHash, Token, Version};
use futures::{StreamExt, stream};

use super::Listing;
use super::log::Log;
use super::source::{At, Source, Stop};

/// Register entries read at once.
const AT_ONCE: usize = 32;
/// Unreadable entries that are passed over, from the newest down, to find one that says anything.
const PASSED: usize = 8;
/// Missing names of one gap that are looked for one by one.
const LOOKED_FOR: u64 = 16;

/// A version whose objects must be there: the newest, a retained or a pinned one.
#[derive(Debug, Clone)]
pub struct Kept {
    pub version: Version,
    pub watermark: Seq,
    pub hashes: Hashes,
    pub segments: Vec<Segment>,
}

/// The newest manifest by listing and probing; `None` where no register entry can be read.
pub async fn first(source: &Source<'_>) -> Result<Option<Manifest>, Stop> {
    let page = source.client.list_page(source.meter, &source.keys.manifest_prefix(), None, 1).await?;
    let listed = match page.objects.first().map(|o| Key::parse(&o.key)) {
        Some(Ok(Key::Of(_, Part::Manifest(version)))) => version,
        _ => 1,
    };
    if let Some(newest) = scan(source, None, listed).await? {
        return Ok(Some(newest));
    }
    // Not the newest, or nothing of ours: the newest that says anything is among the names below.
    let names = source.client.list_all(source.meter, &source.keys.manifest_prefix()).await?;
    let versions = names.iter().filter_map(|o| match Key::parse(&o.key) {
        Ok(Key::Of(_, Part::Manifest(version))) => Some(version),
        _ => None,
    });
    for version in versions.take(PASSED) {
        let read = source.settle(read(source, version).await)?;
        if let Some(Some(RegisterEntry::Manifest(manifest))) = read {
            return Ok(Some(*manifest));
        }
    }
    Ok(None)
}

/// The newest manifest, from one that is known on: the first name that is missing proves it.
pub async fn follow(source: &Source<'_>, from: Manifest) -> Result<Manifest, Stop> {
    let next = from.version.saturating_add(1);
    Ok(scan(source, Some(from.clone()), next).await?.unwrap_or(from))
}

async fn scan(
    source: &Source<'_>,
    mut newest: Option<Manifest>,
    from: Version,
) -> Result<Option<Manifest>, Stop> {
    for version in from..=Version::MAX {
        match source.settle(read(source, version).await)? {
            Some(None) => break,
            Some(Some(RegisterEntry::Manifest(manifest))) => newest = Some(*manifest),
            // A stub was overtaken by a collection: a manifest follows. An unreadable entry is found already.
            Some(Some(RegisterEntry::Stub(_))) | None => {}
        }
    }
    Ok(newest)
}

async fn read(source: &Source<'_>, version: Version) -> Result<Option<RegisterEntry>, Stop> {
    let key = source.keys.manifest(version);
    let Some(bytes) = source.get(&key).await? else { return Ok(None) };
    RegisterEntry::decode(&key, version, &bytes).at(&key, "INV-3").map(Some)
}

/// Whether the register has moved on so that what `newest` said is no longer so; `still` says so of the newest.
pub async fn moved(
    source: &Source<'_>,
    newest: &Manifest,
    still: impl Fn(&Manifest) -> bool,
) -> Result<bool, Stop> {
    let now = follow(source, newest.clone()).await?;
    Ok(now.dropped || (now.floors != newest.floors && !still(&now)))
}

/// What a later entry is compared with.
struct Before {
    version: Version,
    token: Token,
    floors: Floors,
    manifest: Option<Manifest>,
}

/// Reads the register as far as it is retained, all of it if `deep`; returns the versions whose objects must be there,
/// oldest first. `first` was there before the listing.
pub async fn check(
    source: &Source<'_>,
    listing: &Listing,
    first: &Manifest,
    newest: &Manifest,
) -> Result<Vec<Kept>, Stop> {
    let from = if source.options.deep { 1 } else { newest.floors.version.saturating_sub(1).max(1) };
    let mut versions: BTreeSet<Version> = listing.versions.range(..=newest.version).copied().collect();
    let (mut expected, last) = (1, first.version.max(versions.last().copied().unwrap_or(0)));
    for version in versions.clone().into_iter().chain([last.saturating_add(1)]) {
        if version > expected {
            versions.extend(gap(source, first, newest, expected, version).await?);
        }
        expected = version.saturating_add(1);
    }
    versions.extend(last.saturating_add(1)..=newest.version);
    for version in listing.versions.range(newest.version.saturating_add(1)..) {
        let message = format!("it is named, and version {} is missing", newest.version.saturating_add(1));
        source.found(&source.keys.manifest(*version), "INV-4", message);
    }
    versions.retain(|v| *v >= from || listing.pins.contains(v));
    let mut entries = stream::iter(versions.into_iter().map(|version| async move {
        let entry = source.settle(read(source, version).await);
        (version, entry)
    }))
    .buffered(AT_ONCE);
    let (mut before, mut kept): (Option<Before>, Vec<Kept>) = (None, Vec::new());
    while let Some((version, entry)) = entries.next().await {
        // What is missing was found missing before.
        let Some(Some(entry)) = entry? else { continue };
        if let Some(before) = before.as_ref().filter(|b| b.version.checked_add(1) == Some(version)) {
            check_step(source, before, &entry, version);
        }
        let (token, floors) = (entry.token(), entry.floors());
        let manifest = match entry {
            RegisterEntry::Manifest(manifest) => Some(*manifest),
            RegisterEntry::Stub(_) => {
                check_stub(source, version, newest).await?;
                None
            }
        };
        if let Some(m) = &manifest {
            check_alone(source, m, newest);
            if version >= newest.floors.version || listing.pins.contains(&version) {
                kept.push(Kept {
                    version,
                    watermark: m.watermark,
                    hashes: m.hashes,
                    segments: m.segments.clone(),
                });
            }
        }
        before = Some(Before { version, token, floors, manifest });
    }
    Ok(kept)
}

/// Names from `from` to below `to` that the listing lacks: which of them are there.
async fn gap(
    source: &Source<'_>,
    first: &Manifest,
    newest: &Manifest,
    from: Version,
    to: Version,
) -> Result<Vec<Version>, Stop> {
    let mut there = Vec::new();
    for version in from..to.min(from.saturating_add(LOOKED_FOR)) {
        let key = source.keys.manifest(version);
        if source.get(&key).await?.is_none() {
            let message = format!("it is missing, and the register goes on to version {}", newest.version);
            source.found(&key, "INV-4", message);
            continue;
        }
        there.push(version);
        if version <= first.version {
            source.found(&key, "listing", "it is there and the listing leaves it out");
        }
    }
    if to - from > LOOKED_FOR {
        let message = format!("versions from {from} to {} are missing", to - 1);
        source.found(&source.keys.manifest(from), "INV-4", message);
    }
    Ok(there)
}

async fn check_stub(source: &Source<'_>, version: Version, newest: &Manifest) -> Result<(), Stop> {
    if version < newest.floors.version {
        return Ok(());
    }
    if moved(source, newest, |now| version >= now.floors.version).await? {
        return Err(Stop::Moved);
    }
    let message = format!("it is a stub, and versions from {} on are retained", newest.floors.version);
    source.found(&source.keys.manifest(version), "INV-3", message);
    Ok(())
}

/// What a manifest says of itself.
fn check_alone(source: &Source<'_>, m: &Manifest, newest: &Manifest) {
    let key = source.keys.manifest(m.version);
    let found = |invariant, message: String| source.found(&key, invariant, message);
    if m.collection != *source.id {
        found("format", format!("it is of collection {}", m.collection));
    }
    if m.settings != newest.settings {
        found("INV-4", format!("its settings are not those of version {}", newest.version));
    }
    if m.version == 1 && (m.parent.is_some() || m.watermark != 0 || m.hashes.accepted != SetHash::default()) {
        found("INV-4", "the first version does not begin with nothing".to_owned());
    }
    let mut made = BTreeSet::new();
    for s in &m.segments {
        if !made.insert(s.made) {
            found("INV-5", format!("it has segment {} twice", s.made));
        }
        if s.seqs.1 > m.watermark || s.seqs.0 > s.seqs.1 {
            found("INV-5", format!("segment {} has entries above the watermark {}", s.made, m.watermark));
        }
        if s.made.base >= m.version {
            found("INV-4", format!("segment {} was made from version {} or later", s.made, m.version));
        }
        if s.deletes.as_ref().is_some_and(|d| d.count > s.rows) {
            found("INV-6", format!("more rows of segment {} are dead than it has", s.made));
        }
    }
}

/// Whether a version may follow the one before.
fn check_step(source: &Source<'_>, old: &Before, entry: &RegisterEntry, version: Version) {
    let key = source.keys.manifest(version);
    let found = |message: String| source.found(&key, "INV-4", message);
    if !entry.floors().at_least(&old.floors) {
        found("a floor is below that of the version before".to_owned());
    }
    let RegisterEntry::Manifest(new) = entry else { return };
    if new.parent != Some(old.token) {
        found(format!("its parent is not version {}", old.version));
    }
    let Some(old) = &old.manifest else { return };
    if new.watermark < old.watermark {
        found(format!("its watermark {} is below {} of the version before", new.watermark, old.watermark));
    }
    if !new.schema.extends(&old.schema) {
        found("its schema does not extend that of the version before".to_owned());
    }
    if old.dropped {
        found("it follows the end of the register".to_owned());
    }
}

/// INV-6: what entries are accepted between two versions, as far as the log is still there.
pub fn check_accepted(source: &Source<'_>, kept: &[Kept], log: &Log) {
    let nothing = Kept { version: 0, watermark: 0, hashes: Hashes::default(), segments: Vec::new() };
    let all: Vec<&Kept> = std::iter::once(&nothing).chain(kept).collect();
    for pair in all.windows(2) {
        let [old, new] = pair else { continue };
        let Some(entries) = log.accepted(old.watermark, new.watermark) else { continue };
        if new.hashes.accepted != old.hashes.accepted + entries {
            let message = format!(
                "accepted is not that of version {} and of entries {} to {}",
                old.version,
                old.watermark.saturating_add(1),
                new.watermark
            );
            source.found(&source.keys.manifest(new.version), "INV-6", message);
        }
    }
}
