//! The suites that need more than one crate, in one binary.

mod conformance;
mod fault;
mod s3;
