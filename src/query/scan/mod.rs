//! From matchers to series: the roster a plan's operators number their rows by.

use std::sync::Arc;

use quiver_core::{ReadError, SeriesSet, TimeRange};
use quiver_model::Matcher;

use crate::error::QueryError;
use crate::exec::operator::RunEnv;
use crate::exec::tile::{Roster, RosterRow};

/// What a selector picked.
pub struct Selected {
    /// Where samples are read from, series in label order.
    pub set: Arc<dyn SeriesSet>,
    /// A row per series of the set.
    pub roster: Arc<Roster>,
}

/// Looks series up.
pub fn select(env: &RunEnv, matchers: &[Matcher], range: TimeRange) -> Result<Selected, QueryError> {
    if range.min > range.max {
        return Ok(Selected { set: Arc::new(NoSeries), roster: Arc::default() });
    }
    let max = env.ctx.limits.query_series_max;
    let set = env.snapshot.select(matchers, range, max).map_err(|e| match e {
        ReadError::Limit(_) => {
            QueryError::CostLimit("query would load too many series into memory in query execution".into())
        }
        other => other.into(),
    })?;
    let rows = (0..set.len()).map(|i| RosterRow { labels: set.labels(i).clone(), drop_name: false }).collect();
    Ok(Selected { set, roster: Arc::new(Roster { rows }) })
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
