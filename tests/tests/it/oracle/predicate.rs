//! Random conditions: as SQL, as JSON, and decided by hand in three-valued logic.

use std::cmp::Ordering;

use esker_format::record::Value;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Value as Json, json};

use super::model::{Row, TAGS, TEXTS};

/// How two values are compared: SQL, JSON.
type Comparison = (&'static str, &'static str, fn(Ordering) -> bool);

const COMPARISONS: [Comparison; 6] = [
    ("=", "$eq", |o| o.is_eq()),
    ("<>", "$ne", |o| o.is_ne()),
    ("<", "$lt", |o| o.is_lt()),
    ("<=", "$lte", |o| o.is_le()),
    (">", "$gt", |o| o.is_gt()),
    (">=", "$gte", |o| o.is_ge()),
];

#[derive(Debug, Clone)]
pub enum Predicate {
    Compare(&'static str, Comparison, Value),
    Between(&'static str, Value, Value),
    In(&'static str, Vec<Value>, bool),
    Null(&'static str, bool),
    Contains(&'static str),
    Like(&'static str),
    And(Box<Predicate>, Box<Predicate>),
    Or(Box<Predicate>, Box<Predicate>),
    Not(Box<Predicate>),
}

use Predicate::{And, Between, Compare, Contains, In, Like, Not, Null, Or};

impl Predicate {
    pub fn random(rng: &mut StdRng, ids: usize, depth: u32) -> Predicate {
        if depth > 0 && rng.random_bool(0.5) {
            let mut part = || Box::new(Predicate::random(rng, ids, depth - 1));
            let (a, b) = (part(), part());
            return match rng.random_range(0..5) {
                0 | 1 => And(a, b),
                2 | 3 => Or(a, b),
                _ => Not(a),
            };
        }
        let column = *["section", "number", "weight", "flag", "id", "_version"].choose(rng).unwrap();
        match rng.random_range(0..10) {
            0..4 => {
                let equality = if column == "flag" { 2 } else { COMPARISONS.len() };
                Compare(column, COMPARISONS[rng.random_range(0..equality)], literal(rng, column, ids))
            }
            4 if column != "flag" => Between(column, literal(rng, column, ids), literal(rng, column, ids)),
            5 | 6 if column != "flag" => {
                let values = (0..rng.random_range(1..5)).map(|_| literal(rng, column, ids)).collect();
                In(column, values, rng.random_bool(0.3))
            }
            7 => Null(["section", "number", "weight", "flag", "tags"].choose(rng).unwrap(), rng.random()),
            8 => Like(["a", "b", "ab", ""].choose(rng).unwrap()),
            _ => Contains(TAGS.choose(rng).unwrap()),
        }
    }

    /// Columns that it names.
    pub fn columns(&self) -> Vec<&'static str> {
        match self {
            Compare(c, ..) | Between(c, ..) | In(c, ..) | Null(c, _) => vec![*c],
            Contains(_) => vec!["tags"],
            Like(_) => vec!["section"],
            And(a, b) | Or(a, b) => [a.columns(), b.columns()].concat(),
            Not(a) => a.columns(),
        }
    }

    /// True, false, or unknown.
    pub fn eval(&self, row: &Row) -> Option<bool> {
        match self {
            Compare(column, (.., holds), value) => Some(holds(order(&row.get(column)?, value))),
            Between(column, low, high) => {
                let value = row.get(column)?;
                Some(order(&value, low).is_ge() && order(&value, high).is_le())
            }
            In(column, values, negated) => {
                let value = row.get(column)?;
                Some(values.iter().any(|v| order(&value, v).is_eq()) != *negated)
            }
            Null(column, is_null) => Some(row.get(column).is_none() == *is_null),
            Contains(tag) => match row.get("tags")? {
                Value::Strings(tags) => Some(tags.iter().any(|t| t == tag)),
                _ => None,
            },
            Like(prefix) => match row.get("section")? {
                Value::String(text) => Some(text.starts_with(prefix)),
                _ => None,
            },
            And(a, b) => match (a.eval(row), b.eval(row)) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                _ => None,
            },
            Or(a, b) => match (a.eval(row), b.eval(row)) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (Some(false), Some(false)) => Some(false),
                _ => None,
            },
            Not(a) => a.eval(row).map(|v| !v),
        }
    }

    pub fn sql(&self) -> String {
        match self {
            Compare(column, (op, ..), value) => format!("{column} {op} {}", sql(value)),
            Between(column, low, high) => format!("{column} BETWEEN {} AND {}", sql(low), sql(high)),
            In(column, values, negated) => {
                let values: Vec<String> = values.iter().map(sql).collect();
                format!("{column} {}IN ({})", if *negated { "NOT " } else { "" }, values.join(", "))
            }
            Null(column, is_null) => format!("{column} IS {}NULL", if *is_null { "" } else { "NOT " }),
            Contains(tag) => format!("array_has(tags, '{tag}')"),
            Like(prefix) => format!("section LIKE '{prefix}%'"),
            And(a, b) => format!("({} AND {})", a.sql(), b.sql()),
            Or(a, b) => format!("({} OR {})", a.sql(), b.sql()),
            Not(a) => format!("NOT ({})", a.sql()),
        }
    }

    pub fn json(&self) -> Json {
        let plain = |v: &Value| serde_json::to_value(v).unwrap();
        match self {
            Compare(column, (_, op, _), value) => json!({ *column: { *op: plain(value) } }),
            Between(column, low, high) => json!({ *column: { "$gte": plain(low), "$lte": plain(high) } }),
            In(column, values, negated) => {
                let values: Vec<Json> = values.iter().map(plain).collect();
                json!({ *column: { if *negated { "$nin" } else { "$in" }: values } })
            }
            Null(column, is_null) => json!({ *column: { "$exists": !is_null } }),
            Contains(tag) => json!({ "tags": { "$contains": tag } }),
            Like(prefix) => json!({ "section": { "$like": format!("{prefix}%") } }),
            And(a, b) => json!({ "$and": [a.json(), b.json()] }),
            Or(a, b) => json!({ "$or": [a.json(), b.json()] }),
            Not(a) => json!({ "$not": a.json() }),
        }
    }
}

fn literal(rng: &mut StdRng, column: &str, ids: usize) -> Value {
    match column {
        "section" => Value::String((*TEXTS.choose(rng).unwrap()).to_owned()),
        "flag" => Value::Bool(rng.random()),
        "id" => Value::String(format!("r{}", rng.random_range(0..ids + 2))),
        // Whole and other numbers are asked of both kinds of columns.
        _ if rng.random_bool(0.3) => Value::Float(f64::from(rng.random_range(-6..12)) / 2.0),
        _ => Value::Int(rng.random_range(-3..9)),
    }
}

/// The values are of one kind, or both numbers, small enough to be exact as floats.
fn order(a: &Value, b: &Value) -> Ordering {
    let number = |v: &Value| match v {
        Value::Int(v) => *v as f64,
        Value::Float(v) => *v,
        other => panic!("{other:?} is not a number"),
    };
    match (a, b) {
        (Value::String(a), Value::String(b)) => a.as_bytes().cmp(b.as_bytes()),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (a, b) => number(a).partial_cmp(&number(b)).unwrap(),
    }
}

fn sql(value: &Value) -> String {
    match value {
        Value::String(text) => format!("'{}'", text.replace('\'', "''")),
        Value::Float(v) => format!("{v:?}"),
        Value::Int(v) => v.to_string(),
        Value::Bool(v) => v.to_string(),
        other => panic!("{other:?} is no literal"),
    }
}
