//! The reads of WIRE §4 over HTTP, and `DELETE …/records`, which may take a filter.
//!
//! Handlers parse, call [`Service`], encode. Each reply carries its [`Io`] and its position as extensions of the
//! response, for the server's log and metrics.

use axum::response::Response;
use esker_format::{Name, Result};
use esker_proto::rest::{self, Refused};
use esker_store::{Io, Meter};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::engine::{Access, Seen};
use crate::search::Consistency;
use crate::service::Service;

mod collections;
mod delete;
pub(crate) mod encode;
pub use encode::csv;
mod records;
mod scan;
mod search;
mod sql;

/// Most bytes of a body that asks for something.
const BODY_BYTES: usize = 16 << 20;

/// The routes, with their OpenAPI document.
pub fn router(service: Service) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(collections::list))
        .routes(routes!(collections::describe))
        .routes(routes!(collections::stats))
        .routes(routes!(collections::warm))
        .routes(routes!(records::get))
        .routes(routes!(records::get_many))
        .routes(routes!(records::count))
        .routes(routes!(scan::scan))
        .routes(routes!(delete::delete))
        .routes(routes!(search::search))
        .routes(routes!(sql::sql))
        .with_state(service)
}

/// What a read asked of the store.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
#[schema(as = Io)]
pub(crate) struct Cost {
    /// Dependent rounds of requests.
    waves: u32,
    /// GET requests.
    gets: u64,
    /// LIST requests.
    lists: u64,
    /// Bytes received.
    bytes: u64,
    /// Bytes that the cache had.
    cache_hit_bytes: u64,
    /// Price of the requests in dollars, by S3's list prices.
    usd: f64,
}

impl From<Io> for Cost {
    fn from(io: Io) -> Self {
        Cost {
            waves: io.waves,
            gets: io.gets,
            lists: io.lists,
            bytes: io.bytes_read,
            cache_hit_bytes: io.cache_hit_bytes,
            usd: io.usd(),
        }
    }
}

/// `strong` (the default) or `eventual`.
#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Freshness {
    #[default]
    Strong,
    Eventual,
}

fn access(freshness: Option<Freshness>, min_position: Option<u64>, as_of: Option<u64>) -> Access {
    let consistency = match freshness.unwrap_or_default() {
        Freshness::Strong => Consistency::Strong,
        Freshness::Eventual => Consistency::Eventual,
    };
    Access { consistency, min_position, as_of }
}

/// What an eventual read says about its age; nothing for a strong one.
fn staleness(access: Access, seen: Seen) -> Option<u64> {
    (access.consistency == Consistency::Eventual).then_some(seen.staleness_ms)
}

/// A request being answered: what it asks of the store, and since when.
struct Asked<'a> {
    service: &'a Service,
    meter: Meter,
    start_ms: f64,
}

impl<'a> Asked<'a> {
    fn new(service: &'a Service) -> Self {
        Asked { service, meter: Meter::new(), start_ms: service.elapsed_ms() }
    }

    fn took_ms(&self) -> f64 {
        // Microseconds are more than a clock tells.
        ((self.service.elapsed_ms() - self.start_ms) * 1000.0).round() / 1000.0
    }

    fn io(&self) -> Cost {
        self.meter.io().into()
    }

    /// A JSON reply of a state.
    fn json(&self, value: &impl Serialize, position: Option<u64>) -> Result<Response, Refused> {
        Ok(rest::with_extensions(rest::json(value)?, self.meter.io(), position))
    }

    /// A reply that does not say in its body which state it is of.
    fn encoded(&self, mut reply: Response, position: u64) -> Response {
        reply.headers_mut().insert(rest::POSITION, position.into());
        rest::with_extensions(reply, self.meter.io(), Some(position))
    }
}

fn name(text: String) -> Result<Name, Refused> {
    Ok(Name::new(text)?)
}

#[cfg(test)]
mod tests;
