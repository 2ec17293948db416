//! The vectors of a segment by ordinal, wherever they are.

use std::sync::{Mutex, PoisonError};

use arrow::buffer::{Buffer, MutableBuffer, ScalarBuffer};
use esker_format::Result;
use esker_format::schema::{Settings, VectorType};
use esker_format::segment::PAGE_ROWS;
use esker_format::segment::rows::RowsLayout;
use half::f16;
use half::slice::HalfFloatSliceExt;

use super::order::CHUNK;
use super::spill::block_rows;
use crate::parallel;
use crate::scratch::{ScratchFile, broken};

/// Hears some vectors: the ordinal of the first, and n·d values.
pub(super) type See<'a> = &'a mut dyn FnMut(usize, &[f32]) -> Result<()>;

/// Vectors by ordinal.
pub(super) trait Vectors {
    /// How many.
    fn rows(&self) -> usize;
    /// All of them, in order.
    fn each(&self, see: See<'_>) -> Result<()>;
    /// One.
    fn row(&self, ordinal: usize) -> Result<Vec<f32>>;
}

/// Vectors in memory.
pub(super) struct Whole<'a> {
    pub(super) vectors: &'a [f32],
    pub(super) d: usize,
}

impl Vectors for Whole<'_> {
    fn rows(&self) -> usize {
        self.vectors.len() / self.d
    }

    fn each(&self, see: See<'_>) -> Result<()> {
        let mut parts = self.vectors.chunks(CHUNK * self.d).enumerate();
        parts.try_for_each(|(part, vectors)| see(part * CHUNK, vectors))
    }

    fn row(&self, ordinal: usize) -> Result<Vec<f32>> {
        Ok(self.vectors[ordinal * self.d..][..self.d].to_vec())
    }
}

/// Vectors in a finished rows file.
pub(super) struct InFile<'a> {
    pub(super) file: &'a dyn ScratchFile,
    pub(super) layout: &'a RowsLayout,
    pub(super) settings: &'a Settings,
    /// Bytes that the build may take.
    pub(super) memory: u64,
    /// Pages are read ahead if there is more than one.
    pub(super) threads: usize,
}

impl InFile<'_> {
    /// Calls `see` with the first ordinal, the vectors and their bytes as stored, of some whole pages at a time.
    pub(super) fn each_stored(&self, mut see: impl FnMut(usize, &[f32], &[u8]) -> Result<()>) -> Result<()> {
        let step = block_rows(self.settings.stride(), self.memory).next_multiple_of(PAGE_ROWS as usize);
        // Pages of new memory cost as much as what is copied into them.
        let spare = Mutex::new(MutableBuffer::new(0));
        let spared = || spare.lock().unwrap_or_else(PoisonError::into_inner);
        let blocks = (0..self.rows()).step_by(step).map(|first| {
            let buffer = std::mem::take(&mut *spared());
            self.block(first, step, buffer)
        });
        parallel::ahead(self.threads, blocks, |(first, vectors, stored)| {
            see(first, &vectors, &stored)?;
            drop(vectors);
            if let Ok(buffer) = stored.into_mutable() {
                *spared() = buffer;
            }
            Ok(())
        })
    }

    /// Up to `step` rows from `first` on, which start a page.
    fn block(
        &self,
        first: usize,
        step: usize,
        mut stored: MutableBuffer,
    ) -> Result<(usize, ScalarBuffer<f32>, Buffer)> {
        let (rows, per_page) = (step.min(self.rows() - first), PAGE_ROWS as usize);
        stored.resize(rows * self.settings.stride(), 0);
        let pages = stored.chunks_mut(per_page * self.settings.stride());
        for (page, out) in (first..).step_by(per_page).zip(pages) {
            self.file.read(self.layout.vector_range(page as u32).start, out).map_err(broken)?;
        }
        let stored = Buffer::from(stored);
        Ok((first, floats_of(&stored, self.settings), stored))
    }
}

impl Vectors for InFile<'_> {
    fn rows(&self) -> usize {
        self.layout.address.rows as usize
    }

    fn each(&self, see: See<'_>) -> Result<()> {
        self.each_stored(|first, vectors, _| see(first, vectors))
    }

    fn row(&self, ordinal: usize) -> Result<Vec<f32>> {
        let place = self.layout.vector_range(ordinal as u32);
        let stored = self.file.range(place.start, (place.end - place.start) as usize).map_err(broken)?;
        Ok(floats_of(&stored.as_slice().into(), self.settings).to_vec())
    }
}

/// Stored vectors as f32: those that are lie where they are.
pub(super) fn floats_of(stored: &Buffer, settings: &Settings) -> ScalarBuffer<f32> {
    match settings.vector_type {
        VectorType::F32 => stored.clone().into(),
        VectorType::F16 => {
            let halves = ScalarBuffer::<f16>::from(stored.clone());
            let mut out = vec![0.0; halves.len()];
            halves.convert_to_f32_slice(&mut out);
            out.into()
        }
    }
}
