//! Tables of samples and of series, over a snapshot.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use quiver_core::{Asker, ReadStats, SelectOptions, SelectReport, Snapshot, TimeRange};
use quiver_model::{METRIC_NAME, Matcher};

use super::filter::{Columns, Pushed, push_down};
use super::rows::Column;
use super::scan::SampleScan;

/// Compiled size of a pushed-down regular expression.
const REGEX_BYTES_MAX: usize = 10 << 20;

/// Which table.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// One metric, one column per label.
    Metric {
        /// Metric name.
        name: String,
        /// Label names, sorted, without the metric name.
        labels: Vec<String>,
    },
    /// All samples, labels in a map.
    Samples,
    /// All series, without samples.
    Series,
}

/// See [`Shape`].
pub struct SampleTable {
    snapshot: Arc<dyn Snapshot>,
    shape: Shape,
    columns: Vec<Column>,
    schema: SchemaRef,
    series_max: usize,
    explained: bool,
    asker: Asker,
}

impl std::fmt::Debug for SampleTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SampleTable({:?})", self.shape)
    }
}

/// Names that a label column may not take.
const RESERVED: [&str; 7] = ["ts", "value", "histogram", "start_ts", "series_id", "metric", "labels"];

/// The columns of labels, which are all different: a label's name, with `label_` before it while a column of the table or
/// another label has that name. So `ts` is `label_ts`, or `label_label_ts` beside a label that is called `label_ts`.
pub fn label_columns<S: AsRef<str>>(labels: &[S]) -> Vec<String> {
    let own: HashSet<&str> = labels.iter().map(AsRef::as_ref).collect();
    let column = |label: &str| {
        let mut name = label.to_owned();
        while RESERVED.contains(&name.as_str()) || (name != label && own.contains(name.as_str())) {
            name.insert_str(0, "label_");
        }
        name
    };
    labels.iter().map(|l| column(l.as_ref())).collect()
}

/// Type of a time column.
pub fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))
}

/// Type of a label column: text by number.
pub fn text_type() -> DataType {
    DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
}

/// Fields of one bucket of a histogram.
pub fn bucket_fields() -> Fields {
    let float = |n| Field::new(n, DataType::Float64, false);
    Fields::from(vec![float("lower"), float("upper"), float("count")])
}

/// Type of a histogram's buckets.
pub fn buckets_item() -> Arc<Field> {
    Arc::new(Field::new("item", DataType::Struct(bucket_fields()), false))
}

/// Fields of a histogram.
pub fn histogram_fields() -> Fields {
    Fields::from(vec![
        Field::new("count", DataType::Float64, false),
        Field::new("sum", DataType::Float64, false),
        Field::new("schema", DataType::Int32, false),
        Field::new("zero_threshold", DataType::Float64, false),
        Field::new("zero_count", DataType::Float64, false),
        Field::new("buckets", DataType::List(buckets_item()), false),
    ])
}

/// Type of the labels map.
pub fn map_type() -> DataType {
    let entries =
        Fields::from(vec![Field::new("keys", DataType::Utf8, false), Field::new("values", DataType::Utf8, true)]);
    DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entries), false)), false)
}

/// The field of a column; a label's is called `label_column`.
fn field(column: &Column, label_column: Option<&String>) -> Field {
    match column {
        Column::Ts => Field::new("ts", time_type(), false),
        Column::Value => Field::new("value", DataType::Float64, true),
        Column::Label(l) => Field::new(label_column.unwrap_or(l), text_type(), true),
        Column::Metric => Field::new("metric", text_type(), false),
        Column::Labels => Field::new("labels", map_type(), false),
        Column::LabelsJson => Field::new("labels_json", text_type(), false),
        Column::Histogram => Field::new("histogram", DataType::Struct(histogram_fields()), true),
        Column::StartTs => Field::new("start_ts", time_type(), true),
        Column::SeriesId => Field::new("series_id", DataType::Int64, false),
    }
}

impl SampleTable {
    /// A table; a scan of it may touch `series_max` series, and says what it reads where it is `explained`.
    pub fn new(snapshot: Arc<dyn Snapshot>, shape: Shape, series_max: usize, explained: bool, asker: Asker) -> Self {
        let columns: Vec<Column> = match &shape {
            Shape::Metric { labels, .. } => [Column::Ts, Column::Value]
                .into_iter()
                .chain(labels.iter().map(|l| Column::Label(l.clone())))
                .chain([Column::Histogram, Column::StartTs, Column::SeriesId])
                .collect(),
            Shape::Samples => vec![
                Column::Metric,
                Column::Ts,
                Column::Value,
                Column::Labels,
                Column::LabelsJson,
                Column::Histogram,
                Column::StartTs,
                Column::SeriesId,
            ],
            Shape::Series => vec![Column::Metric, Column::Labels, Column::LabelsJson, Column::SeriesId],
        };
        let labels: Vec<&String> =
            columns.iter().filter_map(|c| if let Column::Label(l) = c { Some(l) } else { None }).collect();
        let mut names = label_columns(&labels).into_iter();
        let fields = columns.iter().map(|c| match c {
            Column::Label(_) => field(c, names.next().as_ref()),
            _ => field(c, None),
        });
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        Self { snapshot, shape, columns, schema, series_max, explained, asker }
    }
}

impl Columns for SampleTable {
    fn label<'a>(&'a self, column: &str) -> Option<&'a str> {
        let (at, _) = self.schema.column_with_name(column)?;
        match &self.columns[at] {
            Column::Label(l) => Some(l),
            Column::Metric => Some(METRIC_NAME),
            _ => None,
        }
    }
    fn has_map(&self) -> bool {
        self.columns.contains(&Column::Labels)
    }
}

#[async_trait]
impl TableProvider for SampleTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(filters
            .iter()
            .map(|f| match push_down(f, self, REGEX_BYTES_MAX) {
                // A series has no time of its own.
                Some((Pushed::Time(_), _)) if self.shape == Shape::Series => TableProviderFilterPushDown::Unsupported,
                Some((_, true)) => TableProviderFilterPushDown::Exact,
                Some((_, false)) => TableProviderFilterPushDown::Inexact,
                None => TableProviderFilterPushDown::Unsupported,
            })
            .collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut matchers = match &self.shape {
            Shape::Metric { name, .. } => vec![Matcher::equal(METRIC_NAME, name)],
            Shape::Samples | Shape::Series => Vec::new(),
        };
        let mut range = TimeRange::ALL;
        let mut all_exact = true;
        for f in filters {
            match push_down(f, self, REGEX_BYTES_MAX) {
                Some((Pushed::Labels(list), exact)) => {
                    all_exact &= exact;
                    matchers.extend(list);
                }
                Some((Pushed::Time(t), _)) => {
                    range = TimeRange { min: range.min.max(t.min), max: range.max.min(t.max) };
                }
                None => all_exact = false,
            }
        }
        let columns: Vec<Column> = match projection {
            Some(p) => p.iter().map(|i| self.columns[*i].clone()).collect(),
            None => self.columns.clone(),
        };
        let schema = match projection {
            Some(p) => Arc::new(self.schema.project(p)?),
            None => Arc::clone(&self.schema),
        };
        let reads = self.explained.then(Arc::<ReadStats>::default);
        let mut report = self.explained.then(SelectReport::default);
        let set = if range.min > range.max {
            None
        } else {
            let options =
                SelectOptions { reads: reads.clone(), asker: Some(self.asker.clone()), ..SelectOptions::default() };
            let select = self.snapshot.select_with(&matchers, range, self.series_max, &options, report.as_mut());
            Some(select.map_err(|e| DataFusionError::External(Box::new(e)))?)
        };
        let per_series = self.shape == Shape::Series;
        let partitions = state.config().target_partitions();
        let limit = limit.filter(|_| all_exact);
        let scan = SampleScan::new(set, matchers, range, columns, schema, per_series, limit, partitions);
        Ok(Arc::new(scan.explained(report.zip(reads))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_labels_are_all_different_and_those_of_the_table_stay() {
        let columns = |labels: &[&str]| label_columns(labels);
        assert_eq!(columns(&["job", "ts", "value"]), ["job", "label_ts", "label_value"]);
        assert_eq!(columns(&["label_ts", "ts"]), ["label_ts", "label_label_ts"]);
        assert_eq!(
            columns(&["label_label_ts", "label_ts", "ts"]),
            ["label_label_ts", "label_ts", "label_label_label_ts"]
        );
        assert_eq!(
            columns(&["label_series_id", "Ts", "series_id"]),
            ["label_series_id", "Ts", "label_label_series_id"]
        );
        assert_eq!(columns(&["label_label_value", "value"]), ["label_label_value", "label_value"]);
    }
}
