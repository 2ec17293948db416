//! Projections that say the same as the one below them. The optimizer takes one of the two away (DataFusion 55,
//! `merge_consecutive_projections`), which is right of columns that are passed on, but `SELECT s + s AS s` of `SELECT s + s
//! AS s` is not that of one. Where a plan has such, what each computes gets a name of its own.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::common::{Column, Result};
use datafusion::logical_expr::{Expr, LogicalPlan, Projection};

/// The plan as written, in which no two projections compute the same by the same names.
pub(super) fn told_apart(plan: LogicalPlan) -> Result<LogicalPlan> {
    let (mut seen, mut repeated) = (HashSet::new(), HashSet::new());
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::Projection(p) = node
            && p.expr.iter().any(|e| computed(e).is_some())
            && !seen.insert(p.expr.clone())
        {
            repeated.insert(p.expr.clone());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    if repeated.is_empty() {
        return Ok(plan);
    }
    let mut number = 0;
    let plan = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Projection(p) if repeated.contains(&p.expr) => {
            number += 1;
            Ok(Transformed::yes(renamed(p, number)?))
        }
        node => Ok(Transformed::no(node)),
    })?;
    Ok(plan.data)
}

/// What is computed under a name.
fn computed(expr: &Expr) -> Option<(&Expr, &str)> {
    match expr {
        Expr::Alias(a) if !matches!(*a.expr, Expr::Column(_)) => Some((&a.expr, &a.name)),
        _ => None,
    }
}

/// The projection in two: what is computed gets other names in the first, and its own again in the second.
fn renamed(projection: Projection, number: usize) -> Result<LogicalPlan> {
    let (mut inner, mut outer) = (Vec::new(), Vec::new());
    for (expr, (qualifier, field)) in projection.expr.into_iter().zip(projection.schema.iter()) {
        match computed(&expr) {
            Some((what, name)) => {
                let own = format!("{name}#{number}");
                outer.push(
                    Expr::Column(Column::new_unqualified(&own)).alias_qualified(qualifier.cloned(), name),
                );
                inner.push(what.clone().alias(own));
            }
            None => {
                outer.push(Expr::Column(Column::from((qualifier, field))));
                inner.push(expr);
            }
        }
    }
    let inner = LogicalPlan::Projection(Projection::try_new(inner, projection.input)?);
    Ok(LogicalPlan::Projection(Projection::try_new(outer, Arc::new(inner))?))
}
