//! Reading ahead of dashboards: what they will ask for next is fetched and decoded before they do.
//!
//! ```text
//! select ─▶ seen(selector, range, now)        tick, or a new block ─▶ expected ─▶ select, fetch, decode into L1
//! ```
//!
//! A window that moves on by seconds needs nothing new of old blocks but for the chunk that its edge enters. What makes
//! refreshes slow is a new block: after a flush, a merge or a move nothing of it is decoded. So expectations are carried out
//! once a refresh, and for every new block before anybody sees it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use quiver_cache::predict::{PatternKey, PredictFigures, Predictor, SelectorKey};
use quiver_model::{MatchOp, Matcher};

use crate::catalog::StoredBlock;
use crate::snapshot::{StoreSnapshot, View};
use crate::store::Inner;
use crate::{Need, ReadError, TimeRange};

/// Compiled size of a matcher's expression that was accepted once.
const REGEX_BYTES_MAX: usize = 64 << 20;
/// Series read ahead for one selector at most: more is no panel.
const SERIES_MAX: usize = 10_000;
/// What is expected so soon is prepared now, ms.
const AHEAD_MS: i64 = 2_000;

/// A selector, to be asked for again: operator, label, value.
type Selector = Arc<[(MatchOp, Arc<str>, Arc<str>)]>;

/// What reading ahead did, and what it cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ForesightFigures {
    /// It is switched on.
    pub is_on: bool,
    /// What was learnt.
    pub learnt: PredictFigures,
    /// Selectors that were read ahead.
    pub runs: u64,
    /// Columns decoded by it.
    pub columns: u64,
    /// Columns decoded by it and used later.
    pub used: u64,
    /// Their bytes, decoded.
    pub bytes: u64,
    /// Bytes that it began to fetch from the remote store.
    pub fetched_bytes: u64,
    /// Time it took, µs.
    pub took_us: u64,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Foresight {
    predictor: Mutex<Predictor<Selector>>,
    runs: AtomicU64,
    bytes: AtomicU64,
    fetched: AtomicU64,
    took_us: AtomicU64,
}

/// A selector that was noticed; says which columns are read of it.
pub(crate) struct Watched {
    foresight: Arc<Foresight>,
    key: PatternKey,
    is_known: AtomicBool,
}

impl Watched {
    /// Columns are read.
    pub(crate) fn needs(&self, need: Need) {
        if !self.is_known.swap(true, Ordering::Relaxed) {
            self.foresight.predictor.lock().needs(self.key, need);
        }
    }
}

fn key_of(matchers: &[Matcher]) -> SelectorKey {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut add = |bytes: &[u8]| {
        for b in bytes.iter().chain(&[0xff]) {
            hash = (hash ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    for m in matchers {
        add(m.op.as_str().as_bytes());
        add(m.name.as_bytes());
        add(m.value.as_bytes());
    }
    hash
}

impl Foresight {
    /// A selector is asked for.
    pub(crate) fn seen(self: &Arc<Self>, matchers: &[Matcher], range: TimeRange, now_ms: i64) -> Watched {
        let key = key_of(matchers);
        let selector = || matchers.iter().map(|m| (m.op, Arc::clone(&m.name), Arc::clone(&m.value))).collect();
        let key = self.predictor.lock().seen(key, range, now_ms, selector);
        Watched { foresight: Arc::clone(self), key, is_known: AtomicBool::new(false) }
    }

    /// Figures since the start; `used` and `columns` are counted by the working set.
    pub(crate) fn figures(&self, now_ms: i64, columns: u64, used: u64) -> ForesightFigures {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        ForesightFigures {
            is_on: true,
            learnt: self.predictor.lock().figures(now_ms),
            runs: get(&self.runs),
            columns,
            used,
            bytes: get(&self.bytes),
            fetched_bytes: get(&self.fetched),
            took_us: get(&self.took_us),
        }
    }
}

impl Inner {
    /// Is anything expected that is not prepared?
    pub(crate) fn foresee_is_due(&self) -> bool {
        let Some(foresight) = &self.foresight else { return false };
        let now = self.options.clock.now_ms();
        let figures = foresight.predictor.lock().figures(now);
        // A run that finds nothing to do costs some look-ups a selector.
        figures.expected > 0
    }

    /// Reads ahead what is expected.
    pub(crate) fn foresee_now(&self) -> Result<(), ReadError> {
        self.foresee(None);
        Ok(())
    }

    /// Reads what is expected of a block that nobody sees yet.
    pub(crate) fn foresee_block(&self, block: &Arc<StoredBlock>) {
        self.foresee(Some(block));
    }

    fn foresee(&self, only: Option<&Arc<StoredBlock>>) {
        let (Some(foresight), Some(set)) = (&self.foresight, &self.cache) else { return };
        let began = Instant::now();
        let due = foresight.predictor.lock().expected(self.options.clock.now_ms(), AHEAD_MS, only.is_some());
        let view = match only {
            Some(block) => View { heads: Vec::new(), blocks: vec![Arc::clone(block)] },
            None => View::clone(&self.view.load()),
        };
        for e in due {
            if self.background.is_stopping() {
                break;
            }
            let matchers: Result<Vec<Matcher>, _> =
                e.selector.iter().map(|(op, name, value)| Matcher::new(*op, name, value, REGEX_BYTES_MAX)).collect();
            let Ok(matchers) = matchers else { continue };
            let snapshot = StoreSnapshot::new(0, &view, None);
            let fetched = quiver_cache::fetch_counts().bytes;
            // Nobody waits for this: what fails will fail for whoever asks.
            match snapshot.foresee(&matchers, e.range, e.need, SERIES_MAX, set) {
                Ok(bytes) => drop(foresight.bytes.fetch_add(bytes, Ordering::Relaxed)),
                Err(e) => tracing::debug!(error = %e, "prefetch failed"),
            }
            let fetched = quiver_cache::fetch_counts().bytes - fetched;
            foresight.fetched.fetch_add(fetched, Ordering::Relaxed);
            foresight.runs.fetch_add(1, Ordering::Relaxed);
        }
        let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        foresight.took_us.fetch_add(took, Ordering::Relaxed);
    }
}
