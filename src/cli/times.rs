//! Times as people write and read them.
//!
//! A time without a zone is local: that of `TZ`, or of the system. What is printed names its zone.

use chrono::{DateTime, Days, Local, NaiveDate, NaiveDateTime, NaiveTime, Offset, TimeZone};
use quiver_gateway::http::params::parse_time;
use quiver_model::duration::parse_ms;
use quiver_model::labels::quoted;

/// What can be written for a time, for help texts.
pub const FORMS: &str = "now, now-1h or -1h, today, yesterday, 2026-12-01, 2026-12-01T12:10 (local time), 12:10 (today), \
                         2026-12-01T12:10:00Z, or Unix seconds";

/// Reads a time, ms; `now` is the time that others are counted from.
pub fn parse(text: &str, now: i64) -> Result<i64, String> {
    parse_in(text, now, &Local)
}

fn parse_in<Z: TimeZone>(text: &str, now: i64, zone: &Z) -> Result<i64, String> {
    let t = text.trim();
    if let Some(ms) = relative(t, now) {
        return Ok(ms);
    }
    let mut zoned = t.replacen(' ', "T", usize::from(t.len() > 11));
    if t.get(16..17).is_some_and(|z| "Zz+-".contains(z)) {
        // Seconds may be left out.
        zoned.insert_str(16, ":00");
    }
    if let Some((unit, seconds)) = finer_than_seconds(t) {
        return Err(format!("{t} looks like {unit}; Unix seconds are meant: {seconds}"));
    }
    if let Ok(ms) = parse_time(&zoned) {
        return Ok(ms);
    }
    let Some(naive) = local(t, now, zone) else {
        return Err(format!("cannot read {} as a time; valid are {FORMS}", quoted(text)));
    };
    match zone.from_local_datetime(&naive).earliest() {
        Some(at) => Ok(at.timestamp_millis()),
        None => Err(format!("{} does not exist here: clocks are put forward over it", quoted(text))),
    }
}

/// Whole numbers beyond the year 5138 are times of the present in another unit: which one, and the seconds.
fn finer_than_seconds(text: &str) -> Option<(&'static str, i64)> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: i64 = text.parse().ok()?;
    match digits.len() {
        12..=14 => Some(("milliseconds", n / 1000)),
        15..=17 => Some(("microseconds", n / 1_000_000)),
        18..=19 => Some(("nanoseconds", n / 1_000_000_000)),
        _ => None,
    }
}

/// `now`, `now-1h`, `-1h`, `+5m`.
fn relative(text: &str, now: i64) -> Option<i64> {
    if text == "now" {
        return Some(now);
    }
    let rest = text.strip_prefix("now").unwrap_or(text).trim_start();
    let (sign, duration) = rest.split_at_checked(1)?;
    // A number without a unit is Unix seconds.
    let ms = parse_ms(duration.trim_start()).filter(|_| duration.ends_with(|c: char| c.is_ascii_alphabetic()))?;
    match sign {
        "-" => Some(now.saturating_sub(ms)),
        "+" => Some(now.saturating_add(ms)),
        _ => None,
    }
}

/// A day, or a day and a time, without a zone.
fn local<Z: TimeZone>(text: &str, now: i64, zone: &Z) -> Option<NaiveDateTime> {
    let today = || Some(zone.timestamp_millis_opt(now).single()?.naive_local().date());
    let date = |t: &str| match t {
        "today" => today(),
        "yesterday" => today()?.checked_sub_days(Days::new(1)),
        // chrono would take one digit, too, and a year of five.
        t if t.len() == 10 => NaiveDate::parse_from_str(t, "%Y-%m-%d").ok(),
        _ => None,
    };
    let time = |t: &str| {
        let forms: &[&str] = if t.len() == 5 { &["%H:%M"] } else { &["%H:%M:%S%.f"] };
        forms.iter().find_map(|f| NaiveTime::parse_from_str(t, f).ok())
    };
    if let Some(day) = date(text) {
        return Some(day.and_time(NaiveTime::MIN));
    }
    if let Some(time) = time(text) {
        return Some(today()?.and_time(time));
    }
    // "yesterday" has a t of its own.
    let (day, rest) = text.split_once(' ').or_else(|| text.split_once(['T', 't']))?;
    Some(date(day)?.and_time(time(rest)?))
}

fn at(ms: i64) -> Option<DateTime<Local>> {
    Local.timestamp_millis_opt(ms).single()
}

/// `2026-12-01 12:10:00`, with milliseconds if there are any; local time.
pub fn stamp(ms: i64) -> String {
    let form = if ms.rem_euclid(1000) == 0 { "%Y-%m-%d %H:%M:%S" } else { "%Y-%m-%d %H:%M:%S%.3f" };
    at(ms).map_or_else(|| format!("{ms} ms"), |t| t.format(form).to_string())
}

/// The zone of local times then: `UTC`, `UTC+01:00`.
pub fn zone(ms: i64) -> String {
    zone_of(at(ms).map_or(0, |t| t.offset().fix().local_minus_utc()))
}

fn zone_of(seconds: i32) -> String {
    match seconds {
        0 => "UTC".to_owned(),
        s => format!("UTC{}{:02}:{:02}", if s < 0 { '-' } else { '+' }, s.abs() / 3600, s.abs() / 60 % 60),
    }
}

/// `2026-12-01 11:10:00 to 12:10:00 UTC`: what both have is said once.
pub fn span(start: i64, end: i64) -> String {
    let (from, to) = (stamp(start), stamp(end));
    let clock = match (from.split_once(' '), to.split_once(' ')) {
        (Some((a, _)), Some((b, clock))) if a == b => clock,
        _ => &to,
    };
    format!("{from} to {clock} {}", zone(end))
}

/// A time on an axis that spans so much: as short as it can be told from others.
pub fn on_axis(ms: i64, span_ms: i64) -> String {
    let form = match span_ms {
        ms if ms <= 600_000 => "%H:%M:%S",
        ms if ms <= 86_400_000 => "%H:%M",
        ms if ms <= 2_592_000_000 => "%m-%d %H:%M",
        _ => "%Y-%m-%d",
    };
    at(ms).map_or_else(|| format!("{ms} ms"), |t| t.format(form).to_string())
}

#[cfg(test)]
mod tests {
    use chrono::{FixedOffset, Utc};

    use super::*;

    /// 2026-12-01T12:10:00Z
    const NOW: i64 = 1_796_127_000_000;
    const HOUR: i64 = 3_600_000;

    #[test]
    fn times_as_people_write_them() {
        let midnight = NOW - 12 * HOUR - 600_000;
        for (text, wanted) in [
            ("now", NOW),
            ("now-1h", NOW - HOUR),
            ("now - 1h30m", NOW - HOUR - HOUR / 2),
            ("-1h", NOW - HOUR),
            ("+5m", NOW + 300_000),
            ("today", midnight),
            ("yesterday", midnight - 24 * HOUR),
            ("yesterday 23:00", midnight - HOUR),
            ("2026-12-01", midnight),
            ("2026-12-01T12:10:00", NOW),
            ("2026-12-01 12:10", NOW),
            ("2026-12-01T12:10:00.5", NOW + 500),
            ("12:10", NOW),
            ("12:10:01", NOW + 1000),
            ("2026-12-01T12:10:00Z", NOW),
            ("2026-12-01 12:10:00Z", NOW),
            ("2026-12-01T12:10Z", NOW),
            ("2026-12-01T13:10+01:00", NOW),
            ("2026-12-01T13:10:00.250+01:00", NOW + 250),
            ("1796127000", NOW),
            ("1796127000.5", NOW + 500),
            ("-1", -1000),
            (" now ", NOW),
        ] {
            assert_eq!(parse_in(text, NOW, &Utc), Ok(wanted), "{text}");
        }
        let berlin = FixedOffset::east_opt(3600).unwrap();
        assert_eq!(parse_in("2026-12-01", NOW, &berlin), Ok(midnight - HOUR));
        assert_eq!(parse_in("13:10", NOW, &berlin), Ok(NOW));
        assert_eq!(parse_in("2026-12-01T12:10:00Z", NOW, &berlin), Ok(NOW));
    }

    #[test]
    fn what_is_no_time_is_told_what_is() {
        for bad in [
            "",
            "yesteday",
            "2026-13-01",
            "2026-02-30",
            "2026-1-1",
            "1h",
            "-",
            "now-",
            "now-x",
            "25:00",
            "1e400",
            "2026-12-01T",
            "20261-12-01",
            "é",
            "+",
            "12:1",
        ] {
            let said = parse_in(bad, NOW, &Utc).unwrap_err();
            assert!(said.contains("now-1h") && said.contains("2026-12-01T12:10:00Z"), "{bad}: {said}");
        }
    }

    #[test]
    fn times_of_another_unit_are_told_from_seconds() {
        for (text, unit, seconds) in [
            ("1796144400000", "milliseconds", "1796144400"),
            ("1796144400000000", "microseconds", "1796144400"),
            ("1796144400000000000", "nanoseconds", "1796144400"),
        ] {
            let said = parse_in(text, NOW, &Utc).unwrap_err();
            assert!(said.contains(unit) && said.ends_with(&format!(": {seconds}")), "{said}");
        }
        assert_eq!(parse_in("17961444000", NOW, &Utc), Ok(17_961_444_000_000), "a time far away is none of these");
    }

    #[test]
    fn far_times_are_whole() {
        let far = span(1_796_144_400_000_000, 1_796_144_400_000_000 + HOUR);
        assert_eq!(far.matches("58887-").count(), 1, "{far}");
        assert!(far.matches(':').count() >= 4, "{far}");
    }

    #[test]
    fn times_are_short() {
        assert_eq!([0, 3600, -12_600].map(zone_of), ["UTC", "UTC+01:00", "UTC-03:30"]);
        assert_eq!(stamp(i64::MAX), format!("{} ms", i64::MAX));
        assert_eq!(on_axis(NOW, HOUR).len(), 5);
        assert_eq!(on_axis(NOW, 60_000).len(), 8);
    }
}
