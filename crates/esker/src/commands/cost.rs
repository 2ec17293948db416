//! `esker cost`.

use std::sync::Arc;

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type};
use esker_format::{Error, Name, Result};
use esker_query::ScanRequest;
use esker_store::{Meter, Store};
use futures::TryStreamExt;
use serde_json::json;

use super::{engine, known};
use crate::args;
use crate::cost::{
    Bill, Counted, Prices, QUERIES, REFERENCE_DIMENSION, REFERENCE_ROWS, Workload, bills, count, reference,
};
use crate::output::{self, Output, bytes, plural, table, table_text};
use crate::settings::{name, open_store};

pub async fn run(args: args::Cost, url: &str, output: &Output) -> Result<()> {
    let prices = Prices::read(args.prices.as_deref())?;
    let counted = match &args.collection {
        None => {
            let (source, name, queries) = reference(REFERENCE_ROWS, REFERENCE_DIMENSION, QUERIES).await?;
            count(&source, &name, &queries, args.batch).await?
        }
        Some(collection) => {
            let name = name(collection)?;
            let store = open_store(url, false)?;
            let queries = some_vectors(&store, &name, QUERIES).await;
            let queries = known(&store, &name, queries).await?;
            count(&|| open_store(url, false), &name, &queries, args.batch).await?
        }
    };
    let bills = bills(&counted, Workload { queries: args.queries, upserts: args.upserts }, &prices);
    let value = json!({ "counted": counted, "bills": bills, "prices": prices });
    output.result(&value, || text(&counted, &bills, &prices));
    Ok(())
}

/// Vectors of rows of the collection.
async fn some_vectors(store: &Arc<Store>, name: &Name, most: usize) -> Result<Vec<Vec<f32>>> {
    let request =
        ScanRequest { columns: Some(vec!["vector".to_owned()]), limit: Some(most), ..ScanRequest::default() };
    let mut batches = engine(store).collection(name).scan(&Meter::new(), &request).await?.batches;
    let mut vectors = Vec::new();
    while let Some(batch) = batches.try_next().await? {
        let column = batch.column(0).as_fixed_size_list();
        for row in 0..batch.num_rows() {
            let values = cast(&column.value(row), &DataType::Float32)
                .map_err(|e| Error::internal("a vector is no list of numbers").with_source(e))?;
            vectors.push(values.as_primitive::<Float32Type>().values().to_vec());
        }
    }
    vectors.truncate(most);
    Ok(vectors)
}

/// The bills as a table, and what was counted above it.
pub fn text(counted: &Counted, bills: &[Bill], prices: &Prices) -> String {
    let mut lines = table(&["", "quantity", "price", "USD"]);
    for bill in bills {
        lines.add_row([bill.what.clone(), String::new(), String::new(), format!("{:.4}", bill.usd)]);
        for line in &bill.lines {
            let quantity = match line.quantity < 100.0 {
                true => {
                    format!("{:.4}", line.quantity).trim_end_matches('0').trim_end_matches('.').to_owned()
                }
                false => output::count(line.quantity.round() as u64),
            };
            let per = match line.per > 1.0 {
                true => format!("{} per {}", line.price, output::count(line.per as u64)),
                false => format!("{}", line.price),
            };
            lines.add_row([
                format!("  {}", line.item),
                format!("{quantity} {}", line.unit),
                per,
                format!("{:.4}", line.usd),
            ]);
        }
    }
    format!(
        "{}\n\ncounted: {} of {} dimensions, {}; {}, {}, {}\nprices of {}: {}",
        table_text(&lines),
        plural(counted.rows, "row", "rows"),
        counted.dimension,
        bytes(counted.stored_bytes),
        plural(counted.cold.calls, "query", "queries"),
        plural(counted.writes.calls, "write", "writes"),
        plural(counted.compactions.calls, "call of the compactor", "calls of the compactor"),
        prices.stated,
        prices.source,
    )
}
