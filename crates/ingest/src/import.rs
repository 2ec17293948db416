//! Files into a collection: what a file holds, what is inferred from it, and the pipeline that streams it in.
//!
//! [`inspect`] looks at the beginning of a file and says what it would do; [`Plan`] fixes that for a collection;
//! [`run`] does it, in bounded memory, and can be run again after a kill.

pub(crate) mod avro;
pub(crate) mod columns;
pub(crate) mod convert;
mod detect;
mod file;
pub(crate) mod infer;
pub(crate) mod lines;
mod plan;
mod run;
pub(crate) mod sample;

pub use detect::{Format, collection_name};
pub use file::{Inspected, inspect, inspect_within};
pub use infer::{Inference, Overrides};
pub use plan::Plan;
pub use run::{Progress, Report, run};

#[cfg(test)]
mod tests;
