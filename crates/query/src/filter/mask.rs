//! Evaluates a condition on rows that are at hand.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::{cast, prep_null_mask_filter, unary};
use arrow::datatypes::{DataType, Float64Type, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::execution::context::ExecutionProps;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use esker_format::{Error, Result};

use super::columns::Columns;
use crate::sql::errors;

/// A condition ready to run on batches.
#[derive(Debug, Clone)]
pub(super) struct Condition {
    /// The columns it reads, in table order.
    pub schema: SchemaRef,
    physical: Arc<dyn PhysicalExpr>,
}

impl Condition {
    pub fn new(expr: &Expr, columns: &Columns) -> Result<Self> {
        let used: HashSet<&str> = expr.column_refs().iter().map(|c| c.name.as_str()).collect();
        let schema = columns.project(|name| used.contains(name));
        let planned = DFSchema::try_from(schema.as_ref().clone()).and_then(|df| {
            create_physical_expr(expr, &df, &ExecutionProps::new(), &PhysicalPlanningContext::default())
        });
        Ok(Condition { schema, physical: planned.map_err(|e| errors::from_datafusion("filter", e))? })
    }

    /// Where the condition is true: neither false nor null.
    pub fn mask(&self, batch: &RecordBatch) -> Result<BooleanArray> {
        let run = || {
            let columns = self
                .schema
                .fields()
                .iter()
                .map(|f| column(batch, f.name(), f.data_type()))
                .collect::<Result<_, _>>()?;
            let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            let input = RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?;
            self.physical.evaluate(&input)?.into_array(batch.num_rows())
        };
        let truth: ArrayRef = run().map_err(|e| errors::from_datafusion("filter", e))?;
        match truth.as_boolean_opt() {
            Some(truth) if truth.null_count() > 0 => Ok(prep_null_mask_filter(truth)),
            Some(truth) => Ok(truth.clone()),
            // A condition that is always null.
            None if truth.data_type().is_null() => Ok(BooleanArray::from(vec![false; truth.len()])),
            None => Err(Error::internal("a filter's condition is not boolean")),
        }
    }
}

/// A column in the type of today's schema: rows written under an older one lack it or hold whole numbers.
fn column(batch: &RecordBatch, name: &str, wanted: &DataType) -> datafusion::error::Result<ArrayRef> {
    let found = match batch.column_by_name(name) {
        None => new_null_array(wanted, batch.num_rows()),
        Some(found) if found.data_type() == wanted => found.clone(),
        Some(found) => cast(found, wanted)?,
    };
    match found.as_primitive_opt::<Float64Type>() {
        // Arrow orders −0 before 0; to SQL they are equal.
        Some(floats) => Ok(Arc::new(unary::<_, _, Float64Type>(floats, |v| v + 0.0))),
        None => Ok(found),
    }
}
