//! Rows as they come, and the same rows in the order of their ordinals.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray, Float16Array, Float32Array, RecordBatch};
use arrow::buffer::ScalarBuffer;
use arrow::compute::interleave;
use arrow::datatypes::{DataType, Float16Type, Float32Type};
use esker_format::schema::{Settings, VectorType, arrow_schema, vector_type};
use esker_format::segment::rows::VECTOR_COLUMN;
use esker_format::{Error, Result};
use half::f16;
use half::slice::HalfFloatSliceExt;

use super::Target;
use crate::parallel::{self, Task};

/// Rows moved as one task, and rows of an ordered batch: a multiple of a vector page.
pub(super) const CHUNK: usize = 8192;

/// The rows to be built, vectors apart from the other columns.
pub(crate) struct Source {
    vectors: Vectors,
    dimension: usize,
    /// Columns but the vector, by batch.
    others: Vec<Vec<ArrayRef>>,
    /// Batch and row of each input row.
    at: Vec<(usize, usize)>,
}

/// All vectors one after the other, as f32.
enum Vectors {
    /// The memory of a single batch of f32.
    Shared(ScalarBuffer<f32>),
    Copied(Vec<f32>),
}

/// Memory that vectors were in, for those that come: its pages are there, and a new one costs a machine more than what is copied
/// into it. The default keeps none.
#[derive(Default)]
pub(super) struct Spare {
    most: usize,
    kept: Mutex<Vec<Vec<f32>>>,
}

impl Spare {
    /// Keeps what up to `most` buckets were in.
    pub(super) fn keeping(most: usize) -> Self {
        Spare { most, kept: Mutex::default() }
    }

    /// So many values, whatever they are.
    fn take(&self, values: usize) -> Vec<f32> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let Some(mut vectors) = kept else { return vec![0.0; values] };
        vectors.resize(values, 0.0);
        vectors
    }

    fn put(&self, vectors: Vec<f32>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < self.most {
            kept.push(vectors);
        }
    }

    /// Takes what rows in order were in, if nothing else holds it.
    pub(super) fn put_back(&self, ordered: Ordered) {
        drop(ordered.batches);
        if let Ok(vectors) = ordered.vectors.into_inner().into_vec() {
            self.put(vectors);
        }
    }
}

/// Rows by ordinal.
pub(super) struct Ordered {
    /// With `arrow_schema`, [`CHUNK`] rows each but the last; of f32 their vectors are slices of `vectors`.
    pub(super) batches: Vec<RecordBatch>,
    /// Vectors by ordinal, as f32.
    pub(super) vectors: ScalarBuffer<f32>,
}

impl Ordered {
    pub(super) fn rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }
}

impl Source {
    /// Takes the batches apart. Their vectors are copied only where they do not yet lie together as f32.
    pub(super) fn gather(batches: Vec<RecordBatch>, settings: &Settings, spare: &Spare) -> Result<Self> {
        let dimension = settings.dimension as usize;
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        let single = batches.len() == 1 && settings.vector_type == VectorType::F32;
        let mut copied = if single { Vec::new() } else { spare.take(rows * dimension) };
        let mut rest = copied.as_mut_slice();
        let mut shared = None;
        let (mut others, mut at) = (Vec::with_capacity(batches.len()), Vec::with_capacity(rows));
        for (number, batch) in batches.into_iter().enumerate() {
            let vectors = values(batch.column(VECTOR_COLUMN), batch.num_rows() * dimension)?;
            match settings.vector_type {
                VectorType::F32 if single => {
                    shared = Some(vectors.as_primitive::<Float32Type>().values().clone());
                }
                VectorType::F32 => {
                    let out = rest.split_off_mut(..vectors.len()).unwrap_or_default();
                    out.copy_from_slice(vectors.as_primitive::<Float32Type>().values());
                }
                VectorType::F16 => {
                    let out = rest.split_off_mut(..vectors.len()).unwrap_or_default();
                    let halves: &[f16] = vectors.as_primitive::<Float16Type>().values();
                    halves.convert_to_f32_slice(out);
                }
            }
            at.extend((0..batch.num_rows()).map(|row| (number, row)));
            let mut columns = batch.columns().to_vec();
            // The vectors' memory goes with the batch, unless it is shared.
            columns.remove(VECTOR_COLUMN);
            others.push(columns);
        }
        let vectors = shared.map_or(Vectors::Copied(copied), Vectors::Shared);
        Ok(Source { vectors, dimension, others, at })
    }

    /// All vectors, n·d values in input order.
    pub(super) fn vectors(&self) -> &[f32] {
        match &self.vectors {
            Vectors::Shared(v) => v,
            Vectors::Copied(v) => v,
        }
    }

    /// The rows in the order given.
    pub(super) fn reorder(
        self,
        order: &[u32],
        target: &Target<'_>,
        threads: usize,
        spare: &Spare,
    ) -> Result<Ordered> {
        let d = self.dimension;
        let mut vectors = spare.take(order.len() * d);
        let chunks = order.len().div_ceil(CHUNK);
        let mut others: Vec<Option<Result<Vec<ArrayRef>>>> = (0..chunks).map(|_| None).collect();
        let mut tasks: Vec<Task<'_>> = Vec::with_capacity(2 * chunks);
        let parts = order.chunks(CHUNK).zip(vectors.chunks_mut(CHUNK * d)).zip(&mut others);
        for ((order, out), others) in parts {
            let from = &self;
            tasks.push(Box::new(move || {
                for (row, out) in order.iter().zip(out.chunks_exact_mut(d)) {
                    out.copy_from_slice(&from.vectors()[*row as usize * d..][..d]);
                }
            }));
            tasks.push(Box::new(move || *others = Some(from.interleave(order))));
        }
        parallel::run(threads, tasks);
        // Before the vectors are copied as f16: they are the largest part of the memory held.
        if let Vectors::Copied(copied) = self.vectors {
            spare.put(copied);
        }
        drop(self.others);
        let vectors = ScalarBuffer::from(vectors);
        let schema = arrow_schema(target.settings, target.schema);
        let mut batches = Vec::with_capacity(chunks);
        for (chunk, columns) in others.into_iter().enumerate() {
            let mut columns = columns.ok_or_else(|| Error::internal("rows were not put in order"))??;
            let start = chunk * CHUNK;
            let rows = CHUNK.min(order.len() - start);
            columns.insert(VECTOR_COLUMN, vector_column(&vectors, start * d, rows * d, target.settings)?);
            batches.push(RecordBatch::try_new(Arc::clone(&schema), columns).map_err(unfit)?);
        }
        Ok(Ordered { batches, vectors })
    }

    /// The other columns of some input rows.
    fn interleave(&self, order: &[u32]) -> Result<Vec<ArrayRef>> {
        let indices: Vec<(usize, usize)> = order.iter().map(|row| self.at[*row as usize]).collect();
        let columns = self.others.first().map_or(0, Vec::len);
        (0..columns)
            .map(|column| {
                let parts: Vec<&dyn Array> = self.others.iter().map(|batch| &*batch[column]).collect();
                interleave(&parts, &indices).map_err(unfit)
            })
            .collect()
    }
}

/// The vectors of a batch, n·d values: f32 are where the batch has them.
pub(crate) fn floats(batch: &RecordBatch, settings: &Settings) -> Result<ScalarBuffer<f32>> {
    let vectors = values(batch.column(VECTOR_COLUMN), batch.num_rows() * settings.dimension as usize)?;
    Ok(match settings.vector_type {
        VectorType::F32 => vectors.as_primitive::<Float32Type>().values().clone(),
        VectorType::F16 => {
            let mut out = vec![0.0; vectors.len()];
            vectors.as_primitive::<Float16Type>().values().convert_to_f32_slice(&mut out);
            out.into()
        }
    })
}

/// The elements of a column of vectors.
fn values(column: &ArrayRef, expected: usize) -> Result<ArrayRef> {
    let list = column.as_fixed_size_list();
    let values = list.values();
    if values.len() != expected || list.null_count() > 0 || values.null_count() > 0 {
        return Err(Error::internal("vectors to be built have nulls or another dimension"));
    }
    Ok(Arc::clone(values))
}

/// A column of the vectors whose elements start at `start`. What was f16 is so again without loss.
fn vector_column(
    vectors: &ScalarBuffer<f32>,
    start: usize,
    length: usize,
    settings: &Settings,
) -> Result<ArrayRef> {
    let part = vectors.slice(start, length);
    let values: ArrayRef = match settings.vector_type {
        VectorType::F32 => Arc::new(Float32Array::new(part, None)),
        VectorType::F16 => {
            let mut halves = vec![f16::ZERO; length];
            halves.convert_from_f32_slice(&part);
            Arc::new(Float16Array::from(halves))
        }
    };
    let DataType::FixedSizeList(item, dimension) = vector_type(settings) else {
        return Err(Error::internal("the vector column is not a fixed-size list"));
    };
    Ok(Arc::new(FixedSizeListArray::try_new(item, dimension, values, None).map_err(unfit)?))
}

/// The bytes of a batch's vectors as they are stored, one vector after the other.
pub(super) fn stored_bytes<'a>(batch: &'a RecordBatch, settings: &Settings) -> &'a [u8] {
    let values = batch.column(VECTOR_COLUMN).as_fixed_size_list().values();
    match settings.vector_type {
        VectorType::F32 => values.as_primitive::<Float32Type>().values().inner().as_slice(),
        VectorType::F16 => values.as_primitive::<Float16Type>().values().inner().as_slice(),
    }
}

fn unfit(e: arrow::error::ArrowError) -> Error {
    Error::internal("rows of a segment do not fit their schema").with_source(e)
}
