//! A collection as DataFusion sees it: scanned exactly, or, where [`rule`](super::rule) says so, searched.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema as ArrowSchema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;

use super::exec::CollectionExec;
use super::{Table, errors};
use crate::filter::Resolved;

/// Name of the column that a search adds: the metric's distance. No table column can have it.
pub(super) const DISTANCE: &str = "__distance";

/// How rows are produced.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Access {
    /// Every row that passes the filter. The note says why a search by distance could not use the index.
    Scan { note: Option<String> },
    /// The `k` nearest rows to `query` that pass the filter, with their [`DISTANCE`].
    Search { query: Vec<f32>, k: usize },
}

/// A table and how it is read.
pub(super) struct Collection {
    pub name: String,
    pub table: Arc<dyn Table>,
    pub access: Access,
    schema: SchemaRef,
}

impl std::fmt::Debug for Collection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Collection")
            .field("name", &self.name)
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}

impl Collection {
    pub fn new(name: &str, table: Arc<dyn Table>, access: Access) -> Self {
        let mut schema = table.arrow();
        if matches!(access, Access::Search { .. }) {
            let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
            fields.push(Arc::new(Field::new(DISTANCE, DataType::Float32, false)));
            schema = Arc::new(ArrowSchema::new(fields));
        }
        Collection { name: name.to_owned(), table, access, schema }
    }

    /// The same collection, read otherwise.
    pub fn with(&self, access: Access) -> Self {
        Self::new(&self.name, self.table.clone(), access)
    }

    fn resolve(&self, filter: Expr) -> esker_format::Result<Resolved> {
        Resolved::from_expr(filter, self.table.settings(), self.table.schema())
    }
}

#[async_trait]
impl TableProvider for Collection {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    /// What a filter of ours can say is ours to evaluate; the rest stays above the scan.
    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(filters
            .iter()
            .map(|f| match self.resolve((*f).clone()) {
                Ok(_) => TableProviderFilterPushDown::Exact,
                Err(_) => TableProviderFilterPushDown::Unsupported,
            })
            .collect())
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let filter = conjunction(filters.iter().cloned())
            .map(|f| self.resolve(f))
            .transpose()
            .map_err(errors::into_datafusion)?;
        let projection = projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let schema = Arc::new(self.schema.project(&projection)?);
        let plan = CollectionExec::new(
            self.name.clone(),
            self.table.clone(),
            self.access.clone(),
            projection,
            schema,
            filter,
            limit,
        );
        Ok(Arc::new(plan))
    }
}
