//! Exact distances between one query and many stored rows.
#![allow(unsafe_code)]

use diskann_vector::UnalignedSlice;
use diskann_vector::distance::{Distance, DistanceProvider, Metric as Kernel};
use half::f16;

use crate::Metric;

/// A query prepared for exact distances, by run-time dispatched kernels (AVX-512, AVX2, NEON or scalar).
///
/// Distances are those of the metric as clients see them: cosine `1 − cos`, l2 with the root, dot negated.
/// A row whose length is not the query's gives NaN, which [`TopK`](crate::TopK) never accepts.
#[derive(Clone)]
pub struct Exact {
    metric: Metric,
    query: Vec<f32>,
    by_f32: Distance<f32, f32>,
    by_f16: Distance<f32, f16>,
}

impl Exact {
    /// Prepares `query` (any finite values; under cosine a zero vector is at distance 1 of everything).
    pub fn new(metric: Metric, query: &[f32]) -> Self {
        let kernel = match metric {
            Metric::Cosine => Kernel::Cosine,
            Metric::L2 => Kernel::L2,
            Metric::Dot => Kernel::InnerProduct,
        };
        Self {
            metric,
            query: query.to_vec(),
            by_f32: <f32 as DistanceProvider<f32>>::distance_comparer(kernel, Some(query.len())),
            by_f16: <f32 as DistanceProvider<f16>>::distance_comparer(kernel, Some(query.len())),
        }
    }

    /// Distance to a row of f32.
    pub fn f32(&self, row: &[f32]) -> f32 {
        if row.len() != self.query.len() {
            return f32::NAN;
        }
        self.finish(self.by_f32.call(&self.query, row))
    }

    /// Distance to a row of f16.
    pub fn f16(&self, row: &[f16]) -> f32 {
        if row.len() != self.query.len() {
            return f32::NAN;
        }
        self.finish(self.by_f16.call(&self.query, row))
    }

    /// Distance to a stored row: little-endian elements of `width` bytes (4 = f32, 2 = f16) at any alignment,
    /// as they lie in a Parquet page. Another width or length gives NaN.
    pub fn row_bytes(&self, width: usize, row: &[u8]) -> f32 {
        let d = self.query.len();
        if !matches!(width, 2 | 4) || row.len() != d * width {
            return f32::NAN;
        }
        let query = UnalignedSlice::from(self.query.as_slice());
        if cfg!(target_endian = "big") {
            return self.row_bytes_portable(width, row);
        }
        let raw = if width == 4 {
            // SAFETY: the slice spans exactly d·4 readable bytes for the life of `row`; every bit pattern is an
            // f32 and UnalignedSlice reads without assuming alignment.
            let row = unsafe { UnalignedSlice::new(row.as_ptr().cast::<f32>(), d) };
            self.by_f32.call_unaligned(query, row)
        } else {
            // SAFETY: as above with d·2 bytes; every bit pattern is an f16.
            let row = unsafe { UnalignedSlice::new(row.as_ptr().cast::<f16>(), d) };
            self.by_f16.call_unaligned(query, row)
        };
        self.finish(raw)
    }

    /// The twin of [`Exact::row_bytes`] that decodes first: for big-endian machines and for tests.
    fn row_bytes_portable(&self, width: usize, row: &[u8]) -> f32 {
        if width == 4 {
            let values: Vec<f32> =
                row.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            self.f32(&values)
        } else {
            let values: Vec<f16> = row.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]])).collect();
            self.f16(&values)
        }
    }

    /// From the kernel's convention (squared l2, negated dot) to ours. `+ 0.0` turns −0 into 0.
    fn finish(&self, raw: f32) -> f32 {
        match self.metric {
            Metric::Cosine => raw.max(0.0),
            Metric::L2 => raw.sqrt(),
            Metric::Dot => raw + 0.0,
        }
    }
}

/// Tells the processor that a row is read soon. Nothing happens where it cannot be told.
#[inline]
pub fn prefetch(row: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in row.chunks(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint, without effect on memory, at the address of a byte that is there.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = row;
}

#[cfg(test)]
mod tests;
