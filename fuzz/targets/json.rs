//! Records, lists of records and metadata values as JSON, one a line or all at once. What is read is written and read back
//! the same.
#![no_main]

use esker_format::record::{Record, Value};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    esker_fuzz::bounded(data.len(), || {
        serde_json::from_slice::<Vec<Record>>(data).ok();
        serde_json::from_slice::<Value>(data).ok();
        for line in data.split(|byte| *byte == b'\n') {
            let Ok(record) = serde_json::from_slice::<Record>(line) else { continue };
            let text = serde_json::to_vec(&record).unwrap();
            // Infinite floats, which the batch is refused for, are written as null.
            if record.vector.iter().all(|x| x.is_finite()) {
                let again: Record = serde_json::from_slice(&text).unwrap();
                assert_eq!(again.id, record.id);
                assert_eq!(again.vector, record.vector);
            }
        }
    });
});
