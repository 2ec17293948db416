//! Work over disjoint chunks on a few threads.

use std::sync::{Mutex, PoisonError};

/// Calls `work(index, chunk)` for each chunk of `data`, on up to `threads` threads. Chunks do not depend on the number of
/// threads, so neither does a result that is a function of its chunk.
pub(crate) fn for_chunks<T: Send>(
    threads: usize,
    data: &mut [T],
    chunk: usize,
    work: impl Fn(usize, &mut [T]) + Sync,
) {
    let chunks = data.len().div_ceil(chunk);
    let queue = Mutex::new(data.chunks_mut(chunk).enumerate());
    let run = || {
        loop {
            // A worker that panicked is reported by the scope; the queue itself is whole.
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((index, part)) = next else { return };
            work(index, part);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.min(chunks) {
            scope.spawn(run);
        }
        run();
    });
}
