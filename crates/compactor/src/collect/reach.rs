//! Which uploads retained and pinned versions refer to.

use std::collections::BTreeSet;
use std::sync::Arc;

use esker_format::manifest::{Manifest, RegisterEntry};
use esker_format::{Error, Result, Version};
use esker_store::{Collection, Meter, Pin};

use super::look::Look;
use super::{Kept, together};

/// Manifests that are read before it is asked again whether more are needed.
const GROUP: usize = 64;

/// The uploads among the candidates that a version from `oldest` to `newest`, or one that is pinned, refers to. Reads
/// only as many versions as it takes to find each of them, newest first; all, if one is found nowhere.
pub(super) async fn kept(
    meter: &Meter,
    collection: &Arc<Collection>,
    look: &Look,
    oldest: Version,
    newest: &Arc<Manifest>,
    pins: &[Pin],
) -> Result<Kept> {
    let mut open: Kept = look.uploads().collect();
    let mut kept = Kept::default();
    let mut found = |open: &mut Kept, manifest: &Manifest| {
        for segment in &manifest.segments {
            for made in [Some(segment.made), segment.deletes.as_ref().map(|d| d.made)].into_iter().flatten() {
                if open.remove(&made) {
                    kept.insert(made);
                }
            }
        }
    };
    if newest.dropped {
        return Ok(Kept::default());
    }
    found(&mut open, newest);
    if let Some(oldest) = &look.oldest {
        found(&mut open, oldest);
    }
    let pinned = look.held(pins).into_iter().filter(|v| *v < oldest);
    let versions: BTreeSet<Version> = (oldest..newest.version).chain(pinned).collect();
    let versions: Vec<Version> = versions.into_iter().rev().collect();
    for group in versions.chunks(GROUP) {
        if open.is_empty() {
            break;
        }
        let reads = group.iter().map(|version| {
            let meter = meter.fork();
            async move {
                let key = collection.keys().manifest(*version);
                collection.read_version(&meter, *version).await?.ok_or_else(|| {
                    Error::corrupt(key, "it is gone, and names of the register are never deleted")
                })
            }
        });
        for entry in together(reads).await? {
            // Another collection raised the floor further, or a pin came too late.
            if let RegisterEntry::Manifest(manifest) = entry {
                found(&mut open, &manifest);
            }
        }
    }
    Ok(kept)
}
