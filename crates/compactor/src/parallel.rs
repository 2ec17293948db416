//! A fixed list of tasks on a few threads. What a task computes must not depend on which thread runs it or when.

use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, PoisonError};

use esker_format::Result;

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

/// Calls `see` with each of `items`, in order, while a thread of its own makes the next one. With one thread they take turns.
pub(crate) fn ahead<T: Send>(
    threads: usize,
    items: impl Iterator<Item = Result<T>> + Send,
    mut see: impl FnMut(T) -> Result<()>,
) -> Result<()> {
    if threads <= 1 {
        return items.into_iter().try_for_each(|item| see(item?));
    }
    std::thread::scope(|scope| {
        // Without room between them only one item waits.
        let (sender, receiver) = sync_channel(0);
        scope.spawn(move || {
            for item in items {
                let last = item.is_err();
                if sender.send(item).is_err() || last {
                    return;
                }
            }
        });
        receiver.into_iter().try_for_each(|item| see(item?))
    })
}

#[cfg(test)]
mod tests;
