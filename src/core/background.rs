//! Work that nobody waits for, and maintenance on demand: few threads, priorities, one task of a kind at a time.
//!
//! ```text
//! tick (1 s) ──▶ due? ─┐
//! by hand ─────────────┴─▶ pending ─▶ flush ▸ compact ▸ retain ─▶ threads (2) ─▶ whoever waits
//! ```
//!
//! Invariants
//! 1. A request that comes while a task of its kind runs is served by a later run, not by that one.
//! 2. A stop lets running tasks end (they look at [`Background::is_stopping`]) and answers what did not run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::ReadError;

/// What can be done; the order is that of priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TaskKind {
    /// Writes the head out as a block.
    Flush,
    /// Merges blocks where the ladder says so.
    Compact,
    /// Flushes and merges all blocks.
    CompactAll,
    /// Drops blocks past the retention.
    Retain,
}

/// A task as the status page shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskStatus {
    /// What.
    pub kind: TaskKind,
    /// It runs (or waits).
    pub is_running: bool,
    /// For how long it has been so, ms.
    pub age_ms: u64,
}

type Waiter = oneshot::Sender<Result<(), ReadError>>;

struct Pending {
    kind: TaskKind,
    since: Instant,
    waiters: Vec<Waiter>,
}

#[derive(Default)]
struct State {
    pending: Vec<Pending>,
    running: Vec<(TaskKind, Instant)>,
    is_paused: bool,
}

/// The queue of tasks. The threads are the store's.
#[derive(Default)]
pub(crate) struct Background {
    state: Mutex<State>,
    wake: Condvar,
    stopping: AtomicBool,
}

/// How often a thread looks at what is due.
const TICK: Duration = Duration::from_secs(1);

impl Background {
    /// Asks for a task; the answer comes when it is done.
    pub(crate) fn request(&self, kind: TaskKind) -> oneshot::Receiver<Result<(), ReadError>> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state.lock();
        if !self.is_stopping() {
            Self::add(&mut state, kind, Some(sender));
        }
        drop(state);
        self.wake.notify_all();
        receiver
    }

    /// Asks for a task that nobody waits for, unless it is asked for already.
    pub(crate) fn schedule(&self, kind: TaskKind) {
        let mut state = self.state.lock();
        if !state.is_paused && !self.is_stopping() {
            Self::add(&mut state, kind, None);
        }
        drop(state);
        self.wake.notify_all();
    }

    fn add(state: &mut State, kind: TaskKind, waiter: Option<Waiter>) {
        match state.pending.iter_mut().find(|p| p.kind == kind) {
            Some(p) => p.waiters.extend(waiter),
            None => {
                let waiters = waiter.into_iter().collect();
                state.pending.push(Pending { kind, since: Instant::now(), waiters });
                state.pending.sort_by_key(|p| p.kind);
            }
        }
    }

    /// Holds back what is not asked for by hand.
    pub(crate) fn pause(&self, is_paused: bool) {
        self.state.lock().is_paused = is_paused;
        self.wake.notify_all();
    }

    /// Must tasks end soon?
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// No new tasks; the threads end.
    pub(crate) fn stop(&self) {
        let mut state = self.state.lock();
        self.stopping.store(true, Ordering::Release);
        state.pending.clear();
        drop(state);
        self.wake.notify_all();
    }

    /// What runs and what waits.
    pub(crate) fn status(&self) -> Vec<TaskStatus> {
        let state = self.state.lock();
        let age_ms = |since: &Instant| u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let running = state.running.iter().map(|(kind, since)| (kind, true, since));
        let pending = state.pending.iter().map(|p| (&p.kind, false, &p.since));
        let status = |(kind, is_running, since): (&TaskKind, bool, &Instant)| TaskStatus {
            kind: *kind,
            is_running,
            age_ms: age_ms(since),
        };
        running.chain(pending).map(status).collect()
    }

    /// One thread: runs tasks until the stop. `tick` is called once a second by the thread that is given it.
    pub(crate) fn work(
        self: &Arc<Self>,
        run: impl Fn(TaskKind) -> Result<(), ReadError>,
        tick: Option<impl Fn(&Background)>,
    ) {
        let mut next_tick = Instant::now() + TICK;
        loop {
            let task = {
                let mut state = self.state.lock();
                loop {
                    if self.is_stopping() {
                        return;
                    }
                    let State { pending, running, is_paused } = &mut *state;
                    let free = |p: &Pending| {
                        running.iter().all(|(kind, _)| *kind != p.kind) && (!*is_paused || !p.waiters.is_empty())
                    };
                    if let Some(at) = pending.iter().position(free) {
                        let task = pending.remove(at);
                        running.push((task.kind, Instant::now()));
                        break Some(task);
                    }
                    if tick.is_none() {
                        self.wake.wait(&mut state);
                    } else if self.wake.wait_until(&mut state, next_tick).timed_out() {
                        break None;
                    }
                }
            };
            if let Some(Pending { kind, waiters, .. }) = task {
                let result = run(kind);
                if let Err(e) = &result {
                    tracing::warn!(task = ?kind, error = %e, "a background task failed and will be tried again");
                }
                self.state.lock().running.retain(|(k, _)| *k != kind);
                self.wake.notify_all();
                for w in waiters {
                    // Whoever asked may have gone.
                    let _ = w.send(result.clone());
                }
            }
            if let Some(tick) = &tick
                && Instant::now() >= next_tick
            {
                tick(self);
                next_tick = Instant::now() + TICK;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_run_by_priority_and_every_waiter_is_answered() {
        let background = Arc::new(Background::default());
        let retain = background.request(TaskKind::Retain);
        let compact = background.request(TaskKind::Compact);
        let (flush, again) = (background.request(TaskKind::Flush), background.request(TaskKind::Flush));
        assert_eq!(background.status().len(), 3);
        let order = Mutex::new(Vec::new());
        let run = |kind| {
            order.lock().push(kind);
            if kind == TaskKind::Retain {
                background.stop();
            }
            Ok(())
        };
        background.work(run, None::<fn(&Background)>);
        assert_eq!(*order.lock(), [TaskKind::Flush, TaskKind::Compact, TaskKind::Retain]);
        for answer in [retain, compact, flush, again] {
            assert_eq!(answer.blocking_recv(), Ok(Ok(())));
        }
        assert!(background.request(TaskKind::Flush).blocking_recv().is_err(), "stopped");
    }

    #[test]
    fn a_pause_holds_back_what_nobody_waits_for() {
        let background = Arc::new(Background::default());
        background.pause(true);
        background.schedule(TaskKind::Flush);
        assert!(background.status().is_empty());
        let wanted = background.request(TaskKind::Compact);
        let run = |kind| {
            assert_eq!(kind, TaskKind::Compact);
            background.stop();
            Ok(())
        };
        background.work(run, None::<fn(&Background)>);
        assert_eq!(wanted.blocking_recv(), Ok(Ok(())));
    }
}
