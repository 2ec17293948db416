//! Framed payloads: any bytes; what decodes, encodes to the same bytes.
#![no_main]

use bytes::Bytes;
use esker_format::avro::framing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    esker_fuzz::bounded(data.len(), || {
        let Ok(frame) = framing::decode(&Bytes::copy_from_slice(data)) else { return };
        assert_eq!(framing::encode(&frame.operation, &frame.data), data);
        frame.write().ok();
    });
});
