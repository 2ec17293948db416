//! Deletion bitmaps: any bytes, and with checksums that fit. After the envelope the input is a directory of one slice,
//! and the slice.
#![no_main]

use bytes::Bytes;
use esker_format::envelope::{Kind, seal};
use esker_format::segment::deletes::{Deletes, decode_all};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    esker_fuzz::bounded(data.len(), || {
        decode_all("deletes", &Bytes::copy_from_slice(data)).ok();
        let resealed = esker_fuzz::resealed(Kind::Deletes, data);
        decode_all("deletes", &resealed).ok();
        if let Ok(deletes) = Deletes::parse("deletes", &resealed) {
            for ordinal in [0, 1, 1 << 16, u32::MAX] {
                assert!(deletes.slice_of(ordinal) < deletes.slices());
            }
        }
        // One slice whose checksum fits, with as many set bits as it says or not.
        let Some((count, bitmap)) = data.split_first() else { return };
        let mut directory = u64::from(*count).to_le_bytes().to_vec();
        let header = 64 + 8 + 4 + 20u64;
        directory.extend_from_slice(&1u32.to_le_bytes());
        directory.extend_from_slice(&0u32.to_le_bytes());
        directory.extend_from_slice(&header.to_le_bytes());
        directory.extend_from_slice(&(bitmap.len() as u32).to_le_bytes());
        directory.extend_from_slice(&crc32c::crc32c(bitmap).to_le_bytes());
        let mut object = seal(Kind::Deletes, 0, &directory);
        object.extend_from_slice(bitmap);
        if let Ok(bits) = decode_all("deletes", &object.into()) {
            assert_eq!(bits.len(), u64::from(*count));
        }
    });
});
