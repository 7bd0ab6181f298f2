//! Fetching what a query will read of remote blocks before it reads: many series at once, one batch of joined requests.
//!
//! Series come in label order, and so they stand in a block: the chunks of a run of series are near to each other. A run
//! is sized so that its chunks take some MiB; whoever reads a series of a run first fetches all of it, others wait.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use quiver_cache::ColumnKey;

use crate::catalog::StoredBlock;
use crate::place::Cached;
use crate::{Need, ReadError, TimeRange};

/// Bytes of a run, about.
const RUN_BYTES: u64 = 8 << 20;
/// Series of a run at most.
const RUN_SERIES: usize = 2048;

/// What was fetched of the series of one roster.
pub(crate) struct Ahead {
    /// Series of a run; 0 until the first one is read.
    step: AtomicUsize,
    runs: Box<[Mutex<bool>]>,
}

impl Ahead {
    /// For so many series.
    pub(crate) fn new(series: usize) -> Self {
        // As many runs as there may be; most are never looked at.
        let runs = (0..series.div_ceil(16)).map(|_| Mutex::new(false)).collect();
        Self { step: AtomicUsize::new(0), runs }
    }

    /// Sees to it that what is to be read of series `i` is at hand. `parts` gives the remote blocks of a series, and its
    /// rows in them.
    pub(crate) fn ensure(
        &self,
        i: usize,
        series: usize,
        range: TimeRange,
        need: Need,
        cached: Option<&Cached>,
        parts: &dyn Fn(usize, &mut dyn FnMut(&Arc<StoredBlock>, u32)),
    ) -> Result<(), ReadError> {
        let mut step = self.step.load(Ordering::Acquire);
        if step == 0 {
            let mut wanted = Wanted::default();
            wanted.add(i, range, need, cached, parts)?;
            let each = wanted.bytes().max(256);
            let fitting = usize::try_from(RUN_BYTES / each).unwrap_or(RUN_SERIES).clamp(16, RUN_SERIES);
            let _ = self.step.compare_exchange(0, fitting, Ordering::AcqRel, Ordering::Acquire);
            step = self.step.load(Ordering::Acquire);
        }
        let number = i / step;
        let Some(run) = self.runs.get(number) else { return Ok(()) };
        // Those who read another series of the run wait for the one who fetches.
        let mut done = run.lock();
        if *done {
            return Ok(());
        }
        let mut wanted = Wanted::default();
        for k in number * step..((number + 1) * step).min(series) {
            wanted.add(k, range, need, cached, parts)?;
        }
        wanted.fetch()?;
        *done = true;
        Ok(())
    }
}

/// Ranges of some blocks.
#[derive(Default)]
pub(crate) struct Wanted(Vec<(Arc<StoredBlock>, Vec<Range<u64>>)>);

impl Wanted {
    fn add(
        &mut self,
        i: usize,
        range: TimeRange,
        need: Need,
        cached: Option<&Cached>,
        parts: &dyn Fn(usize, &mut dyn FnMut(&Arc<StoredBlock>, u32)),
    ) -> Result<(), ReadError> {
        let mut failed = None;
        parts(i, &mut |stored, row| {
            failed = failed.take().or(self.row(stored, row, range, need, cached).err());
        });
        failed.map_or(Ok(()), Err)
    }

    /// What it takes to read a row.
    pub(crate) fn row(
        &mut self,
        stored: &Arc<StoredBlock>,
        row: u32,
        range: TimeRange,
        need: Need,
        cached: Option<&Cached>,
    ) -> Result<(), ReadError> {
        let block = stored.block()?;
        let at = match self.0.iter().position(|(b, _)| Arc::ptr_eq(b, stored)) {
            Some(at) => at,
            None => {
                self.0.push((Arc::clone(stored), Vec::new()));
                self.0.len() - 1
            }
        };
        let mut is_wanted = |e: &quiver_storage::block::ChunkEntry| {
            let key = ColumnKey { block: block.uid(), chunk: e.offset, need };
            cached.is_none_or(|c| !c.set.contains(&key))
        };
        Ok(block.byte_ranges(row, range, &mut is_wanted, &mut self.0[at].1)?)
    }

    fn bytes(&self) -> u64 {
        self.0.iter().flat_map(|(_, ranges)| ranges).map(|r| r.end - r.start).sum()
    }

    /// Fetches all of it and waits.
    pub(crate) fn fetch(&self) -> Result<(), ReadError> {
        // Begun for all blocks, then waited for: the requests of several are in flight together.
        let far = self.0.iter().filter_map(|(stored, ranges)| Some((stored.remote()?, ranges)));
        let begun: Vec<_> = far.map(|(remote, ranges)| (remote, remote.begin(ranges), ranges)).collect();
        begun.into_iter().try_for_each(|(remote, begun, ranges)| Ok(remote.finish(begun, ranges)?))
    }
}
