//! Records by id, and how many there are.

use axum::body::Body;
use axum::extract::State;
use esker_format::record::Record;
use esker_proto::rest::{self, Encoding, ErrorBody, InPath, InQuery, RecordSchema, Reply, accept};
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::encode::{self, RECORDS};
use super::{Asked, BODY_BYTES, Cost, Freshness, access, name, staleness};
use crate::service::Service;

/// How a record is read.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct GetOne {
    /// Whether the record has its vector.
    #[serde(default)]
    include_vector: bool,
    /// strong or eventual.
    #[param(inline)]
    consistency: Option<Freshness>,
    /// At least the state that an acknowledgement with this position left.
    min_position: Option<u64>,
    /// The state at the watermark of a version.
    as_of: Option<u64>,
}

/// A record.
#[utoipa::path(
    get, path = "/v1/collections/{collection}/records/{id}", tag = "records",
    params(("collection" = String, Path, description = "The collection's name.", pattern = "^[a-z0-9_-]{1,64}$"),
        ("id" = String, Path, description = "The record's id.", min_length = 1, max_length = 256), GetOne),
    responses((status = 200, description = "The record.", body = RecordSchema),
        (status = "default", description = "An error.", body = ErrorBody))
)]
pub(super) async fn get(
    State(service): State<Service>,
    InPath((collection, id)): InPath<(String, String)>,
    InQuery(query): InQuery<GetOne>,
) -> Reply {
    let asked = Asked::new(&service);
    let access = access(query.consistency, query.min_position, query.as_of);
    let got = service.get(&asked.meter, &name(collection)?, &id, query.include_vector, access).await;
    let (record, seen) = got?;
    let reply = rest::json(&record)?;
    Ok(asked.encoded(reply, seen.position))
}

/// Which records to read.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct GetMany {
    /// At most 10,000.
    #[serde(deserialize_with = "rest::batch")]
    #[schema(max_items = 10000)]
    ids: Vec<String>,
    /// Metadata columns; all if not said.
    include: Option<Vec<String>>,
    /// Whether records have their vector.
    #[serde(default)]
    include_vector: bool,
    consistency: Option<Freshness>,
    /// At least the state that an acknowledgement with this position left.
    min_position: Option<u64>,
    /// The state at the watermark of a version.
    as_of: Option<u64>,
}

/// The records that there are.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Found<'a> {
    /// In the order of the request.
    #[schema(value_type = Vec<RecordSchema>)]
    records: &'a [Record],
    /// Ids without a record.
    missing: Vec<&'a str>,
    position: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    staleness_ms: Option<u64>,
    io: Cost,
    took_ms: f64,
}

/// Records by id, as JSON, NDJSON, an Avro container or an Arrow stream.
#[utoipa::path(
    post, path = "/v1/collections/{collection}/records/get", tag = "records",
    params(("collection" = String, Path, description = "The collection's name.", pattern = "^[a-z0-9_-]{1,64}$")),
    request_body = GetMany,
    responses((status = 200, description = "Those that there are.", body = Found<'static>),
        (status = "default", description = "An error.", body = ErrorBody))
)]
pub(super) async fn get_many(
    State(service): State<Service>,
    InPath(collection): InPath<String>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    let asked = Asked::new(&service);
    let (encoding, name) = (accept(&headers, &RECORDS)?, name(collection)?);
    rest::content_type(&headers, &[Encoding::Json])?;
    let want: GetMany = rest::parse(&rest::read(body, BODY_BYTES).await?)?;
    let access = access(want.consistency, want.min_position, want.as_of);
    let include = want.include.as_deref();
    let got = service.get_many(&asked.meter, &name, &want.ids, include, want.include_vector, access).await?;
    let position = got.seen.position;
    let missing: Vec<&str> =
        want.ids.iter().zip(&got.records).filter(|(_, r)| r.is_none()).map(|(id, _)| id.as_str()).collect();
    let records: Vec<Record> = got.records.into_iter().flatten().collect();
    if encoding == Encoding::Json {
        let reply = Found {
            records: &records,
            missing,
            position,
            staleness_ms: staleness(access, got.seen),
            io: asked.io(),
            took_ms: asked.took_ms(),
        };
        return asked.json(&reply, Some(position));
    }
    Ok(asked.encoded(encode::records(encoding, &records, &got.schema, include)?, position))
}

/// Which rows to count.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Count {
    /// A SQL condition, or its JSON form; all rows if not said.
    #[schema(value_type = Option<Object>)]
    filter: Value,
    consistency: Option<Freshness>,
    /// At least the state that an acknowledgement with this position left.
    min_position: Option<u64>,
    /// The state at the watermark of a version.
    as_of: Option<u64>,
}

/// How many rows there are.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Counted {
    count: u64,
    position: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    staleness_ms: Option<u64>,
    io: Cost,
    took_ms: f64,
}

/// How many rows there are, or pass a filter. An empty body counts all.
#[utoipa::path(
    post, path = "/v1/collections/{collection}/records/count", tag = "records",
    params(("collection" = String, Path, description = "The collection's name.", pattern = "^[a-z0-9_-]{1,64}$")),
    request_body = Count,
    responses((status = 200, description = "The number.", body = Counted),
        (status = "default", description = "An error.", body = ErrorBody))
)]
pub(super) async fn count(
    State(service): State<Service>,
    InPath(collection): InPath<String>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    let (asked, name) = (Asked::new(&service), name(collection)?);
    rest::content_type(&headers, &[Encoding::Json])?;
    let body = rest::read(body, BODY_BYTES).await?;
    let want: Count = if body.is_empty() { Count::default() } else { rest::parse(&body)? };
    let access = access(want.consistency, want.min_position, want.as_of);
    let filter = service.filter_json(&want.filter)?;
    let (count, seen) = service.count(&asked.meter, &name, filter.as_ref(), access).await?;
    let reply = Counted {
        count,
        position: seen.position,
        staleness_ms: staleness(access, seen),
        io: asked.io(),
        took_ms: asked.took_ms(),
    };
    asked.json(&reply, Some(seen.position))
}
