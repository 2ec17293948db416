//! A fixed list of tasks on a few threads. What a task computes must not depend on which thread runs it or when.

use std::sync::{Mutex, PoisonError};

/// A piece of work that fills in its own part of the result.
pub(crate) type Task<'a> = Box<dyn FnOnce() + Send + 'a>;

/// Runs every task, in the order given, on up to `threads` threads, this one included.
pub(crate) fn run(threads: usize, tasks: Vec<Task<'_>>) {
    let workers = threads.min(tasks.len());
    let queue = Mutex::new(tasks.into_iter());
    let work = || {
        loop {
            // A task that panicked is reported by the scope; the queue itself is whole.
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(task) = next else { return };
            task();
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..workers {
            scope.spawn(work);
        }
        work();
    });
}
