//! A remote store for threads: its futures run on two threads of their own, callers wait or do not.
//!
//! Waiting blocks the calling thread, so it is for threads that may block: background work, and queries, which run on
//! threads of their own.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};

use bytes::Bytes;
use tokio::runtime::Runtime;

use super::{LOOK_EVERY, ObjectError, ObjectErrorKind, ObjectOp, Objects, given_up, is_wanted};

/// See the module.
#[derive(Debug)]
pub struct RemoteIo {
    objects: Arc<dyn Objects>,
    runtime: Option<Runtime>,
    gets: AtomicU64,
    get_bytes: AtomicU64,
    errors: AtomicU64,
}

/// Threads that may block. A folder that hangs keeps one for every attempt that was given up.
const BLOCKING_THREADS: usize = 64;

impl RemoteIo {
    /// Starts the threads.
    pub fn new(objects: Arc<dyn Objects>) -> std::io::Result<Self> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).max_blocking_threads(BLOCKING_THREADS);
        let runtime = builder.thread_name("remote-io").enable_all().build()?;
        let zero = || AtomicU64::new(0);
        Ok(Self { objects, runtime: Some(runtime), gets: zero(), get_bytes: zero(), errors: zero() })
    }

    /// The store.
    pub fn objects(&self) -> &Arc<dyn Objects> {
        &self.objects
    }

    /// What to call the store in messages.
    pub fn name(&self) -> String {
        self.objects.name()
    }

    /// Reads done, their bytes, operations that failed.
    pub fn figures(&self) -> (u64, u64, u64) {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        (get(&self.gets), get(&self.get_bytes), get(&self.errors))
    }

    /// Runs something in the background.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = &self.runtime {
            runtime.spawn(work);
        }
    }

    /// Reads a range in the background and hands over what came.
    pub fn get_then(
        self: &Arc<Self>,
        key: Arc<str>,
        range: Range<u64>,
        then: impl FnOnce(Result<Bytes, ObjectError>) + Send + 'static,
    ) {
        let io = Arc::clone(self);
        self.spawn(async move {
            let got = io.objects.get(&key, range).await;
            io.count(&got);
            // What follows may write to the disk; it must not end with this task.
            then(got);
            // The last owner may be this thread, which must not wait for itself: `Drop` does not wait.
            drop(io);
        });
    }

    fn count(&self, got: &Result<Bytes, ObjectError>) {
        match got {
            Ok(bytes) => {
                self.gets.fetch_add(1, Ordering::Relaxed);
                self.get_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            }
            Err(_) => drop(self.errors.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// Runs an operation and waits for it, as long as it is wanted ([`Asker`](super::Asker)).
    pub fn wait<T: Send + 'static, F>(&self, work: impl FnOnce(Arc<dyn Objects>) -> F) -> Result<T, ObjectError>
    where
        F: Future<Output = Result<T, ObjectError>> + Send + 'static,
    {
        let (sender, receiver) = mpsc::sync_channel(1);
        let work = work(Arc::clone(&self.objects));
        self.spawn(async move {
            // Nobody may be waiting any more.
            let _ = sender.send(work.await);
        });
        let done = loop {
            match receiver.recv_timeout(LOOK_EVERY) {
                Ok(done) => break done,
                Err(RecvTimeoutError::Timeout) if is_wanted() => {}
                Err(RecvTimeoutError::Timeout) => return Err(given_up(&self.name(), "")),
                Err(RecvTimeoutError::Disconnected) => {
                    let text = "the store's threads have ended";
                    break Err(ObjectError::new(ObjectOp::Get, &self.name(), "", ObjectErrorKind::Other, text));
                }
            }
        };
        if done.is_err() {
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
        done
    }
}

impl Drop for RemoteIo {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
