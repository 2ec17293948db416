//! The invariants of STYLE §4, re-derived from the stored bytes alone: nothing of `esker_store` is asked. What a collection
//! deleted or overwrote is looked up in the world's history: it was true once, and stays so.

use crate::world::World;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float32Type, Int32Type, Int64Type, TimestampMillisecondType};
use bytes::Bytes;
use esker_format::avro::{Decoded, RowsBuilder};
use esker_format::head::Head;
use esker_format::keys::{self, Key, Keys, Part};
use esker_format::manifest::{Manifest, Recent, RegisterEntry, Segment};
use esker_format::pin::Lease;
use esker_format::wal::{self, Entry};
use esker_format::{CollectionId, Seq, SetHash, Token, append, limits};
use object_store::path::Path;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub mod ledger;
pub mod segment;

use ledger::{Fate, Ledger, Row, TEXT};
use segment::Rows;

/// A pin holds this much longer than its lease says.
const PIN_MARGIN_MS: u64 = 10 * 60 * 1000;

/// Entry and row: the order of the versions of a record.
pub type At = (Seq, u32);

/// A version of a record.
#[derive(Clone, Debug, PartialEq)]
pub struct Version {
    pub at: At,
    pub row: Row,
    /// The client's own version.
    pub version: i64,
    /// When it stops being visible, in milliseconds.
    pub expires: Option<i64>,
}

/// What is stored of a collection.
pub struct Truth {
    /// Version 1 and up, as they were committed.
    pub manifests: Vec<Manifest>,
    /// Entry 1 and up, those collected by now too.
    pub entries: Vec<(Entry, Decoded)>,
    /// What a read of now must see.
    pub rows: BTreeMap<String, Version>,
}

/// The rows of a batch of `arrow_schema`.
pub fn versions(batch: &RecordBatch) -> impl Iterator<Item = Version> + use<> {
    let column = |name: &str| batch.column_by_name(name).unwrap_or_else(|| panic!("no column {name}"));
    let ids = column("id").as_string::<i32>().clone();
    let vectors = column("vector").as_fixed_size_list().clone();
    let (seqs, numbers) = (column("_seq").as_primitive::<Int64Type>(), column("_row").as_primitive());
    let (seqs, numbers) = (seqs.clone(), arrow::array::PrimitiveArray::<Int32Type>::clone(numbers));
    let own = |name: &str| column(name).as_primitive::<Int64Type>().clone();
    let (own_versions, expires) = (own("_version"), column("_expires_at").clone());
    let expires = expires.as_primitive::<TimestampMillisecondType>().clone();
    let texts = batch.column_by_name(TEXT).map(|c| c.as_string::<i32>().clone());
    (0..ids.len()).map(move |i| {
        let vector = vectors.value(i);
        let vector = vector.as_primitive::<Float32Type>().values();
        let text = texts.as_ref().filter(|t| t.is_valid(i)).map(|t| t.value(i).to_owned());
        let row = Row { id: ids.value(i).to_owned(), vector: [vector[0], vector[1]], text };
        Version {
            at: (seqs.value(i) as Seq, numbers.value(i) as u32),
            row,
            version: own_versions.value(i),
            expires: expires.is_valid(i).then(|| expires.value(i)),
        }
    })
}

/// Of each id the write with the highest place, unless that is a delete.
pub fn newest_of(writes: Vec<(At, String, Option<Version>)>) -> BTreeMap<String, Version> {
    let mut newest: BTreeMap<String, (At, Option<Version>)> = BTreeMap::new();
    for (at, id, version) in writes {
        match newest.get(&id) {
            Some((known, _)) if *known >= at => assert_ne!(*known, at, "INV-5: {id} is seen twice at {at:?}"),
            _ => drop(newest.insert(id, (at, version))),
        }
    }
    newest.into_iter().filter_map(|(id, (_, version))| Some((id, version?))).collect()
}

/// Segments that were read and checked, by their names: a world panics on a second body, so once is enough.
pub type Read = BTreeMap<String, Arc<Rows>>;

/// Checks everything that is stored; `None` before the first manifest.
pub fn check(world: &World, id: &CollectionId, ledger: &Ledger, read: &mut Read) -> Option<Truth> {
    let stored = Stored { world, keys: Keys::new(id), id };
    stored.check_names();
    let manifests = stored.manifests();
    let Some(newest) = manifests.last() else {
        assert!(world.keys(&stored.keys.wal_prefix()).is_empty(), "a log without a register");
        return None;
    };
    let entries = stored.entries(newest);
    let truth = Truth { rows: newest_of(writes(&entries)), manifests, entries };
    truth.check_batches(ledger);
    let pinned = stored.pinned(&truth.manifests);
    for manifest in &truth.manifests {
        // INV-3 holds for what is retained or pinned.
        if manifest.version >= truth.newest().floors.version || pinned.contains(&manifest.version) {
            let gone = truth.newest().dropped;
            truth.check_version(&stored, manifest, read, gone);
        }
    }
    stored.check_head(&truth.manifests);
    Some(truth)
}

/// The whole log of a collection, as far as it can be read; what a collection deleted too.
pub fn log(world: &World, id: &CollectionId) -> Vec<(Entry, Decoded)> {
    let stored = Stored { world, keys: Keys::new(id), id };
    stored.manifests().last().map_or_else(Vec::new, |newest| stored.entries(newest))
}

struct Stored<'a> {
    world: &'a World,
    keys: Keys,
    id: &'a CollectionId,
}

impl Stored<'_> {
    fn body(&self, key: &str) -> Bytes {
        self.world.body(key).unwrap_or_else(|| panic!("INV-3: {key} is missing"))
    }

    /// Every name is one of the format's, and every one that is created has held one body; a version also its stub, a
    /// pin also its end.
    fn check_names(&self) {
        for key in self.world.keys("") {
            let parsed = Key::parse(&key).unwrap_or_else(|e| panic!("{e}"));
            let bodies: BTreeSet<Bytes> = self.world.history(&key).into_iter().flatten().collect();
            let most = match parsed {
                Key::Of(_, Part::Head) => continue,
                // A stray, of one who slept through the collection of the slot.
                Key::Of(_, Part::Wal(_)) if self.world.history(&key).contains(&None) => continue,
                Key::Of(_, Part::Manifest(_) | Part::Pin(..)) => 2,
                _ => 1,
            };
            assert!(bodies.len() <= most, "INV-7: {key} has had {} bodies", bodies.len());
        }
    }

    /// What a name held first, whether it is there or not.
    fn first(&self, key: &str) -> Bytes {
        let first = self.world.history(key).into_iter().flatten().next();
        first.unwrap_or_else(|| panic!("INV-3: {key} never was"))
    }

    /// Versions with a lease that was not released, is not over, and was put before a floor gave the version up: of a later
    /// one the holder learns from the register that it does not hold.
    fn pinned(&self, manifests: &[Manifest]) -> BTreeSet<u64> {
        let pins = self.world.keys(&self.keys.pins_prefix());
        let now_ms = self.world.now_ms();
        let modified_ms = |key: &str| {
            let object = self.world.object(&Path::from(key));
            object.map_or(i64::MAX, |o| o.meta.last_modified.timestamp_millis())
        };
        let version = |key: String| match Key::parse(&key) {
            Ok(Key::Of(_, Part::Pin(version, _))) => {
                let lease = Lease::decode(&key, &self.body(&key)).unwrap_or_else(|e| panic!("{e}"));
                let put_ms = modified_ms(&key);
                let ends_ms = put_ms.saturating_add_unsigned(lease.ttl_ms + PIN_MARGIN_MS);
                let given_up = manifests.iter().find(|m| m.floors.version > version);
                // It may be a stub by now.
                let created_ms = |m: &Manifest| self.world.created_ms(&self.keys.manifest(m.version));
                let in_time = given_up.and_then(created_ms).is_none_or(|given_up_ms| put_ms <= given_up_ms);
                (!lease.released && now_ms < ends_ms && in_time).then_some(version)
            }
            other => panic!("{key}: {other:?}"),
        };
        pins.into_iter().filter_map(version).collect()
    }

    /// The numbers of the names under a prefix, ascending.
    fn numbers(&self, prefix: &str, suffix: &str) -> Vec<u64> {
        let number = |key: String| {
            let name = key.strip_prefix(prefix).and_then(|n| n.strip_suffix(suffix));
            name.and_then(keys::parse_descending).unwrap_or_else(|| panic!("{key} has no number"))
        };
        self.world.keys(prefix).into_iter().map(number).rev().collect()
    }

    /// INV-4: dense versions, each made from the one before, in which nothing goes back.
    fn manifests(&self) -> Vec<Manifest> {
        let versions = self.numbers(&self.keys.manifest_prefix(), "");
        assert_eq!(versions, (1..=versions.len() as u64).collect::<Vec<_>>(), "the register has gaps");
        let mut stubs = Vec::new();
        let mut read = |version: &u64| {
            let key = self.keys.manifest(*version);
            let first = RegisterEntry::decode(&key, *version, &self.first(&key));
            let Ok(RegisterEntry::Manifest(manifest)) = first else { panic!("INV-3: {first:?}") };
            match RegisterEntry::decode(&key, *version, &self.body(&key)) {
                Ok(RegisterEntry::Manifest(same)) => assert_eq!(manifest, same, "version {version} changed"),
                Ok(RegisterEntry::Stub(stub)) => {
                    assert_eq!(stub, manifest.stub(), "version {version} has a stub of another");
                    stubs.push(*version);
                }
                other => panic!("INV-3: {other:?}"),
            }
            *manifest
        };
        let manifests: Vec<Manifest> = versions.iter().map(&mut read).collect();
        let newest = manifests.last();
        let (floor, end) = newest.map_or((0, false), |m| (m.floors.version, m.dropped));
        let pinned = self.pinned(&manifests);
        for stub in stubs {
            let below = stub < floor || end && stub < versions.len() as u64;
            assert!(below && (end || !pinned.contains(&stub)), "version {stub} is a stub and retained");
        }
        for pair in manifests.windows(2) {
            let [old, new] = pair else { continue };
            assert_eq!(new.parent, Some(old.token), "version {} has another parent", new.version);
            assert!(new.watermark >= old.watermark, "INV-4: the watermark goes back at {}", new.version);
            assert!(new.floors.at_least(&old.floors), "INV-4: a floor goes back at {}", new.version);
            assert!(new.schema.extends(&old.schema), "the schema goes back at {}", new.version);
            assert!(!old.dropped, "version {} follows the end", new.version);
        }
        for manifest in &manifests {
            assert_eq!(&manifest.collection, self.id);
        }
        manifests
    }

    /// The whole log: dense, at least up to the watermark, every hash as its header says. Names at or below the floor may
    /// be gone, or taken again by one who came too late: what counts is what they held first.
    fn entries(&self, newest: &Manifest) -> Vec<(Entry, Decoded)> {
        // A dropped collection has no log any more: nobody reads it.
        let floor = newest.floors.wal;
        let seqs: Vec<Seq> = match newest.dropped {
            true => (1..).take_while(|seq| !self.world.history(&self.keys.wal(*seq)).is_empty()).collect(),
            false => {
                let above = self.numbers(&self.keys.wal_prefix(), ".avro").into_iter().filter(|s| *s > floor);
                (1..=floor).chain(above).collect()
            }
        };
        assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>(), "the log has gaps");
        assert!(seqs.len() as u64 >= newest.watermark, "INV-1: the log ends below the watermark");
        let read = |seq: &Seq| {
            let key = self.keys.wal(*seq);
            let held = |key: &str| match *seq <= floor || newest.dropped {
                true => self.first(key),
                false => self.body(key),
            };
            let entry = wal::decode(&key, held(&key)).unwrap_or_else(|e| panic!("INV-3: {e}"));
            let body = entry.body_key().map(|key| held(&key));
            wal::verify_hashes(&entry, body.clone()).unwrap_or_else(|e| panic!("INV-3: {e}"));
            let mut rows = RowsBuilder::new(&newest.settings, &newest.schema);
            let decoded = wal::decode_rows(&entry, body, &mut rows).and_then(|()| rows.finish());
            (entry, decoded.unwrap_or_else(|e| panic!("INV-3: {e}")))
        };
        seqs.iter().map(read).collect()
    }

    fn check_sizes(&self, segment: &Segment, held: impl Fn(&str) -> Bytes) {
        let made = segment.made;
        let sizes = [self.keys.rows(made), self.keys.index(made)].map(|key| held(&key).len() as u64);
        assert_eq!(sizes, [segment.rows_size, segment.index_size], "INV-3: sizes of segment {made}");
    }

    /// An advisory copy is still a copy, of a committed manifest and of bytes that are there.
    fn check_head(&self, manifests: &[Manifest]) {
        let key = self.keys.head();
        let Some(bytes) = self.world.body(&key) else { return };
        let head = Head::decode(&key, &bytes).unwrap_or_else(|e| panic!("{e}"));
        let version = head.manifest.version;
        assert_eq!(
            manifests.get(version as usize - 1),
            Some(&head.manifest),
            "head has another version {version}"
        );
        for part in &head.parts {
            let index = self.first(&self.keys.index(part.made));
            assert!(index.starts_with(&part.header), "head has another header of {}", part.made);
            let segment = head.manifest.segments.iter().find(|s| s.made == part.made);
            let deletes = segment.and_then(|s| s.deletes.as_ref()).map(|d| self.keys.deletes(d.made));
            if let Some(copy) = &part.deletes {
                let deletes = deletes.unwrap_or_else(|| panic!("head has a bitmap of {}", part.made));
                assert_eq!(&self.first(&deletes), copy, "head has another {deletes}");
            }
        }
    }
}

/// Every write of some entries, deletes too.
fn writes(entries: &[(Entry, Decoded)]) -> Vec<(At, String, Option<Version>)> {
    let of_entry = |(_, decoded): &(Entry, Decoded)| {
        let rows = versions(&decoded.rows).map(|v| (v.at, v.row.id.clone(), Some(v)));
        let deletes = decoded.tombstones.iter().map(|t| ((t.seq, t.row), t.id.clone(), None));
        rows.chain(deletes).collect::<Vec<_>>()
    };
    entries.iter().flat_map(of_entry).collect()
}

impl Truth {
    pub fn newest(&self) -> &Manifest {
        self.manifests.last().expect("there is a first")
    }

    pub fn last(&self) -> Seq {
        self.entries.len() as Seq
    }

    /// INV-1 and INV-2: what is in the log is exactly what the clients were told.
    fn check_batches(&self, ledger: &Ledger) {
        let book = ledger.book();
        let mut found: BTreeMap<Token, Seq> = BTreeMap::new();
        for (entry, decoded) in &self.entries {
            let mut writes = writes_in_order(decoded).into_iter();
            for batch in &entry.batches {
                let before = found.insert(batch.token, entry.seq);
                assert_eq!(before, None, "INV-2: batch {} was written twice", batch.token);
                let Some((sent, _)) = book.batches.get(&batch.token) else {
                    panic!("INV-2: nobody sent batch {}", batch.token)
                };
                assert_eq!(batch.op, sent.op);
                let written: Vec<Row> = writes.by_ref().take(batch.rows as usize).collect();
                let deletes = |row: &Row| Row { id: row.id.clone(), vector: [0.0; 2], text: None };
                let rows = match sent.op {
                    esker_format::record::Op::Upsert => sent.rows.clone(),
                    esker_format::record::Op::Delete => sent.rows.iter().map(deletes).collect(),
                };
                assert_eq!(written, rows, "INV-2: batch {} is not whole", batch.token);
            }
            assert_eq!(writes.next(), None, "entry {} has rows of no batch", entry.seq);
        }
        for (token, (_, asked)) in &book.batches {
            let found = found.get(token).copied();
            match asked.fate() {
                Fate::Acknowledged(at) => assert_eq!(found, Some(at), "INV-1: batch {token} is not there"),
                // A writer that met the end after its put is told so; nobody reads the log behind it.
                Fate::Failed if self.newest().dropped => {}
                Fate::Failed | Fate::Unsent => {
                    assert_eq!(found, None, "INV-2: batch {token} was reported failed and is there");
                }
                Fate::Unknown => {}
            }
        }
        assert!(self.newest().version >= book.version, "INV-4: version {} is gone", book.version);
    }

    /// INV-3, 5, 6 and 9 of one version.
    fn check_version(&self, stored: &Stored<'_>, manifest: &Manifest, read: &mut Read, dropped: bool) {
        let version = manifest.version;
        let folded = &self.entries[..manifest.watermark as usize];
        let hash = |at: &At, id: &str| SetHash::of(id, at.0, at.1);
        let accepted: SetHash = writes(folded).iter().map(|(at, id, _)| hash(at, id)).sum();
        let mut live: BTreeMap<String, Version> = BTreeMap::new();
        for segment in &manifest.segments {
            // Of a dropped collection nothing has to be there.
            let held = |key: &str| match dropped {
                true => stored.first(key),
                false => stored.body(key),
            };
            stored.check_sizes(segment, held);
            let rows = read
                .entry(segment.made.to_string())
                .or_insert_with(|| Arc::new(segment::read(&stored.keys, segment, held)));
            for row in rows.live(&stored.keys, segment, held) {
                assert!(row.at.0 <= manifest.watermark, "INV-5: {version} has {row:?} and it is in the tail");
                let twice = live.insert(row.row.id.clone(), row);
                assert_eq!(twice, None, "INV-5: version {version} has two rows of one id");
            }
        }
        let mut due = newest_of(writes(folded));
        // Whoever folded or merged may have found it expired.
        due.retain(|id, row| row.expires.is_none() || live.contains_key(id));
        assert_eq!(live, due, "INV-1, 5: the segments of version {version}");
        let live: SetHash = live.values().map(|v| hash(&v.at, &v.row.id)).sum();
        assert_eq!(manifest.hashes.accepted, accepted, "INV-6: accepted of version {version}");
        assert_eq!(manifest.hashes.live, live, "INV-6: live of version {version}");
        assert_eq!(manifest.hashes.pruned, accepted - live, "INV-6: pruned of version {version}");
        let recent = folded.iter().flat_map(|(e, _)| e.batches.iter().map(|batch| Recent::of(e.seq, batch)));
        let recent: Vec<Recent> = recent.collect();
        // Given ones are kept for a day at least, drawn ones for minutes, and of each the newest.
        let newest = recent.iter().map(|r| r.at_ms).max().unwrap_or(i64::MIN);
        let mut left = [limits::DRAWN_TOKENS, limits::TOKENS];
        let mut kept: Vec<Recent> = Vec::new();
        for r in recent.iter().rev() {
            let due = [limits::DRAWN_RETENTION_MS, limits::TOKEN_RETENTION_MS][usize::from(r.given)];
            let left = &mut left[usize::from(r.given)];
            if *left > 0 && r.at_ms >= newest.saturating_sub(due) || manifest.recent.contains(r) {
                *left = left.saturating_sub(1);
                kept.push(*r);
            }
        }
        kept.reverse();
        assert_eq!(kept, manifest.recent, "the tokens of version {version}");
        let lost = recent.iter().filter(|r| !kept.contains(r));
        let forgotten_ms = lost.filter_map(|r| r.token.drawn_ms()).max().unwrap_or(0);
        assert_eq!(forgotten_ms, manifest.forgotten_ms, "what version {version} forgot");
    }

    /// After a collection that kept nothing but the newest version: no name lies there that nothing refers to.
    pub fn check_clean(&self, world: &World, id: &CollectionId) {
        let (keys, newest) = (Keys::new(id), self.newest());
        let mut due: BTreeSet<String> = (1..=newest.version).map(|v| keys.manifest(v)).collect();
        if !newest.dropped {
            due.insert(keys.head());
            for (entry, _) in self.entries.iter().filter(|(e, _)| e.seq > newest.floors.wal) {
                due.extend([entry.key.clone()].into_iter().chain(entry.body_key()));
            }
            for segment in &newest.segments {
                due.extend([keys.rows(segment.made), keys.index(segment.made)]);
                due.extend(segment.deletes.as_ref().map(|d| keys.deletes(d.made)));
            }
        }
        let there: BTreeSet<String> = world.keys(keys.prefix()).into_iter().collect();
        // A slot above the floor may still name a body that was made for several, and take what was offered.
        let floor = newest.floors.wal;
        let may_stay = |key: &&String| match Key::parse(key) {
            Ok(Key::Of(_, Part::Body(until, _))) => until > floor,
            Ok(Key::Of(_, Part::Inbox(tail, _))) => !append::is_past(tail, floor),
            // Where nothing changed since a collector was killed, no floor gives it up.
            Ok(Key::Of(_, Part::Work(made))) => made.base >= newest.floors.base,
            _ => false,
        };
        let garbage = there.difference(&due).filter(|key| newest.dropped || !may_stay(key));
        let (missing, garbage): (Vec<_>, Vec<_>) = (due.difference(&there).collect(), garbage.collect());
        assert!(missing.is_empty() && garbage.is_empty(), "missing: {missing:?}, garbage: {garbage:?}");
    }

    /// Later truth has everything that earlier truth had.
    pub fn check_follows(&self, earlier: &Truth) {
        assert!(self.manifests.starts_with(&earlier.manifests), "INV-4: the register changed");
        let entries = self.entries.iter().zip(&earlier.entries);
        let same = entries.filter(|((new, _), (old, _))| new.batches == old.batches).count();
        assert_eq!(same, earlier.entries.len(), "INV-7: the log changed");
    }
}

/// The rows of an entry by their numbers; deletes as rows without content.
fn writes_in_order(decoded: &Decoded) -> Vec<Row> {
    let mut rows: BTreeMap<u32, Row> = versions(&decoded.rows).map(|v| (v.at.1, v.row)).collect();
    for t in &decoded.tombstones {
        let row = Row { id: t.id.clone(), vector: [0.0; 2], text: None };
        assert_eq!(rows.insert(t.row, row), None);
    }
    rows.into_values().collect()
}
