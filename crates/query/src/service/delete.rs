//! Deletes: of ids, and of what a filter finds.

use std::collections::HashSet;

use arrow::array::AsArray;
use async_trait::async_trait;
use bytes::Bytes;
use esker_format::{Error, Kind, Name, Result, Seq, Token, limits};
use esker_store::Meter;
use futures::TryStreamExt;

use super::Service;
use crate::engine::{Cursor, PageRequest};
use crate::filter::Filter;
use crate::tail::column;

/// Ids of one tombstone batch.
const PAGE: usize = limits::BATCH_ROWS;
/// Most times that rows which were written meanwhile are looked at again.
const ROUNDS: u32 = 8;

/// Records to delete.
#[derive(Debug, Clone, PartialEq)]
pub enum Doomed {
    /// Ids.
    Ids(Vec<String>),
    /// An Avro object container file of records with an id and no vector.
    Container(Bytes),
    /// Such records in the framing of WIRE §2, with the operation `delete`.
    Framed(Bytes),
}

/// How a delete is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Called {
    /// By its client: it may have been sent before.
    pub given: Option<Token>,
    /// Else, where somebody else has to know its name: no earlier write has it.
    pub drawn: Option<Token>,
}

/// What a delete came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct Deleted {
    /// Reads at this position or later see the delete.
    pub position: Seq,
    /// Ids given, or rows that the filter found.
    pub deleted: u64,
    /// A delete of the same name was there before; nothing was written now.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub duplicate: bool,
}

/// What a delete of rows that nobody has touched came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Untouched {
    /// The entry of the tombstones; none if all ids had been touched.
    pub position: Option<Seq>,
    /// Ids that were written or deleted since: nothing was done to them.
    pub touched: Vec<String>,
}

/// Writes tombstones. The query crate writes nothing itself: the program gives it a writer.
#[async_trait]
pub trait Tombstones: Send + Sync {
    /// Deletes records as one batch. Ids that are not there are no error.
    async fn delete(&self, meter: &Meter, name: &Name, doomed: Doomed, called: Called) -> Result<Deleted>;

    /// Deletes those of `ids` that no entry after `since` has touched, and returns the others.
    async fn delete_untouched(
        &self,
        meter: &Meter,
        name: &Name,
        ids: &[String],
        since: Seq,
    ) -> Result<Untouched>;
}

impl Service {
    /// Deletes records.
    ///
    /// # Errors
    /// `Invalid` if this server does not write; those of the writer.
    pub async fn delete(
        &self,
        meter: &Meter,
        name: &Name,
        doomed: Doomed,
        called: Called,
    ) -> Result<Deleted> {
        if let Doomed::Ids(ids) = &doomed
            && ids.is_empty()
        {
            return Err(Error::invalid("ids", "the list of ids is empty"));
        }
        self.writer()?.delete(meter, name, doomed, called).await
    }

    /// Deletes every row that passes a filter at one state, and nothing that was written since unless it passes, too. In
    /// batches: a reader may see some of the rows gone and others not yet. Repeating it is safe.
    ///
    /// # Errors
    /// `Conflict` when the rows that pass are written faster than they can be deleted; those of reads and of the writer.
    pub async fn delete_where(&self, meter: &Meter, name: &Name, filter: &Filter) -> Result<Deleted> {
        let writer = self.writer()?;
        let mut done = Deleted { position: 0, deleted: 0, duplicate: false };
        // After the first round, only the rows that were touched under its hands.
        let mut only: Option<HashSet<String>> = None;
        for _ in 0..ROUNDS {
            let (mut touched, mut cursor, mut whole) = (HashSet::new(), None, true);
            loop {
                let (mut ids, since, next) = match self.matching(meter, name, filter, cursor).await {
                    // A long delete may outlive the state that it goes through.
                    Err(e) if e.kind() == Kind::Gone && cursor.is_some() => {
                        whole = false;
                        break;
                    }
                    found => found?,
                };
                ids.retain(|id| only.as_ref().is_none_or(|only| only.contains(id)));
                done.position = done.position.max(since);
                if !ids.is_empty() {
                    let found = ids.len();
                    let written = writer.delete_untouched(meter, name, &ids, since).await?;
                    done.deleted += (found - written.touched.len().min(found)) as u64;
                    done.position = done.position.max(written.position.unwrap_or(0));
                    touched.extend(written.touched);
                }
                cursor = next;
                if cursor.is_none() {
                    break;
                }
            }
            match whole {
                true if touched.is_empty() => return Ok(done),
                true => only = Some(touched),
                false => {}
            }
        }
        let message = format!("rows that pass the filter keep being written; {} were deleted", done.deleted);
        Err(Error::new(Kind::Conflict, message).with_hint("delete again"))
    }

    fn writer(&self) -> Result<&dyn Tombstones> {
        let missing = || {
            Error::invalid("records", "this server only reads").with_hint("send deletes to one that writes")
        };
        self.0.tombstones.as_deref().ok_or_else(missing)
    }

    /// A page of the ids that pass a filter, the state they are of, and where the next one begins.
    async fn matching(
        &self,
        meter: &Meter,
        name: &Name,
        filter: &Filter,
        cursor: Option<Cursor>,
    ) -> Result<(Vec<String>, Seq, Option<Cursor>)> {
        let request = PageRequest {
            filter: Some(filter.clone()),
            include: Some(Vec::new()),
            limit: PAGE,
            cursor,
            ..PageRequest::default()
        };
        let mut page = self.scan(meter, name, &request).await?;
        let mut ids = Vec::new();
        while let Some(batch) = page.batches.try_next().await? {
            let column = column(&batch, "id")?.as_string::<i32>();
            ids.extend((0..batch.num_rows()).map(|row| column.value(row).to_owned()));
        }
        Ok((ids, page.seen.position, page.cursor))
    }
}
