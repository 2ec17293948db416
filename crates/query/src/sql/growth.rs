//! Functions that make a long value of shorter ones, kept to a size: what they make lies in no pool, and nested a few
//! times they would make of one line of text more than a machine has.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, GenericListArray, OffsetSizeTrait};
use arrow::compute::kernels::concat_elements::concat_elements_utf8;
use arrow::compute::{can_cast_types, cast, concat};
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, LogicalPlan, Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility,
};
use esker_format::Error;

use super::errors;

/// Most bytes that one of them may make of one batch of rows.
const MOST: usize = 64 << 20;
/// Bytes of a number or a time as text.
const NUMBER: usize = 32;
/// Most that `to_char` makes of a byte of its format.
const EXPANDED: usize = 16;

/// Which these are. Others that make long values of short ones are not in the session at all.
const GROWING: [&str; 25] = [
    "array_append",
    "array_concat",
    "array_insert",
    "array_prepend",
    "array_replace",
    "array_replace_all",
    "array_replace_n",
    "array_to_string",
    "array_union",
    "arrays_zip",
    "concat",
    "concat_ws",
    "encode",
    "make_array",
    "map",
    "named_struct",
    "overlay",
    "regexp_replace",
    "replace",
    "row",
    "string_to_array",
    "struct",
    "text_concat",
    "to_char",
    "translate",
];

/// How many rows of a plan that was optimised may be in one batch, of `rows` that are usual: an operator makes a column of a
/// constant, as long as the batch.
pub(super) fn rows_at_once(plan: &LogicalPlan, rows: usize) -> Result<usize> {
    let mut bytes = 0;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                if let Expr::Literal(value, _) = expr {
                    bytes += size(&ColumnarValue::Scalar(value.clone()), 1).total;
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok((MOST / bytes.max(1)).clamp(1, rows))
}

/// The plan as written, with every such function kept to the size.
pub(super) fn bounded(plan: LogicalPlan) -> Result<LogicalPlan> {
    let plan = plan.transform_up_with_subqueries(|node| {
        let names = NamePreserver::new(&node);
        node.map_expressions(|expr| {
            let name = names.save(&expr);
            Ok(bounded_expr(expr)?.update_data(|e| name.restore(e)))
        })?
        .map_data(LogicalPlan::recompute_schema)
    });
    Ok(plan?.data)
}

/// The same of one expression.
pub(crate) fn bounded_expr(expr: Expr) -> Result<Transformed<Expr>> {
    expr.transform_up(|expr| {
        Ok(match expr {
            Expr::ScalarFunction(ScalarFunction { func, args }) if GROWING.contains(&func.name()) => {
                let func = match func.inner().downcast_ref::<Bounded>() {
                    Some(_) => func,
                    None => Arc::new(ScalarUDF::new_from_impl(Bounded(func))),
                };
                Transformed::yes(Expr::ScalarFunction(ScalarFunction { func, args }))
            }
            // Of lists, the planner has made functions.
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::StringConcat, right }) => {
                let func = Arc::new(ScalarUDF::new_from_impl(Bounded(text_concat())));
                Transformed::yes(Expr::ScalarFunction(ScalarFunction { func, args: vec![*left, *right] }))
            }
            expr => Transformed::no(expr),
        })
    })
}

/// A function that refuses to make more than [`MOST`] bytes. It does not simplify itself: what it became would not be
/// bounded.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounded(Arc<ScalarUDF>);

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.0.schema_name(args)
    }

    fn signature(&self) -> &Signature {
        self.0.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.0.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.0.return_field_from_args(args)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.0.coerce_types(types)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let mut left = MOST;
        self.pieces(args, &mut left)
    }
}

impl Bounded {
    /// Calls the function for all rows at once where they cannot make too much, else for half of them at a time.
    fn pieces(&self, args: ScalarFunctionArgs, left: &mut usize) -> Result<ColumnarValue> {
        let columns = args.args.iter().any(|a| matches!(a, ColumnarValue::Array(_)));
        let rows = if columns { args.number_rows } else { 1 };
        if most(self.name(), &args.args, rows) <= *left {
            let made = self.0.invoke_with_args(args)?;
            let bytes = size(&made, 1).total;
            *left = left.checked_sub(bytes).ok_or_else(|| self.too_much())?;
            return Ok(made);
        }
        if rows <= 1 {
            return Err(self.too_much());
        }
        let mut made: Vec<ArrayRef> = Vec::with_capacity(2);
        for (from, count) in [(0, rows / 2), (rows / 2, rows - rows / 2)] {
            let part = ScalarFunctionArgs {
                args: args.args.iter().map(|a| slice(a, from, count)).collect(),
                number_rows: count,
                ..args.clone()
            };
            made.push(self.pieces(part, left)?.into_array(count)?);
        }
        let parts: Vec<&dyn Array> = made.iter().map(AsRef::as_ref).collect();
        Ok(ColumnarValue::Array(concat(&parts)?))
    }

    fn too_much(&self) -> datafusion::error::DataFusionError {
        let message =
            format!("{} would make more than {} MiB of values of one batch of rows", self.name(), MOST >> 20);
        errors::into_datafusion(
            Error::invalid("query", message).with_hint("make shorter values, or of fewer rows"),
        )
    }
}

fn slice(value: &ColumnarValue, from: usize, count: usize) -> ColumnarValue {
    match value {
        ColumnarValue::Array(array) => ColumnarValue::Array(array.slice(from, count)),
        scalar => scalar.clone(),
    }
}

/// Bytes that a call can make at most.
fn most(name: &str, args: &[ColumnarValue], rows: usize) -> usize {
    let sizes: Vec<Size> = args.iter().map(|a| size(a, rows)).collect();
    let of = |at: usize| sizes.get(at).copied().unwrap_or_default();
    let (text, second, third) = (of(0), of(1), of(2));
    match name {
        "replace" => {
            let times = text.total / second.least.max(1) + rows;
            text.total.saturating_add(times.saturating_mul(third.most))
        }
        "regexp_replace" => {
            let times = if sizes.len() > 3 { text.total + rows } else { rows };
            // Each group that the replacement names, by two bytes at least, may be all that matched.
            let groups = text.total.saturating_mul(third.most / 2);
            text.total.saturating_add(times.saturating_mul(third.most)).saturating_add(groups)
        }
        "array_to_string" => {
            let each = NUMBER + second.most + third.most;
            text.total.saturating_add(text.items.saturating_mul(each))
        }
        "to_char" => (second.total + rows * NUMBER).saturating_mul(EXPANDED),
        "concat_ws" => {
            let separators = text.total.saturating_mul(sizes.len());
            sizes.iter().fold(separators, |sum, s| sum.saturating_add(s.total))
        }
        "array_replace" | "array_replace_n" | "array_replace_all" => {
            text.total.saturating_add(text.items.saturating_mul(third.most))
        }
        // A character for another.
        "translate" => text.total.saturating_mul(4),
        "encode" => text.total.saturating_mul(2),
        _ => sizes.iter().fold(0, |sum, s| sum.saturating_add(s.total)),
    }
}

/// How much a value holds, over all rows.
#[derive(Debug, Clone, Copy, Default)]
struct Size {
    /// Bytes.
    total: usize,
    /// Bytes of the shortest text and of the longest value.
    least: usize,
    most: usize,
    /// Elements of lists, and of lists in them.
    items: usize,
}

fn size(value: &ColumnarValue, rows: usize) -> Size {
    match value {
        ColumnarValue::Array(array) => size_of(array.as_ref()),
        ColumnarValue::Scalar(scalar) => {
            let bytes = match scalar {
                ScalarValue::Utf8(v) | ScalarValue::LargeUtf8(v) | ScalarValue::Utf8View(v) => {
                    v.as_ref().map_or(0, String::len)
                }
                other => other.size(),
            };
            let items = scalar.to_array().map_or(0, |one| size_of(one.as_ref()).items);
            let total = bytes.saturating_mul(rows);
            Size { total, least: bytes, most: bytes, items: items.saturating_mul(rows) }
        }
    }
}

fn size_of(array: &dyn Array) -> Size {
    let texts = |lengths: &mut dyn Iterator<Item = usize>| {
        let start = Size { least: usize::MAX, ..Size::default() };
        lengths.fold(start, |s, n| Size {
            total: s.total + n,
            least: s.least.min(n),
            most: s.most.max(n),
            items: 0,
        })
    };
    match array.data_type() {
        DataType::Utf8 => texts(&mut array.as_string::<i32>().iter().flatten().map(str::len)),
        DataType::LargeUtf8 => texts(&mut array.as_string::<i64>().iter().flatten().map(str::len)),
        DataType::Utf8View => texts(&mut array.as_string_view().iter().flatten().map(str::len)),
        DataType::Dictionary(_, _) => {
            // A value may be that of every row.
            let most = size_of(array.as_any_dictionary().values().as_ref()).most;
            Size { total: most.saturating_mul(array.len()), least: 0, most, items: 0 }
        }
        DataType::List(_) => nested(&items_of(array.as_list::<i32>()), array.len()),
        DataType::LargeList(_) => nested(&items_of(array.as_list::<i64>()), array.len()),
        DataType::FixedSizeList(..) => nested(array.as_fixed_size_list().values(), array.len()),
        DataType::Map(..) => {
            let map = array.as_map();
            let (from, to) = ends(map.value_offsets());
            nested(&(Arc::new(map.entries().slice(from, to - from)) as ArrayRef), array.len())
        }
        DataType::Struct(_) => {
            let columns = array.as_struct().columns().iter().map(|c| size_of(c.as_ref()));
            columns.fold(Size::default(), |s, c| Size {
                total: s.total.saturating_add(c.total),
                least: 0,
                most: s.most.saturating_add(c.most),
                items: s.items.saturating_add(c.items),
            })
        }
        _ => {
            let total = array.to_data().get_slice_memory_size().unwrap_or(usize::MAX);
            Size { total, least: 0, most: total, items: 0 }
        }
    }
}

/// The elements of a list array's rows: those of a slice only.
fn items_of<O: OffsetSizeTrait>(lists: &GenericListArray<O>) -> ArrayRef {
    let (from, to) = ends(lists.value_offsets());
    lists.values().slice(from, to - from)
}

fn ends<O: OffsetSizeTrait>(offsets: &[O]) -> (usize, usize) {
    let at = |offset: Option<&O>| offset.map_or(0, |o| o.as_usize());
    (at(offsets.first()), at(offsets.last()))
}

fn nested(items: &ArrayRef, rows: usize) -> Size {
    let of = size_of(items.as_ref());
    let total = of.total.saturating_add(rows * 8);
    Size { total, least: 0, most: total, items: items.len().saturating_add(of.items) }
}

/// `||` of texts as a function: NULL where either is.
pub(super) fn text_concat() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(TextConcat(Signature::user_defined(Volatility::Immutable))))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct TextConcat(Signature);

impl ScalarUDFImpl for TextConcat {
    fn name(&self) -> &'static str {
        "text_concat"
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    /// As of the operator.
    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let names: Vec<String> = args.iter().map(|a| a.schema_name().to_string()).collect();
        Ok(names.join(" || "))
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let is_text = |t: &DataType| match t {
            DataType::Dictionary(_, value) => value.is_string(),
            t => t.is_string() || t.is_null(),
        };
        match types {
            [a, b]
                if (is_text(a) || is_text(b)) && types.iter().all(|t| can_cast_types(t, &DataType::Utf8)) =>
            {
                Ok(vec![DataType::Utf8; 2])
            }
            [a, b] => plan_err!("|| joins texts, not {a} and {b}"),
            _ => plan_err!("text_concat takes two texts"),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let columns = args.args.iter().any(|a| matches!(a, ColumnarValue::Array(_)));
        let rows = if columns { args.number_rows } else { 1 };
        let texts: Vec<ArrayRef> = args
            .args
            .into_iter()
            .map(|a| Ok(cast(&a.into_array(rows)?, &DataType::Utf8)?))
            .collect::<Result<_>>()?;
        let [a, b] = texts.as_slice() else { return plan_err!("text_concat takes two texts") };
        let joined: ArrayRef = Arc::new(concat_elements_utf8(a.as_string::<i32>(), b.as_string::<i32>())?);
        match columns {
            true => Ok(ColumnarValue::Array(joined)),
            false => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&joined, 0)?)),
        }
    }
}
