//! Batches that a writer offers to others. As with entries, the container is written again with the right marker, and its
//! name made from what it says. What is taken from it must make an entry.
#![no_main]

use bytes::Bytes;
use esker_format::avro::container::{self, Block};
use esker_format::keys::Keys;
use esker_format::wal::{self, EntryParts, inbox};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let bytes = Bytes::copy_from_slice(data);
    esker_fuzz::bounded(data.len(), || {
        let Ok(read) = container::read(&bytes) else { return };
        let blocks: Vec<(u64, &[u8])> = read.blocks.iter().map(|b: &Block| (b.rows, &b.data[..])).collect();
        let marked = Bytes::from(container::write(&read.meta, &blocks));
        let text = |key: &str| read.meta.get(key).and_then(|value| std::str::from_utf8(value).ok());
        let collection = text(wal::COLLECTION).and_then(|text| text.parse().ok());
        let tail: Option<u64> = text(inbox::TAIL).and_then(|text| text.parse().ok());
        let offered: Option<serde_json::Value> =
            text(inbox::OFFERED).and_then(|text| serde_json::from_str(text).ok());
        let token = offered.and_then(|o| o.get(0)?.get("token")?.as_str()?.parse().ok());
        let (Some(collection), Some(tail), Some(token)) = (collection, tail, token) else { return };
        let Ok(batches) = inbox::decode(&Keys::new(&collection).inbox(tail, token), &marked) else { return };
        let parts = EntryParts { collection: &collection, seq: 1, batches: &batches, body: None };
        let entry = wal::encode(&parts).expect("what was verified makes an entry");
        let entry = wal::decode(&Keys::new(&collection).wal(1), entry.into()).expect("it reads back");
        assert_eq!(entry.rows(), batches.iter().map(wal::PendingBatch::rows).sum::<u64>());
        wal::verify_hashes(&entry, None).expect("hashes are those of its rows");
        let again = inbox::encode(&collection, tail, &batches).expect("there is a batch").1;
        let again = inbox::decode(&Keys::new(&collection).inbox(tail, token), &again.into());
        assert_eq!(again.expect("it is as it was").len(), batches.len());
    });
});
