//! Rows for people and for programs: a table of cells, or JSON.

use arrow::array::{Array, ArrayRef, FixedSizeListArray, ListArray, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::json::ArrayWriter;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use esker_format::record::Value;
use esker_format::{Error, Result};
use esker_query::Hit;

use crate::output::{table, table_text};

/// Elements of a list that a table shows.
const SHOWN: usize = 4;
/// Characters of a cell that a table shows; those of a hit whose columns nobody chose are shorter.
const CELL: usize = 300;
/// See [`CELL`].
const SHORT_CELL: usize = 60;

/// Rows of a query as a table; a plan as it is, since its indentation means something.
pub fn table_of(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<String> {
    let mut rows = Vec::new();
    for batch in batches {
        rows.extend(cells_of(batch)?);
    }
    if is_plan(schema) {
        return Ok(plan_text(&rows));
    }
    let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    let mut shown = table(&names);
    shown.add_rows(rows.iter().map(|cells| cells.iter().map(|c| shorten(c, CELL))));
    Ok(table_text(&shown))
}

/// Whether rows with these columns are the plan of a query.
pub fn is_plan(schema: &SchemaRef) -> bool {
    schema.fields().iter().map(|f| f.name().as_str()).eq(["plan_type", "plan"])
}

/// A plan, from its cells.
pub fn plan_text(rows: &[Vec<String>]) -> String {
    rows.iter().map(|cells| format!("{}\n{}\n", cells[0], cells[1].trim_end())).collect()
}

/// The rows of a batch as the cells of a table, lists cut short.
pub fn cells_of(batch: &RecordBatch) -> Result<Vec<Vec<String>>> {
    let cells = |row| batch.columns().iter().map(|c| cell_at(c, row)).collect();
    (0..batch.num_rows()).map(cells).collect()
}

/// A cell as long as a table shows it.
pub fn short(cell: &str) -> String {
    shorten(cell, CELL)
}

/// Rows of a query as a JSON array of objects. Missing values are left out.
pub fn json_of(batches: &[RecordBatch]) -> Result<serde_json::Value> {
    let wrong = |e| Error::internal("the rows cannot be written as JSON").with_source(e);
    let mut writer = ArrayWriter::new(Vec::new());
    for batch in batches {
        writer.write(batch).map_err(wrong)?;
    }
    writer.finish().map_err(wrong)?;
    let bytes = writer.into_inner();
    serde_json::from_slice(if bytes.is_empty() { b"[]" } else { &bytes })
        .map_err(|e| Error::internal("the rows cannot be written as JSON").with_source(e))
}

fn cell_at(column: &ArrayRef, row: usize) -> Result<String> {
    if column.is_null(row) {
        return Ok(String::new());
    }
    let list = match column.data_type() {
        DataType::FixedSizeList(..) => {
            column.as_any().downcast_ref::<FixedSizeListArray>().map(|l| l.value(row))
        }
        DataType::List(..) => column.as_any().downcast_ref::<ListArray>().map(|l| l.value(row)),
        _ => None,
    };
    match list {
        None => formatted(column, row),
        Some(items) => {
            let shown =
                (0..items.len().min(SHOWN)).map(|i| formatted(&items, i)).collect::<Result<Vec<_>>>()?;
            Ok(listed(&shown, items.len()))
        }
    }
}

fn formatted(column: &ArrayRef, row: usize) -> Result<String> {
    let wrong = |e| Error::internal("a value cannot be shown").with_source(e);
    Ok(ArrayFormatter::try_new(column, &FormatOptions::default()).map_err(wrong)?.value(row).to_string())
}

fn listed(shown: &[String], all: usize) -> String {
    match all > shown.len() {
        true => format!("[{}, … {all}]", shown.join(", ")),
        false => format!("[{}]", shown.join(", ")),
    }
}

/// Hits as a table: rank, id, distance, then the metadata columns that any of them has, or `include` in its order.
pub fn hits_table(hits: &[Hit], include: Option<&[String]>) -> String {
    let most = if include.is_some() { CELL } else { SHORT_CELL };
    let columns: Vec<&str> = match include {
        Some(columns) => columns.iter().map(String::as_str).collect(),
        None => {
            let keys: std::collections::BTreeSet<_> = hits.iter().flat_map(|h| h.metadata.keys()).collect();
            keys.into_iter().map(String::as_str).collect()
        }
    };
    let mut heading = vec!["", "id", "distance"];
    heading.extend(&columns);
    let mut rows = table(&heading);
    for hit in hits {
        let mut cells = vec![hit.rank.to_string(), hit.id.clone(), format!("{:.4}", hit.distance)];
        cells.extend(
            columns.iter().map(|c| hit.metadata.get(*c).map(|v| shorten(&cell(v), most)).unwrap_or_default()),
        );
        rows.add_row(cells);
    }
    table_text(&rows)
}

/// A metadata value in a table.
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Bool(v) => v.to_string(),
        Value::Int(v) => v.to_string(),
        Value::Float(v) => v.to_string(),
        Value::String(v) => v.clone(),
        Value::Strings(v) => listed(&v[..v.len().min(SHOWN)], v.len()),
    }
}

fn shorten(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
