//! `cosine_distance`, `l2_distance` and `inner_product` (WIRE §6), exact, by the kernels of the index.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float32Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Float16Type, Float32Type};
use datafusion::common::{Result, ScalarValue, exec_err, internal_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use esker_format::schema::Metric;
use esker_index::Exact;

/// Which function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Function {
    Cosine,
    L2,
    InnerProduct,
}

impl Function {
    const ALL: [Function; 3] = [Function::Cosine, Function::L2, Function::InnerProduct];

    pub fn name(self) -> &'static str {
        match self {
            Function::Cosine => "cosine_distance",
            Function::L2 => "l2_distance",
            Function::InnerProduct => "inner_product",
        }
    }

    /// The metric of collections whose index answers it.
    pub fn metric(self) -> Metric {
        match self {
            Function::Cosine => Metric::Cosine,
            Function::L2 => Metric::L2,
            Function::InnerProduct => Metric::Dot,
        }
    }

    /// From the metric's distance, which for `inner_product` is its negative. `0 −` keeps zero positive.
    fn value(self, distance: f32) -> f32 {
        if self == Function::InnerProduct { 0.0 - distance } else { distance }
    }

    fn exact(self, query: &[f32]) -> Exact {
        let metric = match self {
            Function::Cosine => esker_index::Metric::Cosine,
            Function::L2 => esker_index::Metric::L2,
            Function::InnerProduct => esker_index::Metric::Dot,
        };
        Exact::new(metric, query)
    }
}

/// The functions, to be registered over DataFusion's of the same name.
pub(super) fn functions() -> Vec<Arc<ScalarUDF>> {
    Function::ALL.into_iter().map(|f| Arc::new(ScalarUDF::new_from_impl(Distance::new(f)))).collect()
}

/// The function and arguments of a call to one of ours.
pub(super) fn call(expr: &Expr) -> Option<(Function, &Expr, &Expr)> {
    let Expr::ScalarFunction(call) = expr else { return None };
    let function = call.func.inner().downcast_ref::<Distance>()?.function;
    match call.args.as_slice() {
        [a, b] => Some((function, a, b)),
        _ => None,
    }
}

/// Dimension of a fixed-size list.
pub(super) fn dimension(t: &DataType) -> Option<i32> {
    match t {
        DataType::FixedSizeList(_, d) => Some(*d),
        _ => None,
    }
}

/// The Arrow type of a vector given in a query.
pub(super) fn query_type(dimension: i32) -> DataType {
    DataType::FixedSizeList(Arc::new(Field::new("item", DataType::Float32, false)), dimension)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Distance {
    function: Function,
    signature: Signature,
    aliases: Vec<String>,
}

impl Distance {
    fn new(function: Function) -> Self {
        let aliases = match function {
            Function::InnerProduct => vec!["dot_product".to_owned()],
            Function::Cosine | Function::L2 => Vec::new(),
        };
        Distance { function, signature: Signature::user_defined(Volatility::Immutable), aliases }
    }
}

impl ScalarUDFImpl for Distance {
    fn name(&self) -> &str {
        self.function.name()
    }

    /// The name under which DataFusion's own is also known.
    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    /// As written, with long vectors left out.
    fn display_name(&self, args: &[Expr]) -> Result<String> {
        let shown = args.iter().map(|a| match a {
            Expr::Literal(value, _) if dimension(&value.data_type()).is_some() => {
                format!("[{} numbers]", dimension(&value.data_type()).unwrap_or_default())
            }
            other => other.to_string(),
        });
        Ok(format!("{}({})", self.name(), shown.collect::<Vec<_>>().join(", ")))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float32)
    }

    /// Null only where a vector is, which the column of a collection never is.
    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let nullable = args.arg_fields.iter().any(|f| f.is_nullable());
        Ok(Arc::new(Field::new(self.name(), DataType::Float32, nullable)))
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let [a, b] = types else {
            return plan_err!("{} takes two vectors, not {} arguments", self.name(), types.len());
        };
        if let (Some(x), Some(y)) = (dimension(a), dimension(b))
            && x != y
        {
            return plan_err!("{} compares a vector of {x} dimensions with one of {y}", self.name());
        }
        let common = dimension(a).or(dimension(b));
        types.iter().map(|t| self.coerce(t, common)).collect()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [a, b] = args.args.as_slice() else {
            return internal_err!("{} was called with {} arguments", self.name(), args.args.len());
        };
        let values = match (a, b) {
            (ColumnarValue::Array(rows), ColumnarValue::Scalar(one))
            | (ColumnarValue::Scalar(one), ColumnarValue::Array(rows)) => self.one_to_many(one, rows)?,
            (ColumnarValue::Array(a), ColumnarValue::Array(b)) => self.pairs(a, b)?,
            (ColumnarValue::Scalar(a), ColumnarValue::Scalar(b)) => {
                let value = self.pairs(&a.to_array()?, &b.to_array()?)?;
                return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&value, 0)?));
            }
        };
        Ok(ColumnarValue::Array(Arc::new(values)))
    }
}

impl Distance {
    /// Lists of numbers become vectors of f32; stored vectors stay as they are.
    fn coerce(&self, t: &DataType, common: Option<i32>) -> Result<DataType> {
        match t {
            DataType::FixedSizeList(f, _)
                if matches!(f.data_type(), DataType::Float32 | DataType::Float16) =>
            {
                Ok(t.clone())
            }
            DataType::FixedSizeList(f, d) if f.data_type().is_numeric() => Ok(query_type(*d)),
            DataType::List(f) | DataType::LargeList(f)
                if f.data_type().is_numeric() || f.data_type().is_null() =>
            {
                Ok(match common {
                    Some(d) => query_type(d),
                    None => DataType::List(Arc::new(Field::new("item", DataType::Float32, true))),
                })
            }
            // A parameter whose value is not known yet, or NULL.
            DataType::Null => Ok(match common {
                Some(d) => query_type(d),
                None => DataType::Null,
            }),
            other => plan_err!(
                "{} takes vectors: a vector column, a list of numbers or a parameter, not {other}",
                self.name()
            ),
        }
    }

    fn one_to_many(&self, one: &ScalarValue, rows: &ArrayRef) -> Result<Float32Array> {
        let one = one.to_array()?;
        let Some(query) = row(&one, 0)? else { return Ok(Float32Array::new_null(rows.len())) };
        let exact = self.function.exact(&query);
        if let Some(list) = rows.as_fixed_size_list_opt()
            && let Some(halves) = list.values().as_primitive_opt::<Float16Type>()
            && list.value_length() as usize == query.len()
            && halves.null_count() == 0
        {
            let (d, start) = (query.len(), list.value_offset(0) as usize);
            let halves = &halves.values()[start..];
            let value = |i| self.function.value(exact.f16(&halves[i * d..(i + 1) * d]));
            return Ok((0..list.len()).map(|i| list.is_valid(i).then(|| value(i))).collect());
        }
        (0..rows.len())
            .map(|i| {
                let Some(row) = row(rows, i)? else { return Ok(None) };
                self.same(query.len(), row.len())?;
                Ok(Some(self.function.value(exact.f32(&row))))
            })
            .collect()
    }

    fn pairs(&self, a: &ArrayRef, b: &ArrayRef) -> Result<Float32Array> {
        (0..a.len())
            .map(|i| {
                let (Some(x), Some(y)) = (row(a, i)?, row(b, i)?) else { return Ok(None) };
                self.same(x.len(), y.len())?;
                Ok(Some(self.function.value(self.function.exact(&x).f32(&y))))
            })
            .collect()
    }

    fn same(&self, x: usize, y: usize) -> Result<()> {
        if x == y {
            return Ok(());
        }
        exec_err!("{} compares a vector of {x} dimensions with one of {y}", self.name())
    }
}

/// Row `i` of an array of vectors as f32; none where it is null.
fn row(array: &ArrayRef, i: usize) -> Result<Option<Cow<'_, [f32]>>> {
    if array.is_null(i) || array.data_type().is_null() {
        return Ok(None);
    }
    let (values, from, to) = if let Some(list) = array.as_fixed_size_list_opt() {
        let from = list.value_offset(i) as usize;
        (list.values(), from, from + list.value_length() as usize)
    } else if let Some(list) = array.as_list_opt::<i32>() {
        (list.values(), list.value_offsets()[i] as usize, list.value_offsets()[i + 1] as usize)
    } else {
        return internal_err!("a vector has type {}", array.data_type());
    };
    if values.slice(from, to - from).null_count() > 0 {
        return exec_err!("a vector has an element that is null");
    }
    Ok(Some(match values.as_primitive_opt::<Float32Type>() {
        Some(floats) => Cow::Borrowed(&floats.values()[from..to]),
        None => {
            let floats = cast(&values.slice(from, to - from), &DataType::Float32)?;
            Cow::Owned(floats.as_primitive::<Float32Type>().values().to_vec())
        }
    }))
}
