//! How bytes become truth: the one way every other crate touches storage.
//!
//! [`seams`] holds clock and randomness, [`open()`] turns a URL into a [`Backend`], [`Client`] sends requests that a
//! [`Meter`] counts, [`cache`] keeps immutable bytes. Above them the protocol: [`names`] finds collections,
//! [`register`] commits, [`writer`] appends, [`snapshot`] reads, [`publish`] makes a compaction true.

pub mod cache;
pub mod client;
pub mod collection;
pub mod directory;
pub mod doctor;
pub mod lookup;
pub mod meter;
pub mod names;
pub mod open;
pub mod pins;
pub mod publish;
pub mod register;
pub mod seams;
pub mod segment;
pub mod snapshot;
pub mod tail;
pub mod unfolded;
pub mod writer;

pub use cache::{MokaCache, Piece, RangeCache, SimpleCache};
pub use client::{Client, CreateReply, ETag, IfMatch, Listed, Page, Retry, Upload};
pub use collection::{Collection, TailSeen};
pub use directory::Directory;
pub use lookup::{Found, Place};
pub use meter::{Io, Meter, Method, Request};
pub use names::Store;
pub use open::{Backend, Location, StoreEnv, open};
pub use pins::Pin;
pub use register::Commit;
pub use seams::{Clock, Random, Seams};
pub use segment::SegmentReader;
pub use snapshot::{Begun, Snapshot};
pub use tail::TailEntry;
pub use unfolded::Unfolded;
pub use writer::{Appended, Claimed, Turn};
