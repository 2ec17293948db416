//! The notes and questions that come with the program, embedded once with all-MiniLM-L6-v2 (`scripts/embed-demo.py`).

use std::path::{Path, PathBuf};

use arrow::array::{Array, FixedSizeListArray, Float16Array, RecordBatch, StringArray};
use bytes::Bytes;
use esker_format::{Error, Kind, Result};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// 440 notes: id, text, topic, year, rating, tags, source, featured, vector.
const NOTES: &[u8] = include_bytes!("../../../demo/notes.parquet");
/// 20 questions: id, text, vector.
const QUESTIONS: &[u8] = include_bytes!("../../../demo/questions.parquet");

/// A question with the vector of its text.
pub struct Question {
    pub text: String,
    pub vector: Vec<f32>,
}

/// Writes the notes into a directory, to be imported like any file.
#[allow(clippy::disallowed_methods, reason = "a temporary file of the command")]
pub fn write_notes(directory: &Path) -> Result<PathBuf> {
    let path = directory.join("notes.parquet");
    std::fs::write(&path, NOTES).map_err(|e| {
        Error::new(Kind::Unavailable, format!("cannot write {}", path.display())).with_source(e)
    })?;
    Ok(path)
}

/// All questions.
pub fn questions() -> Result<Vec<Question>> {
    let wrong = |e: Box<dyn std::error::Error + Send + Sync>| {
        Error::internal("the questions of the demo cannot be read").with_source(e)
    };
    let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from_static(QUESTIONS))
        .and_then(ParquetRecordBatchReaderBuilder::build)
        .map_err(|e| wrong(e.into()))?;
    let mut out = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|e| wrong(e.into()))?;
        out.extend(of(&batch).ok_or_else(|| wrong("a column is missing".into()))?);
    }
    Ok(out)
}

fn of(batch: &RecordBatch) -> Option<Vec<Question>> {
    let texts = batch.column_by_name("text")?.as_any().downcast_ref::<StringArray>()?;
    let vectors = batch.column_by_name("vector")?.as_any().downcast_ref::<FixedSizeListArray>()?;
    (0..batch.num_rows())
        .map(|row| {
            let vector = vectors.value(row);
            let vector = vector.as_any().downcast_ref::<Float16Array>()?;
            Some(Question {
                text: texts.value(row).to_owned(),
                vector: vector.values().iter().map(|x| x.to_f32()).collect(),
            })
        })
        .collect()
}
