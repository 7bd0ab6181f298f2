//! Work that nobody waits for, and maintenance on demand: few threads, priorities, one task of a kind at a time.
//!
//! ```text
//! tick (1 s) ──▶ due? ─┐              lane of heads:      flush ▸ delete
//! by hand ─────────────┴─▶ pending ─▶ lane of blocks:     compact ▸ clean ▸ retain    ─▶ threads (5) ─▶ whoever waits
//!                                     lane of snapshots:  snapshot
//!                                     lane of the store:  tier        lane ahead of queries:  prefetch
//! ```
//!
//! Invariants
//! 1. A request that comes while a task of its kind runs is served by a later run, not by that one.
//! 2. A lane runs one task at a time, and there is a thread for every lane: a flush never waits for a long merge.
//! 3. What is due is looked for on a thread of its own, whatever tasks do; a panic ends a task and no thread.
//! 4. A stop lets running tasks end (they look at [`Background::is_stopping`]) and answers what did not run.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use quiver_persistence::turns::end_turn;

use crate::ReadError;

/// What can be done; the order is that of priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TaskKind {
    /// Writes the head out as a block.
    Flush,
    /// Marks samples as deleted.
    Delete,
    /// Makes a copy of all blocks under another name.
    Snapshot,
    /// Merges blocks where the ladder says so.
    Compact,
    /// Flushes and merges all blocks.
    CompactAll,
    /// Writes blocks anew without what is deleted of them.
    Clean,
    /// Drops what is past the retention.
    Retain,
    /// Moves blocks to the remote store.
    Tier,
    /// Reads ahead of dashboards.
    Prefetch,
}

impl TaskKind {
    /// All of them, by priority.
    pub const ALL: [TaskKind; 9] = [
        TaskKind::Flush,
        TaskKind::Delete,
        TaskKind::Snapshot,
        TaskKind::Compact,
        TaskKind::CompactAll,
        TaskKind::Clean,
        TaskKind::Retain,
        TaskKind::Tier,
        TaskKind::Prefetch,
    ];

    /// Its name on the status page.
    pub fn name(self) -> &'static str {
        match self {
            TaskKind::Flush => "flush",
            TaskKind::Delete => "delete",
            TaskKind::Snapshot => "snapshot",
            TaskKind::Compact => "compact",
            TaskKind::CompactAll => "compact_all",
            TaskKind::Clean => "clean_tombstones",
            TaskKind::Retain => "retention",
            TaskKind::Tier => "tier",
            TaskKind::Prefetch => "prefetch",
        }
    }

    fn lane(self) -> u8 {
        match self {
            TaskKind::Flush | TaskKind::Delete => 0,
            TaskKind::Compact | TaskKind::CompactAll | TaskKind::Clean | TaskKind::Retain => 1,
            TaskKind::Snapshot => 2,
            TaskKind::Tier => 3,
            TaskKind::Prefetch => 4,
        }
    }
}

/// Threads that make every lane move.
pub(crate) const LANES: usize = 5;

/// What a task does at this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TaskState {
    /// Nothing to do.
    #[default]
    Idle,
    /// Asked for, not begun.
    Waiting,
    /// At work.
    Running,
}

/// A task as the status page shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskStatus {
    /// What.
    pub kind: TaskKind,
    /// Whether it is at work.
    pub state: TaskState,
    /// For how long it has been running or waiting, ms.
    pub age_ms: u64,
    /// How far the present (or last) run is, in series; 0 of 0 where it does not count.
    pub done: u64,
    /// Of how many.
    pub total: u64,
    /// Runs ended since the start.
    pub runs: u64,
    /// Those that failed.
    pub failures: u64,
    /// How long ago the last run began, ms.
    pub started_ago_ms: Option<u64>,
    /// How long the last finished run took, ms.
    pub took_ms: Option<u64>,
    /// Why the last run failed, if it did.
    pub last_error: Option<String>,
}

type Waiter = oneshot::Sender<Result<(), ReadError>>;

struct Pending {
    kind: TaskKind,
    since: Instant,
    waiters: Vec<Waiter>,
}

#[derive(Clone, Debug, Default)]
struct Past {
    runs: u64,
    failures: u64,
    started: Option<Instant>,
    took_ms: Option<u64>,
    last_error: Option<String>,
}

#[derive(Default)]
struct State {
    pending: Vec<Pending>,
    running: Vec<TaskKind>,
    past: [Past; TaskKind::ALL.len()],
    is_paused: bool,
}

/// The queue of tasks. The threads are the store's.
#[derive(Default)]
pub(crate) struct Background {
    state: Mutex<State>,
    wake: Condvar,
    stopping: AtomicBool,
    progress: [(AtomicU64, AtomicU64); TaskKind::ALL.len()],
}

/// How often a thread looks at what is due.
const TICK: Duration = Duration::from_secs(1);

fn ms(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

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

    /// Is work that nobody asked for held back?
    pub(crate) fn is_paused(&self) -> bool {
        self.state.lock().is_paused
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

    /// Says how far the running task of a kind is, and lets others run: called without locks that requests wait for.
    pub(crate) fn progress(&self, kind: TaskKind, done: u64, total: u64) {
        let (a, b) = &self.progress[kind as usize];
        a.store(done, Ordering::Relaxed);
        b.store(total, Ordering::Relaxed);
        end_turn();
    }

    /// Every kind of task.
    pub(crate) fn status(&self) -> Vec<TaskStatus> {
        let state = self.state.lock();
        let of = |kind: TaskKind| {
            let past = state.past[kind as usize].clone();
            let started_ago_ms = past.started.map(|s| ms(s.elapsed()));
            let pending = state.pending.iter().find(|p| p.kind == kind);
            let (task_state, age_ms) = match pending {
                _ if state.running.contains(&kind) => (TaskState::Running, started_ago_ms.unwrap_or(0)),
                Some(p) => (TaskState::Waiting, ms(p.since.elapsed())),
                None => (TaskState::Idle, 0),
            };
            let (done, total) = &self.progress[kind as usize];
            TaskStatus {
                kind,
                state: task_state,
                age_ms,
                done: done.load(Ordering::Relaxed),
                total: total.load(Ordering::Relaxed),
                runs: past.runs,
                failures: past.failures,
                started_ago_ms,
                took_ms: past.took_ms,
                last_error: past.last_error,
            }
        };
        TaskKind::ALL.into_iter().map(of).collect()
    }

    /// One thread: runs tasks until the stop.
    pub(crate) fn work(&self, run: impl Fn(TaskKind) -> Result<(), ReadError>) {
        while let Some(Pending { kind, waiters, .. }) = self.next() {
            self.progress(kind, 0, 0);
            let began = Instant::now();
            // A panic is the end of the task and not of its lane: no other thread would ever flush.
            let result = catch_unwind(AssertUnwindSafe(|| run(kind)))
                .unwrap_or_else(|_| Err(ReadError::Io { file: kind.name().into(), what: "the task panicked".into() }));
            if let Err(e) = &result {
                tracing::warn!(task = kind.name(), error = %e, "background task failed");
            }
            let mut state = self.state.lock();
            state.running.retain(|k| *k != kind);
            let past = &mut state.past[kind as usize];
            past.runs += 1;
            past.failures += u64::from(result.is_err());
            past.took_ms = Some(ms(began.elapsed()));
            past.last_error = result.as_ref().err().map(ToString::to_string);
            drop(state);
            self.wake.notify_all();
            for w in waiters {
                // Whoever asked may have gone.
                let _ = w.send(result.clone());
            }
        }
    }

    /// Waits for a task whose lane is free and marks it as running; `None` at the stop.
    fn next(&self) -> Option<Pending> {
        let mut state = self.state.lock();
        while !self.is_stopping() {
            let State { pending, running, is_paused, .. } = &mut *state;
            let free = |p: &Pending| {
                running.iter().all(|kind| kind.lane() != p.kind.lane()) && (!*is_paused || !p.waiters.is_empty())
            };
            if let Some(at) = pending.iter().position(free) {
                let task = pending.remove(at);
                running.push(task.kind);
                state.past[task.kind as usize].started = Some(Instant::now());
                return Some(task);
            }
            self.wake.wait(&mut state);
        }
        None
    }

    /// Calls `tick` once a second until the stop, on a thread that runs no task: what is due is seen while all of them are busy.
    pub(crate) fn ticks(&self, tick: impl Fn()) {
        let mut next = Instant::now() + TICK;
        let mut state = self.state.lock();
        while !self.is_stopping() {
            if !self.wake.wait_until(&mut state, next).timed_out() {
                continue;
            }
            drop(state);
            if catch_unwind(AssertUnwindSafe(&tick)).is_err() {
                tracing::error!("task scheduler panicked; retrying");
            }
            next = Instant::now() + TICK;
            state = self.state.lock();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn in_state(background: &Background, state: TaskState) -> Vec<TaskKind> {
        background.status().into_iter().filter(|t| t.state == state).map(|t| t.kind).collect()
    }

    #[test]
    fn tasks_run_by_priority_and_every_waiter_is_answered() {
        let background = Arc::new(Background::default());
        let retain = background.request(TaskKind::Retain);
        let compact = background.request(TaskKind::Compact);
        let (flush, again) = (background.request(TaskKind::Flush), background.request(TaskKind::Flush));
        let waiting = [TaskKind::Flush, TaskKind::Compact, TaskKind::Retain];
        assert_eq!(in_state(&background, TaskState::Waiting), waiting);
        let order = Mutex::new(Vec::new());
        let run = |kind| {
            order.lock().push(kind);
            assert_eq!(in_state(&background, TaskState::Running), [kind]);
            if kind == TaskKind::Retain {
                background.stop();
                return Err(ReadError::Limit("too much".into()));
            }
            Ok(())
        };
        background.work(run);
        assert_eq!(*order.lock(), waiting);
        for answer in [compact, flush, again] {
            assert_eq!(answer.blocking_recv(), Ok(Ok(())));
        }
        assert!(retain.blocking_recv().unwrap().is_err());
        let status = background.status();
        let of = |kind: TaskKind| status.iter().find(|t| t.kind == kind).unwrap();
        assert_eq!((of(TaskKind::Flush).runs, of(TaskKind::Flush).failures), (1, 0));
        assert_eq!((of(TaskKind::Retain).runs, of(TaskKind::Retain).failures), (1, 1));
        assert_eq!(of(TaskKind::Retain).last_error.as_deref(), Some("too much"));
        assert_eq!(of(TaskKind::Clean).started_ago_ms, None);
        assert!(background.request(TaskKind::Flush).blocking_recv().is_err(), "stopped");
    }

    #[test]
    fn a_pause_holds_back_what_nobody_waits_for() {
        let background = Arc::new(Background::default());
        background.pause(true);
        background.schedule(TaskKind::Flush);
        assert!(background.is_paused());
        assert_eq!(in_state(&background, TaskState::Waiting), []);
        let wanted = background.request(TaskKind::Compact);
        let run = |kind| {
            assert_eq!(kind, TaskKind::Compact);
            background.stop();
            Ok(())
        };
        background.work(run);
        assert_eq!(wanted.blocking_recv(), Ok(Ok(())));
    }

    #[test]
    fn a_flush_does_not_wait_for_merges() {
        let background = Arc::new(Background::default());
        let (begun, wait) = std::sync::mpsc::channel();
        let (release, released) = std::sync::mpsc::channel::<()>();
        let released = Mutex::new(released);
        let run = |kind: TaskKind| {
            if kind.lane() == 1 {
                begun.send(kind).unwrap();
                let _ = released.lock().recv();
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            for _ in 0..LANES {
                let (background, run) = (Arc::clone(&background), run);
                scope.spawn(move || background.work(run));
            }
            let merges = [background.request(TaskKind::Compact), background.request(TaskKind::CompactAll)];
            let first = wait.recv().unwrap();
            assert_eq!(background.request(TaskKind::Flush).blocking_recv(), Ok(Ok(())));
            let other = if first == TaskKind::Compact { TaskKind::CompactAll } else { TaskKind::Compact };
            assert_eq!(in_state(&background, TaskState::Running), [first]);
            assert_eq!(in_state(&background, TaskState::Waiting), [other]);
            drop(release);
            for answer in merges {
                assert_eq!(answer.blocking_recv(), Ok(Ok(())));
            }
            background.stop();
        });
    }
}
