//! The esker command.
