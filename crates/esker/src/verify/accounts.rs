//! Every byte accounted for: what each object of the listing is for.

use std::collections::{BTreeMap, BTreeSet};

use esker_format::append;
use esker_format::keys::{Key, Made, Part};
use esker_format::manifest::Manifest;
use esker_format::pin::Lease;

use super::chain::{Kept, moved};
use super::log::Log;
use super::source::{At, Source, Stop};
use super::{Class, Listing, Report};

/// What some versions reach, by name: the size of each object as the manifest has it.
fn reach(source: &Source<'_>, segments: &[esker_format::manifest::Segment]) -> BTreeMap<String, u64> {
    let mut out = BTreeMap::new();
    for s in segments {
        out.insert(source.keys.rows(s.made), s.rows_size);
        out.insert(source.keys.index(s.made), s.index_size);
        out.extend(s.deletes.as_ref().map(|d| (source.keys.deletes(d.made), d.size)));
    }
    out
}

/// What was committed before the listing and is live still must be in the listing, as long as it was written.
pub async fn check_listing(
    source: &Source<'_>,
    listing: &Listing,
    first: &Manifest,
    newest: &Manifest,
) -> Result<(), Stop> {
    let before = reach(source, &first.segments);
    for (key, size) in reach(source, &newest.segments) {
        match listing.sizes.get(&key) {
            Some(listed) if *listed != size => {
                source.found(&key, "INV-3", format!("it has {listed} bytes where {size} were written"));
            }
            None if before.contains_key(&key) => match source.client.suffix(source.meter, &key, 1).await {
                Ok(_) => source.found(&key, "listing", "it is there and the listing leaves it out"),
                Err(e) if e.kind() == esker_format::Kind::NotFound => {
                    let still = |now: &Manifest| reach(source, &now.segments).contains_key(&key);
                    if moved(source, newest, still).await? {
                        return Err(Stop::Moved);
                    }
                    source.found(
                        &key,
                        "INV-3",
                        format!("it is missing and version {} has it", newest.version),
                    );
                }
                Err(e) => return Err(e.into()),
            },
            _ => {}
        }
    }
    Ok(())
}

/// Every pin that is still there can be read.
pub async fn check_pins(source: &Source<'_>, listing: &Listing) -> Result<(), Stop> {
    for object in &listing.objects {
        if let Ok(Key::Of(_, Part::Pin(..))) = Key::parse(&object.key)
            && let Some(bytes) = source.get(&object.key).await?
        {
            source.settle(Lease::decode(&object.key, &bytes).at(&object.key, "INV-3"))?;
        }
    }
    Ok(())
}

/// Puts every object of the listing into its class.
pub fn take(
    source: &Source<'_>,
    listing: &Listing,
    newest: &Manifest,
    kept: &[Kept],
    log: &Log,
    report: &mut Report,
) {
    let live: BTreeSet<String> = reach(source, &newest.segments).into_keys().collect();
    let retained: BTreeSet<String> =
        kept.iter().flat_map(|k| reach(source, &k.segments).into_keys()).collect();
    let waits = |made: &Made| match made.base < newest.floors.base {
        true => Class::Garbage,
        false => Class::Orphan,
    };
    for object in &listing.objects {
        let key = object.key.as_str();
        let part = match Key::parse(key) {
            Ok(Key::Of(id, part)) if id == *source.id => part,
            _ => {
                source.found(key, "format", "it is no object of this format");
                count(report, Class::Unknown, object.size);
                continue;
            }
        };
        let class = match &part {
            Part::Manifest(_) | Part::Head => Class::Register,
            _ if newest.dropped => Class::Garbage,
            Part::Wal(seq) if *seq <= newest.floors.wal => Class::Garbage,
            Part::Wal(seq) if *seq <= newest.watermark => Class::Retained,
            Part::Wal(_) => Class::Tail,
            Part::Rows(_) | Part::Index(_) | Part::Deletes(_) if live.contains(key) => Class::Live,
            Part::Rows(_) | Part::Index(_) | Part::Deletes(_) if retained.contains(key) => Class::Retained,
            Part::Rows(made) | Part::Index(made) | Part::Deletes(made) => waits(made),
            Part::Body(until, _) if *until <= newest.floors.wal => Class::Garbage,
            Part::Body(..) => match log.bodies.get(key) {
                Some(seq) if *seq <= newest.watermark => Class::Retained,
                Some(_) => Class::Tail,
                None => Class::Orphan,
            },
            Part::Inbox(tail, _) if append::is_past(*tail, newest.floors.wal) => Class::Garbage,
            Part::Inbox(..) => Class::Inbox,
            Part::Work(_) => Class::Work,
            Part::Upload(_) | Part::Progress(_) => Class::Uploads,
            Part::Pin(..) => Class::Pins,
        };
        count(report, class, object.size);
    }
}

/// Without a register nothing says what an object is for.
pub fn without_register(source: &Source<'_>, listing: &Listing, report: &mut Report) {
    for object in &listing.objects {
        let class = match Key::parse(&object.key) {
            Ok(Key::Of(_, Part::Manifest(_) | Part::Head)) => Class::Register,
            Ok(Key::Of(id, _)) if id == *source.id => Class::Orphan,
            _ => Class::Unknown,
        };
        count(report, class, object.size);
    }
}

fn count(report: &mut Report, class: Class, bytes: u64) {
    report.objects += 1;
    report.bytes += bytes;
    report.classes.entry(class).or_default().add(bytes);
}
