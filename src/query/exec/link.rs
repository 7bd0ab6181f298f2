//! Two scans with one function and one grid, of which one selects a part of the other's series: `x{code="500"} / x`.
//!
//! ```text
//! whole   {a} {b} {c} {d}      whoever is run first folds its series and leaves the rows of the part;
//! part        {b}     {d}      the other takes them, and folds the rest
//! ```
//!
//! So every series is read and folded once, and only the rows of the part are kept in between.
//!
//! Invariants
//! 1. Series of the part hold floats only, and of floats the function reports nothing: what is reported of a series depends
//!    on where in the query it is asked for.
//! 2. Rows that cannot be kept, for memory, are folded twice: a link never makes a query fail.

use std::sync::Arc;

use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use parking_lot::Mutex;
use quiver_core::SeriesSet;

use crate::error::QueryError;
use crate::exec::fold::rows_per_tile;
use crate::exec::operator::{RunEnv, TileSink};
use crate::exec::tile::{Roster, Tile};

/// Which of the two a scan is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It selects some of the other's series.
    Part,
    /// It selects all of them.
    Whole,
}

/// Cells that may be kept.
const CELLS_MAX: usize = 4 << 20;
const NONE: u32 = u32::MAX;

/// See the module.
pub struct Link {
    /// For each series of the whole its number in the part, if it is there.
    part_of: Vec<u32>,
    /// Series of the part.
    len: usize,
    kept: Mutex<Option<(Role, Arc<Kept>)>>,
}

/// Rows of the part, as one of the two has folded them.
pub struct Kept {
    /// Was it folded? By number in the part.
    folded: Vec<bool>,
    /// Its row in `rows`; none where it has no sample.
    row: Vec<u32>,
    rows: Tile,
    _memory: MemoryReservation,
}

impl Link {
    /// A link of two sets, if the one is a part of the other (both are in label order) and small enough to be kept.
    pub fn new(part: &dyn SeriesSet, whole: &dyn SeriesSet, width: usize) -> Option<Self> {
        let len = part.len();
        if len == 0 || len > whole.len() || len.saturating_mul(width) > CELLS_MAX {
            return None;
        }
        let mut part_of = vec![NONE; whole.len()];
        let mut p = 0;
        for (w, of) in part_of.iter_mut().enumerate() {
            if p < len && part.labels(p) == whole.labels(w) {
                *of = p as u32;
                p += 1;
            }
        }
        (p == len).then(|| Self { part_of, len, kept: Mutex::new(None) })
    }

    /// The number in the part of a series of one of the two.
    fn part(&self, role: Role, sid: u32) -> Option<usize> {
        let p = match role {
            Role::Part => sid,
            Role::Whole => *self.part_of.get(sid as usize)?,
        };
        (p != NONE).then_some(p as usize)
    }

    /// What the other one has left.
    pub fn take(&self, role: Role) -> Option<Arc<Kept>> {
        let mut kept = self.kept.lock();
        if kept.as_ref().is_none_or(|(by, _)| *by == role) {
            return None;
        }
        kept.take().map(|(_, k)| k)
    }

    /// Has the row of a series been folded already? Then it is appended to `tile`, as row `row`, where it has any sample.
    pub fn copy(&self, kept: &Kept, series: usize, tile: &mut Tile, row: usize) -> Option<bool> {
        let p = self.part(Role::Whole, series as u32).filter(|p| kept.folded[*p])?;
        let from = kept.row[p];
        if from != NONE {
            tile.copy_floats(row, &kept.rows, from as usize);
        }
        Some(from != NONE)
    }

    /// A sink that hands on to `sink` and keeps what the other one can use. `folded` tells which series are folded.
    pub fn keep<'a>(
        self: &'a Arc<Self>,
        role: Role,
        env: &RunEnv,
        width: usize,
        folded: impl Fn(usize) -> bool,
        sink: &'a mut dyn TileSink,
    ) -> Keep<'a> {
        let mut done = vec![false; self.len];
        let series = if role == Role::Part { self.len } else { self.part_of.len() };
        for s in 0..series {
            if let Some(p) = self.part(role, s as u32) {
                done[p] = folded(s);
            }
        }
        let memory = MemoryConsumer::new("rows of a part").register(&env.memory);
        let rows = Tile { width, ..Tile::default() };
        let kept = Kept { folded: done, row: vec![NONE; self.len], rows, _memory: memory };
        Keep { link: self, role, kept: Some(kept), sink }
    }

    /// Hands the rows of the part on, which the whole has folded.
    pub fn replay(kept: &Kept, roster: &Arc<Roster>, env: &RunEnv, sink: &mut dyn TileSink) -> Result<(), QueryError> {
        sink.begin(roster)?;
        let width = kept.rows.width;
        let there: Vec<u32> = (0..kept.row.len() as u32).filter(|p| kept.row[*p as usize] != NONE).collect();
        for sids in there.chunks(rows_per_tile(width)) {
            env.ctx.check()?;
            let mut tile = Tile::new(width, sids.to_vec());
            for (row, p) in sids.iter().enumerate() {
                tile.copy_floats(row, &kept.rows, kept.row[*p as usize] as usize);
            }
            sink.push(tile)?;
        }
        Ok(())
    }
}

impl Kept {
    /// Were all series of the part folded?
    pub fn is_whole(&self) -> bool {
        !self.folded.contains(&false)
    }
}

/// See [`Link::keep`].
pub struct Keep<'a> {
    link: &'a Arc<Link>,
    role: Role,
    kept: Option<Kept>,
    sink: &'a mut dyn TileSink,
}

impl Keep<'_> {
    /// Leaves what was kept to the other one.
    pub fn leave(self) {
        if let Some(kept) = self.kept {
            *self.link.kept.lock() = Some((self.role, Arc::new(kept)));
        }
    }
}

impl TileSink for Keep<'_> {
    fn begin(&mut self, roster: &Arc<Roster>) -> Result<(), QueryError> {
        self.sink.begin(roster)
    }

    fn push(&mut self, tile: Tile) -> Result<(), QueryError> {
        for (row, sid) in tile.sids.iter().enumerate() {
            let Some(kept) = &mut self.kept else { break };
            let Some(p) = self.link.part(self.role, *sid) else { continue };
            if kept._memory.try_grow(tile.width * 9).is_err() {
                self.kept = None;
                break;
            }
            let to = kept.rows.push_row(p as u32);
            kept.rows.copy_floats(to, &tile, row);
            kept.row[p] = to as u32;
        }
        self.sink.push(tile)
    }
}
