//! Criterion kernels and the macro harness.
