//! DataFusion's simplifier without the rewrites that change an answer.
//!
//! Version 55 takes these for equal, and they are not:
//!
//! | as written | as rewritten | differs | upstream |
//! |---|---|---|---|
//! | `c NOT IN (1) OR c NOT IN (2)` | `true` | c null | #24246, PR 24258 |
//! | `c IN (1) AND c IN (2)`, `c IN (1) AND c NOT IN (1)` | `false` | c null | the same |
//! | `c IN (1, NULL) AND c IN (1, 2)` | `c = 1` | c = 2 | the same |
//! | `c IN (1) AND c NOT IN (2, NULL)` | `c = 1` | c = 1 | the same |
//! | `c IN (a, 1) AND c IN (b, 1)`, `c IN (a) AND c NOT IN (b)` | `c = 1`, `c = a` | a = b | none found |
//! | `s ~ '.*'`, `regexp_like(s, '.*')` | `s IS NOT NULL` | s null | #24379 |
//! | `s ~ 'a\\b'` | `s LIKE '%a\b%'`, an escape | s = 'a\b', s = 'ab' | none found |
//! | `TRY_CAST(c AS tinyint) > 1` | `c > 1` | c = 300 | #24702, #14303 |
//! | `array_has([a, 1], 2)` | `2 IN (a, 1)` | a null | #24246 |
//! | `c ^ c` | `0` | c null | #24246 |
//! | `c & -c`, `c \| -c`, `-(a & b)` | `0`, `-1`, `-a \| -b` | almost all | #24665 |
//! | `log(a, 1)`, `log(a, a)`, `power(a, log(a, b))` | `0`, `1`, `b` | a = 1, a ≤ 0 | #25137 |
//! | `c >= 5 AND 5 < c`, of a join | `c >= 5` | c = 5 | as #18214 |
//!
//! The lists need not be written: `c = 1 OR c = 2` becomes one on the way, and so do `BETWEEN`, `LIKE` and `NOT (c <> 1 AND
//! …)`. Under `NOT`, `IS NULL`, `CASE`, in an outer join or as a column of the answer, false and null differ.
//!
//! All else the simplifier does is wanted: constants, casts moved to literals, common factors. So it runs as it is, over
//! expressions in which the operands that lead it astray are wrapped in [`Hidden`] functions, which are taken off again
//! before anything else sees the plan. Where lists of one column could meet, each list's columns are wrapped in a function
//! of its own, which no other equals.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::expr::{InList, ScalarFunction};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::split_binary;
use datafusion::logical_expr::{BinaryExpr, Expr, LogicalPlan, Operator};
use datafusion::optimizer::optimizer::{ApplyOrder, Optimizer};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

use self::hidden::{blind, reveal, veil};

mod hidden;

/// `expr` simplified.
pub(crate) fn simplify(simplifier: &ExprSimplifier, expr: Expr) -> Result<Expr> {
    Ok(reveal(simplifier.simplify(hide(expr)?.data)?)?.data)
}

/// DataFusion's rules, the simplifier among them replaced by ours.
pub(super) fn rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    let ours = |rule: Arc<dyn OptimizerRule + Send + Sync>| match rule.name() {
        "simplify_expressions" => Arc::new(Simplify(rule)) as _,
        _ => rule,
    };
    Optimizer::new().rules.into_iter().map(ours).collect()
}

/// DataFusion's rule over expressions with the dangerous parts hidden.
#[derive(Debug)]
struct Simplify(Arc<dyn OptimizerRule + Send + Sync>);

impl OptimizerRule for Simplify {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.0.apply_order()
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let names = NamePreserver::new(&plan);
        let mut hide = |expr: Expr| {
            let name = names.save(&expr);
            Ok(hide(expr)?.update_data(|e| name.restore(e)))
        };
        let plan = plan.map_expressions(|expr| match expr {
            Expr::GroupingSet(_) => expr.map_children(&mut hide),
            expr => hide(expr),
        })?;
        let simplified = self.0.rewrite(plan.data, config)?;
        if !plan.transformed {
            return Ok(simplified);
        }
        // All of the plan: the rule may put a projection over an aggregate.
        simplified.transform_data(|plan| plan.transform_down(|node| node.map_expressions(reveal)))
    }
}

fn hide(expr: Expr) -> Result<Transformed<Expr>> {
    let mut constants = 0;
    expr.transform_up(|node| hide_node(node, &mut constants))?.transform_data(|expr| {
        if !lists_meet(&expr) {
            return Ok(Transformed::no(expr));
        }
        Ok(Transformed::yes(tell_apart(expr, 0, &mut 0)?))
    })
}

/// Hides what the simplifier gets wrong in one node whatever stands beside it. `constants` counts those hidden.
fn hide_node(expr: Expr, constants: &mut usize) -> Result<Transformed<Expr>> {
    Ok(match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => binary(*left, op, *right),
        Expr::Negative(inner) => match *inner {
            Expr::BinaryExpr(BinaryExpr { op: Operator::BitwiseAnd | Operator::BitwiseOr, .. }) => {
                Transformed::yes(Expr::Negative(Box::new(veil(*inner, 0))))
            }
            inner => Transformed::no(Expr::Negative(Box::new(inner))),
        },
        // A constant before columns, `1 IN (a, b)`, has no column to tell apart.
        Expr::InList(list) if !varies(&list.expr) && list.list.iter().any(varies) && !is_null(&list.expr) => {
            *constants += 1;
            Transformed::yes(Expr::InList(InList { expr: Box::new(blind(*list.expr, *constants)), ..list }))
        }
        Expr::TryCast(_) if varies(&expr) => Transformed::yes(veil(expr, 0)),
        Expr::ScalarFunction(ScalarFunction { func, mut args }) => {
            let hidden = match (func.name(), args.as_slice()) {
                ("arrow_try_cast" | "try_cast_to_type", _) => {
                    let call = Expr::ScalarFunction(ScalarFunction { func, args });
                    return Ok(Transformed::yes(if varies(&call) { veil(call, 0) } else { call }));
                }
                ("regexp_like", [text, pattern, ..]) if varies(text) && !plain(pattern) => 1,
                ("log" | "power", [base, number]) if varies(base) || varies(number) => 1,
                ("array_has", [list, item]) if (varies(list) || varies(item)) && may_hold_null(list) => 0,
                _ => return Ok(Transformed::no(Expr::ScalarFunction(ScalarFunction { func, args }))),
            };
            args[hidden] = blind(std::mem::take(&mut args[hidden]), 0);
            Transformed::yes(Expr::ScalarFunction(ScalarFunction { func, args }))
        }
        expr => Transformed::no(expr),
    })
}

fn binary(left: Expr, op: Operator, right: Expr) -> Transformed<Expr> {
    use Operator::{BitwiseAnd, BitwiseOr, BitwiseXor};
    let node = |left, op, right| Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)));
    match op {
        // To bitwise operators a negative is a complement and no operand is null, where they find it twice.
        BitwiseAnd | BitwiseOr | BitwiseXor if varies(&left) && varies(&right) => {
            Transformed::yes(node(veil(left, 1), op, veil(right, 2)))
        }
        op if is_regex(op) && varies(&left) && !plain(&right) => {
            Transformed::yes(node(left, op, blind(right, 0)))
        }
        // Predicates of a column are pruned by their operator as if the column stood first. The simplifier turns them, but
        // not in joins and not where the column is hidden.
        op if is_comparison(op) => match (&left, &right, op.swap()) {
            (Expr::Literal(..), Expr::Column(_), Some(swapped)) => {
                Transformed::yes(node(right, swapped, left))
            }
            _ => Transformed::no(node(left, op, right)),
        },
        op => Transformed::no(node(left, op, right)),
    }
}

fn is_comparison(op: Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, Lt, LtEq, NotEq};
    matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq)
}

fn is_regex(op: Operator) -> bool {
    use Operator::{RegexIMatch, RegexMatch, RegexNotIMatch, RegexNotMatch};
    matches!(op, RegexMatch | RegexIMatch | RegexNotMatch | RegexNotIMatch)
}

/// Whether the simplifier reads the regular expression right: then it becomes `LIKE` or `=`.
fn plain(pattern: &Expr) -> bool {
    match pattern {
        Expr::Literal(value, _) => match value.try_as_str().flatten() {
            Some(text) => text != ".*" && !text.contains(['\\', '(', '|']),
            None => true,
        },
        other => varies(other),
    }
}

/// Whether a list may have missing items. To `array_has` they are no items, to `IN` they are unknown.
fn may_hold_null(list: &Expr) -> bool {
    match list {
        Expr::Literal(value, _) if value.is_null() => false,
        Expr::Literal(value, _) => value.to_array().is_ok_and(|lists| {
            let items = arrow::array::AsArray::as_list_opt::<i32>(&lists).map(|l| l.values().clone());
            items.is_none_or(|items| items.logical_null_count() > 0)
        }),
        Expr::ScalarFunction(call) if call.func.name() == "make_array" => {
            call.args.iter().any(|item| !matches!(item, Expr::Literal(..)) || is_null(item))
        }
        // A constant that is yet to be computed.
        other => !varies(other),
    }
}

/// Whether the simplifier may make an IN list of a function: `array_has` with a list of constants.
fn becomes_list(expr: &Expr) -> bool {
    matches!(expr, Expr::ScalarFunction(f) if f.func.name() == "array_has" && f.args.first().is_some_and(|l| !varies(l)))
}

fn is_null(expr: &Expr) -> bool {
    matches!(expr, Expr::Literal(value, _) if value.is_null())
}

/// What has another value in another row.
fn is_variable(expr: &Expr) -> bool {
    matches!(
        expr,
        Expr::Column(_) | Expr::OuterReferenceColumn(..) | Expr::LambdaVariable(_) | Expr::ScalarSubquery(_)
    )
}

fn variables(expr: &Expr) -> Vec<&Expr> {
    let mut found = Vec::new();
    // Infallible: the closure never fails.
    let _ = expr.apply(|e| {
        if is_variable(e) && !found.contains(&e) {
            found.push(e);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found
}

fn varies(expr: &Expr) -> bool {
    !variables(expr).is_empty()
}

/// Whether two IN lists of one column may arise in `expr`. One arises from a list, from alternatives for a column beside
/// each other, and from any two comparisons.
fn lists_meet(expr: &Expr) -> bool {
    let mut tests = Tests::default();
    tests.count(expr);
    tests.0.iter().any(|(_, n)| *n >= 2 * LIST)
}

const LIST: usize = 2;
const COMPARISON: usize = 1;

/// How often each variable is tested.
#[derive(Default)]
struct Tests<'a>(Vec<(&'a Expr, usize)>);

impl<'a> Tests<'a> {
    fn count(&mut self, expr: &'a Expr) {
        match expr {
            Expr::BinaryExpr(BinaryExpr { op: Operator::Or, .. }) => {
                let (alike, others): (Vec<_>, Vec<_>) =
                    split_binary(expr, Operator::Or).into_iter().partition(|e| is_equality(e));
                self.add(&alike, LIST);
                alike.into_iter().for_each(|e| self.count_below(e));
                return others.into_iter().for_each(|e| self.count(e));
            }
            Expr::InList(_) => self.add(&[expr], LIST),
            _ if becomes_list(expr) => self.add(&[expr], LIST),
            Expr::ScalarFunction(call) if call.func.name() == "regexp_like" => self.add(&[expr], COMPARISON),
            Expr::Between(_) | Expr::Like(_) => self.add(&[expr], COMPARISON),
            Expr::BinaryExpr(b) if is_comparison(b.op) || is_regex(b.op) => self.add(&[expr], COMPARISON),
            _ => {}
        }
        self.count_below(expr);
    }

    fn count_below(&mut self, expr: &'a Expr) {
        let _ = expr.apply_children(|e| {
            self.count(e);
            Ok(TreeNodeRecursion::Continue)
        });
    }

    /// Counts the variables of tests that can only become one list.
    fn add(&mut self, together: &[&'a Expr], weight: usize) {
        let mut found: Vec<&Expr> = Vec::new();
        for variable in together.iter().flat_map(|e| variables(e)) {
            if !found.contains(&variable) {
                found.push(variable);
            }
        }
        for variable in found {
            match self.0.iter_mut().find(|(v, _)| *v == variable) {
                Some((_, n)) => *n += weight,
                None => self.0.push((variable, weight)),
            }
        }
    }
}

/// What joins other alternatives for its column in one list.
fn is_equality(expr: &Expr) -> bool {
    match expr {
        Expr::BinaryExpr(BinaryExpr { op: Operator::Eq, .. }) => true,
        Expr::InList(list) => !list.negated,
        _ => false,
    }
}

/// Wraps every variable: those of a list in a function of its own, all others in a common one, which hides that they are
/// columns (and might become a list) but not that they are equal.
fn tell_apart(expr: Expr, tag: usize, lists: &mut usize) -> Result<Expr> {
    if is_variable(&expr) {
        return Ok(veil(expr, tag));
    }
    match expr {
        Expr::InList(InList { expr, list, negated }) => {
            *lists += 1;
            let own = *lists;
            let subject = tell_apart(*expr, own, lists)?;
            let list = match list.as_slice() {
                // `c IN ((SELECT …))` is a subquery that the simplifier has to recognize.
                [Expr::ScalarSubquery(_)] => list,
                _ => list.into_iter().map(|e| tell_apart(e, own, lists)).collect::<Result<_>>()?,
            };
            Ok(Expr::InList(InList { expr: Box::new(subject), list, negated }))
        }
        expr => {
            let own = becomes_list(&expr);
            *lists += usize::from(own);
            let tag = if own { *lists } else { tag };
            Ok(expr.map_children(|e| tell_apart(e, tag, lists).map(Transformed::yes))?.data)
        }
    }
}
