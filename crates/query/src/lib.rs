//! Snapshot, tail, index search, SQL: everything that reads.
//!
//! [`Engine`] reads collections by name: [`Reader::search`], [`Reader::get`], [`Reader::scan`], [`Reader::count`]. A search
//! sees a strong snapshot, opens its segments, finds candidates by their codes and measures these exactly, together
//! with the tail: all of a short one, of a long one what its own codes leave a chance. [`filter`] says which rows may be
//! found, [`sql`] plans queries over [`Engine::catalog`].

mod engine;
pub mod filter;
pub mod grpc;
pub mod http;
mod ranges;
mod search;
mod segment;
pub mod service;
pub mod sql;
mod table;
mod tail;

pub use engine::{
    Access, Cursor, Engine, Got, Options, Page, PageRequest, Reader, Residency, ScanRequest, Scanned, Seen,
    Stats, Warm, WarmFilter, WarmHit, table_schema,
};
pub use filter::Filter;
pub use search::{Consistency, Explain, Hit, Search, SearchReply, SegmentExplain};
pub use segment::FilterPlan;
pub use service::Service;
