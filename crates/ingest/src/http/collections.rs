//! Collections: made and dropped.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract;
use esker_format::schema::{Column, ColumnType, Metric, Schema, Settings, VectorType};
use esker_format::{CollectionId, Name};
use esker_proto::rest::{self, Encoding, ErrorBody, InPath, Reply};
use esker_store::Meter;
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{State, done, name};

/// Most bytes of a body: columns have names of up to 256 bytes.
const BODY_BYTES: usize = 1 << 20;

/// What a collection is to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Create {
    /// 1 to 64 of a-z, 0-9, _ and -.
    #[schema(pattern = "^[a-z0-9_-]{1,64}$")]
    name: String,
    /// Elements of every vector, 1 to 8192.
    #[schema(minimum = 1, maximum = 8192)]
    dimension: u32,
    /// cosine (if not said), l2 or dot.
    #[serde(default = "cosine")]
    #[schema(value_type = String, required = false, pattern = "^(cosine|l2|dot)$")]
    metric: Metric,
    /// f32 (if not said) or f16: how vectors are stored.
    #[serde(default = "f32")]
    #[schema(value_type = String, required = false, pattern = "^(f32|f16)$")]
    vector_type: VectorType,
    /// Types of metadata: boolean, int, float, string or strings. Others appear as keys are first seen.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, String>, required = false)]
    metadata: BTreeMap<String, ColumnType>,
}

fn cosine() -> Metric {
    Metric::Cosine
}

fn f32() -> VectorType {
    VectorType::F32
}

/// A collection that was made.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Created {
    #[schema(value_type = String)]
    name: Name,
    /// Which collection of that name.
    #[schema(value_type = String)]
    id: CollectionId,
}

/// Creates a collection. 409 if the name is taken.
#[utoipa::path(
    post, path = "/v1/collections", tag = "collections",
    request_body = Create,
    responses((status = 201, description = "It is there.", body = Created),
        (status = "default", description = "An error.", body = ErrorBody))
)]
pub(super) async fn create(
    extract::State(state): extract::State<State>,
    headers: HeaderMap,
    body: Body,
) -> Reply {
    let meter = Meter::new();
    rest::content_type(&headers, &[Encoding::Json])?;
    let want: Create = rest::parse(&rest::read(body, BODY_BYTES).await?)?;
    let name = name(want.name)?;
    let settings = Settings { dimension: want.dimension, metric: want.metric, vector_type: want.vector_type };
    let column = |(name, kind)| Column { name, kind, wide: false };
    let schema = Schema { columns: want.metadata.into_iter().map(column).collect() };
    let collection = state.store.create(&meter, &name, settings, schema).await?;
    let mut reply = done(&Created { name, id: collection.id().clone() }, &meter, None)?;
    *reply.status_mut() = StatusCode::CREATED;
    Ok(reply)
}

/// A collection that was dropped.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Dropped {
    #[schema(value_type = String)]
    dropped: Name,
}

/// Drops a collection with all of its records.
#[utoipa::path(
    delete, path = "/v1/collections/{collection}", tag = "collections",
    params(("collection" = String, Path, description = "Its name.", pattern = "^[a-z0-9_-]{1,64}$")),
    responses((status = 200, description = "It is gone.", body = Dropped),
        (status = "default", description = "An error.", body = ErrorBody))
)]
pub(super) async fn drop(
    extract::State(state): extract::State<State>,
    InPath(collection): InPath<String>,
) -> Reply {
    let (meter, dropped) = (Meter::new(), name(collection)?);
    state.store.drop_collection(&meter, &dropped).await?;
    done(&Dropped { dropped }, &meter, None)
}
