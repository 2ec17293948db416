//! How a read comes to a state it may answer from: what it needs of the segments is read beside the second wave of the
//! snapshot, and read again in the rare case that the snapshot turns out to be another.

use std::sync::Arc;

use esker_format::head::Part;
use esker_format::manifest::Manifest;
use esker_format::schema::Schema;
use esker_format::{CollectionId, Error, Kind, Result, Seq, Version};
use esker_store::Meter;
use esker_store::collection::Collection;
use esker_store::snapshot::Snapshot;
use futures::future::BoxFuture;
use roaring::RoaringBitmap;

use super::load::Loaded;
use super::{Reader, State};
use crate::search::Consistency;
use crate::segment::Hashed;
use crate::tail::Tail;

/// A read that finds objects of its snapshot collected starts again from the newest manifest at most this often.
const RESTARTS: u32 = 4;

/// Which state to read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Access {
    /// How fresh.
    pub consistency: Consistency,
    /// At least the state that an acknowledgement with this position left. An eventual read that is behind it is made a
    /// strong one; no strong read is behind a write that was acknowledged.
    pub min_position: Option<Seq>,
    /// The state at the watermark of a version.
    pub as_of: Option<Version>,
}

impl Access {
    /// Refuses what contradicts itself.
    pub(crate) fn check(&self) -> Result<()> {
        match (self.as_of, self.consistency) {
            (Some(_), Consistency::Eventual) => {
                Err(Error::invalid("as_of", "as_of names one state: it goes with strong consistency only"))
            }
            _ => Ok(()),
        }
    }
}

/// The state that an answer is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Seen {
    /// The last entry of the log that it has.
    pub position: Seq,
    /// The manifest that it rests on.
    pub version: Version,
    /// Milliseconds that it may be behind; 0 if strong.
    pub staleness_ms: u64,
}

/// A state that a snapshot will most likely have: enough to read the segments, not to answer.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub id: CollectionId,
    pub state: Arc<State>,
    pub collection: Arc<Collection>,
    pub manifest: Arc<Manifest>,
    pub schema: Arc<Schema>,
    pub parts: Vec<Option<Part>>,
    /// Bytes of the tail, as far as they are known.
    pub tail_bytes: u64,
    pub meter: Meter,
}

/// A state that a read answers from.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub id: CollectionId,
    pub state: Arc<State>,
    pub manifest: Arc<Manifest>,
    pub schema: Arc<Schema>,
    pub tail: Arc<Tail>,
    pub position: Seq,
    pub restarts: u32,
    pub staleness_ms: u64,
    /// For reading more of the segments.
    pub draft: Draft,
}

impl View {
    pub fn seen(&self) -> Seen {
        Seen { position: self.position, version: self.manifest.version, staleness_ms: self.staleness_ms }
    }
}

impl Reader {
    /// Reads a state; `load` reads what is needed of its segments and may run more than once.
    pub(crate) async fn see<'a, T>(
        &'a self,
        meter: &Meter,
        access: Access,
        load: impl Fn(Draft) -> BoxFuture<'a, Result<T>>,
    ) -> Result<(View, T)> {
        let store = &self.inner.store;
        let (collection, mut snapshot, early) = match access {
            Access { as_of: Some(version), .. } => {
                let collection = store.collection(meter, &self.name).await?;
                let snapshot = collection.as_of(meter, version).await?;
                (collection, snapshot, None)
            }
            Access { consistency: Consistency::Eventual, min_position, .. } => {
                let collection = store.collection(meter, &self.name).await?;
                let staleness = self.inner.options.staleness;
                let snapshot = collection.eventual(meter, staleness, min_position.unwrap_or(0)).await?;
                (collection, snapshot, None)
            }
            _ => {
                let (collection, begun) = store.begin(meter, &self.name).await?;
                let draft = Draft {
                    id: collection.id().clone(),
                    state: self.inner.memory.state(collection.id()),
                    manifest: begun.manifest.clone(),
                    schema: Arc::new(begun.manifest.schema.clone()),
                    parts: begun.parts(),
                    tail_bytes: begun.tail_bytes(),
                    meter: meter.fork(),
                    collection: collection.clone(),
                };
                let (version, schema) = (draft.manifest.version, draft.schema.clone());
                let finish_meter = meter.fork();
                let (snapshot, loaded) = futures::join!(collection.finish(&finish_meter, begun), load(draft));
                let snapshot = snapshot?;
                let same = snapshot.manifest.version == version && snapshot.schema == *schema;
                (collection, snapshot, same.then_some(loaded))
            }
        };
        let (mut restarts, mut early) = (0, early);
        let loaded = loop {
            let loaded = match early.take() {
                Some(loaded) => loaded,
                None => load(self.draft(&collection, &snapshot, meter)).await,
            };
            match loaded {
                Err(e) if e.kind() == Kind::NotFound && restarts < RESTARTS && access.as_of.is_none() => {
                    let newer = collection.snapshot_newest(meter).await?;
                    if newer.manifest.version == snapshot.manifest.version {
                        // Nothing newer: what the newest manifest names must exist (INV-3).
                        return Err(Error::new(
                            Kind::Corrupt,
                            format!("{e}, though the newest manifest names it"),
                        ));
                    }
                    restarts += 1;
                    snapshot = newer;
                }
                loaded => break loaded?,
            }
        };
        let view = self.view(&collection, snapshot, restarts, meter)?;
        if let Some(min) = access.min_position
            && view.position < min
        {
            let message = format!("position {min} is beyond the state that was read, {}", view.position);
            return Err(Error::invalid("min_position", message));
        }
        Ok((view, loaded))
    }

    pub(super) fn draft(&self, collection: &Arc<Collection>, snapshot: &Snapshot, meter: &Meter) -> Draft {
        Draft {
            id: collection.id().clone(),
            state: self.inner.memory.state(collection.id()),
            collection: collection.clone(),
            manifest: snapshot.manifest.clone(),
            schema: Arc::new(snapshot.schema.clone()),
            parts: snapshot.parts.clone(),
            tail_bytes: snapshot.tail.iter().map(|e| e.entry.bytes).sum(),
            meter: meter.clone(),
        }
    }

    fn view(
        &self,
        collection: &Arc<Collection>,
        snapshot: Snapshot,
        restarts: u32,
        meter: &Meter,
    ) -> Result<View> {
        let draft = self.draft(collection, &snapshot, meter);
        let (id, state) = (draft.id.clone(), draft.state.clone());
        let (version, position) = (snapshot.manifest.version, snapshot.position);
        let tail = state.tail(&id, &snapshot)?;
        state.trim(version, &snapshot.manifest.segments);
        self.inner.memory.settle(&id);
        Ok(View {
            id,
            state,
            tail,
            position,
            restarts: restarts + snapshot.restarts,
            staleness_ms: snapshot.staleness_ms,
            schema: draft.schema.clone(),
            manifest: snapshot.manifest,
            draft,
        })
    }

    /// Per segment the rows that the tail overwrote or deleted, exactly: each is confirmed by its id. Worked out once per
    /// state; two waves the first time.
    pub(crate) async fn superseded(
        &self,
        meter: &Meter,
        view: &View,
        loaded: &Loaded,
    ) -> Result<Arc<Vec<RoaringBitmap>>> {
        let (version, position) = (view.manifest.version, view.position);
        if let Some(known) = view.state.superseded(version, position) {
            return Ok(known);
        }
        let (first, before) = match view.state.superseded_before(version, position) {
            Some((entries, before)) => (entries, Some(before)),
            None => (0, None),
        };
        let touched = view.tail.touched_from(first)?.into_iter();
        let ids: Vec<Hashed<'_>> = touched.map(|id| Hashed { id, hash: view.id.hash_id(id) }).collect();
        let reads = loaded.parts.iter().map(|part| {
            let (meter, ids) = (meter.fork(), &ids);
            async move {
                if ids.is_empty() {
                    return Ok(RoaringBitmap::new());
                }
                let (found, _) = part.segment.rows_of_ids(self.client(), &meter, &view.schema, ids).await?;
                Ok::<_, Error>(found.into_iter().map(|(_, ordinal)| ordinal).collect())
            }
        });
        let mut found: Vec<RoaringBitmap> = futures::future::try_join_all(reads).await?;
        if let Some(before) = before {
            found.iter_mut().zip(before.iter()).for_each(|(found, before)| *found |= before);
        }
        let found = Arc::new(found);
        view.state.keep_superseded(version, position, &found);
        Ok(found)
    }
}
