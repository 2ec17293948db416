//! Manifests, stubs, name records, heads and the progress of uploads: the input is the payload, the envelope fits. What decodes is written back
//! and decodes to the same.
#![no_main]

use bytes::Bytes;
use esker_format::envelope::{Kind, seal};
use esker_format::head::Head;
use esker_format::manifest::{Manifest, NameRecord, RegisterEntry};
use esker_format::upload::Progress;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let sealed = |kind: Kind| Bytes::from(seal(kind, 0, data));
    esker_fuzz::bounded(data.len(), || {
        if let Ok(manifest) = Manifest::decode("m", &sealed(Kind::Manifest)) {
            assert_eq!(Manifest::decode("m", &manifest.encode().unwrap()).unwrap(), manifest);
            manifest.live_rows();
            RegisterEntry::decode("m", manifest.version, &sealed(Kind::Manifest)).unwrap();
        }
        RegisterEntry::decode("m", 1, &sealed(Kind::Stub)).ok();
        if let Ok(record) = NameRecord::decode("n", &sealed(Kind::Name)) {
            assert_eq!(NameRecord::decode("n", &record.encode().unwrap()).unwrap(), record);
            record.first_manifest();
        }
        if let Ok(head) = Head::decode("h", &sealed(Kind::Head)) {
            assert_eq!(Head::decode("h", &head.encode().unwrap()).unwrap(), head);
        }
        if let Ok(progress) = Progress::decode("p", &sealed(Kind::Progress)) {
            assert_eq!(Progress::decode("p", &progress.encode().unwrap()).unwrap(), progress);
        }
    });
});
