//! The columns, as Arrow types.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, TimeUnit};

pub(super) const METRIC: &str = "metric";
pub(super) const TS: &str = "ts";
pub(super) const VALUE: &str = "value";
pub(super) const LABELS: &str = "labels";
pub(super) const START_TS: &str = "start_ts";
pub(super) const HISTOGRAM: &str = "histogram";

pub(super) fn text() -> DataType {
    DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
}

pub(super) fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))
}

pub(super) fn label_fields() -> Fields {
    vec![Field::new("key", text(), false), Field::new("value", text(), false)].into()
}

pub(super) fn label_entries() -> Arc<Field> {
    Arc::new(Field::new("key_value", DataType::Struct(label_fields()), false))
}

pub(super) fn span_fields() -> Fields {
    vec![Field::new("offset", DataType::Int32, false), Field::new("length", DataType::UInt32, false)].into()
}

fn list(of: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("element", of, false)))
}

pub(super) fn histogram_fields() -> Fields {
    let spans = || list(DataType::Struct(span_fields()));
    let floats = || list(DataType::Float64);
    vec![
        Field::new("reset_hint", DataType::Int32, false),
        Field::new("schema", DataType::Int32, false),
        Field::new("zero_threshold", DataType::Float64, false),
        Field::new("zero_count", DataType::Float64, false),
        Field::new("count", DataType::Float64, false),
        Field::new("sum", DataType::Float64, false),
        Field::new("positive_spans", spans(), false),
        Field::new("positive_buckets", floats(), false),
        Field::new("negative_spans", spans(), false),
        Field::new("negative_buckets", floats(), false),
        Field::new("custom_values", floats(), false),
    ]
    .into()
}

pub(super) fn schema() -> Arc<Schema> {
    Arc::new(Schema::new(vec![
        Field::new(METRIC, text(), false),
        Field::new(TS, timestamp(), false),
        Field::new(VALUE, DataType::Float64, true),
        Field::new(LABELS, DataType::Map(label_entries(), false), false),
        Field::new(START_TS, timestamp(), true),
        Field::new(HISTOGRAM, DataType::Struct(histogram_fields()), true),
    ]))
}
