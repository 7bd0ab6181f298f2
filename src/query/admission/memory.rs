//! Memory of queries: a pool per query under one pool of all.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::common::Result as DfResult;
use datafusion::common::resources_err;
use datafusion::execution::memory_pool::{MemoryLimit, MemoryPool, MemoryReservation};

use crate::explain::profile::Profile;

/// The pool of all queries. Its size may change while queries hold parts of it.
#[derive(Debug)]
pub(super) struct TotalPool {
    max: AtomicUsize,
    used: AtomicUsize,
}

impl TotalPool {
    /// Of so many bytes.
    pub(super) fn new(max: usize) -> Self {
        Self { max: AtomicUsize::new(max), used: AtomicUsize::new(0) }
    }

    /// Changes its size: for what is asked for from now on.
    pub(super) fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
    }
}

impl fmt::Display for TotalPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "queries({} of {} bytes)", self.reserved(), self.max.load(Ordering::Relaxed))
    }
}

impl MemoryPool for TotalPool {
    fn name(&self) -> &str {
        "queries"
    }

    fn grow(&self, _: &MemoryReservation, additional: usize) {
        self.used.fetch_add(additional, Ordering::Relaxed);
    }

    fn shrink(&self, _: &MemoryReservation, shrink: usize) {
        self.used.fetch_sub(shrink, Ordering::Relaxed);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> DfResult<()> {
        let max = self.max.load(Ordering::Relaxed);
        let take = |used: usize| used.checked_add(additional).filter(|n| *n <= max);
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(_) => Ok(()),
            Err(used) => resources_err!(
                "all queries together would use more than query_memory_total_bytes_max, {max} bytes ({} asked for \
                 {additional} more, {used} are in use)",
                reservation.consumer().name()
            ),
        }
    }

    fn reserved(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.max.load(Ordering::Relaxed))
    }
}

/// The pool of one query: refuses past its own limit, and passes the rest on to the pool of all.
pub struct QueryPool {
    parent: Arc<dyn MemoryPool>,
    max: usize,
    used: AtomicUsize,
    profile: Option<Arc<Profile>>,
}

impl fmt::Debug for QueryPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for QueryPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "query({} of {} bytes)", self.reserved(), self.max)
    }
}

impl QueryPool {
    /// A pool of at most `max` bytes under `parent`.
    pub fn child(parent: &Arc<dyn MemoryPool>, max: usize) -> Arc<dyn MemoryPool> {
        Self::profiled(parent, max, None)
    }

    /// The same, which tells a profile who takes how much.
    pub fn profiled(parent: &Arc<dyn MemoryPool>, max: usize, profile: Option<Arc<Profile>>) -> Arc<dyn MemoryPool> {
        Arc::new(Self { parent: Arc::clone(parent), max, used: AtomicUsize::new(0), profile })
    }

    fn grown(&self, reservation: &MemoryReservation, bytes: usize) {
        if let Some(p) = &self.profile {
            p.grown(reservation.consumer().id(), bytes);
        }
    }
}

impl MemoryPool for QueryPool {
    fn name(&self) -> &str {
        "query"
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.used.fetch_add(additional, Ordering::Relaxed);
        self.parent.grow(reservation, additional);
        self.grown(reservation, additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.used.fetch_sub(shrink, Ordering::Relaxed);
        self.parent.shrink(reservation, shrink);
        if let Some(p) = &self.profile {
            p.shrunk(reservation.consumer().id(), shrink);
        }
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> DfResult<()> {
        let take = |used: usize| used.checked_add(additional).filter(|n| *n <= self.max);
        if self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err() {
            return resources_err!(
                "query would use more than its {} bytes of memory ({} asked for {additional} more at {})",
                self.max,
                reservation.consumer().name(),
                self.reserved()
            );
        }
        self.parent.try_grow(reservation, additional).inspect_err(|_| {
            self.used.fetch_sub(additional, Ordering::Relaxed);
        })?;
        self.grown(reservation, additional);
        Ok(())
    }

    fn reserved(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::execution::memory_pool::MemoryConsumer;

    #[test]
    fn both_limits_hold_and_what_is_refused_is_not_kept() {
        let all: Arc<dyn MemoryPool> = Arc::new(TotalPool::new(100));
        let one = QueryPool::child(&all, 60);
        let two = QueryPool::child(&all, 60);
        let a = MemoryConsumer::new("a").register(&one);
        let b = MemoryConsumer::new("b").register(&two);
        a.try_grow(50).unwrap();
        assert!(a.try_grow(20).is_err(), "past the query's own limit");
        b.try_grow(40).unwrap();
        assert!(b.try_grow(15).is_err(), "past the limit of all");
        assert_eq!((one.reserved(), two.reserved(), all.reserved()), (50, 40, 90));
        drop(a);
        assert_eq!((one.reserved(), all.reserved()), (0, 40));
        b.try_grow(15).unwrap();
    }
}
