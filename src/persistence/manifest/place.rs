//! Where the file of an entry is: on the local disk, in a remote store, or in both.
//!
//! ```text
//! local ─ upload, read back ─▶ both ─ named by a published catalog, tail kept ─▶ remote
//!           merge of both or remote: the old objects stay in the catalog until the new block is in the store
//! ```
//!
//! Kept in the `extra` of entries and manifest, so that the format of version 1 is what it was.
//!
//! Invariant: an entry is `Remote` only if a published catalog names its object; see [`Manifest::catalog`].

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Manifest, ManifestEntry, Tombstone};

/// Key in `extra`, of an entry and of a manifest.
const TIER_KEY: &str = "tier";

/// Where the file of an entry is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// On the local disk.
    #[default]
    Local,
    /// There and in the remote store.
    Both,
    /// In the remote store; its end is kept here, see [`ManifestEntry::tail_file`].
    Remote,
}

#[derive(Serialize, Deserialize)]
struct EntryMark {
    at: Place,
    object: String,
}

/// What a manifest knows of its remote store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TierMark {
    /// Who publishes catalogs for this folder.
    pub writer: String,
    /// The newest catalog of ours that is known to be published.
    pub generation: u64,
    /// In a catalog: which process wrote it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub session: String,
    /// In a catalog: the generation of the manifest it was made from.
    #[serde(default)]
    pub folder_generation: u64,
    /// Entries that were merged into one that is not in the store yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub superseded: Vec<Superseded>,
}

/// An entry in the store whose data is in a local block now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Superseded {
    /// What it was.
    pub entry: ManifestEntry,
    /// What was deleted of it.
    pub tombstones: Vec<Tombstone>,
    /// Where its data is now.
    pub successor: u64,
}

impl Superseded {
    /// Keeps those of `live` that count in the successor: they count in the parts, too.
    fn keep_deletions(&mut self, live: &[Tombstone]) {
        for t in live.iter().filter(|t| t.blocks.contains(&self.successor)) {
            if self.tombstones.iter().all(|known| known.id != t.id) {
                self.tombstones.push(t.clone());
            }
        }
    }
}

impl ManifestEntry {
    fn mark(&self) -> Option<EntryMark> {
        EntryMark::deserialize(self.extra.get(TIER_KEY)?).ok()
    }

    /// Where its file is.
    pub fn place(&self) -> Place {
        self.mark().map_or(Place::Local, |m| m.at)
    }

    /// The name of its object, where it is in the store.
    pub fn object(&self) -> Option<String> {
        self.mark().map(|m| m.object)
    }

    /// Notes where its file is; `Local` takes the note away.
    pub fn set_place(&mut self, at: Place, object: &str) {
        if at == Place::Local {
            self.extra.remove(TIER_KEY);
            return;
        }
        let mark = EntryMark { at, object: object.to_owned() };
        self.extra.insert(TIER_KEY.to_owned(), serde_json::to_value(mark).unwrap_or(Value::Null));
    }

    /// The file with the end of a block that is in the store alone.
    pub fn tail_file(&self) -> String {
        format!("{}.tail", self.file.strip_suffix(".block").unwrap_or(&self.file))
    }

    /// The file it has on the local disk.
    pub fn local_file(&self) -> String {
        if self.place() == Place::Remote { self.tail_file() } else { self.file.clone() }
    }
}

impl Manifest {
    /// What it knows of its remote store.
    pub fn tier(&self) -> Option<TierMark> {
        TierMark::deserialize(self.extra.get(TIER_KEY)?).ok()
    }

    /// Notes what is known of the remote store.
    pub fn set_tier(&mut self, mark: &TierMark) {
        self.extra.insert(TIER_KEY.to_owned(), serde_json::to_value(mark).unwrap_or(Value::Null));
    }

    /// For copies that stand alone: nothing of a remote store, all files here.
    pub fn forget_tier(&mut self) {
        self.extra.remove(TIER_KEY);
        self.entries.iter_mut().for_each(|e| e.set_place(Place::Local, ""));
    }

    /// Entries whose file is in the remote store alone.
    pub fn remote_entries(&self) -> usize {
        self.entries.iter().filter(|e| e.place() == Place::Remote).count()
    }

    /// Entries are about to be replaced by `successor`, or by nothing: what of them is in the store stays named by catalogs
    /// until the successor is there. To be called before [`Manifest::replace`].
    pub fn supersede(&mut self, removed: &[u64], successor: Option<u64>) {
        let Some(mut mark) = self.tier() else { return };
        let before = mark.clone();
        match successor {
            Some(successor) => {
                for s in mark.superseded.iter_mut().filter(|s| removed.contains(&s.successor)) {
                    // Carried out in what comes next, and not in what is in the store.
                    s.keep_deletions(&self.tombstones);
                    s.successor = successor;
                }
                for entry in self.entries.iter().filter(|e| removed.contains(&e.id) && e.object().is_some()) {
                    let counts = |t: &&Tombstone| t.blocks.contains(&entry.id);
                    let tombstones = self.tombstones.iter().filter(counts).cloned().collect();
                    mark.superseded.push(Superseded { entry: entry.clone(), tombstones, successor });
                }
            }
            None => mark.superseded.retain(|s| !removed.contains(&s.successor)),
        }
        if mark != before {
            self.set_tier(&mark);
        }
    }

    /// The successor of superseded entries is lost, or not whole any more: they are data again, as they are in the store, with what
    /// was deleted of them and of it.
    pub(super) fn take_back_parts(&mut self, successor: u64) {
        let Some(mut mark) = self.tier() else { return };
        let parts: Vec<Superseded> = mark.superseded.extract_if(.., |s| s.successor == successor).collect();
        if parts.is_empty() {
            return;
        }
        self.set_tier(&mark);
        for mut s in parts {
            s.keep_deletions(&self.tombstones);
            for t in s.tombstones {
                match self.tombstones.iter_mut().find(|known| known.id == t.id) {
                    Some(known) if known.blocks.contains(&s.entry.id) => {}
                    Some(known) => known.blocks.push(s.entry.id),
                    None => self.tombstones.push(Tombstone { blocks: vec![s.entry.id], ..t }),
                }
            }
            let object = s.entry.object().unwrap_or_default();
            s.entry.set_place(Place::Remote, &object);
            self.entries.push(s.entry);
        }
    }

    /// Lets go of superseded entries whose successor is in the store, or gone.
    pub fn settle(&mut self) {
        let Some(mut mark) = self.tier() else { return };
        let before = mark.superseded.len();
        mark.superseded.retain(|s| self.entry(s.successor).is_some_and(|e| e.object().is_none()));
        if mark.superseded.len() != before {
            self.set_tier(&mark);
        }
    }

    /// The catalog that belongs into the store: what this manifest has there, with its deletions, as a manifest from which
    /// another folder can begin. The caller gives it a generation and says who writes it.
    pub fn catalog(&self) -> Manifest {
        let mut entries: Vec<ManifestEntry> = self.entries.iter().filter(|e| e.object().is_some()).cloned().collect();
        let mut tombstones: Vec<Tombstone> = Vec::new();
        let mut add = |t: &Tombstone, block: u64| match tombstones.iter_mut().find(|known| known.id == t.id) {
            Some(known) if known.blocks.contains(&block) => {}
            Some(known) => known.blocks.push(block),
            None => tombstones.push(Tombstone { blocks: vec![block], ..t.clone() }),
        };
        for t in &self.tombstones {
            entries.iter().filter(|e| t.blocks.contains(&e.id)).for_each(|e| add(t, e.id));
        }
        for s in self.tier().map_or(Vec::new(), |m| m.superseded) {
            if self.entry(s.successor).is_none_or(|e| e.object().is_some()) {
                continue;
            }
            s.tombstones.iter().for_each(|t| add(t, s.entry.id));
            // What was deleted since is deleted of the parts, too.
            let since = self.tombstones.iter().filter(|t| t.blocks.contains(&s.successor));
            since.for_each(|t| add(t, s.entry.id));
            entries.push(s.entry);
        }
        for e in &mut entries {
            let object = e.object().unwrap_or_default();
            e.set_place(Place::Remote, &object);
            e.sources.clear();
        }
        entries.sort_by_key(|e| e.id);
        tombstones.iter_mut().for_each(|t| t.blocks.sort_unstable());
        tombstones.sort_by_key(|t| t.id);
        Manifest {
            id_next: self.id_next,
            entries,
            tombstones,
            tombstone_next: self.tombstone_next,
            ..Manifest::default()
        }
    }

    /// Objects that must stay in the store: those of entries, and of superseded ones.
    pub fn objects(&self) -> Vec<String> {
        let superseded = self.tier().map_or(Vec::new(), |m| m.superseded);
        let kept = superseded.iter().filter_map(|s| s.entry.object());
        self.entries.iter().filter_map(ManifestEntry::object).chain(kept).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: u64, at: Place) -> ManifestEntry {
        let mut e = ManifestEntry { id, file: format!("blocks/{id:016}.block"), ..ManifestEntry::default() };
        e.set_place(at, &format!("blocks/{id}"));
        e
    }

    fn grave(id: u64, blocks: &[u64]) -> Tombstone {
        Tombstone { id, blocks: blocks.to_vec(), ..Tombstone::default() }
    }

    #[test]
    fn places_are_noted_and_read_back() {
        for at in [Place::Local, Place::Both, Place::Remote] {
            let e = entry(7, at);
            assert_eq!(e.place(), at);
            assert_eq!(e.object().is_some(), at != Place::Local);
        }
        assert_eq!(entry(7, Place::Remote).local_file(), "blocks/0000000000000007.tail");
        assert_eq!(entry(7, Place::Both).local_file(), "blocks/0000000000000007.block");
        let mut strange = entry(7, Place::Both);
        strange.extra.insert(TIER_KEY.into(), serde_json::json!({"at": "moon"}));
        assert_eq!(strange.place(), Place::Local);
    }

    #[test]
    fn what_was_merged_stays_in_the_catalog_until_its_successor_is_there() {
        let mut m = Manifest {
            entries: vec![entry(1, Place::Remote), entry(2, Place::Both), entry(3, Place::Local)],
            ..Manifest::default()
        };
        m.set_tier(&TierMark { writer: "w".into(), ..TierMark::default() });
        m.tombstones = vec![grave(1, &[1, 3]), grave(2, &[3])];
        let ids = |m: &Manifest| m.catalog().entries.iter().map(|e| e.id).collect::<Vec<_>>();
        assert_eq!(ids(&m), [1, 2]);
        assert_eq!(m.catalog().tombstones, [grave(1, &[1])]);
        assert!(m.catalog().entries.iter().all(|e| e.place() == Place::Remote));
        // 1 and 3 become 4, which becomes 5.
        m.supersede(&[1, 3], Some(4));
        m.replace(&[1, 3], vec![entry(4, Place::Local)]);
        assert_eq!(ids(&m), [1, 2]);
        assert_eq!(m.catalog().tombstones, [grave(1, &[1])], "what the merge carried out is not carried out there");
        m.tombstones.push(grave(9, &[4]));
        assert_eq!(m.catalog().tombstones, [grave(1, &[1]), grave(9, &[1])]);
        m.supersede(&[4, 2], Some(5));
        m.replace(&[4, 2], vec![entry(5, Place::Local)]);
        assert_eq!(ids(&m), [1, 2]);
        assert!(m.tombstones.iter().all(|t| t.id != 9), "it was carried out in 5");
        assert_eq!(m.catalog().tombstones, [grave(1, &[1]), grave(9, &[1])], "and not in the store");
        assert_eq!(m.objects(), ["blocks/1", "blocks/2"]);
        m.entries[0].set_place(Place::Both, "blocks/5");
        assert_eq!(ids(&m), [5]);
        m.settle();
        assert_eq!(m.objects(), ["blocks/5"]);
        // What is dropped leaves nothing behind.
        m.supersede(&[5], Some(6));
        m.replace(&[5], vec![entry(6, Place::Local)]);
        assert_eq!(ids(&m), [5]);
        m.supersede(&[6], None);
        m.replace(&[6], vec![]);
        assert_eq!(ids(&m), [] as [u64; 0]);
        assert!(m.objects().is_empty());
    }

    #[test]
    fn parts_of_a_file_that_is_lost_are_data_again() {
        let start = || {
            let mut m = Manifest {
                entries: vec![entry(1, Place::Both), entry(2, Place::Remote), entry(3, Place::Local)],
                ..Manifest::default()
            };
            m.set_tier(&TierMark { writer: "w".into(), ..TierMark::default() });
            m.tombstones = vec![grave(1, &[1])];
            m.supersede(&[1, 2, 3], Some(4));
            m.replace(&[1, 2, 3], vec![entry(4, Place::Local)]);
            m.tombstones.push(grave(9, &[4]));
            m
        };
        let ids = |m: &Manifest| m.entries.iter().map(|e| (e.id, e.place())).collect::<Vec<_>>();
        // Nothing of 4 is left, or a part.
        let mut m = start();
        m.replace_damaged(4, None, false);
        assert_eq!(ids(&m), [(1, Place::Remote), (2, Place::Remote)]);
        assert_eq!(m.tombstones, [grave(9, &[1, 2]), grave(1, &[1])]);
        m.settle();
        assert_eq!(m.objects(), ["blocks/1", "blocks/2"]);
        let mut m = start();
        m.replace_damaged(4, Some(entry(5, Place::Local)), false);
        assert_eq!(ids(&m), [(1, Place::Remote), (2, Place::Remote), (5, Place::Local)]);
        assert_eq!(m.tombstones, [grave(9, &[1, 2, 5]), grave(1, &[1])]);
        // All of it is.
        let mut m = start();
        m.replace_damaged(4, Some(entry(5, Place::Local)), true);
        assert_eq!(ids(&m), [(5, Place::Local)]);
        m.settle();
        assert_eq!(m.objects(), ["blocks/1", "blocks/2"], "named until 5 is in the store");
        assert_eq!(m.catalog().entries.len(), 2);
    }

    #[test]
    fn a_copy_that_stands_alone_knows_no_store() {
        let mut m = Manifest { entries: vec![entry(1, Place::Both)], ..Manifest::default() };
        m.set_tier(&TierMark::default());
        m.forget_tier();
        let mut alone = Manifest { entries: vec![entry(1, Place::Both)], ..Manifest::default() };
        alone.entries[0].extra.clear();
        assert_eq!(m, alone);
        m.supersede(&[1], Some(2));
        assert!(m.tier().is_none());
    }
}
