//! The only creator of segments and the only deleter.
//!
//! A compaction ([`Compactor`]) folds the tail and merges small segments in one commit: [`mod@fold`] decides which rows
//! of the tail survive, `marks` which rows of older segments they replace, [`build`] turns rows into a segment, and
//! [`compact`] holds the order of it all.

pub mod build;
pub mod collect;
pub mod compact;
#[cfg(test)]
mod fixture;
pub mod fold;
mod job;
mod marks;
mod parallel;
pub mod scratch;
mod versions;
pub mod work;

pub use build::{BuildOptions, BuiltSegment, Choice, Target, build_segment};
pub use collect::{CollectOptions, Collected, Collector, Item, Plan, Reason};
pub use compact::{Compactor, Listener, Options, Progress, Report, Stage};
pub use job::Steps;
pub use scratch::{DirectoryScratch, MemoryScratch, Scratch, ScratchFile};
