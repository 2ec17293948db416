//! Records into batches: encoded once, validated by the one pass of `esker_format`, cut by the limits of DESIGN §4.

use bytes::Bytes;
use esker_format::avro::container::{self, Block};
use esker_format::avro::foreign::normalise;
use esker_format::avro::{Rules, Summary, Validator, encode_record, encode_tombstone};
use esker_format::record::{Op, Record, RecordRef};
use esker_format::schema::Settings;
use esker_format::wal::PendingBatch;
use esker_format::{CollectionId, Error, Kind, Result, Token, limits};

/// A validated batch that has no token yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Cut {
    /// What it does.
    pub op: Op,
    /// Blocks of our schema, uncompressed.
    pub blocks: Vec<Block>,
    /// Ids and keys, for the schema and for ordering.
    pub summary: Summary,
    /// Number of its first record in the input, from 0.
    pub first_row: u64,
}

impl Cut {
    /// Records.
    pub fn rows(&self) -> u64 {
        self.summary.rows.into()
    }

    /// Bytes, encoded.
    pub fn bytes(&self) -> usize {
        self.blocks.iter().map(|b| b.data.len()).sum()
    }

    /// The batch as the log takes it. `given`: the token is its caller's.
    pub fn into_pending(self, token: Token, given: bool, arrived_ms: i64) -> (PendingBatch, Summary) {
        let (op, blocks, content) = (self.op, self.blocks, Some(self.summary.content));
        (PendingBatch { token, given, content, op, arrived_ms, blocks }, self.summary)
    }
}

/// The collection that batches are for: what validation needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The collection.
    pub collection: CollectionId,
    /// Its settings.
    pub settings: Settings,
}

impl Target {
    /// One batch of whole records. Each is the request's; none is split off.
    ///
    /// # Errors
    /// Invalid, naming `records[i].field` or the limit.
    pub fn records(&self, op: Op, records: &[Record]) -> Result<Cut> {
        let mut block = Vec::new();
        for (row, record) in records.iter().enumerate() {
            check_results(row as u64, record)?;
            record.encode(&mut block);
            // Stops before memory does; validation states the limit.
            if block.len() > limits::BATCH_BYTES {
                break;
            }
        }
        let rows = records.len() as u64;
        self.one_block(op, rows, block)
    }

    /// One batch of records of our schema, one after the other, kept byte for byte.
    ///
    /// # Errors
    /// Invalid, naming `records[i].field` or the limit.
    pub fn raw(&self, op: Op, data: Bytes) -> Result<Cut> {
        let mut validator =
            Validator::new(&Rules { collection: &self.collection, op, settings: &self.settings });
        validator.block(&data, None)?;
        let summary = validator.finish();
        let blocks = vec![Block { rows: summary.rows.into(), data }];
        cut(op, blocks, summary)
    }

    /// One batch of tombstones.
    ///
    /// # Errors
    /// Invalid, naming `records[i].id` or the limit.
    pub fn delete<S: AsRef<str>>(&self, ids: &[S]) -> Result<Cut> {
        let mut block = Vec::new();
        ids.iter().take(limits::BATCH_ROWS + 1).for_each(|id| encode_tombstone(&mut block, id.as_ref()));
        self.one_block(Op::Delete, ids.len() as u64, block)
    }

    /// One batch from an Avro object container file. Blocks of our schema and codec null stay as they came.
    ///
    /// # Errors
    /// Invalid, naming the field and the problem.
    pub fn container(&self, op: Op, file: &Bytes) -> Result<Cut> {
        let container = container::read(file)?;
        self.blocks(op, normalise(&container, limits::BATCH_BYTES)?)
    }

    /// One batch of blocks in our schema, kept byte for byte.
    ///
    /// # Errors
    /// Invalid, naming `records[i].field` or the limit.
    pub fn blocks(&self, op: Op, blocks: Vec<Block>) -> Result<Cut> {
        let rules = Rules { collection: &self.collection, op, settings: &self.settings };
        let mut validator = Validator::new(&rules);
        for block in &blocks {
            validator.block(&block.data, Some(block.rows))?;
        }
        let summary = validator.finish();
        cut(op, blocks, summary)
    }

    fn one_block(&self, op: Op, rows: u64, block: Vec<u8>) -> Result<Cut> {
        if rows > limits::BATCH_ROWS as u64 {
            let message = format!("the batch has {rows} records, the limit is {}", limits::BATCH_ROWS);
            return Err(Error::invalid("records", message));
        }
        self.blocks(op, vec![Block { rows, data: block.into() }])
    }
}

fn cut(op: Op, blocks: Vec<Block>, summary: Summary) -> Result<Cut> {
    if summary.rows == 0 {
        return Err(Error::invalid("records", "the batch has no records"));
    }
    Ok(Cut { op, blocks, summary, first_row: 0 })
}

/// The fields that only results have do not survive encoding, so they are refused before it.
fn check_results(row: u64, record: &Record) -> Result<()> {
    let set = [
        ("rank", record.rank.is_some()),
        ("score", record.score.is_some()),
        ("distance", record.distance.is_some()),
    ];
    match set.iter().find(|(_, set)| *set) {
        None => Ok(()),
        Some((field, _)) => Err(Error::invalid(
            format!("records[{row}].{field}"),
            "this field is set in results and must be null in writes",
        )),
    }
}

/// Cuts a stream of records into batches as large as allowed. The cuts depend on the records alone.
#[derive(Debug)]
pub struct Batcher {
    target: Target,
    /// Most records and bytes of a batch.
    limits: (u64, usize),
    blocks: Vec<Block>,
    open: Vec<u8>,
    open_rows: u64,
    /// Records and bytes in `blocks`.
    closed: (u64, usize),
    first_row: u64,
}

impl Batcher {
    /// Batches of upserts up to the limits of DESIGN §4.
    pub fn new(target: Target) -> Self {
        Batcher::with_limits(target, limits::BATCH_ROWS, limits::BATCH_BYTES)
    }

    /// Smaller batches.
    pub fn with_limits(target: Target, rows: usize, bytes: usize) -> Self {
        Batcher {
            target,
            limits: (rows.clamp(1, limits::BATCH_ROWS) as u64, bytes.min(limits::BATCH_BYTES)),
            blocks: Vec::new(),
            open: Vec::new(),
            open_rows: 0,
            closed: (0, 0),
            first_row: 0,
        }
    }

    /// As if so many records had been cut before.
    pub fn starting_at(self, row: u64) -> Self {
        Batcher { first_row: row, ..self }
    }

    /// The collection that batches are for.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Number in the input of the record that comes next, from 0.
    pub fn next_row(&self) -> u64 {
        self.first_row + self.rows()
    }

    fn rows(&self) -> u64 {
        self.closed.0 + self.open_rows
    }

    /// Adds a record; gives the batch that it completed.
    ///
    /// # Errors
    /// Invalid for the first bad record of the completed batch, numbered in the input; the batch is lost.
    pub fn record(&mut self, record: &RecordRef<'_>) -> Result<Option<Cut>> {
        let before = self.open.len();
        encode_record(&mut self.open, record);
        self.pushed(before)
    }

    /// Adds a record as a client sent it.
    ///
    /// # Errors
    /// As [`Batcher::record`]; Invalid when it has what only results have.
    pub fn whole(&mut self, record: &Record) -> Result<Option<Cut>> {
        check_results(self.next_row(), record)?;
        let before = self.open.len();
        record.encode(&mut self.open);
        self.pushed(before)
    }

    /// Adds a record that is encoded already.
    ///
    /// # Errors
    /// As [`Batcher::record`].
    pub fn encoded(&mut self, record: &[u8]) -> Result<Option<Cut>> {
        let before = self.open.len();
        self.open.extend_from_slice(record);
        self.pushed(before)
    }

    /// Adds a block that fits a batch, byte for byte; gives the batch that it did not fit into.
    ///
    /// # Errors
    /// As [`Batcher::record`]; Invalid when no batch could hold the block.
    pub fn block(&mut self, block: Block) -> Result<Option<Cut>> {
        if !self.fits(&block) {
            return Err(Error::invalid("records", "a block is larger than a batch may be"));
        }
        let full = self.rows() + block.rows > self.limits.0
            || self.closed.1 + self.open.len() + block.data.len() > self.limits.1;
        let cut = if full { self.cut()? } else { None };
        self.close_open();
        self.closed.0 += block.rows;
        self.closed.1 += block.data.len();
        self.blocks.push(block);
        Ok(cut)
    }

    /// Whether one batch can hold the block.
    pub fn fits(&self, block: &Block) -> bool {
        block.rows <= self.limits.0 && block.data.len() <= self.limits.1
    }

    /// What is left at the end of the input, if anything is.
    ///
    /// # Errors
    /// As [`Batcher::record`].
    pub fn cut(&mut self) -> Result<Option<Cut>> {
        self.close_open();
        let (rows, _) = std::mem::take(&mut self.closed);
        let blocks = std::mem::take(&mut self.blocks);
        let first_row = self.first_row;
        self.first_row += rows;
        if rows == 0 {
            return Ok(None);
        }
        let cut = self.target.blocks(Op::Upsert, blocks).map_err(|e| renumber(e, first_row))?;
        Ok(Some(Cut { first_row, ..cut }))
    }

    fn pushed(&mut self, before: usize) -> Result<Option<Cut>> {
        self.open_rows += 1;
        if self.closed.1 + self.open.len() > self.limits.1 {
            if self.rows() == 1 {
                let message =
                    format!("the record has {} bytes, a batch at most {}", self.open.len(), self.limits.1);
                return Err(Error::invalid(format!("records[{}]", self.first_row), message));
            }
            let last = self.open.split_off(before);
            self.open_rows -= 1;
            let cut = self.cut()?;
            self.open.extend_from_slice(&last);
            self.open_rows = 1;
            return Ok(cut);
        }
        if self.rows() == self.limits.0 { self.cut() } else { Ok(None) }
    }

    fn close_open(&mut self) {
        if self.open_rows == 0 {
            return;
        }
        // The next batch will be about as large.
        let next = Vec::with_capacity(self.open.len() + self.open.len() / 16);
        let data = std::mem::replace(&mut self.open, next);
        self.closed.0 += self.open_rows;
        self.closed.1 += data.len();
        self.blocks.push(Block { rows: self.open_rows, data: data.into() });
        self.open_rows = 0;
    }
}

/// The error with `records[i]` counted over the input instead of the batch, which starts at `first_row`.
pub(crate) fn renumber(e: Error, first_row: u64) -> Error {
    if e.kind() != Kind::Invalid || first_row == 0 {
        return e;
    }
    let message = shift(&e.to_string(), first_row);
    let new = match e.field() {
        Some(field) => Error::invalid(shift(field, first_row), message),
        None => Error::new(Kind::Invalid, message),
    };
    match e.hint() {
        Some(hint) => new.with_hint(hint),
        None => new,
    }
}

/// Adds `by` to the number of each `records[…]`.
fn shift(text: &str, by: u64) -> String {
    const OPEN: &str = "records[";
    let (mut out, mut rest) = (String::with_capacity(text.len() + 8), text);
    while let Some(at) = rest.find(OPEN) {
        let (head, tail) = rest.split_at(at + OPEN.len());
        out.push_str(head);
        let digits = tail.bytes().take_while(u8::is_ascii_digit).count();
        match tail[..digits].parse::<u64>() {
            Ok(n) => out.push_str(&n.saturating_add(by).to_string()),
            Err(_) => out.push_str(&tail[..digits]),
        }
        rest = &tail[digits..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests;
