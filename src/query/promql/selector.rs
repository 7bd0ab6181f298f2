//! Selectors, and what is written behind an operand: `[5m]`, `[1h:5m]`, `offset`, `@`, `anchored`, `smoothed`.

use quiver_model::matcher::{bytes_of_text, text_of_bytes};
use quiver_model::{METRIC_NAME, MatchOp, Matcher, regex};

use super::ast::*;
use super::number;
use super::parser::{EXPRESSIONS_MAX, Fail, Parsed, Parser, Tall, position};
use super::strings;
use super::token::{Kind, Token};

/// An offset as written.
enum Offset {
    Ns(i64),
    Expr(Box<DurationExpr>),
}

/// What a modifier is written behind, if it can carry one.
enum Target<'e> {
    Vector(&'e mut VectorSelector),
    Matrix(&'e mut MatrixSelector),
    Subquery(&'e mut SubqueryExpr),
    Other,
}

fn target(e: &mut Expr) -> Target<'_> {
    match e {
        Expr::Vector(v) => Target::Vector(v),
        Expr::Matrix(m) => Target::Matrix(m),
        Expr::Subquery(s) => Target::Subquery(s),
        _ => Target::Other,
    }
}

const LABELS: &str = "label matching";

impl<'a> Parser<'a> {
    /// A metric name, already taken, and its matchers if any.
    pub fn named_selector(&mut self, name: Token<'_>) -> Parsed<VectorSelector> {
        let mut s = if self.peek()? == Kind::LeftBrace {
            self.braced_selector()?
        } else {
            selector(Vec::new(), position(&name))
        };
        s.pos.start = name.pos as u32;
        s.name = name.text.to_owned();
        s.matchers.push(Matcher::equal(METRIC_NAME, name.text));
        Ok(s)
    }

    /// `{…}`
    pub fn braced_selector(&mut self) -> Parsed<VectorSelector> {
        let open = self.bump()?;
        let mut matchers = Vec::new();
        loop {
            match self.peek()? {
                Kind::RightBrace => break,
                Kind::Identifier => {
                    let label = self.bump()?;
                    let Some(op) = self.match_op()? else {
                        return self.refuse(LABELS, "label matching operator");
                    };
                    matchers.push(self.matcher(&label, label.text, op)?);
                }
                Kind::String => {
                    let label = self.bump()?;
                    let name = self.unquoted(&label, strings::unquote)?;
                    match self.match_op()? {
                        Some(op) => {
                            matchers.push(self.matcher(&label, &name, op)?);
                        }
                        None => matchers.push(Matcher::equal(METRIC_NAME, &name)),
                    }
                }
                _ => return self.refuse(LABELS, "identifier or \"}\""),
            }
            match self.peek()? {
                Kind::Comma => {
                    self.bump()?;
                }
                Kind::RightBrace => {}
                _ => return self.refuse(LABELS, "\",\" or \"}\""),
            }
        }
        let close = self.bump()?;
        Ok(selector(matchers, Position::new(open.pos, close.end())))
    }

    fn match_op(&mut self) -> Parsed<Option<MatchOp>> {
        let op = match self.peek()? {
            Kind::Assign => MatchOp::Equal,
            Kind::Neq => MatchOp::NotEqual,
            Kind::EqlRegex => MatchOp::Regex,
            Kind::NeqRegex => MatchOp::NotRegex,
            _ => return Ok(None),
        };
        self.bump()?;
        Ok(Some(op))
    }

    /// The value behind `label op`, and the matcher they make.
    fn matcher(&mut self, label: &Token<'_>, name: &str, op: MatchOp) -> Parsed<Matcher> {
        if self.peek()? != Kind::String {
            return self.refuse(LABELS, "string");
        }
        let token = self.bump()?;
        let bytes = self.unquoted(&token, strings::unquote_bytes)?;
        let pos = Position::new(label.pos, token.end());
        let value = match String::from_utf8(bytes) {
            Ok(value) if matches!(op, MatchOp::Regex | MatchOp::NotRegex) => value,
            Ok(value) => text_of_bytes(value.as_bytes()),
            Err(e) if matches!(op, MatchOp::Regex | MatchOp::NotRegex) => {
                // Words alone are compared; only what is read as an expression has to be text.
                if e.as_bytes().iter().any(|b| b"\\.+*?()[]{}^$".contains(b))
                    && let Err(e) = regex::parse_bytes(e.as_bytes(), self.regex_options())
                {
                    return self.fail(pos, e.to_string());
                }
                text_of_bytes(e.as_bytes())
            }
            Err(e) => text_of_bytes(e.as_bytes()),
        };
        match Matcher::new(op, name, &value, self.regex_bytes_left) {
            Ok(m) if m.pattern_bytes() > self.regex_bytes_left => {
                let message =
                    format!("regular expressions need more than {} bytes compiled", self.opts.regex_bytes_max);
                self.fail(pos, message)
            }
            Ok(m) if m.runs_expression() && self.expressions >= EXPRESSIONS_MAX => {
                self.fail(pos, format!("query has more than {EXPRESSIONS_MAX} regular expressions"))
            }
            Ok(m) => {
                self.regex_bytes_left -= m.pattern_bytes();
                self.expressions += usize::from(m.runs_expression());
                Ok(m)
            }
            Err(e) => self.fail(pos, e.to_string()),
        }
    }

    fn regex_options(&self) -> regex::Options {
        regex::Options { dot_matches_newline: true, captures: false, bytes_max: self.regex_bytes_left }
    }

    /// Everything written behind an operand.
    pub fn modifiers(&mut self, mut operand: Tall<Expr>) -> Parsed<Tall<Expr>> {
        loop {
            match self.peek()? {
                Kind::LeftBracket => operand = self.range_or_subquery(operand)?,
                Kind::Offset => {
                    self.bump()?;
                    let expected = "number, duration, step(), or range()";
                    let offset = self.within("offset", expected, Self::offset_duration)?;
                    self.set_offset(&mut operand.node, offset)?;
                }
                Kind::At => {
                    self.bump()?;
                    self.within("@", "timestamp", |p| p.at(&mut operand.node))?;
                }
                Kind::Anchored | Kind::Smoothed => {
                    let anchored = self.bump()?.kind == Kind::Anchored;
                    self.set_extended(&mut operand.node, anchored)?;
                }
                _ => return Ok(operand),
            }
        }
    }

    fn range_or_subquery(&mut self, operand: Tall<Expr>) -> Parsed<Tall<Expr>> {
        let open = self.bump()?;
        let expected = "number, duration, step(), or range()";
        let range = self.within("subquery or range selector", expected, Self::positive_duration)?;
        let (range, range_expr) = ms_or_expr(range);
        match self.peek()? {
            Kind::RightBracket => {
                let close = self.bump()?;
                let message = match &operand.node {
                    Expr::Vector(v)
                        if v.original_offset != 0 || v.offset_ns != 0 || v.original_offset_expr.is_some() =>
                    {
                        "no offset modifiers allowed before range"
                    }
                    Expr::Vector(v) if v.timestamp.is_some() || v.start_or_end.is_some() => {
                        "no @ modifiers allowed before range"
                    }
                    Expr::Vector(_) => "",
                    _ => "ranges only allowed for vector selectors",
                };
                match operand.node {
                    Expr::Vector(selector) if message.is_empty() => {
                        let pos = Position { start: selector.pos.start, end: self.last_closing as u32 };
                        let node = MatrixSelector { selector: *selector, range, range_expr, pos };
                        Ok(Tall { node: Expr::Matrix(Box::new(node)), height: 2 })
                    }
                    _ => self.fail(Position::new(open.pos, close.end()), message),
                }
            }
            Kind::Colon => {
                self.bump()?;
                let (mut step, mut step_expr, mut step_written) = (0, None, false);
                if self.peek()? != Kind::RightBracket {
                    let expected = "number, duration, step(), range(), or \"]\"";
                    let parsed = self.within("subquery selector", expected, Self::positive_duration)?;
                    step_written = !matches!(&parsed, Expr::Number(n) if number::ns_of_seconds(n.value) == 0);
                    (step, step_expr) = ms_or_expr(parsed);
                    if self.peek()? != Kind::RightBracket {
                        return self.refuse("subquery selector", "\"]\"");
                    }
                }
                let close = self.bump()?;
                let pos = Position { start: operand.node.pos().start, end: close.end() as u32 };
                let height = self.above(operand.height)?;
                let node = SubqueryExpr {
                    expr: operand.node,
                    range,
                    range_expr,
                    step,
                    step_expr,
                    step_written,
                    original_offset: 0,
                    offset_ns: 0,
                    original_offset_expr: None,
                    offset: 0,
                    timestamp: None,
                    start_or_end: None,
                    pos,
                };
                Ok(Tall { node: Expr::Subquery(Box::new(node)), height })
            }
            _ => self.refuse("subquery or range", "\":\" or \"]\""),
        }
    }

    fn set_offset(&mut self, e: &mut Expr, offset: Expr) -> Parsed<()> {
        let offset = match offset {
            Expr::Duration(d) => Offset::Expr(d),
            Expr::Number(n) => Offset::Ns(number::ns_of_seconds(n.value)),
            _ => return Err(Fail::Unexpected),
        };
        let whole = e.pos();
        let (ms, ns, expr, pos) = match target(e) {
            Target::Vector(v) => (&mut v.original_offset, &mut v.offset_ns, &mut v.original_offset_expr, &mut v.pos),
            Target::Matrix(m) => {
                let v = &mut m.selector;
                (&mut v.original_offset, &mut v.offset_ns, &mut v.original_offset_expr, &mut m.pos)
            }
            Target::Subquery(s) => (&mut s.original_offset, &mut s.offset_ns, &mut s.original_offset_expr, &mut s.pos),
            Target::Other => {
                let message = "offset modifier must be preceded by an instant vector selector or range vector \
                               selector or a subquery";
                return self.fail(whole, message);
            }
        };
        if *ms != 0 || *ns != 0 || expr.is_some() {
            return self.fail(whole, "offset may not be set multiple times");
        }
        match offset {
            Offset::Ns(v) => (*ms, *ns) = (v / 1_000_000, v % 1_000_000),
            Offset::Expr(d) => *expr = Some(d),
        }
        pos.end = self.last_closing as u32;
        Ok(())
    }

    /// What follows `@`.
    fn at(&mut self, e: &mut Expr) -> Parsed<()> {
        let boundary = match self.peek()? {
            Kind::Start => Some(AtBoundary::Start),
            Kind::End => Some(AtBoundary::End),
            _ => None,
        };
        let mut time = None;
        if boundary.is_some() {
            self.bump()?;
            self.expect(Kind::LeftParen)?;
            self.expect(Kind::RightParen)?;
        } else {
            let seconds = self.signed_number()?;
            if !seconds.is_finite() || seconds.abs() >= i64::MAX as f64 {
                let shown = if seconds.is_finite() { format!("{seconds:.6}") } else { number::format_float(seconds) };
                return self.fail(e.pos(), format!("timestamp out of bounds for @ modifier: {shown}"));
            }
            time = Some(number::float_to_int((seconds * 1000.0).round()));
        }
        let whole = e.pos();
        let (timestamp, start_or_end, pos) = match target(e) {
            Target::Vector(v) => (&mut v.timestamp, &mut v.start_or_end, &mut v.pos),
            Target::Matrix(m) => (&mut m.selector.timestamp, &mut m.selector.start_or_end, &mut m.pos),
            Target::Subquery(s) => (&mut s.timestamp, &mut s.start_or_end, &mut s.pos),
            Target::Other => {
                let message = "@ modifier must be preceded by an instant vector selector or range vector selector or \
                               a subquery";
                return self.fail(whole, message);
            }
        };
        if timestamp.is_some() || start_or_end.is_some() {
            return self.fail(whole, "@ <timestamp> may not be set multiple times");
        }
        *timestamp = time;
        *start_or_end = boundary;
        pos.end = self.last_closing as u32;
        Ok(())
    }

    fn set_extended(&mut self, e: &mut Expr, anchored: bool) -> Parsed<()> {
        let whole = e.pos();
        let word = if anchored { "anchored" } else { "smoothed" };
        let v = match target(e) {
            Target::Vector(v) => v,
            Target::Matrix(m) => &mut m.selector,
            Target::Subquery(_) => {
                return self.fail(whole, format!("{word} modifier is not supported for subqueries"));
            }
            Target::Other => return self.fail(whole, format!("{word} modifier not implemented")),
        };
        if anchored {
            v.anchored = true;
        } else {
            v.smoothed = true;
        }
        if v.anchored && v.smoothed {
            return self.fail(whole, "anchored and smoothed modifiers cannot be used together");
        }
        Ok(())
    }
}

fn selector(matchers: Vec<Matcher>, pos: Position) -> VectorSelector {
    VectorSelector {
        name: String::new(),
        matchers,
        original_offset: 0,
        offset_ns: 0,
        original_offset_expr: None,
        offset: 0,
        timestamp: None,
        start_or_end: None,
        anchored: false,
        smoothed: false,
        bypass_empty_matcher_check: false,
        pos,
    }
}

fn ms_or_expr(e: Expr) -> (i64, Option<Box<DurationExpr>>) {
    match e {
        Expr::Duration(d) => (0, Some(d)),
        Expr::Number(n) => (number::ms_of_seconds(n.value), None),
        _ => (0, None),
    }
}

/// A label name as it is printed, quoted if it must be.
pub(super) fn push_label_name(out: &mut String, name: &str, utf8: bool) {
    if super::lexer::needs_quotes(name, utf8) {
        strings::push_quoted_bytes(out, &bytes_of_text(name));
    } else {
        out.push_str(name);
    }
}
