//! Objects in a remote store, as a trait; what stands behind it, and who may change what is published there.
//!
//! ```text
//! Objects ─┬─ S3Objects      any S3-compatible service: own small client over HTTP/1.1, requests signed, TLS 1.3
//!          ├─ FolderObjects  a folder of any Disk: file://…, memory in tests; synced, so it survives a power loss
//!          ├─ AnyObjects     whatever implements object_store::ObjectStore, for programs that embed the library
//!          ├─ Retrying       wraps another: deadlines, backoff, one typed error at the end
//!          └─ FaultyObjects  wraps another: failing, stalling, slow, lists that are behind
//! RemoteIo ── Objects for threads: a small runtime of its own, so that a stalled store never holds up another one's
//! Catalogs ── generation-numbered objects made only where there is none: two writers cannot both publish
//! ```
//!
//! Invariants
//! 1. What [`Objects::get`] gives out is as long as was asked for, or it is an error.
//! 2. [`Objects::put_new`] makes an object or fails with [`ObjectErrorKind::Exists`]; of two at once one fails.
//! 3. Errors name store and key; nothing here prints a secret.

mod any;
mod catalogs;
mod error;
mod faulty;
mod folder;
mod io;
mod patience;
mod retry;
pub mod s3;
#[cfg(test)]
mod tests;
mod url;

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

use crate::disk::DiskRead;

pub use any::AnyObjects;
pub use catalogs::{CATALOG_DIR, CatalogError, Catalogs, Published};
pub use error::{ObjectError, ObjectErrorKind, ObjectOp};
pub use faulty::{FaultyObjects, ObjectFault};
pub use folder::FolderObjects;
pub use io::RemoteIo;
pub use patience::{Asker, LOOK_EVERY, given_up, is_wanted};
pub use retry::{RetryPolicy, Retrying};
pub use url::{S3Settings, Secret, TierTarget, TierUrl, open_target};

/// What an operation of a store comes to.
pub type ObjectFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, ObjectError>> + Send + 'a>>;

/// An object as a list or a look shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its name, relative to the store's prefix.
    pub key: String,
    /// Its length.
    pub bytes: u64,
    /// When it was last written, ms since 1970; 0 where the store does not tell.
    pub modified_ms: i64,
}

/// Objects under one prefix of one store. Names are parts separated by `/`.
pub trait Objects: Send + Sync + fmt::Debug {
    /// What to call the store in messages: its URL, without secrets.
    fn name(&self) -> String;
    /// Exactly the bytes of a range.
    fn get<'a>(&'a self, key: &'a str, range: Range<u64>) -> ObjectFuture<'a, Bytes>;
    /// A whole small object.
    fn get_all<'a>(&'a self, key: &'a str) -> ObjectFuture<'a, Bytes>;
    /// Length and age.
    fn head<'a>(&'a self, key: &'a str) -> ObjectFuture<'a, ObjectInfo>;
    /// Makes an object where there is none of that name, whole or not at all.
    fn put_new<'a>(&'a self, key: &'a str, bytes: Bytes) -> ObjectFuture<'a, ()>;
    /// Makes or replaces an object out of a file, whole or not at all; in parts where it is large.
    fn upload<'a>(&'a self, key: &'a str, source: Arc<dyn DiskRead>) -> ObjectFuture<'a, ()>;
    /// All objects whose name begins with `prefix` (whole parts). May be behind what was written.
    fn list<'a>(&'a self, prefix: &'a str) -> ObjectFuture<'a, Vec<ObjectInfo>>;
    /// Removes an object; one that is not there is fine.
    fn delete<'a>(&'a self, key: &'a str) -> ObjectFuture<'a, ()>;
}

impl<T: Objects + ?Sized> Objects for Arc<T> {
    fn name(&self) -> String {
        (**self).name()
    }
    fn get<'a>(&'a self, key: &'a str, range: Range<u64>) -> ObjectFuture<'a, Bytes> {
        (**self).get(key, range)
    }
    fn get_all<'a>(&'a self, key: &'a str) -> ObjectFuture<'a, Bytes> {
        (**self).get_all(key)
    }
    fn head<'a>(&'a self, key: &'a str) -> ObjectFuture<'a, ObjectInfo> {
        (**self).head(key)
    }
    fn put_new<'a>(&'a self, key: &'a str, bytes: Bytes) -> ObjectFuture<'a, ()> {
        (**self).put_new(key, bytes)
    }
    fn upload<'a>(&'a self, key: &'a str, source: Arc<dyn DiskRead>) -> ObjectFuture<'a, ()> {
        (**self).upload(key, source)
    }
    fn list<'a>(&'a self, prefix: &'a str) -> ObjectFuture<'a, Vec<ObjectInfo>> {
        (**self).list(prefix)
    }
    fn delete<'a>(&'a self, key: &'a str) -> ObjectFuture<'a, ()> {
        (**self).delete(key)
    }
}

/// Refuses names that could leave the prefix.
fn check_key(op: ObjectOp, store: &str, key: &str) -> Result<(), ObjectError> {
    let is_bad = key.is_empty()
        || key.contains(['\0', '\\'])
        || key.split('/').any(|part| part.is_empty() || part == "." || part == "..");
    if is_bad {
        return Err(ObjectError::new(op, store, key, ObjectErrorKind::Other, "not a plain object name"));
    }
    Ok(())
}

/// A range of an object that came shorter or longer than asked for.
fn check_len(store: &str, key: &str, range: &Range<u64>, bytes: Bytes) -> Result<Bytes, ObjectError> {
    let want = range.end.saturating_sub(range.start);
    if bytes.len() as u64 == want {
        return Ok(bytes);
    }
    let text = format!("{} bytes came for {want} from {}", bytes.len(), range.start);
    Err(ObjectError::new(ObjectOp::Get, store, key, ObjectErrorKind::Short, text))
}
