//! How much the working set may take while the process has a limit: it gives way first, and comes back slowly.
//!
//! ```text
//! process > high mark ─▶ capacity halves (not below an eighth)      process < low mark ─▶ an eighth more, up to all of it
//! ```

/// A rule for the capacity of the working set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Bytes the working set may take at most.
    pub capacity_max: u64,
    /// Bytes the process should stay under; 0: it may take what it wants.
    pub process_max: u64,
}

impl Budget {
    /// The capacity for the next while, where the present one is `capacity` and the process takes `process` bytes.
    pub fn next(&self, capacity: u64, process: u64) -> u64 {
        if self.process_max == 0 {
            return self.capacity_max;
        }
        let least = self.capacity_max / 8;
        if process > self.process_max {
            (capacity / 2).max(least)
        } else if process < self.process_max / 8 * 7 {
            (capacity + self.capacity_max / 8).min(self.capacity_max)
        } else {
            capacity.min(self.capacity_max)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_gives_way_and_comes_back() {
        let budget = Budget { capacity_max: 800, process_max: 1000 };
        let mut capacity = 800;
        for want in [400, 200, 100, 100] {
            capacity = budget.next(capacity, 1200);
            assert_eq!(capacity, want);
        }
        assert_eq!(budget.next(capacity, 950), 100, "near the limit nothing changes");
        for _ in 0..10 {
            capacity = budget.next(capacity, 500);
        }
        assert_eq!(capacity, 800);
        assert_eq!(Budget { process_max: 0, ..budget }.next(100, u64::MAX), 800, "no limit");
    }
}
