//! OpenTelemetry names into Prometheus names: the strategy `UnderscoreEscapingWithSuffixes`, Prometheus's default.
//!
//! Rules: <https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/>.

/// What decides on a metric's suffix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A sum that only rises: `_total`.
    MonotonicSum,
    /// A gauge: `_ratio` where its unit is `1`.
    Gauge,
    /// Anything else.
    Other,
}

const UNITS: [(&str, &str); 27] = [
    ("d", "days"),
    ("h", "hours"),
    ("min", "minutes"),
    ("s", "seconds"),
    ("ms", "milliseconds"),
    ("us", "microseconds"),
    ("ns", "nanoseconds"),
    ("By", "bytes"),
    ("KiBy", "kibibytes"),
    ("MiBy", "mebibytes"),
    ("GiBy", "gibibytes"),
    ("TiBy", "tibibytes"),
    ("KBy", "kilobytes"),
    ("MBy", "megabytes"),
    ("GBy", "gigabytes"),
    ("TBy", "terabytes"),
    ("m", "meters"),
    ("V", "volts"),
    ("A", "amperes"),
    ("J", "joules"),
    ("W", "watts"),
    ("g", "grams"),
    ("Cel", "celsius"),
    ("Hz", "hertz"),
    ("1", ""),
    ("%", "percent"),
    ("", ""),
];

const PER_UNITS: [(&str, &str); 7] =
    [("s", "second"), ("m", "minute"), ("h", "hour"), ("d", "day"), ("w", "week"), ("mo", "month"), ("y", "year")];

fn look_up<'a>(table: &'a [(&str, &'a str)], unit: &'a str) -> &'a str {
    table.iter().find(|(u, _)| *u == unit).map_or(unit, |(_, word)| word)
}

/// Letters and digits (and, in metric names, colons) in runs, everything else an underscore between them.
fn tokens(text: &str, colons: bool) -> Vec<&str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || (colons && c == ':'))).filter(|t| !t.is_empty()).collect()
}

/// The words of a unit: what is measured, and per what. Units in braces are annotations and are left out.
fn unit_words(unit: &str) -> (String, String) {
    let (main, per) = unit.split_once('/').unwrap_or((unit, ""));
    let word = |part: &str, table: &[(&str, &str)]| {
        let part = part.trim();
        if part.is_empty() || part.contains(['{', '}']) {
            return String::new();
        }
        tokens(look_up(table, part), true).join("_")
    };
    let per = word(per, &PER_UNITS);
    (word(main, &UNITS), if per.is_empty() { per } else { format!("per_{per}") })
}

/// The word that metadata gives for a unit.
pub fn unit_name(unit: &str) -> String {
    let (main, per) = unit_words(unit);
    match (main.is_empty(), per.is_empty()) {
        (_, true) => main,
        (true, false) => per,
        (false, false) => format!("{main}_{per}"),
    }
}

/// A metric's name, or none where nothing of it is left.
pub fn metric_name(name: &str, unit: &str, shape: Shape) -> Option<String> {
    let mut words: Vec<String> = tokens(name, true).into_iter().map(str::to_owned).collect();
    let (main, per) = unit_words(unit);
    if !main.is_empty() && !words.contains(&main) {
        words.push(main);
    }
    if !per.is_empty() && !words.contains(&per) {
        words.push(per);
    }
    let mut suffix = |word: &str| {
        words.retain(|w| w != word);
        words.push(word.to_owned());
    };
    match shape {
        Shape::MonotonicSum => suffix("total"),
        Shape::Gauge if unit == "1" => suffix("ratio"),
        Shape::Gauge | Shape::Other => {}
    }
    let joined = words.join("_");
    match joined.as_bytes().first()? {
        b'0'..=b'9' => Some(format!("_{joined}")),
        _ => Some(joined),
    }
}

/// A label's name, or none where nothing of it is left.
pub fn label_name(name: &str) -> Option<String> {
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        let c = if c.is_ascii_alphanumeric() { c } else { '_' };
        // Runs of underscores become one, but for the reserved `__name__` kind.
        if c == '_' && out.ends_with('_') && !name.starts_with("__") {
            continue;
        }
        out.push(c);
    }
    if out.bytes().all(|b| b == b'_') {
        return None;
    }
    if out.as_bytes()[0].is_ascii_digit() {
        out.insert_str(0, "key_");
    } else if out.starts_with('_') && !out.starts_with("__") {
        out.insert_str(0, "key");
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metric_names_get_unit_and_type() {
        let n = |name, unit, shape| metric_name(name, unit, shape).unwrap();
        assert_eq!(n("http.server.duration", "s", Shape::Other), "http_server_duration_seconds");
        assert_eq!(n("system.io", "By/s", Shape::MonotonicSum), "system_io_bytes_per_second_total");
        assert_eq!(n("requests_total", "{req}", Shape::MonotonicSum), "requests_total");
        assert_eq!(n("cpu.load", "1", Shape::Gauge), "cpu_load_ratio");
        assert_eq!(n("memory.bytes", "By", Shape::Gauge), "memory_bytes");
        assert_eq!(n("2xx", "", Shape::Other), "_2xx");
        assert_eq!(metric_name("…", "", Shape::Other), None);
    }

    #[test]
    fn label_names_are_cleaned() {
        assert_eq!(label_name("http.status_code").as_deref(), Some("http_status_code"));
        assert_eq!(label_name("0day").as_deref(), Some("key_0day"));
        assert_eq!(label_name("_x").as_deref(), Some("key_x"));
        assert_eq!(label_name("é"), None);
    }
}
