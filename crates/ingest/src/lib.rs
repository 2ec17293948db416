//! The only writer of WAL entries: validate, batch, append.
//!
//! [`batch`] turns records into validated Avro blocks, [`ingest`] appends them to the collections of a store, [`import`]
//! streams files.

pub mod batch;
pub mod import;
pub mod ingest;
pub mod sink;

pub use batch::{Batcher, Cut, Target};
pub use ingest::{Ack, CollectionSink, Compact, Ingest};
pub use sink::{Appended, BatchSink};
