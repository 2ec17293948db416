//! Between records and record batches.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, FixedSizeListArray, Float32Array, Float64Array, Int32Array,
    Int64Array, ListBuilder, RecordBatch, StringArray, StringBuilder, TimestampMillisecondArray,
};
use arrow::datatypes::{
    DataType, Field, Float16Type, Float32Type, Int64Type, Schema as ArrowSchema, TimestampMillisecondType,
};
use esker_format::record::{Record, Value};
use esker_format::schema::{ColumnType, Schema, time_type};
use esker_format::{Error, Name, Result};

use crate::engine::value_at;
use crate::tail::column;

/// The rows of a batch of [`Page`](crate::Page) as records. `schema`: the metadata columns of the state.
pub fn records_of(batch: &RecordBatch, schema: &Schema, collection: &Name) -> Result<Vec<Record>> {
    let time = |name: &str| -> Result<&arrow::array::TimestampMillisecondArray> {
        Ok(column(batch, name)?.as_primitive::<TimestampMillisecondType>())
    };
    let (ids, versions) = (column(batch, "id")?.as_string::<i32>(), column(batch, "_version")?);
    let versions = versions.as_primitive::<Int64Type>();
    let (timestamps, created) = (time("_timestamp")?, time("_created_at")?);
    let (updated, expires) = (time("_updated_at")?, time("_expires_at")?);
    let vectors = batch.column_by_name("vector").map(|c| c.as_fixed_size_list());
    let columns: Vec<_> = schema.columns.iter().filter(|c| batch.column_by_name(&c.name).is_some()).collect();
    let record = |row: usize| Record {
        id: ids.value(row).to_owned(),
        collection_id: collection.to_string(),
        vector: vectors.map(|v| floats(v, row)).unwrap_or_default(),
        metadata: columns
            .iter()
            .filter_map(|c| Some((c.name.clone(), value_at(batch, &c.name, c.kind, row)?)))
            .collect(),
        timestamp: timestamps.value(row),
        created_at: created.value(row),
        updated_at: updated.value(row),
        expires_at: expires.is_valid(row).then(|| expires.value(row)),
        version: versions.value(row),
        ..Record::default()
    };
    Ok((0..batch.num_rows()).map(record).collect())
}

fn floats(list: &FixedSizeListArray, row: usize) -> Vec<f32> {
    let items = list.value(row);
    match items.as_primitive_opt::<Float32Type>() {
        Some(items) => items.values().to_vec(),
        None => items.as_primitive::<Float16Type>().values().iter().map(|h| h.to_f32()).collect(),
    }
}

/// Records as a batch: id, `distance`, `score` and `rank` if they are results, `vector` if they have one, metadata
/// (`include`, or all), times and version as in tables.
pub fn batch_of(records: &[Record], schema: &Schema, include: Option<&[String]>) -> Result<RecordBatch> {
    let mut fields = vec![Field::new("id", DataType::Utf8, false)];
    let mut columns: Vec<ArrayRef> =
        vec![Arc::new(StringArray::from_iter_values(records.iter().map(|r| &r.id)))];
    let mut add = |name: &str, array: ArrayRef, nullable: bool| {
        fields.push(Field::new(name, array.data_type().clone(), nullable));
        columns.push(array);
    };
    if records.iter().any(|r| r.distance.is_some()) {
        let floats = |of: fn(&Record) -> Option<f32>| {
            Arc::new(Float32Array::from_iter(records.iter().map(of))) as ArrayRef
        };
        add("distance", floats(|r| r.distance), true);
        add("score", floats(|r| r.score), true);
        add("rank", Arc::new(Int32Array::from_iter(records.iter().map(|r| r.rank))), true);
    }
    let dimension = records.first().map_or(0, |r| r.vector.len());
    if dimension > 0 {
        let items = Float32Array::from_iter_values(records.iter().flat_map(|r| r.vector.iter().copied()));
        let item = Arc::new(Field::new("item", DataType::Float32, false));
        let vectors = FixedSizeListArray::try_new(item, dimension as i32, Arc::new(items), None);
        add("vector", Arc::new(vectors.map_err(wrong)?), false);
    }
    let wanted = |name: &String| include.is_none_or(|include| include.contains(name));
    for c in schema.columns.iter().filter(|c| wanted(&c.name)) {
        add(&c.name, metadata(records, &c.name, c.kind), true);
    }
    let times = |of: fn(&Record) -> Option<i64>| {
        let times = TimestampMillisecondArray::from_iter(records.iter().map(of));
        Arc::new(times.with_data_type(time_type())) as ArrayRef
    };
    add("_timestamp", times(|r| Some(r.timestamp)), false);
    add("_created_at", times(|r| Some(r.created_at)), false);
    add("_updated_at", times(|r| Some(r.updated_at)), false);
    add("_expires_at", times(|r| r.expires_at), true);
    add("_version", Arc::new(Int64Array::from_iter_values(records.iter().map(|r| r.version))), false);
    RecordBatch::try_new(Arc::new(ArrowSchema::new(fields)), columns).map_err(wrong)
}

fn wrong(e: arrow::error::ArrowError) -> Error {
    Error::internal("records do not fit a batch").with_source(e)
}

fn metadata(records: &[Record], key: &str, kind: ColumnType) -> ArrayRef {
    let values = records.iter().map(|r| r.metadata.get(key));
    match kind {
        ColumnType::Boolean => Arc::new(BooleanArray::from_iter(values.map(|v| match v {
            Some(Value::Bool(v)) => Some(*v),
            _ => None,
        }))),
        ColumnType::Int => Arc::new(Int64Array::from_iter(values.map(|v| match v {
            Some(Value::Int(v)) => Some(*v),
            _ => None,
        }))),
        ColumnType::Float => Arc::new(Float64Array::from_iter(values.map(|v| match v {
            Some(Value::Float(v)) => Some(*v),
            Some(Value::Int(v)) => Some(*v as f64),
            _ => None,
        }))),
        ColumnType::String => Arc::new(StringArray::from_iter(values.map(|v| match v {
            Some(Value::String(v)) => Some(v.as_str()),
            _ => None,
        }))),
        ColumnType::Strings => {
            let item = Field::new("item", DataType::Utf8, false);
            let mut lists = ListBuilder::new(StringBuilder::new()).with_field(Arc::new(item));
            for value in values {
                match value {
                    Some(Value::Strings(texts)) => {
                        texts.iter().for_each(|t| lists.values().append_value(t));
                        lists.append(true);
                    }
                    _ => lists.append(false),
                }
            }
            Arc::new(lists.finish())
        }
    }
}
