//! How bytes become truth: the one way every other crate touches storage.
//!
//! [`seams`] holds clock and randomness, [`open`] turns a URL into a [`Backend`], [`Client`] sends requests that a
//! [`Meter`] counts, [`cache`] keeps immutable bytes.

pub mod cache;
pub mod client;
pub mod directory;
pub mod meter;
pub mod open;
pub mod seams;

pub use cache::{MokaCache, RangeCache, SimpleCache};
pub use client::{Client, CreateReply, ETag, IfMatch, Listed, Page, Retry, Upload};
pub use directory::Directory;
pub use meter::{Io, Meter, Method, Request};
pub use open::{Backend, Location, StoreEnv, open};
pub use seams::{Clock, Random, Seams};
