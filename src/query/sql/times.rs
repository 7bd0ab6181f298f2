//! Times as texts say them, and texts of times and floats.
//!
//! * `'infinity'`, `'epoch'` and times without seconds are times, as in PostgreSQL; `infinity` is the last one that there is.
//! * A time beyond what nanoseconds hold (1677 to 2262) is one in microseconds.
//! * The text of a time has all digits of its unit, so that texts are in the order of their times.
//! * The text of a float is PostgreSQL's: `4`, `1e+20`, `Infinity`.

use std::fmt::Write;
use std::sync::{Arc, LazyLock};

use arrow::array::timezone::Tz;
use arrow::array::{Array, ArrayRef, AsArray, StringArray, StringBuilder};
use arrow::compute::cast;
use arrow::compute::kernels::cast_utils::string_to_datetime;
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int64Type, IntervalMonthDayNano, TimeUnit};
use arrow::temporal_conversions::as_datetime_with_timezone;
use datafusion::common::{DFSchema, ScalarValue, exec_err};
use datafusion::error::Result;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    Cast, ColumnarValue, Expr, ExprSchemable, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

/// Microseconds of the last day that has a date, which is about as far as they reach.
const LAST: i64 = 8_210_000_000_000_000_000;

/// What a text says of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// Milliseconds, and nanoseconds after them.
    At(i64, u32),
    /// Before all times.
    First,
    /// After all times.
    Last,
}

/// Reads a text as a time; one without a zone is in UTC.
pub fn read(text: &str) -> Option<Said> {
    let text = text.trim();
    match text.to_ascii_lowercase().as_str() {
        "infinity" | "+infinity" => return Some(Said::Last),
        "-infinity" => return Some(Said::First),
        "epoch" => return Some(Said::At(0, 0)),
        _ => {}
    }
    let utc: Tz = "+00:00".parse().ok()?;
    let t = string_to_datetime(&utc, text).ok().or_else(|| string_to_datetime(&utc, &with_seconds(text)?).ok())?;
    Some(Said::At(t.timestamp_millis(), t.timestamp_subsec_nanos() % 1_000_000))
}

/// `2026-06-02 03:50` with its seconds.
fn with_seconds(text: &str) -> Option<String> {
    let (start, rest) = (text.get(..16)?, text.get(16..)?);
    let is_short = start.as_bytes()[13] == b':' && !rest.starts_with(':');
    is_short.then(|| format!("{start}:00{rest}"))
}

/// The text of a constant, with or without a cast to a time around it, as a time beside one in milliseconds: in those if it is whole
/// ones, else in the finest unit that holds it.
pub fn beside_milliseconds(e: &Expr, zone: Option<&Arc<str>>) -> Option<Expr> {
    let zone = zone.cloned();
    let value = match read(constant(e)?)? {
        Said::At(ms, 0) => ScalarValue::TimestampMillisecond(Some(ms), zone),
        Said::At(ms, ns) => match ms.checked_mul(1_000_000).and_then(|t| t.checked_add(ns.into())) {
            Some(t) => ScalarValue::TimestampNanosecond(Some(t), zone),
            None => ScalarValue::TimestampMicrosecond(
                Some(ms.saturating_mul(1000).saturating_add(i64::from(ns) / 1000)),
                zone,
            ),
        },
        Said::First => ScalarValue::TimestampMillisecond(Some(i64::MIN), zone),
        Said::Last => ScalarValue::TimestampMillisecond(Some(i64::MAX), zone),
    };
    Some(Expr::Literal(value, None))
}

fn constant(e: &Expr) -> Option<&str> {
    match e {
        Expr::Literal(v, _) => v.try_as_str().flatten(),
        _ => None,
    }
}

/// `timestamp '…'` that the engine would not read, or that nanoseconds do not hold.
pub fn of_cast(c: &Cast) -> Option<Expr> {
    let DataType::Timestamp(unit, zone) = c.field.data_type() else { return None };
    let text = constant(&c.expr)?;
    let zone = zone.clone();
    if zone.as_deref().is_some_and(|z| !matches!(z, "UTC" | "+00:00")) {
        return None;
    }
    let microseconds = |ms: i64, ns: u32| ms.saturating_mul(1000).saturating_add(i64::from(ns) / 1000);
    let value = match read(text)? {
        Said::First => ScalarValue::TimestampMicrosecond(Some(-LAST), zone),
        Said::Last => ScalarValue::TimestampMicrosecond(Some(LAST), zone),
        Said::At(ms, ns) => match ms.checked_mul(1_000_000).and_then(|t| t.checked_add(ns.into())) {
            // `timestamp(3)` and others have a unit of their own.
            Some(_) if *unit != TimeUnit::Nanosecond => return None,
            Some(t) => ScalarValue::TimestampNanosecond(Some(t), zone),
            None => ScalarValue::TimestampMicrosecond(Some(microseconds(ms, ns)), zone),
        },
    };
    Some(Expr::Literal(value, None))
}

/// `ts::timestamp(0)` is the nearest second, not the one before.
pub fn rounded(mut c: Cast, schema: &DFSchema) -> Expr {
    let per_second = |unit: TimeUnit| match unit {
        TimeUnit::Second => 1_i64,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    };
    if let (DataType::Timestamp(to, _), Ok(DataType::Timestamp(from, _))) =
        (c.field.data_type(), c.expr.get_type(schema))
        && per_second(*to) < per_second(from)
    {
        let half = IntervalMonthDayNano::new(0, 0, 500_000_000 / per_second(*to));
        let half = Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(half)), None);
        c.expr = Box::new(*c.expr + half);
    }
    Expr::Cast(c)
}

/// The text of a time or a float in the place of a cast to it.
pub fn text_of(c: Cast, schema: &DFSchema) -> Expr {
    let to = c.field.data_type().clone();
    let is_text = matches!(to, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    match c.expr.get_type(schema) {
        Ok(DataType::Timestamp(..) | DataType::Float64 | DataType::Float32) if is_text => {
            let function = ScalarUDF::new_from_impl(TextOf { to, signature: SIGNATURE.clone() });
            Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(function), vec![*c.expr]))
        }
        _ => Expr::Cast(c),
    }
}

static SIGNATURE: LazyLock<Signature> = LazyLock::new(|| Signature::any(1, Volatility::Immutable));

/// See [`text_of`].
#[derive(Debug, PartialEq, Eq, Hash)]
struct TextOf {
    to: DataType,
    signature: Signature,
}

impl TextOf {
    fn of(&self, array: &ArrayRef) -> Result<ArrayRef> {
        let texts: ArrayRef = match array.data_type() {
            DataType::Float64 => {
                let texts = array.as_primitive::<Float64Type>().iter();
                Arc::new(texts.map(|v| v.map(|v| float(v, 15))).collect::<StringArray>())
            }
            DataType::Float32 => {
                let texts = array.as_primitive::<Float32Type>().iter();
                Arc::new(texts.map(|v| v.map(|v| float(v, 6))).collect::<StringArray>())
            }
            DataType::Timestamp(unit, zone) => Arc::new(times(array, *unit, zone.as_deref())?),
            _ => Arc::clone(array),
        };
        Ok(cast(&texts, &self.to)?)
    }
}

impl ScalarUDFImpl for TextOf {
    fn name(&self) -> &str {
        "text"
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.to.clone())
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        super::float_order::by_array(&args, |a| self.of(a))
    }
}

fn times(array: &ArrayRef, unit: TimeUnit, zone: Option<&str>) -> Result<StringArray> {
    let numbers = cast(array, &DataType::Int64)?;
    let numbers = numbers.as_primitive::<Int64Type>();
    let tz: Tz = zone.unwrap_or("+00:00").parse()?;
    let (per_second, digits) = match unit {
        TimeUnit::Second => (1, ""),
        TimeUnit::Millisecond => (1_000, "%.3f"),
        TimeUnit::Microsecond => (1_000_000, "%.6f"),
        TimeUnit::Nanosecond => (1_000_000_000, "%.9f"),
    };
    let offset = match zone {
        None => "",
        Some("UTC" | "Z" | "+00:00") => "Z",
        Some(_) => "%:z",
    };
    let format = format!("%Y-%m-%dT%H:%M:%S{digits}{offset}");
    let mut out = StringBuilder::with_capacity(numbers.len(), numbers.len() * 24);
    for i in 0..numbers.len() {
        if numbers.is_null(i) {
            out.append_null();
            continue;
        }
        let t = numbers.value(i);
        let time = match unit {
            TimeUnit::Second => as_datetime_with_timezone::<arrow::datatypes::TimestampSecondType>(t, tz),
            TimeUnit::Millisecond => as_datetime_with_timezone::<arrow::datatypes::TimestampMillisecondType>(t, tz),
            TimeUnit::Microsecond => as_datetime_with_timezone::<arrow::datatypes::TimestampMicrosecondType>(t, tz),
            TimeUnit::Nanosecond => as_datetime_with_timezone::<arrow::datatypes::TimestampNanosecondType>(t, tz),
        };
        match time {
            Some(time) => {
                // Writing to memory does not fail.
                let _ = write!(out, "{}", time.format(&format));
                out.append_value("");
            }
            None => return exec_err!("a time is out of range: {} seconds after 1970", t / per_second),
        }
    }
    Ok(out.finish())
}

/// A float as PostgreSQL writes it: as few digits as tell it apart, with an exponent from 10 to the `digits`-th on.
fn float<T: Into<f64> + Copy + std::fmt::LowerExp + std::fmt::Display>(v: T, digits: i32) -> String {
    let wide: f64 = v.into();
    if wide.is_nan() {
        return "NaN".into();
    }
    if wide.is_infinite() {
        return if wide > 0.0 { "Infinity".into() } else { "-Infinity".into() };
    }
    let text = format!("{v:e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    match exponent.parse::<i32>() {
        Ok(e) if e < -4 || e >= digits => {
            let sign = if e < 0 { '-' } else { '+' };
            format!("{mantissa}e{sign}{:02}", e.abs())
        }
        _ => v.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_floats_are_postgresqls() {
        for (v, wanted) in [
            (4.0, "4"),
            (-4.5, "-4.5"),
            (-0.0, "-0"),
            (1e14, "100000000000000"),
            (1e15, "1e+15"),
            (1.5e20, "1.5e+20"),
            (1e-4, "0.0001"),
            (1e-5, "1e-05"),
            (1e300, "1e+300"),
            (f64::INFINITY, "Infinity"),
        ] {
            assert_eq!(float(v, 15), wanted);
        }
        assert_eq!((float(1e6_f32, 6), float(0.1_f32, 6)), ("1e+06".into(), "0.1".into()));
    }

    #[test]
    fn times_are_read_without_seconds_and_without_end() {
        let at = Some(Said::At(1_780_372_200_000, 0));
        for text in [
            "2026-06-02 03:50",
            "2026-06-02T03:50",
            "2026-06-02T03:50Z",
            "2026-06-02 05:50+02:00",
            "2026-06-02 03:50:00",
        ] {
            assert_eq!(read(text), at, "{text}");
        }
        assert_eq!(
            (read("infinity"), read("-Infinity"), read("epoch")),
            (Some(Said::Last), Some(Said::First), Some(Said::At(0, 0)))
        );
        assert_eq!(read("2026-06-02 03:50:00.0005"), Some(Said::At(1_780_372_200_000, 500_000)));
        assert_eq!((read("soon"), read("2026-06-02 0é:50")), (None, None));
    }
}
