//! Parquet round trips.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use quiver_model::{Labels, MatchOp, Matcher, Need, SampleColumn, TimeRange};
use quiver_persistence::{Disk, MemoryDisk};

use super::*;
use crate::codec::chunk::tests::{any_column, equal_to_the_bit};
use crate::codec::{Chunk, Decoder};
use crate::error::StorageError;
use crate::index::head::tests::{any_labels, any_matcher};

fn export(series: &BTreeMap<Labels, SampleColumn>) -> Arc<MemoryDisk> {
    let disk = Arc::new(MemoryDisk::new());
    let exporter = ParquetExporter::create(disk.clone(), "out").unwrap();
    let min = series.values().map(|c| c.ts[0]).min().unwrap_or(0);
    let max = series.values().map(|c| c.ts[c.len() - 1]).max().unwrap_or(0);
    for day in days(TimeRange { min, max }) {
        let mut w = exporter.day(day.min).unwrap();
        for (l, c) in series {
            let lo = c.ts.partition_point(|t| *t < day.min);
            let hi = c.ts.partition_point(|t| *t <= day.max);
            let mut part = SampleColumn::default();
            part.extend_from(c, lo..hi);
            w.push(l.as_ref(), &part).unwrap();
        }
        w.finish().unwrap();
    }
    disk
}

fn read(disk: &dyn Disk, matchers: &[Matcher], range: TimeRange) -> Result<Vec<(Labels, SampleColumn)>, StorageError> {
    let mut decoder = Decoder::new();
    let decoded = |(labels, chunks): (Labels, Vec<Chunk>)| {
        let mut column = SampleColumn::default();
        for chunk in chunks {
            decoder.decode_into(chunk.as_ref(), Need::ALL, TimeRange::ALL, &mut column).unwrap();
        }
        (labels, column)
    };
    Ok(read_parquet_dir(disk, "out", matchers, range)?.into_iter().map(decoded).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn what_is_exported_comes_back(
        series in proptest::collection::btree_map(any_labels(), any_column(40), 1..10), stretch in 1i64..400_000,
        matchers in proptest::collection::vec(any_matcher(), 0..3), from in 0.0f64..1.0, to in 0.0f64..1.0,
    ) {
        let mut series = series;
        for c in series.values_mut() {
            let begin = c.ts[0];
            // Some days, across 1970.
            c.ts.iter_mut().for_each(|t| *t = (*t - begin) * stretch - 86_400_000);
        }
        let disk = export(&series);
        let (min, max) = (-86_400_000i64, series.values().map(|c| c.ts[c.len() - 1]).max().unwrap_or(0));
        let at = |f: f64| min + ((max - min) as f64 * f) as i64;
        let range = TimeRange { min: at(from.min(to)), max: at(from.max(to)) };
        let all = TimeRange { min: series.values().map(|c| c.ts[0]).min().unwrap(), max };
        prop_assert_eq!(parquet_time_bounds(&*disk, "out").unwrap(), Some(all));
        for (range, matchers) in [(TimeRange::ALL, &[][..]), (range, &matchers[..])] {
            let mut want = Vec::new();
            for (l, c) in &series {
                let (lo, hi) =
                    (c.ts.partition_point(|t| *t < range.min), c.ts.partition_point(|t| *t <= range.max));
                let mut part = SampleColumn::default();
                part.extend_from(c, lo..hi);
                if !part.is_empty() && matchers.iter().all(|m| m.matches_labels(l.as_ref())) {
                    want.push((l, part));
                }
            }
            let got = read(&*disk, matchers, range).unwrap();
            prop_assert_eq!(got.len(), want.len());
            for ((l, c), (m, d)) in got.iter().zip(want) {
                prop_assert_eq!(l, m);
                equal_to_the_bit(c, &d).map_err(TestCaseError::fail)?;
            }
        }
    }
}

#[test]
fn days_are_named_as_people_name_them() {
    assert_eq!(day_of(0), "1970-01-01");
    assert_eq!(day_of(-1), "1969-12-31");
    assert_eq!(day_of(951_782_400_000), "2000-02-29");
    assert_eq!(day_of(1_767_225_599_999), "2025-12-31");
    assert_eq!(day_of(i64::MIN), "0000-01-01");
    assert_eq!(day_of(i64::MAX), "9999-12-31");
    let range = TimeRange { min: -5, max: 86_400_000 };
    let got: Vec<(i64, i64)> = days(range).map(|d| (d.min, d.max)).collect();
    assert_eq!(got, [(-5, -1), (0, 86_399_999), (86_400_000, 86_400_000)]);
}

#[test]
fn files_are_one_per_day_and_days_outside_are_not_opened() {
    let l = Labels::from_pairs([("__name__", "up"), ("host", "a")]).unwrap();
    let mut c = SampleColumn::default();
    for i in 0..200_000i64 {
        c.push_float(i * 1000, (i % 7) as f64, 0);
    }
    let disk = export(&BTreeMap::from([(l.clone(), c.clone())]));
    assert_eq!(disk.list_dirs("out").unwrap(), ["day=1970-01-01", "day=1970-01-02", "day=1970-01-03"]);
    assert_eq!(disk.list("out/day=1970-01-02").unwrap(), ["part-0.parquet"]);
    let mut broken = disk.create("out/day=1970-01-03/part-0.parquet").unwrap();
    broken.write_all(b"PAR1 is not enough").unwrap();
    drop(broken);
    let range = TimeRange { min: 86_399_000, max: 86_401_000 };
    let re = Matcher::new(MatchOp::Regex, "host", "a|b", 1 << 20).unwrap();
    let got = read(&*disk, &[re, Matcher::equal("__name__", "up")], range).unwrap();
    assert_eq!(got[0].1.ts, [86_399_000, 86_400_000, 86_401_000]);
    assert!(read(&*disk, &[], TimeRange::ALL).is_err());
    assert!(parquet_time_bounds(&*disk, "out").is_err());
}

#[test]
fn files_of_other_programs_may_have_any_order_another_unit_and_no_statistics() {
    use arrow::array::{Float64Array, MapBuilder, RecordBatch, StringArray, StringBuilder, TimestampMicrosecondArray};
    use parquet::arrow::ArrowWriter;
    use parquet::file::properties::{EnabledStatistics, WriterProperties};

    let mut labels = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    for host in ["b", "a", "b", "a"] {
        labels.keys().append_value("host");
        labels.values().append_value(host);
        labels.append(true).unwrap();
    }
    let batch = RecordBatch::try_from_iter([
        ("metric", Arc::new(StringArray::from(vec!["up"; 4])) as arrow::array::ArrayRef),
        ("ts", Arc::new(TimestampMicrosecondArray::from(vec![Some(9_000), Some(5_000), Some(2_000), None]))),
        ("value", Arc::new(Float64Array::from(vec![3.0, 2.0, 1.0, 0.0]))),
        ("labels", Arc::new(labels.finish())),
    ])
    .unwrap();
    let properties = WriterProperties::builder().set_statistics_enabled(EnabledStatistics::None).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    let disk = MemoryDisk::new();
    disk.create_dir("out").unwrap();
    disk.create("out/some.parquet").unwrap().write_all(&writer.into_inner().unwrap()).unwrap();

    assert_eq!(parquet_time_bounds(&disk, "out").unwrap(), Some(TimeRange { min: 2, max: 9 }));
    let got = read(&disk, &[], TimeRange::ALL).unwrap();
    let shown: Vec<_> = got.iter().map(|(l, c)| (l.get("host"), c.ts.clone(), c.values.clone())).collect();
    assert_eq!(shown, [("a", vec![5], vec![2.0]), ("b", vec![2, 9], vec![1.0, 3.0])]);
}

#[test]
fn statistics_of_floats_are_neither_written_nor_believed() {
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    let l = Labels::from_pairs([("__name__", "up"), ("host", "a")]).unwrap();
    let mut c = SampleColumn::default();
    for (i, v) in [1.0, f64::NAN, f64::INFINITY, -0.0, 2.0].into_iter().enumerate() {
        c.push_float(i as i64 * 1000, v, 0);
    }
    let disk = export(&BTreeMap::from([(l, c.clone())]));
    let file = bytes::Bytes::from(disk.read("out/day=1970-01-01/part-0.parquet").unwrap());
    let metadata = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let columns = metadata.metadata().row_group(0).columns();
    let has = |name: &str| columns.iter().find(|c| c.column_path().string() == name).unwrap().statistics().is_some();
    assert!(has("ts") && has("metric") && !has("value") && !has("histogram.sum"));
    assert!(!has("histogram.positive_buckets.list.element"));

    // A file of another program, with a minimum and a maximum that leave NaN out.
    use arrow::array::{Float64Array, MapBuilder, RecordBatch, StringArray, StringBuilder, TimestampMillisecondArray};
    let mut labels = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    (0..3).for_each(|_| labels.append(true).unwrap());
    let batch = RecordBatch::try_from_iter([
        ("metric", Arc::new(StringArray::from(vec!["up"; 3])) as arrow::array::ArrayRef),
        ("ts", Arc::new(TimestampMillisecondArray::from(vec![1, 2, 3]))),
        ("value", Arc::new(Float64Array::from(vec![1.0, f64::NAN, 2.0]))),
        ("labels", Arc::new(labels.finish())),
    ])
    .unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    let foreign = MemoryDisk::new();
    foreign.create_dir("out").unwrap();
    foreign.create("out/some.parquet").unwrap().write_all(&writer.into_inner().unwrap()).unwrap();
    let got = read(&foreign, &[], TimeRange::ALL).unwrap();
    assert!(got[0].1.values[1].is_nan() && got[0].1.values.len() == 3, "{:?}", got[0].1.values);
}
