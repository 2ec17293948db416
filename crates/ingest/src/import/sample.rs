//! What the beginning of a file shows of its columns.

use std::collections::HashSet;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::DataType;
use esker_format::Result;
use esker_format::schema::ColumnType;
use serde_json::Value as Json;

use super::convert::{self, Vectors};

/// Rows of which a file's beginning is judged.
pub(crate) const SAMPLE_ROWS: usize = 1_024;

/// The columns of a file, in its order.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Sample {
    pub columns: Vec<SampleColumn>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SampleColumn {
    pub name: String,
    pub shape: Shape,
    /// Set when the column could hold the vectors.
    pub vector: Option<VectorShape>,
    pub key: Key,
}

/// What a column would be as metadata.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Shape {
    /// A metadata type, with what is done to its values if that is worth a word.
    Typed(ColumnType, Option<&'static str>),
    /// A time, which becomes whole milliseconds.
    Time,
    /// No value in the sample.
    Empty,
    /// Cannot be metadata: what it is.
    Other(String),
}

/// A column whose values could be vectors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct VectorShape {
    pub dimension: usize,
    pub element: Element,
    /// Every vector of the sample has length 1 to within a thousandth.
    pub unit: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Element {
    F16,
    F32,
    F64,
    /// Numbers of a JSON array.
    Json,
    /// A JSON array inside a text.
    Text,
}

/// Whether a column can be the id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Key {
    /// Neither text nor whole numbers.
    No,
    /// Different in every row of the sample.
    Unique,
    /// Why not.
    Not(String),
}

impl Sample {
    pub(crate) fn get(&self, name: &str) -> Option<&SampleColumn> {
        self.columns.iter().find(|c| c.name == name)
    }

    /// The columns of an Arrow schema, with what the first rows add.
    pub(crate) fn of_batch(batch: &RecordBatch) -> Result<Sample> {
        let batch = batch.slice(0, batch.num_rows().min(SAMPLE_ROWS));
        let schema = batch.schema();
        let columns = schema.fields().iter().zip(batch.columns()).map(|(field, column)| {
            Ok(SampleColumn {
                name: field.name().clone(),
                shape: shape(column.data_type()),
                vector: vector_of(column.as_ref()),
                key: key_of(column.as_ref())?,
            })
        });
        Ok(Sample { columns: columns.collect::<Result<_>>()? })
    }

    /// The columns of NDJSON lines, in the order first seen.
    pub(crate) fn of_lines(lines: &[Vec<(String, Json)>]) -> Sample {
        let mut names: Vec<&str> = Vec::new();
        let mut known = HashSet::new();
        for (name, _) in lines.iter().flatten() {
            if known.insert(name.as_str()) {
                names.push(name);
            }
        }
        let column = |name: &str| {
            let values: Vec<&Json> = lines
                .iter()
                .map(|l| l.iter().find(|(n, _)| n == name).map_or(&Json::Null, |(_, v)| v))
                .collect();
            SampleColumn {
                name: name.to_owned(),
                shape: json_shape(&values),
                vector: json_vectors(&values),
                key: json_key(&values),
            }
        };
        Sample { columns: names.into_iter().map(column).collect() }
    }
}

/// What a column of an Arrow type would be as metadata.
pub(crate) fn shape(kind: &DataType) -> Shape {
    use DataType::*;
    let typed = |t| Shape::Typed(t, None);
    match kind {
        Boolean => typed(ColumnType::Boolean),
        Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | UInt64 => typed(ColumnType::Int),
        Float16 | Float32 | Float64 => typed(ColumnType::Float),
        Decimal32(..) | Decimal64(..) | Decimal128(..) | Decimal256(..) => {
            Shape::Typed(ColumnType::Float, Some("decimals become floats"))
        }
        Utf8 | LargeUtf8 | Utf8View => typed(ColumnType::String),
        Dictionary(_, value) if shape(value) == typed(ColumnType::String) => typed(ColumnType::String),
        List(item) | LargeList(item) | FixedSizeList(item, _)
            if shape(item.data_type()) == typed(ColumnType::String) =>
        {
            typed(ColumnType::Strings)
        }
        Date32 | Date64 | Timestamp(..) => Shape::Time,
        Null => Shape::Empty,
        other => Shape::Other(name(other)),
    }
}

/// An Arrow type in words.
fn name(kind: &DataType) -> String {
    use DataType::*;
    match kind {
        List(item) | LargeList(item) | FixedSizeList(item, _) | ListView(item) | LargeListView(item) => {
            format!("a list of {}", name(item.data_type()))
        }
        Struct(_) => "a struct".to_owned(),
        Map(..) => "a map".to_owned(),
        Binary | LargeBinary | BinaryView | FixedSizeBinary(_) => "binary".to_owned(),
        other => other.to_string().to_lowercase(),
    }
}

fn vector_of(column: &dyn Array) -> Option<VectorShape> {
    let (vectors, element) = convert::vectors(column).ok()??;
    shape_of_vectors(&vectors, element)
}

/// All vectors of a sample are there and of one length.
fn shape_of_vectors(vectors: &Vectors, element: Element) -> Option<VectorShape> {
    let dimension = vectors.get(0).ok()?.len();
    let mut unit = true;
    for row in 0..vectors.len() {
        let vector = vectors.get(row).ok()?;
        if vector.len() != dimension {
            return None;
        }
        unit &= is_unit(vector);
    }
    (dimension > 0).then_some(VectorShape { dimension, element, unit })
}

pub(crate) fn is_unit(vector: &[f32]) -> bool {
    let square: f64 = vector.iter().map(|v| f64::from(*v).powi(2)).sum();
    (square.sqrt() - 1.0).abs() < 1e-3
}

fn key_of(column: &dyn Array) -> Result<Key> {
    let kind = column.data_type();
    let text = matches!(shape(kind), Shape::Typed(ColumnType::String | ColumnType::Int, _));
    if !text {
        return Ok(Key::No);
    }
    if column.null_count() > 0 {
        return Ok(Key::Not("has rows without a value".to_owned()));
    }
    let values = convert::to(column, &DataType::Utf8)?;
    Ok(unique(values.as_string::<i32>().iter().flatten().map(str::to_owned)))
}

fn unique(values: impl Iterator<Item = String>) -> Key {
    let mut seen = HashSet::new();
    for value in values {
        if seen.contains(&value) {
            let value: String = value.chars().take(40).collect();
            return Key::Not(format!("repeats `{}`", value.escape_debug()));
        }
        seen.insert(value);
    }
    Key::Unique
}

fn json_shape(values: &[&Json]) -> Shape {
    let mut shape: Option<ColumnType> = None;
    for value in values {
        let kind = match value {
            Json::Null => continue,
            Json::Bool(_) => ColumnType::Boolean,
            Json::Number(n) if n.is_f64() => ColumnType::Float,
            Json::Number(_) => ColumnType::Int,
            Json::String(_) => ColumnType::String,
            Json::Array(items) if items.iter().all(Json::is_string) => ColumnType::Strings,
            Json::Array(items) if items.iter().all(Json::is_number) => {
                return Shape::Other("a list of numbers".to_owned());
            }
            Json::Array(_) => return Shape::Other("a list of other things than strings".to_owned()),
            Json::Object(_) => return Shape::Other("an object".to_owned()),
        };
        shape = match (shape, kind) {
            (None, k) => Some(k),
            (Some(a), b) if a == b => Some(a),
            (Some(ColumnType::Int | ColumnType::Float), ColumnType::Int | ColumnType::Float) => {
                Some(ColumnType::Float)
            }
            (Some(a), b) => {
                return Shape::Other(format!("{} in one line and {} in another", a.as_str(), b.as_str()));
            }
        };
    }
    shape.map_or(Shape::Empty, |s| Shape::Typed(s, None))
}

fn json_vectors(values: &[&Json]) -> Option<VectorShape> {
    let (mut vectors, mut element) = (Vectors::default(), Element::Json);
    for value in values {
        match value {
            Json::Array(items) => {
                let numbers: Option<Vec<f32>> = items.iter().map(|v| v.as_f64().map(|v| v as f32)).collect();
                vectors.push(&numbers?);
            }
            Json::String(text) => {
                element = Element::Text;
                vectors.push(&convert::parse_vector(text).ok()?);
            }
            _ => return None,
        }
    }
    shape_of_vectors(&vectors, element)
}

fn json_key(values: &[&Json]) -> Key {
    let mut texts = Vec::with_capacity(values.len());
    for value in values {
        match value {
            Json::String(s) => texts.push(s.clone()),
            Json::Number(n) if n.is_i64() || n.is_u64() => texts.push(n.to_string()),
            Json::Null => return Key::Not("has lines without a value".to_owned()),
            _ => return Key::No,
        }
    }
    unique(texts.into_iter())
}
