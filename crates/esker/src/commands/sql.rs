//! `esker sql`.

use esker_format::{Error, Result};
use esker_query::Engine;
use esker_query::sql::{self, Param};
use esker_store::Meter;
use futures::TryStreamExt;
use serde_json::Value;

use self::print::Printer;
use super::engine;
use crate::args::Sql;
use crate::output::{Output, cost_line, plural};
use crate::settings::Resources;

mod print;

/// Rows that become text at once: some may have 8,192 dimensions.
const PIECE_ROWS: usize = 256;

pub async fn run(args: Sql, url: &str, resources: &Resources, output: &Output) -> Result<()> {
    let params =
        args.params.iter().enumerate().map(|(i, text)| param(i + 1, text)).collect::<Result<Vec<_>>>()?;
    let (store, meter) = (resources.open_store(url, false)?, Meter::new());
    let clock = store.client().seams().clock.clone();
    let start = clock.elapsed();
    // For sorts, joins and aggregates: rows are printed as they are found.
    let memory = usize::try_from(resources.memory / 2).unwrap_or(usize::MAX);
    let catalog = engine(&store).catalog(&meter);
    let mut found = sql::stream(catalog, &args.query, &params, sql::Options { memory }).await?;
    let mut printer = Printer::new(args.rows, output, found.schema);
    let mut rows = 0;
    while let Some(batch) = found.batches.try_next().await? {
        rows += batch.num_rows() as u64;
        for first in (0..batch.num_rows()).step_by(PIECE_ROWS) {
            let piece = batch.slice(first, PIECE_ROWS.min(batch.num_rows() - first));
            if !output.piece(&printer.write(&piece)?) {
                return Ok(());
            }
        }
    }
    let ms = (clock.elapsed() - start).as_secs_f64() * 1000.0;
    output.piece(&printer.finish(&meter.io(), ms)?);
    output.dim(format_args!("{} · {}", plural(rows, "row", "rows"), cost_line(&meter.io(), ms)));
    Ok(())
}

/// Runs a query at the newest state of every collection that it names.
pub async fn query(
    engine: &Engine,
    meter: &Meter,
    text: &str,
    params: &[Param],
    options: sql::Options,
) -> Result<sql::QueryOutput> {
    sql::query(engine.catalog(meter), text, params, options).await
}

/// A value for `$number`. What is not JSON is a text.
fn param(number: usize, text: &str) -> Result<Param> {
    let value = match serde_json::from_str(text) {
        Ok(value) => value,
        Err(e) if text.trim_start().starts_with(['[', '{', '"']) => {
            return Err(Error::invalid("param", format!("${number} is not JSON: {e}")));
        }
        Err(_) => Value::String(text.to_owned()),
    };
    Param::json(&value)
}
