//! `esker sql`.

use esker_format::{Error, Result};
use esker_query::Engine;
use esker_query::sql::{self, Param};
use esker_store::Meter;
use serde_json::{Value, json};

use super::engine;
use crate::args::Sql;
use crate::output::{Output, cost_line, io_json, plural};
use crate::rows::{json_of, table_of};
use crate::settings::Resources;

pub async fn run(args: Sql, url: &str, resources: &Resources, output: &Output) -> Result<()> {
    let params =
        args.params.iter().enumerate().map(|(i, text)| param(i + 1, text)).collect::<Result<Vec<_>>>()?;
    let (store, meter) = (resources.open_store(url, false)?, Meter::new());
    let clock = store.client().seams().clock.clone();
    let start = clock.elapsed();
    // Results are printed whole: as text they take several times their bytes.
    let memory = usize::try_from(resources.memory / 4).unwrap_or(usize::MAX);
    let answer = query(&engine(&store), &meter, &args.query, &params, sql::Options { memory }).await?;
    let ms = (clock.elapsed() - start).as_secs_f64() * 1000.0;
    match output.is_json() {
        true => {
            let rows = json_of(&answer.batches)?;
            let value = json!({"rows": rows, "io": io_json(&meter.io()), "took_ms": ms});
            output.result(&value, String::new);
        }
        false => output.data(&table_of(&answer.schema, &answer.batches)?),
    }
    let rows = plural(answer.stats.rows as u64, "row", "rows");
    output.dim(format_args!("{rows} · {}", cost_line(&meter.io(), ms)));
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
