//! What is data in a remote store: generation-numbered copies of a manifest, each made only where there is none.
//!
//! ```text
//! catalog/00000000000000000041.json     the manifest's own format: a line that vouches for the JSON behind it
//! catalog/00000000000000000042.json     the newest whole one counts
//! ```
//!
//! Invariants
//! 1. Of two writers that publish the same generation one fails ([`CatalogError::Taken`]), whoever they are.
//! 2. A list that is behind cannot make an old generation the newest: after it the next numbers are tried one by one. The
//!    first generation is never removed, so that a list without anything cannot begin a second history.
//! 3. An answer that got lost is found out by reading back, not by guessing.

use std::sync::Arc;

use crate::manifest::{self, Manifest, ManifestError};

use super::{ObjectError, ObjectErrorKind, RemoteIo};

/// Where the catalogs are.
pub const CATALOG_DIR: &str = "catalog";
/// Generations kept, beside the first.
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
    #[error("the store {0} does not honour conditional writes (If-None-Match): two servers could corrupt each other")]
    NotConditional(String),
    /// What the store lists is not there, or what was there is not.
    #[error("the store {store} does not have generation {generation} of its catalog, which must be there")]
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

fn generation_of(key: &str) -> Option<u64> {
    key.strip_prefix(CATALOG_DIR)?.strip_prefix('/')?.strip_suffix(".json")?.parse().ok()
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
        let from = newest.max(at_least);
        let mut found = match from {
            0 => None,
            n => Some(self.read(n)?.ok_or_else(|| CatalogError::Lost { store: self.io.name(), generation: n })?),
        };
        // A list may be behind.
        let mut next = from + 1;
        while let Some(later) = self.read(next)? {
            found = Some(later);
            next += 1;
        }
        Ok(found)
    }

    fn read(&self, generation: u64) -> Result<Option<Published>, CatalogError> {
        let bytes = self.io.wait(|o| async move {
            match o.get_all(&key_of(generation)).await {
                Err(e) if e.is_not_found() => Ok(None),
                got => got.map(Some),
            }
        })?;
        let Some(bytes) = bytes else { return Ok(None) };
        match manifest::parse(&bytes) {
            Ok(manifest) => Ok(Some(Published { generation, manifest })),
            Err(error) => Err(CatalogError::Unreadable { store: self.io.name(), error }),
        }
    }

    /// Publishes a manifest under its own generation.
    pub fn publish(&self, manifest: &Manifest) -> Result<(), CatalogError> {
        let generation = manifest.generation;
        let bytes = bytes::Bytes::from(manifest::encode(manifest));
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
        let bytes = bytes::Bytes::from(manifest::encode(manifest));
        match self.io.wait(|o| async move { o.put_new(&key, bytes).await }) {
            Err(e) if e.kind == ObjectErrorKind::Exists => Ok(()),
            Ok(()) => Err(CatalogError::NotConditional(self.io.name())),
            Err(e) => Err(e.into()),
        }
    }

    /// Removes old generations; the newest few and the first one stay.
    pub fn prune(&self, newest: u64) -> Result<(), CatalogError> {
        let mut listed = self.io.wait(|o| async move { o.list(CATALOG_DIR).await })?;
        listed.retain(|info| generation_of(&info.key).is_some_and(|g| g > 1 && g + KEPT <= newest));
        for info in listed {
            self.io.wait(|o| async move { o.delete(&info.key).await })?;
        }
        Ok(())
    }
}
