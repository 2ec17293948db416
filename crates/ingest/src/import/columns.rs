//! Rows of Arrow batches as records, straight from the arrays.

use arrow::array::{
    Array, AsArray, BooleanArray, Float64Array, Int64Array, ListArray, RecordBatch, StringArray,
};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, TimeUnit, TimestampMillisecondType};
use esker_format::record::{RecordRef, ValueRef};
use esker_format::schema::ColumnType;
use esker_format::{Error, Result};

use super::convert::{self, Vectors};
use super::infer::Inference;
use super::sample::{Shape, shape};
use crate::batch::{Batcher, Cut};

/// Encodes the rows of a batch, giving each cut to `emit`.
///
/// # Errors
/// Invalid, with `records[i]` counted over the file and the column named in the message.
pub(crate) fn encode(
    batch: &RecordBatch,
    inference: &Inference,
    batcher: &mut Batcher,
    emit: &mut dyn FnMut(Cut) -> Result<()>,
) -> Result<()> {
    let first = batcher.next_row();
    let rows = Rows::new(batch, inference, first)?;
    let (mut metadata, mut number) = (Vec::with_capacity(rows.metadata.len()), String::new());
    for row in 0..batch.num_rows() {
        let at = first + row as u64;
        let vector = rows.vectors.get(row).map_err(|m| bad(at, "vector", m))?;
        let id = match &rows.ids {
            Some(ids) if ids.is_null(row) => return Err(bad(at, "id", "there is no id")),
            Some(ids) => ids.value(row),
            None => {
                use std::fmt::Write;
                number.clear();
                write!(number, "{at}").map_err(|e| Error::internal(e.to_string()))?;
                &number
            }
        };
        metadata.clear();
        for (name, values) in &rows.metadata {
            let value = values.get(row).map_err(|m| bad(at, &format!("metadata.{name}"), m))?;
            metadata.extend(value.map(|v| (*name, v)));
        }
        let record = RecordRef {
            id,
            vector,
            metadata: &metadata,
            timestamp: rows.field(0, row).unwrap_or(0),
            created_at: rows.field(1, row).unwrap_or(0),
            expires_at: rows.field(2, row),
            version: rows.field(3, row).unwrap_or(1),
            ..RecordRef::default()
        };
        if let Some(cut) = batcher.record(&record)? {
            emit(cut)?;
        }
    }
    Ok(())
}

fn bad(row: u64, field: &str, message: &str) -> Error {
    Error::invalid(format!("records[{row}].{field}"), message)
}

/// The columns of a batch in the types of the record.
struct Rows<'b> {
    ids: Option<StringArray>,
    vectors: Vectors,
    metadata: Vec<(&'b str, Values)>,
    /// In the order of [`super::infer::FIELDS`].
    fields: [Option<Int64Array>; 4],
}

enum Values {
    Bool(BooleanArray),
    Int(Int64Array),
    Float(Float64Array),
    String(StringArray),
    /// The lists and all their texts.
    Strings(ListArray, Vec<String>),
}

impl<'b> Rows<'b> {
    fn new(batch: &'b RecordBatch, inference: &'b Inference, first: u64) -> Result<Self> {
        let column = |name: &str| {
            batch.column_by_name(name).ok_or_else(|| {
                Error::invalid(name, format!("from row {first} on the file lacks the column `{name}`"))
            })
        };
        let vector = column(&inference.vector_column)?;
        let vectors = convert::vectors(vector.as_ref()).map_err(|e| at(e, first, "vector"))?;
        let (vectors, _) = vectors.ok_or_else(|| bad(first, "vector", "the column does not hold vectors"))?;
        let ids = match &inference.id_column {
            None => None,
            Some(name) => {
                let ids =
                    convert::to(column(name)?.as_ref(), &DataType::Utf8).map_err(|e| at(e, first, "id"))?;
                Some(ids.as_string::<i32>().clone())
            }
        };
        let mut metadata = Vec::with_capacity(inference.columns.len());
        for c in &inference.columns {
            let field = format!("metadata.{}", c.name);
            let values = Values::new(column(&c.name)?.as_ref(), c.kind).map_err(|e| at(e, first, &field))?;
            metadata.push((c.name.as_str(), values));
        }
        let mut fields = [const { None }; 4];
        for (name, slot) in super::infer::FIELDS.iter().zip(&mut fields) {
            if inference.fields.iter().any(|f| f == name) {
                *slot = Some(whole(column(name)?.as_ref()).map_err(|e| at(e, first, &name[1..]))?);
            }
        }
        Ok(Rows { ids, vectors, metadata, fields })
    }

    fn field(&self, which: usize, row: usize) -> Option<i64> {
        self.fields[which].as_ref().filter(|values| values.is_valid(row)).map(|values| values.value(row))
    }
}

/// An error of a whole column: its row counted over the file, its field named.
fn at(e: Error, first: u64, field: &str) -> Error {
    let row = e.field().and_then(|f| f.strip_prefix("records[")?.strip_suffix("]")?.parse::<u64>().ok());
    bad(first + row.unwrap_or(0), field, &e.to_string())
}

/// Whole numbers, or times as milliseconds since 1970, UTC.
fn whole(column: &dyn Array) -> Result<Int64Array> {
    let zone = match column.data_type() {
        DataType::Timestamp(_, zone) => zone.clone(),
        DataType::Date32 | DataType::Date64 => None,
        _ => return Ok(convert::to(column, &DataType::Int64)?.as_primitive::<Int64Type>().clone()),
    };
    // The same zone on both sides: the instant is kept.
    let times = convert::to(column, &DataType::Timestamp(TimeUnit::Millisecond, zone))?;
    let times = times.as_primitive::<TimestampMillisecondType>();
    Ok(Int64Array::new(times.values().clone(), times.nulls().cloned()))
}

impl Values {
    fn new(column: &dyn Array, kind: ColumnType) -> Result<Self> {
        let fits = match shape(column.data_type()) {
            Shape::Typed(found, _) => found == kind || (found, kind) == (ColumnType::Int, ColumnType::Float),
            Shape::Time => kind == ColumnType::Int,
            Shape::Empty => true,
            Shape::Other(_) => false,
        };
        if !fits {
            let message = format!("the column changes its type to {}", column.data_type());
            return Err(Error::invalid("records", message));
        }
        Ok(match kind {
            ColumnType::Boolean => {
                Values::Bool(convert::to(column, &DataType::Boolean)?.as_boolean().clone())
            }
            ColumnType::Int => Values::Int(whole(column)?),
            ColumnType::Float => {
                Values::Float(convert::to(column, &DataType::Float64)?.as_primitive::<Float64Type>().clone())
            }
            ColumnType::String => {
                Values::String(convert::to(column, &DataType::Utf8)?.as_string::<i32>().clone())
            }
            ColumnType::Strings => {
                let kind = DataType::List(Field::new("item", DataType::Utf8, true).into());
                let lists = convert::to(column, &kind)?.as_list::<i32>().clone();
                let texts = lists.values().as_string::<i32>();
                // A null item is refused when its row is read.
                let texts = texts.iter().map(|t| t.unwrap_or_default().to_owned()).collect();
                Values::Strings(lists, texts)
            }
        })
    }

    fn get(&self, row: usize) -> Result<Option<ValueRef<'_>>, &'static str> {
        Ok(match self {
            Values::Bool(v) => v.is_valid(row).then(|| ValueRef::Bool(v.value(row))),
            Values::Int(v) => v.is_valid(row).then(|| ValueRef::Int(v.value(row))),
            Values::Float(v) => v.is_valid(row).then(|| ValueRef::Float(v.value(row))),
            Values::String(v) => v.is_valid(row).then(|| ValueRef::String(v.value(row))),
            Values::Strings(lists, texts) => {
                if lists.is_null(row) {
                    return Ok(None);
                }
                let bounds = &lists.value_offsets()[row..row + 2];
                let (start, end) = (bounds[0] as usize, bounds[1] as usize);
                let nulls = lists.values().nulls();
                if nulls.is_some_and(|n| n.slice(start, end - start).null_count() > 0) {
                    return Err("a list has an item without a value");
                }
                Some(ValueRef::Strings(&texts[start..end]))
            }
        })
    }
}
