//! Objects as files of a [`Disk`]: `file://` tiers, and stores in memory for tests, power loss included.
//!
//! An object is written to `NAME.part-N`, synced and renamed (or linked, where there must be none of that name), then its
//! folder is synced: what a put returned for is durable, which the `file` store of `object_store` does not promise. What a
//! crash leaves of one is listed like an object that nothing names.
//!
//! Every operation runs on a thread that may block: a folder that hangs, as a network mount may, holds up neither the timer
//! that gives it up nor what others ask for.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::disk::{Disk, DiskError, DiskErrorKind, DiskRead, join, parent};

use super::{ObjectError, ObjectErrorKind, ObjectFuture, ObjectInfo, ObjectOp, Objects, check_key, check_len};

/// What an object being written is called.
const PART_MARK: &str = ".part-";
/// Bytes copied at a time.
const PIECE_BYTES: usize = 1 << 20;

/// See the module.
#[derive(Debug)]
pub struct FolderObjects {
    folder: Arc<Folder>,
}

impl FolderObjects {
    /// The objects of a disk.
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        let name = format!("file://{}", disk.name());
        let number = AtomicU64::new(u64::from(std::process::id()) << 32);
        Self { folder: Arc::new(Folder { disk, name, number }) }
    }

    async fn run<T: Send + 'static>(
        &self,
        op: ObjectOp,
        key: &str,
        work: impl FnOnce(&Folder, &str) -> Result<T, ObjectError> + Send + 'static,
    ) -> Result<T, ObjectError> {
        let (folder, own_key) = (Arc::clone(&self.folder), key.to_owned());
        let done = tokio::task::spawn_blocking(move || work(&folder, &own_key)).await;
        done.unwrap_or_else(|e| Err(ObjectError::new(op, &self.folder.name, key, ObjectErrorKind::Other, e)))
    }
}

/// What the threads share.
#[derive(Debug)]
struct Folder {
    disk: Arc<dyn Disk>,
    name: String,
    number: AtomicU64,
}

impl Folder {
    fn error(&self, op: ObjectOp, key: &str, e: &DiskError) -> ObjectError {
        let kind = match e.kind {
            DiskErrorKind::NotFound => ObjectErrorKind::NotFound,
            DiskErrorKind::Denied => ObjectErrorKind::Denied,
            DiskErrorKind::Full | DiskErrorKind::Locked(_) => ObjectErrorKind::Unavailable,
            DiskErrorKind::Invalid | DiskErrorKind::Media | DiskErrorKind::Io => ObjectErrorKind::Other,
        };
        ObjectError::new(op, &self.name, key, kind, e)
    }

    fn write(
        &self,
        key: &str,
        op: ObjectOp,
        only_new: bool,
        fill: impl FnOnce(&mut dyn crate::disk::DiskFile) -> Result<(), DiskError>,
    ) -> Result<(), ObjectError> {
        check_key(op, &self.name, key)?;
        let disk = &*self.disk;
        let part = format!("{key}{PART_MARK}{}", self.number.fetch_add(1, Ordering::Relaxed));
        let written = (|| {
            let dir = parent(key);
            if !dir.is_empty() && !disk.exists(dir)? {
                disk.create_dir(dir)?;
            }
            let mut file = disk.create(&part)?;
            fill(&mut *file)?;
            file.sync_data()?;
            if only_new {
                // A second name fails where there is one already, also between processes.
                disk.link(&part, key)?;
                disk.remove(&part)?;
            } else {
                disk.rename(&part, key)?;
            }
            disk.sync_dir(dir)
        })();
        written.map_err(|e: DiskError| {
            let _ = disk.remove(&part);
            if only_new && e.op == crate::disk::DiskOp::Link && disk.exists(key).unwrap_or(false) {
                return ObjectError::new(op, &self.name, key, ObjectErrorKind::Exists, "it already exists");
            }
            self.error(op, key, &e)
        })
    }

    fn read(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, ObjectError> {
        check_key(ObjectOp::Get, &self.name, key)?;
        let read = match &range {
            None => self.disk.read(key),
            Some(r) => {
                let len = usize::try_from(r.end.saturating_sub(r.start)).unwrap_or(usize::MAX);
                self.disk.read_at(key, r.start, len)
            }
        };
        let bytes = Bytes::from(read.map_err(|e| self.error(ObjectOp::Get, key, &e))?);
        match &range {
            None => Ok(bytes),
            Some(r) => check_len(&self.name, key, r, bytes),
        }
    }

    fn collect(&self, dir: &str, out: &mut Vec<ObjectInfo>) -> Result<(), DiskError> {
        let names = match self.disk.list(dir) {
            Err(e) if e.is_not_found() => return Ok(()),
            names => names?,
        };
        for name in names.iter().filter(|n| *n != crate::disk::LOCK_FILE) {
            let key = join(dir, name);
            match self.disk.len(&key) {
                Ok(bytes) => out.push(ObjectInfo { key, bytes, modified_ms: 0 }),
                Err(e) if e.is_not_found() => {}
                Err(e) => return Err(e),
            }
        }
        for name in self.disk.list_dirs(dir)? {
            self.collect(&join(dir, &name), out)?;
        }
        Ok(())
    }
}

impl Objects for FolderObjects {
    fn name(&self) -> String {
        self.folder.name.clone()
    }

    fn get<'a>(&'a self, key: &'a str, range: Range<u64>) -> ObjectFuture<'a, Bytes> {
        Box::pin(self.run(ObjectOp::Get, key, move |folder, key| folder.read(key, Some(range))))
    }

    fn get_all<'a>(&'a self, key: &'a str) -> ObjectFuture<'a, Bytes> {
        Box::pin(self.run(ObjectOp::Get, key, |folder, key| folder.read(key, None)))
    }

    fn head<'a>(&'a self, key: &'a str) -> ObjectFuture<'a, ObjectInfo> {
        Box::pin(self.run(ObjectOp::Head, key, |folder, key| {
            check_key(ObjectOp::Head, &folder.name, key)?;
            let bytes = folder.disk.len(key).map_err(|e| folder.error(ObjectOp::Head, key, &e))?;
            Ok(ObjectInfo { key: key.to_owned(), bytes, modified_ms: 0 })
        }))
    }

    fn put_new<'a>(&'a self, key: &'a str, bytes: Bytes) -> ObjectFuture<'a, ()> {
        Box::pin(self.run(ObjectOp::Put, key, move |folder, key| {
            folder.write(key, ObjectOp::Put, true, |file| file.write_all(&bytes))
        }))
    }

    fn upload<'a>(&'a self, key: &'a str, source: Arc<dyn DiskRead>) -> ObjectFuture<'a, ()> {
        Box::pin(self.run(ObjectOp::Upload, key, move |folder, key| {
            folder.write(key, ObjectOp::Upload, false, |file| {
                let (len, mut at) = (source.len()?, 0);
                while at < len {
                    let piece = source.read_at(at, PIECE_BYTES)?;
                    if piece.is_empty() {
                        break;
                    }
                    file.write_all(&piece)?;
                    at += piece.len() as u64;
                }
                Ok(())
            })
        }))
    }

    fn list<'a>(&'a self, prefix: &'a str) -> ObjectFuture<'a, Vec<ObjectInfo>> {
        Box::pin(self.run(ObjectOp::List, prefix, |folder, prefix| {
            let mut out = Vec::new();
            let listed = folder.collect(prefix, &mut out);
            listed.map_err(|e| folder.error(ObjectOp::List, prefix, &e))?;
            out.sort_by(|a, b| a.key.cmp(&b.key));
            Ok(out)
        }))
    }

    fn delete<'a>(&'a self, key: &'a str) -> ObjectFuture<'a, ()> {
        Box::pin(self.run(ObjectOp::Delete, key, |folder, key| {
            check_key(ObjectOp::Delete, &folder.name, key)?;
            match folder.disk.remove(key).and_then(|()| folder.disk.sync_dir(parent(key))) {
                Err(e) if e.is_not_found() => Ok(()),
                other => other.map_err(|e| folder.error(ObjectOp::Delete, key, &e)),
            }
        }))
    }
}
