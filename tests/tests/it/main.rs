//! The suites that need more than one crate, in one binary.

mod churn;
mod cold;
mod conformance;
mod crash;
mod doctor;
mod fault;
mod flips;
mod model;
mod oracle;
mod refusals;
mod roles;
mod s3;
mod sim;
mod surface;
mod uploads;
mod writes;
