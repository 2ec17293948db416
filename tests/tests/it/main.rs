//! The suites that need more than one crate, in one binary.

mod conformance;
mod crash;
mod fault;
mod model;
mod oracle;
mod refusals;
mod s3;
