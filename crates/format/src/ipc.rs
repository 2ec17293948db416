//! Arrow IPC streams from clients. The reader of the arrow crate sets memory aside for whatever lengths a stream claims,
//! so that a few bytes could end the process: here every length is held against the bytes that are there first.

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::{Buffer, Message, MessageHeader, root_as_message};
use bytes::Bytes;

use crate::{Error, Result};

/// What may stand before a message's length.
const CONTINUATION: [u8; 4] = [0xff; 4];
/// Length of a compressed buffer that was left as it is.
const AS_IS: i64 = -1;

/// The batches of a whole stream, which take about `most` bytes at most when they are decompressed.
///
/// # Errors
/// Invalid, naming `body`, for a stream that claims more than it has or than `most`, or is none.
pub fn read(stream: &Bytes, most: u64) -> Result<Vec<RecordBatch>> {
    check(stream, most)?;
    let read = || -> std::result::Result<Vec<RecordBatch>, ArrowError> {
        StreamReader::try_new(std::io::Cursor::new(stream), None)?.collect()
    };
    // The arrow crate panics at types that it does not know and at batches that contradict their schema.
    match std::panic::catch_unwind(read) {
        Ok(batches) => batches.map_err(wrong),
        Err(_) => Err(wrong(ArrowError::ParseError("it contradicts itself".to_owned()))),
    }
}

/// Walks the messages and sums what their buffers become.
fn check(stream: &[u8], most: u64) -> Result<()> {
    let (mut rest, mut total) = (stream, 0u64);
    while let Some(message) = next_message(&mut rest)? {
        let length = usize::try_from(message.bodyLength()).map_err(|_| short())?;
        let body = rest.split_at_checked(length).ok_or_else(short)?;
        rest = body.1;
        for bytes in decompressed(&message, body.0)? {
            total = total.saturating_add(bytes);
            if total > most {
                let message = format!("the Arrow IPC stream has more than {most} bytes when decompressed");
                return Err(Error::invalid("body", message).with_hint("send fewer records at once"));
            }
        }
    }
    Ok(())
}

/// The metadata of the next message, `rest` being behind it; `None` at the end of the stream.
fn next_message<'a>(rest: &mut &'a [u8]) -> Result<Option<Message<'a>>> {
    let mut word = || -> Option<[u8; 4]> {
        let (word, behind) = rest.split_first_chunk()?;
        *rest = behind;
        Some(*word)
    };
    let length = match word() {
        Some(CONTINUATION) => word(),
        other => other,
    };
    // A stream may just end.
    let length = length.map_or(0, u32::from_le_bytes) as usize;
    if length == 0 {
        return Ok(None);
    }
    let (metadata, behind) = rest.split_at_checked(length).ok_or_else(short)?;
    *rest = behind;
    root_as_message(metadata).map(Some).map_err(|e| wrong(ArrowError::ParseError(e.to_string())))
}

/// The bytes of each buffer of a message, once it is read.
fn decompressed(message: &Message<'_>, body: &[u8]) -> Result<Vec<u64>> {
    let batch = match message.header_type() {
        MessageHeader::RecordBatch => message.header_as_record_batch(),
        MessageHeader::DictionaryBatch => message.header_as_dictionary_batch().and_then(|d| d.data()),
        _ => None,
    };
    let Some(batch) = batch else { return Ok(Vec::new()) };
    let compressed = batch.compression().is_some();
    let of_buffer = |buffer: &Buffer| {
        let (from, length) = (usize::try_from(buffer.offset()).ok()?, usize::try_from(buffer.length()).ok()?);
        let bytes = body.get(from..from.checked_add(length)?)?;
        match bytes.split_first_chunk() {
            Some((claimed, _)) if compressed => match i64::from_le_bytes(*claimed) {
                AS_IS => Some(length as u64),
                claimed => u64::try_from(claimed).ok(),
            },
            _ => Some(length as u64),
        }
    };
    let buffers = batch.buffers().into_iter().flatten();
    buffers.map(|buffer| of_buffer(buffer).ok_or_else(short)).collect()
}

fn short() -> Error {
    Error::invalid("body", "the Arrow IPC stream ends before what it says it has")
}

fn wrong(e: ArrowError) -> Error {
    Error::invalid("body", format!("the body is not an Arrow IPC stream: {e}"))
}

#[cfg(test)]
mod tests;
