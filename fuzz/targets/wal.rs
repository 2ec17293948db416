//! Log entries and their bodies. The container is read without its marker and written again with the right one, so that
//! what lies behind the marker is reached.
#![no_main]

use bytes::Bytes;
use esker_format::avro::RowsBuilder;
use esker_format::avro::container::{self, Block};
use esker_format::keys::Keys;
use esker_format::schema::{Metric, Schema};
use esker_format::wal::{self, BodyRef};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let bytes = Bytes::copy_from_slice(data);
    esker_fuzz::bounded(data.len(), || {
        wal::decode("c/notes-1/wal/18446744073709551614.avro", bytes.clone()).ok();
        let Ok(read) = container::read(&bytes) else { return };
        let blocks: Vec<(u64, &[u8])> = read.blocks.iter().map(|b: &Block| (b.rows, &b.data[..])).collect();
        let marked = Bytes::from(container::write(&read.meta, &blocks));
        let text = |key: &str| read.meta.get(key).and_then(|value| std::str::from_utf8(value).ok());
        let id = text(wal::COLLECTION).and_then(|text| text.parse().ok());
        let seq = text(wal::SEQ).and_then(|text| text.parse().ok());
        let (Some(id), Some(seq)) = (id, seq) else { return };
        let Ok(mut entry) = wal::decode(&Keys::new(&id).wal(seq), marked.clone()) else { return };
        let builder = || RowsBuilder::new(&esker_fuzz::settings(4, Metric::L2), &Schema::default());
        assert!(entry.rows() <= i32::MAX as u64);
        if let Some(body) = entry.body {
            // The same bytes as its body: its header is one, its blocks may be.
            entry.body = Some(BodyRef::new(body.until, body.token, &marked));
            wal::decode_body(&entry, &marked).ok();
        }
        let body = entry.body.map(|_| marked);
        wal::verify_hashes(&entry, body.clone()).ok();
        let mut rows = builder();
        if wal::decode_rows(&entry, body, &mut rows).is_ok() {
            rows.finish().unwrap();
        }
    });
});
