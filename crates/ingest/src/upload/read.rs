//! The records of a body that arrives in pieces, in each encoding that a write takes, without holding more of it than a batch.

use std::cell::Cell;
use std::io::{self, BufRead, Read};

use arrow::ipc::{MessageHeader, root_as_message};
use bytes::Bytes;
use esker_format::avro::framing;
use esker_format::record::{Op, Record};
use esker_format::upload::Resume;
use esker_format::{Error, Result, ipc, limits};
use esker_proto::rest::{Encoding, each_record};

use super::place::{Counted, Place, Single};
use crate::batch::{Batcher, Cut, Target, renumber};
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

/// What is done with each batch, and where the one after it begins.
pub(super) type Give<'g> = &'g mut dyn FnMut(Cut, Option<Resume>) -> Result<()>;

type Emit<'e> = &'e mut dyn FnMut(Cut) -> Result<()>;

/// Reads a body to its end, giving each batch to `give`. `body` is what there is of it from `start`: see [`Resume`].
///
/// # Errors
/// Invalid, with `records[i]` counted over the body; what `give` says.
pub(super) fn records(
    encoding: Encoding,
    body: impl BufRead,
    target: Target,
    start: Resume,
    give: Give<'_>,
) -> Result<()> {
    let batcher = Batcher::new(target).starting_at(start.row);
    within(encoding, body, batcher, start, give)
}

/// As [`records`], with the batcher's limits.
pub(super) fn within(
    encoding: Encoding,
    body: impl BufRead,
    mut batcher: Batcher,
    start: Resume,
    give: Give<'_>,
) -> Result<()> {
    let place = &Place::new(start, u64::from(matches!(encoding, Encoding::Json | Encoding::Csv)));
    let emit = &mut |cut: Cut| {
        let next = place.after_cut(&cut);
        give(cut, next)
    };
    let batcher = &mut batcher;
    match encoding {
        Encoding::Ndjson => ndjson(Counted::new(body, place), &start, place, batcher, emit)?,
        Encoding::Avro => avro(Counted::new(body, place), place, batcher, emit)?,
        Encoding::FramedAvro => framed(body, place, batcher, emit)?,
        Encoding::Arrow => arrow(Counted::new(body, place), place, batcher, emit)?,
        Encoding::Json | Encoding::Csv => json(body, &start, place, batcher, emit)?,
    }
    batcher.cut()?.map_or(Ok(()), emit)
}

/// One object with a list. Where it is gone on with, the list begins with a record of before, and what follows any other one
/// follows that.
fn json(
    body: impl BufRead,
    start: &Resume,
    place: &Place,
    batcher: &mut Batcher,
    emit: Emit<'_>,
) -> Result<()> {
    let (since, mut refused, mut at) = (Cell::new(0), false, None);
    // What the first record that is read here would be, if no other one were put before it.
    let first = start.row.saturating_sub(start.skip);
    let mut row = first;
    let take = &mut |record: Record| {
        since.set(0);
        let end = place.here();
        // All that was read belongs to this record: none of it was read ahead.
        match matches!(place.last(), b'}' | b']') {
            true => place.head_ends(end),
            false => place.lost(),
        }
        // Of the first record only the end is known, where the second one's part begins.
        place.begins(batcher.next_row().max(1), at.unwrap_or(end));
        at = Some(end);
        row += 1;
        if place.pass(1) == 1 {
            return Ok(());
        }
        let done = batcher.whole(&record).and_then(|cut| cut.map_or(Ok(()), &mut *emit));
        refused = done.is_err();
        done
    };
    let read = each_record(Single::new(Bounded { body, since: &since }, place), take);
    match start.at {
        0 => read,
        _ if refused => read,
        // Records and lines are counted from where it was gone on.
        _ => read.map_err(|e| {
            let numbered = renumber(e, first);
            match numbered.to_string().rsplit_once(" at line ") {
                Some((what, _)) if numbered.field() == Some("body") => {
                    Error::invalid("body", format!("{what}, after records[{}]", row.saturating_sub(1)))
                }
                _ => numbered,
            }
        }),
    }
}

fn ndjson(
    body: impl BufRead,
    start: &Resume,
    place: &Place,
    batcher: &mut Batcher,
    emit: Emit<'_>,
) -> Result<()> {
    place.head_ends(0);
    // Only the body's first line may have a mark of its byte order.
    let mut lines = Lines::after(body, if start.at == 0 { 0 } else { start.row });
    loop {
        let row = batcher.next_row();
        place.begins(row, place.here());
        let Some((_, text)) = lines.next()? else { return Ok(()) };
        if place.pass(1) == 1 {
            continue;
        }
        if text.len() > RECORD_BYTES {
            return Err(Error::invalid(format!("records[{row}]"), TOO_LONG));
        }
        let record: Record = line(row, text)?;
        batcher.whole(&record)?.map_or(Ok(()), &mut *emit)?;
    }
}

fn avro(body: impl BufRead, place: &Place, batcher: &mut Batcher, emit: Emit<'_>) -> Result<()> {
    let file = File::open(body)?;
    place.head_ends(place.here());
    let begin = &|next: u64| {
        place.begins(next, place.here());
        place.pass(u64::MAX)
    };
    file.records(batcher, begin, emit)
}

/// Records of our schema, one after the other, with nothing between them.
fn framed(mut body: impl BufRead, place: &Place, batcher: &mut Batcher, emit: Emit<'_>) -> Result<()> {
    let mut buffer = Vec::new();
    body.by_ref().take(FRAME_BYTES as u64).read_to_end(&mut buffer).map_err(broken)?;
    let length = buffer.len();
    let frame = framing::decode(&Bytes::from(buffer))?;
    if frame.write()? != Op::Upsert {
        return Err(Error::invalid("avro_payload", "the payload is of a delete, the request an upsert"));
    }
    let mut taken = (length - frame.data.len()) as u64;
    place.head_ends(taken);
    let mut buffer = frame.data.to_vec();
    loop {
        let (mut used, mut short) = (0, false);
        for span in spans::spans(&buffer) {
            match span {
                Ok(span) => {
                    place.begins(batcher.next_row(), place.after(taken + used as u64));
                    used += span.bytes.len();
                    if place.pass(1) == 0 {
                        batcher.encoded(span.bytes)?.map_or(Ok(()), &mut *emit)?;
                    }
                }
                Err(spans::ENDS) => short = true,
                Err(wrong) => {
                    return Err(Error::invalid(format!("records[{}]", batcher.next_row()), wrong));
                }
            }
        }
        buffer.drain(..used);
        taken += used as u64;
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
fn arrow(mut body: impl BufRead, place: &Place, batcher: &mut Batcher, emit: Emit<'_>) -> Result<()> {
    // The schema and the dictionaries, which every batch needs.
    let (target, mut head, mut decoded) = (batcher.target().clone(), Vec::new(), 0);
    loop {
        let at = place.here();
        let Some((kind, message)) = message(&mut body)? else { break };
        let mut stream = head.clone();
        stream.extend_from_slice(&message);
        if stream.len() as u64 > ARROW_BYTES {
            return Err(large());
        }
        if kind != MessageHeader::RecordBatch {
            // A dictionary after the first batch is not at the body's start.
            if decoded > 0 {
                place.lost();
            }
            head = stream;
            continue;
        }
        place.head_ends(at);
        place.begins(batcher.next_row(), at);
        decoded += stream.len() as u64;
        if decoded > DECODED_BYTES {
            let message = "the batches of the Arrow IPC stream are small beside its dictionaries";
            return Err(Error::invalid("body", message).with_hint("write larger batches, or plain columns"));
        }
        for batch in ipc::read(&stream.into(), ARROW_BYTES)? {
            let pass = place.pass(batch.num_rows() as u64) as usize;
            for first in (pass..batch.num_rows()).step_by(ROWS) {
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
