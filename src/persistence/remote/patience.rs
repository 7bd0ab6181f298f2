//! Who waits for a store may stop wanting the answer: a query that was cancelled, or whose time is up.
//!
//! What a thread asks for on behalf of somebody is given up when that one is asked and says no. The request itself goes on:
//! others may wait for it too, and what it brings is kept.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{ObjectError, ObjectErrorKind, ObjectOp};

/// How often a waiting thread asks whether it still has to.
pub const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Says whether an answer is still wanted.
#[derive(Clone)]
pub struct Asker(Arc<dyn Fn() -> bool + Send + Sync>);

impl fmt::Debug for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Asker(still wants it: {})", (self.0)())
    }
}

thread_local! {
    static ASKER: RefCell<Option<Asker>> = const { RefCell::new(None) };
}

/// Puts the asker before back, however the work ends.
struct Before(Option<Asker>);

impl Drop for Before {
    fn drop(&mut self) {
        ASKER.set(self.0.take());
    }
}

impl Asker {
    /// One that wants an answer as long as `wants` says so. It is called every [`LOOK_EVERY`], from any thread.
    pub fn new(wants: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(wants))
    }

    /// Does work on this thread on behalf of the asker.
    pub fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        let _before = Before(ASKER.replace(Some(self.clone())));
        work()
    }
}

/// Does whoever this thread works for want its answer? Where it works for nobody in particular it does.
pub fn is_wanted() -> bool {
    let asker = ASKER.with_borrow(Clone::clone);
    asker.is_none_or(|a| (a.0)())
}

/// The error of a wait that was given up.
pub fn given_up(store: &str, key: &str) -> ObjectError {
    ObjectError::new(
        ObjectOp::Get,
        store,
        key,
        ObjectErrorKind::Unavailable,
        "canceled: the query that needed it has ended",
    )
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn work_is_wanted_until_who_asked_says_no() {
        assert!(is_wanted());
        let flag = Arc::new(AtomicBool::new(true));
        let seen = Arc::clone(&flag);
        let asker = Asker::new(move || seen.load(Ordering::Relaxed));
        let patient = Asker::new(|| true);
        asker.during(|| {
            assert!(is_wanted());
            flag.store(false, Ordering::Relaxed);
            assert!(!is_wanted());
            patient.during(|| assert!(is_wanted()));
            assert!(!is_wanted());
        });
        assert!(is_wanted());
        let failing = std::panic::AssertUnwindSafe(|| asker.during(|| panic!("on purpose")));
        assert!(std::panic::catch_unwind(failing).is_err());
        assert!(is_wanted(), "a panic leaves nobody behind");
    }
}
