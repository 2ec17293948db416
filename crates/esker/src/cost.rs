//! What functions on S3 cost: requests that were counted, times prices that are stated.

use std::path::Path;

use esker_format::{Error, Result};
use esker_store::Io;
use serde::{Deserialize, Serialize};

mod count;
mod reference;

pub use count::{Counted, count};
pub use reference::reference;

/// Rows of the collection that is made where none is named.
pub const REFERENCE_ROWS: usize = 10_000;
/// Elements of their vectors.
pub const REFERENCE_DIMENSION: u32 = 384;
/// Queries that are counted.
pub const QUERIES: usize = 20;
/// Rows of a write unless it is said.
pub const ROWS_PER_CALL: u64 = 100;
/// Prices unless a file is named.
const PRICES: &str = include_str!("cost/prices.json");
/// HTTP APIs are metered in pieces of this many bytes.
const METERED: u64 = 512 << 10;
/// Ticks of a month of 30 days, once a day: one looks for work, one for garbage.
const TICKS: f64 = 60.0;

/// Prices in dollars, as a provider lists them, and what cannot be counted: how long a function runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    /// When they were looked up.
    pub stated: String,
    /// Where.
    pub source: String,
    /// 1,000 requests that put or list. Deletes are free.
    pub s3_put_per_1000: f64,
    /// 1,000 requests that get.
    pub s3_get_per_1000: f64,
    /// 2^30 bytes kept for a month.
    pub s3_gib_month: f64,
    /// A million calls of functions.
    pub lambda_per_million: f64,
    /// A second of a function with 2^30 bytes of memory.
    pub lambda_gib_second: f64,
    /// A million requests of up to 512 KiB at the gateway.
    pub gateway_per_million: f64,
    /// How long functions run, and how large they are.
    pub assumed: Assumed,
}

/// How long functions run: each wave of requests waits for the store, the rest is work of the processor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assumed {
    /// One wave of requests.
    pub wave_ms: f64,
    /// The start of a function.
    pub start_ms: f64,
    /// The work of a query that knows nothing.
    pub cold_query_ms: f64,
    /// The work of a query in a function that answered others.
    pub warm_query_ms: f64,
    /// The work of a write.
    pub write_ms: f64,
    /// The work of a compactor's call, beside its rows.
    pub compaction_ms: f64,
    /// And of each row that it folds.
    pub compaction_row_us: f64,
    /// Memory of the query function, in 2^30 bytes.
    pub query_gib: f64,
    /// Memory of the ingest function.
    pub ingest_gib: f64,
    /// Memory of the compactor function.
    pub compactor_gib: f64,
}

impl Prices {
    /// Those of the file, or those that come with the program.
    ///
    /// # Errors
    /// Invalid, naming what is wrong in the file.
    #[allow(clippy::disallowed_methods, reason = "a file that the command line names")]
    pub fn read(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else { return Self::parse(PRICES, "the program's own prices") };
        let text = std::fs::read_to_string(path).map_err(|e| {
            Error::invalid("--prices", format!("cannot read {}: {e}", path.display())).with_source(e)
        })?;
        Self::parse(&text, &path.display().to_string())
    }

    fn parse(text: &str, from: &str) -> Result<Self> {
        let hint = "write a file like the one that `esker cost --format json` shows under `prices`";
        let prices: Prices = serde_json::from_str(text)
            .map_err(|e| Error::invalid("--prices", format!("{from}: {e}")).with_hint(hint))?;
        let a = &prices.assumed;
        let numbers = [
            prices.s3_put_per_1000,
            prices.s3_get_per_1000,
            prices.s3_gib_month,
            prices.lambda_per_million,
            prices.lambda_gib_second,
            prices.gateway_per_million,
            a.wave_ms,
            a.start_ms,
            a.cold_query_ms,
            a.warm_query_ms,
            a.write_ms,
            a.compaction_ms,
            a.compaction_row_us,
            a.query_gib,
            a.ingest_gib,
            a.compactor_gib,
        ];
        match numbers.iter().find(|n| !(n.is_finite() && **n >= 0.0)) {
            None => Ok(prices),
            Some(n) => Err(Error::invalid("--prices", format!("{from}: {n} is no price")).with_hint(hint)),
        }
    }
}

/// A line of a bill.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// What is paid for.
    pub item: String,
    /// How much of it.
    pub quantity: f64,
    /// What one of it is.
    pub unit: &'static str,
    /// Dollars for each `per` of it.
    pub price: f64,
    /// See `price`.
    pub per: f64,
    /// Dollars.
    pub usd: f64,
}

/// What something costs, and of what that is made up.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bill {
    /// What costs this.
    pub what: String,
    /// Its lines.
    pub lines: Vec<Line>,
    /// Their sum.
    pub usd: f64,
}

impl Bill {
    fn new(what: String) -> Self {
        Bill { what, lines: Vec::new(), usd: 0.0 }
    }

    fn add(&mut self, item: &str, quantity: f64, unit: &'static str, price: f64, per: f64) {
        let usd = quantity / per * price;
        self.usd += usd;
        self.lines.push(Line { item: item.to_owned(), quantity, unit, price, per, usd });
    }

    /// What `io` asked of the store, `times` over.
    fn store(&mut self, who: &str, io: &Io, times: f64, prices: &Prices) {
        let (gets, puts) = ((io.gets + io.hedges) as f64 * times, (io.puts + io.lists) as f64 * times);
        self.add(&format!("S3, {who}: GET"), gets, "requests", prices.s3_get_per_1000, 1e3);
        self.add(&format!("S3, {who}: PUT and LIST"), puts, "requests", prices.s3_put_per_1000, 1e3);
    }

    /// Calls of a function that each take `ms` on `gib` of memory.
    fn function(&mut self, who: &str, calls: f64, ms: f64, gib: f64, prices: &Prices) {
        self.add(&format!("Lambda, {who}: calls"), calls, "calls", prices.lambda_per_million, 1e6);
        self.add(
            &format!("Lambda, {who}: time"),
            calls * ms / 1e3 * gib,
            "GiB-s",
            prices.lambda_gib_second,
            1.0,
        );
    }

    fn gateway(&mut self, requests: f64, prices: &Prices) {
        self.add("gateway", requests, "requests", prices.gateway_per_million, 1e6);
    }
}

/// How much is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Workload {
    /// Queries, one vector each.
    pub queries: u64,
    /// Rows that are written.
    pub upserts: u64,
}

/// The bills of a workload and of a month in which nobody asks.
pub fn bills(counted: &Counted, load: Workload, prices: &Prices) -> Vec<Bill> {
    let number = crate::output::count;
    let a = &prices.assumed;
    let queries = load.queries as f64;

    let mut cold = Bill::new(format!("{} queries, each in a function that starts", number(load.queries)));
    let (waves, times) = (counted.cold.mean_waves(), queries / counted.cold.calls.max(1) as f64);
    cold.gateway(queries, prices);
    cold.function("query", queries, a.start_ms + a.cold_query_ms + waves * a.wave_ms, a.query_gib, prices);
    cold.store("query", &counted.cold.io, times, prices);

    let mut warm =
        Bill::new(format!("{} queries, each in a function that answered others", number(load.queries)));
    let (waves, times) = (counted.warm.mean_waves(), queries / counted.warm.calls.max(1) as f64);
    warm.gateway(queries, prices);
    warm.function("query", queries, a.warm_query_ms + waves * a.wave_ms, a.query_gib, prices);
    warm.store("query", &counted.warm.io, times, prices);

    let mut upserts =
        Bill::new(format!("{} upserts, {} rows a call", number(load.upserts), number(counted.rows_per_call)));
    let times = load.upserts as f64 / (counted.writes.calls * counted.rows_per_call).max(1) as f64;
    let calls = counted.writes.calls as f64 * times;
    upserts.gateway(calls * counted.bytes_per_call.div_ceil(METERED).max(1) as f64, prices);
    let ms = a.write_ms + counted.writes.mean_waves() * a.wave_ms;
    upserts.function("ingest", calls, ms, a.ingest_gib, prices);
    upserts.store("ingest", &counted.writes.io, times, prices);
    let events = counted.compactions.calls as f64 * times;
    let rows_each = counted.rows_compacted as f64 / counted.compactions.calls.max(1) as f64;
    let ms = a.compaction_ms + counted.compactions.mean_waves() * a.wave_ms;
    let ms = ms + rows_each * a.compaction_row_us / 1e3;
    upserts.function("compactor", events, ms, a.compactor_gib, prices);
    upserts.store("compactor", &counted.compactions.io, times, prices);

    let mut idle = Bill::new("a month of idling".to_owned());
    idle.add(
        "S3: storage",
        counted.stored_bytes as f64 / (1u64 << 30) as f64,
        "GiB-months",
        prices.s3_gib_month,
        1.0,
    );

    let mut ticks = Bill::new("the daily tick for a month, one collection".to_owned());
    let ms = a.start_ms + a.compaction_ms + counted.tick.mean_waves() * a.wave_ms;
    ticks.function("compactor", TICKS, ms, a.compactor_gib, prices);
    ticks.store("compactor", &counted.tick.io, TICKS / counted.tick.calls.max(1) as f64, prices);
    vec![cold, warm, upserts, idle, ticks]
}

#[cfg(test)]
mod tests;
