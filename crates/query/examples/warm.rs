//! What a search in memory costs, where its time goes, and how well it answers.
//!
//! `warm STORE COLLECTION FOLDER [SECONDS [MIN_RECALL…]]`: FOLDER has `queries.parquet` and `ground_truth.json`, as the
//! generated sets of the benchmarks do. One thread; rounds over all queries, the recalls in turn.
#![allow(clippy::print_stdout, clippy::disallowed_methods, clippy::disallowed_macros)]

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Float32Type};
use bytes::Bytes;
use esker_format::Name;
use esker_query::{Engine, Options, Search};
use esker_store::{Client, Location, Meter, Seams, Store, StoreEnv, open};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Neighbours asked for.
const K: usize = 10;

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [url, collection, folder, rest @ ..] = args.as_slice() else {
        return Err("usage: warm STORE COLLECTION FOLDER [SECONDS [MIN_RECALL…]]".into());
    };
    let seconds = rest.first().map_or(Ok(5.0), |s| s.parse::<f64>())?;
    let mut recalls = rest.iter().skip(1).map(|r| r.parse()).collect::<std::result::Result<Vec<f32>, _>>()?;
    if recalls.is_empty() {
        recalls = vec![0.9, 0.95, 0.98];
    }
    let queries = vectors(&format!("{folder}/queries.parquet"))?;
    let truth = truth(&format!("{folder}/ground_truth.json"))?;
    let backend = open(&Location::parse(url)?, &StoreEnv::default(), false)?;
    let engine = Engine::new(Arc::new(Store::new(Client::new(backend, Seams::system()))), Options::default());
    let reader = engine.collection(&Name::new(collection)?);
    let meter = Meter::new();
    let start = Instant::now();
    let warm = reader.warm(&meter).await?;
    println!("{} rows, read in {:.1} s", warm.rows(), start.elapsed().as_secs_f64());
    for min_recall in &recalls {
        let vectors = queries.iter().take(100).cloned().collect();
        let search = Search { vectors, k: K, min_recall: *min_recall, explain: true, ..Search::default() };
        let Some(explain) = reader.search(&meter, &search).await?.explain else { continue };
        let each = |total: u64| total as f64 / queries.len().min(100) as f64;
        println!(
            "asked for {min_recall}: {:.1} leaves, {:.0} codes, {:.1} rows reranked",
            each(explain.leaves_probed),
            each(explain.codes_scanned),
            each(explain.rows_reranked)
        );
    }
    let mut times = vec![(Duration::ZERO, Vec::new()); recalls.len()];
    let start = Instant::now();
    let mut rounds = 0;
    while rounds == 0 || start.elapsed().as_secs_f64() < seconds {
        for (min_recall, (sum, found)) in recalls.iter().zip(&mut times) {
            found.clear();
            for query in &queries {
                let began = Instant::now();
                let hits = warm.search(query, K, *min_recall, None)?;
                *sum += began.elapsed();
                found.push(hits);
            }
        }
        rounds += 1;
    }
    for (min_recall, (sum, found)) in recalls.iter().zip(&times) {
        let good = found.iter().zip(&truth).map(|(hits, truth)| {
            hits.iter().filter(|hit| truth[..K].iter().any(|id| id == warm.id(hit))).count()
        });
        let recall = good.sum::<usize>() as f64 / (K * found.len()) as f64;
        let each = sum.as_secs_f64() / (rounds * queries.len()) as f64;
        println!("asked for {min_recall}: recall {recall:.4}, {:.0}/s, {:.1} µs", 1.0 / each, each * 1e6);
    }
    Ok(())
}

/// The vectors of a file with a column `vector` of lists.
fn vectors(path: &str) -> Result<Vec<Vec<f32>>> {
    let file = Bytes::from(std::fs::read(path)?);
    let mut out = Vec::new();
    for batch in ParquetRecordBatchReaderBuilder::try_new(file)?.build()? {
        let batch = batch?;
        let column = batch.column_by_name("vector").ok_or("no column vector")?;
        let values = match column.data_type() {
            DataType::FixedSizeList(..) => column.as_fixed_size_list().values(),
            _ => column.as_list::<i32>().values(),
        };
        let values = arrow::compute::cast(values, &DataType::Float32)?;
        let values = values.as_primitive::<Float32Type>().values();
        out.extend(values.chunks(values.len() / batch.num_rows().max(1)).map(<[f32]>::to_vec));
    }
    Ok(out)
}

/// The ids of the nearest rows of each query, nearest first.
fn truth(path: &str) -> Result<Vec<Vec<String>>> {
    let all: serde_json::Value = serde_json::from_slice(&std::fs::read(path)?)?;
    Ok(serde_json::from_value(all["none"]["ids"].clone())?)
}
