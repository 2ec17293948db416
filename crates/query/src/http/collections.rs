//! Collections: which there are, what they are, what is in them.

use axum::extract::State;
use esker_proto::rest::{ErrorBody, InPath, Reply};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Asked, Cost, name};
use crate::engine::Stats;
use crate::service::{Described, Service, Warmed};

/// Every collection.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Collections {
    collections: Vec<Described>,
    io: Cost,
    took_ms: f64,
}

/// The collections of the store, by name.
#[utoipa::path(
    get, path = "/v1/collections", tag = "collections",
    responses((status = 200, description = "All of them.", body = Collections),
        (status = "default", description = "An error.", body = ErrorBody))
)]
pub(super) async fn list(State(service): State<Service>) -> Reply {
    let asked = Asked::new(&service);
    let collections = service.collections(&asked.meter).await?;
    asked.json(&Collections { collections, io: asked.io(), took_ms: asked.took_ms() }, None)
}

/// Settings and columns of a collection.
#[utoipa::path(
    get, path = "/v1/collections/{collection}", tag = "collections",
    params(("collection" = String, Path, description = "Its name.", pattern = "^[a-z0-9_-]{1,64}$")),
    responses((status = 200, description = "What it is.", body = Described),
        (status = "default", description = "An error.", body = ErrorBody))
)]
pub(super) async fn describe(State(service): State<Service>, InPath(collection): InPath<String>) -> Reply {
    let asked = Asked::new(&service);
    let described = service.describe(&asked.meter, &name(collection)?).await?;
    asked.json(&described, Some(described.position))
}

/// Figures of a collection: versions, segments, the log above them. No segment is read.
#[utoipa::path(
    get, path = "/v1/collections/{collection}/stats", tag = "collections",
    params(("collection" = String, Path, description = "Its name.", pattern = "^[a-z0-9_-]{1,64}$")),
    responses((status = 200, description = "Its figures.", body = Stats),
        (status = "default", description = "An error.", body = ErrorBody))
)]
pub(super) async fn stats(State(service): State<Service>, InPath(collection): InPath<String>) -> Reply {
    let asked = Asked::new(&service);
    let stats = service.stats(&asked.meter, &name(collection)?).await?;
    asked.json(&stats, Some(stats.position))
}

/// Whether a collection is in memory, and what reading it took.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Warm {
    #[serde(flatten)]
    warmed: Warmed,
    io: Cost,
    took_ms: f64,
}

/// Reads a collection into memory if there is room: later searches ask the store only for what is new. Collections that
/// were not read for longest make room.
#[utoipa::path(
    post, path = "/v1/collections/{collection}/warm", tag = "collections",
    params(("collection" = String, Path, description = "Its name.", pattern = "^[a-z0-9_-]{1,64}$")),
    responses((status = 200, description = "It is in memory, or there is no room.", body = Warm),
        (status = "default", description = "An error.", body = ErrorBody))
)]
pub(super) async fn warm(State(service): State<Service>, InPath(collection): InPath<String>) -> Reply {
    let asked = Asked::new(&service);
    let warmed = service.warm(&asked.meter, &name(collection)?).await?;
    let reply = Warm { warmed, io: asked.io(), took_ms: asked.took_ms() };
    asked.json(&reply, Some(warmed.position))
}
