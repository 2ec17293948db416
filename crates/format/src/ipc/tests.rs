use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, StringArray};
use arrow::ipc::CompressionType;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};

use super::*;
use crate::Kind;

const ROOM: u64 = 1 << 20;

fn stream(compression: Option<CompressionType>) -> Vec<u8> {
    let ids: ArrayRef = Arc::new(StringArray::from_iter_values((0..500).map(|i| format!("id-{i}"))));
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(std::iter::repeat_n(7, 500)));
    let batch = RecordBatch::try_from_iter([("id", ids), ("n", numbers)]).unwrap();
    let options = IpcWriteOptions::default().try_with_compression(compression).unwrap();
    let mut writer = StreamWriter::try_new_with_options(Vec::new(), &batch.schema(), options).unwrap();
    writer.write(&batch).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

fn invalid(bytes: Vec<u8>) -> String {
    let e = read(&bytes.into(), ROOM).unwrap_err();
    assert_eq!((e.kind(), e.field()), (Kind::Invalid, Some("body")));
    e.to_string()
}

#[test]
fn streams_of_others_are_read() {
    for compression in [None, Some(CompressionType::LZ4_FRAME), Some(CompressionType::ZSTD)] {
        let mut bytes = stream(compression);
        assert_eq!(read(&bytes.clone().into(), ROOM).unwrap().len(), 2, "{compression:?}");
        // Without the mark of its end, too.
        bytes.truncate(bytes.len() - 8);
        assert_eq!(read(&bytes.into(), ROOM).unwrap().len(), 2, "{compression:?}");
    }
}

#[test]
fn more_than_there_is_room_for_is_refused_before_it_is_decompressed() {
    for compression in [None, Some(CompressionType::ZSTD)] {
        let e = read(&stream(compression).into(), 10_000).unwrap_err();
        assert!(e.to_string().contains("more than 10000 bytes"), "{e}");
    }
}

/// Every 8 bytes of a stream in turn claim something absurd: lengths of bodies, of buffers, of what is compressed.
#[test]
fn absurd_lengths_are_refused_and_set_nothing_aside() {
    for compression in [None, Some(CompressionType::LZ4_FRAME), Some(CompressionType::ZSTD)] {
        let good = stream(compression);
        for absurd in [i64::MAX, 1 << 46, -2, i64::MIN] {
            for at in (0..good.len() - 8).step_by(4) {
                let mut bad = good.clone();
                bad[at..at + 8].copy_from_slice(&absurd.to_le_bytes());
                // Ended processes and panics are what this looks for; many of these bytes are padding or values.
                let _ = read(&bad.into(), ROOM);
            }
        }
    }
}

#[test]
fn a_stream_that_breaks_off_is_refused() {
    let good = stream(None);
    let text = invalid(good[..good.len() / 2].to_vec());
    assert!(text.contains("ends before"), "{text}");
    invalid(b"nonsense".to_vec());
    invalid(Vec::new());
}
