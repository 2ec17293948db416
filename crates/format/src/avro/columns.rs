//! Metadata columns of decoded rows: one typed Arrow builder each.

use std::sync::Arc;

use ahash::AHashMap;
use arrow::array::{
    ArrayBuilder, ArrayRef, BooleanBuilder, Float64Builder, Int64Builder, ListBuilder, StringBuilder,
};
use arrow::datatypes::{DataType, Field};

use super::walk::{Item, Strings};
use crate::error::{Error, Result};
use crate::schema::{Column, ColumnType, Schema};

/// Builders in schema order. A column is padded with nulls only when its next value arrives.
#[derive(Debug)]
pub(super) struct Columns {
    columns: Vec<Column>,
    builders: Vec<Builder>,
    by_name: AHashMap<String, usize>,
    /// The column after the one last used.
    guess: usize,
}

#[derive(Debug)]
enum Builder {
    Boolean(BooleanBuilder),
    Int(Int64Builder),
    Float(Float64Builder),
    String(StringBuilder),
    Strings(ListBuilder<StringBuilder>),
}

impl Columns {
    pub fn new(schema: &Schema) -> Self {
        Columns {
            columns: schema.columns.clone(),
            builders: schema.columns.iter().map(|c| Builder::new(c.kind)).collect(),
            by_name: schema.columns.iter().enumerate().map(|(i, c)| (c.name.clone(), i)).collect(),
            guess: 0,
        }
    }

    /// Sets the value of `key` in row `row`, which is the last row or a new one.
    pub fn set(&mut self, row: usize, key: &str, value: Item<'_>) -> Result<()> {
        if matches!(value, Item::Null) {
            return Ok(());
        }
        let at = match self.columns.get(self.guess) {
            Some(c) if c.name == key => self.guess,
            _ => *self.by_name.get(key).ok_or_else(|| stale(key))?,
        };
        self.guess = at + 1;
        let builder = &mut self.builders[at];
        builder.pad(row)?;
        builder.push(value).map_err(|wrong| match wrong {
            Wrong::Type if matches!((self.columns[at].kind, &value), (ColumnType::Int, Item::Float(_))) => {
                stale(key)
            }
            Wrong::Type => {
                let message = format!(
                    "metadata.{key}: the value does not fit a column of {}",
                    self.columns[at].kind.as_str()
                );
                Error::new(crate::Kind::Corrupt, message)
            }
            Wrong::TooLong => too_long(),
        })
    }

    /// The arrays, each of `rows` rows.
    pub fn finish(mut self, rows: usize) -> Result<Vec<ArrayRef>> {
        self.builders
            .iter_mut()
            .map(|b| {
                b.pad(rows)?;
                Ok(b.as_builder().finish())
            })
            .collect()
    }

    /// To be called before the first value of a row.
    pub fn next_row(&mut self) {
        self.guess = 0;
    }
}

/// Types are only added or widened, so a batch that does not fit was written under a newer schema.
fn stale(key: &str) -> Error {
    let message = format!("the schema is stale: metadata key `{key}` was added or widened after it was read");
    Error::new(crate::Kind::Conflict, message).with_hint("read the manifest again")
}

/// Arrow's 32-bit offsets end here.
pub(super) fn too_long() -> Error {
    Error::new(crate::Kind::Busy, "more than 2 GiB of text in one column of uncompacted rows")
        .with_hint("compact the collection")
}

enum Wrong {
    Type,
    TooLong,
}

/// Whether a string array can take `more` bytes.
pub(super) fn fits(array: &StringBuilder, more: usize) -> bool {
    array.values_slice().len() + more <= i32::MAX as usize
}

impl Builder {
    fn new(kind: ColumnType) -> Self {
        match kind {
            ColumnType::Boolean => Builder::Boolean(BooleanBuilder::new()),
            ColumnType::Int => Builder::Int(Int64Builder::new()),
            ColumnType::Float => Builder::Float(Float64Builder::new()),
            ColumnType::String => Builder::String(StringBuilder::new()),
            ColumnType::Strings => {
                Builder::Strings(ListBuilder::new(StringBuilder::new()).with_field(Arc::new(Field::new(
                    "item",
                    DataType::Utf8,
                    false,
                ))))
            }
        }
    }

    fn as_builder(&mut self) -> &mut dyn ArrayBuilder {
        match self {
            Builder::Boolean(b) => b,
            Builder::Int(b) => b,
            Builder::Float(b) => b,
            Builder::String(b) => b,
            Builder::Strings(b) => b,
        }
    }

    /// Appends nulls up to `row`; a column that is beyond it has this key twice in one record.
    fn pad(&mut self, row: usize) -> Result<()> {
        let len = self.as_builder().len();
        let Some(missing) = row.checked_sub(len) else {
            return Err(Error::new(crate::Kind::Corrupt, "a metadata key is given twice in one record"));
        };
        match self {
            Builder::Boolean(b) => b.append_nulls(missing),
            Builder::Int(b) => b.append_nulls(missing),
            Builder::Float(b) => b.append_nulls(missing),
            Builder::String(b) => b.append_nulls(missing),
            Builder::Strings(b) => b.append_nulls(missing),
        }
        Ok(())
    }

    fn push(&mut self, value: Item<'_>) -> Result<(), Wrong> {
        match (self, value) {
            (Builder::Boolean(b), Item::Bool(v)) => b.append_value(v),
            (Builder::Int(b), Item::Int(v)) => b.append_value(v),
            (Builder::Float(b), Item::Float(v)) => b.append_value(v),
            // Exact: a column becomes Float only while all its whole numbers are within 2^53.
            (Builder::Float(b), Item::Int(v)) => b.append_value(v as f64),
            (Builder::String(b), Item::String(v)) => push_text(b, v)?,
            (Builder::Strings(b), Item::Strings(v)) => push_list(b, v)?,
            _ => return Err(Wrong::Type),
        }
        Ok(())
    }
}

fn push_text(b: &mut StringBuilder, v: &str) -> Result<(), Wrong> {
    if !fits(b, v.len()) {
        return Err(Wrong::TooLong);
    }
    b.append_value(v);
    Ok(())
}

fn push_list(b: &mut ListBuilder<StringBuilder>, v: Strings<'_>) -> Result<(), Wrong> {
    for text in v {
        push_text(b.values(), text)?;
    }
    if b.values().len() > i32::MAX as usize {
        return Err(Wrong::TooLong);
    }
    b.append(true);
    Ok(())
}
