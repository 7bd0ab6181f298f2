//! Values of SQL answers as JSON that every reader understands and that loses nothing.
//!
//! | value | JSON |
//! | --- | --- |
//! | a float, at any depth | a number; `"NaN"`, `"+Inf"`, `"-Inf"`, for which JSON has no number |
//! | null | `null` (JSON Lines leave the key out) |
//! | a whole number of 64 bits, a decimal | a number up to 2^53 (digits of a decimal), which JavaScript reads exactly; text beyond |
//! | `series_id` | text, always |

use std::fmt::Debug;
use std::io::Write;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, PrimitiveArray, StringArray, make_array};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, DecimalType, Field, FieldRef, Float16Type, Float32Type, Float64Type,
    Int64Type, Schema, SchemaRef, TimeUnit, UInt64Type,
};
use arrow::error::ArrowError;
use arrow::json::writer::{Encoder, EncoderFactory, EncoderOptions, LineDelimited, NullableEncoder};
use arrow::json::{Writer, WriterBuilder};
use arrow::record_batch::RecordBatch;

/// Whole numbers beyond this are not exact as a double.
const EXACT_MAX: u64 = 1 << 53;

#[derive(Debug)]
struct Encoders;

struct Cells<T: ArrowPrimitiveType, F: Fn(T::Native, &mut Vec<u8>)>(PrimitiveArray<T>, F);

impl<T: ArrowPrimitiveType, F: Fn(T::Native, &mut Vec<u8>)> Encoder for Cells<T, F> {
    fn encode(&mut self, i: usize, out: &mut Vec<u8>) {
        (self.1)(self.0.value(i), out);
    }
}

fn cells<'a, T: ArrowPrimitiveType>(
    array: &dyn Array,
    write: impl Fn(T::Native, &mut Vec<u8>) + 'a,
) -> NullableEncoder<'a> {
    let array = array.as_primitive::<T>().clone();
    let nulls = array.nulls().cloned();
    NullableEncoder::new(Box::new(Cells(array, write)), nulls)
}

/// A float whose shortest text is `shortest`.
fn float(v: f64, shortest: &dyn Debug, out: &mut Vec<u8>) {
    // Writing to memory does not fail.
    let _ = match v {
        v if v.is_nan() => out.write_all(br#""NaN""#),
        v if v.is_infinite() => out.write_all(if v > 0.0 { br#""+Inf""# } else { br#""-Inf""# }),
        _ => write!(out, "{shortest:?}"),
    };
}

fn whole(text: bool, v: impl std::fmt::Display, out: &mut Vec<u8>) {
    let _ = if text { write!(out, "\"{v}\"") } else { write!(out, "{v}") };
}

impl EncoderFactory for Encoders {
    fn make_default_encoder<'a>(
        &self,
        field: &'a FieldRef,
        array: &'a dyn Array,
        _: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        let is_id = field.name() == "series_id";
        Ok(match array.data_type() {
            DataType::Float64 => Some(cells::<Float64Type>(array, |v, out| float(v, &v, out))),
            DataType::Float32 => Some(cells::<Float32Type>(array, |v, out| float(v.into(), &v, out))),
            DataType::Float16 => Some(cells::<Float16Type>(array, |v, out| float(v.into(), &f32::from(v), out))),
            DataType::Int64 => {
                Some(cells::<Int64Type>(array, move |v, out| whole(is_id || v.unsigned_abs() > EXACT_MAX, v, out)))
            }
            DataType::UInt64 => Some(cells::<UInt64Type>(array, move |v, out| whole(is_id || v > EXACT_MAX, v, out))),
            // As many digits as a double has are a number.
            DataType::Decimal128(precision, scale) => {
                let (precision, scale) = (*precision, *scale);
                Some(cells::<Decimal128Type>(array, move |v, out| {
                    let is_text = v.unsigned_abs() > u128::from(EXACT_MAX);
                    whole(is_text, Decimal128Type::format_decimal(v, precision, scale), out);
                }))
            }
            _ => None,
        })
    }
}

fn writer(explicit_nulls: bool) -> Writer<Vec<u8>, LineDelimited> {
    WriterBuilder::new()
        .with_explicit_nulls(explicit_nulls)
        .with_encoder_factory(Arc::new(Encoders))
        .build::<_, LineDelimited>(Vec::new())
}

/// The type that a column is written as where it becomes text: no text by number, and keys of maps are texts.
pub fn written_type(t: &DataType) -> DataType {
    nested(t, &|t| match t {
        DataType::Dictionary(_, value) => Some(written_type(value)),
        DataType::Map(entries, sorted) => {
            let DataType::Struct(fields) = entries.data_type() else { return None };
            let fields: Vec<FieldRef> = fields
                .iter()
                .enumerate()
                .map(|(i, f)| {
                    let is_text = matches!(f.data_type(), DataType::Utf8 | DataType::LargeUtf8);
                    let to = if i == 0 && !is_text { DataType::Utf8 } else { written_type(f.data_type()) };
                    Arc::new(f.as_ref().clone().with_data_type(to))
                })
                .collect();
            let entries = entries.as_ref().clone().with_data_type(DataType::Struct(fields.into()));
            Some(DataType::Map(Arc::new(entries), *sorted))
        }
        _ => None,
    })
}

/// The type that a column is stored as in Parquet, which has no intervals of this kind.
pub fn stored_type(t: &DataType) -> DataType {
    nested(t, &|t| matches!(t, DataType::Interval(_)).then_some(DataType::Utf8))
}

/// A type in which `change` replaced types at any depth.
fn nested(t: &DataType, change: &dyn Fn(&DataType) -> Option<DataType>) -> DataType {
    if let Some(changed) = change(t) {
        return changed;
    }
    let field = |f: &FieldRef| Arc::new(f.as_ref().clone().with_data_type(nested(f.data_type(), change)));
    match t {
        DataType::List(f) => DataType::List(field(f)),
        DataType::LargeList(f) => DataType::LargeList(field(f)),
        DataType::FixedSizeList(f, n) => DataType::FixedSizeList(field(f), *n),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(field).collect()),
        DataType::Map(f, sorted) => DataType::Map(field(f), *sorted),
        t => t.clone(),
    }
}

/// Seconds between 1970 and the first and last day that have a date.
const SECONDS_MAX: i64 = 8_210_000_000_000;

/// Fails if there is a time without a date: writers would put their error into the cell.
pub fn check_times(array: &ArrayRef) -> Result<(), String> {
    let per_second = match array.data_type() {
        DataType::Timestamp(TimeUnit::Second, _) => 1,
        DataType::Timestamp(TimeUnit::Millisecond, _) | DataType::Date64 => 1_000,
        DataType::Date32 => {
            let far = array
                .as_primitive::<Date32Type>()
                .iter()
                .flatten()
                .find(|d| i64::from(*d).abs() * 86_400 > SECONDS_MAX);
            return far.map_or(Ok(()), |d| Err(format!("a date is out of range: {d} days after 1970")));
        }
        // Finer units do not reach so far.
        DataType::List(_)
        | DataType::LargeList(_)
        | DataType::FixedSizeList(..)
        | DataType::Struct(_)
        | DataType::Map(..) => {
            return array.to_data().child_data().iter().try_for_each(|d| check_times(&make_array(d.clone())));
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => 1_000_000,
        _ => return Ok(()),
    };
    let numbers = arrow::compute::cast(array, &DataType::Int64).map_err(|e| e.to_string())?;
    let far = numbers.as_primitive::<Int64Type>().iter().flatten().find(|t| (t / per_second).abs() > SECONDS_MAX);
    far.map_or(Ok(()), |t| Err(format!("a time is out of range: {} seconds after 1970", t / per_second)))
}

/// Floats as texts, with the names that other formats have for those without a number.
pub fn float_texts(array: &ArrayRef) -> ArrayRef {
    fn texts<T: ArrowPrimitiveType>(array: &ArrayRef) -> ArrayRef
    where
        T::Native: Debug + Into<f64>,
    {
        let text = |v: T::Native| {
            let wide: f64 = v.into();
            match wide {
                w if w.is_nan() => "NaN".to_owned(),
                w if w.is_infinite() => if w > 0.0 { "+Inf" } else { "-Inf" }.to_owned(),
                _ => format!("{v:?}"),
            }
        };
        Arc::new(array.as_primitive::<T>().iter().map(|v| v.map(text)).collect::<StringArray>())
    }
    match array.data_type() {
        DataType::Float32 => texts::<Float32Type>(array),
        _ => texts::<Float64Type>(array),
    }
}

/// An object for each row, and a line for each object.
pub fn lines(batch: &RecordBatch) -> Result<Vec<u8>, String> {
    let mut w = writer(false);
    w.write(batch).and_then(|()| w.finish()).map_err(|e| e.to_string())?;
    Ok(w.into_inner())
}

/// JSON text of each row of a column, as the writer made it: a parser in between would round numbers.
pub fn values(field: &Field, column: &ArrayRef) -> Result<Vec<String>, String> {
    // The writer's only key is known, whatever the column is called; a series' number is told by its name.
    let name = if field.name() == "series_id" { "series_id" } else { "v" };
    let field = Field::new(name, column.data_type().clone(), true);
    let schema = Arc::new(Schema::new(vec![field]));
    let batch = RecordBatch::try_new(schema, vec![Arc::clone(column)]).map_err(|e| e.to_string())?;
    let mut w = writer(true);
    w.write(&batch).and_then(|()| w.finish()).map_err(|e| e.to_string())?;
    let bytes = w.into_inner();
    let before = format!("{{\"{name}\":");
    bytes
        .split(|b| *b == b'\n')
        .filter(|l| !l.is_empty())
        .map(|line| {
            let value = line.strip_prefix(before.as_bytes()).and_then(|l| l.strip_suffix(b"}"));
            let text = value.and_then(|v| std::str::from_utf8(v).ok());
            text.map(str::to_owned).ok_or_else(|| "a row that is not one JSON object".to_owned())
        })
        .collect()
}

/// `schema`, where a column whose name another has before it is called `NAME_1`, `NAME_2` and so on: for formats that know
/// columns by their names.
pub fn unique_names(schema: &SchemaRef) -> SchemaRef {
    let mut taken: std::collections::HashSet<String> = schema.fields().iter().map(|f| f.name().clone()).collect();
    if taken.len() == schema.fields().len() {
        return Arc::clone(schema);
    }
    let mut seen = std::collections::HashSet::new();
    let fields: Vec<_> = schema
        .fields()
        .iter()
        .map(|f| {
            if seen.insert(f.name().clone()) {
                return f.as_ref().clone();
            }
            let mut n = 1;
            let mut name = format!("{}_{n}", f.name());
            while !taken.insert(name.clone()) {
                n += 1;
                name = format!("{}_{n}", f.name());
            }
            f.as_ref().clone().with_name(name)
        })
        .collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float32Array, Float64Array, Int64Array, ListArray};

    use super::*;

    fn of(name: &str, column: impl Array + 'static) -> Vec<String> {
        let column: ArrayRef = Arc::new(column);
        values(&Field::new(name, column.data_type().clone(), true), &column).unwrap()
    }

    #[test]
    fn floats_without_a_number_are_text_and_null_is_null() {
        let odd = [Some(f64::NAN), Some(f64::INFINITY), None, Some(-0.0), Some(0.1), Some(1e300)];
        let wanted = [r#""NaN""#, r#""+Inf""#, "null", "-0.0", "0.1", "1e300"];
        assert_eq!(of("value", odd.into_iter().collect::<Float64Array>()), wanted);
        assert_eq!(
            of("r", Float32Array::from(vec![f32::NEG_INFINITY, 0.1, f32::NAN])),
            [r#""-Inf""#, "0.1", r#""NaN""#]
        );
        let list = ListArray::from_iter_primitive::<Float64Type, _, _>([Some(vec![Some(f64::NAN), None, Some(2.0)])]);
        assert_eq!(of("list", list), [r#"["NaN",null,2.0]"#]);
    }

    #[test]
    fn whole_numbers_are_read_exactly() {
        let exact = 1 << 53;
        let wanted = ["5", "9007199254740992", r#""9007199254740993""#, r#""-9223372036854775808""#];
        assert_eq!(of("n", Int64Array::from(vec![5, exact, exact + 1, i64::MIN])), wanted);
        let decimals = arrow::array::Decimal128Array::from(vec![125, exact as i128 + 1, -5]);
        let decimals = decimals.with_precision_and_scale(20, 2).unwrap();
        assert_eq!(of("d", decimals), ["1.25", r#""90071992547409.93""#, "-0.05"]);
        assert_eq!(of("series_id", Int64Array::from(vec![5])), [r#""5""#]);
    }

    #[test]
    fn every_column_has_a_name_of_its_own() {
        let field = |n: &str| Field::new(n, DataType::Int64, true);
        let schema = Arc::new(Schema::new(["job", "job", "job_1", "x", "job"].map(field).to_vec()));
        let names: Vec<_> = unique_names(&schema).fields().iter().map(|f| f.name().clone()).collect();
        assert_eq!(names, ["job", "job_2", "job_1", "x", "job_3"]);
    }
}
