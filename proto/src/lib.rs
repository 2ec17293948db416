//! Protocol buffers of the record and the services. The code is generated and committed, as is the descriptor
//! set; `tests/generated.rs` proves that both are current. [`rest`] is what HTTP and gRPC
//! share, [`grpc`] what the gRPC services do, [`refusal`] what is said before a service is asked.

pub mod access;
pub mod grpc;
pub mod refusal;
pub mod rest;

/// Package `esker.v1`.
#[allow(missing_docs, clippy::all, reason = "generated")]
pub mod v1 {
    include!("esker.v1.rs");
}

/// The descriptors of every message, with what they import, for reflection.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!("descriptors.bin");
