//! What the targets share: a limit on memory, and checksums made right, since no fuzzer guesses a CRC.

use std::alloc::System;
use std::sync::Once;

use bytes::Bytes;
use cap::Cap;
use esker_format::envelope::{self, Kind};
use esker_format::id::CollectionId;
use esker_format::schema::{Metric, Settings, VectorType};

/// A decoder may hold this many bytes per byte of input …
const PER_BYTE: usize = 64;
/// … and this many whatever the input.
const ALWAYS: usize = 16 << 20;

#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, usize::MAX);

/// Runs `decode`. The process aborts, which the fuzzer reports, when it holds more memory at once than an input of this
/// many bytes may cost.
pub fn bounded<T>(input: usize, decode: impl FnOnce() -> T) -> T {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            // A backtrace takes more than a decoder may.
            MEMORY.set_limit(usize::MAX).ok();
            // These libraries panic on damaged pages; what calls them must make an error of it.
            let at = panic.location().map_or("", |at| at.file());
            if !["/parquet-", "/arrow-"].iter().any(|library| at.contains(library)) {
                report(panic);
            }
        }));
    });
    let limit = MEMORY.allocated() + ALWAYS + PER_BYTE * input;
    MEMORY.set_limit(limit).expect("less is allocated than may be");
    let out = decode();
    MEMORY.set_limit(usize::MAX).expect("everything may be allocated");
    out
}

/// The object that `data` is once the envelope in front of it fits: `data` begins with 64 bytes of which kind and flags
/// are taken. Shorter inputs stay as they are.
pub fn resealed(kind: Kind, data: &[u8]) -> Bytes {
    let Some((head, rest)) = data.split_first_chunk::<{ envelope::LENGTH }>() else {
        return Bytes::copy_from_slice(data);
    };
    let word = |at: usize| head[at..at + 8].iter().rev().fold(0u64, |n, byte| n << 8 | u64::from(*byte));
    let (features, length) = (word(16), (word(24) % (rest.len() as u64 + 1)) as usize);
    let mut out = envelope::seal(kind, features & envelope::SPILL, &rest[..length]);
    out.extend_from_slice(&rest[length..]);
    out.into()
}

/// The collection of all inputs.
pub fn collection() -> CollectionId {
    "notes-1".parse().expect("a name and a number")
}

/// Its settings.
pub fn settings(dimension: u32, metric: Metric) -> Settings {
    Settings { dimension, metric, vector_type: VectorType::F32 }
}

/// Bytes of a fuzzer's input as edits of bytes that were right: (position, value) pairs.
pub fn edited(right: &[u8], edits: &[u8]) -> Vec<u8> {
    let mut out = right.to_vec();
    for edit in edits.chunks_exact(3) {
        if !out.is_empty() {
            let at = usize::from(u16::from_le_bytes([edit[0], edit[1]])) % out.len();
            out[at] = edit[2];
        }
    }
    out
}
