//! A limit on threads that write large answers at the same time. Each holds both the result and its encoding.

use parking_lot::{Condvar, Mutex};

/// Threads that write a large answer at once, if there are cores for as many.
const WRITERS_MAX: usize = 4;
/// The same at least: one may be between two steps of its work.
const WRITERS_MIN: usize = 2;

fn writers_max() -> usize {
    std::thread::available_parallelism().map_or(WRITERS_MIN, usize::from).clamp(WRITERS_MIN, WRITERS_MAX)
}

/// Places for writers.
#[derive(Debug)]
pub struct Writers {
    free: Mutex<usize>,
    freed: Condvar,
}

impl Default for Writers {
    fn default() -> Self {
        Self { free: Mutex::new(writers_max()), freed: Condvar::new() }
    }
}

/// A place that is taken; given back when it is dropped.
#[derive(Debug)]
pub struct Writing<'a>(&'a Writers);

impl Writers {
    /// Waits for a place, on a thread that may block. A holder only computes, so the wait is short.
    pub fn enter(&self) -> Writing<'_> {
        let mut free = self.free.lock();
        while *free == 0 {
            self.freed.wait(&mut free);
        }
        *free -= 1;
        Writing(self)
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        *self.0.free.lock() += 1;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_few_write_at_a_time_and_all_get_their_turn() {
        let (writers, at_once, most) = (Writers::default(), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|s| {
            for _ in 0..20 {
                s.spawn(|| {
                    let _turn = writers.enter();
                    most.fetch_max(at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::yield_now();
                    at_once.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        assert!((1..=writers_max()).contains(&most.into_inner()));
        assert_eq!(*writers.free.lock(), writers_max());
    }
}
