//! What is data in a remote store: generation-numbered copies of a manifest, each made only where there is none.
//!
//! ```text
//! catalog/00000000000000000041.json     the manifest's own format: a line that vouches for the JSON behind it
//! catalog/00000000000000000042.json     the newest whole one counts
//! ```
//!
//! Invariants
//! 1. Of two writers that publish the same generation one fails ([`CatalogError::Taken`]), whoever they are.
//! 2. A list that is behind, by however much, cannot make an old generation the newest, nor one without anything begin a
//!    second history: of the newest generation N those are kept that are N without some of its lowest binary digits
//!    (of 44: 40, 32), and all powers of two. So the newest is found from any earlier one, by asking for names alone.
//! 3. An answer that got lost is found out by reading back, not by guessing.

use std::sync::Arc;

use bytes::Bytes;

use crate::manifest::{self, Manifest, ManifestError};

use super::{ObjectError, ObjectErrorKind, Objects, RemoteIo};

/// Where the catalogs are.
pub const CATALOG_DIR: &str = "catalog";
/// Newest generations kept, beside those that lead to the newest.
const KEPT: u64 = 8;

/// A catalog that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    /// Its number.
    pub generation: u64,
    /// What it says.
    pub manifest: Manifest,
}

/// Why a catalog cannot be read or published.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CatalogError {
    /// Another one has published that generation: what was to be published is out of date, and so is who wanted to.
    #[error("generation {} of the catalog in {store} was published by another writer", found.generation)]
    Taken {
        /// In which store.
        store: String,
        /// What is there.
        found: Box<Published>,
    },
    /// The store puts an object in the place of another one although it was told not to.
    #[error(
        "the store {0} does not support conditional writes (If-None-Match), which protect two servers from overwriting each other"
    )]
    NotConditional(String),
    /// What the store lists is not there, or what was there is not.
    #[error("generation {generation} of the catalog is missing in the store {store}")]
    Lost {
        /// In which store.
        store: String,
        /// Which.
        generation: u64,
    },
    /// A catalog is damaged, or of a newer version.
    #[error("the catalog in {store}: {error}")]
    Unreadable {
        /// In which store.
        store: String,
        /// Why.
        error: ManifestError,
    },
    /// The store said no.
    #[error(transparent)]
    Store(#[from] ObjectError),
}

/// The catalogs of a store.
#[derive(Debug)]
pub struct Catalogs {
    pub(super) io: Arc<RemoteIo>,
}

fn key_of(generation: u64) -> String {
    format!("{CATALOG_DIR}/{generation:020}.json")
}

/// Where generation `from` was published, the generations of which one at least is there if a later one is; ascending.
///
/// A later N has a one where `from` has a zero, at the highest binary digit in which they differ: the digits of N down to
/// that one, and zeros, are kept for N. Or N has more digits: then the next power of two is there.
fn later(from: u64) -> Vec<u64> {
    let digits = u64::BITS - from.leading_zeros();
    // The lowest zero gives the next generation, one above all digits the next power of two.
    (0..=digits.min(u64::BITS - 1)).filter(|d| from >> d & 1 == 0).map(|d| (from >> d | 1) << d).collect()
}

/// Is a generation kept while `newest` is the newest?
fn is_kept(generation: u64, newest: u64) -> bool {
    let leads_there = || newest >> generation.trailing_zeros() << generation.trailing_zeros() == generation;
    generation.saturating_add(KEPT) > newest || generation.is_power_of_two() || leads_there()
}

fn generation_of(key: &str) -> Option<u64> {
    let generation = key.strip_prefix(CATALOG_DIR)?.strip_prefix('/')?.strip_suffix(".json")?.parse().ok()?;
    (generation > 0).then_some(generation)
}

async fn get(objects: &dyn Objects, generation: u64) -> Result<Option<Bytes>, ObjectError> {
    match objects.get_all(&key_of(generation)).await {
        Err(e) if e.is_not_found() => Ok(None),
        got => got.map(Some),
    }
}

impl Catalogs {
    /// Those of a store.
    pub fn new(io: Arc<RemoteIo>) -> Self {
        Self { io }
    }

    /// The newest catalog; `None` in a store without any. `at_least` is a generation known to have been there.
    pub fn latest(&self, at_least: u64) -> Result<Option<Published>, CatalogError> {
        let listed = self.io.wait(|o| async move { o.list(CATALOG_DIR).await })?;
        let newest = listed.iter().filter_map(|info| generation_of(&info.key)).max().unwrap_or(0);
        let known = newest.max(at_least);
        let mut asked = later(known);
        if known > 0 {
            asked.insert(0, known);
        }
        let mut found = self.newest_of(asked)?;
        // A list may be behind.
        let mut from = known;
        while let Some(newer) = found.as_ref().map(|f| f.generation).filter(|g| *g > from) {
            from = newer;
            found = self.newest_of(later(from))?.or(found);
        }
        if found.is_none() && known > 0 {
            return Err(CatalogError::Lost { store: self.io.name(), generation: known });
        }
        Ok(found)
    }

    /// Of generations, asked for beside each other, the newest that is there.
    fn newest_of(&self, generations: Vec<u64>) -> Result<Option<Published>, CatalogError> {
        let answers = self.io.wait(|o| async move {
            let ask = |g: u64| {
                let o = Arc::clone(&o);
                async move { get(&*o, g).await.map(|bytes| bytes.map(|bytes| (g, bytes))) }
            };
            futures::future::try_join_all(generations.into_iter().map(ask)).await
        })?;
        let newest = answers.into_iter().flatten().max_by_key(|(g, _)| *g);
        newest.map(|(g, bytes)| self.parse(g, &bytes)).transpose()
    }

    fn read(&self, generation: u64) -> Result<Option<Published>, CatalogError> {
        self.newest_of(vec![generation])
    }

    fn parse(&self, generation: u64, bytes: &[u8]) -> Result<Published, CatalogError> {
        let unreadable = |error| CatalogError::Unreadable { store: self.io.name(), error };
        manifest::parse(bytes).map(|manifest| Published { generation, manifest }).map_err(unreadable)
    }

    /// Publishes a manifest under its own generation.
    pub fn publish(&self, manifest: &Manifest) -> Result<(), CatalogError> {
        let generation = manifest.generation;
        let bytes = Bytes::from(manifest::encode(manifest));
        let put = self.io.wait(|o| async move { o.put_new(&key_of(generation), bytes).await });
        match put {
            Ok(()) => Ok(()),
            Err(e) if e.kind == ObjectErrorKind::Exists => match self.read(generation)? {
                // An attempt of ours whose answer got lost.
                Some(found) if found.manifest == *manifest => Ok(()),
                Some(found) => Err(CatalogError::Taken { store: self.io.name(), found: Box::new(found) }),
                None => Err(CatalogError::Lost { store: self.io.name(), generation }),
            },
            Err(e) => Err(e.into()),
        }
    }

    /// Makes sure that the store refuses to replace a catalog: one that is there is put again.
    pub fn prove_conditional(&self, manifest: &Manifest) -> Result<(), CatalogError> {
        let key = key_of(manifest.generation);
        let bytes = Bytes::from(manifest::encode(manifest));
        match self.io.wait(|o| async move { o.put_new(&key, bytes).await }) {
            Err(e) if e.kind == ObjectErrorKind::Exists => Ok(()),
            Ok(()) => Err(CatalogError::NotConditional(self.io.name())),
            Err(e) => Err(e.into()),
        }
    }

    /// Removes old generations; the newest few stay, and those that lead to the newest.
    pub fn prune(&self, newest: u64) -> Result<(), CatalogError> {
        let mut listed = self.io.wait(|o| async move { o.list(CATALOG_DIR).await })?;
        listed.retain(|info| generation_of(&info.key).is_some_and(|g| !is_kept(g, newest)));
        for info in listed {
            self.io.wait(|o| async move { o.delete(&info.key).await })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn from_every_earlier_generation_the_newest_is_found_by_names_alone() {
        let mut there = BTreeSet::new();
        for newest in 1..600u64 {
            there.insert(newest);
            there.retain(|g| is_kept(*g, newest));
            assert!(there.len() <= 28, "{newest}: {there:?}");
            for from in 0..=newest {
                let mut at = from;
                let mut rounds = 0;
                while let Some(next) = later(at).into_iter().rev().find(|g| there.contains(g)) {
                    at = next;
                    rounds += 1;
                }
                assert_eq!(at, newest, "from {from}, there {there:?}");
                assert!(rounds <= 20, "{rounds} from {from} to {newest}");
            }
        }
        for from in [u64::MAX, u64::MAX - 1, 1 << 63] {
            assert!(later(from).iter().all(|g| *g > from));
        }
    }
}
