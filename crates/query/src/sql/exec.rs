//! Reads a collection for DataFusion: one partition, one call of [`Table::scan`] or [`Table::search`].

use std::fmt;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, Statistics};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties,
    ReplaceChildrenOptions,
};
use futures::{TryStreamExt, stream};

use super::provider::Access;
use super::{Table, errors};
use crate::filter::Resolved;

/// The leaf of every plan.
pub(super) struct CollectionExec {
    name: String,
    table: Arc<dyn Table>,
    access: Access,
    /// Columns of the provider's schema, in output order.
    projection: Vec<usize>,
    filter: Option<Arc<Resolved>>,
    limit: Option<usize>,
    properties: Arc<PlanProperties>,
}

impl CollectionExec {
    pub fn new(
        name: String,
        table: Arc<dyn Table>,
        access: Access,
        projection: Vec<usize>,
        schema: SchemaRef,
        filter: Option<Resolved>,
        limit: Option<usize>,
    ) -> Self {
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        ));
        CollectionExec { name, table, access, projection, filter: filter.map(Arc::new), limit, properties }
    }

    /// Whether the index answers it.
    pub fn searches(&self) -> bool {
        matches!(self.access, Access::Search { .. })
    }
}

impl fmt::Debug for CollectionExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CollectionExec")
            .field("name", &self.name)
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}

impl DisplayAs for CollectionExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.access {
            Access::Search { k, .. } => {
                write!(f, "VectorSearch: {}, metric={}, k={k}", self.name, self.table.settings().metric)?;
            }
            Access::Scan { note: None } => write!(f, "Scan: {}, exact scan", self.name)?,
            Access::Scan { note: Some(note) } => write!(f, "Scan: {}, exact scan ({note})", self.name)?,
        }
        let schema = self.schema();
        let columns: Vec<&str> = schema.fields().iter().map(|c| c.name().as_str()).collect();
        write!(f, ", columns=[{}]", columns.join(", "))?;
        if let Some(filter) = &self.filter {
            write!(f, ", filter={filter}")?;
        }
        if let Some(limit) = self.limit {
            write!(f, ", limit={limit}")?;
        }
        let table = self.table.explain();
        if table.is_empty() { Ok(()) } else { write!(f, ", {table}") }
    }
}

impl ExecutionPlan for CollectionExec {
    fn name(&self) -> &str {
        "CollectionExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, _: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let schema = self.schema();
        let rows: SendableRecordBatchStream = match &self.access {
            Access::Scan { .. } => {
                let (table, filter, limit) = (self.table.clone(), self.filter.clone(), self.limit);
                let projection = self.projection.clone();
                let opened = async move {
                    table.scan(&projection, filter.as_deref(), limit).await.map_err(errors::into_datafusion)
                };
                Box::pin(RecordBatchStreamAdapter::new(schema, stream::once(opened).try_flatten()))
            }
            Access::Search { query, k } => {
                let (table, filter, k) =
                    (self.table.clone(), self.filter.clone(), self.limit.map_or(*k, |l| l.min(*k)));
                let (projection, query, output) = (self.projection.clone(), query.clone(), schema.clone());
                let found = async move {
                    let distance = table.arrow().fields().len();
                    let columns: Vec<usize> = projection.iter().copied().filter(|c| *c != distance).collect();
                    let hits = table
                        .search(&query, k, filter.as_deref(), &columns)
                        .await
                        .map_err(errors::into_datafusion)?;
                    arrange(&hits, &projection, distance, output)
                };
                Box::pin(RecordBatchStreamAdapter::new(schema, stream::once(found)))
            }
        };
        let most = context.session_config().batch_size();
        let (schema, rows) = (rows.schema(), rows.map_ok(move |batch| stream::iter(slices(batch, most))));
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows.try_flatten())))
    }

    fn statistics_from_inputs(&self, _: &[Arc<Statistics>], _: &StatisticsArgs) -> Result<Arc<Statistics>> {
        let mut statistics = Statistics::new_unknown(&self.schema());
        if let (Access::Scan { .. }, None, None, Some(rows)) =
            (&self.access, &self.filter, self.limit, self.table.row_count())
        {
            statistics.num_rows = Precision::Exact(rows);
        }
        Ok(Arc::new(statistics))
    }
}

/// A batch in batches of at most so many rows.
fn slices(batch: RecordBatch, most: usize) -> impl Iterator<Item = Result<RecordBatch>> {
    let rows = batch.num_rows();
    (0..rows.max(1)).step_by(most.max(1)).map(move |at| Ok(batch.slice(at, most.min(rows - at))))
}

/// Hits hold their columns, then the distance; the plan wants them in its own order.
fn arrange(
    hits: &RecordBatch,
    projection: &[usize],
    distance: usize,
    schema: SchemaRef,
) -> Result<RecordBatch> {
    let (last, mut next) = (hits.num_columns() - 1, 0..);
    let order = projection.iter().map(|c| if *c == distance { Some(last) } else { next.next() });
    let columns = order.flatten().map(|c| hits.column(c).clone()).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(hits.num_rows()));
    Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
}
