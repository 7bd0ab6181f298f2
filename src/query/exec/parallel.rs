//! Work in numbered chunks on several threads, results delivered in the order of their numbers.
//!
//! What a query answers must not depend on how many threads there were: chunks are cut by the data alone, and whoever
//! consumes them sees them in order. Threads run ahead by a bounded number of chunks.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::{Condvar, Mutex};

use crate::error::QueryError;

/// Chunks that may be finished and not yet consumed, per thread.
const AHEAD: usize = 4;

struct Shared<T> {
    done: Mutex<State<T>>,
    changed: Condvar,
    next: AtomicUsize,
    stop: AtomicBool,
}

struct State<T> {
    ready: BTreeMap<usize, Result<T, QueryError>>,
    /// The chunk the consumer waits for.
    wanted: usize,
}

/// Runs `work` for chunks `0..chunks` on up to `threads` threads (this one among them where it is the only one) and
/// hands the results to `consume` in order. The first error, in chunk order, ends it.
pub fn ordered<S, T: Send>(
    threads: usize,
    chunks: usize,
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, usize) -> Result<T, QueryError> + Sync,
    mut consume: impl FnMut(T) -> Result<(), QueryError>,
) -> Result<(), QueryError> {
    let threads = threads.min(chunks);
    if threads <= 1 {
        let mut s = state();
        for c in 0..chunks {
            consume(work(&mut s, c)?)?;
        }
        return Ok(());
    }
    let shared = Shared {
        done: Mutex::new(State { ready: BTreeMap::new(), wanted: 0 }),
        changed: Condvar::new(),
        next: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
    };
    std::thread::scope(|scope| {
        let mut started = 0;
        for _ in 0..threads {
            let spawned = std::thread::Builder::new().name("quiver-scan".into()).spawn_scoped(scope, || {
                let mut s = state();
                loop {
                    let c = shared.next.fetch_add(1, Ordering::Relaxed);
                    if c >= chunks {
                        return;
                    }
                    {
                        let mut d = shared.done.lock();
                        while c >= d.wanted + threads * AHEAD && !shared.stop.load(Ordering::Relaxed) {
                            shared.changed.wait(&mut d);
                        }
                    }
                    if shared.stop.load(Ordering::Relaxed) {
                        return;
                    }
                    // A panic must not leave the consumer waiting.
                    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&mut s, c)))
                        .unwrap_or_else(|_| Err(QueryError::Internal("a scan thread panicked".into())));
                    shared.done.lock().ready.insert(c, result);
                    shared.changed.notify_all();
                }
            });
            started += usize::from(spawned.is_ok());
        }
        let mut outcome = Ok(());
        if started == 0 {
            // No thread to be had: do it here.
            let mut s = state();
            for c in 0..chunks {
                consume(work(&mut s, c)?)?;
            }
            return Ok(());
        }
        for c in 0..chunks {
            let result = {
                let mut d = shared.done.lock();
                d.wanted = c;
                shared.changed.notify_all();
                loop {
                    if let Some(r) = d.ready.remove(&c) {
                        break r;
                    }
                    shared.changed.wait(&mut d);
                }
            };
            if let Err(e) = result.and_then(&mut consume) {
                outcome = Err(e);
                break;
            }
        }
        shared.stop.store(true, Ordering::Relaxed);
        drop(shared.done.lock());
        shared.changed.notify_all();
        outcome
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_whatever_the_threads() {
        for threads in [1, 2, 5] {
            let mut seen = Vec::new();
            ordered(
                threads,
                100,
                || 0,
                |_, c| Ok(c * 2),
                |v| {
                    seen.push(v);
                    Ok(())
                },
            )
            .unwrap();
            assert_eq!(seen, (0..100).map(|c| c * 2).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_first_error_in_order_ends_it() {
        let mut seen = 0;
        let e = ordered(
            3,
            50,
            || (),
            |(), c| if c % 10 == 7 { Err(QueryError::execution(c.to_string())) } else { Ok(c) },
            |_| {
                seen += 1;
                Ok(())
            },
        );
        assert_eq!(e, Err(QueryError::execution("7")));
        assert_eq!(seen, 7);
    }

    #[test]
    fn a_panic_is_an_error() {
        let e = ordered(2, 4, || (), |(), c| if c == 2 { panic!("deliberate") } else { Ok(c) }, |_| Ok(()));
        assert!(matches!(e, Err(QueryError::Internal(_))));
    }
}
