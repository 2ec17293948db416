//! The writes of WIRE §4 over HTTP, but for `DELETE …/records`, which the query crate serves since it may take a filter.
//!
//! Each reply carries what it cost ([`esker_store::Io`]) and its position as extensions of the response, for the
//! server's log and metrics.

use std::sync::Arc;

use axum::response::Response;
use esker_format::{Name, Result};
use esker_proto::rest::{self, Refused};
use esker_store::{Meter, Store};
use serde::Serialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::ingest::Ingest;
use crate::upload::Uploads;

pub(crate) mod bodies;
mod collections;
mod records;
mod uploads;

/// What the routes write to.
#[derive(Debug, Clone)]
pub struct State {
    store: Arc<Store>,
    ingest: Ingest,
    uploads: Uploads,
}

impl State {
    /// Writes to the collections of `store`.
    pub fn new(store: Arc<Store>) -> Self {
        State { ingest: Ingest::new(store.clone()), uploads: Uploads::new(store.clone()), store }
    }
}

/// The routes, with their OpenAPI document.
pub fn router(state: State) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(collections::create))
        .routes(routes!(collections::drop))
        .routes(routes!(records::upsert))
        .routes(routes!(records::patch))
        .routes(routes!(uploads::create))
        .routes(routes!(uploads::put))
        .routes(routes!(uploads::commit))
        .with_state(state)
}

fn name(text: String) -> Result<Name, Refused> {
    Ok(Name::new(text)?)
}

/// A JSON reply to a write.
fn done(value: &impl Serialize, meter: &Meter, position: Option<u64>) -> Result<Response, Refused> {
    Ok(rest::with_extensions(rest::json(value)?, meter.io(), position))
}

#[cfg(test)]
mod tests;
