//! Filters: SQL conditions or their JSON form, checked against a table and made ready for its index.
//!
//! [`Filter`] is what a caller wrote, within limits and parsed. [`Filter::resolve`] checks it against a collection's
//! columns and yields a [`Resolved`]: a [`Tree`] over what the attributes of a segment answer, an expression for the
//! rest, and a mask for rows that are at hand. NULL is SQL's: a row passes when the condition is true, and no
//! comparison with a missing value is.

mod align;
mod columns;
pub(crate) mod guard;
mod json;
mod lower;
mod mask;
pub(crate) mod suggest;
mod tree;

use std::collections::HashSet;
use std::ops::ControlFlow;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DataFusionError, ScalarValue, SchemaError};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, Operator, Volatility, lit};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::sql::sqlparser::ast::ExprWithAlias;
use datafusion::sql::unparser::Unparser;
use esker_format::schema::{Schema, Settings};
use esker_format::segment::attributes::{Literal, Predicate};
use esker_format::{Error, Result};

use self::columns::Columns;
use self::mask::Condition;
pub use self::tree::Tree;
use crate::sql::{errors, growth, session, simplify};

/// A condition as a caller wrote it: within the limits of DESIGN §4 and parsed, its columns not yet looked up.
#[derive(Debug, Clone)]
pub struct Filter {
    source: Source,
    text: String,
}

#[derive(Debug, Clone)]
enum Source {
    Sql(Box<ExprWithAlias>),
    Json(Box<Expr>),
}

impl Filter {
    /// A SQL condition: `section = 'python' AND year >= 2020`. Identifiers keep their case.
    pub fn sql(text: &str) -> Result<Filter> {
        guard::check("filter", text)?;
        if text.trim().is_empty() {
            return Err(
                Error::invalid("filter", "the filter is empty").with_hint("leave it out to match all")
            );
        }
        let parsed = guard::on_big_stack(|| {
            session::base().sql_to_expr_with_alias(text, &session::DIALECT).map_err(|e| {
                errors::from_datafusion("filter", e)
                    .with_hint("a filter is a SQL condition: section = 'python' AND year > 2020")
            })
        })?;
        if parsed.alias.is_some() {
            return Err(Error::invalid("filter", "a filter has no alias"));
        }
        Ok(Filter { source: Source::Sql(Box::new(parsed)), text: text.trim().to_owned() })
    }

    /// The JSON form: `{"section": {"$eq": "python"}, "year": {"$gte": 2020}}`.
    pub fn json(filter: &serde_json::Value) -> Result<Filter> {
        let text = filter.to_string();
        if text.len() > esker_format::limits::FILTER_BYTES {
            let limit = esker_format::limits::FILTER_BYTES;
            return Err(Error::invalid(
                "filter",
                format!("the filter has {} bytes, the limit is {limit}", text.len()),
            ));
        }
        let expr = normal(json::parse(filter)?, false, &Ok)?;
        Ok(Filter { source: Source::Json(Box::new(expr)), text })
    }

    /// What the caller wrote.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Checks the filter against a table. An unknown column, a comparison of different types, a subquery, a function that
    /// is not constant, or a filter that is no condition is an `Invalid` error that names it.
    pub fn resolve(&self, settings: &Settings, schema: &Schema) -> Result<Resolved> {
        let columns = Columns::new(settings, schema);
        guard::on_big_stack(|| {
            let expr = match &self.source {
                Source::Json(expr) => expr.as_ref().clone(),
                Source::Sql(parsed) => plan(parsed.as_ref().clone(), &columns)?,
            };
            Resolved::build(expr, columns)
        })
    }
}

impl std::fmt::Display for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// A filter checked against a table.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The condition over the table's columns, typed and simplified.
    pub expr: Expr,
    /// The same as sets of rows, for the index.
    pub tree: Tree,
    condition: Condition,
    columns: Columns,
}

impl Resolved {
    /// A condition from a query plan. Qualifiers of columns are dropped.
    pub fn from_expr(expr: Expr, settings: &Settings, schema: &Schema) -> Result<Resolved> {
        Self::build(expr, Columns::new(settings, schema))
    }

    fn build(expr: Expr, columns: Columns) -> Result<Resolved> {
        let bad = |e| errors::from_datafusion("filter", e);
        let schema = columns.planning()?;
        let expr = unqualified(expr).map_err(bad)?;
        check(&expr, &columns)?;
        let simplifier =
            ExprSimplifier::new(SimplifyContext::builder().with_schema(schema.clone().into()).build());
        let term = |e: Expr| {
            let e = simplifier.coerce(align::align(e, &columns)?, &schema);
            let e = e.and_then(|e| simplify::simplify(&simplifier, e)).map_err(bad)?;
            // Simplifying folds constants such as 1 + 0.5, which only now are literals.
            let e = simplifier.coerce(align::align(e, &columns)?, &schema).map_err(bad)?;
            let null = matches!(&e, Expr::Literal(value, _) if value.is_null());
            Ok(match null || e.get_type(&schema).map_err(bad)? == DataType::Null {
                true => lit(ScalarValue::Boolean(None)),
                false => e,
            })
        };
        let expr = normal(expr, false, &term)?;
        match expr.get_type(&schema).map_err(bad)? {
            DataType::Boolean | DataType::Null => {}
            other => {
                return Err(Error::invalid(
                    "filter",
                    format!("the filter is a value of type {other}, not a condition"),
                )
                .with_hint("compare it with something"));
            }
        }
        let tree = lower::lower(&expr, false, &columns);
        Ok(Resolved { condition: Condition::new(&expr, &columns)?, expr, tree, columns })
    }

    /// The columns that [`Resolved::mask`] reads, in table order.
    pub fn columns(&self) -> Vec<&str> {
        self.condition.schema.fields().iter().map(|f| f.name().as_str()).collect()
    }

    /// Which rows pass: true only where the condition is true. The batch holds at least [`Resolved::columns`]; a
    /// metadata column that it lacks counts as null.
    pub fn mask(&self, batch: &RecordBatch) -> Result<BooleanArray> {
        self.condition.mask(batch)
    }

    /// Which rows satisfy one part of the tree: the columns it reads and its mask, for parts that attributes
    /// cannot answer.
    pub fn part(&self, expr: &Expr) -> Result<Part> {
        Ok(Part(Condition::new(expr, &self.columns)?))
    }

    /// A leaf as an expression for [`Resolved::part`]: for segments whose attributes lack its column.
    pub fn leaf(&self, predicate: &Predicate) -> Expr {
        predicate_expr(predicate, &self.columns)
    }

    /// The only ids that can pass, if the filter names them (`id = …`, `id IN …`, alone or under AND).
    pub fn ids(&self) -> Option<Vec<String>> {
        lower::chain(&self.expr, Operator::And).into_iter().find_map(ids_of)
    }
}

/// One part of a filter, ready to run on batches.
#[derive(Debug, Clone)]
pub struct Part(Condition);

impl Part {
    /// The columns it reads, in table order.
    pub fn columns(&self) -> Vec<&str> {
        self.0.schema.fields().iter().map(|f| f.name().as_str()).collect()
    }

    /// As [`Resolved::mask`].
    pub fn mask(&self, batch: &RecordBatch) -> Result<BooleanArray> {
        self.0.mask(batch)
    }
}

impl std::fmt::Display for Resolved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match Unparser::default().with_pretty(true).expr_to_sql(&self.expr) {
            Ok(sql) => write!(f, "{sql}"),
            Err(_) => write!(f, "{}", self.expr.human_display()),
        }
    }
}

/// Plans parsed SQL over the table's columns.
fn plan(parsed: ExprWithAlias, columns: &Columns) -> Result<Expr> {
    let schema = columns.planning()?;
    let planned = session::base().create_logical_expr_from_sql_expr(parsed, &schema);
    planned.and_then(|expr| Ok(growth::bounded_expr(expr)?.data)).map_err(|e| {
        if let DataFusionError::SchemaError(schema, _) = e.find_root()
            && let SchemaError::FieldNotFound { field, .. } = schema.as_ref()
            && let Err(unknown) = columns.check(&field.flat_name())
        {
            return unknown;
        }
        errors::from_datafusion("filter", e)
    })
}

fn unqualified(expr: Expr) -> datafusion::error::Result<Expr> {
    let bare = expr.transform(|e| {
        Ok(match e {
            Expr::Column(Column { relation: Some(_), name, .. }) => {
                Transformed::yes(Expr::Column(Column::new_unqualified(name)))
            }
            e => Transformed::no(e),
        })
    })?;
    Ok(bare.data)
}

/// Only the table's own columns, and only what gives the same answer every time.
fn check(expr: &Expr, columns: &Columns) -> Result<()> {
    let mut wrong = Ok(());
    let walked = expr.apply(|e| {
        if let ControlFlow::Break(error) = allowed(e, columns) {
            wrong = Err(error);
            return Ok(TreeNodeRecursion::Stop);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    walked.map_err(|e| errors::from_datafusion("filter", e))?;
    wrong
}

fn allowed(expr: &Expr, columns: &Columns) -> ControlFlow<Error> {
    let refuse =
        |what: String| ControlFlow::Break(Error::invalid("filter", format!("a filter cannot use {what}")));
    match expr {
        Expr::Column(column) => match columns.check(&column.name) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        },
        Expr::ScalarFunction(call) if call.func.signature().volatility != Volatility::Immutable => {
            refuse(format!("{}(), whose value changes", call.func.name()))
        }
        Expr::Exists(_) | Expr::InSubquery(_) | Expr::ScalarSubquery(_) | Expr::SetComparison(_) => {
            refuse("a subquery".to_owned())
        }
        Expr::AggregateFunction(_) | Expr::WindowFunction(_) => refuse("an aggregate".to_owned()),
        Expr::Placeholder(p) => refuse(format!("the parameter {}", p.id)),
        Expr::OuterReferenceColumn(..)
        | Expr::ScalarVariable(..)
        | Expr::GroupingSet(_)
        | Expr::Unnest(_)
        | Expr::HigherOrderFunction(_)
        | Expr::Lambda(_)
        | Expr::LambdaVariable(_) => refuse(expr.variant_name().to_owned()),
        _ => ControlFlow::Continue(()),
    }
}

/// Negations at the leaves, chains of AND and OR as balanced trees, and every term passed through `leaf`.
///
/// Balanced, evaluating 256 terms recurses 8 deep and not 256. Terms are simplified one by one: merging them is for
/// [`lower`], which knows what a missing value does.
fn normal(expr: Expr, negated: bool, leaf: &dyn Fn(Expr) -> Result<Expr>) -> Result<Expr> {
    match expr {
        Expr::BinaryExpr(BinaryExpr { op: op @ (Operator::And | Operator::Or), .. }) => {
            let operands = lower::chain(&expr, op)
                .into_iter()
                .map(|e| normal(e.clone(), negated, leaf))
                .collect::<Result<Vec<_>>>()?;
            Ok(join(operands, if (op == Operator::And) == negated { Operator::Or } else { Operator::And }))
        }
        Expr::Not(inner) => normal(*inner, !negated, leaf),
        term if negated => leaf(Expr::Not(Box::new(term))),
        term => leaf(term),
    }
}

/// Joins terms without those that decide nothing, or as the one that decides all.
fn join(mut operands: Vec<Expr>, op: Operator) -> Expr {
    let neutral = op == Operator::And;
    let is = |e: &Expr, value| matches!(e, Expr::Literal(ScalarValue::Boolean(Some(v)), _) if *v == value);
    if operands.iter().any(|e| is(e, !neutral)) {
        return lit(!neutral);
    }
    operands.retain(|e| !is(e, neutral));
    if operands.is_empty() { lit(neutral) } else { halves(operands, op) }
}

fn halves(mut operands: Vec<Expr>, op: Operator) -> Expr {
    if operands.len() == 1 {
        return operands.swap_remove(0);
    }
    let right = operands.split_off(operands.len().div_ceil(2));
    let (left, right) = (halves(operands, op), halves(right, op));
    Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)))
}

fn predicate_expr(predicate: &Predicate, columns: &Columns) -> Expr {
    use std::ops::Bound::{Excluded, Included, Unbounded};
    let column = || Expr::Column(Column::new_unqualified(predicate.column()));
    let literal = |l: &Literal| Expr::Literal(columns.scalar(predicate.column(), l), None);
    match predicate {
        Predicate::Eq(_, value) => column().eq(literal(value)),
        Predicate::In(_, values) => column().in_list(values.iter().map(literal).collect(), false),
        Predicate::Range { low, high, .. } => {
            let low = match low {
                Unbounded => None,
                Included(v) => Some(column().gt_eq(literal(v))),
                Excluded(v) => Some(column().gt(literal(v))),
            };
            let high = match high {
                Unbounded => None,
                Included(v) => Some(column().lt_eq(literal(v))),
                Excluded(v) => Some(column().lt(literal(v))),
            };
            match (low, high) {
                (Some(low), Some(high)) => low.and(high),
                (Some(one), None) | (None, Some(one)) => one,
                (None, None) => column().is_not_null(),
            }
        }
        Predicate::Contains(_, item) => datafusion::functions_nested::expr_fn::array_has(
            column(),
            datafusion::logical_expr::lit(item.as_str()),
        ),
        Predicate::IsNull(_) => column().is_null(),
    }
}

/// The ids that one conjunct allows.
fn ids_of(conjunct: &Expr) -> Option<Vec<String>> {
    let is_id = |e: &Expr| matches!(e, Expr::Column(c) if c.name == "id");
    let text = |e: &Expr| match e {
        Expr::Literal(value, _) => align::text(value).map(str::to_owned),
        _ => None,
    };
    match conjunct {
        Expr::BinaryExpr(BinaryExpr { op: Operator::Eq, left, right }) if is_id(left) => {
            Some(vec![text(right)?])
        }
        Expr::BinaryExpr(BinaryExpr { op: Operator::Or, .. }) => {
            let alternatives =
                lower::chain(conjunct, Operator::Or).into_iter().map(ids_of).collect::<Option<Vec<_>>>()?;
            let mut seen = HashSet::new();
            Some(alternatives.into_iter().flatten().filter(|id| seen.insert(id.clone())).collect())
        }
        Expr::InList(list) if is_id(&list.expr) && !list.negated => list.list.iter().map(text).collect(),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
