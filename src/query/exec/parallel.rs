//! Work in numbered chunks on several threads, results delivered in the order of their numbers.
//!
//! What a query answers must not depend on how many threads there were: chunks are cut by the data alone, and whoever
//! consumes them sees them in order.
//!
//! ```text
//! the query's thread    consume 0 ─ work 3 ─ consume 1, 2, 3 ─ …      works too, while the next chunk is not there
//! pool (cores − 1)      work 0 ─ work 2 …    work 1 ─ work 4 …        shared by all queries, started once
//! ```
//!
//! Invariants
//! 1. Nothing on the pool ever waits: a thread that is too far ahead of the consumer goes back to the pool, and the
//!    consumer asks for it again. So queries cannot block each other.
//! 2. At most `AHEAD` chunks per thread are finished and not yet consumed.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use parking_lot::{Condvar, Mutex};
use quiver_core::turns::take_turns;
use rayon_core::{Scope, ThreadPool, ThreadPoolBuilder};

use crate::error::QueryError;

/// Chunks that may be finished and not yet consumed, per thread.
const AHEAD: usize = 4;

/// The threads all queries share, beside their own. None where the system gives none.
fn pool() -> Option<&'static ThreadPool> {
    static POOL: OnceLock<Option<ThreadPool>> = OnceLock::new();
    let start = || {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let name = |i| format!("quiver-scan-{i}");
        let builder = ThreadPoolBuilder::new().num_threads(cores.saturating_sub(1).max(1)).thread_name(name);
        let pool = builder.start_handler(|_| take_turns()).build();
        pool.inspect_err(|e| tracing::warn!(error = %e, "no threads for scans: each query uses its own only")).ok()
    };
    POOL.get_or_init(start).as_ref()
}

struct Job<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    chunks: usize,
    threads: usize,
}

struct State<T> {
    ready: BTreeMap<usize, Result<T, QueryError>>,
    /// The chunk nobody has taken yet.
    next: usize,
    /// The chunk the consumer waits for.
    wanted: usize,
    /// Pool threads at work or asked for.
    helpers: usize,
    stop: bool,
}

impl<T> Job<T> {
    /// Takes a chunk, where one may be worked on now.
    fn take(&self, s: &mut State<T>) -> Option<usize> {
        let c = s.next;
        let open = !s.stop && c < self.chunks && c < s.wanted + self.threads * AHEAD;
        s.next += usize::from(open);
        open.then_some(c)
    }
}

/// Does a chunk; a panic is an error of its query.
fn attempt<S, T>(
    work: &(impl Fn(&mut S, usize) -> Result<T, QueryError> + Sync),
    own: &mut S,
    c: usize,
) -> Result<T, QueryError> {
    catch_unwind(AssertUnwindSafe(|| work(own, c)))
        .unwrap_or_else(|_| Err(QueryError::Internal("a scan thread panicked".into())))
}

/// Runs `work` for chunks `0..chunks` on up to `threads` threads (this one among them) and hands the results to `consume`
/// in order. The first error, in chunk order, ends it.
pub fn ordered<S, T: Send>(
    threads: usize,
    chunks: usize,
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, usize) -> Result<T, QueryError> + Sync,
    mut consume: impl FnMut(T) -> Result<(), QueryError>,
) -> Result<(), QueryError> {
    let threads = threads.min(chunks);
    let pool = if threads > 1 { pool() } else { None };
    let Some(pool) = pool else {
        let mut own = state();
        for c in 0..chunks {
            consume(work(&mut own, c)?)?;
        }
        return Ok(());
    };
    let first = State { ready: BTreeMap::new(), next: 0, wanted: 0, helpers: 0, stop: false };
    let job = Job { state: Mutex::new(first), changed: Condvar::new(), chunks, threads };
    pool.in_place_scope(|scope| {
        let outcome = drive(&job, scope, &state, &work, &mut consume);
        job.state.lock().stop = true;
        outcome
    })
}

fn drive<'s, S, T: Send>(
    job: &'s Job<T>,
    scope: &Scope<'s>,
    state: &'s (impl Fn() -> S + Sync),
    work: &'s (impl Fn(&mut S, usize) -> Result<T, QueryError> + Sync),
    consume: &mut impl FnMut(T) -> Result<(), QueryError>,
) -> Result<(), QueryError> {
    let help = move |_: &Scope<'s>| {
        // A panic here would leave the consumer waiting.
        let mut own = catch_unwind(AssertUnwindSafe(state)).ok();
        let mut s = job.state.lock();
        while let (Some(own), Some(c)) = (&mut own, job.take(&mut s)) {
            drop(s);
            let result = attempt(work, own, c);
            s = job.state.lock();
            s.ready.insert(c, result);
            job.changed.notify_one();
        }
        s.helpers -= 1;
        job.changed.notify_one();
    };
    let mut own = state();
    for wanted in 0..job.chunks {
        let mut s = job.state.lock();
        s.wanted = wanted;
        let result = loop {
            let open = job.chunks.min(wanted + job.threads * AHEAD).saturating_sub(s.next);
            let asked = (job.threads - 1 - s.helpers).min(open);
            s.helpers += asked;
            (0..asked).for_each(|_| scope.spawn(help));
            if let Some(result) = s.ready.remove(&wanted) {
                break result;
            }
            match job.take(&mut s) {
                Some(c) => {
                    drop(s);
                    let result = attempt(work, &mut own, c);
                    s = job.state.lock();
                    s.ready.insert(c, result);
                }
                None => job.changed.wait(&mut s),
            }
        };
        drop(s);
        consume(result?)?;
    }
    Ok(())
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
