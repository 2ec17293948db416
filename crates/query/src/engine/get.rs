//! Rows by id, counts, and figures about a collection.

use std::sync::Arc;

use esker_format::manifest::Manifest;
use esker_format::record::Record;
use esker_format::schema::{Schema, Settings};
use esker_format::{Result, Seq, Version};
use esker_store::Meter;
use futures::FutureExt;
use serde::Serialize;

use super::Reader;
use super::hits::{Include, payload_record, tail_record};
use super::load::Need;
use super::see::{Access, Seen};
use crate::filter::Filter;
use crate::search::{check_columns, check_reply};
use crate::segment::{Payload, Rows, Vectors};

/// Figures about a collection.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Stats {
    /// The collection id: its name and which life of it.
    pub collection: String,
    /// Dimension, metric, element type.
    #[schema(value_type = Object)]
    pub settings: Settings,
    /// Metadata columns.
    #[schema(value_type = Vec<Object>)]
    pub schema: Schema,
    /// Version of the manifest.
    pub version: Version,
    /// The last entry of the log.
    pub position: Seq,
    /// Entries up to this one are in segments.
    pub watermark: Seq,
    /// Rows that live in segments, what the tail overwrote not subtracted.
    pub segment_rows: u64,
    /// Segments.
    pub segments: usize,
    /// Bytes of their files.
    pub segment_bytes: u64,
    /// Entries of the tail.
    pub tail_entries: u64,
    /// Ids that the tail wrote or deleted.
    pub tail_ids: u64,
}

/// Rows by id.
#[derive(Debug, Clone)]
pub struct Got {
    /// In the order of the ids; nothing for those that do not exist.
    pub records: Vec<Option<Record>>,
    /// The state that they are of.
    pub seen: Seen,
    /// Its metadata columns.
    pub schema: Arc<Schema>,
}

async fn nothing() -> Result<()> {
    Ok(())
}

impl Reader {
    /// The newest versions of rows, in the order of `ids`; nothing for those that do not exist. Also the position of the
    /// state they are of.
    pub async fn get(
        &self,
        meter: &Meter,
        ids: &[String],
        include_vector: bool,
    ) -> Result<(Vec<Option<Record>>, Seq)> {
        self.get_at(meter, ids, include_vector, None).await
    }

    /// As [`Reader::get`], of a state that has `min_position`.
    pub async fn get_at(
        &self,
        meter: &Meter,
        ids: &[String],
        include_vector: bool,
        min_position: Option<Seq>,
    ) -> Result<(Vec<Option<Record>>, Seq)> {
        let access = Access { min_position, ..Access::default() };
        let got = self.get_in(meter, ids, None, include_vector, access).await?;
        Ok((got.records, got.seen.position))
    }

    /// As [`Reader::get`], of the state that `access` names, with the metadata columns of `include`: all if not said.
    ///
    /// # Errors
    /// `Invalid`, naming the field, for columns that the collection does not have.
    pub async fn get_in(
        &self,
        meter: &Meter,
        ids: &[String],
        columns: Option<&[String]>,
        include_vector: bool,
        access: Access,
    ) -> Result<Got> {
        access.check()?;
        let now_ms = self.now_ms();
        let (view, loaded) = self
            .see(meter, access, |draft| {
                let read = async move {
                    check_columns(columns, &draft.schema)?;
                    if include_vector {
                        check_reply("ids", ids.len(), &draft.manifest.settings)?;
                    }
                    let hashes: Vec<u64> = ids.iter().map(|id| draft.id.hash_id(id)).collect();
                    let need = Need { now_ms, hashes: &hashes, ..Need::default() };
                    self.load(draft, need).await
                };
                read.boxed()
            })
            .await?;
        let include = Include::new(columns, include_vector);
        let reads = loaded.parts.iter().map(|part| {
            let (vectors_meter, payload_meter, view) = (meter.fork(), meter.fork(), &view);
            async move {
                let wanted = ids.iter().zip(&part.located).filter(|(id, _)| !view.tail.touches(id));
                let rows: Vec<u32> =
                    wanted.flat_map(|(_, rows)| rows).copied().filter(|o| part.lives(*o)).collect();
                let (segment, client) = (&part.segment, self.client());
                let payload =
                    segment.read_payload(client, &payload_meter, &view.schema, rows.iter().copied());
                let vectors = async {
                    match include_vector && !rows.is_empty() {
                        true => segment.read_vectors_alone(client, &vectors_meter, &rows).await,
                        false => Ok(Vectors::default()),
                    }
                };
                futures::try_join!(vectors, payload)
            }
        });
        let read: Vec<(Vectors, Payload)> = futures::future::try_join_all(reads).await?;
        let mut out = Vec::with_capacity(ids.len());
        for (i, id) in ids.iter().enumerate() {
            let mut found = match view.tail.get(id) {
                Some(Some(row)) => Some(tail_record(&view, row, &include)?),
                Some(None) => None,
                None => {
                    let rows = loaded.parts.iter().zip(&read).flat_map(|(part, (vectors, payload))| {
                        let own = part.located[i].iter().filter(|o| part.lives(**o));
                        own.filter_map(move |o| {
                            let (rows, row) = payload.row(*o)?;
                            Some((part, vectors, rows, row, *o))
                        })
                    });
                    let mut rows = rows.filter(|(_, _, rows, row, _)| rows.id(*row) == id);
                    rows.next().map(|(part, vectors, rows, row, ordinal)| {
                        let mut record = payload_record(&view.schema, rows, row, &include);
                        let bytes = vectors.get(ordinal);
                        record.vector = bytes.map(|b| part.segment.floats(b)).unwrap_or_default();
                        record
                    })
                }
            };
            if let Some(record) = &mut found {
                record.collection_id = view.id.name().to_string();
            }
            out.push(found.filter(|r| r.expires_at.is_none_or(|at| at >= now_ms)));
        }
        Ok(Got { records: out, seen: view.seen(), schema: view.schema })
    }

    /// How many rows there are, or pass a filter. Also the position of the state.
    pub async fn count(&self, meter: &Meter, filter: Option<&Filter>) -> Result<(u64, Seq)> {
        let (rows, seen) = self.count_in(meter, filter, Access::default()).await?;
        Ok((rows, seen.position))
    }

    /// As [`Reader::count`], of the state that `access` names.
    pub async fn count_in(
        &self,
        meter: &Meter,
        filter: Option<&Filter>,
        access: Access,
    ) -> Result<(u64, Seen)> {
        access.check()?;
        let now_ms = self.now_ms();
        let (view, loaded) = self
            .see(meter, access, |draft| self.load(draft, Need { filter, now_ms, ..Need::default() }).boxed())
            .await?;
        let superseded = self.superseded(meter, &view, &loaded).await?;
        let live = |(part, gone): (&super::load::Part, _)| {
            let rows = part.segment.row_count();
            Rows::count(&part.rows.clone().without(rows, gone), rows)
        };
        let segments: u64 = loaded.parts.iter().zip(superseded.iter()).map(live).sum();
        let tail = view.tail.passing(loaded.filter.as_deref(), now_ms)?.len();
        Ok((segments + tail, view.seen()))
    }

    /// Figures of the newest state. No segment is read.
    pub async fn stats(&self, meter: &Meter) -> Result<Stats> {
        let (view, ()) = self.see(meter, Access::default(), |_| nothing().boxed()).await?;
        let m = &view.manifest;
        Ok(Stats {
            collection: view.id.to_string(),
            settings: m.settings.clone(),
            schema: view.schema.as_ref().clone(),
            version: m.version,
            position: view.position,
            watermark: m.watermark,
            segment_rows: m.live_rows(),
            segments: m.segments.len(),
            segment_bytes: m.segments.iter().map(|s| s.rows_size + s.index_size).sum(),
            tail_entries: view.position - m.watermark,
            tail_ids: view.tail.ids() as u64,
        })
    }

    /// The newest manifest and schema, for tables and tools.
    pub async fn describe(&self, meter: &Meter) -> Result<(Arc<Manifest>, Schema)> {
        let (view, ()) = self.see(meter, Access::default(), |_| nothing().boxed()).await?;
        Ok((view.manifest, view.schema.as_ref().clone()))
    }
}
