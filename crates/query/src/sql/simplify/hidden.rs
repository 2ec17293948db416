//! Functions that return their argument and that the simplifier does not see through.

use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Result, plan_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

/// The identity. Functions of different tags are different, so that their calls are not the same expression.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Hidden {
    tag: usize,
    signature: Signature,
}

impl ScalarUDFImpl for Hidden {
    fn name(&self) -> &str {
        "hidden"
    }

    /// As its argument, so that columns of a plan keep their names.
    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        match args {
            [arg] => Ok(arg.schema_name().to_string()),
            _ => plan_err!("hidden has one argument"),
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [one] => Ok(one.clone()),
            _ => plan_err!("hidden has one argument"),
        }
    }

    /// Null where its argument is, and only there.
    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        match args.arg_fields {
            [one] => Ok(one.clone()),
            _ => plan_err!("hidden has one argument"),
        }
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match args.args.pop() {
            Some(arg) => Ok(arg),
            None => plan_err!("hidden has one argument"),
        }
    }
}

fn call(arg: Expr, tag: usize, volatility: Volatility) -> Expr {
    let hidden = Hidden { tag, signature: Signature::any(1, volatility) };
    Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(ScalarUDF::new_from_impl(hidden)), vec![arg]))
}

/// Hides what an expression is, and tells it apart from the same one under another tag.
pub(super) fn veil(expr: Expr, tag: usize) -> Expr {
    call(expr, tag, Volatility::Immutable)
}

/// As [`veil`], and hides the value of a constant: what is volatile is not evaluated while planning.
pub(super) fn blind(expr: Expr, tag: usize) -> Expr {
    call(expr, tag, Volatility::Volatile)
}

/// `expr` with nothing hidden.
pub(super) fn reveal(expr: Expr) -> Result<Transformed<Expr>> {
    expr.transform_up(|e| {
        Ok(match e {
            Expr::ScalarFunction(mut call) if call.func.inner().is::<Hidden>() => match call.args.pop() {
                Some(arg) => Transformed::yes(arg),
                None => return plan_err!("hidden has one argument"),
            },
            e => Transformed::no(e),
        })
    })
}
