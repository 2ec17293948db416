//! Protocol buffers of the record and the services. The code is generated and committed, as is the descriptor
//! set; `tests/generated.rs` proves that both are current.

/// Package `esker.v1`.
#[allow(missing_docs, reason = "generated")]
pub mod v1 {
    include!("esker.v1.rs");
}

/// The descriptors of every message, with what they import, for reflection.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!("descriptors.bin");
