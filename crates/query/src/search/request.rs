//! What a search asks for, and its answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use esker_format::record::Value;
use esker_format::schema::{Schema, Settings};
use esker_format::{Error, Result, Seq, Version, limits};
use esker_store::Io;
use serde::Serialize;

use crate::engine::Access;
use crate::filter::{Filter, suggest};
use crate::segment::FilterPlan;

/// Recall that is aimed at when a search does not say.
const MIN_RECALL: f32 = 0.98;
/// Most vectors of a search.
const VECTORS: usize = 1_000;
/// Most hits of a search, over all of its vectors.
const HITS: usize = 10 * limits::K;
/// Most bytes of the vectors of a reply.
const VECTOR_BYTES: u64 = 64 << 20;

/// How fresh the state is that a read answers from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Consistency {
    /// Every write acknowledged before the read began.
    #[default]
    Strong,
    /// What this process knows, at most as old as the engine's options allow; the reply says how old.
    Eventual,
}

/// The k nearest rows to one or more vectors.
#[derive(Debug, Clone)]
pub struct Search {
    /// Query vectors; empty with `like`.
    pub vectors: Vec<Vec<f32>>,
    /// Search with the vector of this row, which is among its own hits: a distance of 0 shows that it is there.
    pub like: Option<String>,
    /// Hits per vector, 1 to 10,000.
    pub k: usize,
    /// Only rows for which this is true.
    pub filter: Option<Filter>,
    /// Metadata columns of the hits; all if not said.
    pub include: Option<Vec<String>>,
    /// Whether hits have their vector.
    pub include_vector: bool,
    /// Only rows at most this far away.
    pub max_distance: Option<f32>,
    /// The share of the true nearest rows to aim at, in (0, 1].
    pub min_recall: f32,
    /// How fresh.
    pub consistency: Consistency,
    /// At least the state that an acknowledgement with this position left.
    pub min_position: Option<Seq>,
    /// The state at the watermark of a version.
    pub as_of: Option<Version>,
    /// Whether the reply says how it came about.
    pub explain: bool,
}

impl Default for Search {
    fn default() -> Self {
        Search {
            vectors: Vec::new(),
            like: None,
            k: 10,
            filter: None,
            include: None,
            include_vector: false,
            max_distance: None,
            min_recall: MIN_RECALL,
            consistency: Consistency::default(),
            min_position: None,
            as_of: None,
            explain: false,
        }
    }
}

impl Search {
    /// The `k` nearest to one vector.
    pub fn new(vector: Vec<f32>, k: usize) -> Self {
        Search { vectors: vec![vector], k, ..Search::default() }
    }

    /// Which state it reads.
    pub(crate) fn access(&self) -> Access {
        Access { consistency: self.consistency, min_position: self.min_position, as_of: self.as_of }
    }

    /// Refuses what no collection could answer.
    pub(crate) fn check(&self) -> Result<()> {
        if !(1..=limits::K).contains(&self.k) {
            return Err(Error::invalid(
                "k",
                format!("k is {}, it must be between 1 and {}", self.k, limits::K),
            ));
        }
        if self.vectors.is_empty() == self.like.is_none() {
            return Err(Error::invalid("vector", "give either vectors or the id of a row to search like"));
        }
        let vectors = self.vectors.len();
        if vectors > VECTORS {
            let message = format!("a search has at most {VECTORS} vectors, this one {vectors}");
            return Err(Error::invalid("vectors", message));
        }
        if vectors * self.k > HITS {
            let message = format!("{vectors} vectors with k = {} may have more than {HITS} hits", self.k);
            return Err(Error::invalid("k", message).with_hint("ask for fewer at once"));
        }
        if self.max_distance.is_some_and(f32::is_nan) {
            return Err(Error::invalid("max_distance", "max_distance is not a number"));
        }
        if !(self.min_recall > 0.0 && self.min_recall <= 1.0) {
            let message = format!("min_recall is {}, it must be above 0 and at most 1", self.min_recall);
            return Err(Error::invalid("min_recall", message));
        }
        self.access().check()
    }
}

/// Refuses replies whose vectors are too much to hold. `field` says how many rows there may be.
pub(crate) fn check_reply(field: &str, rows: usize, settings: &Settings) -> Result<()> {
    let most = VECTOR_BYTES / (u64::from(settings.dimension.max(1)) * 4);
    match rows as u64 > most {
        false => Ok(()),
        true => {
            let message = format!(
                "vectors of {rows} rows were asked for, and a reply has those of {most} at most in {} dimensions",
                settings.dimension
            );
            Err(Error::invalid(field, message)
                .with_hint("ask for fewer rows at once, or leave out include_vector"))
        }
    }
}

/// Refuses included columns that the collection does not have.
pub(crate) fn check_columns(include: Option<&[String]>, schema: &Schema) -> Result<()> {
    for name in include.into_iter().flatten() {
        if schema.get(name).is_none() {
            let e = Error::invalid("include", format!("unknown column {}", suggest::ident(name)));
            let known = schema.columns.iter().map(|c| c.name.as_str());
            return Err(match suggest::hint("columns", name, known) {
                Some(hint) => e.with_hint(hint),
                None => e,
            });
        }
    }
    Ok(())
}

/// Refuses a query vector that the collection has no distances to. `field` is what the caller called it.
pub(crate) fn check_vector(field: &str, vector: &[f32], settings: &Settings) -> Result<()> {
    if vector.len() != settings.dimension as usize {
        let message = format!("{} dimensions, the collection has {}", vector.len(), settings.dimension);
        return Err(Error::invalid(field, message));
    }
    if let Some(at) = vector.iter().position(|x| !x.is_finite()) {
        return Err(Error::invalid(field, format!("element {at} is {}, not a finite number", vector[at])));
    }
    let greatest = vector.iter().fold(0f32, |most, x| most.max(x.abs()));
    settings.check_greatest(greatest).map_err(|why| Error::invalid(field, why))
}

/// A row found.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    /// The row's id.
    pub id: String,
    /// The metric's own distance.
    pub distance: f32,
    /// Higher is better.
    pub score: f32,
    /// Position from 1.
    pub rank: u32,
    /// Its non-null metadata, or those columns of it that were asked for.
    pub metadata: BTreeMap<String, Value>,
    /// Its vector, if that was asked for.
    pub vector: Option<Vec<f32>>,
    /// Event time, milliseconds.
    pub timestamp: i64,
    /// Creation, milliseconds.
    pub created_at: i64,
    /// Last write, milliseconds.
    pub updated_at: i64,
    /// After this instant the row is invisible.
    pub expires_at: Option<i64>,
    /// The client's own version.
    pub version: i64,
}

/// The answer to a search.
#[derive(Debug, Clone)]
pub struct SearchReply {
    /// Hits per vector, nearest first, in the order of the request.
    pub results: Vec<Vec<Hit>>,
    /// The state that was searched.
    pub position: Seq,
    /// The manifest it rests on.
    pub version: Version,
    /// Metadata columns of the state.
    pub schema: Arc<Schema>,
    /// Milliseconds that it may be behind; 0 if strong.
    pub staleness_ms: u64,
    /// What it cost.
    pub io: Io,
    /// How it came about, if that was asked for.
    pub explain: Option<Explain>,
}

/// How a search was answered. Counts are sums over its vectors.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Explain {
    /// `memory`: probed in memory; `codes`: all codes scanned; `probe`: codes of the best leaves scanned; `rows`: so few rows
    /// pass the filter that their vectors were read without looking at codes; `exact`: all were, as full recall was asked for;
    /// `tail`: there is no segment.
    pub rule: &'static str,
    /// The filter, as it was understood.
    pub filter: Option<String>,
    /// Segments.
    pub segments: Vec<SegmentExplain>,
    /// Rows of the segments that live and pass the filter, before the tail's ids are compared.
    pub matching: u64,
    /// Leaves whose codes were scanned.
    pub leaves_probed: u64,
    /// Codes scanned.
    pub codes_scanned: u64,
    /// Exact distances to rows of segments.
    pub rows_reranked: u64,
    /// The recall that may be expected of it: what the limits met when the segments were built, on rows asked as queries, or
    /// less where the budget of requests and bytes ended before every leaf was read that they ask for; 1 where every row that counts was measured.
    pub estimated_recall: f32,
    /// Rows of the tail that were measured.
    pub tail_rows: u64,
    /// Ids that the tail wrote or deleted.
    pub tail_ids: u64,
    /// How often the read started again from a newer manifest.
    pub restarts: u32,
    /// Further rounds of codes that a filter made necessary.
    pub further_rounds: u32,
}

/// A segment in [`Explain`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SegmentExplain {
    /// Rows, dead ones included.
    pub rows: u64,
    /// Rows that live and pass the filter.
    pub matching: u64,
    /// Leaves.
    pub leaves: u32,
    /// Probing margins and rerank limit at the recall aimed at.
    pub b: f32,
    /// See `b`.
    pub delta: f32,
    /// See `b`.
    pub rerank: u32,
    /// How the filter was answered.
    pub filter: FilterPlan,
}
