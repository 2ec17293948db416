//! Records of another writer schema: the input is `schema JSON 0xff data`.
#![no_main]

use bytes::Bytes;
use esker_format::avro::container::Block;
use esker_format::avro::foreign::Normaliser;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(at) = data.iter().position(|byte| *byte == 0xff) else { return };
    let Ok(schema) = std::str::from_utf8(&data[..at]) else { return };
    esker_fuzz::bounded(data.len(), || {
        let Ok(normaliser) = Normaliser::new(schema) else { return };
        for rows in [1, 3, u64::MAX] {
            let block = Block { rows, data: Bytes::copy_from_slice(&data[at + 1..]) };
            normaliser.block(&block, 0).ok();
        }
    });
});
