//! `POST /v1/sql`: rows as they are found.

use axum::body::Body;
use axum::extract::State;
use esker_format::Result;
use esker_proto::rest::{self, Encoding, ErrorBody, Reply, accept};
use futures::{StreamExt, TryStreamExt, stream};
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::encode::Rows;
use super::{Asked, BODY_BYTES, Cost};
use crate::service::Service;
use crate::sql::Param;

/// What rows may be encoded as.
const OFFERED: [Encoding; 4] = [Encoding::Json, Encoding::Ndjson, Encoding::Csv, Encoding::Arrow];

/// A query.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Query {
    /// One statement that reads. A table is the name of a collection.
    #[schema(min_length = 1, max_length = 65536)]
    query: String,
    /// Values of `$1`, `$2`, …: a list of numbers is a vector.
    #[serde(default)]
    #[schema(value_type = Vec<Object>)]
    params: Vec<Value>,
}

/// The rows, as JSON. A stream: a row is not held back until the last is found.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SqlRows {
    /// An object by column; a missing value is null.
    #[schema(value_type = Vec<Object>)]
    rows: Vec<Value>,
    io: Cost,
    took_ms: f64,
}

/// Runs a SQL query, each table at one state. JSON, NDJSON, CSV or an Arrow stream. An error before the first row is a
/// reply of its own; after it, the body ends unfinished.
#[utoipa::path(
    post, path = "/v1/sql", tag = "sql",
    request_body = Query,
    responses((status = 200, description = "The rows.", body = SqlRows),
        (status = "default", description = "An error.", body = ErrorBody))
)]
pub(super) async fn sql(State(service): State<Service>, headers: HeaderMap, body: Body) -> Reply {
    let asked = Asked::new(&service);
    let encoding = accept(&headers, &OFFERED)?;
    rest::content_type(&headers, &[Encoding::Json])?;
    let query: Query = rest::parse(&rest::read(body, BODY_BYTES).await?)?;
    let params = query.params.iter().map(Param::json).collect::<Result<Vec<_>>>()?;
    let mut rows = service.sql(&asked.meter, &query.query, &params).await?;
    let writer = Rows::new(encoding, &rows.schema)?;
    let first = rows.batches.try_next().await?;
    let batches = stream::iter(first.map(Ok)).chain(rows.batches);
    let meter = asked.meter.clone();
    let start_ms = asked.start_ms;
    let end = {
        let (meter, service) = (meter.clone(), service.clone());
        move || {
            let took_ms = Asked { service: &service, meter: meter.clone(), start_ms }.took_ms();
            (Cost::from(meter.io()), took_ms)
        }
    };
    let body = Body::from_stream(writer.stream(batches.boxed(), end));
    Ok(rest::with_extensions(rest::answer(encoding, body), meter.io(), None))
}
