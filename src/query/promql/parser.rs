//! Tokens to tree, by operator precedence.
//!
//! One loop with an explicit stack serves each bracket level, so the program's stack grows with brackets only, and
//! [`ParseOptions::depth_max`] bounds those. Chains of operators grow the tree, not the stack; [`HEIGHT_MAX`] bounds the
//! tree's height, so that whoever walks or drops it may recurse. Parsing stops at the first error.
//!
//! The message for an unexpected token names the innermost construct that has a name (`in aggregation`, `in label
//! matching`, …), whichever token was expected: [`Fail::Unexpected`] climbs until somebody names it. A token is read no
//! earlier than needed, because where an expression ends, and which of two errors is first, depends on it.

use quiver_model::{Limits, Matcher};

use super::ast::*;
use super::error::{ParseError, ParseErrors};
use super::functions::function;
use super::lexer::{Lexer, needs_quotes};
use super::token::{Kind, Precedence, Token};
use super::{check, number, strings};
use crate::context::Features;

/// The most nodes from the root of a tree to a leaf.
pub const HEIGHT_MAX: usize = 1000;

/// The most operands of one query.
pub const OPERANDS_MAX: usize = 50_000;

/// The most regular expressions of one query; alternatives of plain words are none.
pub const EXPRESSIONS_MAX: usize = 250;

/// What a parser allows.
#[derive(Clone, Debug, PartialEq)]
pub struct ParseOptions {
    /// Features in force; those of the language count here.
    pub features: Features,
    /// Brackets open at a time.
    pub depth_max: usize,
    /// Length of the text, bytes.
    pub query_bytes_max: usize,
    /// Compiled size of all regular expressions of a query together, bytes.
    pub regex_bytes_max: usize,
}

impl ParseOptions {
    /// From the limits and features in force.
    pub fn new(limits: &Limits, features: Features) -> Self {
        Self {
            features,
            depth_max: limits.query_depth_max,
            query_bytes_max: limits.query_bytes_max,
            regex_bytes_max: limits.regex_bytes_max,
        }
    }
}

impl Default for ParseOptions {
    fn default() -> Self {
        Self::new(&Limits::default(), Features::default())
    }
}

/// Parses and checks a query.
pub fn parse_expr(query: &str, opts: &ParseOptions) -> Result<Expr, ParseErrors> {
    let mut p = Parser::new(query, opts)?;
    let mut parse = || {
        let mut expr = p.top(Parser::query).map_err(ParseErrors::new)?;
        check::check(&mut expr, query)?;
        Ok(expr)
    };
    // A short text makes no high tree.
    if query.len() <= SHORT_BYTES { parse() } else { super::with_stack(parse) }
}

/// Texts up to this length need no more stack than any thread has.
const SHORT_BYTES: usize = 64;

/// Parses a selector alone, as in `match[]`: its matchers, that of the name last. It may match everything.
pub fn parse_metric_selector(query: &str, opts: &ParseOptions) -> Result<Vec<Matcher>, ParseErrors> {
    let mut p = Parser::new(query, opts)?;
    p.top(Parser::lone_selector).map_err(ParseErrors::new).map(|s| s.matchers)
}

/// Why a rule gave up.
pub(super) enum Fail {
    /// The token read last is not what may stand there.
    Unexpected,
    /// Anything else.
    Error(Box<ParseError>),
}

pub(super) type Parsed<T> = Result<T, Fail>;

/// An expression and the height of its tree.
pub(super) struct Tall<T> {
    pub node: T,
    pub height: usize,
}

/// What waits on the stack for its right operand.
enum Pending {
    Sign { minus: bool, pos: usize },
    Binary { lhs: Tall<Expr>, op: BinaryOp, precedence: Precedence, return_bool: bool, matching: VectorMatching },
}

pub(super) struct Parser<'a> {
    pub query: &'a str,
    pub opts: &'a ParseOptions,
    lexer: Lexer<'a>,
    ahead: Option<Token<'a>>,
    /// The token read last.
    pub last: Token<'a>,
    /// End of the last token that can close an expression.
    pub last_closing: usize,
    depth: usize,
    operands: usize,
    /// What regular expressions may still take.
    pub regex_bytes_left: usize,
    /// Regular expressions so far.
    pub expressions: usize,
}

impl<'a> Parser<'a> {
    fn new(query: &'a str, opts: &'a ParseOptions) -> Result<Self, ParseErrors> {
        let max = opts.query_bytes_max.min(u32::MAX as usize);
        if query.len() > max {
            let message = format!("query is {} bytes long, the limit is {max}", query.len());
            return Err(ParseErrors::new(ParseError::new(query, Position::default(), message)));
        }
        Ok(Self {
            query,
            opts,
            lexer: Lexer::new(query, opts.features.unquoted_utf8_names),
            ahead: None,
            last: Token { kind: Kind::Eof, pos: 0, text: "" },
            last_closing: 0,
            depth: 0,
            operands: 0,
            regex_bytes_left: opts.regex_bytes_max,
            expressions: 0,
        })
    }

    fn top<T>(&mut self, rule: impl FnOnce(&mut Self) -> Parsed<T>) -> Result<T, ParseError> {
        let parsed = rule(self).and_then(|t| if self.peek()? == Kind::Eof { Ok(t) } else { Err(Fail::Unexpected) });
        parsed.map_err(|f| match self.named(f, "", "") {
            Fail::Error(e) => *e,
            Fail::Unexpected => ParseError::new(self.query, Position::default(), "unexpected error"),
        })
    }

    // Tokens and errors.

    /// The next token's kind; reads the token if nobody has.
    pub fn peek(&mut self) -> Parsed<Kind> {
        if let Some(t) = self.ahead {
            return Ok(t.kind);
        }
        match self.lexer.next_token() {
            Ok(t) => {
                if t.kind.is_closing() {
                    self.last_closing = t.end();
                }
                self.last = t;
                self.ahead = Some(t);
                Ok(t.kind)
            }
            Err(e) => self.fail(Position::new(e.pos, self.query.len()), e.message),
        }
    }

    /// Takes the next token.
    pub fn bump(&mut self) -> Parsed<Token<'a>> {
        self.peek()?;
        Ok(self.ahead.take().unwrap_or(self.last))
    }

    /// Takes the next token if it is of this kind; otherwise it is unexpected.
    pub fn expect(&mut self, kind: Kind) -> Parsed<Token<'a>> {
        if self.peek()? == kind { self.bump() } else { Err(Fail::Unexpected) }
    }

    pub fn fail<T>(&self, pos: Position, message: impl Into<String>) -> Parsed<T> {
        Err(Fail::Error(Box::new(ParseError::new(self.query, pos, message))))
    }

    /// Gives a name to where an unexpected token stands.
    pub fn named(&self, fail: Fail, context: &str, expected: &str) -> Fail {
        let Fail::Unexpected = fail else { return fail };
        let mut message = format!("unexpected {}", self.last.description());
        if !context.is_empty() {
            message.push_str(" in ");
            message.push_str(context);
        }
        if !expected.is_empty() {
            message.push_str(", expected ");
            message.push_str(expected);
        }
        Fail::Error(Box::new(ParseError::new(self.query, position(&self.last), message)))
    }

    /// Runs a rule inside a named construct.
    pub fn within<T>(&mut self, context: &str, expected: &str, rule: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        let r = rule(self);
        r.map_err(|f| self.named(f, context, expected))
    }

    /// Refuses the token read last.
    pub fn refuse<T>(&self, context: &str, expected: &str) -> Parsed<T> {
        Err(self.named(Fail::Unexpected, context, expected))
    }

    /// Runs a rule one bracket deeper.
    pub fn deeper<T>(&mut self, rule: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.depth >= self.opts.depth_max {
            let message = format!("query is nested too deeply, the limit is {} brackets", self.opts.depth_max);
            return self.fail(position(&self.last), message);
        }
        self.depth += 1;
        let r = rule(self);
        self.depth -= 1;
        r
    }

    /// The height above children of these heights; refuses trees that grow too tall.
    pub fn above(&self, children: usize) -> Parsed<usize> {
        if children >= HEIGHT_MAX {
            let message = format!("query has too long a chain of operations, the limit is {HEIGHT_MAX}");
            return self.fail(position(&self.last), message);
        }
        Ok(children + 1)
    }

    /// Refuses chains too long to become a tree, before they take memory.
    pub fn check_pending(&self, pending: usize) -> Parsed<()> {
        self.above(pending).map(|_| ())
    }

    // Expressions.

    fn query(&mut self) -> Parsed<Expr> {
        if self.peek()? == Kind::Eof {
            return self.fail(Position::default(), "no expression found in input");
        }
        Ok(self.expr()?.node)
    }

    fn lone_selector(&mut self) -> Parsed<VectorSelector> {
        match self.peek()? {
            Kind::LeftBrace => self.braced_selector(),
            k if k.is_metric_name() => {
                let name = self.bump()?;
                self.named_selector(name)
            }
            _ => Err(Fail::Unexpected),
        }
    }

    fn expr(&mut self) -> Parsed<Tall<Expr>> {
        let mut stack: Vec<Pending> = Vec::new();
        loop {
            let kind = self.peek()?;
            if matches!(kind, Kind::Add | Kind::Sub) {
                let pos = self.bump()?.pos;
                self.check_pending(stack.len())?;
                stack.push(Pending::Sign { minus: kind == Kind::Sub, pos });
                continue;
            }
            let mut operand = self.primary(kind)?;
            operand = self.modifiers(operand)?;
            let next = self.peek()?.binary();
            while let Some(top) = stack.pop() {
                let reduce = match (&top, next) {
                    (_, None) => true,
                    (Pending::Sign { .. }, Some((_, p))) => p <= Precedence::Mul,
                    (Pending::Binary { precedence, .. }, Some((_, p))) => {
                        p < *precedence || (p == *precedence && p != Precedence::Pow)
                    }
                };
                if !reduce {
                    stack.push(top);
                    break;
                }
                operand = self.reduce(top, operand)?;
            }
            let Some((op, precedence)) = next else {
                return Ok(operand);
            };
            self.bump()?;
            self.check_pending(stack.len())?;
            let (return_bool, matching) = self.binary_modifiers()?;
            stack.push(Pending::Binary { lhs: operand, op, precedence, return_bool, matching });
        }
    }

    fn reduce(&mut self, pending: Pending, rhs: Tall<Expr>) -> Parsed<Tall<Expr>> {
        match pending {
            Pending::Sign { minus, pos } => {
                if let Expr::Number(mut n) = rhs.node {
                    if minus {
                        n.value = -n.value;
                    }
                    n.pos.start = pos as u32;
                    return Ok(Tall { node: Expr::Number(n), height: rhs.height });
                }
                let height = self.above(rhs.height)?;
                let pos = Position { start: pos as u32, end: rhs.node.pos().end };
                Ok(Tall { node: Expr::Unary(Box::new(UnaryExpr { minus, expr: rhs.node, pos })), height })
            }
            Pending::Binary { lhs, op, return_bool, matching, .. } => {
                let pos = Position { start: lhs.node.pos().start, end: rhs.node.pos().end };
                let filled = matching.fill_left.is_some() || matching.fill_right.is_some();
                if filled && !self.opts.features.fill_modifiers {
                    return self.fail(pos, "binop fill modifiers are experimental and not enabled");
                }
                let height = self.above(lhs.height.max(rhs.height))?;
                let matching = Some(matching);
                let node = BinaryExpr { op, lhs: lhs.node, rhs: rhs.node, matching, return_bool, pos };
                Ok(Tall { node: Expr::Binary(Box::new(node)), height })
            }
        }
    }

    fn primary(&mut self, kind: Kind) -> Parsed<Tall<Expr>> {
        self.operands += 1;
        if self.operands > OPERANDS_MAX {
            return self.fail(position(&self.last), format!("query has more than {OPERANDS_MAX} operands"));
        }
        let leaf = |node| Ok(Tall { node, height: 1 });
        match kind {
            Kind::Number | Kind::Duration => {
                let n = self.number_literal()?;
                leaf(Expr::Number(n))
            }
            Kind::String => {
                let token = self.bump()?;
                let (value, bytes) =
                    self.unquoted(&token, strings::unquote_bytes).map(|b| match String::from_utf8(b) {
                        Ok(value) => (value, None),
                        Err(e) => (strings::lossy(e.as_bytes()), Some(e.into_bytes().into_boxed_slice())),
                    })?;
                leaf(Expr::String(StringLiteral { value, bytes, pos: position(&token) }))
            }
            Kind::LeftParen => {
                let open = self.bump()?;
                let inner = self.deeper(Self::expr)?;
                let close = self.expect(Kind::RightParen)?;
                let height = self.above(inner.height)?;
                let pos = Position::new(open.pos, close.end());
                Ok(Tall { node: Expr::Paren(Box::new(ParenExpr { expr: inner.node, pos })), height })
            }
            Kind::LeftBrace => {
                let s = self.braced_selector()?;
                leaf(Expr::Vector(Box::new(s)))
            }
            k if k.is_metric_name() => {
                let word = self.bump()?;
                let next = self.peek()?;
                if let Some(op) = k.aggregate()
                    && matches!(next, Kind::LeftParen | Kind::By | Kind::Without)
                {
                    return self.within("aggregation", "", |p| p.aggregation(&word, op));
                }
                if next == Kind::LeftParen && (k == Kind::Identifier || k.is_function_word()) {
                    return self.call(&word);
                }
                let s = self.named_selector(word)?;
                leaf(Expr::Vector(Box::new(s)))
            }
            _ => Err(Fail::Unexpected),
        }
    }

    /// A number or a duration, without sign.
    pub fn number_literal(&mut self) -> Parsed<NumberLiteral> {
        let token = self.bump()?;
        let pos = position(&token);
        let (duration, value) = match token.kind {
            Kind::Number => (false, number::parse_number(token.text).map_err(|e| format!("error parsing number: {e}"))),
            Kind::Duration => (true, number::parse_duration(token.text)),
            _ => return Err(Fail::Unexpected),
        };
        match value {
            Ok(value) => Ok(NumberLiteral { value, duration, pos }),
            Err(message) => self.fail(pos, message),
        }
    }

    /// The value of a string token.
    pub fn unquoted<T>(&mut self, token: &Token<'_>, unquote: fn(&str) -> Option<T>) -> Parsed<T> {
        match unquote(token.text) {
            Some(s) => Ok(s),
            None => {
                let message = format!("error unquoting string {}: invalid syntax", strings::quote(token.text));
                self.fail(position(token), message)
            }
        }
    }

    // Calls and aggregations.

    fn call(&mut self, name: &Token<'_>) -> Parsed<Tall<Expr>> {
        let (args, height) = self.arguments()?;
        let Some(func) = function(name.text) else {
            let message = format!("unknown function with name {}", strings::quote(name.text));
            return self.fail(position(name), message);
        };
        if func.experimental && !self.opts.features.experimental_functions {
            return self.fail(position(name), format!("function {} is not enabled", strings::quote(name.text)));
        }
        let pos = Position::new(name.pos, self.last_closing);
        let height = self.above(height)?;
        Ok(Tall { node: Expr::Call(Box::new(Call { func, args, pos })), height })
    }

    /// `(a, b)`, and the height of the tallest.
    fn arguments(&mut self) -> Parsed<(Vec<Expr>, usize)> {
        self.expect(Kind::LeftParen)?;
        let (mut args, mut height) = (Vec::new(), 0);
        if self.peek()? == Kind::RightParen {
            self.bump()?;
            return Ok((args, height));
        }
        loop {
            let arg = self.deeper(Self::expr)?;
            height = height.max(arg.height);
            args.push(arg.node);
            match self.peek()? {
                Kind::RightParen => {
                    self.bump()?;
                    return Ok((args, height));
                }
                Kind::Comma => {
                    let comma = self.bump()?;
                    if !self.peek()?.starts_expression() {
                        return self.fail(position(&comma), "trailing commas not allowed in function call args");
                    }
                }
                _ => return Err(Fail::Unexpected),
            }
        }
    }

    fn aggregation(&mut self, name: &Token<'_>, op: AggregateOp) -> Parsed<Tall<Expr>> {
        let mut by = self.aggregate_modifier()?;
        let (mut args, height) = self.arguments()?;
        let mut end_known = by.is_some();
        if by.is_none() {
            by = self.aggregate_modifier()?;
            end_known = by.is_some();
        }
        let end = if end_known { self.last_closing } else { self.lexer.previous_right_paren(self.last_closing) };
        let pos = Position::new(name.pos, end);
        if args.is_empty() {
            return self.fail(pos, "no arguments for aggregate expression provided");
        }
        let experimental = matches!(op, AggregateOp::Limitk | AggregateOp::LimitRatio);
        if experimental && !self.opts.features.experimental_functions {
            let message = format!(
                "{}() is experimental and must be enabled with --enable-feature=promql-experimental-functions",
                op.as_str()
            );
            return self.fail(pos, message);
        }
        let wanted = if op.has_param() { 2 } else { 1 };
        let (Some(expr), true) = (args.pop(), args.len() + 1 == wanted) else {
            let message = format!(
                "wrong number of arguments for aggregate expression provided, expected {wanted}, got {}",
                args.len() + 1
            );
            return self.fail(pos, message);
        };
        let (without, grouping) = by.unwrap_or_default();
        let height = self.above(height)?;
        let node = AggregateExpr { op, expr, param: args.pop(), grouping, without, pos };
        Ok(Tall { node: Expr::Aggregate(Box::new(node)), height })
    }

    /// `by (…)` or `without (…)`: is it `without`, and the labels.
    fn aggregate_modifier(&mut self) -> Parsed<Option<(bool, Vec<String>)>> {
        let without = match self.peek()? {
            Kind::By => false,
            Kind::Without => true,
            _ => return Ok(None),
        };
        self.bump()?;
        Ok(Some((without, self.grouping()?)))
    }

    /// `(a, "b", c)`
    fn grouping(&mut self) -> Parsed<Vec<String>> {
        const CONTEXT: &str = "grouping opts";
        if self.peek()? != Kind::LeftParen {
            return self.refuse(CONTEXT, "\"(\"");
        }
        self.bump()?;
        let mut labels = Vec::new();
        loop {
            match self.peek()? {
                Kind::RightParen => {
                    self.bump()?;
                    return Ok(labels);
                }
                Kind::String => {
                    let token = self.bump()?;
                    let bytes = self.unquoted(&token, strings::unquote_bytes)?;
                    match String::from_utf8(bytes) {
                        Ok(name) if !name.is_empty() => labels.push(name),
                        bad => {
                            let mut message = String::from("invalid label name for grouping: ");
                            let bytes = bad.map_or_else(|e| e.into_bytes(), String::into_bytes);
                            strings::push_quoted_bytes(&mut message, &bytes);
                            return self.fail(position(&token), message);
                        }
                    }
                }
                k if k.is_label_name() => {
                    let token = self.bump()?;
                    if self.opts.features.unquoted_utf8_names && needs_quotes(token.text, true) {
                        let message = format!("invalid label name for grouping: {}", strings::quote(token.text));
                        return self.fail(position(&token), message);
                    }
                    labels.push(token.text.to_owned());
                }
                _ => return self.refuse(CONTEXT, "label"),
            }
            match self.peek()? {
                Kind::Comma => {
                    self.bump()?;
                }
                Kind::RightParen => {}
                _ => return self.refuse(CONTEXT, "\",\" or \")\""),
            }
        }
    }

    // What may stand between a binary operator and its right operand.

    fn binary_modifiers(&mut self) -> Parsed<(bool, VectorMatching)> {
        let mut m = VectorMatching::default();
        let return_bool = self.peek()? == Kind::Bool;
        if return_bool {
            self.bump()?;
        }
        if let on @ (Kind::On | Kind::Ignoring) = self.peek()? {
            self.bump()?;
            m.on = on == Kind::On;
            m.labels = self.grouping()?;
            let card = match self.peek()? {
                Kind::GroupLeft => Some(Cardinality::ManyToOne),
                Kind::GroupRight => Some(Cardinality::OneToMany),
                _ => None,
            };
            if let Some(card) = card {
                self.bump()?;
                m.card = card;
                let next = self.peek()?;
                if next == Kind::LeftParen || !next.starts_expression() {
                    m.include = self.grouping()?;
                }
            }
        }
        match self.peek()? {
            Kind::Fill => {
                self.bump()?;
                m.fill_left = Some(self.fill_value()?);
                m.fill_right = m.fill_left;
            }
            Kind::FillLeft => {
                self.bump()?;
                m.fill_left = Some(self.fill_value()?);
                if self.peek()? == Kind::FillRight {
                    self.bump()?;
                    m.fill_right = Some(self.fill_value()?);
                }
            }
            Kind::FillRight => {
                self.bump()?;
                m.fill_right = Some(self.fill_value()?);
                if self.peek()? == Kind::FillLeft {
                    self.bump()?;
                    m.fill_left = Some(self.fill_value()?);
                }
            }
            _ => {}
        }
        Ok((return_bool, m))
    }

    fn fill_value(&mut self) -> Parsed<f64> {
        self.expect(Kind::LeftParen)?;
        let value = self.signed_number()?;
        self.expect(Kind::RightParen)?;
        Ok(value)
    }

    /// A number or a duration with at most one sign.
    pub fn signed_number(&mut self) -> Parsed<f64> {
        let sign = self.peek()?;
        if matches!(sign, Kind::Add | Kind::Sub) {
            self.bump()?;
        }
        if !matches!(self.peek()?, Kind::Number | Kind::Duration) {
            return Err(Fail::Unexpected);
        }
        let value = self.number_literal()?.value;
        Ok(if sign == Kind::Sub { -value } else { value })
    }
}

/// Where a token stands.
pub(super) fn position(token: &Token<'_>) -> Position {
    Position::new(token.pos, token.end())
}
