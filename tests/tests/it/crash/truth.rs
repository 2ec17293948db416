//! The invariants of STYLE §4, re-derived from the stored bytes alone: nothing of `esker_store` is asked.

use super::ledger::{Fate, Ledger, Row, TEXT};
use super::segment::{self, Rows};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float32Type, Int32Type, Int64Type};
use bytes::Bytes;
use esker_format::avro::{Decoded, RowsBuilder};
use esker_format::head::Head;
use esker_format::keys::{self, Key, Keys, Part};
use esker_format::manifest::{Manifest, Recent, RegisterEntry, Segment};
use esker_format::wal::{self, Entry};
use esker_format::{CollectionId, Seq, SetHash, Token};
use esker_tests::world::World;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Entry and row: the order of the versions of a record.
pub type At = (Seq, u32);

/// A version of a record.
#[derive(Clone, Debug, PartialEq)]
pub struct Version {
    pub at: At,
    pub row: Row,
}

/// What is stored of a collection.
pub struct Truth {
    /// Version 1 and up.
    pub manifests: Vec<Manifest>,
    /// Entry 1 and up: nothing is collected here.
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
    let texts = batch.column_by_name(TEXT).map(|c| c.as_string::<i32>().clone());
    (0..ids.len()).map(move |i| {
        let vector = vectors.value(i);
        let vector = vector.as_primitive::<Float32Type>().values();
        let text = texts.as_ref().filter(|t| t.is_valid(i)).map(|t| t.value(i).to_owned());
        let row = Row { id: ids.value(i).to_owned(), vector: [vector[0], vector[1]], text };
        Version { at: (seqs.value(i) as Seq, numbers.value(i) as u32), row }
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
    for manifest in &truth.manifests {
        truth.check_version(&stored, manifest, read);
    }
    stored.check_head(&truth.manifests);
    Some(truth)
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

    /// Every name is one of the format's, and every one that is created has held one body.
    fn check_names(&self) {
        for key in self.world.keys("") {
            let parsed = Key::parse(&key).unwrap_or_else(|e| panic!("{e}"));
            if !matches!(parsed, Key::Of(_, Part::Head)) {
                let bodies: BTreeSet<Bytes> = self.world.history(&key).into_iter().flatten().collect();
                assert_eq!(bodies.len(), 1, "INV-7: {key} has had {} bodies", bodies.len());
            }
        }
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
        let read = |version: &u64| {
            let key = self.keys.manifest(*version);
            match RegisterEntry::decode(&key, *version, &self.body(&key)) {
                Ok(RegisterEntry::Manifest(manifest)) => *manifest,
                other => panic!("INV-3: {other:?}"),
            }
        };
        let manifests: Vec<Manifest> = versions.iter().map(read).collect();
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

    /// The whole log: dense, at least up to the watermark, every hash as its header says.
    fn entries(&self, newest: &Manifest) -> Vec<(Entry, Decoded)> {
        let seqs = self.numbers(&self.keys.wal_prefix(), ".avro");
        assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>(), "the log has gaps");
        assert!(seqs.len() as u64 >= newest.watermark, "INV-1: the log ends below the watermark");
        let read = |seq: &Seq| {
            let key = self.keys.wal(*seq);
            let entry = wal::decode(&key, self.body(&key)).unwrap_or_else(|e| panic!("INV-3: {e}"));
            let body = entry.body_key().map(|key| self.body(&key));
            wal::verify_hashes(&entry, body.clone()).unwrap_or_else(|e| panic!("INV-3: {e}"));
            let mut rows = RowsBuilder::new(&newest.settings, &newest.schema);
            let decoded = wal::decode_rows(&entry, body, &mut rows).and_then(|()| rows.finish());
            (entry, decoded.unwrap_or_else(|e| panic!("INV-3: {e}")))
        };
        seqs.iter().map(read).collect()
    }

    fn check_sizes(&self, segment: &Segment) {
        let made = segment.made;
        let sizes = [self.keys.rows(made), self.keys.index(made)].map(|key| self.body(&key).len() as u64);
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
            let index = self.body(&self.keys.index(part.made));
            assert!(index.starts_with(&part.header), "head has another header of {}", part.made);
            let segment = head.manifest.segments.iter().find(|s| s.made == part.made);
            let deletes = segment.and_then(|s| s.deletes.as_ref()).map(|d| self.keys.deletes(d.made));
            if let Some(copy) = &part.deletes {
                let deletes = deletes.unwrap_or_else(|| panic!("head has a bitmap of {}", part.made));
                assert_eq!(&self.body(&deletes), copy, "head has another {deletes}");
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
    fn check_version(&self, stored: &Stored<'_>, manifest: &Manifest, read: &mut Read) {
        let version = manifest.version;
        let folded = &self.entries[..manifest.watermark as usize];
        let hash = |at: &At, id: &str| SetHash::of(id, at.0, at.1);
        let accepted: SetHash = writes(folded).iter().map(|(at, id, _)| hash(at, id)).sum();
        let mut live: BTreeMap<String, Version> = BTreeMap::new();
        for segment in &manifest.segments {
            stored.check_sizes(segment);
            let rows = read
                .entry(segment.made.to_string())
                .or_insert_with(|| Arc::new(segment::read(&stored.keys, segment, |key| stored.body(key))));
            for row in rows.live(&stored.keys, segment, |key| stored.body(key)) {
                assert!(row.at.0 <= manifest.watermark, "INV-5: {version} has {row:?} and it is in the tail");
                let twice = live.insert(row.row.id.clone(), row);
                assert_eq!(twice, None, "INV-5: version {version} has two rows of one id");
            }
        }
        assert_eq!(live, newest_of(writes(folded)), "INV-1, 5: the segments of version {version}");
        let live: SetHash = live.values().map(|v| hash(&v.at, &v.row.id)).sum();
        assert_eq!(manifest.hashes.accepted, accepted, "INV-6: accepted of version {version}");
        assert_eq!(manifest.hashes.live, live, "INV-6: live of version {version}");
        assert_eq!(manifest.hashes.pruned, accepted - live, "INV-6: pruned of version {version}");
        let recent = folded.iter().flat_map(|(entry, _)| {
            entry.batches.iter().map(|b| Recent {
                token: b.token,
                seq: entry.seq,
                rows: b.rows,
                at_ms: b.arrived_ms,
            })
        });
        assert_eq!(manifest.recent, recent.collect::<Vec<_>>(), "the tokens of version {version}");
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
