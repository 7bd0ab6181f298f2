//! How Parquet is written: by the export and by answers of SQL.
//!
//! Invariant: columns of floats have no minimum and no maximum, in row groups, pages or anywhere else. The format leaves NaN out of them,
//! and readers that skip by them (DuckDB among others) lose rows: `isnan(value)` finds none, `max(value)` is a number.

use arrow::datatypes::Schema;
use parquet::arrow::ArrowSchemaConverter;
use parquet::basic::{Compression, LogicalType, Type, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnDescriptor;

/// Properties for files of this schema: compressed, and with statistics that cannot mislead.
pub fn parquet_properties(schema: &Schema) -> WriterPropertiesBuilder {
    let mut builder = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3).unwrap_or_default()))
        .set_created_by(concat!("quiver ", env!("CARGO_PKG_VERSION")).to_owned());
    // A schema that Parquet does not know is refused by the writer, with a better error.
    if let Ok(described) = ArrowSchemaConverter::new().convert(schema) {
        for column in described.columns().iter().filter(|c| is_float(c)) {
            builder = builder.set_column_statistics_enabled(column.path().clone(), EnabledStatistics::None);
        }
    }
    builder
}

fn is_float(column: &ColumnDescriptor) -> bool {
    matches!(column.physical_type(), Type::FLOAT | Type::DOUBLE)
        || matches!(column.logical_type_ref(), Some(LogicalType::Float16))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Float32Array, Float64Array, Int64Array, ListArray, RecordBatch, StructArray};
    use arrow::datatypes::{DataType, Field, Float64Type, Int64Type};
    use bytes::Bytes;
    use parquet::arrow::ArrowWriter;
    use parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataReader};

    use super::*;

    #[test]
    fn floats_have_no_statistics_and_the_rest_has() {
        let values: ArrayRef = Arc::new(Float64Array::from(vec![1.0, f64::NAN, 2.0]));
        let list =
            ListArray::from_iter_primitive::<Float64Type, _, _>(vec![Some(vec![Some(f64::NAN)]), None, Some(vec![])]);
        let ints = ListArray::from_iter_primitive::<Int64Type, _, _>(vec![Some(vec![Some(1)]), None, Some(vec![])]);
        let inner = Arc::new(Field::new("sum", values.data_type().clone(), false));
        let batch = RecordBatch::try_from_iter([
            ("n", Arc::new(Int64Array::from(vec![1, 2, 3])) as ArrayRef),
            ("value", Arc::clone(&values)),
            ("real", Arc::new(Float32Array::from(vec![1.0, f32::NAN, 2.0]))),
            ("half", arrow::compute::cast(&values, &DataType::Float16).unwrap()),
            ("list", Arc::new(list)),
            ("ints", Arc::new(ints)),
            ("struct", Arc::new(StructArray::from(vec![(inner, values)]))),
        ])
        .unwrap();
        let properties = parquet_properties(&batch.schema()).build();
        let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        let file = Bytes::from(writer.into_inner().unwrap());
        let mut reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Optional);
        reader.try_parse(&file).unwrap();
        let metadata = reader.finish().unwrap();
        let mut with = Vec::new();
        for c in metadata.row_group(0).columns() {
            let is_float = is_float(c.column_descr());
            assert_eq!(c.statistics().is_some(), !is_float, "{}", c.column_path());
            assert_eq!(c.column_index_offset().is_some(), !is_float, "{}", c.column_path());
            assert!(c.bloom_filter_offset().is_none());
            with.extend((!is_float).then(|| c.column_path().string()));
        }
        assert_eq!(with, ["n", "ints.list.item"]);
    }
}
