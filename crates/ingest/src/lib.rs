//! The only writer of WAL entries: validate, batch, append.
//!
//! [`batch`] turns records into validated Avro blocks, [`ingest`] appends them to the collections of a store, [`import`]
//! streams files, [`grpc`] serves the writes.

pub mod batch;
pub mod grpc;
pub mod http;
pub mod import;
pub mod ingest;
pub mod sink;
pub mod upload;

pub use batch::{Batcher, Cut, Target};
pub use ingest::{Ack, Body, Condition, Ingest, Patch, Untouched, WriteOptions};
pub use sink::{Appended, BatchSink, CollectionSink, Compact};
