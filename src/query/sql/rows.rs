//! Rows of samples into Arrow columns; labels by number, one dictionary entry per run of equal values.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, DictionaryArray, Float64Array, Float64Builder, Int32Array, Int32Builder, Int64Builder, ListArray,
    MapBuilder, MapFieldNames, RecordBatchOptions, StringArray, StringBuilder, StructArray,
    TimestampMillisecondBuilder,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::error::Result;
use quiver_model::{Histogram, Labels, METRIC_NAME, SampleColumn, is_stale};

use super::table::{bucket_fields, buckets_item, histogram_fields};

/// A column of a table of samples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Column {
    /// `ts`
    Ts,
    /// `value`
    Value,
    /// A label.
    Label(String),
    /// `metric`
    Metric,
    /// `labels`
    Labels,
    /// `labels_json`
    LabelsJson,
    /// `histogram`
    Histogram,
    /// `start_ts`
    StartTs,
    /// `series_id`
    SeriesId,
}

/// Text by number.
#[derive(Default)]
struct Text {
    keys: Vec<Option<i32>>,
    values: Vec<String>,
    current: Option<i32>,
}

impl Text {
    fn begin(&mut self, value: Option<&str>) {
        self.current = value.map(|v| {
            if self.values.last().is_none_or(|l| l != v) {
                self.values.push(v.to_owned());
            }
            self.values.len() as i32 - 1
        });
    }

    fn finish(&mut self) -> ArrayRef {
        let keys = Int32Array::from(std::mem::take(&mut self.keys));
        let values = StringArray::from_iter_values(&self.values);
        // The run under way goes on in the next batch, with a dictionary of its own.
        let under_way = self.current.map(|k| std::mem::take(&mut self.values[k as usize]));
        self.values.clear();
        self.current = under_way.map(|v| {
            self.values.push(v);
            0
        });
        Arc::new(DictionaryArray::new(keys, Arc::new(values)))
    }
}

enum Cells {
    Ts(TimestampMillisecondBuilder),
    Value(Float64Builder),
    Text(Text),
    Map(Box<MapBuilder<StringBuilder, StringBuilder>>),
    Histogram(Vec<Option<Arc<Histogram>>>),
    StartTs(TimestampMillisecondBuilder),
    Id(Int64Builder),
}

/// Builds batches.
pub struct RowBuilder {
    columns: Vec<Column>,
    cells: Vec<Cells>,
    schema: SchemaRef,
    rows: usize,
    labels: Labels,
    id: i64,
}

fn time_builder() -> TimestampMillisecondBuilder {
    TimestampMillisecondBuilder::new().with_timezone("UTC")
}

fn map_builder() -> MapBuilder<StringBuilder, StringBuilder> {
    let names = MapFieldNames { entry: "entries".into(), key: "keys".into(), value: "values".into() };
    MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new())
}

impl RowBuilder {
    /// A builder of some columns.
    pub fn new(columns: Vec<Column>, schema: SchemaRef) -> Self {
        let cells = columns
            .iter()
            .map(|c| match c {
                Column::Ts => Cells::Ts(time_builder()),
                Column::Value => Cells::Value(Float64Builder::new()),
                Column::Label(_) | Column::Metric | Column::LabelsJson => Cells::Text(Text::default()),
                Column::Labels => Cells::Map(Box::new(map_builder())),
                Column::Histogram => Cells::Histogram(Vec::new()),
                Column::StartTs => Cells::StartTs(time_builder()),
                Column::SeriesId => Cells::Id(Int64Builder::new()),
            })
            .collect();
        Self { columns, cells, schema, rows: 0, labels: Labels::empty(), id: 0 }
    }

    /// The columns built.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Rows of the batch under way.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The rows that follow belong to this series.
    pub fn begin_series(&mut self, labels: &Labels) {
        self.labels = labels.clone();
        // A stable name of the series, the same after a restart and in an export.
        self.id = labels.hash64() as i64;
        for (column, cells) in self.columns.iter().zip(&mut self.cells) {
            if let Cells::Text(text) = cells {
                match column {
                    Column::Label(name) => text.begin(Some(labels.get(name)).filter(|v| !v.is_empty())),
                    Column::Metric => text.begin(Some(labels.get(METRIC_NAME))),
                    _ => text.begin(Some(&labels_json(labels))),
                }
            }
        }
    }

    /// One row for the series itself.
    pub fn push_series_row(&mut self) -> Result<()> {
        self.push(&SampleColumn::default(), 0..0, 1)
    }

    /// Rows for samples.
    pub fn push_samples(&mut self, samples: &SampleColumn, range: Range<usize>) -> Result<()> {
        let n = range.len();
        self.push(samples, range, n)
    }

    fn push(&mut self, s: &SampleColumn, range: Range<usize>, n: usize) -> Result<()> {
        for cells in &mut self.cells {
            match cells {
                Cells::Ts(b) => b.append_slice(&s.ts[range.clone()]),
                Cells::Value(b) => {
                    for i in range.clone() {
                        let absent = is_stale(s.values[i]) || s.histogram_at(i).is_some();
                        b.append_option((!absent).then(|| one_nan(s.values[i])));
                    }
                }
                Cells::Text(t) => t.keys.resize(t.keys.len() + n, t.current),
                Cells::Map(b) => {
                    for _ in 0..n {
                        for (name, value) in self.labels.iter().filter(|(n, _)| *n != METRIC_NAME) {
                            b.keys().append_value(name);
                            b.values().append_value(value);
                        }
                        b.append(true)?;
                    }
                }
                Cells::Histogram(list) => {
                    for i in range.clone() {
                        list.push(s.histogram_at(i).filter(|h| !is_stale(h.sum)).cloned());
                    }
                }
                Cells::StartTs(b) => {
                    for i in range.clone() {
                        b.append_option(Some(s.start_at(i)).filter(|t| *t != 0));
                    }
                }
                Cells::Id(b) => b.append_value_n(self.id, n),
            }
        }
        self.rows += n;
        Ok(())
    }

    /// The batch; the series under way goes on in the next one.
    pub fn finish(&mut self) -> Result<RecordBatch> {
        let arrays = self
            .cells
            .iter_mut()
            .map(|c| match c {
                Cells::Ts(b) | Cells::StartTs(b) => Arc::new(b.finish()) as ArrayRef,
                Cells::Value(b) => Arc::new(b.finish()),
                Cells::Text(t) => t.finish(),
                Cells::Map(b) => Arc::new(b.finish()),
                Cells::Histogram(list) => histogram_array(&std::mem::take(list)),
                Cells::Id(b) => Arc::new(b.finish()),
            })
            .collect();
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        self.rows = 0;
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options)?)
    }
}

/// Every NaN as one: operators compare bits.
#[inline]
fn one_nan(x: f64) -> f64 {
    if x.is_nan() { f64::NAN } else { x }
}

/// Labels without the metric name as JSON text.
pub fn labels_json(labels: &Labels) -> String {
    let map: serde_json::Map<_, _> = labels
        .iter()
        .filter(|(n, _)| *n != METRIC_NAME)
        .map(|(n, v)| (n.to_owned(), serde_json::Value::from(v)))
        .collect();
    serde_json::Value::Object(map).to_string()
}

/// Histograms as an Arrow struct.
pub fn histogram_array(list: &[Option<Arc<Histogram>>]) -> ArrayRef {
    // Fields are null where the histogram is: `histogram['count']` takes the field's own nulls.
    let validity: NullBuffer = list.iter().map(Option::is_some).collect();
    let floats = |f: &dyn Fn(&Histogram) -> f64| -> ArrayRef {
        Arc::new(list.iter().map(|h| h.as_deref().map(|h| one_nan(f(h)))).collect::<Float64Array>())
    };
    let mut schema = Int32Builder::new();
    let (mut lower, mut upper, mut count) = (Vec::new(), Vec::new(), Vec::new());
    let mut lengths = Vec::with_capacity(list.len());
    for h in list {
        schema.append_option(h.as_ref().map(|h| h.schema));
        let before = lower.len();
        if let Some(h) = h {
            for b in h.all_bucket_iterator().filter(|b| b.count != 0.0) {
                lower.push(b.lower);
                upper.push(b.upper);
                count.push(b.count);
            }
        }
        lengths.push(lower.len() - before);
    }
    let column = |v: Vec<f64>| Arc::new(Float64Array::from(v)) as ArrayRef;
    let rows = StructArray::new(bucket_fields(), vec![column(lower), column(upper), column(count)], None);
    let buckets =
        ListArray::new(buckets_item(), OffsetBuffer::from_lengths(lengths), Arc::new(rows), Some(validity.clone()));
    let arrays: Vec<ArrayRef> = vec![
        floats(&|h| h.count),
        floats(&|h| h.sum),
        Arc::new(schema.finish()),
        floats(&|h| h.zero_threshold),
        floats(&|h| h.zero_count),
        Arc::new(buckets),
    ];
    Arc::new(StructArray::new(histogram_fields(), arrays, Some(validity)))
}
