//! `histogram_quantile`, `histogram_fraction` and `histogram_quantiles` as machines.

use std::sync::Arc;

use crate::error::QueryError;
use crate::exec::machine::{Machine, Made};
use crate::exec::operator::{RunEnv, TileSink};
use crate::exec::tile::{Roster, StepGrid, Tile};
use crate::kernels::histogram::{ClassicHistograms, HistogramFunction, HistogramSpec};
use crate::promql::ast::Position;

/// A machine for one of the three; `args` are their scalars in order, `arg_pos` all arguments as written.
pub fn histogram(
    func: &str,
    label: Option<&str>,
    arg_pos: &[Position],
    input: &Arc<Roster>,
    args: Vec<Vec<f64>>,
    grid: StepGrid,
    env: &RunEnv,
) -> Result<Made, QueryError> {
    let at = |i: usize| arg_pos.get(i).copied().unwrap_or_default();
    let mut args = args.into_iter();
    let mut next = || args.next().ok_or_else(|| QueryError::Internal(format!("{func} lacks a scalar")));
    let (function, vector) = match func {
        "histogram_quantile" => (HistogramFunction::Quantile { q: (next()?, at(0)) }, 1),
        "histogram_fraction" => (HistogramFunction::Fraction { lower: next()?, upper: next()? }, 2),
        "histogram_quantiles" => {
            let Some(label) = label else { return Err(QueryError::Internal(format!("{func} lacks its label"))) };
            let qs = args.enumerate().map(|(i, q)| (q, at(i + 2))).collect();
            (HistogramFunction::Quantiles { label: label.to_owned(), qs }, 0)
        }
        _ => return Err(QueryError::Internal(format!("{func} is no function of histograms"))),
    };
    let delayed = env.ctx.features.delayed_name_removal;
    let spec = HistogramSpec { function, pos: at(vector), grid, delayed };
    Ok((Box::new(Running(ClassicHistograms::new(Arc::clone(input), spec))), None))
}

struct Running(ClassicHistograms);

impl Machine for Running {
    fn push(&mut self, tile: Tile, _env: &RunEnv, _out: &mut dyn TileSink) -> Result<(), QueryError> {
        self.0.push(tile);
        Ok(())
    }

    fn finish(self: Box<Self>, env: &RunEnv, out: &mut dyn TileSink) -> Result<(), QueryError> {
        env.ctx.check()?;
        let (roster, tiles, annotations) = self.0.finish()?;
        env.ctx.annotate(annotations);
        out.begin(&roster)?;
        for tile in tiles {
            out.push(tile)?;
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.0.bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use quiver_core::memory::MemoryStore;
    use quiver_model::{Histogram, Span, WriteBatch};

    use crate::answer::Answer;
    use crate::engine::tests::{ask, engine, text};

    fn answer(query: &str) -> Answer {
        let store = MemoryStore::new();
        let mut b = WriteBatch::default();
        for (job, le, v) in [("a", "+Inf", 4.0), ("a", "1", 2.0), ("b", "+Inf", 8.0), ("b", "1", 9.0), ("c", "?", 1.0)]
        {
            b.begin_series([("__name__", "h"), ("job", job), ("le", le)]);
            b.push_float(0, v, 0);
            b.push_float(60_000, v * 2.0, 0);
        }
        b.begin_series([("__name__", "n"), ("job", "d")]);
        let h = Histogram {
            count: 4.0,
            sum: 6.0,
            positive_spans: vec![Span { offset: 1, length: 1 }],
            positive_buckets: vec![4.0],
            ..Default::default()
        };
        b.push_histogram(0, h, 0);
        store.write_now(&b).unwrap();
        ask(&engine(Arc::new(store)), query, 0, 60_000, 60_000).unwrap()
    }

    #[test]
    fn over_stored_series() {
        let query = "histogram_quantile(1, {__name__=~\"h|n\"})";
        let a = answer(query);
        assert_eq!(text(&a), ["{job=\"a\"} 0:1 60000:1", "{job=\"b\"} 0:1 60000:1", "{job=\"d\"} 0:2 60000:2"]);
        let (warnings, infos) = a.annotations.texts(query, 10, 10);
        assert_eq!(
            warnings,
            ["PromQL warning: bucket label \"le\" is missing or has a malformed value of \"?\" (1:23)"]
        );
        assert!(infos[0].ends_with(
            "from buckets +Inf to +Inf, with a max diff of 2, over 4 samples from 1970-01-01T00:00:00Z to \
             1970-01-01T00:01:00Z (1:23)"
        ));
        let a = answer("histogram_fraction(0, 0.5, h{job=\"a\"})");
        assert_eq!(text(&a), ["{job=\"a\"} 0:0.25 60000:0.25"]);
    }

    #[test]
    fn quantiles_change_from_step_to_step() {
        let query = "histogram_quantile(time() / 60, h{job=\"a\"})";
        assert_eq!(text(&answer(query)), ["{job=\"a\"} 0:0 60000:1"]);
        let query = "histogram_quantile(2, h{job=\"a\"})";
        let a = answer(query);
        assert_eq!(text(&a), ["{job=\"a\"} 0:inf 60000:inf"]);
        assert_eq!(
            a.annotations.texts(query, 0, 0).0,
            ["PromQL warning: quantile value should be between 0 and 1, got 2 (1:20)"]
        );
    }
}
