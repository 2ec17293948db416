//! The only creator of segments and the only deleter.
