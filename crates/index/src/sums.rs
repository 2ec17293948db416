//! Sums of products in sixteen lanes: fast where compilers may not reorder additions, and the same everywhere.

/// ⟨a, b⟩.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut lanes = [0f32; 16];
    let (a_blocks, a_rest) = a.as_chunks::<16>();
    let (b_blocks, b_rest) = b.as_chunks::<16>();
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    lanes.iter().map(|lane| f64::from(*lane)).sum::<f64>() + rest
}

/// ‖a‖.
pub(crate) fn norm(a: &[f32]) -> f64 {
    dot(a, a).sqrt()
}
