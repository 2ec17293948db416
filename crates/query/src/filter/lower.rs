//! From an aligned, coerced, simplified expression to a [`Tree`], negations pushed down to the leaves.
//!
//! De Morgan's laws hold in three-valued logic, so a negated AND is an OR of negations. At a leaf, `NOT (c = 1)` is true
//! where c has a value other than 1: the complement of `c = 1` less the rows where c is missing. A range's negation is
//! the ranges beside it. Of an expression that attributes cannot answer, the planner evaluates the negation.

use std::ops::Bound;

use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use esker_format::segment::attributes::{Literal, Predicate};

use super::Tree;
use super::align::text;
use super::columns::{Columns, Kind};

/// The rows for which `expr` (or, `negated`, its negation) is true.
pub(super) fn lower(expr: &Expr, negated: bool, columns: &Columns) -> Tree {
    match expr {
        Expr::Alias(alias) => lower(&alias.expr, negated, columns),
        // Null is not true, nor is its negation.
        Expr::Literal(ScalarValue::Boolean(value), _) => match value {
            Some(value) if *value != negated => Tree::True,
            _ => Tree::False,
        },
        Expr::Literal(value, _) if value.is_null() => Tree::False,
        Expr::BinaryExpr(BinaryExpr { op: op @ (Operator::And | Operator::Or), .. }) => {
            let operands = chain(expr, *op);
            let branches = operands.into_iter().map(|e| lower(e, negated, columns));
            match (*op == Operator::And) != negated {
                true => Tree::and(merge_ranges(branches.collect())),
                false => Tree::or(merge_equals(branches.collect())),
            }
        }
        Expr::Not(inner) => lower(inner, !negated, columns),
        Expr::IsNull(inner) => is_null(inner, negated, columns),
        Expr::IsNotNull(inner) => is_null(inner, !negated, columns),
        Expr::Column(column) if columns.kind(&column.name) == Some(Kind::Boolean) => {
            Tree::Leaf(Predicate::Eq(column.name.clone(), Literal::Bool(!negated)))
        }
        _ => leaf(expr, negated, columns).unwrap_or_else(|| {
            Tree::Other(if negated { Expr::Not(Box::new(expr.clone())) } else { expr.clone() })
        }),
    }
}

/// The operands of a chain of one operator, without recursion along it.
pub(super) fn chain(expr: &Expr, op: Operator) -> Vec<&Expr> {
    let (mut open, mut operands) = (vec![expr], Vec::new());
    while let Some(e) = open.pop() {
        match e {
            Expr::BinaryExpr(b) if b.op == op => open.extend([b.right.as_ref(), b.left.as_ref()]),
            e => operands.push(e),
        }
    }
    operands
}

/// IS NULL, or `negated` IS NOT NULL: never null themselves.
fn is_null(inner: &Expr, negated: bool, columns: &Columns) -> Tree {
    match inner {
        inner if let Some((column, _)) = subject(inner, columns) => {
            let null = Tree::Leaf(Predicate::IsNull(column.to_owned()));
            if negated { Tree::Not(Box::new(null)) } else { null }
        }
        _ if negated => Tree::Other(Expr::IsNotNull(Box::new(inner.clone()))),
        _ => Tree::Other(Expr::IsNull(Box::new(inner.clone()))),
    }
}

/// A test of one column against literals.
fn leaf(expr: &Expr, negated: bool, columns: &Columns) -> Option<Tree> {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            if let Some((column, kind)) = subject(left, columns) {
                return comparison(column, *op, value(right, kind)?, negated);
            }
            let (column, kind) = subject(right, columns)?;
            comparison(column, op.swap()?, value(left, kind)?, negated)
        }
        Expr::InList(InList { expr, list, negated: not_in }) => {
            let (column, kind) = subject(expr, columns)?;
            in_list(column, kind, list, negated != *not_in)
        }
        Expr::ScalarFunction(call) if call.func.name() == "array_has" => {
            let [list, Expr::Literal(item, _)] = call.args.as_slice() else { return None };
            let (column, kind) = subject(list, columns)?;
            let item = text(item).filter(|_| kind == Kind::Strings)?;
            Some(signed(Predicate::Contains(column.to_owned(), item.to_owned()), column, negated))
        }
        _ => None,
    }
}

/// Columns that no segment has attributes of: `id` is found by hash, `_seq` by reading it.
const WITHOUT_ATTRIBUTES: [&str; 2] = ["id", "_seq"];

/// The column that `expr` is, if attributes may know it.
fn subject<'a>(expr: &'a Expr, columns: &Columns) -> Option<(&'a str, Kind)> {
    match expr {
        Expr::Column(column) if !WITHOUT_ATTRIBUTES.contains(&column.name.as_str()) => {
            Some((&column.name, columns.kind(&column.name)?))
        }
        _ => None,
    }
}

/// A literal of exactly the column's kind.
fn value(expr: &Expr, kind: Kind) -> Option<Literal> {
    let Expr::Literal(value, _) = expr else { return None };
    Some(match (kind, value) {
        (Kind::Boolean, ScalarValue::Boolean(Some(v))) => Literal::Bool(*v),
        (Kind::Int, ScalarValue::Int64(Some(v))) => Literal::Int(*v),
        (Kind::Time, ScalarValue::TimestampMillisecond(Some(v), _)) => Literal::Int(*v),
        (Kind::Float, ScalarValue::Float64(Some(v))) if v.is_finite() => Literal::Float(*v),
        (Kind::String, v) => Literal::String(text(v)?.to_owned()),
        _ => return None,
    })
}

fn comparison(column: &str, op: Operator, value: Literal, negated: bool) -> Option<Tree> {
    use Bound::{Excluded, Included, Unbounded};
    let op = if negated { op.negate()? } else { op };
    let range = |low, high| Tree::Leaf(Predicate::Range { column: column.to_owned(), low, high });
    Some(match op {
        Operator::Eq => Tree::Leaf(Predicate::Eq(column.to_owned(), value)),
        Operator::NotEq => signed(Predicate::Eq(column.to_owned(), value), column, true),
        Operator::Lt => range(Unbounded, Excluded(value)),
        Operator::LtEq => range(Unbounded, Included(value)),
        Operator::Gt => range(Excluded(value), Unbounded),
        Operator::GtEq => range(Included(value), Unbounded),
        _ => return None,
    })
}

/// IN is true where an item equals; NOT IN where all differ, so never when an item is null.
fn in_list(column: &str, kind: Kind, list: &[Expr], negated: bool) -> Option<Tree> {
    let is_null = |e: &&Expr| matches!(e, Expr::Literal(v, _) if v.is_null());
    if negated && list.iter().any(|e| is_null(&e)) {
        return Some(Tree::False);
    }
    let items =
        list.iter().filter(|e| !is_null(e)).map(|e| value(e, kind)).collect::<Option<Vec<Literal>>>()?;
    Some(match (items.is_empty(), negated) {
        (true, true) => Tree::True,
        (true, false) => Tree::False,
        _ => signed(Predicate::In(column.to_owned(), items), column, negated),
    })
}

/// The predicate, or where it is false: not true, and the column not missing.
fn signed(predicate: Predicate, column: &str, negated: bool) -> Tree {
    let without = |p| Tree::Not(Box::new(Tree::Leaf(p)));
    match negated {
        false => Tree::Leaf(predicate),
        true => Tree::And(vec![without(predicate), without(Predicate::IsNull(column.to_owned()))]),
    }
}

/// Two open ranges of one column under an AND are one closed range: one read of its attribute.
fn merge_ranges(branches: Vec<Tree>) -> Vec<Tree> {
    use Bound::Unbounded;
    let mut merged: Vec<Tree> = Vec::with_capacity(branches.len());
    for branch in branches {
        if let Tree::Leaf(Predicate::Range { column, low, high }) = &branch {
            let partner = merged.iter_mut().find_map(|t| match t {
                Tree::Leaf(Predicate::Range { column: c, low: l, high: h }) if c == column => {
                    match (&*l, &*h) {
                        (Unbounded, _) if *high == Unbounded => Some((l, h)),
                        (_, Unbounded) if *low == Unbounded => Some((l, h)),
                        _ => None,
                    }
                }
                _ => None,
            });
            if let Some((l, h)) = partner {
                if *l == Unbounded {
                    *l = low.clone();
                } else {
                    *h = high.clone();
                }
                continue;
            }
        }
        merged.push(branch);
    }
    merged
}

/// Alternatives for one column under an OR are one IN: one look-up.
fn merge_equals(branches: Vec<Tree>) -> Vec<Tree> {
    let mut merged: Vec<Tree> = Vec::with_capacity(branches.len());
    for branch in branches {
        let (column, items) = match &branch {
            Tree::Leaf(Predicate::Eq(column, item)) => (column, std::slice::from_ref(item)),
            Tree::Leaf(Predicate::In(column, items)) => (column, items.as_slice()),
            _ => {
                merged.push(branch);
                continue;
            }
        };
        let partner = merged.iter_mut().find_map(|t| match t {
            Tree::Leaf(p) if matches!(p, Predicate::Eq(..) | Predicate::In(..)) => {
                (p.column() == column).then_some(p)
            }
            _ => None,
        });
        let Some(partner) = partner else {
            merged.push(branch);
            continue;
        };
        let mut all = match partner {
            Predicate::Eq(_, first) => vec![first.clone()],
            Predicate::In(_, all) => std::mem::take(all),
            _ => Vec::new(),
        };
        all.extend_from_slice(items);
        *partner = Predicate::In(column.clone(), all);
    }
    merged
}
