//! Collections as SQL tables: each query sees every table at one state.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Array, RecordBatch};
use arrow::compute::interleave_record_batch;
use arrow::datatypes::{DataType, Field, Schema as ArrowSchema, SchemaRef};
use async_trait::async_trait;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use esker_format::schema::{Schema, Settings};
use esker_format::{Kind, Name, Result};
use esker_store::Meter;
use futures::{FutureExt, TryStreamExt};

use crate::engine::load::{Loaded, Need};
use crate::engine::nearest::tail_row;
use crate::engine::scan::{bad_batch, segment_batch, table_schema, tail_batch};
use crate::engine::see::{Access, View};
use crate::engine::{Engine, Reader};
use crate::filter::Resolved;
use crate::search::{Search, TAIL};
use crate::sql::{Catalog, Table};

impl Engine {
    /// The collections as tables of one SQL query. `meter` counts what it costs.
    pub fn catalog(&self, meter: &Meter) -> Arc<dyn Catalog> {
        Arc::new(Collections { engine: self.clone(), meter: meter.clone() })
    }
}

struct Collections {
    engine: Engine,
    meter: Meter,
}

#[async_trait]
impl Catalog for Collections {
    async fn table(&self, name: &str) -> Result<Option<Arc<dyn Table>>> {
        let Ok(name) = Name::new(name) else { return Ok(None) };
        match self.engine.collection(&name).table(&self.meter).await {
            Ok(table) => Ok(Some(Arc::new(table))),
            Err(e) if matches!(e.kind(), Kind::NotFound | Kind::Gone) => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn names(&self) -> Result<Vec<String>> {
        let names = self.engine.names(&self.meter).await?;
        Ok(names.into_iter().map(|n| n.to_string()).collect())
    }
}

/// A collection at one state.
struct Snapshot {
    reader: Reader,
    meter: Meter,
    view: View,
    /// Segments without a filter.
    loaded: Loaded,
    arrow: SchemaRef,
    now_ms: i64,
}

impl Reader {
    async fn table(&self, meter: &Meter) -> Result<Snapshot> {
        let now_ms = self.client().seams().clock.now_ms();
        let (view, loaded) = self
            .see(meter, Access::default(), |draft| {
                self.load(draft, Need { now_ms, ..Need::default() }).boxed()
            })
            .await?;
        let arrow = table_schema(&view.manifest.settings, &view.schema);
        Ok(Snapshot { reader: self.clone(), meter: meter.clone(), view, loaded, arrow, now_ms })
    }
}

impl Snapshot {
    async fn load(&self, need: Need<'_>) -> Result<Loaded> {
        let mut draft = self.view.draft.clone();
        draft.meter = self.meter.fork();
        self.reader.load(draft, need).await
    }
}

#[async_trait]
impl Table for Snapshot {
    fn settings(&self) -> &Settings {
        &self.view.manifest.settings
    }

    fn schema(&self) -> &Schema {
        &self.view.schema
    }

    fn arrow(&self) -> SchemaRef {
        self.arrow.clone()
    }

    async fn scan(
        &self,
        projection: &[usize],
        filter: Option<&Resolved>,
        limit: Option<usize>,
    ) -> Result<SendableRecordBatchStream> {
        let loaded = match filter {
            None => self.loaded.clone(),
            Some(_) => self.load(Need { resolved: filter, now_ms: self.now_ms, ..Need::default() }).await?,
        };
        let view = self.view.clone();
        let (schema, batches) =
            self.reader.scan_view(&self.meter, view, loaded, projection, limit, self.now_ms).await?;
        let batches = batches.map_err(|e| DataFusionError::External(Box::new(e)));
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, batches)))
    }

    async fn search(
        &self,
        query: &[f32],
        k: usize,
        filter: Option<&Resolved>,
        projection: &[usize],
    ) -> Result<RecordBatch> {
        let (vectors, min_recall) = ([query.to_vec()], Search::default().min_recall);
        let need = Need {
            resolved: filter,
            now_ms: self.now_ms,
            vectors: &vectors,
            codes: true,
            min_recall,
            ..Need::default()
        };
        let loaded = self.load(need).await?;
        let scene = self.reader.scene(&self.meter, &self.view, &loaded, k, min_recall, self.now_ms).await?;
        let found = self.reader.nearest(&self.meter.fork(), &scene, &loaded.asked[0]).await?;
        let schema = Arc::new(self.arrow.project(projection).map_err(bad_batch)?);
        // One batch per source, then rows in the order of their distance.
        let (mut batches, mut indices) = (Vec::new(), vec![(0, 0); found.rows.len()]);
        for number in (0..loaded.parts.len() as u32).chain([TAIL]) {
            let own: Vec<usize> = (0..found.rows.len()).filter(|i| found.rows[*i].1.0 == number).collect();
            // Of a segment without hits nothing may have been read.
            if own.is_empty() && number != TAIL {
                continue;
            }
            for (row, i) in own.iter().enumerate() {
                indices[*i] = (batches.len(), row);
            }
            let places = own.iter().map(|i| found.rows[*i].1.1);
            batches.push(if number == TAIL {
                tail_batch(&self.view, &schema, &places.map(tail_row).collect::<Vec<_>>())?
            } else {
                let (part, (vectors, payload)) =
                    (&loaded.parts[number as usize], &found.read[number as usize]);
                let ordinals: Vec<u32> = places.map(|at| at as u32).collect();
                let vector = |o| vectors.get(o).or_else(|| part.segment.held_vector(o));
                segment_batch(&self.view, part, &schema, &ordinals, payload, vector)?
            });
        }
        let sources: Vec<&RecordBatch> = batches.iter().collect();
        let rows = interleave_record_batch(&sources, &indices).map_err(bad_batch)?;
        let distances: ArrayRef =
            Arc::new(Float32Array::from_iter_values(found.rows.iter().map(|(d, _)| *d)));
        let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
        fields.push(Arc::new(Field::new("distance", DataType::Float32, false)));
        let mut columns = rows.columns().to_vec();
        columns.push(distances);
        RecordBatch::try_new(Arc::new(ArrowSchema::new(fields)), columns).map_err(bad_batch)
    }

    fn row_count(&self) -> Option<usize> {
        if self.view.tail.ids() > 0 {
            return None;
        }
        let rows = self.loaded.parts.iter().map(|p| p.rows.count(p.segment.row_count())).sum::<u64>();
        usize::try_from(rows).ok()
    }

    fn explain(&self) -> String {
        let (m, tail) = (&self.view.manifest, self.view.tail.ids());
        let segments = m.segments.len();
        format!(
            "version={}, position={}, segments={segments}, tail_ids={tail}",
            m.version, self.view.position
        )
    }
}
