//! The records of a body that arrives in pieces, in each encoding that a write takes, without holding more of it than a batch.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Read};

use arrow::ipc::{MessageHeader, root_as_message};
use bytes::{Buf, Bytes};
use esker_format::avro::framing;
use esker_format::record::{Op, Record};
use esker_format::{Error, Result, ipc, limits};
use esker_proto::rest::{Encoding, each_record};
use tokio::sync::mpsc;

use crate::batch::{Batcher, Cut};
use crate::http::bodies::{ARROW_BYTES, line};
use crate::import::avro::{File, spans};
use crate::import::lines::Lines;
use crate::ingest::columns;

/// Bytes that a frame needs before its records: version, length and the longest operation.
const FRAME_BYTES: usize = 8 + 64;
/// Longest description of an Arrow message: a schema of as many columns as there may be has less than 1 MiB.
const METADATA_BYTES: u64 = 4 << 20;
/// Bytes of Arrow messages that are decoded for one body: dictionaries are, again and again, with each batch.
const DECODED_BYTES: u64 = 16 * limits::UPLOAD_BYTES;
/// Rows of an Arrow batch that are converted at once.
const ROWS: usize = 2_048;

/// Longest record as text: it takes several times as much in memory.
const RECORD_BYTES: usize = limits::BATCH_BYTES;
const TOO_LONG: &str = "a record has more than 16 MiB of text";

/// The pieces of a body as a reader, for a thread that may block. Pieces that break off are an error: else what came of the
/// body would be taken for all of it.
pub(super) struct Chunks {
    from: mpsc::Receiver<Bytes>,
    now: Bytes,
    /// Bytes that are still to come.
    left: u64,
}

impl Chunks {
    /// The pieces of a body of so many bytes.
    pub(super) fn new(from: mpsc::Receiver<Bytes>, bytes: u64) -> Self {
        Chunks { from, now: Bytes::new(), left: bytes }
    }
}

impl Read for Chunks {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.len().min(to.len());
        to[..n].copy_from_slice(&self.now[..n]);
        self.consume(n);
        Ok(n)
    }
}

impl BufRead for Chunks {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.now.is_empty() {
            match self.from.blocking_recv() {
                Some(next) => {
                    self.left = self.left.saturating_sub(next.len() as u64);
                    self.now = next;
                }
                None if self.left > 0 => return Err(io::Error::other("the body broke off")),
                None => break,
            }
        }
        Ok(&self.now)
    }

    fn consume(&mut self, n: usize) {
        self.now.advance(n);
    }
}

/// A body whose reader sets `since` back to 0 at each record, and gets no more of it than one may have.
struct Bounded<'s, R> {
    body: R,
    since: &'s Cell<usize>,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.body.read(to)?;
        self.since.set(self.since.get() + read);
        match self.since.get() > RECORD_BYTES {
            true => Err(io::Error::other(TOO_LONG)),
            false => Ok(read),
        }
    }
}

/// What is done with each batch.
type Emit<'e> = &'e mut dyn FnMut(Cut) -> Result<()>;

/// Reads a body to its end, giving each batch to `emit`.
///
/// # Errors
/// Invalid, with `records[i]` counted over the body; what `emit` says.
pub(super) fn records(
    encoding: Encoding,
    body: impl BufRead,
    mut batcher: Batcher,
    emit: Emit<'_>,
) -> Result<()> {
    match encoding {
        Encoding::Ndjson => ndjson(body, &mut batcher, emit)?,
        Encoding::Avro => File::open(body)?.records(&mut batcher, emit)?,
        Encoding::FramedAvro => framed(body, &mut batcher, emit)?,
        Encoding::Arrow => arrow(body, &mut batcher, emit)?,
        Encoding::Json | Encoding::Csv => {
            let since = Cell::new(0);
            let take = &mut |record: Record| {
                since.set(0);
                batcher.whole(&record)?.map_or(Ok(()), &mut *emit)
            };
            // serde_json asks for one byte after the other.
            each_record(BufReader::with_capacity(1 << 16, Bounded { body, since: &since }), take)?;
        }
    }
    batcher.cut()?.map_or(Ok(()), emit)
}

fn ndjson(body: impl BufRead, batcher: &mut Batcher, emit: Emit<'_>) -> Result<()> {
    let mut lines = Lines::new(body);
    while let Some((_, text)) = lines.next()? {
        let row = batcher.next_row();
        if text.len() > RECORD_BYTES {
            return Err(Error::invalid(format!("records[{row}]"), TOO_LONG));
        }
        let record: Record = line(row, text)?;
        batcher.whole(&record)?.map_or(Ok(()), &mut *emit)?;
    }
    Ok(())
}

/// Records of our schema, one after the other, with nothing between them.
fn framed(mut body: impl BufRead, batcher: &mut Batcher, emit: Emit<'_>) -> Result<()> {
    let mut buffer = Vec::new();
    body.by_ref().take(FRAME_BYTES as u64).read_to_end(&mut buffer).map_err(broken)?;
    let frame = framing::decode(&Bytes::from(buffer))?;
    if frame.write()? != Op::Upsert {
        return Err(Error::invalid("avro_payload", "the payload is of a delete, the request an upsert"));
    }
    let mut buffer = frame.data.to_vec();
    loop {
        let (mut used, mut short) = (0, false);
        for span in spans::spans(&buffer) {
            match span {
                Ok(span) => {
                    used += span.bytes.len();
                    batcher.encoded(span.bytes)?.map_or(Ok(()), &mut *emit)?;
                }
                Err(spans::ENDS) => short = true,
                Err(wrong) => {
                    return Err(Error::invalid(format!("records[{}]", batcher.next_row()), wrong));
                }
            }
        }
        buffer.drain(..used);
        if buffer.len() > limits::BATCH_BYTES {
            let message =
                format!("the record has more than {} bytes, which is the limit", limits::BATCH_BYTES);
            return Err(Error::invalid(format!("records[{}]", batcher.next_row()), message));
        }
        let more = body.by_ref().take(limits::INLINE_BYTES as u64).read_to_end(&mut buffer);
        match (more.map_err(broken)?, short) {
            (0, false) => return Ok(()),
            (0, true) => return Err(Error::invalid(format!("records[{}]", batcher.next_row()), spans::ENDS)),
            _ => {}
        }
    }
}

/// A stream of one batch is made of each: our own reader of streams holds what one claims against what there is.
fn arrow(mut body: impl BufRead, batcher: &mut Batcher, emit: Emit<'_>) -> Result<()> {
    // The schema and the dictionaries, which every batch needs.
    let (target, mut head, mut decoded) = (batcher.target().clone(), Vec::new(), 0);
    while let Some((kind, message)) = message(&mut body)? {
        let mut stream = head.clone();
        stream.extend_from_slice(&message);
        if stream.len() as u64 > ARROW_BYTES {
            return Err(large());
        }
        if kind != MessageHeader::RecordBatch {
            head = stream;
            continue;
        }
        decoded += stream.len() as u64;
        if decoded > DECODED_BYTES {
            let message = "the batches of the Arrow IPC stream are small beside its dictionaries";
            return Err(Error::invalid("body", message).with_hint("write larger batches, or plain columns"));
        }
        for batch in ipc::read(&stream.into(), ARROW_BYTES)? {
            for first in (0..batch.num_rows()).step_by(ROWS) {
                let rows = batch.slice(first, ROWS.min(batch.num_rows() - first));
                columns::encode(&target, &rows, batcher, emit)?;
            }
        }
    }
    match head.is_empty() {
        true => Err(Error::invalid("body", "the body is not an Arrow IPC stream: it has no schema")),
        false => Ok(()),
    }
}

/// The next message of an Arrow stream with its kind; `None` at its end.
fn message(body: &mut impl BufRead) -> Result<Option<(MessageHeader, Vec<u8>)>> {
    let short = || Error::invalid("body", "the Arrow IPC stream ends before what it says it has");
    let mut bytes = Vec::new();
    let mut take = |bytes: &mut Vec<u8>, n: u64| -> Result<bool> {
        Ok(body.by_ref().take(n).read_to_end(bytes).map_err(broken)? as u64 == n)
    };
    let word = |bytes: &[u8]| bytes.last_chunk().map_or(0, |word| u32::from_le_bytes(*word));
    if !take(&mut bytes, 4)? {
        return if bytes.is_empty() { Ok(None) } else { Err(short()) };
    }
    // A continuation mark, unless the stream is of an older kind.
    if word(&bytes) == u32::MAX && !take(&mut bytes, 4)? {
        return Err(short());
    }
    let (length, start) = (u64::from(word(&bytes)), bytes.len());
    if length == 0 {
        return Ok(None);
    }
    if length > METADATA_BYTES {
        return Err(large());
    }
    if !take(&mut bytes, length)? {
        return Err(short());
    }
    let described = root_as_message(&bytes[start..])
        .map_err(|e| Error::invalid("body", format!("the body is not an Arrow IPC stream: {e}")))?;
    let (kind, length) = (described.header_type(), described.bodyLength());
    match u64::try_from(length) {
        Ok(length) if length > ARROW_BYTES => Err(large()),
        Ok(length) if take(&mut bytes, length)? => Ok(Some((kind, bytes))),
        _ => Err(short()),
    }
}

fn large() -> Error {
    Error::invalid("body", format!("a batch of the Arrow IPC stream has more than {ARROW_BYTES} bytes"))
        .with_hint("write smaller batches")
}

fn broken(e: io::Error) -> Error {
    Error::invalid("body", "the body cannot be read to its end").with_source(e)
}
