//! `POST …/search`.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::State;
use esker_format::record::{self, Record};
use esker_format::{Error, Result};
use esker_proto::rest::{self, Encoding, ErrorBody, InPath, Reply, accept};
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::encode::{self, RECORDS};
use super::{Asked, BODY_BYTES, Cost, Freshness, access, name, staleness};
use crate::engine::Seen;
use crate::search::{Explain, Hit, Search, SearchReply};
use crate::service::Service;

/// A search: one of `vector`, `vectors` and `like`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Search)]
pub(super) struct Query {
    /// As many numbers as the collection has dimensions.
    vector: Option<Vec<f32>>,
    /// Several vectors; the reply has `results` in their order.
    #[schema(min_items = 1, max_items = 1000)]
    vectors: Option<Vec<Vec<f32>>>,
    /// The id of a record to search with the vector of.
    like: Option<String>,
    /// Hits per vector: 1 to 10,000, 10 if not said.
    #[schema(minimum = 1, maximum = 10000)]
    k: Option<usize>,
    /// A SQL condition, or its JSON form.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    filter: Value,
    /// Metadata columns of the hits; all if not said.
    include: Option<Vec<String>>,
    /// Whether hits have their vector.
    #[serde(default)]
    include_vector: bool,
    /// Only rows at most this far away.
    max_distance: Option<f32>,
    /// The share of the true nearest rows to aim at, above 0 and at most 1.
    #[schema(exclusive_minimum = 0.0, maximum = 1.0)]
    min_recall: Option<f32>,
    consistency: Option<Freshness>,
    /// At least the state that an acknowledgement with this position left.
    min_position: Option<u64>,
    /// The state at the watermark of a version.
    as_of: Option<u64>,
    /// Whether the reply says how it came about.
    #[serde(default)]
    explain: bool,
}

impl Query {
    fn search(self, service: &Service) -> Result<(Search, bool)> {
        let several = self.vectors.is_some();
        let vectors = match (self.vector, self.vectors, &self.like) {
            (Some(vector), None, None) => vec![vector],
            (None, Some(vectors), None) if vectors.is_empty() => {
                return Err(Error::invalid("vectors", "the list of vectors is empty"));
            }
            (None, Some(vectors), None) => vectors,
            (None, None, Some(_)) => Vec::new(),
            _ => {
                return Err(Error::invalid("vector", "give exactly one of vector, vectors and like"));
            }
        };
        let access = access(self.consistency, self.min_position, self.as_of);
        let usual = Search::default();
        let search = Search {
            vectors,
            like: self.like,
            k: self.k.unwrap_or(usual.k),
            filter: service.filter_json(&self.filter)?,
            include: self.include,
            include_vector: self.include_vector,
            max_distance: self.max_distance,
            min_recall: self.min_recall.unwrap_or(usual.min_recall),
            consistency: access.consistency,
            min_position: access.min_position,
            as_of: access.as_of,
            explain: self.explain,
        };
        Ok((search, several))
    }
}

/// A row found.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Hit)]
pub(super) struct Shown<'a> {
    /// Which vector it is a hit of, from 0: in NDJSON, when there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    query: Option<usize>,
    id: &'a str,
    /// The metric's own distance.
    distance: f32,
    /// Higher is better.
    score: f32,
    /// Position from 1.
    rank: u32,
    #[schema(value_type = BTreeMap<String, Object>)]
    metadata: &'a BTreeMap<String, record::Value>,
    /// If it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    vector: Option<&'a [f32]>,
}

impl<'a> Shown<'a> {
    fn new(hit: &'a Hit, query: Option<usize>) -> Self {
        Shown {
            query,
            id: &hit.id,
            distance: hit.distance,
            score: hit.score,
            rank: hit.rank,
            metadata: &hit.metadata,
            vector: hit.vector.as_deref(),
        }
    }
}

/// The hits of one of several vectors.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Hits<'a> {
    hits: Vec<Shown<'a>>,
}

/// The answer: `hits`, or `results` if the request had `vectors`.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Answer<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    hits: Option<Vec<Shown<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    results: Option<Vec<Hits<'a>>>,
    /// The state that was searched.
    position: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    staleness_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    explain: Option<&'a Explain>,
    io: Cost,
    took_ms: f64,
}

/// The nearest rows to one or more vectors, as JSON, NDJSON, an Avro container or an Arrow stream.
#[utoipa::path(
    post, path = "/v1/collections/{collection}/search", tag = "search",
    params(("collection" = String, Path, description = "The collection's name.", pattern = "^[a-z0-9_-]{1,64}$")),
    request_body = Query,
    responses((status = 200, description = "The nearest rows.", body = Answer<'static>),
        (status = "default", description = "An error.", body = ErrorBody))
)]
pub(super) async fn search(
    State(service): State<Service>,
    InPath(collection): InPath<String>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    let asked = Asked::new(&service);
    let (encoding, name) = (accept(&headers, &RECORDS)?, name(collection)?);
    rest::content_type(&headers, &[Encoding::Json])?;
    let query: Query = rest::parse(&rest::read(body, BODY_BYTES).await?)?;
    let (search, several) = query.search(&service)?;
    let reply = service.search(&asked.meter, &name, &search).await?;
    let position = reply.position;
    if encoding == Encoding::Json {
        return asked.json(&answer(&asked, &search, &reply, several), Some(position));
    }
    if encoding == Encoding::Ndjson {
        let hits = reply.results.iter().enumerate().flat_map(|(q, hits)| hits.iter().map(move |h| (q, h)));
        let lines = encode::lines(hits.map(|(q, hit)| Shown::new(hit, several.then_some(q))))?;
        return Ok(asked.encoded(rest::answer(encoding, lines), position));
    }
    let found: Vec<Record> = reply.results.iter().flatten().map(|h| as_record(h, name.as_str())).collect();
    let queries = several.then(|| {
        let of = |(q, hits): (usize, &Vec<Hit>)| std::iter::repeat_n(q as u32, hits.len());
        reply.results.iter().enumerate().flat_map(of).collect::<Vec<u32>>()
    });
    let body = match (encoding, queries) {
        (Encoding::Avro, Some(_)) => {
            let error = Error::invalid("vectors", "an Avro record does not say which vector it is a hit of")
                .with_hint("accept JSON, NDJSON or Arrow, or search for one vector");
            return Err(error.into());
        }
        (Encoding::Arrow, Some(queries)) => {
            encode::numbered(&found, &reply.schema, search.include.as_deref(), queries)?
        }
        _ => encode::records(encoding, &found, &reply.schema, search.include.as_deref())?,
    };
    Ok(asked.encoded(body, position))
}

fn answer<'a>(asked: &Asked<'_>, search: &Search, reply: &'a SearchReply, several: bool) -> Answer<'a> {
    let shown = |hits: &'a Vec<Hit>| hits.iter().map(|hit| Shown::new(hit, None)).collect();
    let seen = Seen { position: reply.position, version: reply.version, staleness_ms: reply.staleness_ms };
    let (hits, results) = match several {
        true => (None, Some(reply.results.iter().map(|hits| Hits { hits: shown(hits) }).collect())),
        false => (Some(reply.results.first().map(shown).unwrap_or_default()), None),
    };
    Answer {
        hits,
        results,
        position: reply.position,
        staleness_ms: staleness(search.access(), seen),
        explain: reply.explain.as_ref(),
        io: reply.io.into(),
        took_ms: asked.took_ms(),
    }
}

fn as_record(hit: &Hit, collection: &str) -> Record {
    Record {
        id: hit.id.clone(),
        collection_id: collection.to_owned(),
        vector: hit.vector.clone().unwrap_or_default(),
        metadata: hit.metadata.clone(),
        timestamp: hit.timestamp,
        created_at: hit.created_at,
        updated_at: hit.updated_at,
        expires_at: hit.expires_at,
        version: hit.version,
        rank: i32::try_from(hit.rank).ok(),
        score: Some(hit.score),
        distance: Some(hit.distance),
    }
}
