//! The list of queries that wait or run, and the way to stop one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use super::Class;
use crate::context::QueryContext;

/// One query that waits or runs.
#[derive(Clone, Debug)]
pub struct ActiveQuery {
    /// Its number since the start of the process.
    pub id: u64,
    /// Text.
    pub query: String,
    /// What kind of query it is.
    pub class: Class,
    /// False while it waits for its turn.
    pub is_running: bool,
    /// When it came, ms since 1970.
    pub started_ms: i64,
    /// Samples decoded so far.
    pub samples_read: u64,
    /// Most samples held at a time so far.
    pub samples_peak: u64,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct ActiveQueries {
    list: Arc<Mutex<BTreeMap<u64, Entry>>>,
    next: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Entry {
    started_ms: i64,
    class: Class,
    is_running: bool,
    ctx: Arc<QueryContext>,
}

/// Takes the query off the list when dropped.
pub struct Entered {
    list: Arc<Mutex<BTreeMap<u64, Entry>>>,
    id: u64,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.list.lock().remove(&self.id);
    }
}

impl Entered {
    /// It waits no longer.
    pub(super) fn runs(&self) {
        if let Some(e) = self.list.lock().get_mut(&self.id) {
            e.is_running = true;
        }
    }
}

impl ActiveQueries {
    pub(super) fn enter(&self, class: Class, ctx: &Arc<QueryContext>, is_running: bool) -> Entered {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let started_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
        let entry = Entry { started_ms, class, is_running, ctx: Arc::clone(ctx) };
        self.list.lock().insert(id, entry);
        Entered { list: Arc::clone(&self.list), id }
    }

    /// All, oldest first.
    pub fn list(&self) -> Vec<ActiveQuery> {
        let list = self.list.lock();
        list.iter()
            .map(|(id, e)| ActiveQuery {
                id: *id,
                query: e.ctx.query.clone(),
                class: e.class,
                is_running: e.is_running,
                started_ms: e.started_ms,
                samples_read: e.ctx.samples_read(),
                samples_peak: e.ctx.samples_peak(),
            })
            .collect()
    }

    /// Stops a query; `false` if the number is unknown.
    pub fn kill(&self, id: u64) -> bool {
        match self.list.lock().get(&id) {
            Some(e) => {
                e.ctx.cancel.cancel();
                true
            }
            None => false,
        }
    }
}
