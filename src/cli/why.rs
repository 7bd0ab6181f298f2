//! Why a query found nothing: each selector of it is looked up.

use quiver_model::duration::format_ms;
use quiver_model::labels::quoted;
use quiver_model::{Limits, METRIC_NAME, MatchOp, Matcher, did_you_mean};
use quiver_query::Features;
use quiver_query::explain::selector as text;
use quiver_query::promql::ast::{Expr, VectorSelector};
use quiver_query::promql::{ParseOptions, parse_expr};

use super::ask::Asker;
use super::table::cut;
use super::times;
use super::when::When;

/// How far an instant selector looks back, unless the server is told otherwise.
const LOOKBACK_MS: i64 = 300_000;
/// Selectors that are looked up.
const SELECTORS_MAX: usize = 4;
/// Names that are compared with one that is not there.
const NAMES_MAX: usize = 20_000;
/// Values of a label that are named.
const VALUES_SHOWN: usize = 5;
/// Columns of such a value at most.
const VALUE_SHOWN: usize = 60;
/// Times that samples are looked for in, ms: far beyond those that a clock has.
const TIMES: (i64, i64) = (-(1 << 48), 1 << 48);
/// The first and last sample of a series in memory are known by steps of this length.
const SPAN_STEP_MS: i64 = 1 << 21;
/// Times of the present in seconds, read as milliseconds: in the first weeks of 1970. Three years leave room for the future.
const SECONDS_AS_MS: std::ops::Range<i64> = 0..94_694_400_000;
/// Functions that compare a sample with one before it.
const NEED_TWO: [&str; 7] = ["rate", "irate", "increase", "delta", "idelta", "deriv", "predict_linear"];

/// A selector, and how its samples are used.
#[derive(Debug, PartialEq)]
struct Use {
    matchers: Vec<Matcher>,
    /// How far it looks back from each step, ms.
    window: i64,
    is_range: bool,
    /// Function around a range.
    function: Option<&'static str>,
    offset: i64,
    /// Its times are not those of the query: `@`, or within a subquery.
    is_moved: bool,
}

/// Reasons, each a sentence; none if nothing is known.
pub async fn empty(asker: &Asker, expression: &str, when: When) -> Vec<String> {
    let mut options = ParseOptions::new(&Limits::default(), Features::default());
    options.features.experimental_functions = true;
    options.features.unquoted_utf8_names = true;
    let Ok(expr) = parse_expr(expression, &options) else { return Vec::new() };
    let mut out: Vec<String> = Vec::new();
    let uses = uses(&expr);
    let mut is_known = uses.len() <= SELECTORS_MAX;
    for used in uses.iter().take(SELECTORS_MAX) {
        match reason(asker, used, when).await {
            Ok(Some(text)) if !out.contains(&text) => out.push(text),
            Ok(Some(_)) => {}
            // Where the times of a selector are moved, its samples may lie at others than were looked at.
            Ok(None) => is_known &= !used.is_moved,
            // A server that cannot be asked this gives no reason.
            Err(_) => is_known = false,
        }
    }
    if out.is_empty() && is_known {
        match uses.len() {
            0 => {}
            1 => out.push("the selector finds samples, but the expression filters all of them out".to_owned()),
            _ => out.push("the selectors find samples, but the expression filters all of them out".to_owned()),
        }
    }
    out
}

fn uses(expr: &Expr) -> Vec<Use> {
    let mut out = Vec::new();
    let mut stack: Vec<(&Expr, Option<&'static str>, bool)> = vec![(expr, None, false)];
    while let Some((e, function, is_moved)) = stack.pop() {
        let mut found = |s: &VectorSelector, range: Option<i64>, expr_range: bool| {
            let is_moved = is_moved || expr_range || s.timestamp.is_some() || s.start_or_end.is_some();
            out.push(Use {
                matchers: s.matchers.clone(),
                window: range.unwrap_or(LOOKBACK_MS),
                is_range: range.is_some(),
                function: range.and(function),
                offset: s.original_offset,
                is_moved: is_moved || s.original_offset_expr.is_some(),
            });
        };
        match e {
            Expr::Vector(v) => found(v, None, false),
            Expr::Matrix(m) => found(&m.selector, Some(m.range), m.range_expr.is_some()),
            Expr::Aggregate(a) => {
                stack.extend(a.param.as_ref().map(|p| (p, None, is_moved)));
                stack.push((&a.expr, None, is_moved));
            }
            Expr::Binary(b) => stack.extend([(&b.rhs, None, is_moved), (&b.lhs, None, is_moved)]),
            Expr::Call(c) => stack.extend(c.args.iter().rev().map(|a| (a, Some(c.func.name), is_moved))),
            Expr::Subquery(s) => stack.push((&s.expr, None, true)),
            Expr::Paren(p) => stack.push((&p.expr, function, is_moved)),
            Expr::Unary(u) => stack.push((&u.expr, None, is_moved)),
            Expr::StepInvariant(e) => stack.push((e, function, is_moved)),
            Expr::Number(_) | Expr::String(_) | Expr::Duration(_) => {}
        }
    }
    out
}

fn is_name(m: &Matcher) -> bool {
    &*m.name == METRIC_NAME && m.op == MatchOp::Equal
}

async fn reason(asker: &Asker, used: &Use, when: When) -> Result<Option<String>, String> {
    let selector = text(&used.matchers);
    let start = when.start.saturating_sub(used.window).saturating_sub(used.offset);
    let range = (start, when.end.saturating_sub(used.offset));
    if used.is_moved {
        return if asker.has_series(&selector, None).await? { Ok(None) } else { missing(asker, used, &selector).await };
    }
    if asker.has_series(&selector, Some(range)).await? {
        if let Some(text) = too_few(asker, used, &selector, when).await? {
            return Ok(Some(text));
        }
        if has_value(asker, used, &selector, when).await? {
            return Ok(None);
        }
        // The series span this time; a sample in it is another matter.
        if let Some(newest) = newest_within(asker, &selector, range.0, range.1).await? {
            return Ok(Some(missed(used, &selector, newest, when)));
        }
    }
    if asker.has_series(&selector, None).await? {
        let looks =
            if used.is_range { String::new() } else { format!(" (a selector looks back {})", format_ms(used.window)) };
        let whole = |ms: i64| ms.div_euclid(1000) * 1000;
        let times = times::span(whole(range.0), whole(range.1));
        let other = elsewhere(asker, &selector, range).await;
        let other = other.unwrap_or_else(|_| "it has some at other times".to_owned());
        return Ok(Some(format!("{selector} has no sample from {times}{looks}; {other}")));
    }
    missing(asker, used, &selector).await
}

/// Whether a selector gives a value at any step.
async fn has_value(asker: &Asker, used: &Use, selector: &str, when: When) -> Result<bool, String> {
    let offset = offset_text(used);
    let counted = match used.is_range {
        true => format!("count(count_over_time({selector}[{}]{offset}))", format_ms(used.window)),
        false => format!("count({selector}{offset})"),
    };
    let answer = asker.promql(&counted, when).await?;
    Ok(answer["data"]["result"].as_array().is_some_and(|list| !list.is_empty()))
}

/// Why no step sees the samples that lie in the range, the newest of them at a time.
fn missed(used: &Use, selector: &str, newest: i64, when: When) -> String {
    let (last, window) = (last_step(when).saturating_sub(used.offset), format_ms(used.window));
    let at = shown(newest);
    if newest <= last && last.saturating_sub(newest) < used.window {
        return format!(
            "the series of {selector} have ended: their newest sample is at {at}, and a stale marker follows it"
        );
    }
    if when.step == 0 {
        return format!("{selector} has no sample in the {window} before this time; its newest sample is at {at}");
    }
    format!(
        "{selector} has no sample in the {window} before any step (every {} from {}); its newest sample is at {at}: use a \
         shorter --step",
        format_ms(when.step),
        times::stamp(when.start)
    )
}

fn last_step(when: When) -> i64 {
    match when.step {
        0 => when.end,
        step => when.end.saturating_sub(when.end.saturating_sub(when.start) % step),
    }
}

fn shown(ms: i64) -> String {
    format!("{} {}", times::stamp(ms), times::zone(ms))
}

/// When the samples are that do not lie in a range.
async fn elsewhere(asker: &Asker, selector: &str, range: (i64, i64)) -> Result<String, String> {
    let first = first(asker, selector).await?;
    if let Some(first) = first.filter(|first| *first > range.1) {
        return Ok(format!("its first sample is at {}", shown(first)));
    }
    let newest = newest(asker, selector).await?.ok_or("no sample is found")?;
    Ok(if newest < range.0 {
        let seconds = if SECONDS_AS_MS.contains(&newest) {
            ": were the timestamps sent in seconds? They are milliseconds"
        } else {
            ""
        };
        format!("its newest sample is at {}{seconds}", shown(newest))
    } else {
        "it has some before and after that".to_owned()
    })
}

/// Whether a selector has a sample after one time and up to another.
async fn has_sample(asker: &Asker, selector: &str, after: i64, to: i64) -> Result<bool, String> {
    let counted = format!("count(count_over_time({selector}[{}]))", format_ms(to.saturating_sub(after)));
    let answer = asker.promql(&counted, When { start: to, end: to, step: 0 }).await?;
    Ok(answer["data"]["result"].as_array().is_some_and(|list| !list.is_empty()))
}

/// The newest sample after one time and up to another.
async fn newest_within(asker: &Asker, selector: &str, after: i64, to: i64) -> Result<Option<i64>, String> {
    let (mut low, mut high) = (after.max(TIMES.0), to);
    if low >= high || !has_sample(asker, selector, low, to).await? {
        return Ok(None);
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if has_sample(asker, selector, middle, to).await? { low = middle } else { high = middle }
    }
    Ok(Some(high))
}

/// The newest sample at all. Series are known by their first and last sample, in the head by steps of time: that narrows it down.
async fn newest(asker: &Asker, selector: &str) -> Result<Option<i64>, String> {
    let (mut low, mut high) = TIMES;
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if asker.has_series(selector, Some((middle, TIMES.1))).await? { low = middle } else { high = middle }
    }
    newest_within(asker, selector, low - SPAN_STEP_MS, low).await
}

/// The first sample at all.
async fn first(asker: &Asker, selector: &str) -> Result<Option<i64>, String> {
    let (mut low, mut high) = TIMES;
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if asker.has_series(selector, Some((TIMES.0, middle))).await? { high = middle } else { low = middle }
    }
    let (after, mut low, mut high) = (high - 1, high - 1, high + SPAN_STEP_MS);
    if !has_sample(asker, selector, after, high).await? {
        return Ok(None);
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if has_sample(asker, selector, after, middle).await? { high = middle } else { low = middle }
    }
    Ok(Some(high))
}

/// No series at any time: is it the name, or a label?
async fn missing(asker: &Asker, used: &Use, selector: &str) -> Result<Option<String>, String> {
    let name = used.matchers.iter().find(|m| is_name(m));
    if let Some(name) = name {
        let alone = text(std::slice::from_ref(name));
        if used.matchers.len() == 1 || !asker.has_series(&alone, None).await? {
            let names = asker.label_values(METRIC_NAME, None, NAMES_MAX).await?;
            let near = did_you_mean(name.value.as_ref(), names.iter().map(String::as_str));
            return Ok(Some(match names.is_empty() {
                true => "nothing is stored yet".to_owned(),
                false => format!("there is no metric {}{near}", quoted(name.value.as_ref())),
            }));
        }
        // The first matcher that leaves nothing of the metric.
        for m in used.matchers.iter().filter(|m| !is_name(m)) {
            let with = text(&[name.clone(), m.clone()]);
            if asker.has_series(&with, None).await? {
                continue;
            }
            let values = asker.label_values(m.name.as_ref(), Some(&alone), NAMES_MAX).await?;
            let (name, label) = (name.value.as_ref(), m.name.as_ref());
            return Ok(Some(if values.is_empty() {
                format!("no series of {name} has the label {label}")
            } else {
                format!("no series of {name} has {m}; {label} is {}", some_of(&values))
            }));
        }
    }
    Ok(Some(format!("no series matches {selector}")))
}

fn some_of(values: &[String]) -> String {
    let mut shown: Vec<String> = values.iter().take(VALUES_SHOWN).map(|v| quoted(&cut(v, VALUE_SHOWN))).collect();
    let more = values.len().saturating_sub(VALUES_SHOWN);
    if more > 0 {
        shown.push(format!("{more} more"));
    }
    match shown.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => shown.concat(),
    }
}

fn offset_text(used: &Use) -> String {
    match used.offset {
        0 => String::new(),
        ms => format!(" offset {}", format_ms(ms)),
    }
}

/// Series that are there, with fewer samples than a function needs.
async fn too_few(asker: &Asker, used: &Use, selector: &str, when: When) -> Result<Option<String>, String> {
    let Some(function) = used.function.filter(|f| NEED_TWO.contains(f)) else { return Ok(None) };
    let offset = offset_text(used);
    let counted = format!("max(count_over_time({selector}[{}]{offset}))", format_ms(used.window));
    let answer = asker.promql(&counted, When { start: when.end, end: when.end, step: 0 }).await?;
    let most = answer["data"]["result"][0]["value"][1].as_str().and_then(|t| t.parse::<f64>().ok()).unwrap_or(0.0);
    if most >= 2.0 {
        return Ok(None);
    }
    let window = format_ms(used.window);
    Ok(Some(format!(
        "{function}() needs two samples in its window of {window}; {selector} has {} at the end of this time: ask again \
         after the next sample, or take a longer window",
        if most < 1.0 { "none" } else { "one" }
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uses_of(query: &str) -> Vec<(String, i64, Option<&'static str>, bool)> {
        let expr = parse_expr(query, &ParseOptions::default()).unwrap();
        uses(&expr).iter().map(|u| (text(&u.matchers), u.window, u.function, u.is_moved)).collect()
    }

    #[test]
    fn selectors_are_found_with_what_is_around_them() {
        assert_eq!(uses_of("up"), [("up".to_owned(), LOOKBACK_MS, None, false)]);
        assert_eq!(
            uses_of(r#"sum by (a) (rate(x{a="1", b=~"2"}[1m])) / (y offset 5m)"#),
            [
                (r#"x{a="1", b=~"2"}"#.to_owned(), 60_000, Some("rate"), false),
                ("y".to_owned(), LOOKBACK_MS, None, false)
            ]
        );
        assert_eq!(uses_of("max_over_time(rate((x[1m]))[1h:1m])"), [("x".to_owned(), 60_000, Some("rate"), true)]);
        assert_eq!(uses_of("{a=\"b\"} @ 5"), [("{a=\"b\"}".to_owned(), LOOKBACK_MS, None, true)]);
        assert_eq!(uses_of("vector(1)"), []);
    }

    #[test]
    fn values_are_listed() {
        let values = |n: usize| (0..n).map(|i| format!("v{i}")).collect::<Vec<_>>();
        assert_eq!(some_of(&values(1)), r#""v0""#);
        assert_eq!(some_of(&values(2)), r#""v0" or "v1""#);
        assert_eq!(some_of(&values(9)), r#""v0", "v1", "v2", "v3", "v4" or 4 more"#);
        assert!(some_of(&["x".repeat(4096)]).chars().count() < 70, "a long value is cut");
    }
}
