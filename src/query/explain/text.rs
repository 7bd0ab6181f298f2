//! The tree as text for a terminal.

use std::fmt::{self, Write as _};

use quiver_model::calendar::{DAY_MS, date_of};
use quiver_model::labels::is_legacy_name;
use quiver_model::number::grouped;
use quiver_model::{METRIC_NAME, MatchOp, Matcher};

use super::{Explain, ExplainMatcher, ExplainNode, ExplainPlace, ExplainRead, ExplainScan};

/// Places of a selection that are shown one by one; of more only the sum is.
const PLACES_MAX: usize = 6;
/// Longest details of an operator, and longest matcher.
const TEXT_MAX: usize = 60;
/// Less of the query at the end of a line says nothing.
const PART_MIN: usize = 12;
/// Most of it, in a text that is made for no terminal in particular.
const PART_DEFAULT: usize = 100;
/// Columns of a number at least.
const NUMBER_MIN: usize = 9;

/// Matchers as one writes them: `x{code=~"2.."}`.
pub fn selector(matchers: &[Matcher]) -> String {
    let is_name = |m: &&Matcher| *m.name == *METRIC_NAME && m.op == MatchOp::Equal && is_legacy_name(&m.value, true);
    let name = matchers.iter().find(is_name);
    let rest: Vec<String> = matchers.iter().filter(|m| name.is_none_or(|n| n != *m)).map(ToString::to_string).collect();
    match (name, rest.as_slice()) {
        (Some(n), []) => n.value.to_string(),
        (n, rest) => format!("{}{{{}}}", n.map_or("", |n| &n.value), rest.join(", ")),
    }
}

impl Explain {
    /// The tree as text for a terminal of so many columns.
    pub fn text(&self, columns: usize) -> String {
        Fitted(self, Some(columns)).to_string()
    }
}

impl fmt::Display for Explain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Fitted(self, None).fmt(f)
    }
}

struct Fitted<'a>(&'a Explain, Option<usize>);

impl fmt::Display for Fitted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fitted(explain, columns) = self;
        explain.write(f, *columns)
    }
}

/// Writes a text behind a prefix; what is too wide goes on in the next line, a little further in.
fn wrapped(f: &mut fmt::Formatter<'_>, prefix: &str, text: &str, columns: Option<usize>) -> fmt::Result {
    let columns = columns.unwrap_or(usize::MAX);
    let indent = text.len() - text.trim_start().len();
    let mut used = width(prefix) + indent;
    write!(f, "{prefix}{}", &text[..indent])?;
    for (i, word) in text[indent..].split(' ').enumerate() {
        if i > 0 && used + 1 + width(word) > columns {
            write!(f, "\n{prefix}{:1$}", "", indent + 4)?;
            used = width(prefix) + indent + 4;
        } else if i > 0 {
            f.write_str(" ")?;
            used += 1;
        }
        f.write_str(word)?;
        used += width(word);
    }
    writeln!(f)
}

impl Explain {
    fn write(&self, f: &mut fmt::Formatter<'_>, columns: Option<usize>) -> fmt::Result {
        writeln!(f, "{}", one_line(&self.query, usize::MAX))?;
        let mut head = String::new();
        if let Some(root) = &self.root {
            let g = &root.grid;
            head = match g.steps {
                1 => format!("at {} UTC", clock(g.start)),
                n => format!("{} steps of {}, {} UTC", grouped(n), duration(g.step), span(g.start, g.end)),
            };
        }
        if !self.hints.is_empty() {
            let _ = write!(head, "; hints: {}", self.hints.join(", "));
        }
        wrapped(f, "", &head, columns)?;
        if let Some(t) = &self.total {
            let total = format!(
                "evaluated in {}, planned in {}, queued for {}; memory at most {}",
                duration(t.eval_seconds),
                duration(t.prepare_seconds),
                duration(t.queue_seconds),
                bytes(t.memory_peak_bytes)
            );
            wrapped(f, "", &total, columns)?;
        }
        let Some(root) = &self.root else { return Ok(()) };
        let mut lines = Vec::new();
        lay_out(root, "", "", &mut lines);
        let analyzed = root.actual.is_some();
        let widest = lines.iter().filter(|l| !l.columns.is_empty()).map(|l| width(&l.tree)).max().unwrap_or(0);
        let head: &[&str] = if analyzed { &["rows", "samples", "self", "total"] } else { &["series"] };
        let number = |k: usize| lines.iter().filter_map(|l| l.columns.get(k)).map(|c| width(c)).max().unwrap_or(0);
        let numbers: Vec<usize> = (0..head.len()).map(|k| number(k).max(NUMBER_MIN)).collect();
        write!(f, "\n{:widest$}", "")?;
        head.iter().zip(&numbers).try_for_each(|(h, n)| write!(f, "  {h:>n$}"))?;
        writeln!(f)?;
        let left = widest + numbers.iter().map(|n| n + 2).sum::<usize>() + 2;
        let part_max = columns.map_or(PART_DEFAULT, |c| c.saturating_sub(left));
        for l in &lines {
            if l.columns.is_empty() {
                wrapped(f, &l.tree, &l.text, columns)?;
                continue;
            }
            write!(f, "{}{:2$}", l.tree, "", widest - width(&l.tree))?;
            l.columns.iter().zip(&numbers).try_for_each(|(c, n)| write!(f, "  {c:>n$}"))?;
            if !l.text.is_empty() && part_max >= PART_MIN {
                write!(f, "  {}", one_line(&l.text, part_max))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

struct Line {
    tree: String,
    columns: Vec<String>,
    text: String,
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// The lines of a node: `first` stands before its own, `rest` before those below.
fn lay_out(node: &ExplainNode, first: &str, rest: &str, lines: &mut Vec<Line>) {
    let kind = node.operator.strip_prefix("Prom").unwrap_or(&node.operator);
    let mut tree = format!("{first}{kind}");
    if !node.details.is_empty() {
        let _ = write!(tree, " {}", one_line(&node.details, TEXT_MAX));
    }
    if let Some(id) = node.same_as {
        let _ = write!(tree, " (evaluated above, as number {id})");
    }
    let columns = match (&node.actual, node.same_as) {
        (_, Some(_)) => Vec::new(),
        (Some(a), _) => {
            vec![grouped(a.rows_out), grouped(a.samples_out), duration(a.self_seconds), duration(a.total_seconds)]
        }
        (None, _) => vec![node.series.map_or("?".to_owned(), grouped)],
    };
    // A line without figures is shown as a note.
    let text = if columns.is_empty() { String::new() } else { node.text.clone() };
    lines.push(Line { tree, columns, text });
    let stem = if node.inputs.is_empty() { "   " } else { "│  " };
    let mut note = |text: String| {
        lines.push(Line { tree: format!("{rest}{stem}"), columns: Vec::new(), text });
    };
    for s in &node.scans {
        scan(s, &mut note);
    }
    if let Some(a) = &node.actual {
        let mut more = Vec::new();
        if let Some(n) = a.threads.filter(|n| *n > 1) {
            more.push(format!("{n} threads"));
        }
        if a.memory_peak_bytes > 0 {
            more.push(format!("memory at most {}", bytes(a.memory_peak_bytes)));
        }
        if a.runs > 1 {
            more.push(format!("run {} times", grouped(a.runs)));
        }
        if !more.is_empty() {
            note(more.join(", "));
        }
    }
    let last = node.inputs.len().saturating_sub(1);
    for (i, input) in node.inputs.iter().enumerate() {
        let (branch, below) = if i == last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        lay_out(input, &format!("{rest}{branch}"), &format!("{rest}{below}"), lines);
    }
}

fn scan(s: &ExplainScan, note: &mut dyn FnMut(String)) {
    note(format!("{} from {}", one_line(&s.selector, 2 * TEXT_MAX), span(s.start, s.end)));
    let mut found = format!("{} series found in {}", grouped(s.series), duration(s.select_seconds));
    if s.pruned > 0 {
        let _ = write!(found, ", {} left out by time", plural(s.pruned, "block"));
    }
    note(found);
    for p in s.places.iter().take(PLACES_MAX) {
        place(p, note);
    }
    if s.places.len() > PLACES_MAX {
        let more = &s.places[PLACES_MAX..];
        let selected = more.iter().map(|p| p.selected).sum();
        note(format!("  and {} series in {} more places", grouped(selected), more.len()));
    }
    match &s.read {
        Some(r) => read(r, s.samples_estimate, note),
        None => note(format!("about {} samples to read", grouped(s.samples_estimate))),
    }
}

fn place(p: &ExplainPlace, note: &mut dyn FnMut(String)) {
    let name = if p.name.is_empty() { &p.kind } else { &p.name };
    let mut line = format!("  {name}: {} of {} series", grouped(p.selected), grouped(p.series));
    for (i, m) in p.matchers.iter().enumerate() {
        line.push_str(if i == 0 { "; " } else { ", then " });
        line.push_str(&matcher(m));
    }
    note(line);
}

fn matcher(m: &ExplainMatcher) -> String {
    let mut out = one_line(&m.matcher, TEXT_MAX);
    let verb = match (m.way.as_str(), m.drops) {
        ("constant", _) => return out,
        ("test", _) => "tested",
        (_, true) => "drops",
        (_, false) => "picks",
    };
    match (m.actual, m.estimate) {
        (Some(n), Some(e)) if n == e => _ = write!(out, " {verb} {}", grouped(n)),
        (Some(n), Some(e)) => _ = write!(out, " {verb} {} (estimate {})", grouped(n), grouped(e)),
        (Some(n), None) => _ = write!(out, " {verb}, {} {}", if m.drops { "dropped" } else { "kept" }, grouped(n)),
        (None, Some(e)) => _ = write!(out, " (estimate {}, not evaluated)", grouped(e)),
        (None, None) => out.push_str(" (not evaluated)"),
    }
    out
}

fn read(r: &ExplainRead, estimate: u64, note: &mut dyn FnMut(String)) {
    let open = match r.open_samples {
        0 => String::new(),
        n => format!(", {} of them open in the head", grouped(n)),
    };
    note(format!("{} read (estimate {}){open}", plural(r.samples, "sample"), grouped(estimate)));
    let mut decoded = format!("{} decoded ({})", plural(r.chunks_decoded, "chunk"), bytes(r.bytes_decoded));
    let places = [(r.memory_chunks, "in memory"), (r.mapped_chunks, "mapped"), (r.remote_chunks, "remote")];
    let places: Vec<_> = places.into_iter().filter(|(n, _)| *n > 0).collect();
    match places.as_slice() {
        [] => {}
        [(_, one)] => _ = write!(decoded, ", {one}"),
        some => {
            let all: Vec<String> = some.iter().map(|(n, place)| format!("{} {place}", grouped(*n))).collect();
            let _ = write!(decoded, ", {}", all.join(" and "));
        }
    }
    if r.hits + r.misses > 0 {
        let looked = grouped(r.hits + r.misses);
        let _ = write!(decoded, "; {} of {looked} found decoded in the working set", grouped(r.hits));
    }
    if r.headers > 0 {
        let _ = write!(decoded, "; {} answered from headers alone", plural(r.headers, "chunk"));
    }
    note(decoded);
    if r.pages_found + r.pages_fetched > 0 {
        let looked = grouped(r.pages_found + r.pages_fetched);
        let fetched = bytes(r.fetched_bytes);
        note(format!("{} of {looked} remote pages found on the local disk, {fetched} fetched", grouped(r.pages_found)));
    }
}

/// A text without line breaks and runs of blanks, at most `max` characters long.
fn one_line(text: &str, max: usize) -> String {
    let flat: Vec<&str> = text.split_whitespace().collect();
    let flat = flat.join(" ");
    if width(&flat) <= max {
        return flat;
    }
    let mut short: String = flat.chars().take(max.saturating_sub(1)).collect();
    short.push('…');
    short
}

fn plural(n: u64, word: &str) -> String {
    format!("{} {word}{}", grouped(n), if n == 1 { "" } else { "s" })
}

fn bytes(n: u64) -> String {
    match n {
        0..1024 => format!("{n} B"),
        1024..1_048_576 => format!("{:.1} KiB", n as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", n as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", n as f64 / 1_073_741_824.0),
    }
}

fn duration(seconds: f64) -> String {
    match seconds {
        s if s <= 0.0 => "0".to_owned(),
        s if s < 999.5e-9 => format!("{:.0} ns", s * 1e9),
        s if s < 999.5e-6 => format!("{:.0} µs", s * 1e6),
        s if s < 9.995e-3 => format!("{:.2} ms", s * 1e3),
        s if s < 999.5e-3 => format!("{:.0} ms", s * 1e3),
        s if s < 120.0 => format!("{} s", (s * 1e3).round() / 1e3),
        s if s < 7200.0 => format!("{} min", (s / 6.0).round() / 10.0),
        s => format!("{} h", (s / 360.0).round() / 10.0),
    }
}

/// Two times; the day is said once if it is the same.
fn span(start: f64, end: f64) -> String {
    let (from, to) = (clock(start), clock(end));
    match (from.split_once(' '), to.split_once(' ')) {
        (Some((day, _)), Some((same, time))) if day == same => format!("{from} to {time}"),
        _ => format!("{from} to {to}"),
    }
}

/// A time as a date where it can be one: `2023-11-14 22:13:20`.
fn clock(seconds: f64) -> String {
    if !(0.0..2.5e11).contains(&seconds) {
        return format!("{seconds}");
    }
    let ms = (seconds * 1000.0).round() as i64;
    let (y, m, d) = date_of(ms.div_euclid(DAY_MS));
    let rest = ms.rem_euclid(DAY_MS);
    let (h, min, s, milli) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1000 % 60, rest % 1000);
    let mut out = format!("{y:04}-{m:02}-{d:02} {h:02}:{min:02}:{s:02}");
    if milli > 0 {
        let _ = write!(out, ".{milli:03}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::{ExplainActual, ExplainGrid, ExplainTotal};
    use super::*;

    #[test]
    fn numbers_are_short_and_readable() {
        assert_eq!([grouped(0), grouped(999), grouped(1000), grouped(1_234_567)], ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([bytes(10), bytes(1536), bytes(5 << 20)], ["10 B", "1.5 KiB", "5.0 MiB"]);
        let d = [0.0, 5e-7, 1.5e-4, 0.00234, 0.25, 1.5, 300.0, 86_400.0].map(duration);
        assert_eq!(d, ["0", "500 ns", "150 µs", "2.34 ms", "250 ms", "1.5 s", "5 min", "24 h"]);
        assert_eq!(
            [clock(1_700_000_000.0), clock(0.5), clock(-1.0)],
            ["2023-11-14 22:13:20", "1970-01-01 00:00:00.500", "-1"]
        );
        assert_eq!(one_line("sum(\n  x)", 99), "sum( x)");
        assert_eq!(one_line("abcdef", 4), "abc…");
        assert_eq!(span(0.0, 86_400.0), "1970-01-01 00:00:00 to 1970-01-02 00:00:00");
        let m = |name: &str, op, value: &str| Matcher::new(op, name, value, 1 << 20).unwrap();
        let name = m("__name__", MatchOp::Equal, "x");
        assert_eq!(selector(&[m("code", MatchOp::Regex, "2.."), name.clone()]), "x{code=~\"2..\"}");
        assert_eq!(selector(&[name]), "x");
        let odd = m("__name__", MatchOp::Equal, "a.b");
        assert_eq!(selector(&[odd, m("c", MatchOp::Equal, "d")]), "{__name__=\"a.b\", c=\"d\"}");
    }

    #[test]
    fn what_was_read_is_said_by_where_it_was() {
        let said = |r: &ExplainRead| {
            let mut all = Vec::new();
            read(r, 2000, &mut |text| all.push(text));
            all
        };
        let mut r = ExplainRead {
            samples: 1500,
            chunks_decoded: 2,
            bytes_decoded: 1536,
            mapped_chunks: 2,
            ..Default::default()
        };
        let samples = "1,500 samples read (estimate 2,000)";
        assert_eq!(said(&r), [samples, "2 chunks decoded (1.5 KiB), mapped"]);
        (r.headers, r.hits, r.misses) = (30, 1, 1);
        let chunks = "2 chunks decoded (1.5 KiB), mapped; 1 of 2 found decoded in the working set; 30 chunks answered from headers alone";
        assert_eq!(said(&r), [samples, chunks]);
    }

    #[test]
    fn a_tree_is_laid_out_in_columns() {
        let actual = |rows, ms: f64| ExplainActual {
            runs: 1,
            rows_out: rows,
            samples_out: rows * 3,
            self_seconds: ms / 1000.0,
            total_seconds: ms / 500.0,
            ..ExplainActual::default()
        };
        let leaf = |id, text: &str| ExplainNode {
            id,
            operator: "PromInstant".into(),
            text: text.into(),
            actual: Some(actual(1200, 5.0)),
            scans: vec![ExplainScan {
                selector: "a".into(),
                series: 1200,
                pruned: 1,
                places: vec![ExplainPlace {
                    kind: "head".into(),
                    name: "head".into(),
                    series: 5000,
                    selected: 1200,
                    matchers: vec![ExplainMatcher {
                        matcher: "__name__=\"a\"".into(),
                        way: "value".into(),
                        estimate: Some(1200),
                        actual: Some(1200),
                        ..ExplainMatcher::default()
                    }],
                    ..ExplainPlace::default()
                }],
                read: Some(ExplainRead {
                    samples: 7,
                    chunks_decoded: 1,
                    mapped_chunks: 1,
                    hits: 2,
                    misses: 1,
                    ..Default::default()
                }),
                ..ExplainScan::default()
            }],
            ..ExplainNode::default()
        };
        let e = Explain {
            mode: "analyze".into(),
            query: "a + b".into(),
            hints: vec!["no-share".into()],
            root: Some(ExplainNode {
                operator: "PromJoin".into(),
                details: "+ one-to-one".into(),
                text: "a + b".into(),
                grid: ExplainGrid { start: 0.0, end: 120.0, step: 60.0, steps: 3 },
                actual: Some(actual(4, 1.0)),
                inputs: vec![leaf(1, "a"), leaf(2, "b")],
                ..ExplainNode::default()
            }),
            total: Some(ExplainTotal::default()),
        };
        let text = e.to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "3 steps of 60 s, 1970-01-01 00:00:00 to 00:02:00 UTC; hints: no-share");
        let at = |line: &str, word: &str| line.chars().count() - line.split(word).last().unwrap().chars().count();
        let root = lines.iter().find(|l| l.starts_with("Join + one-to-one")).unwrap();
        let first = lines.iter().find(|l| l.starts_with("├─ Instant")).unwrap();
        assert_eq!(at(root, "ms"), at(first, "ms"), "columns stand below each other:\n{text}");
        for part in [
            "│     1,200 series found in 0, 1 block left out by time",
            "│       head: 1,200 of 5,000 series; __name__=\"a\" picks 1,200",
            "└─ Instant",
            "1 chunk decoded (0 B), mapped; 2 of 3 found decoded in the working set",
        ] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
        assert_eq!(serde_json::from_str::<Explain>(&serde_json::to_string(&e).unwrap()).unwrap(), e);

        // Numbers wider than usual widen their column, and a part of the query fills the line.
        let mut wide = e.clone();
        let root = wide.root.as_mut().unwrap();
        root.text = "x".repeat(300);
        root.inputs[0].actual.as_mut().unwrap().samples_out = 12_345_678_901;
        let text = wide.text(100);
        let line = |start: &str| text.lines().find(|l| l.starts_with(start)).unwrap();
        assert_eq!(at(line("Join"), "ms"), at(line("├─ Instant"), "ms"), "{text}");
        assert_eq!(width(line("Join")), 100, "{text}");
        let narrow = wide.text(60);
        assert!(!narrow.contains("xxx…"), "{narrow}");
        for line in narrow.lines().skip(1).filter(|l| !l.contains(" ms ") && !l.contains("samples  ")) {
            assert!(width(line) <= 60, "{line}");
        }
        assert!(e.to_string().lines().any(|l| width(l) > 70), "elsewhere nothing is wrapped");
    }
}
