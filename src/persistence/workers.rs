//! Threads for blocking work that need not be started in a moment in which the system gives none.

use std::io;
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

/// Builds a runtime whose pool for blocking work has a thread from the beginning and keeps those it got: where the system
/// starts no more of them (a limit on threads, no address space left), work waits for one of these.
pub fn build_with_workers(builder: &mut Builder) -> io::Result<Runtime> {
    /// More than a century.
    const KEPT: Duration = Duration::from_secs(u32::MAX as u64);
    // Where not even one starts, that is an error here; the pool itself would panic.
    let first = thread::Builder::new().spawn(|| ())?;
    let _ = first.join();
    let runtime = builder.thread_keep_alive(KEPT).build()?;
    drop(runtime.spawn_blocking(|| ()));
    Ok(runtime)
}
