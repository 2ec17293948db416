//! Exact search: every row is measured against every query.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float16Type, Float32Type};
use esker_format::schema::Settings;
use esker_format::{Error, Result};
use esker_index::{Exact, Metric, TopK};
use esker_query::filter::Filter;
use esker_query::{Reader, ScanRequest};
use esker_store::Meter;
use futures::TryStreamExt;
use half::f16;

use crate::output::Output;
use crate::progress::bar;
use crate::settings::threads;

/// Distances that differ by less, relative to their size and absolute, are ties.
const TIE: f32 = 1e-6;

/// The rows that a search may find, in memory.
pub struct Truth {
    metric: Metric,
    parts: Vec<Part>,
    /// Where an id's row is: part and row.
    places: HashMap<String, (usize, usize)>,
}

struct Part {
    vectors: Vectors,
    rows: usize,
    dimension: usize,
}

enum Vectors {
    F32(Vec<f32>),
    F16(Vec<f16>),
}

impl Truth {
    /// Scans the collection, or its rows that pass a filter.
    pub async fn read(
        reader: &Reader,
        filter: Option<&Filter>,
        settings: &Settings,
        output: &Output,
    ) -> Result<Self> {
        let metric = Metric::parse(settings.metric.as_str())
            .ok_or_else(|| Error::internal("the metric has no exact distance"))?;
        let meter = Meter::new();
        let total = reader.count(&meter, filter).await?.0;
        let request = ScanRequest {
            filter: filter.cloned(),
            columns: Some(vec!["id".to_owned(), "vector".to_owned()]),
            ..ScanRequest::default()
        };
        let mut scan = reader.scan(&meter, &request).await?.batches;
        let bar = bar(output, "reading", Some(total));
        let mut truth = Truth { metric, parts: Vec::new(), places: HashMap::new() };
        while let Some(batch) = scan.try_next().await? {
            bar.inc(batch.num_rows() as u64);
            truth.add(&batch)?;
        }
        bar.finish_and_clear();
        Ok(truth)
    }

    fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        let (ids, vectors) = (batch.column(0).as_string::<i32>(), batch.column(1).as_fixed_size_list());
        let part = self.parts.len();
        for row in 0..ids.len() {
            if self.places.insert(ids.value(row).to_owned(), (part, row)).is_some() {
                return Err(Error::internal(format!("the scan brought `{}` twice", ids.value(row))));
            }
        }
        let dimension = vectors.value_length() as usize;
        // Values of a slice are those of the whole array.
        let own = vectors.value_offset(0) as usize..vectors.value_offset(0) as usize + ids.len() * dimension;
        let vectors = match vectors.value_type() {
            DataType::Float16 => {
                Vectors::F16(vectors.values().as_primitive::<Float16Type>().values()[own].to_vec())
            }
            _ => Vectors::F32(vectors.values().as_primitive::<Float32Type>().values()[own].to_vec()),
        };
        self.parts.push(Part { vectors, rows: ids.len(), dimension });
        Ok(())
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.places.len()
    }

    /// For each query the distance of its k-th nearest row, or of the last if there are fewer.
    pub fn bounds(&self, queries: &[Vec<f32>], k: usize, output: &Output) -> Vec<f32> {
        let bar = bar(output, "exact search", Some(queries.len() as u64));
        let next = AtomicUsize::new(0);
        let work = || {
            let mut done = Vec::new();
            loop {
                let query = next.fetch_add(1, Ordering::Relaxed);
                let Some(vector) = queries.get(query) else { return done };
                done.push((query, self.bound(vector, k)));
                bar.inc(1);
            }
        };
        let parts: Vec<Vec<(usize, f32)>> = std::thread::scope(|scope| {
            let handles: Vec<_> = (0..threads()).map(|_| scope.spawn(work)).collect();
            let join = |h: std::thread::ScopedJoinHandle<'_, _>| {
                h.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            handles.into_iter().map(join).collect()
        });
        bar.finish_and_clear();
        let mut out = vec![f32::NEG_INFINITY; queries.len()];
        parts.into_iter().flatten().for_each(|(query, bound)| out[query] = bound);
        out
    }

    fn bound(&self, query: &[f32], k: usize) -> f32 {
        let (exact, mut best) = (Exact::new(self.metric, query), TopK::new(k));
        for (p, part) in self.parts.iter().enumerate() {
            for row in 0..part.rows {
                best.push(part.distance(&exact, row), (p, row));
            }
        }
        best.into_sorted().last().map_or(f32::NEG_INFINITY, |(distance, _)| *distance)
    }

    /// How many different rows among `ids` are at most `bound` away from the query.
    pub fn within(&self, query: &[f32], ids: &[String], bound: f32) -> usize {
        let exact = Exact::new(self.metric, query);
        let most = bound + TIE * bound.abs().max(1.0);
        let different: HashSet<&String> = ids.iter().collect();
        let near = |id: &&&String| {
            self.places
                .get(id.as_str())
                .is_some_and(|(part, row)| self.parts[*part].distance(&exact, *row) <= most)
        };
        different.iter().filter(near).count()
    }
}

impl Part {
    fn distance(&self, exact: &Exact, row: usize) -> f32 {
        let own = row * self.dimension..(row + 1) * self.dimension;
        match &self.vectors {
            Vectors::F32(all) => exact.f32(&all[own]),
            Vectors::F16(all) => exact.f16(&all[own]),
        }
    }
}
