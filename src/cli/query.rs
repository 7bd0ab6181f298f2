//! `quiver query`: PromQL at an instant or over a range; as a table, JSON or a chart.

use clap::Args;
use quiver_model::duration::format_ms;
use serde_json::Value;

use super::ask::Asker;
use super::chart::{self, Line};
use super::data::AskArgs;
use super::exit::{self, Failure};
use super::series::{self, Named};
use super::table::{Kind, Table};
use super::terminal::{self, plural};
use super::times;
use super::when::{TimeArgs, When};
use super::why;

/// Rows of a table, unless all are asked for.
const ROWS_DEFAULT: usize = 100;
/// A range with more samples is shown by a line for each series.
const SAMPLES_SHOWN: usize = 40;
/// Lines of a chart.
const LINES_MAX: usize = 12;
/// Columns of a chart at least and at most.
const CHART_WIDTH: (usize, usize) = (40, 200);
/// Rows of a chart.
const CHART_HEIGHT: usize = 16;

/// Flags of `quiver query`.
#[derive(Args, Debug)]
pub struct QueryArgs {
    /// PromQL expression
    expression: String,
    #[command(flatten)]
    ask: AskArgs,
    #[command(flatten)]
    time: TimeArgs,
    /// Print the answer as JSON, as the HTTP API gives it
    #[arg(long, conflicts_with = "graph")]
    json: bool,
    /// Draw a range in the terminal; without --range or --start, the last hour
    #[arg(long)]
    graph: bool,
    /// Features to switch on for --offline, by Prometheus's names
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    enable_feature: Vec<String>,
    /// Print all rows of a table, and every sample of a range
    #[arg(long)]
    all: bool,
}

/// Runs the command.
pub async fn run(args: QueryArgs) -> Result<(), Failure> {
    let when = args.time.when(args.graph)?;
    let asker = Asker::new(&args.ask, &args.enable_feature)?;
    let envelope = asker.promql(&args.expression, when).await?;
    if args.json {
        super::print(&format!("{envelope}\n"));
        return Ok(());
    }
    for text in envelope["warnings"].as_array().into_iter().flatten() {
        exit::warning(text.as_str().unwrap_or(""));
    }
    for text in envelope["infos"].as_array().into_iter().flatten() {
        exit::note(text.as_str().unwrap_or(""));
    }
    let data = &envelope["data"];
    if data["result"].as_array().is_some_and(Vec::is_empty) {
        let at = if when.step == 0 { format!("at {}", when.shown()) } else { format!("from {}", when.shown()) };
        let reasons = why::empty(&asker, &args.expression, when).await;
        let reasons: String =
            reasons.iter().map(|r| terminal::wrap(&terminal::printable(r), 2, 4, terminal::width())).collect();
        super::print(&format!("no series {at}\n{reasons}"));
    } else if args.graph {
        super::print(&graph(&args.expression, data, when));
    } else {
        let printed = table(data, when, args.all, terminal::width());
        super::print(&printed.text);
        super::print_note(&printed.note);
    }
    Ok(())
}

fn has_colour() -> bool {
    terminal::has_colour(&std::io::stdout())
}

fn value_text(point: &Value) -> String {
    match &point[1] {
        Value::String(s) => s.clone(),
        h => format!("count {} sum {}", h["count"].as_str().unwrap_or("?"), h["sum"].as_str().unwrap_or("?")),
    }
}

fn time_ms(point: &Value) -> i64 {
    (point[0].as_f64().unwrap_or(0.0) * 1000.0).round() as i64
}

/// A table, and what is to be said of it.
struct Printed {
    text: String,
    note: String,
}

fn cut_note(shown: usize, all: usize, noun: &str) -> String {
    match all.saturating_sub(shown) {
        0 => String::new(),
        more => format!("… and {} more; --all prints them", plural(more as u64, noun)),
    }
}

/// A table whose first column names series. Where their full names are too wide for the terminal, labels that all have are
/// named once, below.
fn with_names(list: &[Value], width: Option<usize>, fill: impl Fn(&dyn Fn(&Value) -> String) -> Table) -> String {
    let full = fill(&series::name);
    let named = Named::of(list.iter().map(|s| &s["metric"]));
    let common = named.hoisted();
    if common.is_empty() || width.is_none_or(|w| full.width() <= w) {
        return full.show(width, has_colour()).text;
    }
    let common = terminal::printable(&common).into_owned();
    let all = if list.len() == 1 { "" } else { "all " };
    fill(&|metric| named.short(metric)).show(width, has_colour()).text
        + &terminal::wrap(&format!("{all}with {common}"), 0, 4, width)
}

/// The samples of a series, floats and histograms together, in order of time.
fn points(series: &Value) -> Vec<&Value> {
    let mut all: Vec<&Value> =
        series["values"].as_array().into_iter().chain(series["histograms"].as_array()).flatten().collect();
    all.sort_by_key(|p| time_ms(p));
    all
}

fn table(data: &Value, when: When, all: bool, width: Option<usize>) -> Printed {
    let result = &data["result"];
    let list = result.as_array().map_or(&[][..], Vec::as_slice);
    match data["resultType"].as_str() {
        Some("scalar" | "string") => {
            let text = format!("{}\n", terminal::printable_lines(result[1].as_str().unwrap_or("")));
            Printed { text, note: String::new() }
        }
        Some("vector") => vector(list, all, width),
        _ => matrix(list, when, all, width),
    }
}

/// Rows that are shown; in a pipe all.
fn rows_max(all: bool, width: Option<usize>) -> usize {
    if all || width.is_none() { usize::MAX } else { ROWS_DEFAULT }
}

fn vector(list: &[Value], all: bool, width: Option<usize>) -> Printed {
    let rows_max = rows_max(all, width);
    let fill = |name: &dyn Fn(&Value) -> String| {
        let mut t = Table::new([("series", Kind::Text), ("value", Kind::Number)]);
        for s in list.iter().take(rows_max) {
            let point = if s["value"].is_array() { &s["value"] } else { &s["histogram"] };
            t.push([name(&s["metric"]), value_text(point)]);
        }
        t
    };
    Printed { text: with_names(list, width, fill), note: cut_note(rows_max, list.len(), "series") }
}

fn matrix(list: &[Value], when: When, all: bool, width: Option<usize>) -> Printed {
    let samples: usize = list.iter().map(|s| points(s).len()).sum();
    if all || samples <= SAMPLES_SHOWN {
        return Printed { text: every_sample(list, when, width), note: String::new() };
    }
    let rows_max = rows_max(all, width);
    let range = drawn_range(list, when);
    let fill = |name: &dyn Fn(&Value) -> String| {
        let numbers = ["points", "first", "min", "max", "last"].map(|n| (n, Kind::Number));
        let mut t = Table::new([("series", Kind::Text)].into_iter().chain(numbers).chain([("", Kind::Fixed)]));
        list.iter().take(rows_max).for_each(|s| t.push(summary(s, name, range)));
        t
    };
    let step = if when.step == 0 { String::new() } else { format!(", a step every {}", format_ms(when.step)) };
    let text = format!("{}{step}\n{}", when.shown(), with_names(list, width, fill));
    let how = "--all prints every sample, --graph draws them";
    let note = match cut_note(rows_max, list.len(), "series") {
        cut if cut.is_empty() => how.to_owned(),
        cut => format!("{cut}\n{how}"),
    };
    Printed { text, note }
}

/// The row of a series in a table of a range.
fn summary(s: &Value, name: &dyn Fn(&Value) -> String, range: (f64, f64)) -> Vec<String> {
    let points = points(s);
    let floats: Vec<(f64, f64)> = points.iter().filter_map(|p| float(p)).collect();
    let ys = || floats.iter().map(|p| p.1).filter(|v| !v.is_nan());
    let figure = |v: Option<f64>| v.map_or_else(|| "–".to_owned(), chart::figure);
    vec![
        name(&s["metric"]),
        quiver_model::number::grouped(points.len() as u64),
        figure(floats.first().map(|p| p.1)),
        figure(ys().reduce(f64::min)),
        figure(ys().reduce(f64::max)),
        figure(floats.last().map(|p| p.1)),
        chart::sparkline(&floats, range),
    ]
}

fn every_sample(list: &[Value], when: When, width: Option<usize>) -> String {
    let time = format!("time ({})", times::zone(when.end));
    let fill = |name: &dyn Fn(&Value) -> String| {
        let mut t = Table::new([("series", Kind::Text), (time.as_str(), Kind::Fixed), ("value", Kind::Number)]);
        for s in list {
            let mut name = name(&s["metric"]);
            for p in points(s) {
                t.push([std::mem::take(&mut name), times::stamp(time_ms(p)), value_text(p)]);
            }
        }
        t
    };
    with_names(list, width, fill)
}

fn float(point: &Value) -> Option<(f64, f64)> {
    let value = point[1].as_str()?;
    // Rust reads "+Inf" and "NaN", too.
    Some((point[0].as_f64()?, value.parse().ok()?))
}

/// Seconds that a chart spans: the range asked for; of samples as they are, what they span.
fn drawn_range(list: &[Value], when: When) -> (f64, f64) {
    if when.step > 0 {
        return (when.start as f64 / 1000.0, when.end as f64 / 1000.0);
    }
    let times: Vec<f64> = list.iter().flat_map(points).filter_map(|p| p[0].as_f64()).collect();
    let fold = |f: fn(f64, f64) -> f64| times.iter().copied().reduce(f).unwrap_or(0.0);
    (fold(f64::min), fold(f64::max))
}

fn graph(expression: &str, data: &Value, when: When) -> String {
    let list = match data["resultType"].as_str() {
        Some("matrix") => data["result"].as_array().map_or(&[][..], Vec::as_slice),
        _ => return table(data, when, false, terminal::width()).text,
    };
    let samples: Vec<&Value> = list.iter().flat_map(points).collect();
    if let [only] = samples.as_slice()
        && float(only).is_some_and(|(_, y)| y.is_finite())
    {
        let at = time_ms(only);
        let (at, zone) = (times::stamp(at), times::zone(at));
        return format!(
            "1 sample so far, at {at} {zone}; a graph needs two\n{}",
            table(data, when, false, terminal::width()).text
        );
    }
    let named = Named::of(list.iter().map(|s| &s["metric"]));
    let mut lines = Vec::new();
    for s in list.iter().take(LINES_MAX) {
        let mut drawn: Vec<(f64, f64)> = Vec::new();
        for (x, y) in s["values"].as_array().into_iter().flatten().filter_map(float) {
            // A gap of more than a step breaks the line.
            if drawn.last().is_some_and(|l| x - l.0 > when.step as f64 / 1000.0 * 1.5) {
                drawn.push((x, f64::NAN));
            }
            drawn.push((x, y));
        }
        lines.push(Line { name: named.differing(&s["metric"]), points: drawn });
    }
    let columns = terminal::width().unwrap_or(100).clamp(CHART_WIDTH.0, CHART_WIDTH.1);
    let (start, end) = drawn_range(list, when);
    let span = when.end.saturating_sub(when.start);
    let size = (columns, CHART_HEIGHT);
    let x_label = |x: f64| times::on_axis((x * 1000.0).round() as i64, span);
    let Some(drawn) = chart::draw(&lines, (start, end), size, has_colour(), x_label) else {
        return format!(
            "nothing to draw: the values are NaN, infinite or histograms\n{}",
            table(data, when, false, terminal::width()).text
        );
    };
    let mut title = expression.split_whitespace().collect::<Vec<_>>().join(" ");
    let common = named.common();
    if !common.is_empty() && !title.contains(&common) {
        title = format!("{title}   {common}");
    }
    let title = super::table::cut(&terminal::printable(&title), columns);
    let more = match list.len().saturating_sub(LINES_MAX) {
        0 => String::new(),
        n => format!(
            "… and {} that are not drawn; narrow the query, or take topk({LINES_MAX}, …)\n",
            plural(n as u64, "more series")
        ),
    };
    format!("{title}\n{drawn}{more}{}\n", when.shown())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    const INSTANT: When = When { start: 1000, end: 1000, step: 0 };

    #[test]
    fn vectors_become_tables() {
        let data = json(r#"{"resultType":"vector","result":[{"metric":{"__name__":"up","job":"a"},"value":[1,"1"]}]}"#);
        let text = table(&data, INSTANT, false, None).text;
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines, ["series       value", "───────────  ─────", r#"up{job="a"}      1"#]);
    }

    #[test]
    fn few_samples_are_shown_many_are_summed_up() {
        let two = json(r#"{"resultType":"matrix","result":[{"metric":{},"values":[[1.5,"2"],[2,"3"]]}]}"#);
        let text = table(&two, INSTANT, false, None).text;
        assert!(text.contains("00:01.500") && text.contains("time (UTC"), "{text}");
        let values: Vec<String> = (0..60).map(|i| format!(r#"[{i},"{}"]"#, i * 2)).collect();
        let many =
            format!(r#"{{"resultType":"matrix","result":[{{"metric":{{"a":"b"}},"values":[{}]}}]}}"#, values.join(","));
        let when = When { start: 0, end: 59_000, step: 1000 };
        let text = table(&json(&many), when, false, Some(100)).text;
        let row = text.lines().nth(3).unwrap();
        assert!(row.starts_with(r#"{a="b"}      60      0    0  118   118"#) && row.contains('█'), "{text}");
        assert_eq!(table(&json(&many), when, true, None).text.lines().count(), 62);
    }

    #[test]
    fn the_axis_of_a_chart_is_the_range_asked_for() {
        let data = json(
            r#"{"resultType":"matrix","result":[
                {"metric":{"__name__":"up","job":"a","instance":"i"},"values":[[3000,"1"],[3060,"2"]]},
                {"metric":{"__name__":"up","job":"b","instance":"i"},"values":[[3000,"1"]]}]}"#,
        );
        let text = graph("up", &data, When { start: 0, end: 3_600_000, step: 60_000 });
        assert!(text.starts_with("up   {instance=\"i\"}\n"), "{text}");
        assert!(text.contains("━━ job=\"a\"\n") && text.contains("━━ job=\"b\"\n"), "{text}");
        let axis = text.lines().find(|l| l.contains('└')).unwrap().chars().count();
        let labels = text.lines().skip_while(|l| !l.contains('└')).nth(1).unwrap();
        assert_eq!(labels.chars().count(), axis, "{text}");
        assert!(labels.trim().starts_with(&times::on_axis(0, 3_600_000)), "{text}");
        let none = json(r#"{"resultType":"matrix","result":[{"metric":{},"values":[[1,"NaN"]]}]}"#);
        assert!(graph("x", &none, When { start: 0, end: 3_600_000, step: 60_000 }).starts_with("nothing to draw: "));
        let one = json(r#"{"resultType":"matrix","result":[{"metric":{"a":"b"},"values":[[3000,"7"]]}]}"#);
        let text = graph("x", &one, When { start: i64::MIN, end: i64::MAX, step: 60_000 });
        assert!(text.starts_with("1 sample so far, at 1970-01-01 ") && text.contains('7'), "{text}");
    }
}
