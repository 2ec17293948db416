//! Parameters of a query: `$1`, `$2`, …

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use esker_format::{Error, Result};
use serde_json::Value;

use super::vectors;

/// A value for a parameter.
#[derive(Debug, Clone, PartialEq)]
pub enum Param {
    /// No value.
    Null,
    /// A boolean.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f64),
    /// Text.
    String(String),
    /// A vector.
    Vector(Vec<f32>),
    /// A list of texts.
    Strings(Vec<String>),
}

impl Param {
    /// From JSON. A list of numbers is a vector, a list of texts a list.
    pub fn json(value: &Value) -> Result<Param> {
        let refuse = |what: &str| Err(Error::invalid("params", format!("a parameter cannot be {what}")));
        Ok(match value {
            Value::Null => Param::Null,
            Value::Bool(v) => Param::Bool(*v),
            Value::String(v) => Param::String(v.clone()),
            Value::Number(n) => match (n.as_i64(), n.as_f64()) {
                (Some(v), _) => Param::Int(v),
                (None, Some(v)) => Param::Float(v),
                (None, None) => return refuse("a number beyond 64 bits"),
            },
            Value::Array(items) if !items.is_empty() && items.iter().all(Value::is_number) => {
                Param::Vector(items.iter().filter_map(Value::as_f64).map(|v| v as f32).collect())
            }
            Value::Array(items) if items.iter().all(Value::is_string) => {
                Param::Strings(items.iter().filter_map(Value::as_str).map(str::to_owned).collect())
            }
            Value::Array(_) => return refuse("a list of anything but numbers or texts"),
            Value::Object(_) => return refuse("an object"),
        })
    }

    pub(super) fn scalar(&self) -> ScalarValue {
        match self {
            Param::Null => ScalarValue::Null,
            Param::Bool(v) => ScalarValue::from(*v),
            Param::Int(v) => ScalarValue::from(*v),
            Param::Float(v) => ScalarValue::from(*v),
            Param::String(v) => ScalarValue::from(v.as_str()),
            Param::Vector(v) => vectors::constant(v),
            Param::Strings(v) => {
                let items: Vec<_> = v.iter().map(|s| ScalarValue::from(s.as_str())).collect();
                ScalarValue::List(ScalarValue::new_list(&items, &DataType::Utf8, false))
            }
        }
    }
}

impl From<Vec<f32>> for Param {
    fn from(v: Vec<f32>) -> Self {
        Param::Vector(v)
    }
}
