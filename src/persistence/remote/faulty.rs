//! A store that fails as told, for tests: errors, answers that never come or come late, lists that are behind.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::disk::DiskRead;

use super::{ObjectError, ObjectErrorKind, ObjectFuture, ObjectInfo, ObjectOp, Objects};

/// What happens to an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectFault {
    /// It fails and nothing was done.
    Fail(ObjectErrorKind),
    /// It is done and its answer gets lost.
    Lose,
    /// It never answers.
    Stall,
    /// One bit of what is read is another one.
    Flip,
}

#[derive(Debug)]
struct Rule {
    op: ObjectOp,
    prefix: String,
    fault: ObjectFault,
    times: u64,
}

/// See the module.
#[derive(Debug)]
pub struct FaultyObjects {
    inner: Arc<dyn Objects>,
    rules: Mutex<Vec<Rule>>,
    hidden: Mutex<Option<Vec<ObjectInfo>>>,
    is_unconditional: AtomicBool,
    latency_us: AtomicU64,
    /// Operations after which everything fails, as after the loss of the process.
    halt_after: AtomicU64,
    ops: AtomicU64,
    gets: Mutex<Vec<(String, Range<u64>)>>,
}

impl FaultyObjects {
    /// Wraps a store.
    pub fn new(inner: Arc<dyn Objects>) -> Self {
        Self {
            inner,
            rules: Mutex::default(),
            hidden: Mutex::default(),
            is_unconditional: AtomicBool::new(false),
            latency_us: AtomicU64::new(0),
            halt_after: AtomicU64::new(u64::MAX),
            ops: AtomicU64::new(0),
            gets: Mutex::default(),
        }
    }

    /// The next `times` operations of a kind on names with a prefix go wrong.
    pub fn fail(&self, op: ObjectOp, prefix: &str, fault: ObjectFault, times: u64) {
        self.rules.lock().push(Rule { op, prefix: prefix.to_owned(), fault, times });
    }

    /// Nothing goes wrong any more.
    pub fn heal(&self) {
        self.rules.lock().clear();
        *self.hidden.lock() = None;
        self.is_unconditional.store(false, Ordering::Relaxed);
        self.halt_after.store(u64::MAX, Ordering::Relaxed);
    }

    /// Every operation takes so long.
    pub fn set_latency(&self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.latency_us.store(us, Ordering::Relaxed);
    }

    /// Lists show what there is now, whatever comes.
    pub async fn freeze_lists(&self) -> Result<(), ObjectError> {
        let mut all = self.inner.list("catalog").await?;
        all.extend(self.inner.list("blocks").await?);
        *self.hidden.lock() = Some(all);
        Ok(())
    }

    /// Puts an object in the place of another one although it is told not to, as some services did.
    pub fn be_unconditional(&self) {
        self.is_unconditional.store(true, Ordering::Relaxed);
    }

    /// After so many operations more nothing is done any more.
    pub fn halt_after(&self, ops: u64) {
        self.halt_after.store(self.ops() + ops, Ordering::Relaxed);
    }

    /// Operations so far.
    pub fn ops(&self) -> u64 {
        self.ops.load(Ordering::Relaxed)
    }

    /// Ranges read since the last call.
    pub fn take_gets(&self) -> Vec<(String, Range<u64>)> {
        std::mem::take(&mut *self.gets.lock())
    }

    fn rule(&self, op: ObjectOp, key: &str) -> Option<ObjectFault> {
        let mut rules = self.rules.lock();
        let rule = rules.iter_mut().find(|r| r.op == op && r.times > 0 && key.starts_with(&r.prefix))?;
        rule.times -= 1;
        Some(rule.fault)
    }

    async fn run<'a, T>(
        &'a self,
        op: ObjectOp,
        key: &'a str,
        work: ObjectFuture<'a, T>,
    ) -> Result<(T, bool), ObjectError> {
        let error = |kind| ObjectError::new(op, &self.inner.name(), key, kind, "the store was told to fail");
        if self.ops.fetch_add(1, Ordering::Relaxed) >= self.halt_after.load(Ordering::Relaxed) {
            return Err(error(ObjectErrorKind::Other));
        }
        let latency = self.latency_us.load(Ordering::Relaxed);
        if latency > 0 {
            tokio::time::sleep(Duration::from_micros(latency)).await;
        }
        match self.rule(op, key) {
            None => Ok((work.await?, false)),
            Some(ObjectFault::Fail(kind)) => Err(error(kind)),
            Some(ObjectFault::Lose) => {
                work.await?;
                Err(error(ObjectErrorKind::Unavailable))
            }
            Some(ObjectFault::Stall) => std::future::pending().await,
            Some(ObjectFault::Flip) => Ok((work.await?, true)),
        }
    }

    async fn read<'a>(&'a self, key: &'a str, work: ObjectFuture<'a, Bytes>) -> Result<Bytes, ObjectError> {
        let (bytes, flip) = self.run(ObjectOp::Get, key, work).await?;
        if !flip || bytes.is_empty() {
            return Ok(bytes);
        }
        let mut bad = bytes.to_vec();
        let middle = bad.len() / 2;
        bad[middle] ^= 0x10;
        Ok(bad.into())
    }
}

impl Objects for FaultyObjects {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn get<'a>(&'a self, key: &'a str, range: Range<u64>) -> ObjectFuture<'a, Bytes> {
        self.gets.lock().push((key.to_owned(), range.clone()));
        Box::pin(self.read(key, self.inner.get(key, range)))
    }

    fn get_all<'a>(&'a self, key: &'a str) -> ObjectFuture<'a, Bytes> {
        Box::pin(self.read(key, self.inner.get_all(key)))
    }

    fn head<'a>(&'a self, key: &'a str) -> ObjectFuture<'a, ObjectInfo> {
        Box::pin(async move { self.run(ObjectOp::Head, key, self.inner.head(key)).await.map(|(done, _)| done) })
    }

    fn put_new<'a>(&'a self, key: &'a str, bytes: Bytes) -> ObjectFuture<'a, ()> {
        Box::pin(async move {
            if self.is_unconditional.load(Ordering::Relaxed) {
                self.inner.delete(key).await?;
            }
            self.run(ObjectOp::Put, key, self.inner.put_new(key, bytes)).await.map(|(done, _)| done)
        })
    }

    fn upload<'a>(&'a self, key: &'a str, source: Arc<dyn DiskRead>) -> ObjectFuture<'a, ()> {
        Box::pin(
            async move { self.run(ObjectOp::Upload, key, self.inner.upload(key, source)).await.map(|(done, _)| done) },
        )
    }

    fn list<'a>(&'a self, prefix: &'a str) -> ObjectFuture<'a, Vec<ObjectInfo>> {
        Box::pin(async move {
            let all = self.run(ObjectOp::List, prefix, self.inner.list(prefix)).await?.0;
            let hidden = self.hidden.lock().clone();
            Ok(hidden.map_or(all, |h| h.into_iter().filter(|i| i.key.starts_with(prefix)).collect()))
        })
    }

    fn delete<'a>(&'a self, key: &'a str) -> ObjectFuture<'a, ()> {
        Box::pin(async move { self.run(ObjectOp::Delete, key, self.inner.delete(key)).await.map(|(done, _)| done) })
    }
}
