//! Threads of statements: each statement that runs has a runtime of its own.
//!
//! Some operators work for long without letting go of their thread (the build side of a join, a window, the output of an
//! aggregation). On threads that all statements share, a few of them would keep every other statement waiting, and a statement
//! that was stopped could not even be told. So a statement borrows a *lane*: a small runtime that nobody else uses. The scheduler
//! of the system shares the processors between lanes.
//!
//! Invariants
//! 1. A lane is lent to one statement at a time, and comes back when the last part of its work has ended.
//! 2. There are as many lanes as statements run at a time; a few are kept for the next ones.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use quiver_core::build_with_workers;
use quiver_core::turns::take_turns;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use crate::error::QueryError;

/// Lanes kept while nobody uses them.
const IDLE_MAX: usize = 4;
/// Planners recurse over a statement, which may have as many levels as operators: some KiB for each, in a build without optimization.
const STACK_BYTES: usize = 32 << 20;

/// See the module.
pub struct Lanes {
    threads: usize,
    idle: Arc<Mutex<Vec<Runtime>>>,
}

/// A runtime for one statement.
pub struct Lane {
    runtime: Option<Runtime>,
    home: Weak<Mutex<Vec<Runtime>>>,
}

impl Lanes {
    /// Lanes of so many threads. One is started now, so that a system that grants none is found out at the start.
    pub fn new(threads: usize) -> Result<Self, QueryError> {
        let lanes = Self { threads, idle: Arc::default() };
        let first = lanes.borrow()?;
        drop(first);
        Ok(lanes)
    }

    /// A lane that nobody else uses.
    pub fn borrow(&self) -> Result<Lane, QueryError> {
        let idle = self.idle.lock().pop();
        let runtime = match idle {
            Some(r) => r,
            None => self.start()?,
        };
        Ok(Lane { runtime: Some(runtime), home: Arc::downgrade(&self.idle) })
    }

    fn start(&self) -> Result<Runtime, QueryError> {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(self.threads).thread_name("quiver-sql").thread_stack_size(STACK_BYTES);
        builder.on_thread_start(take_turns).enable_time();
        // The builder panics where the system grants some of the threads and not all.
        let started = catch_unwind(AssertUnwindSafe(|| build_with_workers(&mut builder)));
        match started {
            Ok(Ok(runtime)) => Ok(runtime),
            Ok(Err(e)) => Err(QueryError::Busy(format!("cannot start threads for SQL: {e}; try again later"))),
            Err(_) => Err(QueryError::Busy("cannot start threads for SQL; try again later".into())),
        }
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        // May be dropped inside another runtime, where waiting is not allowed.
        for runtime in std::mem::take(&mut *self.idle.lock()) {
            runtime.shutdown_background();
        }
    }
}

impl Lane {
    /// Runs a task on the lane.
    pub fn spawn<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> Option<JoinHandle<T>> {
        self.runtime.as_ref().map(|r| r.spawn(task))
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        if let Some(home) = self.home.upgrade() {
            let mut idle = home.lock();
            if idle.len() < IDLE_MAX {
                idle.push(runtime);
                return;
            }
        }
        runtime.shutdown_background();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_serves_one_statement_at_a_time_and_a_few_are_kept() {
        let lanes = Lanes::new(1).unwrap();
        assert_eq!(lanes.idle.lock().len(), 1, "the first is kept");
        let mut borrowed: Vec<Lane> = (0..IDLE_MAX + 2).map(|_| lanes.borrow().unwrap()).collect();
        assert_eq!(lanes.idle.lock().len(), 0);
        // All but one are busy for as long as we say, and the last still runs its task.
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let wait = Arc::new(Mutex::new(wait));
        for lane in borrowed.iter().skip(1) {
            let wait = Arc::clone(&wait);
            lane.spawn(async move {
                let _ = wait.lock().recv();
            });
        }
        let (tell, told) = std::sync::mpsc::channel();
        borrowed[0].spawn(async move { tell.send(7) });
        assert_eq!(told.recv(), Ok(7));
        drop(release);
        borrowed.clear();
        assert_eq!(lanes.idle.lock().len(), IDLE_MAX);
    }
}
