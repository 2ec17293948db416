//! An entry of the log as readers use it: decoded once for a schema, its body read on demand.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use esker_format::avro::{Decoded, RowsBuilder};
use esker_format::schema::{Schema, Settings};
use esker_format::wal::{self, Entry};
use esker_format::{Error, Kind, Result, Seq};

use crate::cache::Piece;
use crate::client::{ETag, IfMatch, together};
use crate::collection::Collection;
use crate::meter::Meter;

/// A log entry.
#[derive(Debug)]
pub struct TailEntry {
    /// Its header, and its blocks if they are inline.
    pub entry: Entry,
    decoded: Mutex<Option<(Schema, Arc<Decoded>)>>,
}

impl TailEntry {
    pub(crate) fn new(entry: Entry) -> Arc<Self> {
        Arc::new(TailEntry { entry, decoded: Mutex::new(None) })
    }

    /// Its number.
    pub fn seq(&self) -> Seq {
        self.entry.seq
    }

    /// Hashes ([`esker_format::CollectionId::hash_id`]) of the ids that it writes or deletes, in order.
    ///
    /// # Errors
    /// `Corrupt`, naming the object.
    pub fn id_hashes(&self) -> Result<Vec<u64>> {
        let entry = &self.entry;
        if let Some(hashes) = &entry.ids {
            return Ok(hashes.clone());
        }
        let ids = entry.blocks.iter().flat_map(|block| esker_format::avro::ids(&block.data));
        ids.map(|id| Ok(entry.collection.hash_id(id.map_err(|e| Error::corrupt(&entry.key, e))?))).collect()
    }

    /// Bytes that keeping it costs: inline blocks, and decoded rows about as much again.
    pub(crate) fn held_bytes(&self) -> u64 {
        let decoded = self.decoded.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        let inline = if self.entry.body.is_none() { self.entry.bytes } else { 0 };
        inline + if decoded { self.entry.bytes } else { 0 }
    }

    fn decoded(&self, settings: &Settings, schema: &Schema, body: Option<Bytes>) -> Result<Arc<Decoded>> {
        let mut kept = self.decoded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((for_schema, decoded)) = &*kept
            && for_schema == schema
        {
            return Ok(decoded.clone());
        }
        let mut rows = RowsBuilder::new(settings, schema);
        wal::decode_rows(&self.entry, body, &mut rows)?;
        let decoded = Arc::new(rows.finish()?);
        *kept = Some((schema.clone(), decoded.clone()));
        Ok(decoded)
    }

    fn has_decoded(&self, schema: &Schema) -> bool {
        let kept = self.decoded.lock().unwrap_or_else(PoisonError::into_inner);
        kept.as_ref().is_some_and(|(for_schema, _)| for_schema == schema)
    }
}

impl Collection {
    /// The entry in a slot, if it is there; it may have been folded already.
    pub async fn entry(&self, meter: &Meter, seq: Seq) -> Result<Option<Arc<TailEntry>>> {
        self.read_entry(meter, seq, None).await
    }

    /// The entry in a slot; `None` if there is none, or with a tag if it is not the one with that tag.
    pub(crate) async fn read_entry(
        &self,
        meter: &Meter,
        seq: Seq,
        etag: Option<&ETag>,
    ) -> Result<Option<Arc<TailEntry>>> {
        let key = self.keys().wal(seq);
        let bytes = match etag {
            Some(etag) => match self.client().get_if_match(meter, &key, etag).await? {
                IfMatch::Some(bytes) => bytes,
                IfMatch::Gone => return Ok(None),
            },
            None => match self.client().get(meter, &key).await? {
                Some((bytes, _)) => bytes,
                None => return Ok(None),
            },
        };
        let entry = wal::decode(&key, bytes)?;
        if entry.collection != *self.id() || entry.seq != seq {
            return Err(Error::corrupt(key, format!("it is entry {} of {}", entry.seq, entry.collection)));
        }
        Ok(Some(TailEntry::new(entry)))
    }

    /// The rows and tombstones of entries under `schema`, in order. Bodies are read at once, through the cache.
    pub async fn decode_tail(
        &self,
        meter: &Meter,
        settings: &Settings,
        schema: &Schema,
        tail: &[Arc<TailEntry>],
    ) -> Result<Vec<Arc<Decoded>>> {
        let bodies = tail.iter().map(|e| {
            let meter = meter.fork();
            async move {
                match e.entry.body_key().filter(|_| !e.has_decoded(schema)) {
                    Some(key) => self.client().cached(&meter, &Piece::whole(key)).await.map(Some),
                    None => Ok(None),
                }
            }
        });
        let bodies: Vec<Option<Bytes>> = together(bodies).await?;
        let decode = |(e, body): (&Arc<TailEntry>, Option<Bytes>)| match e.decoded(settings, schema, body) {
            Err(e) if matches!(e.kind(), Kind::Internal | Kind::Conflict) => {
                Err(e.context(format_args!("log of {}", self.id())))
            }
            done => done,
        };
        tail.iter().zip(bodies).map(decode).collect()
    }
}
