//! Snapshot, tail, index search, SQL.

pub mod filter;
pub mod sql;
