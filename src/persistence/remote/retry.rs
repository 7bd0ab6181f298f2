//! Another try, and an end to trying: a limit for every attempt, growing pauses, one deadline over all.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::disk::DiskRead;

use super::{ObjectError, ObjectErrorKind, ObjectFuture, ObjectInfo, ObjectOp, Objects};

/// How long and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// One attempt may take this long, and an eighth more for every MiB it moves.
    pub attempt: Duration,
    /// All attempts of a read together.
    pub deadline: Duration,
    /// The first pause; each later one is twice as long.
    pub pause: Duration,
    /// The longest pause.
    pub pause_max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempt: Duration::from_secs(8),
            deadline: Duration::from_secs(20),
            pause: Duration::from_millis(50),
            pause_max: Duration::from_secs(2),
        }
    }
}

/// Another store, with patience and an end to it.
#[derive(Debug)]
pub struct Retrying {
    inner: Arc<dyn Objects>,
    policy: RetryPolicy,
    retries: AtomicU64,
    jitter: AtomicU64,
}

impl Retrying {
    /// Wraps a store.
    pub fn new(inner: Arc<dyn Objects>, policy: RetryPolicy) -> Self {
        Self { inner, policy, retries: AtomicU64::new(0), jitter: AtomicU64::new(0x9e37_79b9) }
    }

    /// Attempts beyond the first of each operation.
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    /// Between half of `pause` and all of it: those who failed together do not come back together.
    fn jittered(&self, pause: Duration) -> Duration {
        let mut x = self.jitter.load(Ordering::Relaxed);
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.jitter.store(x, Ordering::Relaxed);
        pause.mul_f64(0.5 + (x >> 11) as f64 / (1u64 << 54) as f64)
    }

    async fn run<'a, T>(
        &'a self,
        op: ObjectOp,
        key: &'a str,
        bytes: u64,
        attempt: impl Fn() -> ObjectFuture<'a, T>,
    ) -> Result<T, ObjectError> {
        // At the default a second for every MiB.
        let extra = self.policy.attempt.saturating_mul(u32::try_from(bytes >> 20).unwrap_or(u32::MAX)) / 8;
        let (began, deadline) = (Instant::now(), self.policy.deadline + extra);
        let mut pause = self.policy.pause;
        let mut said: Option<ObjectError> = None;
        loop {
            let left = deadline.saturating_sub(began.elapsed());
            let whole = self.policy.attempt + extra;
            let limit = whole.min(left);
            let e = match (tokio::time::timeout(limit, attempt()).await, said.take()) {
                (Ok(Err(e)), _) if e.is_transient() => e,
                (Ok(done), _) => return done,
                // The last attempt had no time of its own left: what the store said before tells more.
                (Err(_), Some(before)) if limit < whole => return Err(before),
                (Err(_), _) => {
                    let text = format!("no answer in {:.1} s", limit.as_secs_f64());
                    ObjectError::new(op, &self.inner.name(), key, ObjectErrorKind::TimedOut, text)
                }
            };
            let wait = self.jittered(pause);
            if began.elapsed() + wait >= deadline {
                return Err(e);
            }
            tracing::debug!(error = %e, ?wait, "retrying a request to the object store");
            self.retries.fetch_add(1, Ordering::Relaxed);
            said = Some(e);
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(self.policy.pause_max);
        }
    }
}

impl Objects for Retrying {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn get<'a>(&'a self, key: &'a str, range: Range<u64>) -> ObjectFuture<'a, Bytes> {
        let len = range.end.saturating_sub(range.start);
        Box::pin(async move { self.run(ObjectOp::Get, key, len, || self.inner.get(key, range.clone())).await })
    }

    fn get_all<'a>(&'a self, key: &'a str) -> ObjectFuture<'a, Bytes> {
        Box::pin(async move { self.run(ObjectOp::Get, key, 8 << 20, || self.inner.get_all(key)).await })
    }

    fn head<'a>(&'a self, key: &'a str) -> ObjectFuture<'a, ObjectInfo> {
        Box::pin(async move { self.run(ObjectOp::Head, key, 0, || self.inner.head(key)).await })
    }

    fn put_new<'a>(&'a self, key: &'a str, bytes: Bytes) -> ObjectFuture<'a, ()> {
        // An answer that got lost makes the next attempt fail with `Exists`: the caller looks whose object it is.
        let len = bytes.len() as u64;
        Box::pin(async move { self.run(ObjectOp::Put, key, len, || self.inner.put_new(key, bytes.clone())).await })
    }

    fn upload<'a>(&'a self, key: &'a str, source: Arc<dyn DiskRead>) -> ObjectFuture<'a, ()> {
        Box::pin(async move {
            let len = source
                .len()
                .map_err(|e| ObjectError::new(ObjectOp::Upload, &self.inner.name(), key, ObjectErrorKind::Other, e))?;
            self.run(ObjectOp::Upload, key, len, || self.inner.upload(key, Arc::clone(&source))).await
        })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> ObjectFuture<'a, Vec<ObjectInfo>> {
        Box::pin(async move { self.run(ObjectOp::List, prefix, 4 << 20, || self.inner.list(prefix)).await })
    }

    fn delete<'a>(&'a self, key: &'a str) -> ObjectFuture<'a, ()> {
        Box::pin(async move { self.run(ObjectOp::Delete, key, 0, || self.inner.delete(key)).await })
    }
}
