//! Arrow arrays in the few types that records are made of.

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, GenericListArray, OffsetSizeTrait};
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Float16Type, Float32Type, Float64Type};
use esker_format::{Error, Result};
use half::slice::HalfFloatSliceExt;

use super::sample::Element;

/// The array as another type; a value that does not fit is an error that numbers its row within the array.
pub(crate) fn to(column: &dyn Array, kind: &DataType) -> Result<ArrayRef> {
    let column = arrow::array::make_array(column.to_data());
    if column.data_type() == kind {
        return Ok(column);
    }
    let options = |safe| CastOptions { safe, ..CastOptions::default() };
    let wrong = |e: arrow::error::ArrowError| Error::invalid("records", e.to_string());
    cast_with_options(&column, kind, &options(false)).map_err(|e| {
        // Cast again, with nulls for what does not fit, to learn which row it was.
        let Ok(lossy) = cast_with_options(&column, kind, &options(true)) else { return wrong(e) };
        match (0..column.len()).find(|row| column.is_valid(*row) && lossy.is_null(*row)) {
            Some(row) => Error::invalid(format!("records[{row}]"), e.to_string()),
            None => wrong(e),
        }
    })
}

/// The vectors of a column, each a slice of one buffer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Vectors {
    values: ScalarBuffer<f32>,
    /// Nulls among the values.
    holes: Option<NullBuffer>,
    /// Where each vector ends; the first starts at `ends[0]`.
    offsets: Vec<usize>,
    /// Rows without a vector.
    nulls: Option<NullBuffer>,
    /// Values of a text column so far, while it is being parsed.
    parsed: Vec<f32>,
}

impl Vectors {
    pub(crate) fn len(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// The vector of a row.
    pub(crate) fn get(&self, row: usize) -> Result<&[f32], &'static str> {
        let (Some(&start), Some(&end)) = (self.offsets.get(row), self.offsets.get(row + 1)) else {
            return Err("there is no vector");
        };
        if self.nulls.as_ref().is_some_and(|n| n.is_null(row)) {
            return Err("there is no vector");
        }
        if self.holes.as_ref().is_some_and(|n| n.slice(start, end - start).null_count() > 0) {
            return Err("the vector has an element without a value");
        }
        let values = if self.parsed.is_empty() { &self.values[..] } else { &self.parsed[..] };
        values.get(start..end).ok_or("there is no vector")
    }

    pub(crate) fn push(&mut self, vector: &[f32]) {
        if self.offsets.is_empty() {
            self.offsets.push(0);
        }
        self.parsed.extend_from_slice(vector);
        self.offsets.push(self.parsed.len());
    }
}

/// The column as vectors and what its elements are; `None` when its type cannot hold any.
///
/// # Errors
/// Invalid when a text of a text column is not a JSON array of numbers, numbering the row within the array.
pub(crate) fn vectors(column: &dyn Array) -> Result<Option<(Vectors, Element)>> {
    let (items, offsets) = match column.data_type() {
        DataType::FixedSizeList(_, n) => {
            let list = column.as_fixed_size_list();
            let n = usize::try_from(*n).unwrap_or_default();
            let first = usize::try_from(list.value_offset(0)).unwrap_or_default();
            (list.values().clone(), (0..=list.len()).map(|row| first + row * n).collect())
        }
        DataType::List(_) => offsets(column.as_list::<i32>()),
        DataType::LargeList(_) => offsets(column.as_list::<i64>()),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => return texts(column).map(Some),
        _ => return Ok(None),
    };
    let (values, element) = match items.data_type() {
        DataType::Float16 => {
            let from = primitive::<Float16Type>(&items);
            let mut to = vec![0f32; from.len()];
            from.convert_to_f32_slice(&mut to);
            (to.into(), Element::F16)
        }
        DataType::Float32 => (primitive::<Float32Type>(&items).clone(), Element::F32),
        DataType::Float64 => {
            let to: Vec<f32> = primitive::<Float64Type>(&items).iter().map(|v| *v as f32).collect();
            (to.into(), Element::F64)
        }
        _ => return Ok(None),
    };
    let holes = items.logical_nulls().filter(|n| n.null_count() > 0);
    let vectors = Vectors { values, holes, offsets, nulls: column.logical_nulls(), parsed: Vec::new() };
    Ok(Some((vectors, element)))
}

fn primitive<T: ArrowPrimitiveType>(array: &ArrayRef) -> &ScalarBuffer<T::Native> {
    array.as_primitive::<T>().values()
}

/// The items of these rows only: a slice of a large batch has the items of all.
fn offsets<O: OffsetSizeTrait>(list: &GenericListArray<O>) -> (ArrayRef, Vec<usize>) {
    let offsets = list.value_offsets();
    let (first, end) = (offsets[0].as_usize(), offsets[list.len()].as_usize());
    (list.values().slice(first, end - first), offsets.iter().map(|o| o.as_usize() - first).collect())
}

fn texts(column: &dyn Array) -> Result<(Vectors, Element)> {
    let texts = to(column, &DataType::LargeUtf8)?;
    let mut vectors = Vectors { nulls: texts.logical_nulls(), ..Vectors::default() };
    for (row, text) in texts.as_string::<i64>().iter().enumerate() {
        let vector = text.map(parse_vector).transpose();
        let vector = vector.map_err(|m| Error::invalid(format!("records[{row}]"), m))?;
        vectors.push(&vector.unwrap_or_default());
    }
    Ok((vectors, Element::Text))
}

/// A vector written as a JSON array.
pub(crate) fn parse_vector(text: &str) -> Result<Vec<f32>, String> {
    // Most texts are none: say so without trying.
    if !text.trim_start().starts_with('[') {
        return Err("the text is not a JSON array of numbers".to_owned());
    }
    serde_json::from_str(text).map_err(|e| format!("the text is not a JSON array of numbers: {e}"))
}
