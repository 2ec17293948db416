//! What a build costs and how well its leaves answer.
//!
//! `build rows ROWS DIMENSION MEMORY_MIB [SCRATCH_DIR]` builds generated rows, out of memory with a directory, and prints
//! its stages: milliseconds of CPU of all threads, and of the clock.
//! `build leaves BASE.parquet QUERIES.parquet [TARGET]` clusters the vectors of a file and prints how many leaves the true
//! neighbours of the queries lie in, and how many if each row had a copy in a second leaf (RFC 0011). `THREADS` is 2
//! unless it is set.
#![allow(clippy::print_stdout, clippy::disallowed_methods, clippy::disallowed_macros)]

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{
    ArrayRef, AsArray, FixedSizeListArray, Float32Array, RecordBatch, StringArray, new_null_array,
};
use arrow::datatypes::{DataType, Float32Type};
use bytes::Bytes;
use esker_compactor::build::{build_segment, build_segment_in_scratch};
use esker_compactor::{BuildOptions, Choice, DirectoryScratch, Target};
use esker_format::schema::{Column, ColumnType, Schema, Settings, VectorType, arrow_schema};
use esker_format::segment::index::Header;
use esker_format::{CollectionId, Name};
use esker_index::{Centroids, Exact, Metric, SplitMix, TopK, cluster, leaf_target, pick_bits};
use esker_store::Clock;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Neighbours asked for.
const K: usize = 10;
/// Rows whose copies are looked for.
const COPIED: usize = 10_000;
/// Rows of a generated batch.
const BATCH: usize = 4096;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["rows", rows, d, memory, rest @ ..] => {
            time(rows.parse()?, d.parse()?, memory.parse::<u64>()? << 20, rest.first().copied())
        }
        ["leaves", base, queries, rest @ ..] => {
            let (d, base) = vectors(base)?;
            let (_, queries) = vectors(queries)?;
            let target = rest.first().map_or(Ok(leaf_target((base.len() / d) as u64)), |t| t.parse())?;
            leaves(d, &base, &queries, target);
            Ok(())
        }
        _ => Err(
            "usage: build rows ROWS DIMENSION MEMORY_MIB [SCRATCH_DIR] | build leaves BASE QUERIES [TARGET]"
                .into(),
        ),
    }
}

fn threads() -> usize {
    std::env::var("THREADS").ok().and_then(|t| t.parse().ok()).unwrap_or(2)
}

/// Counts the CPU time of all threads as elapsed.
#[derive(Debug)]
struct Cpu(Instant);

fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks: u64 = stat.split_whitespace().skip(13).take(2).filter_map(|t| t.parse::<u64>().ok()).sum();
    Duration::from_millis(10 * ticks)
}

#[async_trait::async_trait]
impl Clock for Cpu {
    fn now_ms(&self) -> i64 {
        0
    }
    fn elapsed(&self) -> Duration {
        println!("{:>9} ms of the clock, {} MiB at most", self.0.elapsed().as_millis(), peak());
        cpu()
    }
    async fn sleep(&self, _: Duration) {}
}

/// Most resident memory so far, in MiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|k| k.parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn time(rows: usize, d: usize, memory: u64, scratch: Option<&str>) -> Result<()> {
    tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).without_time().with_target(false).init();
    let settings = Settings { dimension: d as u32, metric: "cosine".parse()?, vector_type: VectorType::F32 };
    let schema =
        Schema { columns: vec![Column { name: "text".to_owned(), kind: ColumnType::String, wide: false }] };
    let collection = CollectionId::new(Name::new("books")?, 1);
    let target = Target { collection: &collection, settings: &settings, schema: &schema };
    let options =
        BuildOptions { seed: 7, threads: threads(), copies: Choice::default(), basis: Choice::default() };
    let clock = Cpu(Instant::now());
    let points = Points::new(d, (rows / 400).max(4));
    let batches = (0..rows).step_by(BATCH).map(|at| {
        let batch = points.batch(at, BATCH.min(rows - at), &settings, &schema);
        batch.map_err(|e| esker_format::Error::internal(e.to_string()))
    });
    let (header, summary) = match scratch {
        None => {
            let batches = batches.collect::<std::result::Result<_, _>>()?;
            println!("generated: {} ms of CPU", cpu().as_millis());
            let built = build_segment(batches, target, options, &clock, &|_, _| {})?.ok_or("no rows")?;
            (built.header(), built.summary)
        }
        Some(directory) => {
            let scratch = DirectoryScratch::new(directory);
            let built =
                build_segment_in_scratch(batches, target, options, memory, &scratch, &clock, &|_, _| {})?
                    .ok_or("no rows")?;
            (built.header, built.summary)
        }
    };
    println!("in all: {} ms of CPU", cpu().as_millis());
    let header = Header::parse("index", header)?;
    println!(
        "{} leaves, index of {} bytes, CRC {:08x} of what opens it; {:?}",
        header.leaf_count(),
        summary.size,
        crc32c::crc32c(header.bytes()),
        header.calibration()
    );
    Ok(())
}

/// Rows around centres that lie around centres, with noise whose spectrum falls; row `n` is the same in any batch.
struct Points {
    d: usize,
    outer: Vec<f32>,
    inner: Vec<f32>,
    spectrum: Vec<f32>,
}

impl Points {
    fn new(d: usize, inner: usize) -> Self {
        let mut random = SplitMix::new(1);
        let spectrum: Vec<f32> = (0..d).map(|i| (1.0 + i as f32 / 24.0).powf(-0.7)).collect();
        let mut normals = |count: usize, scale: f32| -> Vec<f32> {
            (0..count * d).map(|at| scale * spectrum[at % d] * random.normal()).collect()
        };
        let outer = normals(inner.isqrt().max(2), 1.0);
        let inner = normals(inner, 0.8);
        Points { d, outer, inner, spectrum }
    }

    fn vectors(&self, first: usize, rows: usize) -> Vec<f32> {
        let d = self.d;
        let mut out = Vec::with_capacity(rows * d);
        for row in first..first + rows {
            let mut random = SplitMix::new(row as u64 + 1_000_003);
            let outer = random.below(self.outer.len() / d);
            // Centres are not equally popular.
            let inner = random.below(1 + random.clone().below(self.inner.len() / d));
            let spread = 0.3 + 0.6 * random.unit();
            for at in 0..d {
                // Bits that are set among 64 are near enough to normal.
                let noise = (random.next_u64().count_ones() as f32 - 32.0) / 4.0;
                out.push(
                    self.outer[outer * d + at]
                        + self.inner[inner * d + at]
                        + spread * self.spectrum[at] * noise,
                );
            }
        }
        out
    }

    fn batch(&self, first: usize, rows: usize, settings: &Settings, schema: &Schema) -> Result<RecordBatch> {
        let arrow = arrow_schema(settings, schema);
        let columns = arrow.fields().iter().map(|field| -> Result<ArrayRef> {
            Ok(match (field.name().as_str(), field.data_type()) {
                ("id", _) => Arc::new(StringArray::from_iter_values(
                    (first..first + rows).map(|r| format!("record-{r}")),
                )),
                ("text", _) => Arc::new(StringArray::from_iter_values(
                    (first..first + rows).map(|r| format!("the text of record {r}")),
                )),
                (_, DataType::FixedSizeList(item, d)) => Arc::new(FixedSizeListArray::try_new(
                    Arc::clone(item),
                    *d,
                    Arc::new(Float32Array::from(self.vectors(first, rows))),
                    None,
                )?),
                (_, kind) if field.is_nullable() => new_null_array(kind, rows),
                (_, kind) => {
                    let numbers = Float32Array::from_iter_values((0..rows).map(|r| (r + first) as f32));
                    arrow::compute::cast(&numbers, kind)?
                }
            })
        });
        Ok(RecordBatch::try_new(Arc::clone(&arrow), columns.collect::<Result<_>>()?)?)
    }
}

/// Dimension and vectors of a file with a column `vector` of lists.
fn vectors(path: &str) -> Result<(usize, Vec<f32>)> {
    let file = Bytes::from(std::fs::read(path)?);
    let mut out = Vec::new();
    let mut rows = 0;
    for batch in ParquetRecordBatchReaderBuilder::try_new(file)?.build()? {
        let batch = batch?;
        let column = batch.column_by_name("vector").ok_or("no column vector")?;
        let values = match column.data_type() {
            DataType::FixedSizeList(..) => column.as_fixed_size_list().values(),
            _ => column.as_list::<i32>().values(),
        };
        let values = arrow::compute::cast(values, &DataType::Float32)?;
        out.extend_from_slice(values.as_primitive::<Float32Type>().values());
        rows += batch.num_rows();
    }
    Ok((out.len() / rows.max(1), out))
}

/// Clusters and tells how many leaves must be probed on average for a share of the true neighbours.
fn leaves(d: usize, base: &[f32], queries: &[f32], target: usize) {
    let metric = Metric::Cosine;
    let start = cpu();
    let clustering = cluster(base, d, metric, target, 7, threads(), &|_| {});
    let spent = cpu() - start;
    let n = clustering.leaves;
    let bits = pick_bits(n, d);
    let encoded = Centroids::encode(bits, n, d, &clustering.centroids);
    let Ok(centroids) = Centroids::decode(bits, n, d, &encoded) else { return };
    let mut sizes = vec![0f64; n];
    clustering.assignment.iter().for_each(|leaf| sizes[*leaf as usize] += 1.0);
    let mut sorted = sizes.clone();
    sorted.sort_unstable_by(f64::total_cmp);
    println!(
        "{n} leaves of {}..{}..{} rows, {bits} bits, {} ms of CPU",
        sorted[0],
        sorted[n / 2],
        sorted[n - 1],
        spent.as_millis()
    );
    let second = |row: usize| {
        let own = clustering.assignment[row] as usize;
        second_leaf(&base[row * d..][..d], own, &clustering.centroids)
    };
    // Which leaves the copies go to is found for some rows, which stand for all.
    let every = (base.len() / d / COPIED).max(1);
    let mut with_copies = sizes.clone();
    (0..base.len() / d).step_by(every).for_each(|row| with_copies[second(row)] += every as f64);
    let truth = truth(d, base, queries, metric);
    let scores: Vec<Vec<f32>> = queries.chunks_exact(d).map(|q| centroids.scores(metric, q)).collect();
    for (what, sizes, copies) in [("each row once", &sizes, false), ("and a copy", &with_copies, true)] {
        let (mut places, mut rows_before) = (Vec::new(), Vec::new());
        for (scores, truth) in scores.iter().zip(&truth) {
            let mut order: Vec<usize> = (0..n).collect();
            order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
            let mut place = vec![(0.0, 0.0); n];
            let mut sum = 0.0;
            for (at, leaf) in order.into_iter().enumerate() {
                sum += sizes[leaf];
                place[leaf] = (at as f64 + 1.0, sum);
            }
            for row in truth {
                let own = place[clustering.assignment[*row as usize] as usize];
                let (at, rows) = match copies {
                    true => [own, place[second(*row as usize)]]
                        .into_iter()
                        .fold(own, |a, b| if b.0 < a.0 { b } else { a }),
                    false => own,
                };
                places.push(at);
                rows_before.push(rows);
            }
        }
        places.sort_unstable_by(f64::total_cmp);
        rows_before.sort_unstable_by(f64::total_cmp);
        let at =
            |values: &[f64], share: f64| values[((share * values.len() as f64).ceil() as usize).max(1) - 1];
        print!("{what}: probes (rows)");
        for share in [0.9, 0.95, 0.98, 0.99] {
            print!(" {share}: {:.0} ({:.0})", at(&places, share), at(&rows_before, share));
        }
        println!();
    }
}

/// The leaf that a copy of a row goes to: near, and on another side of it than its own (SOAR, arXiv 2404.00774, λ = 1).
fn second_leaf(row: &[f32], own: usize, centroids: &[f32]) -> usize {
    let dot = |a: &[f32], b: &[f32]| {
        let mut sums = [0f32; 16];
        for (a, b) in a.chunks(16).zip(b.chunks(16)) {
            sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
        }
        sums.iter().sum::<f32>()
    };
    let d = row.len();
    let length = dot(row, row).sqrt().max(f32::MIN_POSITIVE);
    let row: Vec<f32> = row.iter().map(|x| x / length).collect();
    let residual: Vec<f32> = row.iter().zip(&centroids[own * d..][..d]).map(|(x, c)| x - c).collect();
    let residual_length = dot(&residual, &residual).sqrt().max(f32::MIN_POSITIVE);
    let along = dot(&row, &residual);
    let mut best = (f32::INFINITY, own);
    for (leaf, c) in centroids.chunks_exact(d).enumerate().filter(|(leaf, _)| *leaf != own) {
        let parallel = (along - dot(c, &residual)) / residual_length;
        let loss = dot(c, c) - 2.0 * dot(&row, c) + parallel * parallel;
        if loss < best.0 {
            best = (loss, leaf);
        }
    }
    best.1
}

/// The true neighbours of each query.
fn truth(d: usize, base: &[f32], queries: &[f32], metric: Metric) -> Vec<Vec<u32>> {
    let mut found = vec![Vec::new(); queries.len() / d];
    let half = found.len().div_ceil(threads());
    std::thread::scope(|scope| {
        for (queries, found) in queries.chunks(half * d).zip(found.chunks_mut(half)) {
            scope.spawn(move || {
                for (query, found) in queries.chunks_exact(d).zip(found) {
                    let exact = Exact::new(metric, query);
                    let mut best = TopK::new(K);
                    for (ordinal, row) in (0u32..).zip(base.chunks_exact(d)) {
                        best.push(exact.f32(row), ordinal);
                    }
                    *found = best.into_sorted().into_iter().map(|(_, row)| row).collect();
                }
            });
        }
    });
    found
}
