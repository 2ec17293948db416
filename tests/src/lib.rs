//! What the suites stand on: a store that fails on demand, an S3 server over a real socket and the model of the
//! storage protocol.

pub mod fault;
mod listing;
pub mod model;
pub mod puts;
pub mod s3;
pub mod sim;
pub mod truth;
pub mod world;
