use std::sync::Mutex;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, Float32Array, Float64Array, Int64Array, RecordBatchOptions,
    StringArray, TimestampMillisecondArray, UInt32Array,
};
use arrow::compute::{filter_record_batch, take_record_batch};
use arrow::datatypes::{DataType, Field, Float16Type, Float32Type, Schema as ArrowSchema};
use arrow::util::pretty::pretty_format_batches;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use esker_format::schema::{Column, ColumnType, Metric, VectorType, arrow_schema};
use futures::stream;
use half::f16;

use super::*;

mod contract;
mod explain;
mod growth;
mod nulls;
mod refusals;
mod search;

const DIMENSION: usize = 4;

/// Rows in memory, searched exactly; remembers how it was asked.
struct Memory {
    settings: Settings,
    schema: Schema,
    rows: RecordBatch,
    asked: Mutex<Vec<String>>,
}

impl Memory {
    fn distance(&self, query: &[f32], row: usize) -> f32 {
        let vectors = self.rows.column(1).as_fixed_size_list().value(row);
        let v: Vec<f64> = match vectors.as_primitive_opt::<Float32Type>() {
            Some(v) => v.values().iter().map(|x| f64::from(*x)).collect(),
            None => {
                vectors.as_primitive::<Float16Type>().values().iter().map(|x| f64::from(x.to_f32())).collect()
            }
        };
        let q: Vec<f64> = query.iter().map(|x| f64::from(*x)).collect();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
        let d = match self.settings.metric {
            Metric::Cosine => 1.0 - dot(&q, &v) / (dot(&q, &q).sqrt() * dot(&v, &v).sqrt()),
            Metric::L2 => q.iter().zip(&v).map(|(x, y)| (x - y) * (x - y)).sum::<f64>().sqrt(),
            Metric::Dot => -dot(&q, &v),
        };
        d as f32
    }

    fn filtered(&self, filter: Option<&Resolved>) -> Result<RecordBatch> {
        let Some(filter) = filter else { return Ok(self.rows.clone()) };
        filter_record_batch(&self.rows, &filter.mask(&self.rows)?).map_err(|e| Error::internal(e.to_string()))
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

#[async_trait]
impl Table for Memory {
    fn settings(&self) -> &Settings {
        &self.settings
    }

    fn schema(&self) -> &Schema {
        &self.schema
    }

    fn arrow(&self) -> SchemaRef {
        self.rows.schema()
    }

    async fn scan(
        &self,
        projection: &[usize],
        filter: Option<&Resolved>,
        limit: Option<usize>,
    ) -> Result<SendableRecordBatchStream> {
        let shown = filter.map_or("-".to_owned(), |f| f.to_string());
        self.asked.lock().unwrap().push(format!("scan {projection:?} filter {shown} limit {limit:?}"));
        let rows = self.filtered(filter)?;
        let rows = rows.slice(0, limit.unwrap_or(usize::MAX).min(rows.num_rows()));
        let rows = rows.project(projection).map_err(|e| Error::internal(e.to_string()))?;
        Ok(Box::pin(RecordBatchStreamAdapter::new(rows.schema(), stream::once(async { Ok(rows) }))))
    }

    async fn search(
        &self,
        query: &[f32],
        k: usize,
        filter: Option<&Resolved>,
        projection: &[usize],
    ) -> Result<RecordBatch> {
        let shown = filter.map_or("-".to_owned(), |f| f.to_string());
        self.asked
            .lock()
            .unwrap()
            .push(format!("search {query:?} k {k} columns {projection:?} filter {shown}"));
        let mask = filter.map(|f| f.mask(&self.rows)).transpose()?;
        let mut hits: Vec<(f32, u32)> = (0..self.rows.num_rows())
            .filter(|i| mask.as_ref().is_none_or(|m| m.value(*i)))
            .map(|i| (self.distance(query, i), i as u32))
            .collect();
        hits.sort_by(|a, b| a.partial_cmp(b).unwrap());
        hits.truncate(k);
        let at = UInt32Array::from_iter_values(hits.iter().map(|h| h.1));
        let rows = take_record_batch(&self.rows, &at).unwrap().project(projection).unwrap();
        let mut fields: Vec<_> = rows.schema().fields().iter().cloned().collect();
        fields.push(Arc::new(Field::new("distance", DataType::Float32, false)));
        let mut columns = rows.columns().to_vec();
        columns.push(Arc::new(Float32Array::from_iter_values(hits.iter().map(|h| h.0))));
        let options = RecordBatchOptions::new().with_row_count(Some(hits.len()));
        Ok(RecordBatch::try_new_with_options(Arc::new(ArrowSchema::new(fields)), columns, &options).unwrap())
    }

    fn row_count(&self) -> Option<usize> {
        Some(self.rows.num_rows())
    }

    fn explain(&self) -> String {
        "in memory".to_owned()
    }
}

struct Tables(Vec<(&'static str, Arc<Memory>)>);

#[async_trait]
impl Catalog for Tables {
    async fn table(&self, name: &str) -> Result<Option<Arc<dyn Table>>> {
        if name == "broken" {
            return Err(Error::new(Kind::Unavailable, "the store did not answer in 3 s"));
        }
        Ok(self.0.iter().find(|(n, _)| *n == name).map(|(_, t)| t.clone() as Arc<dyn Table>))
    }

    async fn names(&self) -> Result<Vec<String>> {
        Ok(self.0.iter().map(|(n, _)| (*n).to_owned()).collect())
    }
}

/// Row i of a collection: vectors on a spiral, so that no two distances are equal.
fn vector(i: usize) -> [f32; DIMENSION] {
    let t = i as f32 * 0.37;
    [t.cos() * (1.0 + t), t.sin() * (1.0 + t), 0.5 + t * 0.1, -0.25 * t]
}

fn collection(metric: Metric, vector_type: VectorType, rows: usize) -> Arc<Memory> {
    let settings = Settings { dimension: DIMENSION as u32, metric, vector_type };
    let column = |name: &str, kind| Column { name: name.to_owned(), kind, wide: false };
    let schema = Schema {
        columns: vec![
            column("section", ColumnType::String),
            column("year", ColumnType::Int),
            column("Rating", ColumnType::Float),
        ],
    };
    let full = arrow_schema(&settings, &schema);
    let arrow = Arc::new(full.project(&(0..full.fields().len() - 1).collect::<Vec<_>>()).unwrap());
    let flat = (0..rows).flat_map(vector);
    let items: ArrayRef = match vector_type {
        VectorType::F32 => Arc::new(Float32Array::from_iter_values(flat)),
        VectorType::F16 => Arc::new(arrow::array::Float16Array::from_iter_values(flat.map(f16::from_f32))),
    };
    let DataType::FixedSizeList(item, _) = arrow.field(1).data_type() else { unreachable!() };
    let time = || {
        Arc::new(
            TimestampMillisecondArray::from_iter_values((0..rows as i64).map(|i| i * 1000))
                .with_timezone("UTC"),
        )
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values((0..rows).map(|i| format!("d{i}")))),
        Arc::new(FixedSizeListArray::new(item.clone(), DIMENSION as i32, items, None)),
        Arc::new((0..rows).map(|i| (i % 5 != 4).then(|| ["a", "b", "c"][i % 3])).collect::<StringArray>()),
        Arc::new((0..rows).map(|i| (i % 7 != 6).then_some(2000 + i as i64)).collect::<Int64Array>()),
        Arc::new((0..rows).map(|i| Some(i as f64 / 4.0)).collect::<Float64Array>()),
        time(),
        time(),
        time(),
        Arc::new(TimestampMillisecondArray::new_null(rows).with_timezone("UTC")),
        Arc::new(Int64Array::from(vec![1; rows])),
        Arc::new(Int64Array::from_iter_values(1..=rows as i64)),
    ];
    let rows = RecordBatch::try_new(arrow, columns).unwrap();
    Arc::new(Memory { settings, schema, rows, asked: Mutex::default() })
}

/// `docs` (cosine), `flat` (l2), `dots` (dot, f16), each of 40 rows.
fn tables() -> Arc<Tables> {
    Arc::new(Tables(vec![
        ("docs", collection(Metric::Cosine, VectorType::F32, 40)),
        ("flat", collection(Metric::L2, VectorType::F32, 40)),
        ("dots", collection(Metric::Dot, VectorType::F16, 40)),
        ("many-words", collection(Metric::Cosine, VectorType::F32, 3)),
    ]))
}

const Q: [f32; DIMENSION] = [1.0, 2.0, 0.5, -0.5];

fn q() -> Param {
    Param::Vector(Q.to_vec())
}

async fn run_on(catalog: Arc<Tables>, text: &str, params: &[Param]) -> Result<QueryOutput> {
    query(catalog, text, params, Options::default()).await
}

async fn run(text: &str) -> QueryOutput {
    run_on(tables(), text, &[q()]).await.unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn table(output: &QueryOutput) -> String {
    pretty_format_batches(&output.batches).unwrap().to_string()
}

/// The first column as text.
fn first(output: &QueryOutput) -> Vec<String> {
    let text = |b: &RecordBatch| arrow::compute::cast(b.column(0), &DataType::Utf8).unwrap();
    output
        .batches
        .iter()
        .flat_map(|b| {
            text(b).as_string::<i32>().iter().map(|v| v.unwrap_or("-").to_owned()).collect::<Vec<_>>()
        })
        .collect()
}
