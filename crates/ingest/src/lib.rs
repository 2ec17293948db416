//! The only writer of WAL entries: validate, batch, append.
//!
//! [`batch`] turns records into validated Avro blocks, [`import`] reads files, [`sink`] is where batches go.

pub mod batch;
pub mod import;
pub mod sink;

pub use batch::{Batcher, Cut};
pub use sink::{Appended, BatchSink};
