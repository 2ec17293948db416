//! Pages of the rows of one state.

use axum::body::Body;
use axum::extract::State;
use esker_format::record::Record;
use esker_format::{Error, Result};
use esker_proto::rest::{self, Encoding, ErrorBody, InPath, RecordSchema, Reply, accept};
use futures::TryStreamExt;
use http::{HeaderMap, HeaderValue};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::encode::{self, RECORDS};
use super::{Asked, BODY_BYTES, Cost, Freshness, access, name, staleness};
use crate::engine::{Cursor, PageRequest};
use crate::service::{Service, records_of};

/// Rows of a page when the request does not say.
const LIMIT: usize = 100;

/// Which rows to read.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Scan {
    /// A SQL condition, or its JSON form; all rows if not said. The same for all pages.
    #[schema(value_type = Option<Object>)]
    filter: Value,
    /// Metadata columns; all if not said.
    include: Option<Vec<String>>,
    /// Whether records have their vector.
    include_vector: bool,
    /// Most records of a page: 1 to 10,000, 100 if not said. A page may have fewer though there are more.
    #[schema(minimum = 1, maximum = 10000)]
    limit: Option<usize>,
    /// That of the page before.
    cursor: Option<String>,
    consistency: Option<Freshness>,
    /// At least the state that an acknowledgement with this position left.
    min_position: Option<u64>,
    /// The state at the watermark of a version.
    as_of: Option<u64>,
}

/// A page.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Scanned<'a> {
    /// In no particular order; each row is in one page.
    #[schema(value_type = Vec<RecordSchema>)]
    records: &'a [Record],
    /// Where the next page begins; null after the last.
    cursor: Option<String>,
    /// The state that all pages are of.
    position: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    staleness_ms: Option<u64>,
    io: Cost,
    took_ms: f64,
}

/// A page of the rows that pass a filter. All pages are of the state of the first, whatever is written in between; the
/// cursor of another encoding than JSON is in the header `esker-cursor`. 410 when the state is no longer retained.
#[utoipa::path(
    post, path = "/v1/collections/{collection}/records/scan", tag = "records",
    params(("collection" = String, Path, description = "The collection's name.", pattern = "^[a-z0-9_-]{1,64}$")),
    request_body = Scan,
    responses((status = 200, description = "A page.", body = Scanned<'static>),
        (status = "default", description = "An error.", body = ErrorBody))
)]
pub(super) async fn scan(
    State(service): State<Service>,
    InPath(collection): InPath<String>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    let asked = Asked::new(&service);
    let (encoding, name) = (accept(&headers, &RECORDS)?, name(collection)?);
    rest::content_type(&headers, &[Encoding::Json])?;
    let body = rest::read(body, BODY_BYTES).await?;
    let want: Scan = if body.is_empty() { Scan::default() } else { rest::parse(&body)? };
    let request = PageRequest {
        filter: service.filter_json(&want.filter)?,
        include: want.include,
        include_vector: want.include_vector,
        limit: want.limit.unwrap_or(LIMIT),
        access: access(want.consistency, want.min_position, want.as_of),
        cursor: want.cursor.as_deref().map(str::parse::<Cursor>).transpose()?,
    };
    let page = service.scan(&asked.meter, &name, &request).await?;
    let (position, schema) = (page.seen.position, page.schema);
    let batches: Vec<_> = page.batches.try_collect().await?;
    let cursor = page.cursor.map(|c| c.to_string());
    if encoding == Encoding::Arrow {
        let reply = rest::answer(encoding, encode::arrow(&schema, &batches)?);
        return Ok(asked.encoded(with_cursor(reply, cursor)?, position));
    }
    let mut records = Vec::new();
    for batch in &batches {
        records.extend(records_of(batch, &page.metadata, &name)?);
    }
    if encoding == Encoding::Json {
        let reply = Scanned {
            records: &records,
            cursor,
            position,
            staleness_ms: staleness(request.access, page.seen),
            io: asked.io(),
            took_ms: asked.took_ms(),
        };
        return asked.json(&reply, Some(position));
    }
    let reply = encode::records(encoding, &records, &page.metadata, None)?;
    Ok(asked.encoded(with_cursor(reply, cursor)?, position))
}

fn with_cursor(
    mut reply: axum::response::Response,
    cursor: Option<String>,
) -> Result<axum::response::Response> {
    if let Some(cursor) = cursor {
        let value =
            HeaderValue::try_from(cursor).map_err(|_| Error::internal("a cursor that is no header"))?;
        reply.headers_mut().insert(rest::CURSOR, value);
    }
    Ok(reply)
}
