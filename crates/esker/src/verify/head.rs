//! `head`: late or lost it makes queries slower; what it says must still have been committed.

use esker_format::head::{Head, Part};
use esker_format::manifest::{Manifest, RegisterEntry};
use esker_format::segment::deletes;

use super::segment::Directory;
use super::source::{At, Source, Stop, broken};

pub async fn check(source: &Source<'_>, newest: &Manifest) -> Result<(), Stop> {
    let key = source.keys.head();
    let Some(bytes) = source.get(&key).await? else { return Ok(()) };
    let Some(head) = source.settle(Head::decode(&key, &bytes).at(&key, "INV-3"))? else { return Ok(()) };
    source.settle(check_copy(source, &key, &head, newest).await)?;
    for part in &head.parts {
        source.settle(check_part(&key, &head.manifest, part))?;
    }
    Ok(())
}

/// Its manifest is that of a committed version.
async fn check_copy(source: &Source<'_>, key: &str, head: &Head, newest: &Manifest) -> Result<(), Stop> {
    let (version, token) = (head.manifest.version, head.manifest.token);
    let name = source.keys.manifest(version);
    let Some(bytes) = source.get(&name).await? else {
        return broken(key, "INV-4", format!("it is of version {version}, which was never committed"));
    };
    // An entry that cannot be read is a finding of its own.
    let same = match RegisterEntry::decode(&name, version, &bytes) {
        Ok(RegisterEntry::Manifest(manifest)) => *manifest == head.manifest,
        Ok(RegisterEntry::Stub(stub)) => stub.token == token,
        Err(_) => return Ok(()),
    };
    match same && head.manifest.collection == newest.collection {
        true => Ok(()),
        false => broken(key, "INV-4", format!("its manifest is not version {version} as committed")),
    }
}

/// What it carries of a segment is that segment's.
fn check_part(key: &str, manifest: &Manifest, part: &Part) -> Result<(), Stop> {
    let made = part.made;
    let Some(segment) = manifest.segments.iter().find(|s| s.made == made) else {
        return broken(key, "INV-3", format!("it carries segment {made}, which its manifest lacks"));
    };
    if part.header.len() as u64 != segment.header_size || crc32c::crc32c(&part.header) != segment.header_crc {
        return broken(key, "INV-3", format!("its header of segment {made} is another"));
    }
    if let Some(codes) = &part.codes {
        let directory = Directory::parse(key, &part.header)?;
        let section = directory.find(esker_format::segment::index::Section::Codes);
        let same =
            section.is_some_and(|s| s.length() == codes.len() as u64 && s.crc == crc32c::crc32c(codes));
        if !same {
            return broken(key, "INV-3", format!("its codes of segment {made} are others"));
        }
    }
    match (&part.deletes, &segment.deletes) {
        (None, _) => Ok(()),
        (Some(copy), Some(deletes)) => {
            let bits = deletes::decode_all(key, copy).at(key, "INV-3")?;
            match bits.len() == deletes.count && copy.len() as u64 == deletes.size {
                true => Ok(()),
                false => broken(key, "INV-3", format!("its bitmap of segment {made} is another")),
            }
        }
        (Some(_), None) => broken(key, "INV-3", format!("it has a bitmap of segment {made}, which has none")),
    }
}
