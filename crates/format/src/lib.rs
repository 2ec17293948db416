//! Bytes on storage and pure state transitions. Sync, no I/O, no clock.

pub mod append;
pub mod avro;
pub mod envelope;
pub mod error;
pub mod head;
pub mod id;
pub mod ipc;
pub mod keys;
pub mod limits;
pub mod manifest;
pub mod pin;
pub mod quantity;
pub mod record;
pub mod register;
pub mod schema;
pub mod segment;
pub mod upload;
pub mod wal;

pub use error::{Error, Kind, Result};
pub use id::{CollectionId, Content, Name, Seq, SetHash, Token, Version};

#[cfg(test)]
mod spec_tests;
