//! Arrow batches as one batch of records.

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::DataType;
use esker_format::record::Op;
use esker_format::schema::{Column, ColumnType};
use esker_format::{Error, Result, limits};

use crate::batch::{Batcher, Cut, Target};
use crate::import::Inference;
use crate::import::columns;
use crate::import::convert;
use crate::import::infer::{FIELDS, OWN};
use crate::import::sample::{Shape, shape};

/// All rows as one batch.
///
/// # Errors
/// Invalid, naming `records[i].field`, the column or the limit.
pub(super) fn cut(target: &Target, op: Op, batches: &[RecordBatch]) -> Result<Cut> {
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    if rows > limits::BATCH_ROWS {
        let message = format!("the batch has {rows} records, the limit is {}", limits::BATCH_ROWS);
        return Err(Error::invalid("records", message));
    }
    match op {
        Op::Upsert => upsert(target, batches),
        Op::Delete => target.delete(&ids(batches)?),
    }
}

fn upsert(target: &Target, batches: &[RecordBatch]) -> Result<Cut> {
    let mut batcher = Batcher::new(target.clone());
    let mut cuts = Vec::new();
    for batch in batches.iter().filter(|b| b.num_rows() > 0) {
        encode(target, batch, &mut batcher, &mut |cut| {
            cuts.push(cut);
            Ok(())
        })?;
    }
    cuts.extend(batcher.cut()?);
    match (cuts.pop(), cuts.is_empty()) {
        (None, _) => Err(Error::invalid("records", "the batch has no records")),
        (Some(cut), true) => Ok(cut),
        (Some(_), false) => {
            let message =
                format!("the batch has more than {} bytes, which is the limit", limits::BATCH_BYTES);
            Err(Error::invalid("records", message))
        }
    }
}

/// The rows of a batch, each cut given to `emit`.
///
/// # Errors
/// As [`cut`].
pub(crate) fn encode(
    target: &Target,
    batch: &RecordBatch,
    batcher: &mut Batcher,
    emit: &mut dyn FnMut(Cut) -> Result<()>,
) -> Result<()> {
    columns::encode(batch, &roles(target, batch)?, batcher, emit)
}

/// What each column is: by its name, since a write infers nothing.
fn roles(target: &Target, batch: &RecordBatch) -> Result<Inference> {
    let schema = batch.schema();
    for needed in ["id", "vector"] {
        if schema.column_with_name(needed).is_none() {
            return Err(Error::invalid(needed, format!("there is no column `{needed}`")));
        }
    }
    let mut out = Inference {
        id_column: Some("id".to_owned()),
        vector_column: "vector".to_owned(),
        dimension: target.settings.dimension,
        vector_type: target.settings.vector_type,
        metric: target.settings.metric,
        columns: Vec::new(),
        fields: Vec::new(),
        skipped: Vec::new(),
        notes: Vec::new(),
    };
    for field in schema.fields() {
        let name = field.name();
        if ["id", "vector"].contains(&name.as_str()) || OWN.contains(&name.as_str()) {
            continue;
        }
        if FIELDS.contains(&name.as_str()) {
            out.fields.push(name.clone());
            continue;
        }
        let kind = match shape(field.data_type()) {
            Shape::Typed(kind, _) => kind,
            Shape::Time => ColumnType::Int,
            Shape::Empty => continue,
            Shape::Other(what) => {
                let message = format!("the column is {what}, which metadata cannot hold");
                return Err(Error::invalid(format!("metadata.{name}"), message));
            }
        };
        out.columns.push(Column { name: name.clone(), kind, wide: false });
    }
    Ok(out)
}

fn ids(batches: &[RecordBatch]) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    for batch in batches {
        let schema = batch.schema();
        let [field] = &schema.fields()[..] else {
            return Err(Error::invalid("records", "a delete carries the column `id` and no other"));
        };
        if field.name() != "id" {
            return Err(Error::invalid("id", "there is no column `id`"));
        }
        let column = convert::to(batch.column(0).as_ref(), &DataType::Utf8)?;
        for id in column.as_string::<i32>() {
            let row = ids.len();
            let missing = || Error::invalid(format!("records[{row}].id"), "there is no id");
            ids.push(id.ok_or_else(missing)?.to_owned());
        }
    }
    Ok(ids)
}
