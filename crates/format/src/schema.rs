//! What a collection's rows look like: settings fixed at creation, metadata columns that only grow or widen.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema as ArrowSchema, SchemaRef, TimeUnit};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::limits;

/// How far apart two vectors are (WIRE §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// 1 − cos; score cos.
    Cosine,
    /// Euclidean distance, with the root; score is its negative.
    L2,
    /// −⟨a, b⟩; score ⟨a, b⟩.
    Dot,
}

/// Element type of stored vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VectorType {
    /// Lossless, the default.
    F32,
    /// Half the size; values are rounded once, when an entry is decoded.
    F16,
}

impl Metric {
    /// `cosine`, `l2` or `dot`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Metric::Cosine => "cosine",
            Metric::L2 => "l2",
            Metric::Dot => "dot",
        }
    }

    /// Higher is better: the record's `score` for a distance of this metric.
    pub fn score(self, distance: f32) -> f32 {
        match self {
            Metric::Cosine => 1.0 - distance,
            // Not a negative zero for equal vectors.
            Metric::L2 | Metric::Dot => 0.0 - distance,
        }
    }
}

impl VectorType {
    /// `f32` or `f16`.
    pub const fn as_str(self) -> &'static str {
        match self {
            VectorType::F32 => "f32",
            VectorType::F16 => "f16",
        }
    }

    /// Bytes of one element.
    pub const fn width(self) -> usize {
        match self {
            VectorType::F32 => 4,
            VectorType::F16 => 2,
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for VectorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Metric {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        [Metric::Cosine, Metric::L2, Metric::Dot].into_iter().find(|m| m.as_str() == s).ok_or_else(|| {
            Error::invalid("metric", format!("unknown metric `{s}`")).with_hint("use cosine, l2 or dot")
        })
    }
}

impl FromStr for VectorType {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        [VectorType::F32, VectorType::F16].into_iter().find(|t| t.as_str() == s).ok_or_else(|| {
            Error::invalid("vector_type", format!("unknown vector type `{s}`")).with_hint("use f32 or f16")
        })
    }
}

/// What is fixed when a collection is created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Elements of every vector, 1 to 8192.
    pub dimension: u32,
    /// The collection's own metric.
    pub metric: Metric,
    /// Element type of stored vectors.
    pub vector_type: VectorType,
}

impl Settings {
    /// Refuses a dimension out of range.
    pub fn check(&self) -> Result<()> {
        if (1..=limits::DIMENSION).contains(&self.dimension) {
            return Ok(());
        }
        Err(Error::invalid(
            "dimension",
            format!("{} is not between 1 and {}", self.dimension, limits::DIMENSION),
        ))
    }

    /// Refuses a vector whose greatest element, of either sign, is `greatest`, where distances to it overflow or none can be
    /// told from another; says why.
    pub fn check_greatest(&self, greatest: f32) -> Result<(), String> {
        let cosine = self.metric == Metric::Cosine;
        if cosine && greatest == 0.0 {
            return Err("a zero vector has no direction, which cosine needs".to_owned());
        }
        let wrong = |why| Err(format!("its greatest element, {greatest:e}, is {why}"));
        if greatest > *limits::MAGNITUDES.end() {
            return wrong("so great that distances overflow");
        }
        if cosine && greatest < *limits::MAGNITUDES.start() {
            return wrong("too small for cosine to normalise");
        }
        Ok(())
    }

    /// Bytes of one stored vector.
    pub fn stride(&self) -> usize {
        self.dimension as usize * self.vector_type.width()
    }
}

/// Type of a metadata column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ColumnType {
    /// true or false.
    Boolean,
    /// 64-bit signed whole numbers.
    Int,
    /// 64-bit floating point. An `Int` column widens to this.
    Float,
    /// UTF-8 text.
    String,
    /// A list of texts.
    Strings,
}

impl ColumnType {
    /// The name used in manifests and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            ColumnType::Boolean => "boolean",
            ColumnType::Int => "int",
            ColumnType::Float => "float",
            ColumnType::String => "string",
            ColumnType::Strings => "strings",
        }
    }

    /// The Arrow type of the column.
    pub fn arrow(self) -> DataType {
        match self {
            ColumnType::Boolean => DataType::Boolean,
            ColumnType::Int => DataType::Int64,
            ColumnType::Float => DataType::Float64,
            ColumnType::String => DataType::Utf8,
            ColumnType::Strings => DataType::List(Arc::new(Field::new("item", DataType::Utf8, false))),
        }
    }
}

impl FromStr for ColumnType {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        use ColumnType::*;
        [Boolean, Int, Float, String, Strings].into_iter().find(|t| t.as_str() == s).ok_or_else(|| {
            Error::invalid("metadata", format!("unknown column type `{s}`"))
                .with_hint("use boolean, int, float, string or strings")
        })
    }
}

/// A metadata column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    /// The metadata key.
    pub name: String,
    /// The type of its values.
    #[serde(rename = "type")]
    pub kind: ColumnType,
    /// An `Int` column that has held a value beyond ±2^53, which may therefore never widen to `Float`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub wide: bool,
}

/// The metadata columns of a collection in the order in which they were first seen. Types are only added or
/// widened, so a stale schema is never wrong about a key it has.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Schema {
    /// The columns, in table order.
    pub columns: Vec<Column>,
}

/// A key as a batch uses it: what [`Schema::admit`] needs to know.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// The narrowest column type that holds every non-null value of the batch.
    pub kind: ColumnType,
    /// Row of the batch where `kind` was first seen, for messages.
    pub row: u32,
    /// A row holding a whole number beyond ±2^53 which as a float would lose digits, with the number.
    pub inexact: Option<(u32, i64)>,
}

/// Names a metadata key must not have: they are columns of every table.
const RESERVED: [&str; 4] = ["id", "vector", "distance", "score"];

/// Refuses keys that would hide a column of the table.
pub fn check_key(key: &str) -> Result<()> {
    let wrong = |m: String| Err(Error::invalid(format!("metadata.{key}"), m));
    if key.is_empty() || key.len() > limits::KEY_BYTES {
        return wrong(format!("a metadata key has 1 to {} bytes, this one {}", limits::KEY_BYTES, key.len()));
    }
    if key.starts_with('_') || RESERVED.contains(&key) {
        return wrong(format!("the metadata key `{key}` is reserved"));
    }
    Ok(())
}

impl Schema {
    /// The column of this name.
    pub fn get(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|c| c.name == name)
    }

    /// `Ok(None)` when a batch with these keys fits; `Ok(Some(wider))` when the schema must first be altered
    /// to `wider`; an error naming record and column when it can't be.
    pub fn admit<'a>(
        &self,
        keys: impl IntoIterator<Item = (&'a str, &'a Observed)>,
    ) -> Result<Option<Schema>> {
        let mut wider = self.clone();
        for (key, seen) in keys {
            check_key(key)?;
            let at = wider.columns.iter().position(|c| c.name == key).unwrap_or_else(|| {
                wider.columns.push(Column { name: key.to_owned(), kind: seen.kind, wide: false });
                wider.columns.len() - 1
            });
            wider.columns[at] = widen(&wider.columns[at], seen)?;
        }
        if wider.columns.len() > limits::COLUMNS {
            let message =
                format!("{} metadata columns, the limit is {}", wider.columns.len(), limits::COLUMNS);
            return Err(Error::invalid("metadata", message));
        }
        Ok((wider != *self).then_some(wider))
    }

    /// Whether `self` can follow `old`: every column of `old` is there in place, the same or widened.
    pub fn extends(&self, old: &Schema) -> bool {
        self.columns.len() >= old.columns.len()
            && old.columns.iter().zip(&self.columns).all(|(a, b)| {
                a.name == b.name
                    && (a.kind == b.kind
                        || (a.kind == ColumnType::Int && b.kind == ColumnType::Float && !a.wide))
                    && b.wide >= a.wide
            })
    }
}

/// The column as it is once `seen` is in it.
fn widen(column: &Column, seen: &Observed) -> Result<Column> {
    use ColumnType::{Float, Int};
    let kind = match (column.kind, seen.kind) {
        (a, b) if a == b => a,
        (Int, Float) | (Float, Int) => Float,
        (a, b) => {
            return Err(Error::invalid(
                format!("records[{}].metadata.{}", seen.row, column.name),
                format!("column `{}` holds {} and the record has {}", column.name, a.as_str(), b.as_str()),
            ));
        }
    };
    if kind == Float {
        let (row, message) = match (seen.inexact, column.wide) {
            (Some((row, v)), _) => {
                (row, format!("{v} is not exact as a float, and column `{}` holds floats", column.name))
            }
            (None, true) => (
                seen.row,
                format!(
                    "column `{}` holds whole numbers beyond 2^53, which are not exact as floats",
                    column.name
                ),
            ),
            (None, false) => return Ok(Column { kind, ..column.clone() }),
        };
        return Err(Error::invalid(format!("records[{row}].metadata.{}", column.name), message));
    }
    Ok(Column { name: column.name.clone(), kind, wide: column.wide || seen.inexact.is_some() })
}

/// Name and type of the columns that follow the metadata in every table. Times are milliseconds, UTC.
pub const TRAILING: [&str; 7] =
    ["_timestamp", "_created_at", "_updated_at", "_expires_at", "_version", "_seq", "_row"];

/// The Arrow type of a `_timestamp` column and its like.
pub fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))
}

/// The Arrow type of the `vector` column: a fixed-size list of non-null items.
pub fn vector_type(settings: &Settings) -> DataType {
    let item = match settings.vector_type {
        VectorType::F32 => DataType::Float32,
        VectorType::F16 => DataType::Float16,
    };
    DataType::FixedSizeList(Arc::new(Field::new("item", item, false)), settings.dimension as i32)
}

/// The Arrow schema of a collection's rows: id, vector, metadata, then [`TRAILING`]. The one schema of decoded
/// entries, `rows.parquet` and (less `_row`) SQL tables.
pub fn arrow_schema(settings: &Settings, schema: &Schema) -> SchemaRef {
    let mut fields =
        vec![Field::new("id", DataType::Utf8, false), Field::new("vector", vector_type(settings), false)];
    fields.extend(schema.columns.iter().map(|c| Field::new(&c.name, c.kind.arrow(), true)));
    for name in TRAILING {
        fields.push(match name {
            "_expires_at" => Field::new(name, time_type(), true),
            "_version" | "_seq" => Field::new(name, DataType::Int64, false),
            "_row" => Field::new(name, DataType::Int32, false),
            _ => Field::new(name, time_type(), false),
        });
    }
    Arc::new(ArrowSchema::new(fields))
}
