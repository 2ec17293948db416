//! `esker eval`: recall against exact search, speed, and what a query asks of the store.

mod queries;
mod truth;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use esker_format::{Error, Name, Result};
use esker_query::{Engine, Search};
use esker_store::{Clock, Io, Meter};
use serde::Serialize;
use serde_json::json;

use self::queries::read;
use self::truth::Truth;
use super::search::filter;
use super::{engine, known};
use crate::args::Eval;
use crate::output::{Output, bytes, count, plural};
use crate::progress::bar;
use crate::settings::{name, open_store};

pub async fn run(args: Eval, url: &str, output: &Output) -> Result<()> {
    let collection = name(&args.collection)?;
    let (path, limit) = (args.queries.clone(), args.limit);
    let queries = tokio::task::spawn_blocking(move || read(&path, limit))
        .await
        .map_err(|e| Error::invalid("file", "the file is damaged: its decoder panicked").with_source(e))??;
    let filter = args.filter.as_deref().map(filter).transpose()?;
    let store = open_store(url, false)?;
    let engine = engine(&store);
    let described = engine.collection(&collection).describe(&Meter::new()).await;
    let (manifest, _) = known(&store, &collection, described).await?;
    check(&queries, manifest.settings.dimension)?;
    let truth =
        Truth::read(&engine.collection(&collection), filter.as_ref(), &manifest.settings, output).await?;
    let bounds = truth.bounds(&queries, args.k, output);
    let mut search = Search { k: args.k, filter, include: Some(Vec::new()), ..Search::default() };
    if let Some(min_recall) = args.min_recall {
        search.min_recall = min_recall;
    }
    let trial = Trial { url, collection: &collection, queries: &queries, search: &search, output };
    let (run, memory) = match args.cold {
        true => (trial.cold(args.threads).await?, None),
        false => {
            let memory = trial.memory(&engine, args.threads).await?;
            (trial.warm(&engine, args.threads)?, Some(memory))
        }
    };
    let measured = |run: &Run| Measured::of(run, &truth, &queries, &bounds, args.k);
    let (searched, in_memory) = (measured(&run), memory.as_ref().map(measured));
    let io = run.per_query();
    let mut value = json!(searched);
    value["queries"] = json!(queries.len());
    value["k"] = json!(args.k);
    value["threads"] = json!(args.threads);
    value["cold"] = json!(args.cold);
    value["filter"] = json!(args.filter);
    value["rows"] = json!(truth.rows());
    for (key, mean) in [("waves", io.waves), ("gets", io.gets), ("lists", io.lists), ("bytes", io.bytes)] {
        value[key] = json!(mean);
    }
    value["most_waves"] = json!(run.answers.iter().map(|a| a.io.waves).max());
    value["most_gets"] = json!(run.answers.iter().map(|a| a.io.gets).max());
    value["most_bytes"] = json!(run.answers.iter().map(|a| a.io.bytes_read).max());
    value["p95_gets"] = json!(p95(run.answers.iter().map(|a| a.io.gets)));
    value["p95_bytes"] = json!(p95(run.answers.iter().map(|a| a.io.bytes_read)));
    if args.ids {
        value["ids"] = json!(run.answers.iter().map(|a| &a.ids).collect::<Vec<_>>());
    }
    if let Some(in_memory) = &in_memory {
        value["memory"] = json!(in_memory);
    }
    output.result(&value, || {
        let rows = plural(truth.rows() as u64, "row", "rows");
        let asked = plural(queries.len() as u64, "query", "queries");
        let mut lines = vec![format!("{asked}, k {}, {rows} to find", args.k)];
        let what = if args.cold { "cold search" } else { "strong search" };
        lines.push(searched.text(what));
        lines.push(format!(
            "               {:.1} waves, {:.1} GETs, {:.1} LISTs, {} per query",
            io.waves,
            io.gets,
            io.lists,
            bytes(io.bytes as u64)
        ));
        lines.extend(in_memory.as_ref().map(|m| m.text("in memory")));
        lines.join("\n")
    });
    Ok(())
}

/// What 95 of a hundred stay within; none of nothing.
fn p95(counts: impl Iterator<Item = u64>) -> Option<u64> {
    let mut counts: Vec<u64> = counts.collect();
    counts.sort_unstable();
    counts.get((counts.len() * 95).div_ceil(100).checked_sub(1)?).copied()
}

fn check(queries: &[Vec<f32>], dimension: u32) -> Result<()> {
    match queries.iter().position(|q| q.len() != dimension as usize) {
        None => Ok(()),
        Some(row) => {
            let message =
                format!("row {row} has {} dimensions, the collection has {dimension}", queries[row].len());
            Err(Error::invalid("vector", message))
        }
    }
}

/// What all searches of an evaluation share.
struct Trial<'a> {
    url: &'a str,
    collection: &'a Name,
    queries: &'a [Vec<f32>],
    search: &'a Search,
    output: &'a Output,
}

/// The answer to one query.
#[derive(Debug, Clone, Default)]
struct Answer {
    ids: Vec<String>,
    ms: f64,
    io: Io,
}

/// The answers to all queries, in their order.
struct Run {
    answers: Vec<Answer>,
    seconds: f64,
}

/// Means per query.
struct PerQuery {
    waves: f64,
    gets: f64,
    lists: f64,
    bytes: f64,
}

impl Trial<'_> {
    fn of(&self, query: usize) -> Search {
        Search { vectors: vec![self.queries[query].clone()], ..self.search.clone() }
    }

    /// Every query on its own: a process that knows nothing yet.
    async fn cold(&self, threads: usize) -> Result<Run> {
        let clock = open_store(self.url, false)?.client().seams().clock.clone();
        self.all("cold", threads, &clock, |query, runtime| {
            let engine = engine(&open_store(self.url, false)?);
            runtime.block_on(self.one(&engine, query))
        })
    }

    /// Strong searches of one engine, after a round that fills its memory.
    fn warm(&self, engine: &Engine, threads: usize) -> Result<Run> {
        let clock = clock(engine);
        self.all("searching", threads, &clock, |query, runtime| runtime.block_on(self.one(engine, query)))
    }

    async fn one(&self, engine: &Engine, query: usize) -> Result<Answer> {
        let (clock, search) = (clock(engine), self.of(query));
        let start = clock.elapsed();
        let reply = engine.collection(self.collection).search(&Meter::new(), &search).await?;
        let ms = (clock.elapsed() - start).as_secs_f64() * 1000.0;
        let ids = reply.results.into_iter().flatten().map(|h| h.id).collect();
        Ok(Answer { ids, ms, io: reply.io })
    }

    /// Searches of one state held in memory: ids and distances, without asking whether it is the newest. After a round of the
    /// same, as strong ones are.
    async fn memory(&self, engine: &Engine, threads: usize) -> Result<Run> {
        let meter = Meter::new();
        let warm = engine.collection(self.collection).warm(&meter).await?;
        let filter = match &self.search.filter {
            Some(filter) => Some(warm.filter(&meter, filter).await?),
            None => None,
        };
        let clock = clock(engine);
        let one = |query: usize, _: &tokio::runtime::Handle| {
            let start = clock.elapsed();
            let hits =
                warm.search(&self.queries[query], self.search.k, self.search.min_recall, filter.as_ref())?;
            let ids = hits.iter().map(|h| warm.id(h).to_owned()).collect();
            Ok(Answer { ids, ms: (clock.elapsed() - start).as_secs_f64() * 1000.0, io: Io::default() })
        };
        self.all("warming up", threads, &clock, one)?;
        self.all("in memory", threads, &clock, one)
    }

    fn all(
        &self,
        what: &str,
        threads: usize,
        clock: &Arc<dyn Clock>,
        one: impl Fn(usize, &tokio::runtime::Handle) -> Result<Answer> + Sync,
    ) -> Result<Run> {
        let bar = bar(self.output, what, Some(self.queries.len() as u64));
        let (next, runtime) = (AtomicUsize::new(0), tokio::runtime::Handle::current());
        let start = clock.elapsed();
        let work = || {
            let mut done = Vec::new();
            loop {
                let query = next.fetch_add(1, Ordering::Relaxed);
                if query >= self.queries.len() {
                    return Ok(done);
                }
                done.push((query, one(query, &runtime)?));
                bar.inc(1);
            }
        };
        let parts: Vec<Result<Vec<(usize, Answer)>>> = std::thread::scope(|scope| {
            let handles: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
            let join = |h: std::thread::ScopedJoinHandle<'_, _>| {
                h.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            handles.into_iter().map(join).collect()
        });
        let seconds = (clock.elapsed() - start).as_secs_f64();
        bar.finish_and_clear();
        let mut answers = vec![Answer::default(); self.queries.len()];
        for part in parts {
            for (query, answer) in part? {
                answers[query] = answer;
            }
        }
        Ok(Run { answers, seconds })
    }
}

fn clock(engine: &Engine) -> Arc<dyn Clock> {
    engine.store().client().seams().clock.clone()
}

impl Run {
    fn per_query(&self) -> PerQuery {
        let mut sum = Io::default();
        self.answers.iter().for_each(|a| sum += a.io);
        let n = self.answers.len().max(1) as f64;
        let mean = |total: u64| total as f64 / n;
        PerQuery {
            waves: mean(sum.waves.into()),
            gets: mean(sum.gets),
            lists: mean(sum.lists),
            bytes: mean(sum.bytes_read),
        }
    }
}

/// How good and how fast the answers were.
#[derive(Debug, Serialize)]
struct Measured {
    /// Mean over the queries of the share of the true nearest rows that were found; rows as near as the last of them
    /// count too.
    recall: f64,
    /// Least share of a query.
    least_recall: f64,
    /// Least number of rows that a query brought.
    min_rows: usize,
    qps: f64,
    p50_ms: f64,
    p99_ms: f64,
}

impl Measured {
    fn of(run: &Run, truth: &Truth, queries: &[Vec<f32>], bounds: &[f32], k: usize) -> Self {
        let wanted = k.min(truth.rows());
        let recalls =
            run.answers.iter().zip(queries).zip(bounds).map(|((answer, query), bound)| match wanted {
                0 => 1.0,
                wanted => truth.within(query, &answer.ids, *bound).min(wanted) as f64 / wanted as f64,
            });
        let recalls: Vec<f64> = recalls.collect();
        let mut times: Vec<f64> = run.answers.iter().map(|a| a.ms).collect();
        times.sort_unstable_by(f64::total_cmp);
        let at =
            |share: f64| times.get(((times.len() as f64 * share) as usize).min(times.len() - 1)).copied();
        Measured {
            recall: recalls.iter().sum::<f64>() / recalls.len().max(1) as f64,
            least_recall: recalls.iter().copied().fold(1.0, f64::min),
            min_rows: run.answers.iter().map(|a| a.ids.len()).min().unwrap_or(0),
            qps: run.answers.len() as f64 / run.seconds.max(1e-9),
            p50_ms: at(0.5).unwrap_or(0.0),
            p99_ms: at(0.99).unwrap_or(0.0),
        }
    }

    fn text(&self, what: &str) -> String {
        format!(
            "{what:13}  recall {:.4} (least {:.2}), at least {} rows, {} per second, p50 {:.3} ms, p99 {:.3} ms",
            self.recall,
            self.least_recall,
            self.min_rows,
            count(self.qps as u64),
            self.p50_ms,
            self.p99_ms
        )
    }
}
