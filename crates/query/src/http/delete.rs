//! `DELETE …/records`: by id, by filter, or by bodies of ids in the encodings that writes have.

use arrow::array::{Array, AsArray};
use arrow::datatypes::DataType;
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use bytes::Bytes;
use esker_format::{Error, Result, Token, ipc, limits};
use esker_proto::access::Named;
use esker_proto::rest::{self, Encoding, ErrorBody, InPath, Reply};
use http::HeaderMap;
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{Asked, name};
use crate::service::{Called, Deleted, Doomed, Service};

/// What a body may be.
const TAKEN: [Encoding; 5] =
    [Encoding::Json, Encoding::Ndjson, Encoding::Avro, Encoding::FramedAvro, Encoding::Arrow];
/// Most bytes of a body: those of a batch, and room for what JSON adds.
const BODY_BYTES: usize = 2 * limits::BATCH_BYTES;

/// Which records to delete: exactly one of the two.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Delete {
    /// At most 10,000. Ids that are not there are no error.
    #[serde(default, deserialize_with = "rest::some_batch")]
    #[schema(min_items = 1, max_items = 10000)]
    ids: Option<Vec<String>>,
    /// A SQL condition, or its JSON form. Rows that are written meanwhile are left alone unless they pass, too.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    filter: Value,
}

/// A line of NDJSON.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    id: String,
}

/// Deletes records by id or by filter. `Idempotency-Key` names a delete by id that may be sent again; a delete by filter
/// can always be.
#[utoipa::path(
    delete, path = "/v1/collections/{collection}/records", tag = "records",
    params(("collection" = String, Path, description = "The collection's name.", pattern = "^[a-z0-9_-]{1,64}$"),
        ("idempotency-key" = Option<String>, Header, description = "Names this delete.",
            pattern = "^[!-~]([ -~]{0,254}[!-~])?$")),
    request_body = Delete,
    responses((status = 200, description = "They are gone.", body = Deleted),
        (status = "default", description = "An error.", body = ErrorBody))
)]
pub(super) async fn delete(
    State(service): State<Service>,
    InPath(collection): InPath<String>,
    named: Option<Extension<Named>>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    let (asked, name) = (Asked::new(&service), name(collection)?);
    let called = Called {
        given: rest::idempotency_key(&headers)?.map(Token::from_key),
        drawn: named.map(|Extension(named)| named.drawn()),
    };
    let encoding = rest::content_type(&headers, &TAKEN)?;
    let body = rest::read(body, BODY_BYTES).await?;
    let doomed = match encoding {
        Encoding::Ndjson => Doomed::Ids(lines(&body)?),
        Encoding::Arrow => Doomed::Ids(arrow_ids(&body)?),
        Encoding::Avro => Doomed::Container(body),
        Encoding::FramedAvro => Doomed::Framed(body),
        _ => {
            let want: Delete = rest::parse(&body)?;
            match (want.ids, service.filter_json(&want.filter)?) {
                (Some(ids), None) => Doomed::Ids(ids),
                (None, Some(filter)) => {
                    let deleted = service.delete_where(&asked.meter, &name, &filter).await?;
                    return asked.json(&deleted, Some(deleted.position));
                }
                _ => return Err(Error::invalid("ids", "give either ids or a filter").into()),
            }
        }
    };
    let deleted = service.delete(&asked.meter, &name, doomed, called).await?;
    asked.json(&deleted, Some(deleted.position))
}

fn lines(body: &Bytes) -> Result<Vec<String>> {
    let lines = body.split(|b| *b == b'\n').enumerate().filter(|(_, line)| !line.trim_ascii().is_empty());
    // One more than there may be is enough to be refused.
    lines
        .take(limits::BATCH_ROWS + 1)
        .map(|(i, line)| {
            rest::parse::<Line>(line).map(|l| l.id).map_err(|e| e.context(format_args!("line {}", i + 1)))
        })
        .collect()
}

fn arrow_ids(body: &Bytes) -> Result<Vec<String>> {
    let wrong = |e| Error::invalid("body", format!("the body is not an Arrow IPC stream: {e}"));
    let mut ids = Vec::new();
    for batch in ipc::read(body, BODY_BYTES as u64)? {
        let column =
            batch.column_by_name("id").ok_or_else(|| Error::invalid("id", "there is no column id"))?;
        if column.null_count() > 0 {
            return Err(Error::invalid("id", "an id is null"));
        }
        let texts = arrow::compute::cast(column, &DataType::Utf8).map_err(wrong)?;
        let texts = texts.as_string::<i32>();
        ids.extend((0..texts.len()).map(|row| texts.value(row).to_owned()));
    }
    Ok(ids)
}
