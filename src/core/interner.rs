//! One allocation per label set, however many heads and blocks name it.
//!
//! Invariant: a label set is forgotten only while nobody else holds it, so two holders of equal sets always share them
//! and lists can be joined by address.

use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;

use hashbrown::HashTable;
use parking_lot::Mutex;
use quiver_model::Labels;
use rapidhash::v3::{RapidSecrets, rapidhash_v3_seeded};

const SHARDS: usize = 16;

/// Hash of packed labels, with a seed drawn once per process: nobody outside can choose sets that collide.
#[inline]
pub(crate) fn hash(packed: &[u8]) -> u64 {
    static SEED: OnceLock<RapidSecrets> = OnceLock::new();
    rapidhash_v3_seeded(packed, SEED.get_or_init(|| RapidSecrets::seed(RandomState::new().hash_one(0u8))))
}

/// See the module. Hashes are not kept: with a million sets they would take more room than computing them again takes
/// time, as tables grow seldom.
#[derive(Default)]
pub(crate) struct Interner {
    shards: [Mutex<HashTable<Labels>>; SHARDS],
}

fn of(labels: &Labels) -> u64 {
    hash(labels.packed())
}

impl Interner {
    /// The shared set of these packed labels, made by `make` where there is none.
    pub(crate) fn intern<E>(
        &self,
        hash: u64,
        packed: &[u8],
        make: impl FnOnce() -> Result<Labels, E>,
    ) -> Result<Labels, E> {
        let mut shard = self.shards[(hash >> 60) as usize % SHARDS].lock();
        if let Some(labels) = shard.find(hash, |l| l.packed() == packed) {
            return Ok(labels.clone());
        }
        let labels = make()?;
        shard.insert_unique(hash, labels.clone(), of);
        Ok(labels)
    }

    /// Forgets the sets that nobody else holds; returns how many are left.
    pub(crate) fn sweep(&self) -> usize {
        let mut left = 0;
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.retain(|labels| labels.is_shared());
            if shard.len() * 4 < shard.capacity() {
                shard.shrink_to_fit(of);
            }
            left += shard.len();
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_sets_are_one_until_nobody_holds_them() {
        let interner = Interner::default();
        let labels = Labels::from_pairs([("a", "1")]).unwrap();
        let get = || {
            let packed = labels.packed();
            interner.intern(hash(packed), packed, || Labels::from_packed(packed)).unwrap()
        };
        let (a, b) = (get(), get());
        assert_eq!(a.packed().as_ptr(), b.packed().as_ptr());
        assert_eq!(interner.sweep(), 1);
        drop((a, b));
        assert_eq!(interner.sweep(), 0);
    }
}
