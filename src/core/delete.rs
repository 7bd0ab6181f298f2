//! Deleting series, or parts of them: see [`tombstones`](crate::tombstones).
//!
//! Deletions that come together share one flush.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use quiver_model::Matcher;
use quiver_persistence::Tombstone;
use tokio::sync::oneshot;

use crate::catalog::StoredBlock;
use crate::flush::manifest_error;
use crate::place::Place;
use crate::report::IndexUse;
use crate::snapshot::View;
use crate::store::Inner;
use crate::tombstones::{Deletion, Deletions};
use crate::{ReadError, TimeRange};

/// Deletions that may wait to be carried out.
const TOMBSTONES_MAX: usize = 10_000;
/// Bytes they may take in the manifest, which is written anew with each change and published to the store as a whole.
const TOMBSTONE_BYTES_MAX: usize = 8 << 20;

/// A deletion asked for.
pub(crate) struct DeleteRequest {
    pub(crate) selectors: Vec<Vec<Matcher>>,
    pub(crate) range: TimeRange,
    pub(crate) answer: oneshot::Sender<Result<(), ReadError>>,
}

/// Bytes that a tombstone takes in the manifest, about.
fn written_bytes(t: &Tombstone) -> usize {
    let matchers = t.matchers.iter().map(|(op, name, value)| op.len() + name.len() + value.len() + 8);
    64 + matchers.sum::<usize>() + 8 * t.blocks.len()
}

impl Inner {
    /// Serves the deletions that were asked for.
    pub(crate) fn delete_now(&self) -> Result<(), ReadError> {
        let requests = std::mem::take(&mut *self.deletes.lock());
        if requests.is_empty() {
            return Ok(());
        }
        let asked: Vec<(&[Matcher], TimeRange)> =
            requests.iter().flat_map(|r| r.selectors.iter().map(|s| (s.as_slice(), r.range))).collect();
        let done = self.delete_all(&asked);
        for r in requests {
            // Whoever asked may have gone.
            let _ = r.answer.send(done.clone());
        }
        done
    }

    fn delete_all(&self, asked: &[(&[Matcher], TimeRange)]) -> Result<(), ReadError> {
        // Before any lock that flushes need: of a remote block this may take a while.
        let known = self.concerned(asked);
        let flushing = self.flushing.lock();
        if asked.iter().any(|(matchers, range)| self.heads_have(matchers, *range)) {
            // Then all that was written up to now is in blocks.
            self.flush_locked(false)?;
        }
        let buried = self.bury(asked, &known)?;
        asked.iter().for_each(|(_, range)| self.changes.note(*range));
        if buried && self.is_straggled.load(Ordering::Acquire) {
            // Frames of blocks lie above the log's floor: a replay would bring back what they hold.
            self.flush_locked(true)?;
        }
        drop(flushing);
        self.counters.deletions.fetch_add(asked.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Has a head samples or exemplars to be deleted?
    fn heads_have(&self, matchers: &[Matcher], range: TimeRange) -> bool {
        let view = self.view.load();
        let selector = [matchers.to_vec()];
        view.heads.iter().any(|h| {
            let place = Place::Head(Arc::clone(h), u32::MAX);
            !place.select(matchers, range, true, IndexUse::Auto, None).is_ok_and(|list| list.is_empty())
                || h.with_exemplars(&selector, u32::MAX).iter().any(|(_, id)| !h.exemplars(*id, range).is_empty())
        })
    }

    /// Which blocks of this moment hold something to be deleted, by the number of the request and the block.
    fn concerned(&self, asked: &[(&[Matcher], TimeRange)]) -> HashMap<(usize, u64), bool> {
        let view = self.view.load_full();
        let (mut known, mut is_away) = (HashMap::new(), false);
        for (n, (matchers, range)) in asked.iter().enumerate() {
            let deletion = Deletion { id: 0, matchers: matchers.to_vec(), range: *range };
            for b in &view.blocks {
                // A store that is away is waited for once, for flushes wait with this; a block that cannot be read may hold
                // some: once it can be, they must not be back.
                let found = match b.remote().is_some() && is_away {
                    true => Ok(true),
                    false => deletion.concerns(b),
                };
                is_away |= matches!(found, Err(ReadError::Remote { .. }));
                known.insert((n, b.entry.id), found.unwrap_or(true));
            }
        }
        known
    }

    /// Publishes tombstones for the blocks of this moment; false where none of them holds anything to be deleted. Blocks in
    /// `known` were looked at before, see [`Inner::concerned`].
    fn bury(&self, asked: &[(&[Matcher], TimeRange)], known: &HashMap<(usize, u64), bool>) -> Result<bool, ReadError> {
        let _publishing = self.publishing.lock();
        let view = self.view.load_full();
        let created_ms = self.options.clock.now_ms();
        let mut tombstones = Vec::new();
        for (n, (matchers, range)) in asked.iter().enumerate().filter(|(_, (_, range))| range.min <= range.max) {
            let deletion = Deletion { id: 0, matchers: matchers.to_vec(), range: *range };
            let concerned = |b: &&Arc<StoredBlock>| {
                known.get(&(n, b.entry.id)).copied().unwrap_or_else(|| deletion.concerns(b).unwrap_or(true))
            };
            let blocks: Vec<u64> = view.blocks.iter().filter(concerned).map(|b| b.entry.id).collect();
            if !blocks.is_empty() {
                let matchers = Deletion::record(matchers);
                let tombstone = Tombstone { id: 0, matchers, min_ts: range.min, max_ts: range.max, blocks, created_ms };
                // As the next start will read it.
                Deletion::new(&tombstone).map_err(ReadError::Limit)?;
                tombstones.push(tombstone);
            }
        }
        drop(view);
        if tombstones.is_empty() {
            return Ok(false);
        }
        let manifest = self.manifest.current();
        let bytes: usize = manifest.tombstones.iter().chain(&tombstones).map(written_bytes).sum();
        if bytes > TOMBSTONE_BYTES_MAX {
            let what = format!(
                "pending deletions would take {bytes} bytes in the manifest (limit {TOMBSTONE_BYTES_MAX}); run \
                 clean_tombstones"
            );
            return Err(ReadError::Limit(what));
        }
        let present = manifest.tombstones.len();
        if present + tombstones.len() > TOMBSTONES_MAX {
            let what = format!("too many pending deletions ({present}, limit {TOMBSTONES_MAX}); run clean_tombstones");
            return Err(ReadError::Limit(what));
        }
        self.manifest.edit(|m| tombstones.into_iter().for_each(|t| m.bury(t))).map_err(manifest_error)?;
        self.change_view(|view| self.refresh_deletions(view));
        Ok(true)
    }

    /// Gives every block of a view the deletions that the manifest says count in it.
    pub(crate) fn refresh_deletions(&self, view: &mut View) {
        let manifest = self.manifest.current();
        let mut read: Vec<Option<Arc<Deletion>>> = vec![None; manifest.tombstones.len()];
        for stored in &mut view.blocks {
            let id = stored.entry.id;
            let of: Vec<usize> = (0..read.len()).filter(|k| manifest.tombstones[*k].blocks.contains(&id)).collect();
            let have = stored.deletions().map_or_else(Vec::new, |d| d.ids());
            if of.len() == have.len() && of.iter().zip(&have).all(|(k, id)| manifest.tombstones[*k].id == *id) {
                continue;
            }
            let mut list = Vec::with_capacity(of.len());
            for k in of {
                if read[k].is_none() {
                    match Deletion::new(&manifest.tombstones[k]) {
                        Ok(d) => read[k] = Some(Arc::new(d)),
                        // It was made from matchers that compiled.
                        Err(e) => tracing::error!(error = e, "cannot read a pending deletion"),
                    }
                }
                list.extend(read[k].clone());
            }
            *stored = Arc::new(stored.with_deletions(Deletions::new(list)));
        }
    }
}
