//! Predicates of SQL as matchers and time ranges, so that the index and block pruning see them.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use quiver_core::TimeRange;
use quiver_model::{MatchOp, Matcher};

use super::meaning::coarse;

/// What a predicate says to storage.
#[derive(Clone, Debug, PartialEq)]
pub enum Pushed {
    /// All of these must match.
    Labels(Vec<Matcher>),
    /// Only samples in there.
    Time(TimeRange),
}

/// How a table names labels and time.
pub trait Columns {
    /// The label behind a column, if it is one.
    fn label<'a>(&'a self, column: &str) -> Option<&'a str>;
    /// Has it the `labels` map?
    fn has_map(&self) -> bool;
}

/// What storage can do for a predicate, and whether that is all of it.
pub fn push_down(expr: &Expr, columns: &dyn Columns, regex_bytes_max: usize) -> Option<(Pushed, bool)> {
    match expr {
        // Short lists are written out as alternatives by the optimiser: `a = 'x' OR a = 'y'`.
        Expr::BinaryExpr(BinaryExpr { op: Operator::Or, .. }) => {
            let mut words = Vec::new();
            let label = alternatives(expr, columns, None, &mut words)?;
            one_of(&label, MatchOp::Regex, &words, regex_bytes_max)
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            if let (Some(label), Some(text)) = (label_of(left, columns), text_of(right)) {
                return compare_label(&label, *op, &text, regex_bytes_max);
            }
            if let (Some(text), Some(label)) = (text_of(left), label_of(right, columns)) {
                return compare_label(&label, op.swap()?, &text, regex_bytes_max);
            }
            if let (true, Some(ns)) = (is_time(left), nanoseconds(right)) {
                return compare_time(*op, ns);
            }
            if let (Some(ns), true) = (nanoseconds(left), is_time(right)) {
                return compare_time(op.swap()?, ns);
            }
            None
        }
        Expr::Between(b) if !b.negated && is_time(&b.expr) => {
            let range = TimeRange { min: ceil_ms(nanoseconds(&b.low)?), max: floor_ms(nanoseconds(&b.high)?) };
            Some((Pushed::Time(range), true))
        }
        Expr::InList(l) if !l.list.is_empty() => {
            let label = label_of(&l.expr, columns)?;
            let words: Option<Vec<String>> = l.list.iter().map(text_of).collect();
            let op = if l.negated { MatchOp::NotRegex } else { MatchOp::Regex };
            one_of(&label, op, &words?, regex_bytes_max)
        }
        Expr::IsNotNull(e) => {
            let label = label_of(e, columns)?;
            Some((Pushed::Labels(vec![not_empty(&label)]), true))
        }
        Expr::IsNull(e) => {
            let label = label_of(e, columns)?;
            Some((Pushed::Labels(vec![Matcher::equal(&label, "")]), true))
        }
        Expr::Like(l) if !l.negated && !l.case_insensitive && l.escape_char.is_none() => {
            let label = label_of(&l.expr, columns)?;
            let mut pattern = String::new();
            for c in text_of(&l.pattern)?.chars() {
                match c {
                    '%' => pattern.push_str(".*"),
                    '_' => pattern.push('.'),
                    // An escape sequence: leave the predicate to SQL.
                    '\\' => return None,
                    c => pattern.push_str(&escape(&c.to_string())),
                }
            }
            present(&label, Matcher::new(MatchOp::Regex, &label, &pattern, regex_bytes_max).ok()?, true)
        }
        _ => None,
    }
}

/// The one label that all alternatives compare with a text, which go to `words`.
fn alternatives(expr: &Expr, columns: &dyn Columns, known: Option<String>, words: &mut Vec<String>) -> Option<String> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = expr else { return None };
    match op {
        Operator::Or => {
            let label = alternatives(left, columns, known, words)?;
            alternatives(right, columns, Some(label), words)
        }
        Operator::Eq => {
            let (label, word) = match (label_of(left, columns), text_of(right)) {
                (Some(label), Some(word)) => (label, word),
                _ => (label_of(right, columns)?, text_of(left)?),
            };
            words.push(word);
            known.is_none_or(|k| k == label).then_some(label)
        }
        _ => None,
    }
}

/// Is (or is not) the label one of these words?
fn one_of(label: &str, op: MatchOp, words: &[String], regex_bytes_max: usize) -> Option<(Pushed, bool)> {
    let pattern = words.iter().map(|w| escape(w)).collect::<Vec<_>>().join("|");
    present(label, Matcher::new(op, label, &pattern, regex_bytes_max).ok()?, true)
}

fn not_empty(label: &str) -> Matcher {
    Matcher::equal(label, "").inverse()
}

/// A missing label is null in SQL and fulfils no comparison, while a matcher may accept the empty string.
fn present(label: &str, matcher: Matcher, exact: bool) -> Option<(Pushed, bool)> {
    let mut list = vec![matcher];
    if list[0].matches_empty() {
        list.push(not_empty(label));
    }
    Some((Pushed::Labels(list), exact))
}

fn compare_label(label: &str, op: Operator, text: &str, max: usize) -> Option<(Pushed, bool)> {
    // SQL's expressions are not anchored.
    let regex = |accept| Matcher::in_rust(accept, label, &format!("(?s:.*)(?:{text})(?s:.*)"), max).ok();
    match op {
        // No label has an empty value: `= ''` holds for no row.
        Operator::Eq => present(label, Matcher::equal(label, text), true),
        Operator::NotEq => present(label, Matcher::equal(label, text).inverse(), true),
        // Dialects may differ in a corner: SQL checks again.
        Operator::RegexMatch => present(label, regex(true)?, false),
        Operator::RegexNotMatch => present(label, regex(false)?, false),
        _ => None,
    }
}

fn compare_time(op: Operator, ns: i128) -> Option<(Pushed, bool)> {
    let all = TimeRange::ALL;
    let range = match op {
        Operator::Eq => TimeRange { min: ceil_ms(ns), max: floor_ms(ns) },
        Operator::Gt => TimeRange { min: floor_ms(ns).saturating_add(1), ..all },
        Operator::GtEq => TimeRange { min: ceil_ms(ns), ..all },
        Operator::Lt => TimeRange { max: ceil_ms(ns).saturating_sub(1), ..all },
        Operator::LtEq => TimeRange { max: floor_ms(ns), ..all },
        _ => return None,
    };
    Some((Pushed::Time(range), true))
}

fn floor_ms(ns: i128) -> i64 {
    ns.div_euclid(1_000_000).clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

fn ceil_ms(ns: i128) -> i64 {
    (ns + 999_999).div_euclid(1_000_000).clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

/// `expr` without aliases and the casts to types that change nothing: what `keeps` says of them.
fn peel(expr: &Expr, keeps: fn(&DataType) -> bool) -> &Expr {
    match expr {
        Expr::Cast(c) if keeps(c.field.data_type()) => peel(&c.expr, keeps),
        Expr::TryCast(c) if keeps(c.field.data_type()) => peel(&c.expr, keeps),
        Expr::Alias(a) => peel(&a.expr, keeps),
        e => e,
    }
}

/// A label is the same text as any of these, and never null where it is one.
fn keeps_text(to: &DataType) -> bool {
    match to {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, of) => keeps_text(of),
        _ => false,
    }
}

/// `ts` is in milliseconds of UTC: a finer unit keeps its order, seconds and days would round it.
fn keeps_time(to: &DataType) -> bool {
    let is_utc = |zone: &str| matches!(zone, "UTC" | "+00:00");
    matches!(to, DataType::Timestamp(unit, zone) if *unit != TimeUnit::Second && zone.as_deref().is_none_or(is_utc))
}

fn label_of(expr: &Expr, columns: &dyn Columns) -> Option<String> {
    match peel(expr, keeps_text) {
        Expr::Column(c) => columns.label(&c.name).map(str::to_owned),
        Expr::ScalarFunction(f) if columns.has_map() && f.name() == "get_field" => match f.args.as_slice() {
            [map, key] => match peel(map, |_| false) {
                Expr::Column(c) if c.name == "labels" => text_of(key),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    }
}

fn is_time(expr: &Expr) -> bool {
    let expr = peel(expr, keeps_time);
    matches!(coarse(expr).unwrap_or(expr), Expr::Column(c) if c.name == "ts")
}

fn text_of(expr: &Expr) -> Option<String> {
    match peel(expr, keeps_text) {
        Expr::Literal(v, _) => scalar_text(v),
        _ => None,
    }
}

fn scalar_text(v: &ScalarValue) -> Option<String> {
    match v {
        ScalarValue::Dictionary(_, inner) => scalar_text(inner),
        ScalarValue::Utf8(s) | ScalarValue::LargeUtf8(s) | ScalarValue::Utf8View(s) => s.clone(),
        _ => None,
    }
}

fn nanoseconds(expr: &Expr) -> Option<i128> {
    // A cast of a literal may round: only a bare one is taken.
    let Expr::Literal(v, _) = expr else { return None };
    match v {
        ScalarValue::TimestampSecond(Some(t), _) => Some(i128::from(*t) * 1_000_000_000),
        ScalarValue::TimestampMillisecond(Some(t), _) => Some(i128::from(*t) * 1_000_000),
        ScalarValue::TimestampMicrosecond(Some(t), _) => Some(i128::from(*t) * 1000),
        ScalarValue::TimestampNanosecond(Some(t), _) => Some(i128::from(*t)),
        _ => None,
    }
}

/// `text` as a regular expression that matches just it.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_punctuation() {
            out.push('\\');
        }
        out.push(c);
    }
    out
}
