//! What clients wrote, and what they were told about it.

use bytes::Bytes;
use esker_format::avro::container::Block;
use esker_format::avro::{encode_record, encode_tombstone};
use esker_format::record::{Op, Record, RecordRef, Value, ValueRef};
use esker_format::wal::PendingBatch;
use esker_format::{Content, Kind, Result, Seq, Token, Version};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// The one metadata column that batches use.
pub const TEXT: &str = "text";

/// A record as it was written: its vector and text say by which batch and at which place.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub id: String,
    pub vector: [f32; 2],
    pub text: Option<String>,
}

/// A write under a client's token.
#[derive(Clone, Debug)]
pub struct Batch {
    pub token: Token,
    pub op: Op,
    pub rows: Vec<Row>,
}

impl Batch {
    pub fn upsert(token: u128, ids: &[&str]) -> Self {
        let row = |(i, id): (usize, &&str)| Row {
            id: (*id).to_owned(),
            vector: [token as f32, i as f32],
            text: None,
        };
        Batch { token: Token(token), op: Op::Upsert, rows: ids.iter().enumerate().map(row).collect() }
    }

    pub fn delete(token: u128, ids: &[&str]) -> Self {
        Batch { op: Op::Delete, ..Self::upsert(token, ids) }
    }

    /// The same with a text of `bytes` in each row.
    pub fn with_text(mut self, bytes: usize) -> Self {
        for row in &mut self.rows {
            let name = format!("{} of {}, ", row.id, self.token);
            row.text = Some(name.repeat(bytes / name.len() + 1));
        }
        self
    }

    /// As the log takes it, under a token that its caller gave or that was drawn.
    pub fn pending(&self, given: bool) -> PendingBatch {
        let mut data = Vec::new();
        for row in &self.rows {
            match self.op {
                Op::Delete => encode_tombstone(&mut data, &row.id),
                Op::Upsert => {
                    let text = row.text.as_deref().map(|t| (TEXT, ValueRef::String(t)));
                    let metadata: Vec<_> = text.into_iter().collect();
                    let record = RecordRef {
                        id: &row.id,
                        vector: &row.vector,
                        metadata: &metadata,
                        ..RecordRef::default()
                    };
                    encode_record(&mut data, &record);
                }
            }
        }
        let blocks = vec![Block { rows: self.rows.len() as u64, data: Bytes::from(data) }];
        let content = Some(Content(self.token.0 as u64));
        PendingBatch { token: self.token, given, content, op: self.op, arrived_ms: 1_000, blocks }
    }

    /// As the writer function takes it.
    pub fn records(&self) -> Vec<Record> {
        let record = |row: &Row| Record {
            id: row.id.clone(),
            vector: row.vector.to_vec(),
            metadata: row.text.iter().map(|t| (TEXT.to_owned(), Value::String(t.clone()))).collect(),
            ..Record::default()
        };
        self.rows.iter().map(record).collect()
    }
}

/// What a client knows of something it asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fate {
    Unsent,
    /// Done; for a batch, at this position.
    Acknowledged(Seq),
    /// Not done, and never will be.
    Failed,
    /// Asked for, without an answer or with one that leaves it open.
    Unknown,
}

/// What was asked for, how often, and what came of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    pub times: u32,
    /// Of these, those without an answer or with one that leaves it open.
    pub open: u32,
    pub done: Option<Seq>,
}

impl Asked {
    pub fn fate(&self) -> Fate {
        match self {
            Asked { done: Some(position), .. } => Fate::Acknowledged(*position),
            Asked { times: 0, .. } => Fate::Unsent,
            Asked { open: 0, .. } => Fate::Failed,
            _ => Fate::Unknown,
        }
    }

    /// Asked for once more.
    fn ask(&mut self) {
        self.times += 1;
        self.open += 1;
    }

    /// An answer. After every kind of error but `Unknown` nothing was done by that call.
    fn hear(&mut self, answer: &Result<Seq>) {
        match answer {
            Ok(position) => {
                let first = *self.done.get_or_insert(*position);
                assert_eq!(*position, first, "a retry was answered with another position");
            }
            Err(e) if e.kind() == Kind::Unknown => {}
            Err(_) => self.open -= 1,
        }
    }
}

/// The notes of all clients of one collection. Clones are the same notes; [`Ledger::fork`] makes others.
#[derive(Clone, Debug, Default)]
pub struct Ledger(Arc<Mutex<Book>>);

#[derive(Clone, Debug, Default)]
pub struct Book {
    pub batches: BTreeMap<Token, (Batch, Asked)>,
    pub created: Asked,
    pub dropped: Asked,
    /// The newest version that anyone was told to be committed.
    pub version: Version,
}

impl Ledger {
    pub fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub fn fork(&self) -> Self {
        Ledger(Arc::new(Mutex::new(self.book().clone())))
    }

    /// Notes a batch and what comes of sending it.
    pub async fn batch(&self, batch: &Batch, send: impl Future<Output = Result<Seq>>) -> Result<()> {
        self.book().batches.entry(batch.token).or_insert((batch.clone(), Asked::default())).1.ask();
        let answer = send.await;
        if let Err(e) = &answer
            && e.kind() == Kind::Unknown
        {
            assert_eq!(e.token(), Some(batch.token), "an unknown outcome does not name its token: {e}");
        }
        if let Some((_, asked)) = self.book().batches.get_mut(&batch.token) {
            asked.hear(&answer);
        }
        answer.map(drop)
    }

    /// Notes what comes of creating the collection.
    pub async fn create(&self, send: impl Future<Output = Result<()>>) -> Result<()> {
        self.once(|book| &mut book.created, send).await
    }

    /// Notes what comes of dropping the collection.
    pub async fn end(&self, send: impl Future<Output = Result<()>>) -> Result<()> {
        self.once(|book| &mut book.dropped, send).await
    }

    async fn once(
        &self,
        of: impl Fn(&mut Book) -> &mut Asked,
        send: impl Future<Output = Result<()>>,
    ) -> Result<()> {
        of(&mut self.book()).ask();
        let answer = send.await.map(|()| 0);
        of(&mut self.book()).hear(&answer);
        answer.map(drop)
    }

    /// Notes that someone was told of a committed version.
    pub fn committed(&self, version: Version) {
        let mut book = self.book();
        book.version = book.version.max(version);
    }
}
