//! From matchers to series: the roster a plan's operators number their rows by.

use std::sync::Arc;
use std::time::Instant;

use quiver_core::{Asker, ReadError, ReadStats, SelectOptions, SelectReport, SeriesSet, TimeRange};
use quiver_model::Matcher;

use crate::error::QueryError;
use crate::exec::operator::RunEnv;
use crate::exec::tile::{Roster, RosterRow};
use crate::explain::profile::ScanProbe;

/// What a selector picked.
pub struct Selected {
    /// Where samples are read from, series in label order.
    pub set: Arc<dyn SeriesSet>,
    /// A row per series of the set.
    pub roster: Arc<Roster>,
    /// How they were found, where the query is explained.
    pub probe: Option<Arc<ScanProbe>>,
}

/// What a series costs here, about: its row, and that the set knows of it. Labels are shared.
const ROW_BYTES: usize = 64;

/// Looks series up.
pub fn select(env: &RunEnv, matchers: &[Matcher], range: TimeRange) -> Result<Selected, QueryError> {
    if range.min > range.max {
        return Ok(Selected { set: Arc::new(NoSeries), roster: Arc::default(), probe: None });
    }
    let max = env.ctx.limits.query_series_max;
    let wanted = |m: &Matcher| {
        if !m.runs_expression() {
            return m.clone();
        }
        let ctx = Arc::clone(&env.ctx);
        m.while_wanted(move || ctx.check().is_ok())
    };
    let matchers: &[Matcher] = &matchers.iter().map(wanted).collect::<Vec<_>>();
    let ctx = Arc::clone(&env.ctx);
    let asker = Asker::new(move || ctx.check().is_ok());
    let mut options = SelectOptions {
        index: env.ctx.hints.index,
        reads: None,
        asker: Some(asker),
        histogram_bytes_max: Some(env.ctx.limits.query_memory_bytes_max),
    };
    let found = match &env.profile {
        None => env.snapshot.select_with(matchers, range, max, &options, None).map(|set| (set, None)),
        Some(_) => {
            let reads = Arc::new(ReadStats::default());
            options.reads = Some(Arc::clone(&reads));
            let (begun, mut report) = (Instant::now(), SelectReport::default());
            let set = env.snapshot.select_with(matchers, range, max, &options, Some(&mut report));
            set.map(|set| {
                let probe = ScanProbe {
                    selector: crate::explain::selector(matchers),
                    range,
                    report,
                    series: set.len(),
                    select_time: begun.elapsed(),
                    samples_estimate: (0..set.len()).map(|i| set.samples_hint(i) as u64).sum(),
                    reads,
                };
                (set, Some(Arc::new(probe)))
            })
        }
    };
    let (set, probe) = found.map_err(|e| match e {
        ReadError::Limit(_) => {
            QueryError::CostLimit("query would load too many series into memory in query execution".into())
        }
        other => other.into(),
    })?;
    // What an operator looks up while it runs is its own; what is looked up for it beforehand, whoever asked keeps.
    if let Some(running) = env.profile.as_ref().and_then(|p| p.active()) {
        running.scanned(probe.clone());
    }
    // Of a query that was stopped meanwhile nothing that was found counts.
    env.ctx.check()?;
    env.ctx.keep_bytes(set.len().saturating_mul(ROW_BYTES))?;
    plan_read(env, set.as_ref())?;
    let rows = (0..set.len()).map(|i| RosterRow { labels: set.labels(i).clone(), drop_name: false }).collect();
    Ok(Selected { set, roster: Arc::new(Roster { rows }), probe })
}

/// Series whose samples are counted to guess at those of all.
const LOOK: usize = 32;

/// Tells the query what will be read: guessed at from some series, and where that is much from all.
fn plan_read(env: &RunEnv, set: &dyn SeriesSet) -> Result<(), QueryError> {
    let n = set.len();
    let look = n.min(LOOK);
    if look == 0 {
        return Ok(());
    }
    let hint = |i: usize| set.samples_hint(i) as u64;
    let guess = (0..look).map(|i| hint(i * n / look)).sum::<u64>() / look as u64 * n as u64;
    let samples = if guess > env.ctx.limits.query_samples_read_max { (0..n).map(hint).sum() } else { guess };
    env.ctx.plan_read(n as u64, samples)
}

/// A set without series.
struct NoSeries;

impl SeriesSet for NoSeries {
    fn len(&self) -> usize {
        0
    }

    fn labels(&self, _i: usize) -> &quiver_model::Labels {
        static NONE: std::sync::OnceLock<quiver_model::Labels> = std::sync::OnceLock::new();
        NONE.get_or_init(quiver_model::Labels::empty)
    }

    fn kinds(&self, _i: usize) -> quiver_core::SeriesKinds {
        quiver_core::SeriesKinds::default()
    }

    fn samples_hint(&self, _i: usize) -> usize {
        0
    }

    fn read(
        &self,
        _i: usize,
        _range: TimeRange,
        _need: quiver_core::Need,
        out: &mut quiver_model::SampleColumn,
    ) -> Result<(), ReadError> {
        out.clear();
        Ok(())
    }
}
