//! Which of two files holds what came later: a file that old ones were merged into is no newer than they were, though its number
//! is higher.
//!
//! Kept in the `extra` of entries, so that the format of version 1 is what it was.

use super::ManifestEntry;

/// Key in `extra`.
const ARRIVAL_KEY: &str = "arrival";

impl ManifestEntry {
    /// The number of the newest file, as a flush wrote it, of what this one holds. Merged files of versions that did not keep it
    /// go by what they were made from.
    pub fn arrival(&self) -> u64 {
        let kept = self.extra.get(ARRIVAL_KEY).and_then(serde_json::Value::as_u64);
        kept.or_else(|| self.sources.iter().copied().max()).unwrap_or(self.id)
    }

    /// Keeps what [`ManifestEntry::arrival`] is to give.
    pub fn set_arrival(&mut self, arrival: u64) {
        self.extra.insert(ARRIVAL_KEY.to_owned(), arrival.into());
    }
}
