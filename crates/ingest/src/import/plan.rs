//! What an import is going to do.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use esker_format::schema::Settings;
use esker_format::{CollectionId, Error, Kind, Result, Token, limits};

use super::detect::Format;
use super::file::{self, Inspected};
use super::infer::Inference;
use crate::batch::{Batcher, Cut, Target};

/// A file, what is made of it, and the collection it goes to.
#[derive(Debug, Clone)]
pub struct Plan {
    path: PathBuf,
    inspected: Inspected,
    target: Target,
    again: Option<Token>,
    /// Most records and bytes of a batch.
    limits: (usize, usize),
    memory: u64,
}

/// Batches in flight, each held twice while it is sent, take this share of the memory.
const IN_FLIGHT_SHARE: u64 = 8;
/// Most batches in flight.
const IN_FLIGHT: u64 = 4;

/// What batches depend on: all of it goes into the fingerprint.
#[derive(serde::Serialize)]
struct MadeOfIt<'a> {
    format: Format,
    id: Option<&'a str>,
    vector: &'a str,
    columns: &'a [esker_format::schema::Column],
    fields: &'a [String],
    skipped: &'a [String],
    limits: (usize, usize),
    again: Option<Token>,
}

impl Plan {
    /// Imports an inspected file into a collection with batches as large as allowed.
    ///
    /// # Errors
    /// Invalid when the vectors do not fit the collection.
    pub fn new(
        path: &Path,
        inspected: Inspected,
        collection: CollectionId,
        settings: Settings,
    ) -> Result<Self> {
        let found = &inspected.inference;
        if found.dimension != settings.dimension {
            let message = format!(
                "column `{}` has {} dimensions, the collection has {}",
                found.vector_column, found.dimension, settings.dimension
            );
            return Err(Error::invalid(&found.vector_column, message));
        }
        let target = Target { collection, settings };
        let limits = (limits::BATCH_ROWS, limits::BATCH_BYTES);
        Ok(Plan { path: path.to_owned(), inspected, target, again: None, limits, memory: u64::MAX })
    }

    /// Imports the file even if the same import ran before: batches get names of their own.
    #[must_use]
    pub fn again(mut self, token: Token) -> Self {
        self.again = Some(token);
        self
    }

    /// Smaller batches.
    #[must_use]
    pub fn with_limits(mut self, rows: usize, bytes: usize) -> Self {
        self.limits = (rows, bytes);
        self
    }

    /// Keeps batches in flight below an eighth of `memory` bytes, and as many read ahead. One is always in flight. What
    /// the batches are does not depend on it. A file of Arrow batches that take more than half of it is refused.
    #[must_use]
    pub fn with_memory(mut self, memory: u64) -> Self {
        self.memory = memory;
        self
    }

    /// Batches in flight at once.
    pub(crate) fn in_flight(&self) -> usize {
        let room = self.memory / IN_FLIGHT_SHARE / (2 * self.limits.1.max(1) as u64);
        room.clamp(1, IN_FLIGHT) as usize
    }

    /// What the file holds.
    pub fn inspected(&self) -> &Inspected {
        &self.inspected
    }

    pub(crate) fn fingerprint(&self) -> Result<Token> {
        let found = &self.inspected.inference;
        let made = MadeOfIt {
            format: self.inspected.format,
            id: found.id_column.as_deref(),
            vector: &found.vector_column,
            columns: &found.columns,
            fields: &found.fields,
            skipped: &found.skipped,
            limits: self.limits,
            again: self.again,
        };
        file::fingerprint(&self.path, &made)
    }

    /// Reads the file to its end.
    pub(crate) fn encode(
        &self,
        read: &Arc<AtomicU64>,
        emit: &mut dyn FnMut(Cut) -> Result<()>,
    ) -> Result<()> {
        let mut batcher = Batcher::with_limits(self.target.clone(), self.limits.0, self.limits.1);
        let Inspected { format, inference, .. } = &self.inspected;
        file::encode(&self.path, *format, inference, &mut batcher, self.memory, read, emit)
            .map_err(|e| explain(e, inference))
    }
}

/// The error in the words of the file: row and column.
fn explain(e: Error, inference: &Inference) -> Error {
    let parsed = e.field().and_then(|f| f.strip_prefix("records[")?.split_once(']'));
    let (Kind::Invalid, Some((row, field))) = (e.kind(), parsed) else { return e };
    let column = match field.strip_prefix('.') {
        None => None,
        Some("vector") => Some(inference.vector_column.as_str()),
        Some("id") => inference.id_column.as_deref().or(Some("id")),
        Some(field) => match field.strip_prefix("metadata.") {
            Some(key) => Some(key),
            None => inference.fields.iter().map(String::as_str).find(|f| f[1..] == *field).or(Some(field)),
        },
    };
    let message = match column {
        Some(column) => format!("row {row}, column `{column}`: {e}"),
        None => format!("row {row}: {e}"),
    };
    let new = Error::invalid(e.field().unwrap_or_default(), message);
    let hint = match (e.hint(), field) {
        (Some(hint), _) => hint.to_owned(),
        (None, field) if field.starts_with(".metadata.") => {
            format!("leave the column out with --skip-column {}", column.unwrap_or_default())
        }
        _ => return new,
    };
    new.with_hint(hint)
}
