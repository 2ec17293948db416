//! Avro object containers of anyone, their codecs, and the way of a client's file into the log.
#![no_main]

use bytes::Bytes;
use esker_format::avro::{container, foreign};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let bytes = Bytes::copy_from_slice(data);
    esker_fuzz::bounded(data.len(), || {
        container::read_own("object", &bytes).ok();
        let Ok(read) = container::read(&bytes) else { return };
        // What a block may become is the caller's limit; here one that the memory allows.
        let limit = 1 << 20;
        for block in &read.blocks {
            if let Ok(data) = read.codec.decompress(block, limit) {
                assert!(data.len() <= limit);
            }
        }
        if let Ok(blocks) = foreign::normalise(&read, limit) {
            assert!(blocks.iter().map(|b| b.data.len()).sum::<usize>() <= limit);
        }
    });
});
