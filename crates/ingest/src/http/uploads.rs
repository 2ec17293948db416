//! Uploads: bodies that are too large for a gateway.

use axum::body::Body;
use axum::{Extension, extract};
use esker_format::Token;
use esker_proto::access::Until;
use esker_proto::rest::{self, Encoding, ErrorBody, InPath, Reply};
use esker_store::Meter;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{State, bodies, done, name};
use crate::upload::{CommitOptions, Place};

/// Most bytes of a request to commit.
const BODY_BYTES: usize = 1 << 12;

/// Where a body is to be put.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Upload {
    /// Names the upload.
    #[schema(value_type = String, pattern = "^[0-9a-f]{32}$")]
    token: Token,
    /// Takes the body by a PUT, once: for an hour, without a key, where it has a host; else it is a path of this server.
    url: String,
}

/// Names a body of up to 256 MiB and says where to put it. No body is put here; that one is kept for a day.
#[utoipa::path(
    post, path = "/v1/collections/{collection}/uploads", tag = "uploads",
    params(("collection" = String, Path, description = "The collection's name.", pattern = "^[a-z0-9_-]{1,64}$")),
    responses((status = 201, description = "Put the body, then commit it.", body = Upload),
        (status = "default", description = "An error.", body = ErrorBody))
)]
pub(super) async fn create(
    extract::State(state): extract::State<State>,
    InPath(collection): InPath<String>,
) -> Reply {
    let (meter, name) = (Meter::new(), name(collection)?);
    let Place { token, url } = state.uploads.create(&meter, &name).await?;
    let url = url.unwrap_or_else(|| format!("/v1/collections/{name}/uploads/{token}"));
    let mut reply = done(&Upload { token, url }, &meter, None)?;
    *reply.status_mut() = StatusCode::CREATED;
    Ok(reply)
}

/// A body that was put.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Put {
    /// Its length.
    bytes: u64,
}

/// Takes the body of an upload, on stores that take none from others.
#[utoipa::path(
    put, path = "/v1/collections/{collection}/uploads/{token}", tag = "uploads",
    params(("collection" = String, Path, description = "The collection's name.", pattern = "^[a-z0-9_-]{1,64}$"),
        ("token" = String, Path, description = "The upload.", pattern = "^[0-9a-f]{32}$")),
    request_body(content = String, content_type = "application/octet-stream", description = "The body, in any encoding of an upsert."),
    responses((status = 200, description = "It is there, and is to be committed.", body = Put),
        (status = "default", description = "An error.", body = ErrorBody))
)]
pub(super) async fn put(
    extract::State(state): extract::State<State>,
    InPath((collection, token)): InPath<(String, String)>,
    body: Body,
) -> Reply {
    let (meter, name) = (Meter::new(), name(collection)?);
    let bytes = state.uploads.put(&meter, &name, token.parse::<Token>()?, body.into_data_stream()).await?;
    done(&Put { bytes }, &meter, None)
}

/// How a body is to be committed.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Commit {
    /// How the body is encoded, as in the `Content-Type` of an upsert; application/json if it is not said.
    #[schema(required = false)]
    content_type: Option<String>,
}

/// What a commit came to.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Committed {
    /// Reads at this position or later see what was written.
    position: u64,
    /// Records of the body that are in the collection.
    upserted: u64,
    /// All of them are. If not, the time was over: send the commit again, and it goes on.
    done: bool,
    /// Present and true if all of them were there before: nothing was written now.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    duplicate: bool,
}

/// Inserts the records of an uploaded body, or replaces those of the same id, in batches of up to 10,000 records, each of
/// which becomes visible at once. May be sent again until it is done: what is there is not written twice.
#[utoipa::path(
    post, path = "/v1/collections/{collection}/uploads/{token}/commit", tag = "uploads",
    params(("collection" = String, Path, description = "The collection's name.", pattern = "^[a-z0-9_-]{1,64}$"),
        ("token" = String, Path, description = "The upload.", pattern = "^[0-9a-f]{32}$"),
        ("idempotency-key" = Option<String>, Header, description = "Names these records, so that another upload of them writes nothing twice.",
            pattern = "^[!-~]([ -~]{0,254}[!-~])?$")),
    request_body = Commit,
    responses((status = 200, description = "What is in the collection.", body = Committed),
        (status = "default", description = "An error.", body = ErrorBody))
)]
pub(super) async fn commit(
    extract::State(state): extract::State<State>,
    InPath((collection, token)): InPath<(String, String)>,
    until: Option<Extension<Until>>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    let (meter, name) = (Meter::new(), name(collection)?);
    let token = token.parse::<Token>()?;
    rest::content_type(&headers, &[Encoding::Json])?;
    let bytes = rest::read(body, BODY_BYTES).await?;
    let Commit { content_type } = if bytes.is_empty() { Commit::default() } else { rest::parse(&bytes)? };
    let mut of_body = HeaderMap::new();
    if let Some(text) = content_type {
        let value = HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("what is no type"));
        of_body.insert(CONTENT_TYPE, value);
    }
    let options = CommitOptions {
        encoding: rest::content_type(&of_body, &bodies::TAKEN)?,
        key: rest::idempotency_key(&headers)?.map(Token::from_key),
        until: until.map(|Extension(Until(until))| until),
    };
    let committed = state.uploads.commit(&meter, &name, token, &options).await?;
    let reply = Committed {
        position: committed.position,
        upserted: committed.rows,
        done: committed.done,
        duplicate: committed.duplicate,
    };
    done(&reply, &meter, Some(committed.position))
}
