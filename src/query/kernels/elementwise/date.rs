//! Parts of dates (UTC, proleptic Gregorian) from seconds since 1970.

use quiver_model::calendar::{date_of, days_in_month};

/// Which part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum DatePart {
    DayOfMonth,
    DayOfWeek,
    DayOfYear,
    DaysInMonth,
    Hour,
    Minute,
    Month,
    Year,
}

const DAY: u64 = 86_400;
/// Days from the first of March of year −292277022400 to 1970-01-01: times count from there, modulo 2^64 seconds.
const DAYS_BEFORE_1970: i64 = 292_277_022_400 / 400 * 146_097 + 719_468;

/// Whole seconds of a float as Go on amd64 converts them: what does not fit is the smallest number.
#[inline]
fn to_seconds(v: f64) -> i64 {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    if (-LIMIT..LIMIT).contains(&v) { v as i64 } else { i64::MIN }
}

/// A part of the date at `v` seconds.
pub fn part(p: DatePart, v: f64) -> f64 {
    part_at(p, to_seconds(v))
}

/// A part of the date at whole `seconds`.
pub fn part_at(p: DatePart, seconds: i64) -> f64 {
    let since = (seconds as u64).wrapping_add((DAYS_BEFORE_1970 as u64).wrapping_mul(DAY));
    let day = (since / DAY) as i64 - DAYS_BEFORE_1970;
    let second = since % DAY;
    let value = match p {
        DatePart::Hour => (second / 3600) as i64,
        DatePart::Minute => (second / 60 % 60) as i64,
        // 1970-01-01 was a Thursday.
        DatePart::DayOfWeek => (day + 4).rem_euclid(7),
        DatePart::DayOfMonth => date_of(day).2,
        DatePart::Month => date_of(day).1,
        DatePart::Year => date_of(day).0,
        DatePart::DaysInMonth => {
            let (y, m, _) = date_of(day);
            days_in_month(y, m)
        }
        DatePart::DayOfYear => {
            let (y, m, d) = date_of(day);
            (1..m).map(|m| days_in_month(y, m)).sum::<i64>() + d
        }
    };
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [DatePart; 8] = [
        DatePart::Year,
        DatePart::Month,
        DatePart::DayOfMonth,
        DatePart::DayOfWeek,
        DatePart::DayOfYear,
        DatePart::DaysInMonth,
        DatePart::Hour,
        DatePart::Minute,
    ];

    fn parts(v: f64) -> [f64; 8] {
        ALL.map(|p| part(p, v))
    }

    #[test]
    fn as_go_has_them() {
        assert_eq!(parts(0.0), [1970.0, 1.0, 1.0, 4.0, 1.0, 31.0, 0.0, 0.0]);
        assert_eq!(parts(1_136_239_445.0), [2006.0, 1.0, 2.0, 1.0, 2.0, 31.0, 22.0, 4.0]);
        assert_eq!(parts(1_709_251_199.9), [2024.0, 2.0, 29.0, 4.0, 60.0, 29.0, 23.0, 59.0]);
        assert_eq!(parts(-1.0), [1969.0, 12.0, 31.0, 3.0, 365.0, 31.0, 23.0, 59.0]);
        assert_eq!(parts(-0.5), parts(0.0));
        assert_eq!(parts(f64::NAN), [292277026596.0, 12.0, 4.0, 0.0, 339.0, 31.0, 15.0, 30.0]);
        assert_eq!(parts(f64::INFINITY), [292277026596.0, 12.0, 4.0, 0.0, 339.0, 31.0, 15.0, 30.0]);
        assert_eq!(parts(1000000000000000000.0), [31688740476.0, 10.0, 23.0, 5.0, 297.0, 31.0, 1.0, 46.0]);
        assert_eq!(parts(-1000000000000000000.0), [-31688736537.0, 3.0, 10.0, 2.0, 69.0, 31.0, 22.0, 13.0]);
        assert_eq!(parts(9200000000000000000.0), [291536396232.0, 8.0, 31.0, 5.0, 244.0, 31.0, 11.0, 33.0]);
        assert_eq!(parts(-9200000000000000000.0), [-291536392293.0, 5.0, 3.0, 2.0, 123.0, 31.0, 12.0, 26.0]);
        assert_eq!(parts(-62135596800.0), [1.0, 1.0, 1.0, 1.0, 1.0, 31.0, 0.0, 0.0]);
        assert_eq!(parts(-70000000000.0), [-249.0, 10.0, 15.0, 5.0, 288.0, 31.0, 19.0, 33.0]);
        assert_eq!(parts(400000000000.0), [14645.0, 6.0, 30.0, 1.0, 181.0, 30.0, 15.0, 6.0]);
    }
}
