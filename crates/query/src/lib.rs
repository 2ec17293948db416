//! Snapshot, tail, index search, SQL.
