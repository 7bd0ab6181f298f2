//! Objects that nothing names: what crashes, merges and retention leave in the store.
//!
//! Invariant: an object goes only if the newest catalog, read again at that moment, is ours and does not name it, the
//! manifest does not name it, and both were so for [`super::TierOptions::sweep_after_ms`]: longer than any query runs.
//! A list that is behind shows too little or what is gone already: either does no harm.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use quiver_persistence::ManifestStore;

use super::{Standing, Tier};
use crate::ReadError;

/// Folder of blocks in the store.
const OBJECT_DIR: &str = "blocks";

impl Tier {
    pub(super) fn sweep_is_due(&self) -> bool {
        let pause = Duration::from_millis(self.options.sweep_after_ms / 6).max(Duration::from_millis(1));
        self.progress.lock().swept.is_none_or(|at| at.elapsed() >= pause)
    }

    /// Looks for objects that nothing names, and removes those that were so long enough.
    pub(super) fn sweep(&self, manifest: &ManifestStore) -> Result<(), ReadError> {
        self.progress.lock().swept = Some(Instant::now());
        let failed = |e: &dyn std::fmt::Display| ReadError::Remote {
            file: OBJECT_DIR.into(),
            store: self.name(),
            what: e.to_string(),
        };
        let ours = match &*self.standing.lock() {
            Standing::Ours { generation, .. } => *generation,
            Standing::Unknown | Standing::Fenced(_) => return Ok(()),
        };
        if ours == 0 {
            return Ok(());
        }
        let listed = self.cache.io().wait(|o| async move { o.list(OBJECT_DIR).await }).map_err(|e| failed(&e))?;
        let newest = self.catalogs.latest(ours).map_err(|e| failed(&e))?;
        let newest = match newest {
            Some(newest) if newest.generation == ours => newest,
            // One whose answer got lost, and the manifest is back to what was published before it: the next run goes on.
            Some(newest) if self.is_own(&newest.manifest) => {
                self.adopt(newest);
                return Ok(());
            }
            _ => {
                self.fence(format!("{} has a catalog that is not ours: nothing is moved there", self.name()));
                return Ok(());
            }
        };
        // After the catalog: whatever was uploaded since is younger than any stray.
        let current = manifest.current();
        let mut named: HashSet<String> = current.objects().into_iter().collect();
        named.extend(newest.manifest.entries.iter().filter_map(|e| e.object()));
        let long_ago = Duration::from_millis(self.options.sweep_after_ms);
        let mut due = Vec::new();
        {
            let mut progress = self.progress.lock();
            let strays = &mut progress.strays;
            let now = Instant::now();
            strays.retain(|key, _| !named.contains(key) && listed.iter().any(|i| i.key == *key));
            for info in listed.iter().filter(|i| !named.contains(&i.key)) {
                let since = *strays.entry(info.key.clone()).or_insert(now);
                if now.duration_since(since) >= long_ago {
                    due.push(info.key.clone());
                }
            }
        }
        for key in due {
            let object = key.clone();
            let gone = self.cache.io().wait(move |o| async move { o.delete(&object).await });
            gone.map_err(|e| failed(&e))?;
            self.cache.forget(&key);
            self.progress.lock().strays.remove(&key);
            tracing::info!(object = key, store = self.name(), "removed an unused object from the remote store");
        }
        Ok(())
    }
}
