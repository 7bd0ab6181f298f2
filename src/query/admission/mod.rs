//! Who may run: one admission for PromQL, SQL, explanations and exports.
//!
//! ```text
//! enter(class, ctx) ─▶ entry in the list ─▶ a slot, or a place in the queue of the class ─▶ Permit ─▶ the work ─▶ dropped: slot and entry are free
//! ```
//!
//! Invariants
//! 1. At most `query_concurrency_max` permits exist at a time, whatever their class. At most `query_queue_max` callers of each class
//!    wait; the next is refused.
//! 2. Classes that wait get free slots in turn, and callers of one class in the order they came.
//! 3. A permit lives until the last part of its work is dropped, also if the caller was answered long before.
//! 4. The limits of the moment hold: a reload of the configuration takes effect for callers that wait, too.
//! 5. All queries together reserve at most `query_memory_total_bytes_max`.

mod active;
mod memory;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::execution::memory_pool::MemoryPool;
use parking_lot::Mutex;
use quiver_model::LiveLimits;
use tokio::sync::oneshot;

use crate::context::QueryContext;
use crate::error::QueryError;

use active::Entered;
pub use active::{ActiveQueries, ActiveQuery};
pub use memory::QueryPool;
use memory::TotalPool;

/// Permits at a time, whatever the limit: each may take a thread.
pub const PERMITS_MAX: usize = 4096;
/// How often a waiting caller looks whether the limit was raised.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// What kind of work a permit is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// PromQL of dashboards and of other clients, explanations included.
    Dashboard,
    /// SQL statements, with the `promql()` calls in them.
    Sql,
    /// Exports of stored series.
    Export,
}

impl Class {
    const COUNT: usize = 3;

    /// Its name in the list of active queries.
    pub fn name(self) -> &'static str {
        match self {
            Class::Dashboard => "promql",
            Class::Sql => "sql",
            Class::Export => "export",
        }
    }
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Admission {
    shared: Arc<Shared>,
    active: ActiveQueries,
    memory: Arc<TotalPool>,
    pool: Arc<dyn MemoryPool>,
    limits: LiveLimits,
}

struct Shared {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Slots that are taken.
    running: usize,
    /// The limit, as it was last looked at.
    max: usize,
    /// Number of the next caller that waits.
    next: u64,
    /// Callers that wait, by class and in the order they came.
    waiting: [BTreeMap<u64, oneshot::Sender<Slot>>; Class::COUNT],
    /// The class that is served first.
    first: usize,
}

/// A slot that is taken.
struct Slot(Arc<Shared>);

impl Drop for Slot {
    fn drop(&mut self) {
        {
            let mut state = self.0.state.lock();
            state.running = state.running.saturating_sub(1);
        }
        self.0.hand_out();
    }
}

impl Shared {
    /// Hands free slots to callers that wait.
    fn hand_out(self: &Arc<Self>) {
        loop {
            let waiting = {
                let mut state = self.state.lock();
                if state.running >= state.max {
                    return;
                }
                let Some(waiting) = state.pop() else { return };
                state.running += 1;
                waiting
            };
            // Outside the lock. The slot of a caller that has left is handed on when it is dropped.
            if waiting.send(Slot(Arc::clone(self))).is_err() {
                return;
            }
        }
    }
}

impl State {
    fn pop(&mut self) -> Option<oneshot::Sender<Slot>> {
        for k in 0..Class::COUNT {
            let class = (self.first + k) % Class::COUNT;
            if let Some((_, waiting)) = self.waiting[class].pop_first() {
                self.first = (class + 1) % Class::COUNT;
                return Some(waiting);
            }
        }
        None
    }
}

/// A place in the queue of a class.
struct Waiting<'a> {
    shared: &'a Arc<Shared>,
    class: Class,
    number: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shared.state.lock().waiting[self.class as usize].remove(&self.number);
    }
}

/// The right to run. What works under it holds it, so that it ends with the last of its work.
pub struct Permit {
    /// What the work is done under: text, limits, cancellation, deadline.
    pub ctx: Arc<QueryContext>,
    /// How long it waited for its slot.
    pub queued: Duration,
    // Dropped first, so that a caller that is let in finds what this one used.
    kept: Mutex<Vec<Box<dyn Send + Sync>>>,
    _entry: Entered,
    _slot: Slot,
}

impl Permit {
    /// Keeps something until the work has ended.
    pub fn keep(&self, thing: impl Send + Sync + 'static) {
        self.kept.lock().push(Box::new(thing));
    }
}

impl std::fmt::Debug for Permit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Permit").field("query", &self.ctx.query).finish_non_exhaustive()
    }
}

impl Admission {
    /// Under these limits.
    pub fn new(limits: LiveLimits) -> Self {
        let now = limits.get();
        let memory = Arc::new(TotalPool::new(now.query_memory_total_bytes_max));
        let pool: Arc<dyn MemoryPool> = Arc::clone(&memory) as _;
        let shared = Arc::new(Shared { state: Mutex::default() });
        Self { shared, active: ActiveQueries::default(), memory, pool, limits }
    }

    /// Callers that wait or run.
    pub fn active(&self) -> &ActiveQueries {
        &self.active
    }

    /// Memory that all share.
    pub fn memory(&self) -> &Arc<dyn MemoryPool> {
        &self.pool
    }

    /// Takes a slot, or waits for one. A caller that drops the future leaves the queue.
    pub async fn enter(&self, class: Class, ctx: Arc<QueryContext>) -> Result<Permit, QueryError> {
        let began = Instant::now();
        let slot = self.try_enter(class)?;
        let entry = self.active.enter(class, &ctx, slot.is_ok());
        let slot = match slot {
            Ok(slot) => slot,
            Err(waiting) => {
                let slot = self.wait(waiting, &ctx).await?;
                entry.runs();
                slot
            }
        };
        Ok(Permit { ctx, queued: began.elapsed(), kept: Mutex::default(), _entry: entry, _slot: slot })
    }

    /// The slot if one is free and nobody waits for it; or a place in the queue.
    #[allow(clippy::type_complexity, reason = "a slot or a place, used once")]
    fn try_enter(&self, class: Class) -> Result<Result<Slot, (Waiting<'_>, oneshot::Receiver<Slot>)>, QueryError> {
        let limits = self.limits.get();
        self.memory.set_max(limits.query_memory_total_bytes_max);
        let mut state = self.shared.state.lock();
        state.max = limits.query_concurrency_max.clamp(1, PERMITS_MAX);
        if state.running < state.max && state.waiting.iter().all(BTreeMap::is_empty) {
            state.running += 1;
            return Ok(Ok(Slot(Arc::clone(&self.shared))));
        }
        if state.waiting[class as usize].len() >= limits.query_queue_max {
            return Err(QueryError::Busy(format!(
                "too many queries are waiting: {} of them, the limit query_queue_max is {}; try again later",
                state.waiting[class as usize].len(),
                limits.query_queue_max
            )));
        }
        let (sender, receiver) = oneshot::channel();
        let number = state.next;
        state.next += 1;
        state.waiting[class as usize].insert(number, sender);
        drop(state);
        let waiting = Waiting { shared: &self.shared, class, number };
        self.shared.hand_out();
        Ok(Err((waiting, receiver)))
    }

    async fn wait(
        &self,
        (_waiting, mut slot): (Waiting<'_>, oneshot::Receiver<Slot>),
        ctx: &QueryContext,
    ) -> Result<Slot, QueryError> {
        let mut look = tokio::time::interval(LOOK_AGAIN);
        loop {
            tokio::select! {
                biased;
                slot = &mut slot => {
                    return slot.map_err(|_| QueryError::Busy("the engine is shutting down".into()));
                }
                () = ctx.cancel.cancelled() => {
                    return Err(QueryError::Canceled("query was canceled in query queue".into()));
                }
                () = until(ctx.deadline) => {
                    return Err(QueryError::Timeout("query timed out in query queue".into()));
                }
                _ = look.tick() => {
                    let max = self.limits.get().query_concurrency_max.clamp(1, PERMITS_MAX);
                    self.shared.state.lock().max = max;
                    self.shared.hand_out();
                }
            }
        }
    }
}

/// Ends at a deadline, or never.
pub async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
