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

/// Letters, digits and colons in runs: what is between them becomes one underscore.
fn tokens(text: &str) -> Vec<&str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == ':')).filter(|t| !t.is_empty()).collect()
}

/// The words of a unit: what is measured, and per what. Units in braces are annotations and are left out.
fn unit_words(unit: &str) -> (String, String) {
    let (main, per) = unit.split_once('/').unwrap_or((unit, ""));
    let word = |part: &str, table: &[(&str, &str)]| {
        let part = part.trim();
        if part.is_empty() || part.contains(['{', '}']) { String::new() } else { cleaned_unit(look_up(table, part)) }
    };
    let (mut main, mut per) = (word(main, &UNITS), word(per, &PER_UNITS));
    if per.ends_with('_') {
        per.pop();
    }
    if !per.is_empty() {
        per.insert_str(0, "per_");
        if main.ends_with('_') {
            main.pop();
        }
    }
    (main, per)
}

/// A unit with underscores for all but letters, digits and colons: runs of them are one, at the beginning there is none.
fn cleaned_unit(unit: &str) -> String {
    let mut out = String::with_capacity(unit.len());
    for c in unit.chars() {
        if c.is_ascii_alphanumeric() || c == ':' {
            out.push(c);
        } else if !out.is_empty() && !out.ends_with('_') {
            out.push('_');
        }
    }
    out
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
    let mut words: Vec<String> = tokens(name).into_iter().map(str::to_owned).collect();
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

/// Appends the name of the label that an attribute becomes. False, and nothing is appended, where nothing but underscores
/// would be left of it (`名前`, `..`, an empty key): such a name would be that of any other, too.
pub fn push_label_name(key: &str, out: &mut String) -> bool {
    let at = out.len();
    let bytes = key.as_bytes();
    // Nearly all: dots and letters.
    if bytes.first().is_some_and(u8::is_ascii_alphabetic) {
        out.extend(key.chars().map(cleaned));
        return true;
    }
    match bytes {
        [] => return false,
        [b'0'..=b'9', ..] => out.push_str("key_"),
        _ => {}
    }
    let mut rest = key.chars().map(cleaned);
    if let Some(first) = rest.next() {
        let second = rest.next();
        // One underscore at the beginning is no name of a label's own; two are.
        if first == '_' && second != Some('_') {
            out.push_str("key");
        }
        out.push(first);
        out.extend(second.into_iter().chain(rest));
    }
    let is_name = out.as_bytes()[at..].iter().any(|b| *b != b'_');
    if !is_name {
        out.truncate(at);
    }
    is_name
}

fn cleaned(c: char) -> char {
    if c.is_ascii_alphanumeric() { c } else { '_' }
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
        let n = |key: &str| {
            let mut out = "before".to_owned();
            let is_name = push_label_name(key, &mut out);
            assert!(is_name || out == "before");
            is_name.then(|| out["before".len()..].to_owned())
        };
        assert_eq!(n("http.status_code").as_deref(), Some("http_status_code"));
        assert_eq!(n("0day").as_deref(), Some("key_0day"));
        assert_eq!(n("_x").as_deref(), Some("key_x"));
        assert_eq!(n("é").as_deref(), Some("key_"));
        assert_eq!(n("aé..b").as_deref(), Some("a___b"));
        for key in ["", "名前", "..", "__", "_é_"] {
            assert_eq!(n(key), None, "{key}");
        }
    }
}
