//! Every kind of damage is found and named.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use esker_format::SetHash;
use esker_format::keys::{Key, Keys, Part};
use esker_format::manifest::Manifest;
use esker_format::segment::index::{Header, Section};
use esker_store::{Client, Meter, Seams};
use object_store::list::{PaginatedListOptions, PaginatedListResult, PaginatedListStore};
use object_store::{ListResult, ObjectStore};

use super::lab::{Lab, id, memory};
use super::{assert_sound, verify, verify_store};
use crate::verify::segment::Directory;

/// Two segments, one with a bitmap; entries, one with a body; a stub and a pin.
async fn lab() -> Lab {
    let mut lab = Lab::in_memory(7).await;
    lab.upsert(&(0..500).map(|i| format!("id-{i}")).collect::<Vec<_>>(), 30).await;
    lab.compact().await;
    lab.collect().await;
    lab.pin().await;
    lab.write(20).await;
    lab.delete(4).await;
    lab.compact().await;
    lab.write(5).await;
    lab.write_large().await;
    lab.write(5).await;
    let newest = lab.newest().await;
    assert!(newest.segments.len() == 2 && newest.segments[0].deletes.is_some(), "{newest:?}");
    assert_sound(&lab.client, lab.live.len()).await;
    lab
}

async fn get(client: &Client, key: &str) -> Bytes {
    client.get(&Meter::new(), key).await.unwrap().unwrap().0
}

async fn put(client: &Client, key: &str, bytes: impl Into<Bytes>) {
    client.overwrite(&Meter::new(), key, bytes.into()).await.unwrap();
}

/// Objects that have bytes and are no garbage.
async fn keys(lab: &Lab) -> Vec<String> {
    let listed = lab.client.list_all(&lab.meter, "").await.unwrap();
    let floor = lab.newest().await.floors.wal;
    let counts = |key: &str| match Key::parse(key).unwrap() {
        Key::Of(_, Part::Wal(seq) | Part::Body(seq, _)) => seq > floor,
        Key::Of(_, Part::Work(_)) | Key::Dirty(..) => false,
        _ => true,
    };
    listed.into_iter().filter(|o| o.size > 0 && counts(&o.key)).map(|o| o.key).collect()
}

async fn is_named(client: &Client, key: &str) -> bool {
    let report = verify_store(client).await;
    report.collections.iter().flat_map(|c| &c.findings).chain(&report.findings).any(|f| f.object == key)
}

#[tokio::test]
async fn flipped_bytes_are_found_in_every_object() {
    let lab = lab().await;
    let mut kinds = BTreeSet::new();
    for key in keys(&lab).await {
        let bytes = get(&lab.client, &key).await;
        kinds.insert(format!("{:?}", Key::parse(&key).unwrap()).replace(|c: char| c.is_ascii_digit(), ""));
        for at in [0, 70, bytes.len() / 3, bytes.len() / 2, bytes.len() * 3 / 4, bytes.len() - 1] {
            let mut bad = bytes.to_vec();
            bad[at.min(bytes.len() - 1)] ^= 4;
            put(&lab.client, &key, bad).await;
            assert!(is_named(&lab.client, &key).await, "byte {at} of {} of {key}", bytes.len());
        }
        put(&lab.client, &key, bytes).await;
    }
    assert!(kinds.len() >= 8, "{kinds:?}");
    assert_sound(&lab.client, lab.live.len()).await;
}

#[tokio::test]
async fn missing_objects_are_found() {
    let lab = lab().await;
    let last = lab.client.list_all(&lab.meter, &Keys::new(&id(1)).wal_prefix()).await.unwrap()[0].key.clone();
    let newest = Keys::new(&id(1)).manifest(lab.newest().await.version);
    for key in keys(&lab).await {
        // A log that ends earlier is one that nobody can tell from a younger one; `head` may be late or lost.
        if key == last || key.ends_with("/head") || key.contains("/pins/") {
            continue;
        }
        let bytes = get(&lab.client, &key).await;
        lab.client.delete(&lab.meter, &key).await.unwrap();
        // So is a register, but for what `head` says.
        let named = if key == newest { "c/notes-1/head" } else { &key };
        assert!(is_named(&lab.client, named).await, "{key}");
        put(&lab.client, &key, bytes).await;
    }
    assert_sound(&lab.client, lab.live.len()).await;
}

#[tokio::test]
async fn swapped_objects_are_found() {
    let lab = lab().await;
    let keys = keys(&lab).await;
    for pair in keys.windows(2) {
        let folder = |key: &str| key.rsplit_once('/').map(|(f, _)| f.to_owned());
        let [a, b] = pair else { continue };
        if folder(a) != folder(b) {
            continue;
        }
        let (first, second) = (get(&lab.client, a).await, get(&lab.client, b).await);
        put(&lab.client, a, second.clone()).await;
        put(&lab.client, b, first.clone()).await;
        assert!(is_named(&lab.client, a).await || is_named(&lab.client, b).await, "{a} and {b}");
        put(&lab.client, a, first).await;
        put(&lab.client, b, second).await;
    }
    assert_sound(&lab.client, lab.live.len()).await;
}

#[tokio::test]
async fn strays_are_found() {
    let lab = lab().await;
    for key in ["stray", "c/stray", "c/notes-1/stray", "c/notes-1/segment/read.me", "names/notes/1", "z/1"] {
        put(&lab.client, key, "what is this").await;
        assert!(is_named(&lab.client, key).await, "{key}");
        lab.client.delete(&lab.meter, key).await.unwrap();
    }
    // Names of numbers that no register reaches.
    for key in ["c/notes-1/manifest/00000000000000000000", "names/notes/00000000000000000003"] {
        put(&lab.client, key, "far away").await;
        assert!(is_named(&lab.client, key).await, "{key}");
        lab.client.delete(&lab.meter, key).await.unwrap();
    }
    put(&lab.client, "c/notes-1/wal/00000000000000000000.avro", "far away").await;
    assert!(!verify(&lab.client).await.findings.is_empty());
    put(&lab.client, "c/other-1/manifest/00000000000000000001", "no record").await;
    assert!(
        is_named(
            &lab.client,
            &esker_format::keys::name_record(&esker_format::Name::new("other").unwrap(), 1)
        )
        .await
    );
}

/// Puts a changed newest manifest in the place of the newest, with valid checksums, and drops the copy of the old.
async fn forge(lab: &Lab, client: &Client, change: impl FnOnce(&mut Manifest)) -> String {
    let mut manifest = lab.newest().await;
    change(&mut manifest);
    let keys = Keys::new(&id(1));
    client.delete(&lab.meter, &keys.head()).await.unwrap();
    put(client, &keys.manifest(manifest.version), manifest.encode().unwrap()).await;
    keys.manifest(manifest.version)
}

#[tokio::test]
async fn wrong_hashes_are_found() {
    let lab = lab().await;
    let one = SetHash(1);
    for change in [
        |m: &mut Manifest| {
            (m.hashes.live, m.hashes.pruned) = (m.hashes.live + SetHash(1), m.hashes.pruned - SetHash(1))
        },
        |m: &mut Manifest| {
            (m.hashes.accepted, m.hashes.pruned) =
                (m.hashes.accepted + SetHash(1), m.hashes.pruned + SetHash(1))
        },
    ] {
        let client = lab.copy().await;
        let key = forge(&lab, &client, change).await;
        let report = verify(&client).await;
        assert!(report.findings.iter().any(|f| f.object == key && f.invariant == "INV-6"), "{report:?}");
    }
    let client = lab.copy().await;
    let key = forge(&lab, &client, |m| m.hashes.live += one).await;
    assert!(is_named(&client, &key).await);
}

#[tokio::test]
async fn an_id_that_is_live_twice_is_found() {
    let lab = lab().await;
    let client = lab.copy().await;
    let before = verify(&client).await;
    // Its bitmap is taken away from the older segment, and the hashes are made to agree.
    let derived = {
        let key = forge(&lab, &client, |m| m.segments[0].deletes = None).await;
        let report = verify(&client).await;
        assert!(report.findings.iter().any(|f| f.object == key && f.invariant == "INV-6"), "{report:?}");
        report.hashes.derived_live.unwrap()
    };
    forge(&lab, &client, |m| {
        m.segments[0].deletes = None;
        m.hashes.pruned = m.hashes.accepted - derived;
        m.hashes.live = derived;
    })
    .await;
    let report = verify(&client).await;
    assert!(report.rows.segments > before.rows.segments);
    let rows = Keys::new(&id(1)).rows(lab.newest().await.segments[1].made);
    assert!(
        !report.findings.is_empty() && report.findings.iter().all(|f| f.invariant == "INV-5"),
        "{report:?}"
    );
    assert!(report.findings.iter().all(|f| f.object == rows), "{report:?}");
}

/// Changes a section of the first segment's index and puts every checksum right.
async fn forge_index(lab: &Lab, client: &Client, section: Section, change: impl FnOnce(&mut [u8])) -> String {
    let segment = lab.newest().await.segments[0].clone();
    let key = Keys::new(&id(1)).index(segment.made);
    let mut index = get(client, &key).await.to_vec();
    let header = Header::parse(&key, Bytes::from(index.clone())).unwrap();
    let directory = Directory::parse(&key, &index).unwrap();
    let part = directory.find(section).unwrap();
    let place = part.range.start as usize..part.range.end as usize;
    change(&mut index[place.clone()]);
    let fix = |section: Section, index: &mut Vec<u8>| {
        let part = directory.find(section).unwrap();
        let crc = crc32c::crc32c(&index[part.range.start as usize..part.range.end as usize]).to_le_bytes();
        let entry = directory.place(section).unwrap();
        index[entry + 20..entry + 24].copy_from_slice(&crc);
    };
    if section == Section::Codes {
        let leaves = directory.find(Section::Leaves).unwrap().range.start as usize;
        for leaf in 0..header.leaf_count() {
            let range = header.codes_range(header.leaf_groups(leaf));
            let crc = crc32c::crc32c(&index[range.start as usize..range.end as usize]).to_le_bytes();
            let at = leaves + (header.leaf_count() as usize + 1 + leaf as usize) * 4;
            index[at..at + 4].copy_from_slice(&crc);
        }
        fix(Section::Leaves, &mut index);
    }
    fix(section, &mut index);
    let size = segment.header_size as usize;
    let sealed = esker_format::envelope::seal(esker_format::envelope::Kind::Index, 0, &index[64..size]);
    index[..size].copy_from_slice(&sealed);
    let crc = crc32c::crc32c(&sealed);
    put(client, &key, index).await;
    let newest = lab.newest().await.version;
    // Every retained version says so.
    for version in 1..=newest {
        let name = Keys::new(&id(1)).manifest(version);
        if let Ok(mut manifest) = Manifest::decode(&name, &get(client, &name).await) {
            manifest.segments.iter_mut().filter(|s| s.made == segment.made).for_each(|s| s.header_crc = crc);
            put(client, &name, manifest.encode().unwrap()).await;
        }
    }
    client.delete(&lab.meter, &Keys::new(&id(1)).head()).await.unwrap();
    key
}

#[tokio::test]
async fn rows_that_the_index_does_not_find_are_found() {
    let lab = lab().await;
    // The second entry of the id map leads to the row of the first.
    let client = lab.copy().await;
    let key = forge_index(&lab, &client, Section::IdMap, |map| {
        let ordinal: [u8; 4] = map[8..12].try_into().unwrap();
        map[20..24].copy_from_slice(&ordinal);
        let crc = crc32c::crc32c(&map[..4092]).to_le_bytes();
        map[4092..4096].copy_from_slice(&crc);
    })
    .await;
    let report = verify(&client).await;
    assert!(report.findings.iter().all(|f| f.object == key && f.invariant == "INV-9"), "{report:?}");
    assert!(report.findings.iter().any(|f| f.message.contains("is not in the id map")), "{report:?}");
    // The 6th row has no code, then the code of another vector.
    let group = lab.newest().await;
    let bits = esker_index::group_bytes(group.settings.dimension as usize) - 256;
    for (at, bytes, message) in [
        (bits + 128 + 2 * 5, 0x7e00u16, "row 5 has no code"),
        (bits + 64 + 2 * 5, 0x4900, "row 5 has a code that its vector does not give"),
        (bits + 192 + 2 * 5, 0, "row 5 has another vector than its code was made of"),
    ] {
        let client = lab.copy().await;
        let change = |codes: &mut [u8]| codes[at..at + 2].copy_from_slice(&bytes.to_le_bytes());
        let key = forge_index(&lab, &client, Section::Codes, change).await;
        let report = verify(&client).await;
        assert_eq!(report.findings.len(), 1, "{report:?}");
        let found = &report.findings[0];
        assert_eq!((&found.object, found.invariant, &*found.message), (&key, "INV-9", message));
    }
    let client = lab.copy().await;
    let untouched = forge_index(&lab, &client, Section::Codes, |_| {}).await;
    assert_eq!(verify(&client).await.findings, [], "{untouched}");
}

/// A store that leaves names out of its listings.
struct Leaky {
    objects: Arc<dyn ObjectStore>,
    hidden: String,
}

#[async_trait]
impl PaginatedListStore for Leaky {
    async fn list_paginated(
        &self,
        prefix: Option<&str>,
        options: PaginatedListOptions,
    ) -> object_store::Result<PaginatedListResult> {
        let folder = prefix.map(|p| object_store::path::Path::from(p.trim_end_matches('/')));
        let mut objects: Vec<_> =
            futures::TryStreamExt::try_collect(self.objects.list(folder.as_ref())).await?;
        objects.retain(|o: &object_store::ObjectMeta| {
            let key = o.location.as_ref();
            key != self.hidden && options.offset.as_deref().is_none_or(|offset| key > offset)
        });
        objects.sort_by(|a, b| a.location.cmp(&b.location));
        let more = options.max_keys.is_some_and(|most| objects.len() > most);
        objects.truncate(options.max_keys.unwrap_or(usize::MAX));
        let page_token = more.then(|| "more".to_owned());
        let result = ListResult { common_prefixes: Vec::new(), objects };
        Ok(PaginatedListResult { result, page_token })
    }
}

#[tokio::test]
async fn a_listing_that_leaves_names_out_is_found() {
    let mut lab = lab().await;
    lab.compact().await;
    let backend = memory();
    let whole = Client::new(backend.clone(), Seams::simulated(1));
    for object in lab.client.list_all(&lab.meter, "").await.unwrap() {
        put(&whole, &object.key, get(&lab.client, &object.key).await).await;
    }
    let newest = lab.newest().await;
    let keys = Keys::new(&id(1));
    let (made, seq) = (newest.segments[0].made, newest.floors.wal + 2);
    lab.write(1).await;
    for hidden in
        [keys.rows(made), keys.index(made), keys.wal(seq), keys.manifest(2), keys.manifest(newest.version)]
    {
        let objects = backend.objects.clone();
        let leaky = Arc::new(Leaky { objects: objects.clone(), hidden: hidden.clone() });
        let mut backend = backend.clone();
        backend.pages = Some(leaky);
        let report = verify(&Client::new(backend, Seams::simulated(2))).await;
        assert!(report.findings.iter().all(|f| f.object == hidden && f.invariant == "listing"), "{report:?}");
        assert_eq!(report.findings.len(), 1, "{hidden}: {report:?}");
    }
}
