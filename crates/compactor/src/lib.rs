//! The only creator of segments and the only deleter.
//!
//! A compaction folds the tail and merges small segments in one commit: [`mod@fold`] decides which rows of the tail
//! survive, [`build`] turns rows into a segment.

pub mod build;
#[cfg(test)]
mod fixture;
pub mod fold;
mod parallel;
mod versions;

pub use build::{BuildOptions, BuiltSegment, Target, build_segment};
pub use fold::{Folded, Touched, fold};
