//! The envelope: any bytes, and whatever opens is what was sealed.
#![no_main]

use bytes::Bytes;
use esker_format::envelope::{self, Envelope, KINDS};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let bytes = Bytes::copy_from_slice(data);
    esker_fuzz::bounded(data.len(), || {
        if let Ok(envelope) = Envelope::decode("object", &bytes) {
            // Not the very bytes: those in reserve are not looked at.
            assert_eq!(Envelope::decode("object", &envelope.encode()).unwrap(), envelope);
            envelope.payload("object", &bytes).ok();
        }
        for (kind, _) in KINDS {
            if let Ok(payload) = envelope::open("object", kind, &bytes) {
                assert_eq!(payload.len(), bytes.len() - envelope::LENGTH);
            }
            let sealed = envelope::seal(kind, 0, &bytes);
            assert_eq!(envelope::open("object", kind, &sealed.into()).unwrap(), bytes);
        }
    });
});
