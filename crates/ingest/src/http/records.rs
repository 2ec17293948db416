//! Records: inserted, replaced, patched.

use axum::body::Body;
use axum::{Extension, extract};
use esker_format::record::Op;
use esker_format::{Result, Token};
use esker_proto::access::Named;
use esker_proto::rest::{self, Encoding, ErrorBody, InPath, InQuery, Reply};
use esker_store::Meter;
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::bodies::{self, Patches, Records};
use super::{State, done, name};
use crate::ingest::{Condition, WriteOptions};

/// What must hold of every record, or nothing is written. In JSON bodies, too.
#[derive(Debug, Clone, Copy, Default, Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(super) struct When {
    /// There is no record of that id.
    #[param(required = false)]
    pub if_absent: bool,
    /// There is one, and this is its version.
    pub if_version: Option<i64>,
}

impl When {
    fn or(self, other: When) -> When {
        When {
            if_absent: self.if_absent || other.if_absent,
            if_version: self.if_version.or(other.if_version),
        }
    }
}

fn options(headers: &HeaderMap, when: When) -> Result<WriteOptions> {
    let token = rest::idempotency_key(headers)?.map(Token::from_key);
    Ok(WriteOptions { token, condition: Condition::of(when.if_absent, when.if_version)? })
}

/// The name that the server drew for a write.
fn drawn(named: Option<Extension<Named>>) -> Option<Token> {
    named.map(|Extension(named)| named.drawn())
}

/// Records that were written.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Upserted {
    /// Reads at this position or later see them.
    position: u64,
    /// How many.
    upserted: u32,
    /// Present and true if a write of this `Idempotency-Key` was there before: nothing was written now.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    duplicate: bool,
}

/// Inserts records, or replaces those of the same id: all of them become visible at once, or none. JSON, NDJSON (a record
/// a line), an Avro object container file, framed Avro, or an Arrow stream.
#[utoipa::path(
    post, path = "/v1/collections/{collection}/records", tag = "records",
    params(("collection" = String, Path, description = "The collection's name.", pattern = "^[a-z0-9_-]{1,64}$"), When,
        ("idempotency-key" = Option<String>, Header, description = "Names this write, so that it may be sent again.",
            pattern = "^[!-~]([ -~]{0,254}[!-~])?$")),
    request_body = Records,
    responses((status = 200, description = "They are durable and visible.", body = Upserted),
        (status = "default", description = "An error.", body = ErrorBody))
)]
pub(super) async fn upsert(
    extract::State(state): extract::State<State>,
    InPath(collection): InPath<String>,
    InQuery(query): InQuery<When>,
    named: Option<Extension<Named>>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    let (meter, name) = (Meter::new(), name(collection)?);
    let encoding = rest::content_type(&headers, &bodies::TAKEN)?;
    let bytes = rest::read(body, bodies::limit(encoding)).await?;
    let (body, when) = bodies::upsert(encoding, bytes)?;
    let options = options(&headers, when.or(query))?;
    let ack = state.ingest.drawing(drawn(named)).write(&meter, &name, Op::Upsert, body, &options).await?;
    let reply = Upserted { position: ack.position, upserted: ack.rows, duplicate: ack.duplicate };
    done(&reply, &meter, Some(ack.position))
}

/// Records that were patched.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Patched {
    /// Reads at this position or later see them.
    position: u64,
    /// How many.
    patched: u32,
    /// Present and true if a patch of this `Idempotency-Key` was there before: nothing was written now.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    duplicate: bool,
}

/// Changes parts of records that are there: 404 if one is not. `metadata` is merged, a null removes its key; all other
/// fields are replaced. JSON or NDJSON (a patch a line).
#[utoipa::path(
    patch, path = "/v1/collections/{collection}/records", tag = "records",
    params(("collection" = String, Path, description = "The collection's name.", pattern = "^[a-z0-9_-]{1,64}$"), When,
        ("idempotency-key" = Option<String>, Header, description = "Names this patch, so that it may be sent again.",
            pattern = "^[!-~]([ -~]{0,254}[!-~])?$")),
    request_body = Patches,
    responses((status = 200, description = "They are durable and visible.", body = Patched),
        (status = "default", description = "An error.", body = ErrorBody))
)]
pub(super) async fn patch(
    extract::State(state): extract::State<State>,
    InPath(collection): InPath<String>,
    InQuery(query): InQuery<When>,
    named: Option<Extension<Named>>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    let (meter, name) = (Meter::new(), name(collection)?);
    let encoding = rest::content_type(&headers, &[Encoding::Json, Encoding::Ndjson])?;
    let bytes = rest::read(body, bodies::limit(encoding)).await?;
    let (patches, when) = bodies::patches(encoding, &bytes)?;
    let options = options(&headers, when.or(query))?;
    let ack = state.ingest.drawing(drawn(named)).patch(&meter, &name, &patches, &options).await?;
    let reply = Patched { position: ack.position, patched: ack.rows, duplicate: ack.duplicate };
    done(&reply, &meter, Some(ack.position))
}
