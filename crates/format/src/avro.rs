//! Records as Avro bytes: encoding, one validating pass, one decoding pass, containers and framing (WIRE §2).
//!
//! A *block* is a sequence of records in the schema of [`crate::record::SCHEMA`], without any framing. What
//! clients send is validated and stored as it came; no pass here builds a tree of values, save for containers
//! of another writer schema ([`foreign`]).

mod columns;
pub mod container;
mod content;
mod cursor;
mod decode;
mod encode;
pub mod foreign;
pub mod framing;
#[cfg(test)]
pub(crate) mod samples;
mod validate;
mod walk;

pub use content::Contents;
pub use decode::{BlockContext, Decoded, RowsBuilder, Tombstone};
pub use encode::{encode_record, encode_tombstone};
pub use validate::{Rules, Summary, Validator, validate};
pub use walk::{Ids, ids};
