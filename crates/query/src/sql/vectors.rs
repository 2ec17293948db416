//! Vectors in a query: parameters and list literals become constants of f32, checked against the column they meet.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray, Float32Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float32Type};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Cast, Expr, LogicalPlan};
use esker_format::{Error, Result};

use super::distance::{self, Function, dimension};
use super::errors;
use crate::filter::suggest::ident;

/// A constant vector.
pub(super) fn constant(values: &[f32]) -> ScalarValue {
    let items: ArrayRef = Arc::new(Float32Array::from(values.to_vec()));
    let field = Arc::new(Field::new("item", DataType::Float32, false));
    ScalarValue::FixedSizeList(Arc::new(FixedSizeListArray::new(field, values.len() as i32, items, None)))
}

/// The elements of a constant vector of f32.
pub(super) fn elements(value: &ScalarValue) -> Option<Vec<f32>> {
    match value {
        ScalarValue::FixedSizeList(list) if list.len() == 1 && list.is_valid(0) => {
            Some(list.value(0).as_primitive_opt::<Float32Type>()?.values().to_vec())
        }
        _ => None,
    }
}

/// Turns list literals under distance functions into constants and checks them: dimension, finite, not zero under
/// cosine. Runs on the plan as written, where a message can still name the column.
pub(super) fn fold(plan: LogicalPlan) -> Result<LogicalPlan> {
    let folded = plan.transform_up_with_subqueries(|node| {
        let mut schema = DFSchema::empty();
        for input in node.inputs() {
            schema.merge(input.schema());
        }
        let names = NamePreserver::new(&node);
        node.map_expressions(|expr| {
            let name = names.save(&expr);
            let folded = expr.transform_up(|e| call(e, &schema).map_err(errors::into_datafusion))?;
            Ok(folded.update_data(|e| name.restore(e)))
        })?
        .map_data(LogicalPlan::recompute_schema)
    });
    Ok(folded.map_err(|e| errors::from_datafusion("query", e))?.data)
}

fn call(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let Some((function, a, b)) = distance::call(&expr) else { return Ok(Transformed::no(expr)) };
    let folded = [argument(function, a, b, schema)?, argument(function, b, a, schema)?];
    if folded.iter().all(Option::is_none) {
        return Ok(Transformed::no(expr));
    }
    let Expr::ScalarFunction(ScalarFunction { func, args }) = expr else { return Ok(Transformed::no(expr)) };
    let args = args
        .into_iter()
        .zip(folded)
        .map(|(arg, folded)| folded.map_or(arg, |values| Expr::Literal(constant(&values), None)))
        .collect();
    Ok(Transformed::yes(Expr::ScalarFunction(ScalarFunction { func, args })))
}

/// The elements of `arg` if it is a constant list, checked against what it is compared with.
fn argument(function: Function, arg: &Expr, other: &Expr, schema: &DFSchema) -> Result<Option<Vec<f32>>> {
    let name = function.name();
    if matches!(arg, Expr::Literal(v, _) if v.is_null()) {
        return Err(Error::invalid("query", format!("{name} was given NULL instead of a vector")));
    }
    let Some(values) = literal(arg) else { return Ok(None) };
    if let Expr::Column(column) = other {
        check_dimension(name, column, values.len(), schema)?;
    }
    if let Some(at) = values.iter().position(|v| !v.is_finite()) {
        let message = format!("{name}: element {at} of the vector is not a finite 32-bit number");
        return Err(Error::invalid("query", message));
    }
    if function == Function::Cosine && values.iter().all(|v| *v == 0.0) {
        return Err(Error::invalid("query", format!("{name}: a vector of zeros has no direction")));
    }
    Ok(Some(values))
}

fn check_dimension(name: &str, column: &Column, given: usize, schema: &DFSchema) -> Result<()> {
    let Ok((_, field)) = schema.qualified_field_from_column(column) else { return Ok(()) };
    match dimension(field.data_type()) {
        Some(d) if d as usize != given => {
            let column = ident(&column.name);
            let message = format!("{name}: column {column} has {d} dimensions, the vector given has {given}");
            Err(Error::invalid("query", message))
        }
        _ => Ok(()),
    }
}

/// A list literal, a constant list or `make_array` of numbers.
fn literal(expr: &Expr) -> Option<Vec<f32>> {
    match expr {
        Expr::Alias(alias) => literal(&alias.expr),
        Expr::Cast(Cast { expr, field }) if dimension(field.data_type()).is_some() => literal(expr),
        Expr::Literal(ScalarValue::FixedSizeList(list), _) => floats(list.value(0)),
        Expr::Literal(ScalarValue::List(list), _) => floats(list.value(0)),
        Expr::Literal(ScalarValue::LargeList(list), _) => floats(list.value(0)),
        Expr::ScalarFunction(call) if call.func.name() == "make_array" => {
            call.args.iter().map(number).collect()
        }
        _ => None,
    }
}

fn floats(items: ArrayRef) -> Option<Vec<f32>> {
    if items.null_count() > 0 || !items.data_type().is_numeric() {
        return None;
    }
    let items = cast(&items, &DataType::Float32).ok()?;
    Some(items.as_primitive_opt::<Float32Type>()?.values().to_vec())
}

fn number(expr: &Expr) -> Option<f32> {
    match expr {
        Expr::Negative(inner) => number(inner).map(|v| -v),
        Expr::Literal(value, _) if value.data_type().is_numeric() => {
            match value.cast_to(&DataType::Float64) {
                Ok(ScalarValue::Float64(Some(v))) => Some(v as f32),
                _ => None,
            }
        }
        _ => None,
    }
}
