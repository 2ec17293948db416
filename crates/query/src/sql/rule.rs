//! The planner rule: `ORDER BY distance(vector, q) LIMIT k` becomes a search of the index.
//!
//! By the time it runs, parameters and literals are folded, `LIMIT` and `OFFSET` are the fetch of the sort, and filters
//! that the index can evaluate lie in the scan. It looks below a `Sort` with one key and a fetch, through projections
//! and aliases, for the scan of a collection whose metric the key is. The scan is replaced by a search that also offers
//! the distance as a column, so that it is not computed again; the sort stays, over k rows. Conditions that
//! bound the distance stay above the search. Where the key is a distance but
//! the index cannot answer, the scan is left with a note that `EXPLAIN` shows. A scan that was visited is not visited
//! again, so the rule may run any number of times.

use std::sync::Arc;

use datafusion::catalog::default_table_source::{provider_as_source, source_as_provider};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, Result};
use datafusion::logical_expr::expr::Sort as SortKey;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::logical_plan::TableScanBuilder;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{
    BinaryExpr, Cast, Expr, Filter, LogicalPlan, Operator, Projection, Sort, SubqueryAlias, TableScan,
};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};
use esker_format::limits;

use super::distance::{self, Function};
use super::provider::{Access, Collection, DISTANCE};
use super::vectors;

/// See the module.
#[derive(Debug)]
pub(super) struct SearchByIndex;

impl OptimizerRule for SearchByIndex {
    fn name(&self) -> &str {
        "search_by_index"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn supports_rewrite(&self) -> bool {
        true
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let LogicalPlan::Sort(sort) = &plan else { return Ok(Transformed::no(plan)) };
        let Some(key) = sort.expr.first() else { return Ok(Transformed::no(plan)) };
        let Some(found) = find(&sort.input, &key.expr) else { return Ok(Transformed::no(plan)) };
        let rewritten = match found.usable(sort) {
            Ok(k) => search(sort, &found, k),
            Err(note) => {
                let scan = found.collection.with(Access::Scan { note: Some(note) });
                replace_scan(&sort.input, &found, &Arc::new(scan), false)
                    .map(|input| LogicalPlan::Sort(Sort { input: Arc::new(input), ..sort.clone() }))
            }
        };
        Ok(Transformed::yes(rewritten?))
    }
}

/// A sort key that is a distance between the vectors of a collection and a constant.
struct Found {
    function: Function,
    query: Vec<f32>,
    collection: Arc<Collection>,
    /// Whether conditions between the sort and the scan are other than limits on the distance.
    conditions: bool,
    /// Whether the rows are limited before they are sorted.
    limited: bool,
}

impl Found {
    /// k, or why the index cannot answer.
    fn usable(&self, sort: &Sort) -> std::result::Result<usize, String> {
        let metric = self.collection.table.settings().metric;
        if self.function.metric() != metric {
            return Err(format!("{} is not the collection's metric, {metric}", self.function.name()));
        }
        // Cosine and l2 distances ascend from the nearest; inner products descend.
        let nearest_first =
            sort.expr.first().is_some_and(|k| k.asc != (self.function == Function::InnerProduct));
        if !nearest_first {
            return Err("the farthest rows come first".to_owned());
        }
        if sort.expr.len() > 1 {
            return Err("more than one sort key".to_owned());
        }
        if self.conditions {
            return Err("the index cannot evaluate the condition".to_owned());
        }
        if self.limited {
            return Err("the rows are limited before they are sorted".to_owned());
        }
        match sort.fetch {
            None => Err("no LIMIT".to_owned()),
            Some(k) if k > limits::K => {
                Err(format!("LIMIT and OFFSET reach {k} rows, a search {}", limits::K))
            }
            Some(k) => Ok(k),
        }
    }
}

/// Follows `key` down to the scan it is computed from.
fn find(plan: &LogicalPlan, key: &Expr) -> Option<Found> {
    let (mut plan, mut key, mut filters) = (plan, bare(key).clone(), Vec::new());
    loop {
        // A column that the query itself names like ours would be taken for it.
        if plan.schema().iter().any(|(_, field)| field.name() == DISTANCE) {
            return None;
        }
        match plan {
            LogicalPlan::Projection(p) => {
                key = bare(&through_projection(key, p)?).clone();
                plan = &p.input;
            }
            LogicalPlan::SubqueryAlias(a) => {
                key = through_alias(key, a)?;
                plan = &a.input;
            }
            LogicalPlan::Filter(f) => {
                filters.push(f);
                plan = &f.input;
            }
            LogicalPlan::TableScan(scan) => {
                let mut found = at_scan(scan, &key)?;
                found.conditions = !filters.into_iter().all(|f| nearer_than(f, &found));
                return Some(found);
            }
            _ => return None,
        }
    }
}

fn at_scan(scan: &TableScan, key: &Expr) -> Option<Found> {
    let provider = source_as_provider(&scan.source).ok()?;
    let collection = provider.downcast_ref::<Collection>()?;
    // A note or a search: this scan has been visited.
    if collection.access != (Access::Scan { note: None }) {
        return None;
    }
    let (function, query) = constant_call(key)?;
    Some(Found {
        function,
        query,
        collection: Arc::new(collection.with(Access::Scan { note: None })),
        conditions: false,
        limited: scan.fetch.is_some(),
    })
}

/// Whether a condition only bounds the distance that is searched for: `distance < x`. Then it holds for a first part
/// of the rows in their order, and the k nearest of those are those of the k nearest of all.
fn nearer_than(filter: &Filter, found: &Found) -> bool {
    let distance = |e: &Expr| same_distance(bare(e), &filter.input, found);
    let (below, above) = match found.function {
        Function::InnerProduct => ([Operator::Gt, Operator::GtEq], [Operator::Lt, Operator::LtEq]),
        _ => ([Operator::Lt, Operator::LtEq], [Operator::Gt, Operator::GtEq]),
    };
    split_conjunction(&filter.predicate).into_iter().all(|e| match e {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match (left.as_ref(), right.as_ref()) {
            (call, Expr::Literal(..)) => below.contains(op) && distance(call),
            (Expr::Literal(..), call) => above.contains(op) && distance(call),
            _ => false,
        },
        _ => false,
    })
}

/// The function and the constant of `distance(vector, constant)`, arguments in either order.
fn constant_call(expr: &Expr) -> Option<(Function, Vec<f32>)> {
    let (function, a, b) = distance::call(expr)?;
    let query = match (a, b) {
        (Expr::Column(c), Expr::Literal(value, _)) | (Expr::Literal(value, _), Expr::Column(c))
            if c.name == "vector" =>
        {
            vectors::elements(value)?
        }
        _ => return None,
    };
    Some((function, query))
}

/// Without aliases and casts to a wider float, which keep the order.
fn bare(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => bare(&alias.expr),
        Expr::Cast(Cast { expr, field }) if field.data_type().is_floating() => bare(expr),
        expr => expr,
    }
}

/// `expr` over the output of a projection, as it is over its input.
fn through_projection(expr: Expr, projection: &Projection) -> Option<Expr> {
    substitute(expr, |column| {
        let at = projection.schema.index_of_column(column).ok()?;
        Some(bare(&projection.expr[at]).clone())
    })
}

fn through_alias(expr: Expr, alias: &SubqueryAlias) -> Option<Expr> {
    substitute(expr, |column| {
        let at = alias.schema.index_of_column(column).ok()?;
        Some(Expr::Column(Column::from(alias.input.schema().qualified_field(at))))
    })
}

fn substitute(expr: Expr, of: impl Fn(&Column) -> Option<Expr>) -> Option<Expr> {
    let mut missing = false;
    let replaced = expr.transform_up(|e| match &e {
        Expr::Column(column) => Ok(match of(column) {
            Some(below) => Transformed::yes(below),
            None => {
                missing = true;
                Transformed::no(e)
            }
        }),
        _ => Ok(Transformed::no(e)),
    });
    replaced.ok().map(|t| t.data).filter(|_| !missing)
}

/// The sort over a search. Where the sort key itself computes the distance, the search's column is carried up to it
/// and dropped above it.
fn search(sort: &Sort, found: &Found, k: usize) -> Result<LogicalPlan> {
    let scan = Arc::new(found.collection.with(Access::Search { query: found.query.clone(), k }));
    let carried = sort.expr.first().is_some_and(|key| !matches!(bare(&key.expr), Expr::Column(_)));
    let input = replace_scan(&sort.input, found, &scan, carried)?;
    if !carried {
        return Ok(LogicalPlan::Sort(Sort { input: Arc::new(input), ..sort.clone() }));
    }
    let key = SortKey { expr: offered(&input), asc: true, nulls_first: false };
    let sorted = LogicalPlan::Sort(Sort { expr: vec![key], input: Arc::new(input), fetch: sort.fetch });
    let columns = sort.input.schema().iter().map(|field| Expr::Column(Column::from(field))).collect();
    Ok(LogicalPlan::Projection(Projection::try_new(columns, Arc::new(sorted))?))
}

/// The search's distance among the columns of `plan`.
fn offered(plan: &LogicalPlan) -> Expr {
    let at = plan.schema().iter().find(|(_, field)| field.name() == DISTANCE);
    at.map_or_else(
        || Expr::Column(Column::new_unqualified(DISTANCE)),
        |field| Expr::Column(Column::from(field)),
    )
}

/// `plan` with `scan` at its leaf. Projections use the distance that a search offers, and pass it on if `carried`.
fn replace_scan(
    plan: &LogicalPlan,
    found: &Found,
    scan: &Arc<Collection>,
    carried: bool,
) -> Result<LogicalPlan> {
    Ok(match plan {
        LogicalPlan::TableScan(old) => {
            let extra =
                matches!(scan.access, Access::Search { .. }).then(|| scan.table.arrow().fields().len());
            let projection = old.projection.clone().map(|p| p.into_iter().chain(extra).collect());
            let source = provider_as_source(scan.clone());
            let new = TableScanBuilder::new(old.table_name.clone(), source)
                .with_projection(projection)
                .with_filters(old.filters.clone())
                .with_fetch(old.fetch)
                .build()?;
            LogicalPlan::TableScan(new)
        }
        LogicalPlan::SubqueryAlias(a) => {
            let input = replace_scan(&a.input, found, scan, carried)?;
            LogicalPlan::SubqueryAlias(SubqueryAlias::try_new(Arc::new(input), a.alias.clone())?)
        }
        LogicalPlan::Filter(f) => {
            let input = replace_scan(&f.input, found, scan, carried)?;
            let predicate = use_distance(f.predicate.clone(), &f.input, &input, found)?.data;
            LogicalPlan::Filter(Filter::try_new(predicate, Arc::new(input))?)
        }
        LogicalPlan::Projection(p) => {
            projected(p, found, replace_scan(&p.input, found, scan, carried)?, carried)?
        }
        other => other.clone(),
    })
}

fn projected(p: &Projection, found: &Found, input: LogicalPlan, carried: bool) -> Result<LogicalPlan> {
    let mut columns = p.expr.clone();
    let names = NamePreserver::new_for_projection();
    for expr in &mut columns {
        let name = names.save(expr);
        let replaced = use_distance(expr.clone(), &p.input, &input, found)?;
        if replaced.transformed {
            *expr = name.restore(replaced.data);
        }
    }
    if carried {
        columns.push(offered(&input));
    }
    Ok(LogicalPlan::Projection(Projection::try_new(columns, Arc::new(input))?))
}

/// `expr` over `new`, which replaces `old`, with the distance taken from its column where `new` offers that.
fn use_distance(
    expr: Expr,
    old: &LogicalPlan,
    new: &LogicalPlan,
    found: &Found,
) -> Result<Transformed<Expr>> {
    if !new.schema().iter().any(|(_, field)| field.name() == DISTANCE) {
        return Ok(Transformed::no(expr));
    }
    let column = offered(new);
    expr.transform_down(|e| {
        Ok(match same_distance(&e, old, found) {
            false => Transformed::no(e),
            true if found.function == Function::InnerProduct => {
                Transformed::yes(Expr::Negative(Box::new(column.clone())))
            }
            true => Transformed::yes(column.clone()),
        })
    })
}

/// Whether `expr`, over the output of `plan`, is the distance that the search offers.
fn same_distance(expr: &Expr, plan: &LogicalPlan, found: &Found) -> bool {
    if distance::call(expr).is_none() {
        return false;
    }
    find(plan, expr).is_some_and(|f| f.function == found.function && f.query == found.query)
}
