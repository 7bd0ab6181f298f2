//! What is kept how long: by time, by size, and by selector.
//!
//! ```text
//! time       blocks all of whose samples are past it                                   are dropped
//! size       the oldest blocks, while all blocks and the log take more than it         are dropped
//! selector   a block that holds a series past its own time, all of it                  is written anew without
//! ```
//!
//! The first rule whose selector accepts a series decides, for longer or shorter than the time of all others.
//!
//! Invariants
//! 1. A clock that runs ahead drops nothing, see [`cutoff`]; one that jumps ahead drops nothing for a day, whatever the
//!    samples that are written meanwhile say, see [`steps`](crate::steps).
//! 2. A block that cannot be read is dropped by its age and size alone, never written anew.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use quiver_model::{LabelsRef, Matcher};
use quiver_persistence::manifest::ClockMark;
use roaring::RoaringBitmap;

use crate::background::TaskKind;
use crate::catalog::StoredBlock;
use crate::flush::manifest_error;
use crate::ladder::{Rung, cutoff, oversize};
use crate::options::{Retention, RetentionRule};
use crate::steps::last_published;
use crate::store::Inner;
use crate::{ReadError, TimeRange};

/// Which series of a block are kept from when on.
pub(crate) struct Expired {
    retention: Arc<Retention>,
    /// By rule, then all other series: the rows, and before when their samples go.
    classes: Vec<(RoaringBitmap, Option<i64>)>,
}

impl Expired {
    /// Before when samples of a row go.
    pub(crate) fn cutoff_of_row(&self, row: u32) -> Option<i64> {
        self.classes.iter().find(|(rows, _)| rows.contains(row)).and_then(|(_, cutoff)| *cutoff)
    }

    /// The same by labels.
    pub(crate) fn cutoff_of(&self, labels: LabelsRef<'_>) -> Option<i64> {
        let accepts = |r: &RetentionRule| r.matchers.iter().all(|m: &Matcher| m.matches_labels(labels));
        let rules = &self.retention.rules;
        let at = rules.iter().position(accepts).unwrap_or(rules.len());
        self.classes.get(at).and_then(|(_, cutoff)| *cutoff)
    }
}

impl Inner {
    /// Looks whether the clock has jumped.
    pub(crate) fn is_clock_trusted(&self) -> bool {
        let mark = || {
            let manifest = self.manifest.current();
            let published = || last_published(manifest.entries.iter().map(|e| e.created_ms).collect());
            let made_of = |believed_ms| ClockMark { believed_ms, is_after_jump: false, doubt: None };
            manifest.clock().or_else(|| published().map(made_of))
        };
        let clock = &self.options.clock;
        self.steps.is_trusted(clock.now_ms(), clock.elapsed_ms(), mark)
    }

    /// The look of every second. That a time is in doubt the manifest keeps at once: a start before the next flush has to know.
    pub(crate) fn look_at_clock(&self) {
        let is_kept = || self.manifest.current().clock().is_some_and(|c| c.doubt.is_some());
        if self.is_clock_trusted() || is_kept() {
            return;
        }
        let _publishing = self.publishing.lock();
        let clock = self.clock_mark();
        if let Err(e) = self.manifest.edit(|m| m.note_clock(clock)) {
            tracing::warn!(error = %e, "cannot record the clock jump in the manifest; retrying");
        }
    }

    /// Looks at the clock before an edit of the manifest, which is to note what is believed of it.
    pub(crate) fn clock_mark(&self) -> Option<ClockMark> {
        self.is_clock_trusted();
        self.steps.mark()
    }

    fn newest_ts(&self) -> Option<i64> {
        let view = self.view.load();
        let heads = view.heads.iter().filter_map(|h| h.time_bounds());
        heads.chain(view.blocks.iter().filter_map(|b| b.time_bounds())).map(|b| b.max).max()
    }

    fn cutoff(&self, keep_ms: Option<i64>) -> Option<i64> {
        if !self.is_clock_trusted() {
            return None;
        }
        cutoff(keep_ms?, self.options.clock.now_ms(), self.newest_ts(), self.limits.get().future_ms_max)
    }

    /// The longest that anything is kept; `None`: for ever.
    fn longest_ms(&self) -> Option<i64> {
        let retention = self.retention.load();
        retention.rules.iter().try_fold(retention.keep_ms?, |a, r| Some(a.max(r.keep_ms?)))
    }

    /// Blocks to drop whole.
    fn past_retention(&self) -> Vec<u64> {
        let view = self.view.load();
        let rungs: Vec<Rung> = view.blocks.iter().map(|b| b.rung()).collect();
        let mut ids: Vec<u64> = match self.cutoff(self.longest_ms()) {
            Some(cutoff) => rungs.iter().filter(|r| r.max_ts < cutoff).map(|r| r.id).collect(),
            None => Vec::new(),
        };
        if let Some(bytes_max) = self.retention.load().bytes_max {
            let rest: Vec<Rung> = rungs.into_iter().filter(|r| !ids.contains(&r.id)).collect();
            ids.extend(oversize(&rest, self.log.bytes(), bytes_max));
        }
        ids
    }

    /// The series of a block by how long they are kept; `None` where there are no rules.
    pub(crate) fn expired_rows(&self, stored: &StoredBlock) -> Result<Option<Expired>, ReadError> {
        let retention = self.retention.load_full();
        let rules = &retention.rules;
        if rules.is_empty() {
            return Ok(None);
        }
        let block = stored.block()?;
        let mut rest = block.select_bitmap(&[], TimeRange::ALL)?;
        let mut classes = Vec::with_capacity(rules.len() + 1);
        for rule in rules {
            let rows = block.select_bitmap(&rule.matchers, TimeRange::ALL)? & &rest;
            rest -= &rows;
            classes.push((rows, self.cutoff(rule.keep_ms)));
        }
        classes.push((rest, self.cutoff(retention.keep_ms)));
        Ok(Some(Expired { retention, classes }))
    }

    /// Blocks to be written anew without the series that are wholly past their own time.
    fn past_rules(&self) -> Vec<u64> {
        if self.retention.load().rules.is_empty() {
            return Vec::new();
        }
        let unmergeable = self.unmergeable.lock().clone();
        let view = self.view.load_full();
        let mut known = self.shortest_kept.lock();
        known.retain(|id, _| view.blocks.iter().any(|b| b.entry.id == *id));
        let due = |b: &&Arc<StoredBlock>| {
            if unmergeable.contains(&b.entry.id) {
                return false;
            }
            let shortest = match known.get(&b.entry.id) {
                Some(shortest) => *shortest,
                None => match self.shortest_of(b) {
                    Ok(shortest) => *known.entry(b.entry.id).or_insert(shortest),
                    // Asked again with the next look; what reads it says what is wrong.
                    Err(_) => return false,
                },
            };
            self.cutoff(shortest).is_some_and(|cutoff| b.ages().max < cutoff)
        };
        view.blocks.iter().filter(due).map(|b| b.entry.id).collect()
    }

    /// The shortest that any series of a block is kept; `None`: for ever.
    fn shortest_of(&self, stored: &StoredBlock) -> Result<Option<i64>, ReadError> {
        let Some(expired) = self.expired_rows(stored)? else { return Ok(None) };
        let retention = Arc::clone(&expired.retention);
        let keeps = retention.rules.iter().map(|r| r.keep_ms).chain([retention.keep_ms]);
        let present = expired.classes.iter().zip(keeps).filter(|((rows, _), _)| !rows.is_empty());
        Ok(present.filter_map(|(_, keep)| keep).min())
    }

    /// Is anything past its time?
    pub(crate) fn retention_is_due(&self) -> bool {
        !self.past_retention().is_empty() || !self.past_rules().is_empty()
    }

    /// Drops what is past the retention.
    pub(crate) fn retain_now(&self) -> Result<(), ReadError> {
        self.drop_blocks()?;
        let mut failed = None;
        for id in self.past_rules() {
            if self.background.is_stopping() {
                break;
            }
            // One that cannot be read now, as when its store is away, does not hold up the others.
            failed = failed.or(self.merge_blocks(&[id], TaskKind::Retain).err());
        }
        failed.map_or(Ok(()), Err)
    }

    fn drop_blocks(&self) -> Result<(), ReadError> {
        let _one_at_a_time = self.compacting.lock();
        let ids = self.past_retention();
        if ids.is_empty() {
            return Ok(());
        }
        let view = self.view.load_full();
        let blocks: Vec<Arc<StoredBlock>> = view.blocks.iter().filter(|b| ids.contains(&b.entry.id)).cloned().collect();
        {
            let _publishing = self.publishing.lock();
            let clock = self.clock_mark();
            let drop_them = |m: &mut quiver_persistence::Manifest| {
                m.note_clock(clock);
                m.supersede(&ids, None);
                m.replace(&ids, Vec::new());
            };
            self.manifest.edit(drop_them).map_err(manifest_error)?;
            self.change_view(|view| view.blocks.retain(|b| !ids.contains(&b.entry.id)));
        }
        blocks.iter().filter_map(|b| b.time_bounds()).for_each(|range| self.changes.note(range));
        let bounds = blocks.iter().filter_map(|b| b.time_bounds());
        let bounds = bounds.reduce(|a, b| TimeRange { min: a.min.min(b.min), max: a.max.max(b.max) });
        tracing::info!(blocks = ids.len(), ?bounds, "retention deleted blocks");
        self.counters.blocks_dropped.fetch_add(ids.len() as u64, Ordering::Relaxed);
        drop(view);
        self.remove_files(&blocks);
        drop(blocks);
        self.interner.sweep();
        Ok(())
    }
}
