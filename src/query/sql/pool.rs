//! Memory of one statement: its own limit, shared fairly between operators that can spill, under the budget of all queries.

use std::fmt;
use std::sync::Arc;

use datafusion::common::Result;
use datafusion::execution::memory_pool::{FairSpillPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};

use super::guarded::stopped;
use crate::admission::Permit;

/// The pool of one statement. An operator that asks for more is also told when the statement was stopped. Reservations hold the
/// pool, and with it the permit: it is not free before the memory is.
#[derive(Debug)]
pub struct StatementPool {
    all: Arc<dyn MemoryPool>,
    own: FairSpillPool,
    permit: Arc<Permit>,
}

impl StatementPool {
    /// The pool of the statement that runs under `permit`, as a part of `all`.
    pub fn new(all: &Arc<dyn MemoryPool>, permit: &Arc<Permit>) -> Self {
        let own = FairSpillPool::new(permit.ctx.limits.query_memory_bytes_max);
        Self { all: Arc::clone(all), own, permit: Arc::clone(permit) }
    }

    /// Fails when the statement was stopped or is out of time.
    pub fn check(&self) -> Result<()> {
        self.permit.ctx.check().map_err(stopped)
    }
}

impl fmt::Display for StatementPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "statement({} of {} bytes)", self.own.reserved(), self.permit.ctx.limits.query_memory_bytes_max)
    }
}

impl MemoryPool for StatementPool {
    fn name(&self) -> &str {
        "statement"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.own.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.own.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.own.grow(reservation, additional);
        self.all.grow(reservation, additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.own.shrink(reservation, shrink);
        self.all.shrink(reservation, shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        // One that can spill would write what it holds to disk instead of ending.
        if !reservation.consumer().can_spill() {
            self.check()?;
        }
        self.own.try_grow(reservation, additional)?;
        self.all.try_grow(reservation, additional).inspect_err(|_| self.own.shrink(reservation, additional))
    }

    fn reserved(&self) -> usize {
        self.own.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        self.own.memory_limit()
    }
}
