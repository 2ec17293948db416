//! Rows of a query, printed as they come.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::json::LineDelimitedWriter;
use comfy_table::{ColumnConstraint, Width};
use esker_format::{Error, Result};
use esker_query::http::csv;
use esker_store::Io;
use serde_json::json;

use crate::args::RowFormat;
use crate::output::{Output, io_json, table, table_text};
use crate::rows::{cells_of, is_plan, plan_text, short};

/// Rows that a table waits for: they say how wide its columns are.
const WIDE_ROWS: usize = 1000;

/// Turns rows into text.
pub(super) enum Printer {
    /// One document. Whether a row was written.
    Json(bool),
    Ndjson,
    /// Whether the line of names was written.
    Csv(SchemaRef, bool),
    Plan,
    Table(Columns),
}

impl Printer {
    pub fn new(rows: Option<RowFormat>, output: &Output, schema: SchemaRef) -> Printer {
        match rows {
            Some(RowFormat::Ndjson) => Printer::Ndjson,
            Some(RowFormat::Csv) => Printer::Csv(schema, false),
            None if output.is_json() => Printer::Json(false),
            None if is_plan(&schema) => Printer::Plan,
            None => {
                let names = schema.fields().iter().map(|f| f.name().clone()).collect();
                Printer::Table(Columns { names, held: Vec::new(), begun: false, widths: None })
            }
        }
    }

    pub fn write(&mut self, batch: &RecordBatch) -> Result<Vec<u8>> {
        match self {
            Printer::Ndjson => json_lines(batch),
            Printer::Json(begun) => {
                let lines = json_lines(batch)?;
                let mut out = Vec::with_capacity(lines.len() + 16);
                for line in lines.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
                    out.extend_from_slice(if std::mem::replace(begun, true) { b"," } else { b"{\"rows\":[" });
                    out.extend_from_slice(line);
                }
                Ok(out)
            }
            Printer::Csv(_, begun) => csv(batch, !std::mem::replace(begun, true)),
            Printer::Plan => Ok(plan_text(&cells_of(batch)?).into_bytes()),
            Printer::Table(columns) => {
                let rows = cells_of(batch)?.into_iter();
                columns.held.extend(rows.map(|cells| cells.iter().map(|c| short(c)).collect()));
                match columns.held.len() < WIDE_ROWS {
                    true => Ok(Vec::new()),
                    false => Ok(columns.print().into_bytes()),
                }
            }
        }
    }

    /// What is left; `io` and `ms` are what the query took.
    pub fn finish(self, io: &Io, ms: f64) -> Result<Vec<u8>> {
        Ok(match self {
            Printer::Ndjson | Printer::Csv(_, true) | Printer::Plan => Vec::new(),
            Printer::Csv(schema, false) => csv(&RecordBatch::new_empty(schema), true)?,
            Printer::Json(begun) => {
                let start = if begun { "" } else { "{\"rows\":[" };
                format!("{start}],\"io\":{},\"took_ms\":{}}}\n", io_json(io), json!(ms)).into_bytes()
            }
            Printer::Table(columns) if columns.begun && columns.held.is_empty() => Vec::new(),
            Printer::Table(mut columns) => columns.print().into_bytes(),
        })
    }
}

/// A table whose rows come in parts.
pub(super) struct Columns {
    names: Vec<String>,
    held: Vec<Vec<String>>,
    begun: bool,
    /// Widths of the columns in the first part, if they fit beside each other.
    widths: Option<Vec<u16>>,
}

impl Columns {
    /// The rows that wait: under the heading if they are the first, else in the columns of these, which may
    /// grow.
    fn print(&mut self) -> String {
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        let mut part = table(&names);
        part.add_rows(self.held.drain(..));
        if !self.begun {
            let widths: Vec<u16> =
                part.column_max_content_widths().iter().map(|w| w.saturating_add(2)).collect();
            let all: u32 = widths.iter().map(|w| u32::from(*w)).sum();
            self.widths = part.width().is_none_or(|most| all <= u32::from(most)).then_some(widths);
        }
        for (column, width) in part.column_iter_mut().zip(self.widths.iter().flatten()) {
            column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(*width)));
        }
        let text = table_text(&part);
        let heading = text.lines().take_while(|line| !line.starts_with('─')).count() + 1;
        let skipped = if std::mem::replace(&mut self.begun, true) { heading } else { 0 };
        text.lines().skip(skipped).map(|line| format!("{line}\n")).collect()
    }
}

fn json_lines(batch: &RecordBatch) -> Result<Vec<u8>> {
    let wrong = |e| Error::internal("the rows cannot be written as JSON").with_source(e);
    let mut writer = LineDelimitedWriter::new(Vec::new());
    writer.write(batch).map_err(wrong)?;
    writer.finish().map_err(wrong)?;
    Ok(writer.into_inner())
}

#[cfg(test)]
mod tests;
