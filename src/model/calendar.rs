//! Days and dates of the proleptic Gregorian calendar, in UTC.
//!
//! By Howard Hinnant's civil algorithms (<https://howardhinnant.github.io/date_algorithms.html>): years are counted from 1 March, so
//! that a leap day is the last day of its year, in eras of 400 years, which all have the same days.

/// Days from 0000-03-01 to 1970-01-01.
const SHIFT: i64 = 719_468;
/// Days of 400 years.
const ERA: i64 = 146_097;
/// Milliseconds of a day.
pub const DAY_MS: i64 = 86_400_000;

/// Year, month (1 to 12) and day (1 to 31) of a day, counted from 1970-01-01. Days beyond some 10¹⁸ are taken for that.
pub fn date_of(day: i64) -> (i64, i64, i64) {
    let z = day.saturating_add(SHIFT);
    let (era, day_of_era) = (z.div_euclid(ERA), z.rem_euclid(ERA));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The day of a date, counted from 1970-01-01. A day past the end of its month is one of the next; years are taken as they
/// come up to some 10¹⁵.
pub fn day_of(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * ERA + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - SHIFT
}

/// Days of a month (1 to 12).
pub fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year.rem_euclid(4) == 0 && (year.rem_euclid(100) != 0 || year.rem_euclid(400) == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_dates() {
        for (day, date) in [
            (0, (1970, 1, 1)),
            (-1, (1969, 12, 31)),
            (11_016, (2000, 2, 29)),
            (19_782, (2024, 2, 29)),
            (-25_509, (1900, 2, 28)),
            (-719_528, (0, 1, 1)),
            (2_932_896, (9999, 12, 31)),
        ] {
            assert_eq!(date_of(day), date);
            assert_eq!(day_of(date.0, date.1, date.2), day);
        }
        assert_eq!(day_of(2023, 2, 29), day_of(2023, 3, 1));
        let _ = (date_of(i64::MAX), date_of(i64::MIN));
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let (mut year, mut month, mut day) = date_of(-200_000);
        for n in -200_000..200_000 {
            assert_eq!((date_of(n), day_of(year, month, day)), ((year, month, day), n));
            day += 1;
            if day > days_in_month(year, month) {
                (month, day) = (month + 1, 1);
            }
            if month > 12 {
                (year, month) = (year + 1, 1);
            }
        }
    }
}
