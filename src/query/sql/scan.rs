//! The leaf of SQL plans: series of a set, decoded one after the other into batches of rows.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::MemoryPool;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{Count, MetricValue, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchReceiverStream;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Metric, PlanProperties};
use quiver_core::{Need, ReadStats, SelectReport, SeriesSet, TimeRange};
use quiver_model::{Matcher, SampleColumn};
use tokio::sync::mpsc::Sender;

use super::rows::{Column, RowBuilder};

/// Rows of a batch.
const BATCH_ROWS: usize = 8192;
/// Samples from which on a scan is split over partitions.
const PARTITION_SAMPLES_MIN: usize = 100_000;

/// See the module.
pub struct SampleScan {
    set: Option<Arc<dyn SeriesSet>>,
    matchers: Vec<Matcher>,
    range: TimeRange,
    columns: Vec<Column>,
    schema: SchemaRef,
    per_series: bool,
    limit: Option<usize>,
    parts: Vec<Range<usize>>,
    samples_hint: usize,
    properties: Arc<PlanProperties>,
    rows: Arc<AtomicUsize>,
    explained: Option<(SelectReport, Arc<ReadStats>)>,
}

impl SampleScan {
    /// A scan of a set (none: nothing can match).
    pub fn new(
        set: Option<Arc<dyn SeriesSet>>,
        matchers: Vec<Matcher>,
        range: TimeRange,
        columns: Vec<Column>,
        schema: SchemaRef,
        per_series: bool,
        limit: Option<usize>,
        partitions: usize,
    ) -> Self {
        let n = set.as_ref().map_or(0, |s| s.len());
        let samples_hint = set.as_ref().map_or(0, |s| (0..n).map(|i| s.samples_hint(i)).sum());
        let split = if samples_hint < PARTITION_SAMPLES_MIN || limit.is_some() { 1 } else { partitions.max(1) };
        let each = n.div_ceil(split).max(1);
        let mut parts: Vec<_> = (0..n).step_by(each).map(|from| from..(from + each).min(n)).collect();
        if parts.is_empty() {
            parts.push(0..0);
        }
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(parts.len()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        ));
        let (rows, explained) = (Arc::default(), None);
        Self {
            set,
            matchers,
            range,
            columns,
            schema,
            per_series,
            limit,
            parts,
            samples_hint,
            properties,
            rows,
            explained,
        }
    }

    /// Says how its series were found, and what reading them took.
    pub fn explained(mut self, what: Option<(SelectReport, Arc<ReadStats>)>) -> Self {
        self.explained = what;
        self
    }
}

impl fmt::Debug for SampleScan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fmt_as(DisplayFormatType::Default, f)
    }
}

impl DisplayAs for SampleScan {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let matchers: Vec<_> = self.matchers.iter().map(Matcher::to_string).collect();
        let bound = |t: i64| if t == i64::MIN || t == i64::MAX { "…".to_owned() } else { t.to_string() };
        write!(
            f,
            "SampleScan: matchers=[{}], time=[{}, {}], series={}, estimated_samples={}",
            matchers.join(", "),
            bound(self.range.min),
            bound(self.range.max),
            self.set.as_ref().map_or(0, |s| s.len()),
            self.samples_hint
        )?;
        if let Some(n) = self.limit {
            write!(f, ", limit={n}")?;
        }
        if let Some((report, _)) = &self.explained {
            write!(f, ", blocks_pruned={}, places=[", report.pruned)?;
            for (i, p) in report.places.iter().enumerate() {
                let name = if p.name == p.kind.as_str() { "" } else { p.name.as_str() };
                let (comma, space) = (if i > 0 { ", " } else { "" }, if name.is_empty() { "" } else { " " });
                write!(f, "{comma}{}{space}{name} {} of {} series", p.kind.as_str(), p.selected, p.series)?;
            }
            f.write_str("]")?;
        }
        Ok(())
    }
}

impl ExecutionPlan for SampleScan {
    fn name(&self) -> &'static str {
        "SampleScan"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let mut builder = RecordBatchReceiverStream::builder(Arc::clone(&self.schema), 2);
        let Some(set) = self.set.clone() else { return Ok(builder.build()) };
        let reader = Reader {
            set,
            part: self.parts[partition].clone(),
            range: self.range,
            rows: RowBuilder::new(self.columns.clone(), Arc::clone(&self.schema)),
            per_series: self.per_series,
            left: self.limit.unwrap_or(usize::MAX),
            out: builder.tx(),
            sent: Arc::clone(&self.rows),
            _pool: Arc::clone(context.memory_pool()),
        };
        builder.spawn_blocking(move || reader.run());
        Ok(builder.build())
    }

    fn metrics(&self) -> Option<MetricsSet> {
        let count = |n: u64| {
            let c = Count::new();
            c.add(usize::try_from(n).unwrap_or(usize::MAX));
            c
        };
        let mut set = MetricsSet::new();
        let rows = self.rows.load(Ordering::Relaxed) as u64;
        set.push(Arc::new(Metric::new(MetricValue::OutputRows(count(rows)), None)));
        if let Some((_, reads)) = &self.explained {
            let r = reads.counts();
            for (name, n) in [
                ("series_read", r.series),
                ("samples_read", r.samples),
                ("samples_open", r.open_samples),
                ("chunks_decoded", r.chunks()),
                ("bytes_decoded", r.bytes()),
                ("chunks_by_header", r.headers),
                ("remote_pages_found", r.pages_found),
                ("remote_pages_fetched", r.pages_fetched),
                ("working_set_hits", r.hits),
                ("working_set_misses", r.misses),
            ] {
                let value = MetricValue::Count { name: name.into(), count: count(n) };
                set.push(Arc::new(Metric::new(value, None)));
            }
        }
        Some(set)
    }
}

struct Reader {
    set: Arc<dyn SeriesSet>,
    part: Range<usize>,
    range: TimeRange,
    rows: RowBuilder,
    per_series: bool,
    left: usize,
    out: Sender<Result<RecordBatch>>,
    /// Rows sent so far, by all partitions.
    sent: Arc<AtomicUsize>,
    /// The statement has not ended before its readers have.
    _pool: Arc<dyn MemoryPool>,
}

impl Reader {
    fn run(mut self) -> Result<()> {
        let needs = |c: Column| self.rows.columns().contains(&c);
        // Values decide on stale markers, so they are needed for histograms too.
        let need = Need {
            values: needs(Column::Value) || needs(Column::Histogram),
            buckets: needs(Column::Histogram),
            start_ts: needs(Column::StartTs),
        };
        let mut samples = SampleColumn::default();
        for i in self.part.clone() {
            if self.left == 0 {
                break;
            }
            self.rows.begin_series(self.set.labels(i));
            if self.per_series {
                self.rows.push_series_row()?;
                self.left -= 1;
                if !self.emit(BATCH_ROWS)? {
                    return Ok(());
                }
                continue;
            }
            self.set.read(i, self.range, need, &mut samples).map_err(|e| DataFusionError::External(Box::new(e)))?;
            let mut at = 0;
            while at < samples.len() && self.left > 0 {
                let n = (samples.len() - at).min(BATCH_ROWS - self.rows.rows()).min(self.left);
                self.rows.push_samples(&samples, at..at + n)?;
                at += n;
                self.left -= n;
                if !self.emit(BATCH_ROWS)? {
                    return Ok(());
                }
            }
        }
        self.emit(1)?;
        Ok(())
    }

    /// Sends a batch once there are `min` rows; false when nobody listens any more.
    fn emit(&mut self, min: usize) -> Result<bool> {
        if self.rows.rows() < min {
            return Ok(!self.out.is_closed());
        }
        let batch = self.rows.finish()?;
        self.sent.fetch_add(batch.num_rows(), Ordering::Relaxed);
        Ok(self.out.blocking_send(Ok(batch)).is_ok())
    }
}
