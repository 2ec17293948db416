//! The only writer of WAL entries.
