//! Writes series as Parquet.

use std::io;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, DictionaryArray, Float64Array, Int32Array, ListArray, MapArray, RecordBatch, StringArray, StructArray,
    TimestampMillisecondArray, UInt32Array, new_null_array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Int32Type};
use hashbrown::HashMap;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::Encoding;
use parquet::schema::types::ColumnPath;
use quiver_model::calendar::{DAY_MS, date_of};
use quiver_model::{Histogram, LabelsRef, METRIC_NAME, SampleColumn, Span, TimeRange, is_stale};
use quiver_persistence::disk::join;
use quiver_persistence::{Disk, DiskError, DiskFile};

use super::{parquet_properties, schema};
use crate::error::StorageError;

const BATCH_ROWS: usize = 32 * 1024;
const ROW_GROUP_ROWS: usize = 256 * 1024;

/// How the name of a day's folder begins.
pub const DAY_PREFIX: &str = "day=";

/// The folder of the day that `ts` lies in: `day=2026-01-31`.
pub fn day_dir(ts: i64) -> String {
    format!("{DAY_PREFIX}{}", day_of(ts))
}

/// The folder name of the day a time lies in: `2026-01-31`. Days outside the years 0 to 9999 are clamped to them.
pub fn day_of(ts: i64) -> String {
    let (year, month, day) = date_of(ts.div_euclid(DAY_MS).clamp(-719_528, 2_932_896));
    format!("{year:04}-{month:02}-{day:02}")
}

/// The days that have an instant in a range, as ranges, each clipped to it. A range without bounds is one of many days:
/// clip it to the data first.
pub fn days(range: TimeRange) -> impl Iterator<Item = TimeRange> {
    let (first, last) = (range.min.div_euclid(DAY_MS), range.max.div_euclid(DAY_MS));
    (first..=last).map(move |d| {
        let min = d.saturating_mul(DAY_MS);
        TimeRange { min: min.max(range.min), max: min.saturating_add(DAY_MS - 1).min(range.max) }
    })
}

/// Writes a folder of days.
pub struct ParquetExporter {
    disk: Arc<dyn Disk>,
    dir: String,
}

impl ParquetExporter {
    /// Exports into `dir` of `disk`.
    pub fn create(disk: Arc<dyn Disk>, dir: &str) -> Result<Self, StorageError> {
        if !dir.is_empty() {
            disk.create_dir(dir)?;
        }
        Ok(Self { disk, dir: dir.to_owned() })
    }

    /// Starts the file of the day that `ts` lies in; series then come in label order, each with samples of that day.
    pub fn day(&self, ts: i64) -> Result<DayWriter, StorageError> {
        let dir = join(&self.dir, &day_dir(ts));
        self.disk.create_dir(&dir)?;
        DayWriter::create(Arc::clone(&self.disk), &dir)
    }
}

/// A disk file as the Parquet writer wants it.
struct Output(Box<dyn DiskFile>);

fn to_io(e: DiskError) -> io::Error {
    io::Error::other(e)
}

impl io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_all(bytes).map_err(to_io)?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Words numbered in order of appearance, for a dictionary array.
#[derive(Default)]
struct Words {
    numbers: HashMap<Box<str>, i32>,
    words: Vec<Box<str>>,
}

impl Words {
    fn number(&mut self, word: &str) -> i32 {
        if let Some(n) = self.numbers.get(word) {
            return *n;
        }
        let n = self.words.len() as i32;
        self.numbers.insert(word.into(), n);
        self.words.push(word.into());
        n
    }

    fn array(&mut self, numbers: Vec<i32>) -> Result<ArrayRef, arrow::error::ArrowError> {
        let words = StringArray::from_iter_values(self.words.iter().map(|w| &**w));
        self.numbers.clear();
        self.words.clear();
        Ok(Arc::new(DictionaryArray::<Int32Type>::try_new(Int32Array::from(numbers), Arc::new(words))?))
    }
}

/// Writes the Parquet file of one day.
pub struct DayWriter {
    disk: Arc<dyn Disk>,
    dir: String,
    temporary: String,
    path: String,
    writer: Option<ArrowWriter<Output>>,
    rows: u64,
    finished: bool,

    metrics: Words,
    keys: Words,
    label_values: Words,
    metric: Vec<i32>,
    ts: Vec<i64>,
    values: Vec<f64>,
    value_valid: Vec<bool>,
    label_ends: Vec<i32>,
    label_keys: Vec<i32>,
    label_numbers: Vec<i32>,
    starts: Vec<i64>,
    histograms: Vec<Option<Arc<Histogram>>>,
}

impl DayWriter {
    fn create(disk: Arc<dyn Disk>, dir: &str) -> Result<Self, StorageError> {
        let path = join(dir, "part-0.parquet");
        let temporary = format!("{path}.tmp");
        let file = disk.create(&temporary)?;
        let column = |name: &str| ColumnPath::from(name);
        let properties = parquet_properties(&schema::schema())
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .set_column_dictionary_enabled(column(schema::TS), false)
            .set_column_encoding(column(schema::TS), Encoding::DELTA_BINARY_PACKED)
            .build();
        // Arrow's own schema is left out: other programs then read plain text columns and not dictionaries in maps.
        let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
        let writer = ArrowWriter::try_new_with_options(Output(file), schema::schema(), options)
            .map_err(|e| StorageError::Parquet { file: path.clone(), what: e.to_string() })?;
        Ok(Self {
            disk,
            dir: dir.to_owned(),
            temporary,
            path,
            writer: Some(writer),
            rows: 0,
            finished: false,
            metrics: Words::default(),
            keys: Words::default(),
            label_values: Words::default(),
            metric: Vec::new(),
            ts: Vec::new(),
            values: Vec::new(),
            value_valid: Vec::new(),
            label_ends: vec![0],
            label_keys: Vec::new(),
            label_numbers: Vec::new(),
            starts: Vec::new(),
            histograms: Vec::new(),
        })
    }

    fn error(&self, e: impl ToString) -> StorageError {
        StorageError::Parquet { file: self.path.clone(), what: e.to_string() }
    }

    /// Rows so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Adds samples of a series.
    pub fn push(&mut self, labels: LabelsRef<'_>, column: &SampleColumn) -> Result<(), StorageError> {
        let mut at = 0;
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        while at < column.len() {
            // Words are numbered afresh in every batch.
            let metric = self.metrics.number(labels.get(METRIC_NAME));
            keys.clear();
            values.clear();
            for (name, value) in labels.iter().filter(|(n, _)| *n != METRIC_NAME) {
                keys.push(self.keys.number(name));
                values.push(self.label_values.number(value));
            }
            let end = column.len().min(at + BATCH_ROWS - self.ts.len());
            for i in at..end {
                let histogram = column.histogram_at(i);
                let v = column.values[i];
                self.metric.push(metric);
                self.ts.push(column.ts[i]);
                let is_value = histogram.is_none() && !is_stale(v);
                self.values.push(if is_value { v } else { 0.0 });
                self.value_valid.push(is_value);
                self.label_keys.extend_from_slice(&keys);
                self.label_numbers.extend_from_slice(&values);
                self.label_ends.push(self.label_keys.len() as i32);
                self.starts.push(column.start_at(i));
                self.histograms.push(histogram.cloned());
            }
            self.rows += (end - at) as u64;
            at = end;
            if self.ts.len() >= BATCH_ROWS {
                self.write_batch()?;
            }
        }
        Ok(())
    }

    fn write_batch(&mut self) -> Result<(), StorageError> {
        if self.ts.is_empty() {
            return Ok(());
        }
        let batch = self.batch().map_err(|e| self.error(e))?;
        match &mut self.writer {
            Some(w) => {
                let written = w.write(&batch);
                written.map_err(|e| self.error(e))
            }
            None => Ok(()),
        }
    }

    fn batch(&mut self) -> Result<RecordBatch, arrow::error::ArrowError> {
        use std::mem::take;
        let n = self.ts.len();
        let metric = self.metrics.array(take(&mut self.metric))?;
        let ts = TimestampMillisecondArray::from(take(&mut self.ts)).with_timezone("UTC");
        let valid = take(&mut self.value_valid);
        let values = Float64Array::new(ScalarBuffer::from(take(&mut self.values)), Some(NullBuffer::from(valid)));
        let entries = StructArray::try_new(
            schema::label_fields(),
            vec![self.keys.array(take(&mut self.label_keys))?, self.label_values.array(take(&mut self.label_numbers))?],
            None,
        )?;
        let ends = std::mem::replace(&mut self.label_ends, vec![0]);
        let offsets = OffsetBuffer::new(ScalarBuffer::from(ends));
        let labels = MapArray::try_new(schema::label_entries(), offsets, entries, None, false)?;
        let starts = take(&mut self.starts);
        let known = NullBuffer::from_iter(starts.iter().map(|s| *s != 0));
        let starts = TimestampMillisecondArray::new(ScalarBuffer::from(starts), Some(known)).with_timezone("UTC");
        let histograms = histogram_array(&take(&mut self.histograms), n)?;
        RecordBatch::try_new(
            schema::schema(),
            vec![metric, Arc::new(ts), Arc::new(values), Arc::new(labels), Arc::new(starts), histograms],
        )
    }

    /// Writes the rest and gives the file its name.
    pub fn finish(mut self) -> Result<u64, StorageError> {
        self.write_batch()?;
        if let Some(writer) = self.writer.take() {
            let mut file = writer.into_inner().map_err(|e| self.error(e))?;
            file.0.sync_data()?;
        }
        self.disk.rename(&self.temporary, &self.path)?;
        self.finished = true;
        self.disk.sync_dir(&self.dir)?;
        Ok(self.rows)
    }
}

impl Drop for DayWriter {
    fn drop(&mut self) {
        if !self.finished {
            self.writer = None;
            if let Err(e) = self.disk.remove(&self.temporary) {
                tracing::warn!(file = self.temporary, error = %e, "cannot remove an unfinished export file");
            }
        }
    }
}

fn float_lists(
    rows: &[Option<Arc<Histogram>>],
    of: impl Fn(&Histogram) -> &[f64],
) -> Result<ArrayRef, arrow::error::ArrowError> {
    let mut lengths = Vec::with_capacity(rows.len());
    let mut all = Vec::new();
    for h in rows {
        let part = h.as_ref().map_or(&[][..], |h| of(h));
        lengths.push(part.len());
        all.extend_from_slice(part);
    }
    let field = Arc::new(Field::new("element", DataType::Float64, false));
    let offsets = OffsetBuffer::from_lengths(lengths);
    Ok(Arc::new(ListArray::try_new(field, offsets, Arc::new(Float64Array::from(all)), None)?))
}

fn span_lists(
    rows: &[Option<Arc<Histogram>>],
    of: impl Fn(&Histogram) -> &[Span],
) -> Result<ArrayRef, arrow::error::ArrowError> {
    let mut counts = Vec::with_capacity(rows.len());
    let (mut offsets, mut lengths) = (Vec::new(), Vec::new());
    for h in rows {
        let part = h.as_ref().map_or(&[][..], |h| of(h));
        counts.push(part.len());
        offsets.extend(part.iter().map(|s| s.offset));
        lengths.extend(part.iter().map(|s| s.length));
    }
    let spans = StructArray::try_new(
        schema::span_fields(),
        vec![Arc::new(Int32Array::from(offsets)), Arc::new(UInt32Array::from(lengths))],
        None,
    )?;
    let field = Arc::new(Field::new("element", DataType::Struct(schema::span_fields()), false));
    Ok(Arc::new(ListArray::try_new(field, OffsetBuffer::from_lengths(counts), Arc::new(spans), None)?))
}

fn histogram_array(rows: &[Option<Arc<Histogram>>], n: usize) -> Result<ArrayRef, arrow::error::ArrowError> {
    let fields = schema::histogram_fields();
    if rows.iter().all(Option::is_none) {
        return Ok(new_null_array(&DataType::Struct(fields), n));
    }
    let ints = |of: fn(&Histogram) -> i32| -> ArrayRef {
        Arc::new(Int32Array::from_iter_values(rows.iter().map(|h| h.as_ref().map_or(0, |h| of(h)))))
    };
    let floats = |of: fn(&Histogram) -> f64| -> ArrayRef {
        Arc::new(Float64Array::from_iter_values(rows.iter().map(|h| h.as_ref().map_or(0.0, |h| of(h)))))
    };
    let columns = vec![
        ints(|h| h.reset_hint as i32),
        ints(|h| h.schema),
        floats(|h| h.zero_threshold),
        floats(|h| h.zero_count),
        floats(|h| h.count),
        floats(|h| h.sum),
        span_lists(rows, |h| &h.positive_spans)?,
        float_lists(rows, |h| &h.positive_buckets)?,
        span_lists(rows, |h| &h.negative_spans)?,
        float_lists(rows, |h| &h.negative_buckets)?,
        float_lists(rows, |h| &h.custom_values)?,
    ];
    let valid = NullBuffer::from_iter(rows.iter().map(Option::is_some));
    Ok(Arc::new(StructArray::try_new(fields, columns, Some(valid))?))
}
