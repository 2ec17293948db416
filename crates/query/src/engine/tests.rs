//! Every read against brute force over what was written, on a store in memory, through the real writer and compactor.

mod basis;
mod cold;
mod copies;
mod edges;
mod filters;
pub(crate) mod fixture;
mod memory;
mod nearest;
mod reads;
mod tails;
