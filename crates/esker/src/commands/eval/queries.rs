//! The file of queries.

use std::fs::File;
use std::path::Path;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type};
use esker_format::{Error, Kind, Result};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// The vectors of a Parquet file, at most `limit`. Each has its own length.
pub fn read(path: &Path, limit: Option<usize>) -> Result<Vec<Vec<f32>>> {
    let file = File::open(path).map_err(|e| {
        let kind = if e.kind() == std::io::ErrorKind::NotFound { Kind::NotFound } else { Kind::Invalid };
        Error::new(kind, format!("cannot open {}: {e}", path.display())).with_source(e)
    })?;
    let wrong = |e| Error::invalid("file", format!("{} cannot be read as Parquet: {e}", path.display()));
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)
        .and_then(|builder| builder.with_limit(limit.unwrap_or(usize::MAX)).build())
        .map_err(wrong)?;
    let mut out = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|e| wrong(e.into()))?;
        vectors(&batch, &mut out)?;
    }
    match out.is_empty() {
        true => Err(Error::invalid("file", "the file has no queries")),
        false => Ok(out),
    }
}

fn vectors(batch: &RecordBatch, out: &mut Vec<Vec<f32>>) -> Result<()> {
    let column = batch.column_by_name("vector").ok_or_else(|| {
        let names: Vec<_> = batch.schema().fields().iter().map(|f| f.name().clone()).collect();
        Error::invalid("file", format!("there is no column `vector` among {}", names.join(", ")))
    })?;
    let not_a_vector =
        || Error::invalid("vector", format!("{} is not a list of numbers", column.data_type()));
    for row in 0..column.len() {
        if column.is_null(row) {
            return Err(Error::invalid("vector", format!("row {row} has no vector")));
        }
        let items: ArrayRef = match column.data_type() {
            DataType::FixedSizeList(..) => column.as_fixed_size_list().value(row),
            DataType::List(..) => column.as_list::<i32>().value(row),
            DataType::LargeList(..) => column.as_list::<i64>().value(row),
            _ => return Err(not_a_vector()),
        };
        let floats = cast(&items, &DataType::Float32).map_err(|_| not_a_vector())?;
        if floats.null_count() > 0 {
            return Err(Error::invalid("vector", format!("row {row} has a missing element")));
        }
        out.push(floats.as_primitive::<Float32Type>().values().to_vec());
    }
    Ok(())
}
