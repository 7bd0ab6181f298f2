//! Reads exported Parquet back as series.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Int64Array, ListArray, MapArray, RecordBatch, StringArray, StructArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int32Type, Int64Type, UInt32Type};
use bytes::Bytes;
use hashbrown::HashMap;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::basic::{LogicalType, TimeUnit};
use parquet::file::metadata::{ColumnChunkMetaData, RowGroupMetaData};
use parquet::file::statistics::Statistics;
use quiver_model::{
    Histogram, Labels, LabelsBuilder, METRIC_NAME, MatchOp, Matcher, ResetHint, STALE_NAN, SampleColumn, Span,
    TimeRange,
};
use quiver_persistence::Disk;
use quiver_persistence::disk::join;

use super::export::{DAY_PREFIX, day_of};
use super::gather::Gatherer;
use super::schema;
use crate::codec::{Chunk, SAMPLES_MAX};
use crate::error::StorageError;

const BATCH_ROWS: usize = 16 * 1024;

/// Reads all series in a folder that match, with their samples in a range, in label order, as chunks in the order of their
/// times. The folder holds Parquet files, or folders of them (`day=…` folders outside the range are passed over). Rows may
/// stand in any order; of two rows for one series and time the conflict rule picks one. Takes about two bytes of memory a
/// sample.
pub fn read_parquet_dir(
    disk: &dyn Disk,
    dir: &str,
    matchers: &[Matcher],
    range: TimeRange,
) -> Result<Vec<(Labels, Vec<Chunk>)>, StorageError> {
    let mut files = Vec::new();
    find(disk, dir, range, 0, &mut files)?;
    let mut read = Read { matchers, range, gatherer: Gatherer::default(), rows: SampleColumn::default() };
    for file in &files {
        read.file(disk, file)?;
    }
    read.gatherer.finish().map_err(|e| StorageError::Parquet { file: dir.to_owned(), what: e.to_string() })
}

/// Times of the earliest and the latest row in a folder; `None` where there is none. Asks the statistics of the files, and
/// where there are none reads the column of times.
pub fn parquet_time_bounds(disk: &dyn Disk, dir: &str) -> Result<Option<TimeRange>, StorageError> {
    let mut files = Vec::new();
    find(disk, dir, TimeRange::ALL, 0, &mut files)?;
    let mut all: Option<TimeRange> = None;
    let mut add = |min: i64, max: i64| {
        let known = all.unwrap_or(TimeRange { min, max });
        all = Some(TimeRange { min: known.min.min(min), max: known.max.max(max) });
    };
    for path in &files {
        let fail = |what: String| StorageError::Parquet { file: path.clone(), what };
        let builder = open(disk, path)?;
        let mut unknown = Vec::new();
        for (i, group) in builder.metadata().row_groups().iter().enumerate() {
            match group.columns().iter().find_map(time_statistics) {
                Some((min, max)) => add(min, max),
                None => unknown.push(i),
            }
        }
        if unknown.is_empty() {
            continue;
        }
        let only = ProjectionMask::columns(builder.parquet_schema(), [schema::TS]);
        let reader = builder.with_row_groups(unknown).with_projection(only).build().map_err(|e| fail(e.to_string()))?;
        for batch in reader {
            let batch = batch.map_err(|e| fail(e.to_string()))?;
            let ts = column(&batch, schema::TS).and_then(times).map_err(fail)?;
            if let (Some(min), Some(max)) = (arrow::compute::min(&ts), arrow::compute::max(&ts)) {
                add(min, max);
            }
        }
    }
    Ok(all)
}

fn open(disk: &dyn Disk, path: &str) -> Result<ParquetRecordBatchReaderBuilder<Bytes>, StorageError> {
    let bytes = disk.map(path)?.bytes().clone();
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    ParquetRecordBatchReaderBuilder::try_new_with_options(bytes, options)
        .map_err(|e| StorageError::Parquet { file: path.to_owned(), what: e.to_string() })
}

/// Earliest and latest time of a row group, if this is its column of times and its unit is known to be ours.
fn time_statistics(column: &ColumnChunkMetaData) -> Option<(i64, i64)> {
    let Some(LogicalType::Timestamp(time)) = column.column_descr().logical_type_ref() else { return None };
    match column.statistics()? {
        Statistics::Int64(s) if column.column_path().string() == schema::TS && time.unit == TimeUnit::MILLIS => {
            let (min, max) = (*s.min_opt()?, *s.max_opt()?);
            (min <= max).then_some((min, max))
        }
        _ => None,
    }
}

fn find(disk: &dyn Disk, dir: &str, range: TimeRange, depth: u32, files: &mut Vec<String>) -> Result<(), StorageError> {
    for name in disk.list(dir)? {
        if name.ends_with(".parquet") {
            files.push(join(dir, &name));
        }
    }
    if depth < 4 {
        for name in disk.list_dirs(dir)? {
            if let Some(day) = name.strip_prefix(DAY_PREFIX)
                && day.len() == 10
                && (day < day_of(range.min).as_str() || day > day_of(range.max).as_str())
            {
                continue;
            }
            find(disk, &join(dir, &name), range, depth + 1, files)?;
        }
    }
    Ok(())
}

struct Read<'a> {
    matchers: &'a [Matcher],
    range: TimeRange,
    gatherer: Gatherer,
    rows: SampleColumn,
}

/// The columns of a batch.
struct Columns {
    metric: StringArray,
    ts: Int64Array,
    values: Float64Array,
    labels: MapArray,
    keys: StringArray,
    label_values: StringArray,
    starts: Option<Int64Array>,
    histograms: Option<Histograms>,
}

struct Histograms {
    all: StructArray,
    columns: HashMap<&'static str, ArrayRef>,
}

fn strings(array: &ArrayRef) -> Result<StringArray, String> {
    let text = cast(array, &DataType::Utf8).map_err(|e| e.to_string())?;
    text.as_string_opt::<i32>().cloned().ok_or_else(|| "a text column is not text".to_owned())
}

fn times(array: &ArrayRef) -> Result<Int64Array, String> {
    // Without a time zone: instants are the same in all, and what names none is in UTC.
    let ms = DataType::Timestamp(arrow::datatypes::TimeUnit::Millisecond, None);
    let ms = cast(array, &ms).and_then(|a| cast(&a, &DataType::Int64)).map_err(|e| e.to_string())?;
    ms.as_primitive_opt::<Int64Type>().cloned().ok_or_else(|| "a time column is not a time".to_owned())
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef, String> {
    batch.column_by_name(name).ok_or_else(|| format!("it is not a file that quiver export wrote (no column {name:?})"))
}

impl Columns {
    fn new(batch: &RecordBatch) -> Result<Self, String> {
        let labels = column(batch, schema::LABELS)?;
        let labels = labels.as_map_opt().cloned().ok_or("column \"labels\" is not a map")?;
        let values = cast(column(batch, schema::VALUE)?, &DataType::Float64).map_err(|e| e.to_string())?;
        let histograms = match batch.column_by_name(schema::HISTOGRAM) {
            Some(h) if h.null_count() < h.len() => Some(Histograms::new(h)?),
            _ => None,
        };
        let starts = match batch.column_by_name(schema::START_TS) {
            Some(s) if s.null_count() < s.len() => Some(times(s)?),
            _ => None,
        };
        Ok(Self {
            metric: strings(column(batch, schema::METRIC)?)?,
            ts: times(column(batch, schema::TS)?)?,
            values: values.as_primitive_opt::<Float64Type>().cloned().ok_or("column \"value\" is not a number")?,
            keys: strings(labels.keys())?,
            label_values: strings(labels.values())?,
            labels,
            starts,
            histograms,
        })
    }

    fn label_range(&self, row: usize) -> std::ops::Range<usize> {
        let offsets = self.labels.value_offsets();
        match (offsets.get(row), offsets.get(row + 1)) {
            (Some(a), Some(b)) => *a as usize..*b as usize,
            _ => 0..0,
        }
    }

    fn same_series(&self, a: usize, b: usize) -> bool {
        let (x, y) = (self.label_range(a), self.label_range(b));
        self.metric.value(a) == self.metric.value(b)
            && x.len() == y.len()
            && x.zip(y).all(|(i, j)| {
                self.keys.value(i) == self.keys.value(j) && self.label_values.value(i) == self.label_values.value(j)
            })
    }

    fn labels(&self, row: usize) -> Result<Labels, String> {
        let mut b = LabelsBuilder::default();
        for i in self.label_range(row) {
            b.push(self.keys.value(i), self.label_values.value(i));
        }
        if b.get(METRIC_NAME).is_empty() {
            b.set(METRIC_NAME, self.metric.value(row));
        }
        b.build().map_err(|e| e.to_string())
    }
}

impl Histograms {
    fn new(array: &ArrayRef) -> Result<Self, String> {
        let all = array.as_struct_opt().cloned().ok_or("column \"histogram\" is not a struct")?;
        let mut columns = HashMap::new();
        for (name, kind) in [
            ("reset_hint", DataType::Int32),
            ("schema", DataType::Int32),
            ("zero_threshold", DataType::Float64),
            ("zero_count", DataType::Float64),
            ("count", DataType::Float64),
            ("sum", DataType::Float64),
        ] {
            let c = all.column_by_name(name).ok_or_else(|| format!("histograms have no {name:?}"))?;
            columns.insert(name, cast(c, &kind).map_err(|e| e.to_string())?);
        }
        for name in ["positive_spans", "positive_buckets", "negative_spans", "negative_buckets", "custom_values"] {
            let c = all.column_by_name(name).ok_or_else(|| format!("histograms have no {name:?}"))?;
            columns.insert(name, Arc::clone(c));
        }
        Ok(Self { all, columns })
    }

    fn int(&self, name: &'static str, row: usize) -> i32 {
        let column = self.columns.get(name).and_then(|c| c.as_primitive_opt::<Int32Type>());
        column.map_or(0, |c| c.value(row))
    }

    fn float(&self, name: &'static str, row: usize) -> f64 {
        let column = self.columns.get(name).and_then(|c| c.as_primitive_opt::<Float64Type>());
        column.map_or(0.0, |c| c.value(row))
    }

    fn list(&self, name: &'static str, row: usize) -> Option<ArrayRef> {
        let list: &ListArray = self.columns.get(name)?.as_list_opt()?;
        Some(list.value(row))
    }

    fn floats(&self, name: &'static str, row: usize) -> Vec<f64> {
        let list = self.list(name, row);
        list.and_then(|l| Some(l.as_primitive_opt::<Float64Type>()?.values().to_vec())).unwrap_or_default()
    }

    fn spans(&self, name: &'static str, row: usize) -> Vec<Span> {
        let parse = || -> Option<Vec<Span>> {
            let list = self.list(name, row)?;
            let list = list.as_struct_opt()?;
            let offsets = list.column_by_name("offset")?.as_primitive_opt::<Int32Type>()?;
            let lengths = list.column_by_name("length")?.as_primitive_opt::<UInt32Type>()?;
            Some(offsets.values().iter().zip(lengths.values()).map(|(o, l)| Span { offset: *o, length: *l }).collect())
        };
        parse().unwrap_or_default()
    }

    fn histogram(&self, row: usize) -> Option<Histogram> {
        if self.all.is_null(row) {
            return None;
        }
        Some(Histogram {
            reset_hint: match self.int("reset_hint", row) {
                1 => ResetHint::Yes,
                2 => ResetHint::No,
                3 => ResetHint::Gauge,
                _ => ResetHint::Unknown,
            },
            schema: self.int("schema", row),
            zero_threshold: self.float("zero_threshold", row),
            zero_count: self.float("zero_count", row),
            count: self.float("count", row),
            sum: self.float("sum", row),
            positive_spans: self.spans("positive_spans", row),
            negative_spans: self.spans("negative_spans", row),
            positive_buckets: self.floats("positive_buckets", row),
            negative_buckets: self.floats("negative_buckets", row),
            custom_values: self.floats("custom_values", row),
        })
    }
}

impl Read<'_> {
    fn file(&mut self, disk: &dyn Disk, path: &str) -> Result<(), StorageError> {
        let fail = |what: String| StorageError::Parquet { file: path.to_owned(), what };
        let builder = open(disk, path)?;
        let groups: Vec<usize> = builder
            .metadata()
            .row_groups()
            .iter()
            .enumerate()
            .filter(|(_, g)| self.may_match(g))
            .map(|(i, _)| i)
            .collect();
        let reader =
            builder.with_row_groups(groups).with_batch_size(BATCH_ROWS).build().map_err(|e| fail(e.to_string()))?;
        for batch in reader {
            let batch = batch.map_err(|e| fail(e.to_string()))?;
            self.batch(&batch).map_err(fail)?;
        }
        Ok(())
    }

    /// May a row group hold a matching row, by its statistics?
    fn may_match(&self, group: &RowGroupMetaData) -> bool {
        for c in group.columns() {
            let path = c.column_path().string();
            match c.statistics() {
                Some(Statistics::Int64(_))
                    if time_statistics(c).is_some_and(|(min, max)| !self.range.overlaps(min, max)) =>
                {
                    return false;
                }
                Some(Statistics::ByteArray(s)) if path == schema::METRIC => {
                    if let (Some(min), Some(max)) = (s.min_opt(), s.max_opt()) {
                        let outside = |v: &str| v.as_bytes() < min.data() || v.as_bytes() > max.data();
                        let equal = |m: &&Matcher| m.is_name() && m.op == MatchOp::Equal && !m.value.is_empty();
                        if self.matchers.iter().filter(equal).any(|m| outside(&m.value)) {
                            return false;
                        }
                    }
                }
                _ => {}
            }
        }
        true
    }

    fn batch(&mut self, batch: &RecordBatch) -> Result<(), String> {
        let columns = Columns::new(batch)?;
        let n = batch.num_rows();
        let mut at = 0;
        while at < n {
            let mut end = at + 1;
            while end < n && columns.same_series(at, end) {
                end += 1;
            }
            let labels = columns.labels(at)?;
            if self.matchers.iter().all(|m| m.matches_labels(labels.as_ref())) {
                self.rows(&columns, at..end, labels)?;
            }
            at = end;
        }
        Ok(())
    }

    fn rows(&mut self, columns: &Columns, rows: std::ops::Range<usize>, labels: Labels) -> Result<(), String> {
        self.rows.clear();
        for row in rows {
            let t = columns.ts.value(row);
            if columns.ts.is_null(row) || !self.range.overlaps(t, t) {
                continue;
            }
            let start = columns.starts.as_ref().filter(|s| s.is_valid(row)).map_or(0, |s| s.value(row));
            match columns.histograms.as_ref().and_then(|h| h.histogram(row)) {
                Some(h) if h.custom_values.len() > SAMPLES_MAX => {
                    return Err(format!(
                        "a histogram of {} bounds, at most {SAMPLES_MAX} can be read",
                        h.custom_values.len()
                    ));
                }
                Some(h) => self.rows.push_histogram(t, Arc::new(h), start),
                None if columns.values.is_null(row) => self.rows.push_float(t, STALE_NAN, start),
                None => self.rows.push_float(t, columns.values.value(row), start),
            }
        }
        self.gatherer.push(labels, &self.rows).map_err(|e| e.to_string())
    }
}
