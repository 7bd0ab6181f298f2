//! Moving blocks, and publishing where they are.

use std::sync::Arc;

use quiver_persistence::manifest::TierMark;
use quiver_persistence::remote::{CatalogError, ObjectError, Objects, Published};
use quiver_persistence::{Crc32c, Disk, Manifest, ManifestEntry, Place};

use super::{Standing, Tier, bare, new_name, write_tail};
use crate::ReadError;
use crate::background::TaskKind;
use crate::catalog::StoredBlock;
use crate::flush::{crc_of, io, manifest_error};
use crate::store::{BLOCK_DIR, Inner};

/// After so many uploads published the catalog.
const PUBLISH_EVERY: usize = 32;

/// Bytes read at a time of an object that is compared or copied as a whole.
const PIECE_BYTES: u64 = 4 << 20;

fn remote(e: &ObjectError) -> ReadError {
    ReadError::Remote { file: e.key.clone(), store: e.store.clone(), what: e.to_string() }
}

fn catalog_error(store: &str, e: &CatalogError) -> ReadError {
    ReadError::Remote { file: "catalog".into(), store: store.to_owned(), what: e.to_string() }
}

fn object_of(entry: &ManifestEntry, crc: u32) -> String {
    format!("blocks/{:016}-{crc:08x}.block", entry.id)
}

impl Tier {
    /// Reads an object as a whole, piece by piece; gives its length and CRC.
    pub(crate) fn read_all(
        &self,
        object: &str,
        bytes: u64,
        each: &mut dyn FnMut(&[u8]) -> Result<(), ReadError>,
    ) -> Result<u32, ReadError> {
        let (mut at, mut crc) = (0, Crc32c::default());
        while at < bytes {
            let range = at..(at + PIECE_BYTES).min(bytes);
            let (key, end) = (object.to_owned(), range.end);
            let piece = self.cache.io().wait(move |o| async move { o.get(&key, range).await });
            let piece = piece.map_err(|e| remote(&e))?;
            crc.update(&piece);
            each(&piece)?;
            at = end;
        }
        Ok(crc.value())
    }

    /// How long an object is; `None` where there is none of that name.
    fn len_of(&self, object: &str) -> Result<Option<u64>, ReadError> {
        let key = object.to_owned();
        match self.cache.io().wait(move |o: Arc<dyn Objects>| async move { o.head(&key).await }) {
            Ok(info) => Ok(Some(info.bytes)),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(remote(&e)),
        }
    }

    /// Is an object there, as long as it has to be and with the bytes it has to have?
    fn is_there(&self, object: &str, bytes: u64, crc: u32) -> Result<bool, ReadError> {
        Ok(self.len_of(object)? == Some(bytes) && self.read_all(object, bytes, &mut |_| Ok(()))? == crc)
    }

    fn upload(&self, disk: &dyn Disk, entry: &ManifestEntry, object: &str, crc: u32) -> Result<(), ReadError> {
        // A crash may have come between an upload and its note.
        if self.is_there(object, entry.bytes, crc)? {
            return Ok(());
        }
        let source = disk.open_read(&entry.file).map_err(io)?;
        let key = object.to_owned();
        let sent = self.cache.io().wait(move |o| async move { o.upload(&key, source).await });
        sent.map_err(|e| remote(&e))?;
        if self.is_there(object, entry.bytes, crc)? {
            return Ok(());
        }
        // What was sent is not what the manifest says: the file has rotted, or the store has other bytes.
        let what = format!("{object} in {} differs from {}", self.name(), entry.file);
        Err(ReadError::Corrupt { file: entry.file.clone(), offset: 0, what })
    }

    /// Publishes the catalog of a manifest, unless that is what the store has. Gives its generation where it is a new one.
    fn publish(&self, current: &Manifest) -> Result<Option<u64>, CatalogError> {
        match self.publish_next(current) {
            // Once: no number is tried before the one below it is known, so there is one such catalog at most.
            Err(CatalogError::Taken { found, .. }) if self.is_own(&found.manifest) => {
                let adopted = found.generation;
                self.adopt(*found);
                Ok(self.publish_next(current)?.or(Some(adopted)))
            }
            done => done,
        }
    }

    /// Was a catalog published by this process?
    pub(super) fn is_own(&self, catalog: &Manifest) -> bool {
        catalog.tier().is_some_and(|mark| mark.session == self.session)
    }

    /// Goes on from a catalog of our own whose answer got lost.
    pub(super) fn adopt(&self, found: Published) {
        let Published { generation, manifest } = found;
        tracing::info!(
            store = self.name(),
            catalog = generation,
            "the catalog was published, although the store did not confirm it"
        );
        *self.standing.lock() = Standing::Ours { generation, published: Some(bare(manifest)) };
    }

    fn publish_next(&self, current: &Manifest) -> Result<Option<u64>, CatalogError> {
        let (generation, published) = match &*self.standing.lock() {
            Standing::Ours { generation, published } => (*generation, published.clone()),
            Standing::Unknown | Standing::Fenced(_) => return Ok(None),
        };
        let Some(mark) = current.tier() else { return Ok(None) };
        let wanted = current.catalog();
        if published.as_ref().is_some_and(|p| p.entries == wanted.entries && p.tombstones == wanted.tombstones) {
            return Ok(None);
        }
        let next = generation + 1;
        let mut catalog = Manifest { generation: next, ..wanted.clone() };
        catalog.set_tier(&TierMark {
            writer: mark.writer,
            generation: next,
            session: self.session.clone(),
            folder_generation: current.generation,
            superseded: Vec::new(),
        });
        self.catalogs.publish(&catalog).inspect_err(|e| {
            if let CatalogError::Taken { store, found } = e
                && !self.is_own(&found.manifest)
            {
                let who = found.manifest.tier().unwrap_or_default().writer;
                self.fence(format!(
                    "{store} was taken over (writer {who}, catalog {}): nothing is moved there",
                    found.generation
                ));
            }
        })?;
        if generation == 0 {
            self.catalogs.prove_conditional(&catalog).inspect_err(|e| {
                // What failed otherwise is asked again with the next attempt to publish.
                if matches!(e, CatalogError::NotConditional(_)) {
                    self.fence(e.to_string());
                }
            })?;
        }
        *self.standing.lock() = Standing::Ours { generation: next, published: Some(bare(wanted)) };
        tracing::info!(store = self.name(), catalog = next, blocks = catalog.entries.len(), "published the catalog");
        if let Err(e) = self.catalogs.prune(next) {
            tracing::warn!(error = %e, "cannot remove old catalogs; retrying later");
        }
        Ok(Some(next))
    }

    /// Does the newest published catalog name an object?
    fn is_published(&self, object: &str) -> bool {
        match &*self.standing.lock() {
            Standing::Ours { published: Some(p), .. } => {
                p.entries.iter().any(|e| e.object().as_deref() == Some(object))
            }
            _ => false,
        }
    }
}

impl Inner {
    /// Is there anything to move, to publish or to sweep?
    pub(crate) fn tier_is_due(&self) -> bool {
        let Some(tier) = &self.tier else { return false };
        if tier.is_fenced() {
            return false;
        }
        let is_attached = *tier.standing.lock() != Standing::Unknown;
        let manifest = self.manifest.current();
        !is_attached
            || tier.progress.lock().agreed != manifest.generation
            || tier.sweep_is_due()
            || self.view.load().blocks.iter().any(|b| b.is_unreachable())
            || !self.to_upload(tier).is_empty()
            || !self.to_drop(tier).is_empty()
    }

    fn age_of(&self, block: &StoredBlock) -> i64 {
        self.options.clock.now_ms().saturating_sub(block.ages().max)
    }

    fn to_upload(&self, tier: &Tier) -> Vec<u64> {
        let merging = self.next_merge().unwrap_or_default();
        let unmergeable = self.unmergeable.lock().clone();
        let view = self.view.load();
        let due = |b: &&Arc<StoredBlock>| {
            b.entry.place() == Place::Local
                && self.age_of(b) >= tier.options.after_ms
                && b.damage().is_none()
                && !merging.contains(&b.entry.id)
                && !unmergeable.contains(&b.entry.id)
        };
        view.blocks.iter().filter(due).map(|b| b.entry.id).collect()
    }

    fn to_drop(&self, tier: &Tier) -> Vec<u64> {
        let view = self.view.load();
        let due = |b: &&Arc<StoredBlock>| {
            b.entry.place() == Place::Both
                && self.age_of(b) >= tier.options.drop_after_ms.max(tier.options.after_ms)
                && b.entry.object().is_some_and(|o| tier.is_published(&o))
        };
        view.blocks.iter().filter(due).map(|b| b.entry.id).collect()
    }

    fn stored(&self, id: u64) -> Option<Arc<StoredBlock>> {
        self.view.load().blocks.iter().find(|b| b.entry.id == id).cloned()
    }

    /// Does all that is due between the local disk and the store.
    pub(crate) fn tier_now(&self) -> Result<(), ReadError> {
        let Some(tier) = self.tier.clone() else { return Ok(()) };
        let attached = tier.attach(&self.manifest);
        // A store that says no to this may still be read; one that is away would be waited for once for every block.
        if !matches!(&attached, Err(CatalogError::Store(e)) if e.is_transient()) {
            self.reopen_unreachable();
        }
        attached.map_err(|e| catalog_error(&tier.name(), &e))?;
        if tier.is_fenced() || !self.manifest.is_certain() {
            tier.progress.lock().agreed = self.manifest.current().generation;
            return Ok(());
        }
        if self.manifest.current().tier().is_none() {
            let mark = TierMark { writer: new_name(), ..TierMark::default() };
            self.manifest.edit(|m| m.set_tier(&mark)).map_err(manifest_error)?;
        }
        let mut uploads = self.to_upload(&tier);
        // Those that failed before come last: whatever is wrong with them, they hold up no other.
        uploads.sort_by_key(|id| tier.progress.lock().failed.contains(id));
        let (mut failed, mut done, mut is_over) = (None, 0, false);
        let mut agreed;
        loop {
            for id in uploads.iter().skip(done).take(PUBLISH_EVERY) {
                self.background.progress(TaskKind::Tier, done as u64, uploads.len() as u64);
                if self.background.is_stopping() {
                    return Err(ReadError::stopped(BLOCK_DIR));
                }
                done += 1;
                let uploaded = self.upload_block(&tier, *id);
                if uploaded.is_ok() {
                    tier.progress.lock().failed.remove(id);
                    continue;
                }
                tier.progress.lock().failed.insert(*id);
                // A store that is away is waited for once; a block that has rotted is no reason to stop.
                is_over = !matches!(uploaded, Err(ReadError::Corrupt { .. }));
                failed = failed.or(uploaded.err());
                if is_over {
                    break;
                }
            }
            // What has come so far counts, and its local files can go: a first move of everything may take days.
            agreed = self.publish_catalog(&tier)?;
            for id in self.to_drop(&tier) {
                if self.background.is_stopping() {
                    return Err(ReadError::stopped(BLOCK_DIR));
                }
                // One that cannot go holds up neither the others nor the sweep.
                failed = failed.or(self.drop_local(&tier, id).err());
            }
            if is_over || done >= uploads.len() {
                break;
            }
        }
        if tier.sweep_is_due() {
            failed = failed.or(tier.sweep(&self.manifest).err());
        }
        tier.progress.lock().agreed = agreed;
        failed.map_or(Ok(()), Err)
    }

    fn upload_block(&self, tier: &Tier, id: u64) -> Result<(), ReadError> {
        let Some(stored) = self.stored(id) else { return Ok(()) };
        let entry = &stored.entry;
        let crc = match crc_of(entry) {
            Some(crc) => crc,
            None => quiver_persistence::disk::file_crc(&*self.disk, &entry.file).map_err(io)?.1,
        };
        let object = object_of(entry, crc);
        tier.upload(&*self.disk, entry, &object, crc).inspect_err(|e| stored.note(e))?;
        {
            let _publishing = self.publishing.lock();
            if self.manifest.current().entry(id).is_none() {
                // Merged or dropped meanwhile; the object is a stray now.
                return Ok(());
            }
            let edited = self.manifest.edit(|m| {
                m.entries.iter_mut().filter(|e| e.id == id).for_each(|e| e.set_place(Place::Both, &object));
            });
            let manifest = edited.map_err(manifest_error)?;
            if let Some(entry) = manifest.entry(id) {
                let entry = entry.clone();
                self.change_block(id, |b| b.with_entry(entry));
            }
        }
        let mut progress = tier.progress.lock();
        progress.uploads += 1;
        progress.upload_bytes += stored.entry.bytes;
        tracing::info!(
            block = stored.entry.file,
            object,
            bytes = stored.entry.bytes,
            "uploaded a block to the remote store"
        );
        Ok(())
    }

    fn change_block(&self, id: u64, change: impl FnOnce(&StoredBlock) -> StoredBlock) {
        self.change_view(|view| {
            if let Some(b) = view.blocks.iter_mut().find(|b| b.entry.id == id) {
                *b = Arc::new(change(b));
            }
        });
    }

    /// Publishes the catalog of the present manifest; gives the manifest's generation. Flushes do not wait for it.
    fn publish_catalog(&self, tier: &Tier) -> Result<u64, ReadError> {
        let current = self.manifest.current();
        let published = tier.publish(&current).map_err(|e| catalog_error(&tier.name(), &e))?;
        let Some(mark) = current.tier() else { return Ok(current.generation) };
        let mut settled = (*current).clone();
        settled.settle();
        let is_settled = settled.tier() != Some(mark);
        if published.is_some() || is_settled {
            let edited = self.manifest.edit(|m| {
                m.settle();
                if let (Some(generation), Some(mark)) = (published, m.tier()) {
                    m.set_tier(&TierMark { generation, ..mark });
                }
            });
            edited.map_err(manifest_error)?;
        }
        Ok(current.generation)
    }

    /// From now on a block is read from the store, and its local file goes.
    fn drop_local(&self, tier: &Tier, id: u64) -> Result<(), ReadError> {
        let Some(stored) = self.stored(id) else { return Ok(()) };
        let object = stored.entry.object().unwrap_or_default();
        // Compared when it was uploaded, which may be long ago: a bucket has rules of its own, and others who use it.
        match tier.len_of(&object)? {
            Some(bytes) if bytes == stored.entry.bytes => {}
            Some(bytes) => {
                let what = format!(
                    "{object} in {} has {bytes} bytes instead of {}: the local file stays",
                    tier.name(),
                    stored.entry.bytes
                );
                return Err(ReadError::Corrupt { file: stored.entry.file.clone(), offset: 0, what });
            }
            None => return self.take_back(tier, &stored, &object),
        }
        // A merge that reads the block removes its file by the place it knew.
        let _one_at_a_time = self.compacting.lock();
        let Some(stored) = self.stored(id) else { return Ok(()) };
        let mut entry = stored.entry.clone();
        let block = stored.block()?;
        let tail = quiver_storage::block::tail_file(block)?;
        write_tail(&*self.disk, &entry.tail_file(), &tail).map_err(io)?;
        entry.set_place(Place::Remote, &entry.object().unwrap_or_default());
        // A reader of it has to be open before the file goes.
        let (far, source) = tier.open_block(&*self.disk, &entry, Some(block))?;
        {
            let _publishing = self.publishing.lock();
            if self.manifest.current().entry(id).is_none_or(|e| e.place() != Place::Both) {
                return Ok(());
            }
            let object = entry.object().unwrap_or_default();
            let edited = self.manifest.edit(|m| {
                m.entries.iter_mut().filter(|e| e.id == id).for_each(|e| e.set_place(Place::Remote, &object));
            });
            edited.map_err(manifest_error)?;
            self.change_block(id, |b| b.moved(entry.clone(), Ok((far, source))));
        }
        let _nobody_links_it = self.linking.write();
        if let Err(e) = self.disk.remove(&entry.file) {
            tracing::warn!(error = %e, "cannot remove the local file of an uploaded block; the next start retries");
        }
        tracing::info!(
            block = entry.file,
            bytes = entry.bytes,
            "removed the local file of a block; it is now in the remote store only"
        );
        Ok(())
    }

    /// The object of a block is gone: the block is a local one again, so that it is uploaded again.
    fn take_back(&self, tier: &Tier, stored: &StoredBlock, object: &str) -> Result<(), ReadError> {
        let (id, file, store) = (stored.entry.id, &stored.entry.file, tier.name());
        // Where there is no local file to upload, the name of the object is all that is left of the block.
        if stored.remote().is_some() || self.disk.len(file).map_err(io)? != stored.entry.bytes {
            let what = format!("{object} is missing in {store}, and the local file is damaged");
            return Err(ReadError::Corrupt { file: file.clone(), offset: 0, what });
        }
        let _publishing = self.publishing.lock();
        if self.manifest.current().entry(id).is_none_or(|e| e.place() != Place::Both) {
            return Ok(());
        }
        let edited = self.manifest.edit(|m| {
            m.entries.iter_mut().filter(|e| e.id == id).for_each(|e| e.set_place(Place::Local, ""));
        });
        let manifest = edited.map_err(manifest_error)?;
        if let Some(entry) = manifest.entry(id) {
            let entry = entry.clone();
            self.change_block(id, |b| b.with_entry(entry));
        }
        tracing::warn!(block = file, object, store, "an object is missing in the remote store; uploading it again");
        Ok(())
    }

    /// Blocks whose tail could not be had when they were opened.
    fn reopen_unreachable(&self) {
        let Some(tier) = &self.tier else { return };
        let view = self.view.load_full();
        for stored in view.blocks.iter().filter(|b| b.is_unreachable()) {
            let opened = tier.open_block(&*self.disk, &stored.entry, None);
            if opened.is_ok() {
                let entry = stored.entry.clone();
                let _publishing = self.publishing.lock();
                self.change_block(stored.entry.id, |b| b.moved(entry, opened));
            }
        }
    }

    /// Copies the file of a block to a path, wherever it is.
    pub(crate) fn copy_block(&self, entry: &ManifestEntry, to: &str) -> Result<(), ReadError> {
        if entry.place() != Place::Remote {
            return quiver_persistence::disk::link_or_copy(&*self.disk, &entry.file, to).map_err(io);
        }
        let Some(tier) = &self.tier else {
            let what = "it is in a remote store, and no remote store is configured".to_owned();
            return Err(ReadError::Io { file: entry.file.clone(), what });
        };
        let object = entry.object().unwrap_or_default();
        let mut file = self.disk.create(to).map_err(io)?;
        let crc = tier.read_all(&object, entry.bytes, &mut |piece| file.write_all(piece).map_err(io))?;
        if crc_of(entry).is_some_and(|want| want != crc) {
            let what = format!("the checksum of {object} in {} differs from the manifest", tier.name());
            return Err(ReadError::Corrupt { file: entry.file.clone(), offset: 0, what });
        }
        file.sync_data().map_err(io)
    }
}
