//! What texts of settings mean: sizes, durations, filters of the log.
//!
//! Values that are surely a slip are refused here: a number without a unit where days were meant, a time of nothing.

use quiver_model::{Limits, duration};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

/// The shortest retention, ms.
const RETENTION_MS_MIN: i64 = 60_000;
/// Sizes below this need a unit: `64` is more often meant as mebibytes than as bytes.
const PLAIN_BYTES_MIN: u64 = 1 << 20;
/// The smallest head.
const HEAD_BYTES_MIN: u64 = 64 << 10;

/// A size such as `512MiB`, `1.5TB`, `1G` or a plain number of bytes. `MB` and `MiB` are the same: 1,048,576 bytes.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let wrong = || format!("{text:?} is not a size like 512MiB or 10GB");
    let digits = text.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let power = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        "p" | "pb" | "pib" => 5,
        "e" | "eb" | "eib" => 6,
        _ => return Err(wrong()),
    };
    let large = || format!("{text:?} is more than 15EiB");
    match text[..digits].split_once('.') {
        None if digits == 0 => Err(wrong()),
        None => {
            let n = text[..digits].parse::<u64>().map_err(|_| large())?;
            n.checked_mul(1 << (10 * power)).ok_or_else(large)
        }
        Some(_) => {
            let n = text[..digits].parse::<f64>().map_err(|_| wrong())? * (1u64 << (10 * power)) as f64;
            // Beyond 2^53 bytes a fraction is rounded, which is no harm at that size.
            if n < u64::MAX as f64 && n.fract() == 0.0 { Ok(n as u64) } else { Err(wrong()) }
        }
    }
}

/// A size, of which a small one needs a unit.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let n = parse_bytes(text)?;
    if n < PLAIN_BYTES_MIN && n > 0 && text.trim().bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("{n} has no unit and would be bytes: write {n}GB or {n}MB, or {n}B if bytes are meant"));
    }
    Ok(n)
}

/// A size, or `off`, which is 0.
pub(super) fn size_or_off(text: &str) -> Result<u64, String> {
    match text.trim() {
        "off" => Ok(0),
        text => size(text),
    }
}

/// The size at which the head is flushed.
pub(super) fn head_bytes(text: &str) -> Result<usize, String> {
    let n = size(text)?;
    if n < HEAD_BYTES_MIN {
        return Err(format!("a head of {} would be flushed all the time; 64KiB is the least", show_bytes(n)));
    }
    usize::try_from(n).map_err(|_| format!("{text:?} is more than this machine can address"))
}

fn any_duration(text: &str) -> Result<i64, String> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("{text:?} has no unit: write {text}d for days, {text}h for hours or {text}m for minutes"));
    }
    duration::parse_ms(text).ok_or_else(|| {
        format!("{text:?} is not a duration like 30d, 12h or 1h30m (whole numbers; units y, w, d, h, m, s, ms; the largest first)")
    })
}

/// How long data is kept, ms; `None` is for ever.
pub(super) fn retention(text: &str) -> Result<Option<i64>, String> {
    match text.trim() {
        "off" | "0" => Ok(None),
        text => match any_duration(text)? {
            0 => Err(format!("{text} would delete everything; \"off\" keeps everything")),
            ms if ms < RETENTION_MS_MIN => {
                Err(format!("{text} would delete samples as soon as they are written; 1m is the least"))
            }
            ms => Ok(Some(ms)),
        },
    }
}

/// The age of a block, ms.
pub(super) fn age(text: &str) -> Result<i64, String> {
    if text.trim() == "0" { Ok(0) } else { any_duration(text) }
}

/// Sets a limit: a number, or a size such as `256MiB`.
pub(super) fn set_limit(limits: &mut Limits, name: &str, value: &str) -> Result<(), String> {
    let mut unknown = limits.clone();
    unknown.set(name, 1)?;
    let n = if name.contains("_bytes") {
        parse_bytes(value)?
    } else {
        // `30K` of milliseconds, or of samples, is no size.
        value.trim().parse().map_err(|_| match (duration::parse_ms(value), parse_bytes(value)) {
            (Some(ms), _) if name.contains("_ms") => format!("{name} is in milliseconds: write {name}={ms}"),
            (_, Ok(_)) => format!("{value:?} has a unit, but {name} is a plain number: write all of its digits"),
            _ => format!("{value:?} is not a number, which {name} has to be"),
        })?
    };
    if n == 0 && !Limits::MAY_BE_ZERO.contains(&name) {
        let usual = Limits::default().list().into_iter().find(|(n, _)| *n == name).map_or(0, |(_, v)| v);
        return Err(format!("{name}=0 would refuse everything; the default is {usual}"));
    }
    limits.set(name, n)
}

/// A filter of the log, with a level for what no part of it names.
pub(super) fn log_filter(text: &str) -> Result<String, String> {
    const LEVELS: &str = "the levels are error, warn, info, debug, trace and off; a list such as info,quiver_core=debug sets them by \
                          part of the program";
    let mut has_level = false;
    for part in parts(text).into_iter().map(str::trim).filter(|part| !part.is_empty()) {
        // Fields of a span may hold `=`.
        let (target, level) = match part.rfind(']') {
            Some(end) => (&part[..=end], part[end + 1..].strip_prefix('=')),
            None => part.split_once('=').map_or((part, None), |(target, level)| (target, Some(level))),
        };
        match level {
            Some(level) if level.trim().is_empty() || level.trim().parse::<LevelFilter>().is_err() => {
                return Err(format!("{level:?} in {part:?} is not a level; {LEVELS}"));
            }
            // A number is a level to the filter, too, and 0 would switch all off.
            _ if target.bytes().all(|b| b.is_ascii_digit()) => {
                return Err(format!("{part:?} is not a level; {LEVELS}"));
            }
            None if target.parse::<LevelFilter>().is_ok() => has_level = true,
            // A bare word is a part of the program to the filter: everything else would be silent.
            None if !target.contains('[') => return Err(format!("{part:?} is not a level; {LEVELS}")),
            _ => {}
        }
    }
    let filter = if has_level { text.to_owned() } else { format!("info,{text}") };
    EnvFilter::try_new(&filter).map_err(|e| format!("{text:?}: {e}; {LEVELS}"))?;
    Ok(filter)
}

/// The parts of a list, whose commas in brackets do not count.
fn parts(text: &str) -> Vec<&str> {
    let mut depth = 0i32;
    text.split(|c| {
        depth += i32::from(matches!(c, '[' | '{')) - i32::from(matches!(c, ']' | '}'));
        c == ',' && depth <= 0
    })
    .collect()
}

/// A size as it can be set: the largest unit that it is a whole number of.
pub fn show_bytes(n: u64) -> String {
    let power = if n == 0 { 0 } else { (n.trailing_zeros() / 10).min(6) };
    format!("{}{}", n >> (10 * power), ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"][power as usize])
}

/// A size as people read it, rounded: `23.5 GiB`.
pub fn about_bytes(n: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let power = n.checked_ilog2().unwrap_or(0) / 10;
    let value = n as f64 / (1u64 << (10 * power)) as f64;
    let digits = usize::from(value.fract() >= 0.05 && power > 0);
    format!("{value:.digits$} {}", UNITS[power.min(6) as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_from_bytes_to_exbibytes() {
        for (text, want) in [
            ("17", 17),
            ("10B", 10),
            ("512MiB", 512 << 20),
            ("512 mb", 512 << 20),
            ("2G", 2 << 30),
            ("1TB", 1 << 40),
            ("1.5TiB", 3 << 39),
            ("0.5K", 512),
            ("3PB", 3 << 50),
            ("15EB", 15 << 60),
        ] {
            assert_eq!(parse_bytes(text), Ok(want), "{text}");
        }
        for bad in ["many", "", "MB", "1XB", "10ib", "1kbb", "1.2.3GB", ".", "-1GB", "0.3B", "1 G B"] {
            assert!(parse_bytes(bad).unwrap_err().contains("is not a size"), "{bad}");
        }
        for large in ["16EB", "99999999999999999999999", "17000PB"] {
            assert!(parse_bytes(large).unwrap_err().contains("15EiB"), "{large}");
        }
        for n in [0, 1, 1500, 1 << 20, 3 << 39, u64::MAX] {
            assert_eq!(parse_bytes(&show_bytes(n)), Ok(n));
        }
        assert_eq!((show_bytes(512 << 20), show_bytes(1 << 40)), ("512MiB".into(), "1TiB".into()));
        let about = [0, 1500, 512 << 20, 25_276_502_016, u64::MAX].map(about_bytes);
        assert_eq!(about, ["0 B", "1.5 KiB", "512 MiB", "23.5 GiB", "16 EiB"]);
    }

    #[test]
    fn small_numbers_need_a_unit() {
        assert!(size("10").unwrap_err().contains("10 has no unit"), "{:?}", size("10"));
        assert_eq!((size("1500B"), size("1048576"), size_or_off("off")), (Ok(1500), Ok(1 << 20), Ok(0)));
        assert!(head_bytes("1").is_err() && head_bytes("1B").unwrap_err().contains("all the time"));
        assert_eq!(head_bytes("2MiB"), Ok(2 << 20));
    }

    #[test]
    fn durations_need_a_unit_and_sense() {
        assert_eq!(
            (retention("30d"), retention("off"), retention("1h30m")),
            (Ok(Some(2_592_000_000)), Ok(None), Ok(Some(5_400_000)))
        );
        for (text, word) in [
            ("30", "write 30d for days"),
            ("soon", "not a duration"),
            ("1.5d", "whole numbers"),
            ("0d", "would delete everything; \"off\" keeps everything"),
            ("0s", "would delete everything"),
            ("1ms", "as soon as they are written"),
            ("59s", "1m is the least"),
            ("", "not a duration"),
            ("99999999999y", "not a duration"),
        ] {
            assert!(retention(text).is_err_and(|why| why.contains(word)), "{text}: {:?}", retention(text));
        }
        assert_eq!((age("0"), age("0s"), age("7d")), (Ok(0), Ok(0), Ok(7 * 86_400_000)));
        assert!(age("30").unwrap_err().contains("no unit"));
    }

    #[test]
    fn filters_of_the_log_name_levels() {
        for (text, want) in [
            ("info", "info"),
            ("WARN", "WARN"),
            ("off", "off"),
            ("info,quiver_core=debug", "info,quiver_core=debug"),
            // Nothing else becomes silent.
            ("quiver_core=debug", "info,quiver_core=debug"),
            ("warn,quiver_core[flush{blocks=2}]=trace", "warn,quiver_core[flush{blocks=2}]=trace"),
        ] {
            assert_eq!(log_filter(text).as_deref(), Ok(want), "{text}");
        }
        for bad in ["loud", "0", "3", "info,loud", "quiver_core", "quiver=[", "info,quiver_core=loud", "quiver_core="] {
            let why = log_filter(bad).unwrap_err();
            assert!(why.contains("error, warn, info, debug, trace"), "{bad}: {why}");
        }
    }

    #[test]
    fn limits_are_numbers_and_not_nothing() {
        let set = |name: &str, value: &str| {
            let mut limits = Limits::default();
            set_limit(&mut limits, name, value).map(|()| limits)
        };
        assert_eq!(set("query_timeout_ms", "1500").unwrap().query_timeout_ms, 1500);
        assert_eq!(set("query_memory_bytes_max", "2MiB").unwrap().query_memory_bytes_max, 2 << 20);
        assert_eq!(set("result_cache_bytes_max", "0").unwrap().result_cache_bytes_max, 0);
        for (name, value, word) in [
            ("query_timeout_ms", "30K", "query_timeout_ms is a plain number"),
            ("query_samples_max", "50M", "query_samples_max is a plain number"),
            ("labels_max", "64MiB", "labels_max is a plain number"),
            ("query_timeout", "5", "did you mean \"query_timeout_ms\"?"),
            ("query_timeout_ms", "0", "query_timeout_ms=0 would refuse everything; the default is 120000"),
            ("query_timeout_ms", "30s", "write query_timeout_ms=30000"),
            ("query_depth_max", "deep", "not a number"),
            ("query_memory_bytes_max", "much", "not a size"),
        ] {
            let why = set(name, value).unwrap_err();
            assert!(why.contains(word), "{name}={value}: {why}");
        }
    }
}
