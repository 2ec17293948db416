//! Literals take the type of the column they are compared with, exactly, or are refused by the column's name.
//!
//! Left alone, the planner would compare a whole number with a float by rounding the column, and text with a number by
//! printing it. Here a comparison means what it says: `year > 1.5` is `year > 1`, `year = 'x'` is an error.

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, ScalarValue};
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{Between, BinaryExpr, Cast, Expr, Like, Operator, lit};
use esker_format::schema::time_type;
use esker_format::{Error, Result};

use super::columns::{Columns, Kind};
use super::suggest::ident;

/// Aligns every comparison of a column with literals in `expr`.
pub(super) fn align(expr: Expr, columns: &Columns) -> Result<Expr> {
    // The tree walk carries DataFusion's errors; ours wait here.
    let mut wrong = None;
    let aligned = expr.transform_up(|e| {
        if wrong.is_some() {
            return Ok(Transformed::no(e));
        }
        Ok(match node(e, columns) {
            Ok(e) => Transformed::yes(e),
            Err(e) => {
                wrong = Some(e);
                Transformed::yes(lit(false))
            }
        })
    });
    match (wrong, aligned) {
        (Some(e), _) => Err(e),
        (None, aligned) => Ok(aligned.map_err(|e| Error::invalid("filter", e.strip_backtrace()))?.data),
    }
}

fn node(expr: Expr, columns: &Columns) -> Result<Expr> {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if is_order(op) => {
            if let (Some((column, kind)), Some(value)) = (comparand(&left, columns), literal(&right)) {
                return comparison(column, kind, op, value);
            }
            if let (Some(value), Some((column, kind)), Some(op)) =
                (literal(&left), comparand(&right, columns), op.swap())
            {
                return comparison(column, kind, op, value);
            }
            Ok(Expr::BinaryExpr(BinaryExpr { left, op, right }))
        }
        Expr::Between(Between { expr, negated, low, high }) => {
            let Some((column, kind)) = comparand(&expr, columns) else {
                return Ok(Expr::Between(Between { expr, negated, low, high }));
            };
            let bound = |op: Operator, bound: Expr| match literal(&bound) {
                Some(value) => comparison(column, kind, op, value),
                None => Ok(binary(Expr::Column(column.clone()), op, bound)),
            };
            let both = bound(Operator::GtEq, *low)?.and(bound(Operator::LtEq, *high)?);
            Ok(if negated { !both } else { both })
        }
        Expr::InList(InList { expr, list, negated }) => {
            let Some((column, kind)) = comparand(&expr, columns) else {
                return Ok(Expr::InList(InList { expr, list, negated }));
            };
            in_list(column, kind, list, negated)
        }
        Expr::Like(like) => {
            check_like(&like, columns)?;
            Ok(Expr::Like(like))
        }
        Expr::ScalarFunction(call) if call.func.name() == "array_has" => {
            if let [list, item] = call.args.as_slice()
                && let (Some((column, kind)), Some(value)) = (comparand(list, columns), literal(item))
                && !(kind == Kind::Strings && text(value).is_some())
            {
                return Err(mismatch(column, kind, value));
            }
            Ok(Expr::ScalarFunction(call))
        }
        other => Ok(other),
    }
}

/// The column that an operand is, with its kind; also under the cast to float that the planner puts around it.
fn comparand<'a>(expr: &'a Expr, columns: &Columns) -> Option<(&'a Column, Kind)> {
    match expr {
        Expr::Column(column) => Some((column, columns.kind(&column.name)?)),
        Expr::Cast(Cast { expr, field }) if field.data_type().is_floating() => match expr.as_ref() {
            Expr::Column(column) => {
                let kind = columns.kind(&column.name)?;
                (kind == Kind::Int).then_some((column, kind))
            }
            _ => None,
        },
        _ => None,
    }
}

fn literal(expr: &Expr) -> Option<&ScalarValue> {
    match expr {
        Expr::Literal(value, _) => Some(value),
        _ => None,
    }
}

/// The text of a string literal.
pub(super) fn text(value: &ScalarValue) -> Option<&str> {
    value.try_as_str().flatten()
}

fn binary(left: Expr, op: Operator, right: Expr) -> Expr {
    Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)))
}

/// `column op value` with `value` of the column's own type.
fn comparison(column: &Column, kind: Kind, op: Operator, value: &ScalarValue) -> Result<Expr> {
    let plain = |value: ScalarValue| binary(Expr::Column(column.clone()), op, lit(value));
    if value.is_null() {
        return Ok(plain(value.clone()));
    }
    match (kind, fit(column, kind, value)?) {
        (_, Fit::Same(value)) => Ok(plain(value)),
        (_, Fit::Real(value)) => Ok(whole_comparison(column, op, value)),
    }
}

/// Operators that compare by order or equality. Others (LIKE's, regular expressions) keep their operands.
fn is_order(op: Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom)
}

/// A literal in the column's type, or a number that a column of whole numbers cannot hold.
enum Fit {
    Same(ScalarValue),
    Real(f64),
}

/// 2^63: the first float beyond every whole number of a column.
const BEYOND: f64 = 9_223_372_036_854_775_808.0;

fn fit(column: &Column, kind: Kind, value: &ScalarValue) -> Result<Fit> {
    let same = |v: ScalarValue| Ok(Fit::Same(v));
    match kind {
        Kind::Boolean if matches!(value, ScalarValue::Boolean(_)) => same(value.clone()),
        Kind::String => match text(value) {
            Some(text) => same(ScalarValue::from(text)),
            None => Err(mismatch(column, kind, value)),
        },
        Kind::Int | Kind::Float => match number(value) {
            Some(Number::Whole(v)) if kind == Kind::Int => same(ScalarValue::from(v)),
            Some(Number::Whole(v)) => same(ScalarValue::from(v as f64)),
            Some(Number::Real(v)) if !v.is_finite() => {
                let message = format!("{v} cannot be compared with column {}", ident(&column.name));
                Err(Error::invalid(column.name.clone(), message))
            }
            // As columns have it: no −0.
            Some(Number::Real(v)) if kind == Kind::Float => same(ScalarValue::from(v + 0.0)),
            Some(Number::Real(v)) if v.fract() == 0.0 && (-BEYOND..BEYOND).contains(&v) => {
                same(ScalarValue::from(v as i64))
            }
            Some(Number::Real(v)) => Ok(Fit::Real(v)),
            None => Err(mismatch(column, kind, value)),
        },
        Kind::Time => time(column, value).map(Fit::Same),
        Kind::Boolean | Kind::Strings => Err(mismatch(column, kind, value)),
    }
}

enum Number {
    Whole(i64),
    Real(f64),
}

fn number(value: &ScalarValue) -> Option<Number> {
    if !value.data_type().is_numeric() {
        return None;
    }
    use arrow::datatypes::DataType::{Float64, Int64};
    if value.data_type().is_integer()
        && let Ok(ScalarValue::Int64(Some(v))) = value.cast_to(&Int64)
    {
        return Some(Number::Whole(v));
    }
    match value.cast_to(&Float64) {
        Ok(ScalarValue::Float64(Some(v))) => Some(Number::Real(v)),
        _ => None,
    }
}

/// Times are given as timestamps, as text in ISO 8601, or as milliseconds since the epoch.
fn time(column: &Column, value: &ScalarValue) -> Result<ScalarValue> {
    match value {
        ScalarValue::TimestampSecond(..)
        | ScalarValue::TimestampMillisecond(..)
        | ScalarValue::TimestampMicrosecond(..)
        | ScalarValue::TimestampNanosecond(..)
        | ScalarValue::Date32(_)
        | ScalarValue::Date64(_) => Ok(whole_milliseconds(value).unwrap_or_else(|| value.clone())),
        _ => {
            let milliseconds = match number(value) {
                Some(Number::Whole(ms)) => {
                    return Ok(ScalarValue::TimestampMillisecond(Some(ms), Some("UTC".into())));
                }
                Some(Number::Real(_)) => None,
                None => text(value).and_then(|_| value.cast_to(&time_type()).ok()),
            };
            milliseconds.ok_or_else(|| {
                mismatch(column, Kind::Time, value)
                    .with_hint("write a time as '2025-01-31T12:00:00Z' or as milliseconds since the epoch")
            })
        }
    }
}

/// The same instant in the type of time columns, unless it lies between two milliseconds.
fn whole_milliseconds(value: &ScalarValue) -> Option<ScalarValue> {
    let milliseconds = value.cast_to(&time_type()).ok()?;
    (milliseconds.cast_to(&value.data_type()).ok()? == *value).then_some(milliseconds)
}

/// `column op value` over whole numbers, for a finite `value` that is none.
fn whole_comparison(column: &Column, op: Operator, value: f64) -> Expr {
    let compare = |op, bound: i64| binary(Expr::Column(column.clone()), op, lit(bound));
    // Neither is a constant: a missing value stays unknown.
    let (never, always) = (compare(Operator::Lt, i64::MIN), compare(Operator::GtEq, i64::MIN));
    let (above, below) = (value >= BEYOND, value < -BEYOND);
    match op {
        Operator::Eq => never,
        Operator::NotEq => always,
        Operator::IsDistinctFrom => lit(true),
        Operator::IsNotDistinctFrom => lit(false),
        Operator::Lt | Operator::LtEq if above => always,
        Operator::Gt | Operator::GtEq if above => never,
        Operator::Lt | Operator::LtEq if below => never,
        Operator::Gt | Operator::GtEq if below => always,
        Operator::Lt | Operator::LtEq => compare(Operator::LtEq, value.floor() as i64),
        _ => compare(Operator::GtEq, value.ceil() as i64),
    }
}

fn in_list(column: &Column, kind: Kind, list: Vec<Expr>, negated: bool) -> Result<Expr> {
    let subject = Expr::Column(column.clone());
    let mut aligned = Vec::with_capacity(list.len());
    let given = list.len();
    for item in list {
        match literal(&item) {
            Some(value) if !value.is_null() => match fit(column, kind, value)? {
                Fit::Same(value) => aligned.push(lit(value)),
                // No row holds it.
                Fit::Real(_) => {}
            },
            _ => aligned.push(item),
        }
    }
    if aligned.is_empty() && given > 0 {
        return Ok(whole_comparison(column, if negated { Operator::NotEq } else { Operator::Eq }, 0.5));
    }
    Ok(subject.in_list(aligned, negated))
}

fn check_like(like: &Like, columns: &Columns) -> Result<()> {
    let Some((column, kind)) = comparand(&like.expr, columns) else { return Ok(()) };
    match (kind, literal(&like.pattern)) {
        (Kind::String, Some(value)) if text(value).is_none() && !value.is_null() => {
            Err(mismatch(column, kind, value))
        }
        (Kind::String, _) => Ok(()),
        _ => {
            let message = format!("column {} holds {}, LIKE needs text", ident(&column.name), kind.plural());
            Err(Error::invalid(column.name.clone(), message))
        }
    }
}

fn mismatch(column: &Column, kind: Kind, value: &ScalarValue) -> Error {
    let shown = match text(value) {
        Some(text) => format!("'{text}'"),
        None => value.to_string(),
    };
    let message =
        format!("column {} holds {}, it cannot be compared with {shown}", ident(&column.name), kind.plural());
    let error = Error::invalid(column.name.clone(), message);
    match kind {
        Kind::Strings => {
            error.with_hint("test for an element: array_has(column, 'text'), or $contains in JSON")
        }
        _ => error,
    }
}
