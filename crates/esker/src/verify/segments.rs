//! The segments of every version that counts: conservation of their live rows (INV-6), each id live once (INV-5).

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::AsArray;
use esker_format::SetHash;
use esker_format::keys::Made;
use esker_format::manifest::{Deletes, Manifest, RegisterEntry, Segment};
use esker_format::schema::arrow_schema;
use esker_format::segment::deletes;
use esker_format::segment::rows::decode_chunk;

use super::chain::{Kept, moved};
use super::segment::{self, Subject, View};
use super::source::{At, Source, Stop, broken};
use super::{Listing, Report};

/// What the live rows of a segment under a bitmap add up to.
type Sums = BTreeMap<(Made, Option<Made>), SetHash>;

/// Checks every segment once, under each of its bitmaps. Returns the hashes of the ids that are live in the newest
/// version's segments, sorted.
pub async fn check(
    source: &Source<'_>,
    listing: &Listing,
    newest: &Manifest,
    kept: &[Kept],
    report: &mut Report,
) -> Result<Vec<u64>, Stop> {
    let mut all: BTreeMap<Made, (&Segment, Vec<Option<&Deletes>>)> = BTreeMap::new();
    for s in kept.iter().flat_map(|k| &k.segments).chain(&newest.segments) {
        let (first, views) = all.entry(s.made).or_insert_with(|| (s, Vec::new()));
        if (Segment { deletes: None, ..s.clone() }) != (Segment { deletes: None, ..first.clone() }) {
            let message = "versions disagree about its rows and sizes";
            source.found(&source.keys.index(s.made), "INV-4", message);
        }
        if !views.contains(&s.deletes.as_ref()) {
            views.push(s.deletes.as_ref());
        }
    }
    let total = all.values().map(|(s, _)| s.rows).sum();
    let (mut sums, mut live, mut before) = (Sums::new(), Vec::new(), 0);
    for (made, (segment, bitmaps)) in all {
        let current = newest.segments.iter().find(|s| s.made == made);
        let mut views = Vec::new();
        for deletes in bitmaps {
            let dead = bitmap(source, listing, segment, deletes).await;
            let Some(dead) = present(source, newest, kept, dead).await? else { continue };
            let is_newest = current.is_some_and(|s| s.deletes.as_ref() == deletes);
            views.push(View { deletes: deletes.cloned(), dead, is_newest, sum: SetHash::default() });
        }
        let checked = segment::check(source, newest, segment, &mut views, &mut live, (before, total)).await;
        if present(source, newest, kept, checked).await? == Some(true) {
            sums.extend(views.iter().map(|v| ((made, v.deletes.as_ref().map(|d| d.made)), v.sum)));
        }
        before += segment.rows;
    }
    report.hashes.derived_live = sum(&sums, &newest.segments);
    for k in kept {
        if sum(&sums, &k.segments).is_some_and(|live| live != k.hashes.live) {
            let message = "live is not what the live rows of its segments add up to";
            source.found(&source.keys.manifest(k.version), "INV-6", message);
        }
    }
    live.sort_unstable();
    let twice: BTreeSet<u64> = live.windows(2).filter(|w| w[0] == w[1]).map(|w| w[0]).collect();
    if !twice.is_empty() {
        let named = name_twice(source, newest, &twice).await;
        present(source, newest, kept, named).await?;
    }
    Ok(live)
}

fn sum(sums: &Sums, segments: &[Segment]) -> Option<SetHash> {
    segments.iter().map(|s| sums.get(&(s.made, s.deletes.as_ref().map(|d| d.made))).copied()).sum()
}

/// Settles a check: an object that is missing was collected meanwhile, or is lost.
async fn present<T>(
    source: &Source<'_>,
    newest: &Manifest,
    kept: &[Kept],
    checked: Result<T, Stop>,
) -> Result<Option<T>, Stop> {
    let key = match checked {
        Err(Stop::Missing(key)) => key,
        settled => return source.settle(settled),
    };
    let names = |s: &Segment| {
        let deletes = s.deletes.as_ref().map(|d| source.keys.deletes(d.made));
        source.keys.rows(s.made) == key || source.keys.index(s.made) == key || deletes.as_ref() == Some(&key)
    };
    if moved(source, newest, |now| now.segments.iter().any(names)).await? {
        return Err(Stop::Moved);
    }
    // Below the floor a version counts while it is pinned, and becomes a stub before anything of it is deleted.
    let mut by = Vec::new();
    for k in kept.iter().filter(|k| k.segments.iter().any(names)) {
        let name = source.keys.manifest(k.version);
        let entry = source.get(&name).await?.map(|bytes| RegisterEntry::decode(&name, k.version, &bytes));
        match entry {
            Some(Ok(RegisterEntry::Stub(_))) => return Err(Stop::Moved),
            _ => by.push(k.version.to_string()),
        }
    }
    source.found(&key, "INV-3", format!("it is missing and version {} has it", by.join(", ")));
    Ok(None)
}

/// The dead rows of a segment.
async fn bitmap(
    source: &Source<'_>,
    listing: &Listing,
    segment: &Segment,
    reference: Option<&Deletes>,
) -> Result<roaring::RoaringBitmap, Stop> {
    let Some(reference) = reference else { return Ok(roaring::RoaringBitmap::new()) };
    let key = source.keys.deletes(reference.made);
    let bytes = source.need(&key).await?;
    if bytes.len() as u64 != reference.size || listing.sizes.get(&key).is_some_and(|s| *s != reference.size) {
        return broken(&key, "INV-3", format!("it has {} bytes, not {}", bytes.len(), reference.size));
    }
    let dead = deletes::decode_all(&key, &bytes).at(&key, "INV-3")?;
    if dead.len() != reference.count || dead.max().is_some_and(|last| u64::from(last) >= segment.rows) {
        return broken(&key, "INV-6", format!("it marks {} rows, not {}", dead.len(), reference.count));
    }
    Ok(dead)
}

/// Names the ids that are live twice among those whose hashes are: different ids may have one hash.
async fn name_twice(source: &Source<'_>, newest: &Manifest, twice: &BTreeSet<u64>) -> Result<(), Stop> {
    let mut first: BTreeMap<String, String> = BTreeMap::new();
    for segment in &newest.segments {
        let subject = Subject::open(source, newest, segment, (0, 0)).await?;
        let nothing = roaring::RoaringBitmap::new();
        let dead = match &segment.deletes {
            Some(d) => {
                let key = source.keys.deletes(d.made);
                deletes::decode_all(&key, &source.need(&key).await?).at(&key, "INV-3")?
            }
            None => nothing,
        };
        let field = arrow_schema(&newest.settings, &newest.schema).field(0).clone();
        for (rows, chunk) in subject.id_chunks() {
            let key = source.keys.rows(segment.made);
            let bytes = source.range(&key, chunk).await?;
            let ids = decode_chunk(&key, &field, rows.len(), bytes).at(&key, "INV-3")?;
            for (ordinal, id) in rows.zip(ids.as_string::<i32>()) {
                let Some(id) = id.filter(|id| twice.contains(&source.id.hash_id(id))) else { continue };
                if dead.contains(ordinal) {
                    continue;
                }
                if let Some(other) = first.insert(id.to_owned(), key.clone()) {
                    source.found(&key, "INV-5", format!("id `{id}` is live here and in {other}"));
                }
            }
        }
    }
    Ok(())
}
