//! The JSON form of a filter: `{"section": {"$eq": "python"}, "$and": [...]}`.

use datafusion::common::Column;
use datafusion::functions_nested::expr_fn::array_has;
use datafusion::logical_expr::{Expr, Operator, binary_expr, lit};
use esker_format::{Error, Result, limits};
use serde_json::{Map, Value};

use super::guard;
use super::suggest;

const OPERATORS: [&str; 11] =
    ["$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$contains", "$exists", "$like"];

/// The expression of a JSON filter, its columns not yet looked up.
pub(super) fn parse(filter: &Value) -> Result<Expr> {
    let mut reader = Reader { terms: 0, depth: 0 };
    let expr = reader.object("filter", filter)?;
    guard::terms("filter", reader.terms)?;
    Ok(expr)
}

struct Reader {
    terms: usize,
    depth: usize,
}

impl Reader {
    /// An object: all of its members hold.
    fn object(&mut self, path: &str, value: &Value) -> Result<Expr> {
        let Value::Object(members) = value else {
            return Err(wrong(path, format!("a filter is an object, not {}", shown(value))));
        };
        self.terms += usize::from(members.is_empty());
        self.deeper(path, |reader| {
            let parts = members
                .iter()
                .map(|(key, value)| reader.member(&format!("{path}.{key}"), key, value))
                .collect::<Result<Vec<_>>>()?;
            Ok(reader.all(parts))
        })
    }

    fn member(&mut self, path: &str, key: &str, value: &Value) -> Result<Expr> {
        match key {
            "$and" => self.list(path, value).map(|parts| self.all(parts)),
            "$or" => self.list(path, value).map(|parts| self.joined(parts, Expr::or, false)),
            "$not" => Ok(!self.object(path, value)?),
            key if key.starts_with('$') => Err(unknown(path, key, ["$and", "$or", "$not"])
                .with_hint("a column's operators go inside its object: {\"column\": {\"$eq\": 1}}")),
            column => self.column(path, column, value),
        }
    }

    fn list(&mut self, path: &str, value: &Value) -> Result<Vec<Expr>> {
        let Value::Array(items) = value else {
            return Err(wrong(path, format!("needs a list of filters, not {}", shown(value))));
        };
        self.terms += usize::from(items.is_empty());
        items.iter().enumerate().map(|(i, item)| self.object(&format!("{path}[{i}]"), item)).collect()
    }

    /// `{"column": value}` or `{"column": {operator: value, …}}`.
    fn column(&mut self, path: &str, column: &str, value: &Value) -> Result<Expr> {
        match value {
            Value::Object(operators) => self.operators(path, column, operators),
            value => self.operator(path, column, "$eq", value),
        }
    }

    fn operators(&mut self, path: &str, column: &str, operators: &Map<String, Value>) -> Result<Expr> {
        if operators.is_empty() {
            return Err(wrong(path, "has no operator"));
        }
        self.deeper(path, |reader| {
            let parts = operators
                .iter()
                .map(|(operator, value)| {
                    let path = format!("{path}.{operator}");
                    match (operator.as_str(), value) {
                        ("$not", value) => Ok(!reader.column(&path, column, value)?),
                        (operator, value) => reader.operator(&path, column, operator, value),
                    }
                })
                .collect::<Result<Vec<_>>>()?;
            Ok(reader.all(parts))
        })
    }

    fn operator(&mut self, path: &str, column: &str, operator: &str, value: &Value) -> Result<Expr> {
        self.terms += 1;
        let subject = Expr::Column(Column::new_unqualified(column));
        let compare = |op| Ok(binary_expr(subject.clone(), op, scalar(path, value)?));
        match operator {
            "$eq" => compare(Operator::Eq),
            "$ne" => compare(Operator::NotEq),
            "$gt" => compare(Operator::Gt),
            "$gte" => compare(Operator::GtEq),
            "$lt" => compare(Operator::Lt),
            "$lte" => compare(Operator::LtEq),
            "$in" | "$nin" => {
                let Value::Array(items) = value else {
                    return Err(wrong(path, format!("needs a list of values, not {}", shown(value))));
                };
                let items = items.iter().map(|v| scalar(path, v)).collect::<Result<Vec<_>>>()?;
                Ok(subject.in_list(items, operator == "$nin"))
            }
            "$contains" => Ok(array_has(subject, lit(text(path, value)?))),
            "$like" => Ok(subject.like(lit(text(path, value)?))),
            "$exists" => match value {
                Value::Bool(true) => Ok(subject.is_not_null()),
                Value::Bool(false) => Ok(subject.is_null()),
                value => Err(wrong(path, format!("needs true or false, not {}", shown(value)))),
            },
            other => Err(unknown(path, other, OPERATORS)),
        }
    }

    /// The parts as one expression. It is as deep as they are many, so none is made of more than will be let pass.
    fn joined(&self, parts: Vec<Expr>, join: fn(Expr, Expr) -> Expr, of_none: bool) -> Expr {
        let joined = if self.terms > limits::FILTER_TERMS { None } else { parts.into_iter().reduce(join) };
        joined.unwrap_or_else(|| lit(of_none))
    }

    fn all(&self, parts: Vec<Expr>) -> Expr {
        self.joined(parts, Expr::and, true)
    }

    fn deeper<T>(&mut self, path: &str, inner: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth == guard::NESTING {
            return Err(wrong(path, format!("is nested more than {} levels deep", guard::NESTING)));
        }
        self.depth += 1;
        let read = inner(self);
        self.depth -= 1;
        read
    }
}

fn scalar(path: &str, value: &Value) -> Result<Expr> {
    match value {
        Value::Bool(v) => Ok(lit(*v)),
        Value::String(v) => Ok(lit(v.as_str())),
        Value::Number(n) => match (n.as_i64(), n.as_u64(), n.as_f64()) {
            (Some(v), ..) => Ok(lit(v)),
            (None, Some(v), _) => Ok(lit(v)),
            (None, None, Some(v)) => Ok(lit(v)),
            _ => Err(wrong(path, format!("{n} is not a number of 64 bits"))),
        },
        Value::Null => Err(wrong(path, "nothing compares with null")
            .with_hint("use {\"$exists\": false} for missing values")),
        other => Err(wrong(path, format!("needs a boolean, a number or text, not {}", shown(other)))),
    }
}

fn text<'a>(path: &str, value: &'a Value) -> Result<&'a str> {
    value.as_str().ok_or_else(|| wrong(path, format!("needs text, not {}", shown(value))))
}

fn shown(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn wrong(path: &str, message: impl std::fmt::Display) -> Error {
    Error::invalid(path, format!("{path}: {message}"))
}

fn unknown<'a>(path: &str, name: &str, known: impl IntoIterator<Item = &'a str>) -> Error {
    let error = wrong(path, format!("unknown operator {name}"));
    match suggest::hint("operators", name, known) {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}
