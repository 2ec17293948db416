//! `esker search`.

use std::path::Path;

use esker_format::{Error, Kind, Result};
use esker_query::filter::Filter;
use esker_query::{Explain, FilterPlan, Hit, Search, SearchReply};
use esker_store::Meter;
use serde_json::{Value, json};

use super::{engine, known};
use crate::args::{self, QueryVector};
use crate::output::{Output, cost_line, io_json, plural};
use crate::rows::hits_table;
use crate::settings::{name, open_store};

pub async fn run(args: args::Search, url: &str, output: &Output) -> Result<()> {
    let collection = name(&args.collection)?;
    let mut search = Search {
        k: args.k,
        filter: args.filter.as_deref().map(filter).transpose()?,
        include: args.include.clone(),
        max_distance: args.max_distance,
        explain: args.explain,
        ..Search::default()
    };
    match query(&args.query)? {
        Query::Like(id) => search.like = Some(id),
        Query::Vector(vector) => search.vectors = vec![vector],
    }
    if let Some(min_recall) = args.min_recall {
        search.min_recall = min_recall;
    }
    let store = open_store(url, false)?;
    let engine = engine(&store);
    let clock = store.client().seams().clock.clone();
    let start = clock.elapsed();
    let reply = engine.collection(&collection).search(&Meter::new(), &search).await;
    let reply = known(&store, &collection, reply).await?;
    let ms = (clock.elapsed() - start).as_secs_f64() * 1000.0;
    let hits = reply.results.first().map(Vec::as_slice).unwrap_or_default();
    output.result(&reply_json(&reply, ms), || match hits.is_empty() {
        true => "no rows".to_owned(),
        false => hits_table(hits, args.include.as_deref()),
    });
    if let (Some(explain), false) = (&reply.explain, output.is_json()) {
        output.data(&explain_text(explain));
    }
    output.dim(cost_line(&reply.io, ms));
    Ok(())
}

enum Query {
    Like(String),
    Vector(Vec<f32>),
}

fn query(given: &QueryVector) -> Result<Query> {
    Ok(match given {
        QueryVector { like: Some(id), .. } => Query::Like(id.clone()),
        QueryVector { vector: Some(text), .. } => Query::Vector(vector(text)?),
        QueryVector { vector_file: Some(path), .. } => Query::Vector(vector(&read(path)?)?),
        _ => return Err(Error::invalid("vector", "give --like, --vector or --vector-file")),
    })
}

#[allow(clippy::disallowed_methods, reason = "a file that the command line names")]
fn read(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|e| {
        let kind = if e.kind() == std::io::ErrorKind::NotFound { Kind::NotFound } else { Kind::Invalid };
        Error::new(kind, format!("cannot read {}: {e}", path.display())).with_source(e)
    })?;
    String::from_utf8(bytes).map_err(|_| Error::invalid("vector-file", "the file is not UTF-8 text"))
}

fn vector(text: &str) -> Result<Vec<f32>> {
    serde_json::from_str(text).map_err(|e| {
        Error::invalid("vector", format!("it is not a list of numbers: {e}"))
            .with_hint("for example [0.1, 0.2, 0.3]")
    })
}

/// A filter as it is typed: JSON if it is an object, else SQL.
pub fn filter(text: &str) -> Result<Filter> {
    match text.trim_start().starts_with('{') {
        false => Filter::sql(text),
        true => {
            let json: Value = serde_json::from_str(text)
                .map_err(|e| Error::invalid("filter", format!("the filter is not JSON: {e}")))?;
            Filter::json(&json)
        }
    }
}

/// The reply of WIRE §4.
fn reply_json(reply: &SearchReply, ms: f64) -> Value {
    let hits: Vec<Value> = reply.results.iter().flatten().map(hit_json).collect();
    let mut value = json!({
        "hits": hits, "position": reply.position, "version": reply.version, "io": io_json(&reply.io), "took_ms": ms,
    });
    if let Some(explain) = &reply.explain {
        value["explain"] = json!(explain);
    }
    value
}

/// A hit of WIRE §4.
pub fn hit_json(hit: &Hit) -> Value {
    let mut value = json!({
        "id": hit.id, "distance": hit.distance, "score": hit.score, "rank": hit.rank, "metadata": hit.metadata,
    });
    if let Some(vector) = &hit.vector {
        value["vector"] = json!(vector);
    }
    value
}

/// ` by 2 attributes and columns text`.
fn plan_text(plan: &FilterPlan) -> String {
    let mut by = Vec::new();
    if plan.attributes > 0 {
        by.push(plural(plan.attributes as u64, "attribute", "attributes"));
    }
    if plan.ids > 0 {
        by.push(plural(plan.ids as u64, "id", "ids"));
    }
    if !plan.columns.is_empty() {
        by.push(format!("reading {}", plan.columns.join(", ")));
    }
    if by.is_empty() { String::new() } else { format!(" (filter by {})", by.join(" and ")) }
}

fn explain_text(e: &Explain) -> String {
    let mut lines = vec![format!("rule {}", e.rule)];
    if let Some(filter) = &e.filter {
        lines.push(format!("filter {filter}: {} rows match", e.matching));
    }
    lines.push(format!(
        "{} leaves probed, {} codes scanned, {} rows reranked, {} rows of the tail; recall about {}",
        e.leaves_probed, e.codes_scanned, e.rows_reranked, e.tail_rows, e.estimated_recall
    ));
    for (i, s) in e.segments.iter().enumerate() {
        lines.push(format!(
            "segment {i}: {} in {}, {} match{}; b {:.3}, delta {:.3}, rerank {}",
            plural(s.rows, "row", "rows"),
            plural(s.leaves.into(), "leaf", "leaves"),
            s.matching,
            plan_text(&s.filter),
            s.b,
            s.delta,
            s.rerank
        ));
    }
    if e.restarts + e.further_rounds > 0 {
        lines.push(format!("{} restarts, {} further rounds", e.restarts, e.further_rounds));
    }
    lines.join("\n")
}
