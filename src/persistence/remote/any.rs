//! Any store of the `object_store` crate: for programs that embed Quiver and bring their own (Google, Azure, HTTP …).

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{Error, GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, WriteMultipart};

use crate::disk::DiskRead;

use super::{ObjectError, ObjectErrorKind, ObjectFuture, ObjectInfo, ObjectOp, Objects, check_key, check_len};

/// Larger objects go in parts of this size.
const PART_BYTES: usize = 8 << 20;

/// See the module.
#[derive(Debug)]
pub struct AnyObjects {
    inner: Arc<dyn ObjectStore>,
    prefix: Path,
    name: String,
}

impl AnyObjects {
    /// The objects of a store under a prefix (may be empty). `name` is what messages call it.
    pub fn new(inner: Arc<dyn ObjectStore>, prefix: &str, name: &str) -> Self {
        Self { inner, prefix: Path::from(prefix), name: name.to_owned() }
    }

    fn path(&self, op: ObjectOp, key: &str) -> Result<Path, ObjectError> {
        check_key(op, &self.name, key)?;
        Ok(key.split('/').fold(self.prefix.clone(), |path, part| path.join(part)))
    }

    fn error(&self, op: ObjectOp, key: &str) -> impl FnOnce(Error) -> ObjectError + '_ {
        let key = key.to_owned();
        move |e| {
            let kind = match &e {
                Error::NotFound { .. } => ObjectErrorKind::NotFound,
                Error::AlreadyExists { .. } | Error::Precondition { .. } => ObjectErrorKind::Exists,
                Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => ObjectErrorKind::Denied,
                Error::Generic { .. } | Error::JoinError { .. } => ObjectErrorKind::Unavailable,
                _ => ObjectErrorKind::Other,
            };
            ObjectError::new(op, &self.name, &key, kind, e)
        }
    }

    fn info(&self, meta: &object_store::ObjectMeta) -> ObjectInfo {
        let parts = meta.location.prefix_match(&self.prefix);
        let key = parts.map_or_else(
            || meta.location.to_string(),
            |parts| parts.map(|p| p.as_ref().to_owned()).collect::<Vec<_>>().join("/"),
        );
        ObjectInfo { key, bytes: meta.size, modified_ms: meta.last_modified.timestamp_millis() }
    }
}

impl Objects for AnyObjects {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn get<'a>(&'a self, key: &'a str, range: Range<u64>) -> ObjectFuture<'a, Bytes> {
        Box::pin(async move {
            let path = self.path(ObjectOp::Get, key)?;
            if range.start >= range.end {
                return check_len(&self.name, key, &range, Bytes::new());
            }
            let got = self.inner.get_range(&path, range.clone()).await.map_err(self.error(ObjectOp::Get, key))?;
            check_len(&self.name, key, &range, got)
        })
    }

    fn get_all<'a>(&'a self, key: &'a str) -> ObjectFuture<'a, Bytes> {
        Box::pin(async move {
            let path = self.path(ObjectOp::Get, key)?;
            let got = self.inner.get_opts(&path, GetOptions::default()).await;
            let got = got.map_err(self.error(ObjectOp::Get, key))?;
            got.bytes().await.map_err(self.error(ObjectOp::Get, key))
        })
    }

    fn head<'a>(&'a self, key: &'a str) -> ObjectFuture<'a, ObjectInfo> {
        Box::pin(async move {
            let path = self.path(ObjectOp::Head, key)?;
            Ok(self.info(&self.inner.head(&path).await.map_err(self.error(ObjectOp::Head, key))?))
        })
    }

    fn put_new<'a>(&'a self, key: &'a str, bytes: Bytes) -> ObjectFuture<'a, ()> {
        Box::pin(async move {
            let path = self.path(ObjectOp::Put, key)?;
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            let put = self.inner.put_opts(&path, bytes.into(), options).await;
            put.map(|_| ()).map_err(self.error(ObjectOp::Put, key))
        })
    }

    fn upload<'a>(&'a self, key: &'a str, source: Arc<dyn DiskRead>) -> ObjectFuture<'a, ()> {
        Box::pin(async move {
            let path = self.path(ObjectOp::Upload, key)?;
            let local = |e| ObjectError::new(ObjectOp::Upload, &self.name, key, ObjectErrorKind::Other, e);
            let len = source.len().map_err(local)?;
            if len <= PART_BYTES as u64 {
                let all = source.read_at(0, PART_BYTES).map_err(local)?;
                let put = self.inner.put(&path, Bytes::from(all).into()).await;
                return put.map(|_| ()).map_err(self.error(ObjectOp::Upload, key));
            }
            let upload = self.inner.put_multipart(&path).await.map_err(self.error(ObjectOp::Upload, key))?;
            let mut parts = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
            let mut at = 0;
            while at < len {
                parts.wait_for_capacity(2).await.map_err(self.error(ObjectOp::Upload, key))?;
                let piece = source.read_at(at, PART_BYTES).map_err(local)?;
                if piece.is_empty() {
                    break;
                }
                at += piece.len() as u64;
                parts.put(Bytes::from(piece));
            }
            // On an error it is taken back.
            parts.finish().await.map(|_| ()).map_err(self.error(ObjectOp::Upload, key))
        })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> ObjectFuture<'a, Vec<ObjectInfo>> {
        Box::pin(async move {
            use futures::TryStreamExt;
            let path = self.path(ObjectOp::List, prefix)?;
            let all: Vec<_> =
                self.inner.list(Some(&path)).try_collect().await.map_err(self.error(ObjectOp::List, prefix))?;
            let mut out: Vec<ObjectInfo> = all.iter().map(|m| self.info(m)).collect();
            out.sort_by(|a, b| a.key.cmp(&b.key));
            Ok(out)
        })
    }

    fn delete<'a>(&'a self, key: &'a str) -> ObjectFuture<'a, ()> {
        Box::pin(async move {
            let path = self.path(ObjectOp::Delete, key)?;
            match self.inner.delete(&path).await {
                Err(Error::NotFound { .. }) => Ok(()),
                other => other.map_err(self.error(ObjectOp::Delete, key)),
            }
        })
    }
}
