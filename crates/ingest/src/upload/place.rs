//! The pieces of a body as a reader, and where in the body it is.

use std::cell::Cell;
use std::io::{self, BufRead, Read};

use bytes::{Buf, Bytes};
use esker_format::upload::Resume;
use tokio::sync::mpsc;

use crate::batch::Cut;

/// Bytes that are held to be given one by one.
const SINGLE_BYTES: usize = 1 << 16;

/// The pieces of a body as a reader, for a thread that may block. Pieces that break off are an error: else what came of the
/// body would be taken for all of it.
pub(super) struct Chunks {
    from: mpsc::Receiver<Bytes>,
    now: Bytes,
    /// Bytes that are still to come.
    left: u64,
}

impl Chunks {
    /// The pieces of so many bytes.
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

/// Where the records come from that a batch is made of. A *unit* is what is read at once: a line, a record, a block, a message.
pub(super) struct Place {
    start: Resume,
    /// Records that `head` has.
    ahead: u64,
    /// Bytes that were read, and the last one.
    read: Cell<u64>,
    last: Cell<u8>,
    /// Where the head ends, once it is known.
    head: Cell<Option<u64>>,
    /// What comes needs more than the head.
    lost: Cell<bool>,
    /// The unit that is being cut: its first row, and its first byte in the body.
    unit: Cell<(u64, u64)>,
    /// Records still to be passed over.
    skip: Cell<u64>,
    /// The next batch.
    batch: Cell<u64>,
}

impl Place {
    /// Nothing is read yet of what begins at `start`, whose head has so many records.
    pub(super) fn new(start: Resume, ahead: u64) -> Self {
        Place {
            start,
            ahead,
            read: Cell::new(0),
            last: Cell::new(0),
            head: Cell::new((start.head > 0).then_some(start.head)),
            lost: Cell::new(false),
            unit: Cell::new((start.row, start.at)),
            skip: Cell::new(start.skip),
            batch: Cell::new(start.batch),
        }
    }

    /// The byte of the body that is next.
    pub(super) fn here(&self) -> u64 {
        self.start.place(self.read.get())
    }

    /// The byte of the body that follows so many that were read.
    pub(super) fn after(&self, read: u64) -> u64 {
        self.start.place(read)
    }

    /// The last byte that was read.
    pub(super) fn last(&self) -> u8 {
        self.last.get()
    }

    /// The head ends here, unless it is known.
    pub(super) fn head_ends(&self, at: u64) {
        self.head.set(self.head.get().or(Some(at)));
    }

    /// From here on nothing can be gone on with: what follows needs more than the head.
    pub(super) fn lost(&self) {
        self.lost.set(true);
    }

    /// A unit begins at this byte; `next` is the number of the record that comes next of those that are not passed over.
    pub(super) fn begins(&self, next: u64, at: u64) {
        self.unit.set((next.saturating_sub(self.skip.get()), at));
    }

    /// How many of the next records, of so many, are to be passed over.
    pub(super) fn pass(&self, records: u64) -> u64 {
        let n = self.skip.get().min(records);
        self.skip.set(self.skip.get() - n);
        n
    }

    /// Where the batch after this one begins.
    pub(super) fn after_cut(&self, cut: &Cut) -> Option<Resume> {
        let (batch, row) = (self.batch.get() + 1, cut.first_row + cut.rows());
        self.batch.set(batch);
        let (first, at) = self.unit.get();
        let skip = self.ahead + row.checked_sub(first)?;
        self.head.get().filter(|_| !self.lost.get()).map(|head| Resume { batch, row, head, at, skip })
    }
}

/// A body whose bytes are counted as they are taken.
pub(super) struct Counted<'p, R> {
    body: R,
    place: &'p Place,
}

impl<'p, R> Counted<'p, R> {
    pub(super) fn new(body: R, place: &'p Place) -> Self {
        Counted { body, place }
    }
}

impl<R: BufRead> Read for Counted<'_, R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let there = self.body.fill_buf()?;
        let n = there.len().min(to.len());
        to[..n].copy_from_slice(&there[..n]);
        self.consume(n);
        Ok(n)
    }
}

impl<R: BufRead> BufRead for Counted<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.body.fill_buf()
    }

    fn consume(&mut self, n: usize) {
        self.place.read.set(self.place.read.get() + n as u64);
        self.body.consume(n);
    }
}

/// The same for serde_json, which asks for one byte after the other.
pub(super) struct Single<'p, R> {
    body: R,
    place: &'p Place,
    buffer: Vec<u8>,
    next: usize,
}

impl<'p, R> Single<'p, R> {
    pub(super) fn new(body: R, place: &'p Place) -> Self {
        Single { body, place, buffer: Vec::new(), next: 0 }
    }
}

impl<R: Read> Read for Single<'_, R> {
    #[inline]
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if let (Some(byte), [to]) = (self.buffer.get(self.next), &mut *to) {
            *to = *byte;
            self.next += 1;
            self.place.last.set(*byte);
            self.place.read.set(self.place.read.get() + 1);
            return Ok(1);
        }
        self.more(to)
    }
}

impl<R: Read> Single<'_, R> {
    /// Bytes of the next part of the body.
    #[cold]
    fn more(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.next == self.buffer.len() {
            self.buffer.resize(SINGLE_BYTES, 0);
            self.next = 0;
            let read = self.body.read(&mut self.buffer);
            self.buffer.truncate(*read.as_ref().unwrap_or(&0));
            read?;
        }
        let n = (self.buffer.len() - self.next).min(to.len());
        to[..n].copy_from_slice(&self.buffer[self.next..self.next + n]);
        self.next += n;
        self.place.read.set(self.place.read.get() + n as u64);
        if let Some(last) = to[..n].last() {
            self.place.last.set(*last);
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests;
