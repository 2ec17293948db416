//! Between messages and the service's types.

use bytes::Bytes;
use esker_format::record::Record;
use esker_format::{Error, Name, Result};
use esker_proto::grpc;
use esker_proto::v1;
use esker_store::Io;

use super::{access, filter};
use crate::engine::Stats;
use crate::search::{Explain, Hit, Search};
use crate::service::{Described, Service};

/// Records in the form that a request asked for.
pub(super) struct Records {
    /// As messages; none if Avro was asked for.
    pub messages: Vec<v1::Record>,
    /// As Avro; empty if it was not asked for.
    pub avro: Bytes,
}

impl Records {
    pub fn new(operation: &str, avro: bool, records: Vec<Record>) -> Records {
        match avro {
            true => Records { messages: Vec::new(), avro: grpc::avro(operation, &records) },
            false => {
                Records { messages: records.into_iter().map(v1::Record::from).collect(), avro: Bytes::new() }
            }
        }
    }
}

pub(super) fn io(io: &Io) -> v1::Io {
    v1::Io {
        waves: io.waves,
        gets: io.gets,
        lists: io.lists,
        bytes: io.bytes_read,
        cache_hit_bytes: io.cache_hit_bytes,
        usd: io.usd(),
    }
}

pub(super) fn collection(d: Described) -> v1::Collection {
    v1::Collection {
        name: d.name.to_string(),
        id: d.id.to_string(),
        dimension: d.dimension,
        metric: d.metric.to_string(),
        vector_type: d.vector_type.to_string(),
        metadata: d.metadata.columns.into_iter().map(|c| (c.name, c.kind.as_str().to_owned())).collect(),
        version: d.version,
        position: d.position,
    }
}

pub(super) fn stats(name: &Name, s: Stats) -> v1::StatsReply {
    v1::StatsReply {
        collection: Some(v1::Collection {
            name: name.to_string(),
            id: s.collection,
            dimension: s.settings.dimension,
            metric: s.settings.metric.to_string(),
            vector_type: s.settings.vector_type.to_string(),
            metadata: s.schema.columns.into_iter().map(|c| (c.name, c.kind.as_str().to_owned())).collect(),
            version: s.version,
            position: s.position,
        }),
        position: s.position,
        watermark: s.watermark,
        segment_rows: s.segment_rows,
        segments: s.segments as u64,
        segment_bytes: s.segment_bytes,
        tail_entries: s.tail_entries,
        tail_ids: s.tail_ids,
    }
}

pub(super) fn search(service: &Service, m: v1::SearchRequest) -> Result<Search> {
    grpc::schema_version(m.schema_version)?;
    let access = access(m.consistency, m.min_position, m.as_of)?;
    let default = Search::default();
    let given = [!m.vector.is_empty(), !m.vectors.is_empty(), m.like.is_some()];
    if given.into_iter().filter(|given| *given).count() != 1 {
        return Err(Error::invalid("vector", "give exactly one of vector, vectors and like"));
    }
    let vectors = match m.vector.is_empty() {
        false => vec![m.vector],
        true => m.vectors.into_iter().map(|v| v.values).collect(),
    };
    Ok(Search {
        vectors,
        like: m.like,
        k: m.k.map_or(default.k, |k| k as usize),
        filter: filter(service, m.filter)?,
        include: m.include.map(|c| c.names),
        include_vector: m.include_vector,
        max_distance: m.max_distance,
        min_recall: m.min_recall.unwrap_or(default.min_recall),
        consistency: access.consistency,
        min_position: access.min_position,
        as_of: access.as_of,
        explain: m.explain,
    })
}

pub(super) fn result(name: &Name, avro: bool, hits: Vec<Hit>) -> v1::SearchResult {
    let records = hits.into_iter().map(|hit| Record {
        id: hit.id,
        collection_id: name.to_string(),
        vector: hit.vector.unwrap_or_default(),
        metadata: hit.metadata,
        timestamp: hit.timestamp,
        created_at: hit.created_at,
        updated_at: hit.updated_at,
        expires_at: hit.expires_at,
        version: hit.version,
        rank: i32::try_from(hit.rank).ok(),
        score: Some(hit.score),
        distance: Some(hit.distance),
    });
    let Records { messages, avro } = Records::new("search", avro, records.collect());
    v1::SearchResult { hits: messages, avro_payload: avro }
}

pub(super) fn explain(explain: Option<&Explain>) -> Result<String> {
    let json = explain.map(serde_json::to_string).transpose();
    let json = json.map_err(|e| Error::internal("an explanation cannot be written").with_source(e))?;
    Ok(json.unwrap_or_default())
}
